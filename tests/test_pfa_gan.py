"""PFA-GAN: its gates in small cases, its losses by hand, its sizes, and the real training."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from precision import InDouble
from safetensors.torch import load_file
from skimage.metrics import structural_similarity
from torch import Tensor, nn

import test as test_command
import train as train_command
from cyclegan_age.ages import AgeCode
from cyclegan_age.attributes import FaceAttributes
from cyclegan_age.config import PFAGANConfig, TrainConfig, UserError
from cyclegan_age.data.age_folders import attributes_by_path
from cyclegan_age.data.batches import Batch
from cyclegan_age.features import Taps
from cyclegan_age.inference import Ager
from cyclegan_age.losses import dissimilarity, feature_distance, group_age
from cyclegan_age.models import SYSTEMS
from cyclegan_age.models.pfa_gan import PFAGAN, LossNetworks, PlaceEncoder, build_generator, group_of
from cyclegan_age.networks.estimators import ResnetAgeEstimator
from cyclegan_age.networks.progressive import AgingStep, ProgressiveGenerator, gates_between, place, with_place
from cyclegan_age.runs import load_checkpoint

TINY = [
    *("--model", "pfa_gan", "--ngf", "4", "--ndf", "4", "--blocks", "1", "--image_size", "32", "--load_size", "36"),
    *("--batch_size", "4", "--no_compile", "--precision", "fp32", "--monitor", "none", "--log_every", "2"),
    *("--sample_every", "1000", "--snapshot_every", "1000", "--ages", "20", "40", "60"),
    *("--feature_layers", "steps.0.blocks.0", "--lambda_features", "0", "--younger_blocks", "0"),
]


class _Adds(nn.Module):
    """A step that adds a number, and counts."""

    def __init__(self, much: float) -> None:
        super().__init__()
        self.much = much

    def forward(self, x: Tensor) -> Tensor:
        return torch.full_like(x, self.much)


def _adding(*much: float, younger: Sequence[float] = ()) -> ProgressiveGenerator:
    generator = ProgressiveGenerator(groups=len(much) + 1, ngf=2, blocks=1).eval()
    generator.steps = nn.ModuleList(_Adds(m) for m in much)
    generator.younger = nn.ModuleList(_Adds(m) for m in younger)
    return generator


# Gates


@pytest.mark.parametrize(
    ("source", "target", "gates"),
    [
        (0, 3, [1, 1, 1]),  # all steps
        (1, 2, [0, 1, 0]),  # one
        (2, 2, [0, 0, 0]),  # the own group
        (2, 0, [0, 0, 0]),  # a younger one
        (3, 3, [0, 0, 0]),  # the last
        (0, 1.25, [1, 0.25, 0]),  # between two groups: the last gate in part
        (1, 1.25, [0, 0.25, 0]),
        (2, 1.75, [0, 0, 0]),
        (0.75, 2, [0.25, 1, 0]),  # so is the source: the first gate too
        (1.25, 1.75, [0, 0.5, 0]),  # within one step
        (1.5, 1.5, [0, 0, 0]),
    ],
)
def test_gates_lead_from_the_source_to_the_target(source: float, target: float, gates: list[float]) -> None:
    assert gates_between(torch.tensor([source]), torch.tensor([float(target)]), 3).tolist() == [gates]


def test_places_and_groups_of_ages() -> None:
    linear, onehot = AgeCode((10, 20, 40)), AgeCode((10, 20, 40), "onehot")
    years = torch.tensor([3.0, 10.0, 14.9, 15.0, 25.0, 29.9, 30.0, 80.0])
    assert place(linear.encode(years)).tolist() == pytest.approx([0, 0, 0.49, 0.5, 1.25, 1.495, 1.5, 2])
    assert group_of(linear, years).tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    assert group_of(onehot, years).tolist() == [0, 0, 0, 0, 1, 1, 1, 2]
    for code in (linear, onehot):  # as the data's pools have them
        assert [code.group(float(y)) for y in years[1:-1]] == group_of(code, years[1:-1]).tolist()


def test_the_chain_adds_what_its_open_steps_say_and_nothing_else() -> None:
    generator = _adding(0.1, 0.2, 0.4)
    x = torch.full((5, 3, 8, 8), -0.5)
    source = torch.tensor([0, 1, 2, 3, 0])
    target = AgeCode((20, 30, 40, 50)).encode([50, 40, 40, 20, 35])
    out = generator(with_place(x, source), target)
    assert out.mean(dim=(1, 2, 3)).tolist() == pytest.approx([0.2, -0.3, -0.5, -0.5, -0.3])
    assert torch.equal(out[2:4], x[2:4])  # to the bit


def test_the_second_chain_leads_back_from_the_last_group() -> None:
    generator = _adding(0.1, 0.2, 0.4, younger=(-0.05, -0.02, -0.01))
    x = torch.zeros(6, 3, 8, 8)
    source = torch.tensor([3.0, 2, 1, 1, 2.5, 1.5])
    target = AgeCode((20, 30, 40, 50)).encode([20, 25, 30, 50, 30, 35])
    out = generator(with_place(x, source), target)
    # All three; the second, and half of the third; nothing; older only; half of the first and the second; nothing.
    expected = [-0.08, -0.02 - 0.005, 0, 0.6, -0.025 - 0.02, 0]
    assert out.mean(dim=(1, 2, 3)).tolist() == pytest.approx(expected, abs=1e-6)
    assert torch.equal(out[[2, 5]], x[[2, 5]])


def test_skipped_closed_steps_change_neither_pictures_nor_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[dict[str, object]] = []
    monkeypatch.setattr(AgingStep, "compile", lambda _, **options: compiled.append(options))
    torch.manual_seed(0)
    config = TrainConfig(ages=(20, 40, 60, 80), age_vector="onehot")
    generator = build_generator(config, PFAGANConfig(ngf=2, blocks=1, younger_blocks=1))
    for step in (*generator.steps, *generator.younger):
        assert isinstance(step, AgingStep)
        nn.init.normal_(step.head.conv.weight, 0, 0.05)
    generator.double()
    x = with_place(torch.rand(5, 3, 16, 16) - 0.5, torch.tensor([0, 1, 0, 2, 0]))
    target = AgeCode((20, 40, 60, 80)).encode([40.0, 60, 50, 20, 60])  # nobody passes the last step to or from 80
    counts: list[int] = []
    for step in (*generator.steps, *generator.younger):
        step.register_forward_pre_hook(lambda _, inputs: counts.append(len(inputs[0])))
    outcomes = []
    for skip in (False, True):
        if skip:
            generator.compile(dynamic=False)
        with InDouble():
            out = generator(x, target)
            out.square().sum().backward()
        outcomes.append([out.detach(), *(w.grad for w in generator.parameters())])
        generator.zero_grad()
    assert counts == [*[5] * 6, 3, 3, 2, 2, 2, 2]
    assert compiled == [{"dynamic": True}] * 6
    for plain, skipped in zip(*outcomes, strict=True):
        torch.testing.assert_close(skipped, plain, atol=1e-12, rtol=1e-9)


def test_in_use_a_step_runs_for_the_pictures_that_need_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    generator = build_generator(TrainConfig(ages=(20, 40, 60)), PFAGANConfig(ngf=2, blocks=1, younger_blocks=1)).eval()
    for step in (*generator.steps, *generator.younger):
        assert isinstance(step, AgingStep)
        nn.init.normal_(step.head.conv.weight, 0, 0.05)
    x = with_place(torch.rand(3, 3, 16, 16) - 0.5, torch.tensor([0.0, 1, 1.5]))
    target = AgeCode((20, 40, 60)).encode([40.0, 50, 60])
    with torch.inference_mode():
        with Taps(generator, [f"{chain}.{i}.blocks.0" for chain in ("steps", "younger") for i in (0, 1)]) as taps:
            whole = generator(x, target)  # every step, since all are recorded
        assert [len(taps.outputs[name]) for name in taps.outputs] == [3, 3, 3, 3]
        counts: list[int] = []
        forward = AgingStep.forward
        monkeypatch.setattr(AgingStep, "forward", lambda step, x: (counts.append(len(x)), forward(step, x))[1])
        torch.testing.assert_close(generator(x, target), whole, atol=1e-5, rtol=1e-5)
        assert counts == [1, 2]
        generator(x[1:], target[:1].expand(2, -1))  # 40 at 40, 50 at 40
        assert counts == [1, 2, 1]


def test_the_output_is_clipped_but_while_training_its_gradient_is_not() -> None:
    generator = _adding(0.5, 0.9)
    x = torch.zeros(1, 3, 8, 8, requires_grad=True)
    for training in (False, True):
        out = generator.train(training)(with_place(x, torch.tensor([0])), torch.tensor([[0.0, 0.0, 1.0]]))
        assert out.max().item() == 1
        (gradient,) = torch.autograd.grad(out.sum(), x)
        assert gradient.eq(float(training)).all()


# Networks


def test_a_step_has_the_published_layers() -> None:
    step = AgingStep(ngf=32, blocks=4)
    # 9x9, two 4x4 down, four blocks of two 3x3, two 4x4 up, 9x9 with the only biases: instance norm takes others away.
    convolutions = [81 * 3 * 32, 16 * 32 * 64, 16 * 64 * 128, *[9 * 128 * 128] * 8, 16 * 128 * 64, 16 * 64 * 32]
    assert sum(w.numel() for w in step.parameters()) == sum(convolutions) + 81 * 32 * 3 + 3
    shapes = {}
    handles = [
        module.register_forward_hook(lambda m, i, out, name=name: shapes.update({name: tuple(out.shape[1:])}))
        for name, module in step.named_modules()
        if name in ("stem", "down1", "down2", "blocks.3", "up1", "up2", "head")
    ]
    out = step(torch.rand(1, 3, 64, 48))
    for handle in handles:
        handle.remove()
    assert shapes == {
        "stem": (32, 64, 48),
        "down1": (64, 32, 24),
        "down2": (128, 16, 12),
        "blocks.3": (128, 16, 12),
        "up1": (64, 32, 24),
        "up2": (32, 64, 48),
        "head": (3, 64, 48),
    }
    assert not out.any()  # it begins as no change


def test_the_default_generator_has_a_step_for_each_pair_and_fits_into_8_megabytes() -> None:
    generator = build_generator(TrainConfig(), PFAGANConfig())
    assert len(generator.steps) == 5
    count = sum(w.numel() for w in generator.parameters())
    assert count == 5 * sum(w.numel() for w in AgingStep(ngf=16, blocks=4).parameters())
    assert 4 * count < 8e6


# Losses


def test_group_age_is_the_squared_error_and_the_cross_entropy_of_the_group() -> None:
    logits = torch.full((3, 101), -100.0)
    logits[0, 20] = logits[0, 40] = 0.0  # half and half: expected 30
    logits[1, 31] = 0.0
    logits[2, 80] = 0.0
    groups = torch.arange(101).sub(15).div(10, rounding_mode="floor")  # the first begins at 15
    nominal = torch.tensor([20.0, 30, 40])
    values = group_age(logits, torch.tensor([2, 1, 0]), groups, nominal, torch.tensor([1.0, 0.5, 0.0]))
    # (30 - 40)^2 - log 1/2; half of (31 - 30)^2 - log 1; the third does not count.
    assert values.item() == pytest.approx((100 + math.log(2) + 0.5) / 3, rel=1e-5)


def test_dissimilarity_is_that_of_scikit_image() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (2, 3, 20, 24)).astype(np.float32)
    y = (0.7 * x + 0.3 * rng.uniform(-1, 1, x.shape)).astype(np.float32)
    expected = [
        structural_similarity(a, b, data_range=2, channel_axis=0, use_sample_covariance=False)
        for a, b in zip(x, y, strict=True)
    ]
    value = dissimilarity(torch.from_numpy(x), torch.from_numpy(y)).item()
    assert value == pytest.approx(1 - np.mean(expected), abs=1e-5)
    assert dissimilarity(torch.from_numpy(x), torch.from_numpy(x)).item() == pytest.approx(0, abs=1e-6)


def test_dissimilarity_of_flat_pictures_by_hand() -> None:
    # Without variance only the light counts: (2 * 0.3 + c1) / (0.36 + 0.25 + c1), c1 = 0.0004.
    value = dissimilarity(torch.full((1, 3, 8, 8), 0.6), torch.full((1, 3, 8, 8), 0.5)).item()
    assert value == pytest.approx(1 - 0.6004 / 0.6104, abs=3e-4)


def test_feature_distance_by_hand() -> None:
    a = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
    b = torch.tensor([0.0, 9.0]).view(1, 2, 1, 1)
    assert feature_distance(a, b).item() == pytest.approx(0.6**2 + 0.2**2)  # (0.6, 0.8) and (0, 1)
    assert feature_distance(a, 7 * a).item() == pytest.approx(0, abs=1e-6)


class _Says(nn.Module):
    """A discriminator that says the same everywhere, or remembers what it was shown."""

    def __init__(self, scores: Sequence[float]) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.tensor(scores))
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach())
        return self.scores[None, :, None, None].expand(len(x), -1, 2, 2)


def test_a_step_ages_the_younger_face_to_the_group_of_the_older_one() -> None:
    config = TrainConfig(ages=(20, 40, 60), image_size=32, load_size=32)
    net = PFAGANConfig(ngf=2, ndf=2, blocks=1, lambda_age=0, lambda_identity=2.0, alpha_ssim=0.25, alpha_feature=0)
    model = PFAGAN(config=config, net=net, loss_networks=LossNetworks(estimators=[], embedder=None))
    model.generator = _adding(0.1, 0.3)
    model.discriminator = says = _Says([5.0, 0.0, 3.0])  # type: ignore[assignment]
    levels = torch.tensor([-0.4, -0.2, 0.0, 0.2])
    x = levels.view(4, 1, 1, 1).expand(4, 3, 16, 16)
    batch = Batch(x, torch.tensor([20.0, 60, 40, 33]), x + 0.05, torch.tensor([40.0, 20, 41, 70]))
    phases = model.losses(batch, torch.tensor(0.0), frozenset())
    name, terms = next(phases)
    # Faces of 20 (the source's), 20 (the target's, at -0.15), 40 and 33, which are both of the second group.
    fakes = [-0.4 + 0.1, -0.15 + 0.4, 0.0, 0.2 + 0.3]
    assert says.seen[0].mean(dim=(1, 2, 3)).tolist() == pytest.approx(fakes)
    # Groups 1, 2, 1 and 2; the third pair does not count: ((0 - 1)^2 + (3 - 1)^2 + 0 + (3 - 1)^2) / 4.
    assert (name, terms["g_adversarial"].item()) == ("generator", pytest.approx(9 / 4))
    assert terms["pixel"].item() == pytest.approx(2 * 0.75 * (0.1 + 0.4 + 0 + 0.3) / 4)
    assert terms.keys() == {"g_adversarial", "pixel", "ssim"}
    name, terms = next(phases)
    assert name == "discriminator"
    reals = [-0.4 + 0.05, -0.2, 0.05, 0.2 + 0.05]  # the older ones
    assert says.seen[1].mean(dim=(1, 2, 3)).tolist() == pytest.approx([*reals, *fakes])
    assert terms["d_real"].item() == pytest.approx(0.5 * (1 + 4 + 1 + 4) / 4)
    assert terms["d_fake"].item() == pytest.approx(0.5 * (0 + 9 + 0 + 9) / 4)
    with pytest.raises(StopIteration):
        next(phases)
    older = torch.tensor([40.0, 60, 41, 70])
    held_out = model.measures({}, x, older)  # each by its own group's score
    assert held_out == {"held_out_d_real": pytest.approx(0.5 * (1 + 4 + 1 + 4) / 4)}


def test_with_a_second_chain_the_first_face_of_a_draw_is_brought_to_the_group_of_the_second() -> None:
    config = TrainConfig(ages=(20, 40, 60), image_size=32, load_size=32)
    net = PFAGANConfig(ngf=2, ndf=2, blocks=1, younger_blocks=1, lambda_age=0, alpha_feature=0, lambda_eyes=2)
    model = PFAGAN(config=config, net=net, loss_networks=LossNetworks(estimators=[], embedder=None))
    model.generator = _adding(0.1, 0.3, younger=(-0.05, -0.02))
    model.discriminator = says = _Says([5.0, 0.0, 3.0])  # type: ignore[assignment]
    x = torch.tensor([-0.4, -0.2, 0.0]).view(3, 1, 1, 1).expand(3, 3, 16, 16)
    batch = Batch(x, torch.tensor([20.0, 60, 40]), x + 0.05, torch.tensor([40.0, 20, 41]))
    phases = model.losses(batch, torch.tensor(0.0), frozenset())
    _, terms = next(phases)
    fakes = [-0.4 + 0.1, -0.2 - 0.07, 0.0]
    assert says.seen[0].mean(dim=(1, 2, 3)).tolist() == pytest.approx(fakes)
    # Groups 1, 0 and 1; the third pair does not count: ((0 - 1)^2 + (5 - 1)^2) / 3.
    assert terms["g_adversarial"].item() == pytest.approx(17 / 3)
    assert terms["eyes"].item() == pytest.approx(2 * (0.1 + 0.07 + 0) / 3)
    _, terms = next(phases)
    assert says.seen[1].mean(dim=(1, 2, 3)).tolist() == pytest.approx([-0.35, -0.15, 0.05, *fakes])
    assert terms["d_real"].item() == pytest.approx(0.5 * (1 + 16 + 1) / 3)
    assert terms["d_fake"].item() == pytest.approx(0.5 * (0 + 25 + 0) / 3)


def test_judges_teach_the_generator_and_stay_as_they_are() -> None:
    torch.manual_seed(0)
    config = TrainConfig(ages=(20, 40, 60), image_size=32, load_size=32)
    net = PFAGANConfig(ngf=2, ndf=2, blocks=1)
    loss_networks = LossNetworks(estimators=[ResnetAgeEstimator(width=4, blocks=(1, 1), input_size=32)], embedder=None)
    model = PFAGAN(config=config, net=net, loss_networks=loss_networks)
    for head in (step.head for step in model.generator.steps):
        nn.init.normal_(head.conv.weight, 0, 0.02)
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    batch = Batch(x, torch.tensor([20.0, 20]), x.flip(0), torch.tensor([60.0, 60]))
    _, terms = next(model.losses(batch, torch.tensor(0.0), frozenset()))
    assert terms.keys() == {"g_adversarial", "g_age", "pixel", "ssim", "feature"}
    assert min(v.item() for v in terms.values()) > 0
    weights = [step.head.conv.weight for step in model.generator.steps]
    for term in (terms["g_age"], terms["feature"]):
        assert all(g.any() for g in torch.autograd.grad(term, weights, retain_graph=True))
    assert not any(w.requires_grad or w.grad is not None for w in loss_networks.parameters())
    assert not any(module.training for module in loss_networks.modules())


def test_the_remedies_for_a_strong_discriminator_are_taken() -> None:
    net = PFAGANConfig(ngf=2, ndf=2, blocks=1, lambda_age=0, alpha_feature=0, label_smoothing=0.2, d_reset=2.0)
    config = TrainConfig(ages=(20, 40), image_size=32, load_size=32, epochs=8)
    model = PFAGAN(
        config=config,
        net=replace(net, d_rate=0.5, head_start=1.0),
        loss_networks=LossNetworks(estimators=[], embedder=None),
    )
    assert model.lr_factors == {"discriminator": 0.5}
    x = torch.rand(1, 3, 32, 32)
    batch = Batch(x, torch.tensor([20.0]), x, torch.tensor([40.0]))
    assert model.paused(0.1) == {"discriminator"}  # epoch 0.8 of a head start of 1
    assert dict(model.losses(batch, torch.tensor(0.1), model.paused(0.1)))["discriminator"] == {}
    nn.init.zeros_(model.discriminator.head.weight)
    assert not model.paused(0.2)
    terms = dict(model.losses(batch, torch.tensor(0.2), frozenset()))["discriminator"]
    assert terms["d_real"].item() == pytest.approx(0.5 * 0.8**2)
    nn.init.ones_(model.discriminator.head.weight)
    before = model.discriminator.trunk[0].weight.clone()
    assert model.reset(0.23, 0.24) == []
    assert model.reset(0.24, 0.25) == ["discriminator"]
    assert model.discriminator.head.weight.abs().max() < 0.2
    assert not torch.equal(model.discriminator.trunk[0].weight, before)


def test_features_without_a_network_are_refused() -> None:
    with pytest.raises(UserError, match=r"--alpha_feature 0\.5: must be 0 without --embedder and --lambda_age"):
        PFAGANConfig(lambda_age=0)
    PFAGANConfig(lambda_age=0, embedder="mine")


# A trained model in use


def test_a_face_whose_age_is_not_known_is_read_at_its_estimated_age() -> None:
    estimator = ResnetAgeEstimator(width=4, blocks=(1,), input_size=16).eval()
    nn.init.zeros_(estimator.head.weight)
    nn.init.constant_(estimator.head.bias, -100)
    with torch.no_grad():
        estimator.head.bias[52] = 100
    encoder = PlaceEncoder(code=AgeCode((10, 20, 30, 40, 50, 60)), estimator=estimator)
    x = torch.rand(2, 3, 16, 16)
    latent = encoder.encode(x, [FaceAttributes(), FaceAttributes(28.0, 1.0)]).latent
    assert torch.equal(latent[:, :3], x)
    assert torch.equal(latent[:, 3].amax(dim=(1, 2)), latent[:, 3].amin(dim=(1, 2)))
    assert latent[:, 3, 0, 0].tolist() == pytest.approx([4.2, 1.8])
    alone = PlaceEncoder(code=AgeCode((10, 20, 30, 40, 50, 60)))  # without an estimator it is of the first group
    latent = alone.encode(x, [FaceAttributes(), FaceAttributes(28.0, 1.0)]).latent
    assert latent[:, 3, 0, 0].tolist() == pytest.approx([0, 1.8])


def test_a_folder_tells_the_age_where_the_name_does_not() -> None:
    assert attributes_by_path(Path("faces/20-29/Ann.jpg")).age_years == 24.5
    assert attributes_by_path(Path("faces/20-29/23_0_1_x.jpg")) == FaceAttributes(23, 0, 1)
    assert attributes_by_path(Path("faces/60+/Ann.jpg")).age_years == 64.5
    assert math.isnan(attributes_by_path(Path("faces/mine/Ann.jpg")).age_years)


def test_a_training_resumes_to_the_bit_and_its_weights_age_faces(tiny_faces: Path, tmp_path: Path) -> None:
    base = [*TINY, "--dataroot", str(tiny_faces), "--results_dir", str(tmp_path), "--save_every", "3"]
    base += ["--estimators", "age_loss_b", "--lr_constant", "1", "--lr", "0.01", "--younger_blocks", "1"]
    assert train_command.main([*base, "--name", "whole", "--epochs", "1.2"]) == 0
    assert train_command.main([*base, "--name", "parts", "--epochs", "0.6"]) == 0
    states = [load_checkpoint(tmp_path / name / "state.pt") for name in ("whole", "parts")]
    assert [s and s["step"] for s in states] == [13, 7]
    assert train_command.main([*base, "--name", "parts", "--epochs", "1.2"]) == 0
    whole, parts = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[k], parts[k]) for k in whole)
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert {"loss/g_age", "loss/pixel", "loss/ssim", "loss/feature", "loss/d_real", "loss/d_fake"} <= lines[0].keys()
    assert list((tmp_path / "whole" / "samples").glob("features-steps.0.blocks.0-*.jpg"))

    ager = Ager.load(tmp_path / "whole" / "weights.safetensors")
    assert ager.layers() == ["steps.0", "steps.1", "younger.0", "younger.1"]
    face = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    faces = np.stack([face] * 4)
    own = [FaceAttributes(age_years=years) for years in (41, 41, 40, 40)]
    out = ager.age_many(faces, [20, 41, 50, 60], attributes=own)
    assert np.array_equal(out[1], face)  # at its own age it stays
    assert not np.array_equal(out[0], face) and not np.array_equal(out[2], face)
    # Halfway there, but for rounding and clipping.
    middle = (out[3].astype(int) + face) / 2
    inside = (out[3] > 0) & (out[3] < 255)
    assert abs(out[2].astype(int) - middle)[inside].max() <= 1

    flags = ["--dataroot", str(tiny_faces), "--weights", "whole", "--results_dir", str(tmp_path), "--name", "out"]
    assert test_command.main([*flags, "--features", "steps.0.down1", "--limit", "1", "--life"]) == 0
    assert list((tmp_path / "out").rglob("*60*")) and list((tmp_path / "out").rglob("*.gif"))


def test_a_second_chain_can_start_from_weights_that_only_age(
    tiny_faces: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = [*TINY, "--dataroot", str(tiny_faces), "--results_dir", str(tmp_path), "--lambda_age", "0"]
    base += ["--alpha_feature", "0", "--epochs", "0"]
    assert train_command.main([*base, "--name", "older"]) == 0
    assert train_command.main([*base, "--name", "both", "--init", "older", "--younger_blocks", "2", "--seed", "1"]) == 0
    assert "--init older: starts from random weights: younger" in [r.message for r in caplog.records]
    older, both = (load_file(tmp_path / name / "weights.safetensors") for name in ("older", "both"))
    assert all(torch.equal(both[k], v) for k, v in older.items())
    assert {k.split(".")[1] for k in both.keys() - older.keys()} == {"younger"}
    assert any("younger.1.blocks.1" in k for k in both)
    deeper = ["--name", "deeper", "--init", "both", "--younger_blocks", "3"]
    assert train_command.main([*base, *deeper]) == 0
    assert "--init both: starts from random weights: younger.0.blocks.2, younger.1.blocks.2" in caplog.messages


def test_the_published_recipe_builds_its_four_groups(tiny_faces: Path) -> None:
    from options.train import parse_train

    config, net = parse_train(["--model", "pfa_gan", "--preset", "huang", "--dataroot", str(tiny_faces)])
    assert isinstance(net, PFAGANConfig)
    model = SYSTEMS["pfa_gan"].build(config, net)
    assert isinstance(model, PFAGAN)
    assert model.code.edges[:4] == (14, 31, 41, 51) and model.code.group(93) == 3
    assert sum(w.numel() for w in model.generator.parameters()) == 3 * 1_522_883
