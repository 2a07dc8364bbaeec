"""Taps, decoding from a layer, and the life, on tiny generators."""

import pytest
import torch
from torch import Tensor, nn

from cyclegan_age.ages import AgeCode
from cyclegan_age.config import UserError
from cyclegan_age.features import Taps, decode_from, layer_names, life_frames
from cyclegan_age.networks.generators import ResnetGenerator

CODE = AgeCode((10, 20, 40))


@pytest.fixture
def network() -> ResnetGenerator:
    torch.manual_seed(0)
    network = ResnetGenerator(ages=3, ngf=4, blocks=2, residual=True, resize=True)
    for p in network.parameters():
        nn.init.normal_(p, 0, 0.1)  # the usual start is too faint to see anything of the age
    return network.eval()


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.rand(2, 3, 16, 16) * 2 - 1, CODE.encode([10, 33])


def hook_count(network: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


def test_layers_are_named_in_the_order_they_run(network: ResnetGenerator, inputs: tuple[Tensor, Tensor]) -> None:
    names = layer_names(network)
    assert names == ["stem", "down1", "down2", "join", "blocks.0", "blocks.1", "up1", "up2", "head"]
    with Taps(network, names) as taps:
        network(*inputs)
    assert list(taps.outputs) == names  # a dict keeps the order in which they ran
    assert all(t.ndim == 4 for t in taps.outputs.values())


def test_taps_see_what_flows_and_change_nothing(network: ResnetGenerator, inputs: tuple[Tensor, Tensor]) -> None:
    x, age = inputs
    with torch.no_grad():
        plain = network(x, age)
        with Taps(network, ["stem", "down1", "blocks.1.conv1", "up1"]) as taps:
            assert torch.equal(network(x, age), plain)
        stem = network.stem(x, age)
        down1 = network.down1(stem, age)
        middle = network.blocks[0](network.join(network.down2(down1, age), age))
        assert torch.equal(taps.inputs["stem"], x)
        assert torch.equal(taps.outputs["stem"], stem)
        assert torch.equal(taps.inputs["down1"], stem)
        assert torch.equal(taps.outputs["down1"], down1)
        assert torch.equal(taps.inputs["blocks.1.conv1"], middle)
        assert torch.equal(taps.inputs["up1"], network.blocks[1](middle))


def test_copies_outlive_changes_in_place() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(inplace=True))
    nn.init.constant_(network[0].weight, -1.0)
    with torch.no_grad(), Taps(network, ["0"]) as taps:
        out = network(torch.ones(1, 1, 2, 2) * 9)
    assert out.max() == 0
    assert taps.outputs["0"].max() < 0


def test_gradients_are_those_of_autograd(network: ResnetGenerator, inputs: tuple[Tensor, Tensor]) -> None:
    names = ["stem", "blocks.0", "up2"]
    with Taps(network, names, gradients=True) as taps:
        loss = network(*inputs).square().mean()
        expected = torch.autograd.grad(loss, [taps.outputs[n] for n in names], retain_graph=True)
        taps.gradients.clear()
        loss.backward()
    for name, gradient in zip(names, expected, strict=True):
        assert torch.equal(taps.gradients[name], gradient)
        assert gradient.abs().max() > 0


def test_gradients_need_autograd(network: ResnetGenerator, inputs: tuple[Tensor, Tensor]) -> None:
    with torch.no_grad(), Taps(network, ["stem"], gradients=True), pytest.raises(RuntimeError, match="stem"):
        network(*inputs)
    assert hook_count(network) == 0


def test_hooks_are_removed_after_an_error(network: ResnetGenerator, inputs: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(KeyError), Taps(network, ["stem", "head"]):
        assert hook_count(network) == 4
        network(*inputs)
        raise KeyError
    assert hook_count(network) == 0
    with pytest.raises(ValueError, match="feature map of down1"):
        decode_from(network, "down1", torch.zeros(1, 1, 1, 1), *inputs)
    assert hook_count(network) == 0


def test_unknown_layers_are_told_with_the_valid_ones(network: ResnetGenerator, inputs: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(UserError, match=r"'blocks\.7'.*stem, down1, down2, join, blocks\.0"):
        Taps(network, ["stem", "blocks.7"])
    with pytest.raises(UserError, match="steam"):
        decode_from(network, "steam", inputs[0], *inputs)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    assert layer_names(linear) == []
    with Taps(linear, ["1"]), pytest.raises(UserError, match="must be a layer that gives a feature map"):
        linear(torch.zeros(1, 1, 2, 2))


@pytest.mark.parametrize("layer", ["stem", "join", "blocks.1", "head"])
def test_decoding_goes_on_from_a_layer(network: ResnetGenerator, inputs: tuple[Tensor, Tensor], layer: str) -> None:
    with torch.no_grad():
        with Taps(network, [layer]) as taps:
            plain = network(*inputs)
        feature_map = taps.outputs[layer]
        assert torch.equal(decode_from(network, layer, feature_map, *inputs), plain)
        assert not torch.allclose(decode_from(network, layer, feature_map.flip(0), *inputs), plain, atol=1e-3)


def test_decoding_passes_gradients_to_the_feature_map(network: ResnetGenerator, inputs: tuple[Tensor, Tensor]) -> None:
    feature_map = torch.randn(2, 16, 4, 4, requires_grad=True)
    decode_from(network, "join", feature_map, *inputs).sum().backward()
    assert feature_map.grad is not None
    assert feature_map.grad.abs().max() > 0


@pytest.mark.parametrize("layer", ["stem", "blocks.0", "up2"])
def test_life_meets_the_plain_outputs_at_the_anchors(
    network: ResnetGenerator, inputs: tuple[Tensor, Tensor], layer: str
) -> None:
    x = inputs[0][:1]
    with torch.no_grad():
        frames = life_frames(network, x, CODE, frames_per_decade=4, layer=layer)
        assert frames.shape == (4 + 8 + 1, 3, 16, 16)  # ten years, twenty years, the end
        for index, years in ((0, 10), (4, 20), (12, 40)):
            assert torch.allclose(frames[index : index + 1], network(x, CODE.encode([years])), atol=1e-6)
        steps = (frames[1:] - frames[:-1]).abs().mean(dim=(1, 2, 3))
        ends = (frames[4] - frames[0]).abs().mean(), (frames[12] - frames[4]).abs().mean()
    assert steps.min() > 0  # it moves all the time
    assert steps[:4].max() < ends[0]  # and in no jump
    assert steps[4:].max() < ends[1]


def test_life_blends_the_features_of_the_layer(network: ResnetGenerator, inputs: tuple[Tensor, Tensor]) -> None:
    x = inputs[0][:1]
    with torch.no_grad():
        taps = []
        for years in (20, 40):
            with Taps(network, ["blocks.1"]) as tap:
                network(x, CODE.encode([years]))
            taps.append(tap.outputs["blocks.1"])
        middle = decode_from(network, "blocks.1", (taps[0] + taps[1]) / 2, x, CODE.encode([30]))
        frames = life_frames(network, x, CODE, frames_per_decade=1, layer="blocks.1")
    assert len(frames) == 4
    assert torch.allclose(frames[2:3], middle, atol=1e-6)


def test_life_needs_a_frame() -> None:
    with pytest.raises(ValueError, match="frames_per_decade 0"):
        life_frames(nn.Identity(), torch.zeros(1, 3, 4, 4), CODE, frames_per_decade=0)
