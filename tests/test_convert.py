"""Generators of CycleGAN, pix2pix and CUT are read whole, and translate as in a form of their own, written here."""

import re
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from cyclegan_age.config import ConvertConfig, UserError
from cyclegan_age.convert import convert
from cyclegan_age.inference import Ager

Norm = Callable[[int], nn.Module]
NORMS: dict[str, Norm] = {
    "instance": nn.InstanceNorm2d,
    "batch": nn.BatchNorm2d,
    "none": lambda channels: nn.Identity(),
}


class Blur(nn.Module):
    """A fixed filter in either direction, that halves the size or doubles it, as CUT has it."""

    filt: Tensor

    def __init__(self, channels: int, *, up: bool) -> None:
        super().__init__()
        self.up = up
        row = torch.tensor([1.0, 3.0, 3.0, 1.0] if up else [1.0, 2.0, 1.0])
        kernel = torch.outer(row, row) * (4 if up else 1) / row.sum() ** 2
        self.register_buffer("filt", kernel.repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.up:
            wide = F.conv_transpose2d(F.pad(x, [1] * 4, "replicate"), self.filt, stride=2, groups=x.shape[1])
            return wide[:, :, 3:-3, 3:-3]
        return F.conv2d(F.pad(x, [1] * 4, "reflect"), self.filt, stride=2, groups=x.shape[1])


class Block(nn.Module):
    def __init__(self, channels: int, norm: Norm, dropout: bool, bias: bool) -> None:
        super().__init__()

        def half() -> list[nn.Module]:
            return [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3, bias=bias), norm(channels)]

        self.conv_block = nn.Sequential(*half(), nn.ReLU(), *([nn.Dropout(0.5)] if dropout else []), *half())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv_block(x)
        return out


class Resnet(nn.Module):
    """c7s1-64, d128, d256, R256 .., u128, u64, c7s1-3 of the CycleGAN paper; in CUT the resizes are Blurs."""

    def __init__(
        self, *, ngf: int, blocks: int, norm: str, dropout: bool = False, down: bool = False, up: bool = False
    ) -> None:
        super().__init__()
        make, bias = NORMS[norm], norm == "instance"
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(3, ngf, 7, bias=bias), make(ngf), nn.ReLU()]
        for n in (2 * ngf, 4 * ngf):
            layers += [nn.Conv2d(n // 2, n, 3, 1 if down else 2, 1, bias=bias), make(n), nn.ReLU()]
            layers += [Blur(n, up=False)] if down else []
        layers += [Block(4 * ngf, make, dropout, bias) for _ in range(blocks)]
        for n in (4 * ngf, 2 * ngf):
            if up:
                layers += [Blur(n, up=True), nn.Conv2d(n, n // 2, 3, padding=1, bias=bias)]
            else:
                layers += [nn.ConvTranspose2d(n, n // 2, 3, 2, 1, 1, bias=bias)]
            layers += [make(n // 2), nn.ReLU()]
        self.model = nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(ngf, 3, 7), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x)
        return out


class Level(nn.Module):
    """One level of pix2pix's U-Net with all inside of it; its input passes by and is put before its output."""

    def __init__(self, *layers: nn.Module, outermost: bool = False) -> None:
        super().__init__()
        self.model, self.outermost = nn.Sequential(*layers), outermost

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x)
        return out if self.outermost else torch.cat([x, out], 1)


class Unet(nn.Module):
    """C64-C128-C256-C512.. and CD512..-C256-C128-C64 of the pix2pix paper's appendix."""

    def __init__(self, *, ngf: int, depth: int, norm: str, dropout: bool = False) -> None:
        super().__init__()
        make, bias = NORMS[norm], norm == "instance"
        widths = [3, ngf, 2 * ngf, 4 * ngf, *[8 * ngf] * (depth - 3)]
        level: list[nn.Module] = []  # what is inside of the next one
        for k in range(depth, 0, -1):
            outer, inner = widths[k - 1 : k + 1]
            down: list[nn.Module] = [nn.Conv2d(outer, inner, 4, 2, 1, bias=bias)]
            wide = inner if k == depth else 2 * inner
            up: list[nn.Module] = [nn.ReLU(), nn.ConvTranspose2d(wide, outer, 4, 2, 1, bias=bias or k == 1)]
            if k > 1:
                down, up = [nn.LeakyReLU(0.2), *down], [*up, make(outer)]
                down += [make(inner)] if k < depth else []
                up += [nn.Dropout(0.5)] if dropout and 4 < k < depth else []
            else:
                up += [nn.Tanh()]
            level = [Level(*down, *level, *up, outermost=k == 1)]
        self.model = level[0]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x)
        return out


CASES: dict[str, tuple[Callable[..., nn.Module], str]] = {
    "resnet 9 instance": (partial(Resnet, ngf=8, blocks=9), "instance"),
    "resnet 6 batch dropout": (partial(Resnet, ngf=8, blocks=6, dropout=True), "batch"),
    "resnet 6 instance dropout": (partial(Resnet, ngf=4, blocks=6, dropout=True), "instance"),
    "resnet 1 none": (partial(Resnet, ngf=4, blocks=1), "none"),
    "cut 9": (partial(Resnet, ngf=8, blocks=9, down=True, up=True), "instance"),
    "cut 6 batch, no_antialias_up": (partial(Resnet, ngf=4, blocks=6, down=True), "batch"),
    "cut 4, no_antialias": (partial(Resnet, ngf=4, blocks=4, up=True), "instance"),
    "unet_256 batch dropout": (partial(Unet, ngf=4, depth=8, dropout=True), "batch"),
    "unet_128 instance": (partial(Unet, ngf=4, depth=7), "instance"),
    "unet_128 none": (partial(Unet, ngf=4, depth=7), "none"),
}


def trained(case: str, seed: int = 0) -> nn.Module:
    """A generator whose weights, and statistics of norms, are none that another would have by chance."""
    build, norm = CASES[case]
    torch.manual_seed(seed)
    network = build(norm=norm).eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias)
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                assert tensor is not None
                nn.init.normal_(tensor, 0.5, 0.3)
            assert module.running_var is not None
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network


def saved(network: nn.Module, path: Path, prefix: str = "", **how: bool) -> Path:
    torch.save(OrderedDict((prefix + k, v) for k, v in network.state_dict().items()), path, **how)
    return path


def converted(path: Path, *others: Path, **settings: object) -> Path:
    output = path.with_suffix(".safetensors")
    return convert(ConvertConfig(cg=(path, *others), output=output, **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("case", CASES)
def test_a_generator_translates_as_before(case: str, tmp_path: Path) -> None:
    reference = trained(case)
    ager = Ager.load(converted(saved(reference, tmp_path / "latest_net_G.pth")))
    size = 128 if "unet_128" in case else 256
    assert ager.image_size == size and ager.domains == ("B",)
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        expected, found = reference(x), ager.generator(x, torch.zeros(2, 2))
    assert expected.std() > 0.05 and (expected[0] - expected[1]).abs().max() > 0.01
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_every_tensor_is_used(case: str, tmp_path: Path) -> None:
    """Each stands in the file that is written, but fixed filters."""
    state = trained(case).state_dict()
    path, kept = tmp_path / "latest_net_G.pth", {k: v for k, v in state.items() if not k.endswith("filt")}
    torch.save(state, path)
    before = load_file(converted(path))
    assert sorted(v.numel() for v in before.values()) == sorted(v.numel() for v in kept.values())
    torch.save(state | {k: v + 1 for k, v in kept.items()}, path)
    after = load_file(converted(path))
    assert len(after) == len(before) == len(kept)
    for key, tensor in before.items():
        torch.testing.assert_close(after[key], tensor + 1)


@pytest.mark.parametrize("case", ["cut 4, no_antialias", "unet_128 instance"])
def test_no_tensor_may_be_missing(case: str, tmp_path: Path) -> None:
    state, path = trained(case).state_dict(), tmp_path / "latest_net_G.pth"
    for key in state:
        torch.save({k: v for k, v in state.items() if k != key}, path)
        with pytest.raises(UserError, match=r"latest_net_G\.pth: .*; (give|pictures have to be RGB)"):
            converted(path)


def test_another_filter_is_refused(tmp_path: Path) -> None:
    state = trained("cut 9").state_dict()
    key = next(key for key in state if key.endswith("filt"))
    path = tmp_path / "latest_net_G.pth"
    torch.save(state | {key: torch.ones_like(state[key]) / 9}, path)
    with pytest.raises(UserError, match=re.escape(key) + " is another filter than CUT's"):
        converted(path)
