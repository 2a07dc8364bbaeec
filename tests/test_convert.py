"""Generators of CycleGAN, pix2pix and CUT are read whole, and translate as in a form of their own, written here."""

import io
import json
import math
import os
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

import batch as batch_command
import convert as convert_command
import evaluate as evaluate_command
import export as export_command
import test as test_command
import train as train_command
from benchmarks import export as export_benchmark
from cyclegan_age.config import ConvertConfig, CycleGANPairConfig, DemoConfig, UserError
from cyclegan_age.convert import convert
from cyclegan_age.faces.alignment import Place
from cyclegan_age.features import Taps
from cyclegan_age.images import to_float, to_uint8
from cyclegan_age.inference import Ager, Letterboxed
from cyclegan_age.rendering.games import morph
from cyclegan_age.weight_files import load_weights
from options.train import parse_train

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
    "cut 1, no_antialias": (partial(Resnet, ngf=4, blocks=1, up=True), "instance"),
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
    x, generator = x.double(), ager.generator.double()  # errors in fp32 depend on the processor
    with torch.inference_mode():
        expected, found = reference.double()(x), generator(x, torch.zeros(2, 2, dtype=torch.float64))
    assert expected.std() > 0.05 and (expected[0] - expected[1]).abs().max() > 0.01
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


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


@pytest.mark.parametrize("case", ["cut 1, no_antialias", "unet_128 instance"])
def test_no_tensor_may_be_missing(case: str, tmp_path: Path) -> None:
    state, path = trained(case).state_dict(), tmp_path / "latest_net_G.pth"
    for key in state:
        torch.save({k: v for k, v in state.items() if k != key}, path)
        with pytest.raises(UserError, match=r"latest_net_G\.pth: .*; (expected a generator|expected RGB pictures)"):
            converted(path)


def test_another_filter_is_refused(tmp_path: Path) -> None:
    state = trained("cut 9").state_dict()
    key = next(key for key in state if key.endswith("filt"))
    path = tmp_path / "latest_net_G.pth"
    torch.save(state | {key: torch.ones_like(state[key]) / 9}, path)
    with pytest.raises(UserError, match=re.escape(key) + " is not CUT's filter"):
        converted(path)


def test_old_files_and_prefixes_are_read(tmp_path: Path) -> None:
    """Those of DataParallel and of torch.compile, and files of PyTorch before 0.4, whose instance norms had buffers."""
    network = trained("resnet 1 none")
    plain = load_file(converted(saved(network, tmp_path / "plain.pth")))
    old = trained("resnet 6 instance dropout")
    expected = load_file(converted(saved(old, tmp_path / "old.pth")))
    for module in old.modules():
        if isinstance(module, nn.InstanceNorm2d):
            module.register_buffer("running_mean", torch.ones(module.num_features))
            module.register_buffer("running_var", torch.ones(module.num_features))
    assert any(key.endswith("running_var") for key in old.state_dict())
    for wanted, path in (
        (plain, saved(network, tmp_path / "parallel.pth", "module.")),
        (plain, saved(network, tmp_path / "compiled.pth", "module._orig_mod.")),
        (expected, saved(old, tmp_path / "older.pth", _use_new_zipfile_serialization=False)),
    ):
        found = load_file(converted(path))
        assert found.keys() == wanted.keys() and all(torch.equal(found[k], v) for k, v in wanted.items())
    batch = trained("resnet 6 batch dropout").state_dict()
    torch.save({k: v for k, v in batch.items() if not k.endswith("tracked")}, tmp_path / "batch.pth")  # before 0.4.1
    assert load_weights(converted(tmp_path / "batch.pth")).tensors["generator_ab.stem.norm.num_batches_tracked"] == 0


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.system, ("touch run-by-a-pickle",))


def discriminator() -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 4, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(4, 8, 4, 2, 1)]
    return nn.ModuleDict({"model": nn.Sequential(*layers)})


def test_wrong_files_are_reported_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    resize = OrderedDict(trained("cut 1, no_antialias").state_dict())  # by a resize that has no filter
    for key in [key for key in resize if key.endswith("filt")]:
        del resize[key]
    grey = trained("resnet 6 instance dropout").state_dict()
    grey["model.1.weight"] = grey["model.1.weight"][:, :1]
    plain = trained("resnet 1 none").state_dict()
    spoilt = {k: v * torch.inf for k, v in plain.items()}
    floats = r"model\.1\.weight is not a dense float tensor"
    for name, what, text in (
        (
            "D",
            discriminator().state_dict(),
            r"a discriminator, by its tensors model\.0\.weight, model\.0\.bias, model\.2",
        ),
        (
            "style",
            {"style.1.weight": torch.ones(2)},
            r"no resnet or unet of .*, by its tensors style\.1\.weight; expected a",
        ),
        ("resize", dict(resize), r"no resnet or unet of .*, by its tensors model\.1\.weight"),
        ("grey", grey, r"model\.1\.weight is of shape \[4, 1, 7, 7\], not \[4, 3, 7, 7\]; expected RGB pictures"),
        ("flat", {k: v.flatten() for k, v in plain.items()}, r"no resnet or unet of .*, by its tensors model\.1\.w"),
        ("scalars", {k: v.sum() for k, v in plain.items()}, r"no resnet or unet of .*, by its tensors model\.1\.w"),
        ("void", plain | {"model.1.weight": torch.ones(0, 3, 7, 7)}, r"no resnet or unet of .*, by its tensors mod"),
        (
            "wide",  # its other layers would not fit into any memory
            plain | {"model.1.weight": torch.zeros(1).expand(10**6, 3, 7, 7)},
            r"model\.\S+ is of shape \[16, 16, 3, 3\], not \[4000000, 4000000, 3, 3\]; expected a",
        ),
        ("ints", {k: v.to(torch.int8) for k, v in plain.items()}, rf"{floats} \(int8, strided, on cpu\); exp"),
        ("meta", {k: v.to("meta") for k, v in plain.items()}, rf"{floats} \(float32, strided, on meta\); exp"),
        (
            "sparse",
            {k: v.to_sparse() for k, v in plain.items()},
            rf"{floats} \(float32, sparse_coo, on cpu\); expected",
        ),
        ("spoilt", spoilt, "its output is not finite; the training has diverged"),
        (
            "state",
            {"networks": {}, "ema": {}, "step": 3},
            "a checkpoint of this package, which needs no con",
        ),
        (
            "nested",
            {"state_dict": {"a": torch.ones(1)}, "epoch": 3},
            "not a network's state_dict, but state_dict, epoch",
        ),
        ("tensor", torch.ones(3), "a Tensor, expected a network's state_dict; expected a"),
        ("code", {"model.1.weight": Evil()}, r"a pickle of more than tensors \(posix\.system\), which could run code"),
        ("whole", discriminator(), r"a pickle of more than tensors \(torch\.nn\.modules\.\w+\.\w+\), which could"),
    ):
        torch.save(what, f"{name}.pth")
        assert convert_command.main(["--cg", f"{name}.pth"]) == 2
        said = capsys.readouterr().err
        assert re.match(rf"--cg {name}\.pth: {text}", said) and said.count("\n") == 1, said
    Path("cut.pth").write_bytes(Path("grey.pth").read_bytes()[:3000])
    Path("text.pth").write_text("horse")
    Path("empty.pth").touch()
    Path("folder.pth").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated
        torch.jit.save(torch.jit.trace(nn.Identity(), torch.ones(1)), "program.pth")
    saved(trained("resnet 1 none"), tmp_path / "good.pth")
    pair = ["--cg", "good.pth", "good.pth", "--image_size", "32"]
    for flags, text in (
        (["--cg", "cut.pth"], "--cg cut.pth: cannot be read, perhaps truncated; copy it again"),
        (["--cg", "text.pth"], "--cg text.pth: not a file of PyTorch; expected"),
        (["--cg", "none.pth"], "--cg none.pth: no such file; expected"),
        (["--cg", "folder.pth"], "--cg folder.pth: a folder; expected a generator's"),
        (["--cg", "empty.pth"], "--cg empty.pth: an empty file; copy it again; expected a generator's"),
        (["--cg", "program.pth"], "--cg program.pth: a program of TorchScript; expected a generator's"),
        ([*pair, "--group_a", "x", "--group_b", "x"], "--group_b x: must be different from --group_a"),
        ([*pair, "--group_a", "20-29", "--group_b", "21-28"], "--group_b 21-28: two domains of one age, 20-29 and"),
        ([], "--cg: required; expected a generator's file"),
        (["--cg", "a", "b", "c"], "--cg a b c: must be one or two .pth files"),
        (["--cg", "a", "--output", "a.pth"], "--output a.pth: must be a file name that ends in .safetensors"),
        (["--cg", "a", "--image_size", "30"], "--image_size 30: must be a multiple of 4"),
    ):
        assert convert_command.main(flags) == 2
        said = capsys.readouterr().err
        assert said.startswith(text) and said.count("\n") == 1, said
    assert not Path("run-by-a-pickle").exists() and not list(tmp_path.glob("*.safetensors"))
    saved(trained("unet_128 none"), tmp_path / "unet.pth")
    assert convert_command.main(["--cg", "unet.pth", "--image_size", "192"]) == 2
    assert (
        "--image_size 192: must be a multiple of 128 for a unet that halves pictures 7 times" in capsys.readouterr().err
    )
    saved(trained("resnet 1 none"), tmp_path / "resnet.pth")
    assert convert_command.main(["--cg", "unet.pth", "resnet.pth"]) == 2
    assert "--cg resnet.pth: its blocks, generator differ from unet.pth; expected two of one" in capsys.readouterr().err


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[nn.Module]]:
    """Weights of both directions at 32 px, and the generators they were read from."""
    folder = tmp_path_factory.mktemp("pair")
    networks = [trained("cut 1, no_antialias", seed) for seed in (0, 1)]
    paths = [saved(one, folder / f"latest_net_G_{k}.pth") for k, one in zip("AB", networks, strict=True)]
    return converted(*paths, image_size=32, group_b="z/ebra").rename(folder / "pair.safetensors"), networks


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classic data set: trainA trainB testA testB, of pictures that show no faces and are not square."""
    root, random = tmp_path_factory.mktemp("horse2zebra"), np.random.default_rng(0)
    for k, name in enumerate(("trainA", "trainB", "testA", "testB")):
        (root / name).mkdir()
        for i in range(4):
            colours = random.integers(0, 256, (3, 4, 3), np.uint8) // (1 + k % 2)
            Image.fromarray(colours).resize((64, 48)).save(root / name / f"{i}.png")
    return root


def test_pictures_are_translated_as_a_whole(
    pair: tuple[Path, list[nn.Module]], pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    single = tmp_path / "horse2zebra.safetensors"
    file = pair[0].with_name("latest_net_G_A.pth")
    assert convert_command.main(["--cg", str(file), "--output", str(single), "--image_size", "32"]) == 0
    assert f"written: {single}" in capsys.readouterr().out
    flags = ["--input", str(pictures / "testA"), "--results_dir", str(tmp_path), "--weights"]
    assert test_command.main([*flags, str(single), "--name", "one", "--features", "down2", "blocks.0"]) == 0
    one = tmp_path / "one"
    assert {p.name for p in one.glob("0_*")} == {
        *("0_input.jpg", "0_to_B.png", "0_strip.png", "0_change.png", "0_features-down2.png", "0_features-blocks.0.png")
    }
    page = (one / "index.html").read_text()
    assert "<figcaption>to B</figcaption>" in page and "channels to B" in page and "years" not in page
    with Image.open(pictures / "testA" / "0.png") as image, Image.open(one / "0_to_B.png") as made:
        boxed = Letterboxed.of(image.convert("RGB"), 32)
        with torch.inference_mode():
            whole = to_uint8(pair[1][0](to_float(boxed.square[None])))[0]
        expected = Image.fromarray(whole[4:28]).resize((64, 48), Image.Resampling.LANCZOS)
        assert made.size == (64, 48) and np.abs(np.asarray(made, int) - np.asarray(expected, int)).max() <= 1
    assert test_command.main([*flags, str(pair[0]), "--name", "two"]) == 0
    assert {p.name for p in (tmp_path / "two").glob("*_to_*")} == {
        f"{i}_to_{k}.png" for i in range(4) for k in ("A", "z_ebra")
    }
    assert test_command.main([*flags, str(pair[0]), "--name", "b", "--aligned", "--target_domain", "z/ebra"]) == 0
    assert len(list((tmp_path / "b").glob("*_to_*"))) == 4
    files = (tmp_path / "b" / "0_to_z_ebra.png", one / "0_to_B.png", tmp_path / "two" / "0_to_z_ebra.png")
    second, *others = (np.asarray(Image.open(file)) for file in files)
    assert all((second == other).all() for other in others)
    assert b"to z/ebra" in files[0].read_bytes()  # what made it
    capsys.readouterr()
    for more, text in (
        (["--target_age", "50"], "--target_age: needs weights with ages; leave it out, or give --target_d"),
        (["--life"], "--life: needs weights with ages; leave it out"),
        (["--face", "2"], "--face: needs weights with ages; leave it out"),
        (["--target_domain", "dog"], "--target_domain dog: unknown to the weights; they have A, z/ebra"),
    ):
        assert test_command.main([*flags, str(pair[0]), *more]) == 2
        assert capsys.readouterr().err.startswith(text)
    assert test_command.main(["--weights", str(single), "--dataroot", str(pictures)]) == 2
    assert capsys.readouterr().err == "--dataroot: needs weights with ages; give the folder as --input\n"
    assert test_command.main(["--weights", str(single), "--game", "aging", "a.jpg"]) == 2
    assert capsys.readouterr().err == "--game: needs weights with ages\n"
    assert test_command.main(["--target_domain", "B"]) == 2
    assert capsys.readouterr().err == "--target_domain B: needs weights with domains; use --target_age\n"
    assert evaluate_command.main(["--weights", str(single), "--dataroot", str(pictures)]) == 2
    assert capsys.readouterr().err == f"--weights {single}: have no ages; expected weights that age faces\n"


def test_a_training_starts_from_both(pair: tuple[Path, list[nn.Module]], pictures: Path, tmp_path: Path) -> None:
    flags = [
        "--dataroot",
        str(pictures),
        "--model",
        "cyclegan_pair",
        "--preset",
        "zhu_256",
        "--results_dir",
        str(tmp_path),
    ]
    flags += [
        "--image_size",
        "32",
        "--load_size",
        "36",
        "--ngf",
        "4",
        "--ndf",
        "4",
        "--blocks",
        "1",
        "--antialias",
        "up",
    ]
    flags += ["--monitor", "none", "--no_compile", "--precision", "fp32", "--init", str(pair[0]), "--group_b=zebra"]
    assert train_command.main([*flags, "--epochs", "0", "--name", "begun"]) == 0
    begun, given = load_file(tmp_path / "begun" / "weights.safetensors"), load_file(pair[0])
    assert begun.keys() == given.keys() and all(torch.equal(begun[k], v) for k, v in given.items())
    assert Ager.load(tmp_path / "begun" / "weights.safetensors").domains == ("A", "zebra")
    assert train_command.main([*flags, "--epochs", "0.5", "--name", "on", "--lr", "1e-5"]) == 0
    on = load_file(tmp_path / "on" / "weights.safetensors")
    moved = [(on[k] - v).abs().max().item() for k, v in given.items() if k.endswith("weight")]
    assert min(moved) > 0 and max(moved) < 1e-3


def test_a_unet_with_batch_norm_and_dropout_trains(pictures: Path, tmp_path: Path) -> None:
    flags = ["--dataroot", str(pictures), "--model", "cyclegan_pair", "--results_dir", str(tmp_path), "--name", "unet"]
    flags += ["--generator", "unet", "--norm", "batch", "--dropout", "--image_size", "64", "--load_size", "64"]
    flags += ["--ngf", "2", "--ndf", "2", "--batch_size", "2", "--epochs", "1", "--monitor", "none", "--no_compile"]
    assert train_command.main([*flags, "--precision", "fp32"]) == 0
    assert list((tmp_path / "unet" / "samples").glob("features-downs.1-*"))
    assert Ager.load(tmp_path / "unet" / "weights.safetensors").layers()[:2] == ["to_a.downs.0", "to_a.downs.1"]
    with pytest.raises(UserError, match="--dropout: must be used with --generator resnet or unet"):
        parse_train(["--dataroot", str(pictures), "--model", "cyclegan_pair", "--dropout"])


def test_age_groups_stay_ages_and_named_domains_are_none(tiny_faces: Path, pictures: Path) -> None:
    for root, more, groups in (
        (tiny_faces, [], ("20-29", "50-59")),
        (pictures, [], ("A", "B")),
        (pictures, ["--group-a", "horse"], ("horse", "B")),
        (pictures, ["--group_a", "20s", "--group_b", "50s"], ("20s", "50s")),
    ):
        _, net = parse_train(["--dataroot", str(root), "--model", "cyclegan_pair", *more])
        assert isinstance(net, CycleGANPairConfig) and (net.group_a, net.group_b) == groups


@pytest.mark.parametrize("single", [True, False])
def test_without_ages_python_takes_the_number_of_a_domain_alone(
    single: bool, pair: tuple[Path, list[nn.Module]], pictures: Path
) -> None:
    one = converted(pair[0].with_name("latest_net_G_A.pth"), image_size=32)
    ager = Ager.load(one if single else pair[0])
    picture = pictures / "testA" / "0.png"
    with Image.open(picture) as image:
        face = image.convert("RGB")
    square = ager.letterbox(face).square[None]
    last = len(ager.domains) - 1
    with torch.inference_mode():
        expected = to_uint8(pair[1][0](to_float(square)))  # of the direction to B, the last
    latents = ager.engine.encode(square).latent
    assert all((made == expected).all() for made in (ager.age_many(square, [last]), ager.render(latents, [last])))
    assert ager.caption(last) == f"to {ager.domains[-1]}"
    layer = ager.layers()[0]
    for years in (-1, 0.5, last + 1, 50, math.nan):
        for do in (
            partial(ager.age, picture, years),
            partial(ager.engine.age_letterboxed, [ager.letterbox(face)], [years]),
            partial(ager.age_many, square, [years]),
            partial(ager.engine.changes, square, [years]),
            partial(ager.render, latents, [years]),
            partial(ager.features, square[0], [years], [layer]),
            partial(ager.caption, years),
        ):
            numbers = "0 for B" if single else "0 for A, 1 for z/ebra"
            with pytest.raises(UserError, match=rf"^years: \S+, must be the number of a domain: {numbers}$"):
                do()
    for what, for_faces in (
        ("age_photo", lambda: ager.age_photo(picture, last)),
        ("age_places", lambda: ager.age_places(square[0], [Place(0j, 32 + 0j)], last)),
        ("life", lambda: ager.life(picture)),
        ("a game of two faces", lambda: morph(ager, face, face)),
    ):
        with pytest.raises(UserError, match=f"^{what}: needs weights with ages"):
            for_faces()


def test_batch_takes_no_weights_without_ages(
    pair: tuple[Path, list[nn.Module]], pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--input", str(pictures), "--output", str(tmp_path / "out"), "--aligned", "--weights", str(pair[0])]
    assert batch_command.main(flags) == 2
    expected = f"--weights {pair[0]}: must be weights with ages; use test.py to translate between domains\n"
    assert capsys.readouterr().err == expected and not (tmp_path / "out").exists()


def test_the_graph_of_a_translation(
    pair: tuple[Path, list[nn.Module]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason="make test installs requirements-export.txt")
    onnxruntime = pytest.importorskip("onnxruntime", reason="make test installs requirements-export.txt")
    weights = converted(pair[0].with_name("latest_net_G_A.pth"), image_size=32)
    file = tmp_path / "graph.onnx"
    assert export_command.main(["--weights", str(weights), "--output", str(file)]) == 0
    session = onnxruntime.InferenceSession(file)
    facts = session.get_modelmeta().custom_metadata_map
    assert {name: json.loads(text) for name, text in facts.items()} == {"image_size": 32, "domains": ["B"]}
    x = torch.rand(3, 3, 32, 32) * 2 - 1
    with torch.inference_mode():
        expected = pair[1][0](x).numpy()
    (made,) = session.run(["translated"], {"picture": x.numpy()})
    assert np.abs(made - expected).max() < 1e-4
    assert export_command.main(["--weights", str(weights), "--output", str(file.with_suffix(".pt2"))]) == 0
    assert np.abs(torch.export.load(file.with_suffix(".pt2")).module()(x).detach().numpy() - expected).max() < 1e-4
    assert export_benchmark.main(["--weights", str(weights)]) == 2
    assert (
        capsys.readouterr().err == f"--weights {weights}: have no ages; expected weights of an age-conditional model\n"
    )


def test_the_page_shows_translations(pair: tuple[Path, list[nn.Module]], pictures: Path) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed: requirements-web.txt")
    from cyclegan_age.web.limits import Refused
    from cyclegan_age.web.work import Studio, load

    config = DemoConfig(weights=(str(pair[0]),))
    studio = Studio(load(config), config)
    data = (pictures / "testA" / "0.png").read_bytes()
    made, kind, note = studio.age(data, 0)
    with Image.open(io.BytesIO(made)) as image:
        assert kind == "image/png" and image.size == (64, 48) and note == "" and b"to A" in made
    with pytest.raises(Refused, match="target_age: must be the number of a domain, 0 for A, 1 for"):
        studio.age(data, 7)
    seen = studio.look(data)
    assert seen.whole is not None and not seen.faces
    assert [name for name, _ in studio.strip(seen.whole).pictures] == ["to A", "to z/ebra"]
    assert studio.maps(seen.whole, 1, "to_b.down2").startswith(b"\x89PNG")
    with pytest.raises(Refused, match="this model has no ages"):
        studio.life(seen.whole, "gif")


def test_the_page_asks_for_the_one_domain(pair: tuple[Path, list[nn.Module]], pictures: Path) -> None:
    gr = pytest.importorskip("gradio", reason="gradio is not installed: requirements-web.txt")
    from cyclegan_age.web.handlers import span
    from cyclegan_age.web.work import Studio, load

    config = DemoConfig(weights=(str(converted(pair[0].with_name("latest_net_G_A.pth"), image_size=32)),))
    studio = Studio(load(config), config)
    slider = gr.Slider(**span(studio.ager("")))
    data = (pictures / "testA" / "0.png").read_bytes()
    assert not slider.visible and b"to B" in studio.age(data, slider.value)[0]


def test_the_page_works_in_a_browser(pair: tuple[Path, list[nn.Module]], tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed: requirements-web.txt")
    from visdom_tools import chromium
    from web_tools import WebServer

    with chromium() as tab:
        server = WebServer(tmp_path, ("--weights", str(pair[0])))
        try:
            tab.goto(server.url)
            tab.locator("#strip figcaption").first.wait_for(timeout=60_000)
            assert tab.locator("#strip figcaption").all_inner_texts() == ["to A", "to z/ebra"]
            tab.get_by_role("button", name="Age the photograph").click()
            tab.locator("#photo a").wait_for(timeout=60_000)
        finally:
            said = server.stop()
        assert said == ""


def test_a_card_of_translations_speaks_of_no_ages(pair: tuple[Path, list[nn.Module]], tmp_path: Path) -> None:
    Ager.load(pair[0]).save_pretrained(tmp_path / "hub")
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "pictures of 32 px translated to A, z/ebra" in card and "- face-aging" not in card and "years" not in card


def test_taps_see_a_converted_generator(pair: tuple[Path, list[nn.Module]]) -> None:
    """The reference's layers give the same as those of the same names here."""
    ager = Ager.load(converted(pair[0].with_name("latest_net_G_A.pth"), image_size=32))
    assert ager.layers() == ["stem", "down1", "down2", "blocks.0", "up1", "up2", "head"]
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    with (
        torch.inference_mode(),
        Taps(ager.generator, ["down2", "blocks.0"]) as taps,
        Taps(pair[1][0], ["model.9"]) as own,
    ):
        ager.generator(x)
        pair[1][0](x)
    torch.testing.assert_close(taps.outputs["down2"], own.outputs["model.9"], rtol=0, atol=1e-5)
    assert taps.outputs["blocks.0"].shape == (1, 16, 8, 8)
