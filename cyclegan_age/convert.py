"""Generators of other programs -> weights of this package.

Supported are the generators of pytorch-CycleGAN-and-pix2pix and of CUT: a ResNet of any number of blocks or a U-Net,
with instance norm, batch norm or none, with or without dropout and antialiasing. The keys of a file determine the
architecture.
"""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from cyclegan_age.config import ConvertConfig, CycleGANPairConfig, TrainConfig, UserError
from cyclegan_age.files import describe_foreign_file, write_error
from cyclegan_age.models.cyclegan_pair import build_generator, renderer
from cyclegan_age.weight_files import Weights, save_weights

_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_BLURS = {3: (1.0, 2.0, 1.0), 4: (1.0, 3.0, 3.0, 1.0)}  # of CUT, by size; along each axis, divided by 4
_SHOWN = 6  # names in an error
_GIVE = "expected a generator's file, such as latest_net_G.pth"

Modules = dict[str, dict[str, Tensor]]  # name of a module -> its tensors


def convert(config: ConvertConfig) -> Path:
    """Write one generator, or those of both directions, as weights of a `cyclegan_pair`; returns the file's path.

    Raises:
        UserError: a file is no readable generator, two are of different kinds, or the output cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    nets = []
    for name, path in zip(("generator_ab", "generator_ba"), config.cg, strict=False):
        modules = _read(path)
        net = replace(_described(modules, path), group_a=config.group_a, group_b=config.group_b)
        size = config.image_size or (128 if net.generator == "unet" and net.blocks == 7 else 256)
        train = TrainConfig(model="cyclegan_pair", image_size=size, load_size=size)
        with torch.device("meta"):  # tensors that do not fit may be huge
            state = build_generator(train, net).state_dict()
        converted = _converted(state, modules, net, path)
        generator = build_generator(train, net).eval()
        generator.load_state_dict(converted)
        _try(generator, size, path)
        tensors |= {f"{name}.{key}": tensor for key, tensor in generator.state_dict().items()}
        nets.append(net)
    if nets[0] != nets[-1]:
        differ = [f for f, value in vars(nets[0]).items() if value != vars(nets[1])[f]]
        raise UserError(
            f"--cg {config.cg[1]}: its {', '.join(differ)} differ from {config.cg[0]}; expected two of one training"
        )
    try:
        renderer(Weights(train, net, 0, tensors))
    except UserError as e:
        raise UserError(f"--group_b {config.group_b}: {e}") from None
    try:
        save_weights(config.output, train, net, 0, tensors)
    except OSError as e:
        raise write_error(f"--output {config.output}", e, "or choose another file") from e
    return config.output


def _read(path: Path) -> Modules:
    """The tensors of a file by module, in the order of the file; only tensors are unpickled."""
    if not path.is_file():
        raise UserError(f"--cg {path}: {'a folder' if path.is_dir() else 'no such file'}; {_GIVE}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # for pickles of other programs
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # torch raises many types
        raise UserError(f"--cg {path}: {_why_not(path, e)}") from None
    if not isinstance(state, Mapping):
        raise UserError(f"--cg {path}: a {type(state).__name__}, expected a network's state_dict; {_GIVE}")
    if {"networks", "ema"} <= state.keys():
        raise UserError(f"--cg {path}: a checkpoint of this package, which needs no conversion; {_GIVE}")
    if not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"--cg {path}: not a network's state_dict, but {_listed(list(state)) or 'nothing'}; {_GIVE}")
    modules: Modules = {}
    for key, tensor in state.items():
        while (prefix := next((p for p in _PREFIXES if str(key).startswith(p)), "")) and isinstance(key, str):
            key = key.removeprefix(prefix)
        module, _, name = str(key).rpartition(".")
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
        if not plain or not (tensor.is_floating_point() or name == "num_batches_tracked"):
            kind = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}".replace("torch.", "")
            raise UserError(f"--cg {path}: {key} is not a dense float tensor ({kind}); expected the weights as trained")
        modules.setdefault(module, {})[name] = tensor
    for module, held in list(modules.items()):
        if set(held) <= set(_STATISTICS):  # of an instance norm before PyTorch 0.4, which did not use them
            del modules[module]
        elif set(held) == {"filt"}:
            _check_blur(held["filt"], module, path)
    return modules


def _why_not(path: Path, error: Exception) -> str:
    """Why a file could not be loaded."""
    with path.open("rb") as f:
        begin = f.read(2)
    if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return (
            f"a pickle of more than tensors ({found[1]}), which could run code; expected only a generator's state_dict"
        )
    if "TorchScript" in str(error):
        return f"a program of TorchScript; {_GIVE}"
    if begin[:1] == b"\x80" or begin == b"PK":
        return "cannot be read, perhaps truncated; copy it again; expected only a generator's state_dict"
    return describe_foreign_file(path, _GIVE) or f"not a file of PyTorch; {_GIVE}"


def _check_blur(kernel: Tensor, module: str, path: Path) -> None:
    row = torch.tensor(_BLURS.get(kernel.shape[-1], ())) / 4
    wanted = row[:, None] * row[None, :]
    if kernel.shape[1:] != (1, *wanted.shape) or not torch.allclose(kernel.float(), wanted.expand_as(kernel)):
        raise UserError(f"--cg {path}: {module}.filt is not CUT's filter; it cannot be converted")


def _listed(names: Sequence[object]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(str, names[:_SHOWN])) + more


def _described(modules: Modules, path: Path) -> CycleGANPairConfig:
    """The settings of the generator of these modules.

    Raises:
        UserError: they are of no known generator; the text lists the contents.
    """
    net = _as_unet(modules) if "model.model.0" in modules else _as_resnet(modules)
    expected = [theirs for theirs, _ in _names(net)] if net else []
    if net is None or set(expected) != set(modules):
        keys = [f"{module}.{name}" for module, held in modules.items() for name in held]
        kind = "a discriminator" if "model.0" in modules else "no resnet or unet of CycleGAN, pix2pix or CUT"
        raise UserError(f"--cg {path}: {kind}, by its tensors {_listed(keys)}; {_GIVE}")
    return net


def _norm(first: Mapping[str, Tensor], behind: Mapping[str, Tensor] | None) -> Literal["instance", "batch", "none"]:
    """The norm after a convolution: only beside instance norm does the convolution have a bias."""
    return "batch" if behind else "instance" if "bias" in first else "none"


def _width(first: Mapping[str, Tensor]) -> int:
    """The output channels of a first convolution; 0 if it is none."""
    return len(first["weight"]) if "weight" in first and first["weight"].ndim == 4 else 0


def _as_unet(modules: Modules) -> CycleGANPairConfig | None:
    first = modules["model.model.0"]
    depth = 1
    while f"model.model.1{'.model.3' * (depth - 1)}.model.1" in modules:
        depth += 1
    if not _width(first) or depth < 5:
        return None
    return CycleGANPairConfig(
        generator="unet",
        ngf=len(first["weight"]),
        blocks=depth,
        norm=_norm(first, modules.get("model.model.1.model.2")),
    )


def _as_resnet(modules: Modules) -> CycleGANPairConfig | None:
    first = modules.get("model.1", {})
    blocks = [int(m[1]) for module in modules if (m := re.fullmatch(r"model\.(\d+)\.conv_block\.1", module))]
    if not _width(first) or not blocks:
        return None
    blurs = ["filt" in modules.get(f"model.{at}", {}) for at in (7, max(blocks) + 1)]
    antialias: dict[tuple[bool, ...], Literal["none", "down", "up", "both"]] = {
        (False, False): "none",
        (True, False): "down",
        (False, True): "up",
        (True, True): "both",
    }
    return CycleGANPairConfig(
        generator="resnet",
        ngf=len(first["weight"]),
        blocks=len(blocks),
        norm=_norm(first, modules.get("model.2")),
        dropout=f"model.{blocks[0]}.conv_block.5" not in modules,
        antialias=antialias[tuple(blurs)],
    )


def _names(net: CycleGANPairConfig) -> Iterator[tuple[str, str]]:
    """Their names of the modules with tensors, and ours, in order of execution; resizes have no tensors here."""
    normed = net.norm == "batch"
    if net.generator == "unet":
        yield from _names_of_unet(net.blocks, normed)
        return
    at = 1  # index in their sequence, which includes layers without weights

    def layer(ours: str, conv: str = "conv.conv") -> Iterator[tuple[str, str]]:
        yield f"model.{at}", f"{ours}.{conv}"
        if normed:
            yield f"model.{at + 1}", f"{ours}.norm"

    yield from layer("stem")
    at += 3
    down, up = net.antialias in ("down", "both"), net.antialias in ("up", "both")
    for ours in ("down1", "down2"):
        yield from layer(ours)
        at += 3
        if down:
            yield f"model.{at}", ""
            at += 1
    for k in range(net.blocks):
        for number, theirs in ((1, 1), (2, 6 if net.dropout else 5)):
            yield f"model.{at}.conv_block.{theirs}", f"blocks.{k}.conv{number}.conv"
            if normed:
                yield f"model.{at}.conv_block.{theirs + 1}", f"blocks.{k}.norm{number}"
        at += 1
    for ours in ("up1", "up2"):
        if up:
            yield f"model.{at}", ""
            at += 1
        yield from layer(ours, "conv.conv" if up else "conv")
        at += 3
    yield f"model.{at + 1}", "head.conv"


def _names_of_unet(depth: int, normed: bool) -> Iterator[tuple[str, str]]:
    """The same for the U-Net, whose layers are nested."""
    yield "model.model.0", "downs.0.conv"
    for k in range(1, depth):
        inside = f"model.model.1{'.model.3' * (k - 1)}.model"
        innermost = k == depth - 1
        yield f"{inside}.1", f"downs.{k}.conv"
        if normed and not innermost:
            yield f"{inside}.2", f"downs.{k}.norm"
        up = 3 if innermost else 5
        yield f"{inside}.{up}", f"ups.{depth - 1 - k}.conv"
        if normed:
            yield f"{inside}.{up + 1}", f"ups.{depth - 1 - k}.norm"
    yield "model.model.3", "head.conv"


def _converted(state: Mapping[str, Tensor], modules: Modules, net: CycleGANPairConfig, path: Path) -> dict[str, Tensor]:
    """The tensors of a file under the keys of a generator's state_dict; each must have its shape."""
    pairs = [(theirs, ours) for theirs, ours in _names(net) if ours]
    given = {f"{ours}.{name}": (theirs, v) for theirs, ours in pairs for name, v in modules[theirs].items()}
    for key in state:  # batch norms before PyTorch 0.4.1 counted nothing
        if key.endswith("num_batches_tracked") and key not in given:
            given[key] = (key, torch.tensor(0))
    for key in sorted(state.keys() | given.keys()):
        theirs, tensor = given.get(key, (key, None))
        if key not in state or tensor is None or tensor.shape != state[key].shape:
            there = "is missing" if tensor is None else f"is of shape {list(tensor.shape)}"
            wanted = f"not {list(state[key].shape)}" if key in state else "which is unexpected"
            name = f"{theirs}.{key.rpartition('.')[2]}" if tensor is not None else f"the tensor for {key}"
            ends = key.startswith(("stem.", "head.", "downs.0.")) and tensor is not None
            remedy = "expected RGB pictures as input and output" if ends else _GIVE
            raise UserError(f"--cg {path}: {name} {there}, {wanted}; {remedy}")
    return {key: tensor for key, (_, tensor) in given.items()}


def _try(generator: nn.Module, size: int, path: Path) -> None:
    """Translate noise, to detect weights that fail."""
    try:
        with torch.inference_mode():
            x = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
            finite = bool(generator(x).isfinite().all())
    except (MemoryError, RuntimeError) as e:
        cause = (str(e).splitlines() or [type(e).__name__])[0]
        raise UserError(f"--image_size {size}: the generator does not run ({cause}); choose a smaller one") from None
    if not finite:
        raise UserError(f"--cg {path}: its output is not finite; the training has diverged, choose an earlier epoch")
