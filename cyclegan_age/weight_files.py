"""Weights for inference with the configuration of their training, as safetensors files."""

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from cyclegan_age.config import MODEL_CONFIGS, ModelConfig, TrainConfig, UserError
from cyclegan_age.files import describe_foreign_file, write_atomically

M = TypeVar("M", bound=nn.Module)

logger = logging.getLogger("cyclegan_age")

_SETTINGS = "cyclegan_age"  # key of the configuration in the metadata of a weights file
_LARGE = 4096  # minimum size of a tensor to be stored with fewer bits
_MAX_ERROR = {"fp16": 1e-3, "int8": 2e-2}  # relative, of a tensor
_SCALE = "#scale"  # suffix of the name of an int8 tensor's scales

# Terms once used in every k-th step, now on a k-th of the batch; old weights contain both.
_SHARES = {"cycle_every": "cycle_share", "identity_every": "identity_share"}
_PRIVATE = ("dataroot", "results_dir", "init", "init_average")  # settings not stored: names of folders are private
# Settings of early versions that changed pictures only if they were set.
_REMOVED = {"most_darkening"}
# Settings of early versions without a successor.
_DROPPED = {"keep_hue", "asked", "age_warmup"}


@dataclass(frozen=True)
class Weights:
    """Weights for inference with their training configuration.

    Attributes:
        parts: configurations of networks in the weights that were trained before, as separate models.
    """

    train: TrainConfig
    net: ModelConfig
    images_seen: int
    tensors: dict[str, Tensor]
    parts: dict[str, ModelConfig] = field(default_factory=dict)

    def network(self, name: str) -> dict[str, Tensor]:
        """State dict of one network."""
        prefix = name + "."
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}

    def load_into(self, network: M, name: str) -> M:
        """Load one network's weights into a network, and return it."""
        network.load_state_dict(self.network(name))
        return network


def settings(train: TrainConfig, net: ModelConfig) -> dict[str, Any]:
    """All settings in JSON types."""
    settings_json: dict[str, Any] = json.loads(json.dumps({"train": asdict(train), "net": asdict(net)}, default=str))
    return settings_json


def from_settings(settings_json: Mapping[str, Any], source: object = "settings") -> tuple[TrainConfig, ModelConfig]:
    """The configurations from `settings`; missing settings have their defaults.

    Args:
        settings_json: output of `settings`.
        source: its file, for errors.

    Raises:
        UserError: an unknown model or setting, or an invalid value.
    """
    try:
        model, train, net = settings_json["train"]["model"], dict(settings_json["train"]), dict(settings_json["net"])
    except (LookupError, TypeError, ValueError):
        raise UserError(f"{source}: holds no settings of a training; restore it, or train again") from None
    if model not in MODEL_CONFIGS:
        raise UserError(f"{source}: model {model}: must be one of {', '.join(MODEL_CONFIGS)}; update cyclegan-age")
    return _restore(TrainConfig, train, source), _restore(MODEL_CONFIGS[model], net, source)


def _restore(kind: type[Any], values: Mapping[str, Any], source: object) -> Any:
    values = dict(values)
    for old, new in _SHARES.items():
        if old in values:
            values[new] = 1 / values.pop(old)
    types = {one.name: get_args(one.type)[0] if get_origin(one.type) is Annotated else one.type for one in fields(kind)}
    for name in sorted(values.keys() - types.keys()):
        if name in _REMOVED and not values[name]:
            del values[name]
            continue
        if name not in _DROPPED:
            raise UserError(f"{source}: setting {name}: unknown to this version; use the version that wrote it")
        logger.warning("%s: setting %s: has no effect in this version", source, name)
        del values[name]
    for name, value in values.items():
        if types[name] is Path or isinstance(value, list):
            values[name] = Path(value) if types[name] is Path else tuple(value)
        elif get_origin(types[name]) is tuple and isinstance(value, float):  # of a version with one number
            values[name] = (value,)
    try:
        return kind(**values)
    except UserError as e:
        raise UserError(f"{source}: {e}") from None
    except TypeError as e:  # a value of another type
        raise UserError(f"{source}: a setting is not as train.py wrote it ({e}); restore it, or train again") from None


def save_weights(
    path: Path,
    train: TrainConfig,
    net: ModelConfig,
    images_seen: int,
    tensors: Mapping[str, Tensor],
    parts: Mapping[str, ModelConfig] | None = None,
) -> None:
    """Write weights (names `network.parameter`) and their configuration as one safetensors file."""
    settings_json = settings(train, net)
    for name in _PRIVATE:
        del settings_json["train"][name]
    if "embedder" in settings_json["net"]:  # may be a file in such a folder
        settings_json["net"]["embedder"] = Path(settings_json["net"]["embedder"]).name
    if "estimators" in settings_json["net"]:
        settings_json["net"]["estimators"] = [Path(name).name for name in settings_json["net"]["estimators"]]
    models = {kind: model for model, kind in MODEL_CONFIGS.items()}
    of_parts = {name: {"model": models[type(part)], "net": asdict(part)} for name, part in (parts or {}).items()}
    metadata = {_SETTINGS: json.dumps(settings_json | {"images_seen": images_seen, "parts": of_parts}, default=str)}
    write_atomically(path, save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, metadata))


def load_weights(path: Path, *, flag: str = "--weights") -> Weights:
    """Read a weights file; its tensors are in fp32 (except counters), even if the file stores fp16 or int8.

    Args:
        path: the file.
        flag: for errors.

    Raises:
        UserError: the file is missing, is no safetensors file, or has no configuration of this version.
    """
    source = f"{flag} {path}"
    tensors, text = _read(path, source)
    settings_json = json.loads(text)
    train, net = from_settings(settings_json, source)
    parts = {
        name: _restore(MODEL_CONFIGS[part["model"]], part["net"], source)
        for name, part in settings_json.get("parts", {}).items()
    }
    single = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
    return Weights(train, net, settings_json["images_seen"], single, parts)


def repacked(path: Path, precision: Literal["fp16", "int8"]) -> bytes:
    """A weights file with its large tensors stored in fp16 or int8, and the same configuration.

    Biases, norms and their statistics stay in fp32, and so does a tensor that fp16 would change by more than a
    thousandth (Frobenius norm). A tensor that int8 would change by more than a fiftieth is stored in fp16.

    Raises:
        UserError: the file is not readable; see `load_weights`.
    """
    tensors, text = _read(path, f"--weights {path}")
    packed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if precision == "int8" and (pair := _in_int8(tensor)):
            packed[name], packed[name + _SCALE] = pair
        else:
            packed[name] = _in_half(tensor)
    return save(packed, {_SETTINGS: text})


def quantised(x: Tensor) -> tuple[Tensor, Tensor]:
    """An int8 tensor (O, ...) and its fp32 scales (O, 1, ...): their product equals x within half a scale."""
    peak = x.abs().amax(dim=tuple(range(1, x.ndim)), keepdim=True)
    scale = torch.where(peak > 0, peak / 127, 1.0)
    return (x / scale).round().to(torch.int8), scale


def _in_int8(tensor: Tensor) -> tuple[Tensor, Tensor] | None:
    if not tensor.is_floating_point() or tensor.numel() < _LARGE or tensor.ndim < 2:
        return None
    x = tensor.float()
    steps, scale = quantised(x)
    return (steps, scale) if _close(steps * scale, x, "int8") else None


def _in_half(tensor: Tensor) -> Tensor:
    if tensor.dtype != torch.float32 or tensor.numel() < _LARGE:
        return tensor
    half = tensor.half()
    return half if _close(half.float(), tensor, "fp16") else tensor


def _close(stored: Tensor, x: Tensor, precision: str) -> bool:
    return bool((stored - x).norm() <= _MAX_ERROR[precision] * x.norm())


def _read(path: Path, source: str) -> tuple[dict[str, Tensor], str]:
    """The tensors of a weights file, int8 as fp32, and its configuration as JSON; `source` begins errors."""
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        raise UserError(f"{source}: {what}; expected a .safetensors file or the name of a run")
    try:
        with safe_open(path, framework="pt") as f:
            text = (f.metadata() or {}).get(_SETTINGS)
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 - not a dict
        for name in [k for k in tensors if k.endswith(_SCALE)]:
            tensors[name.removesuffix(_SCALE)] = tensors[name.removesuffix(_SCALE)] * tensors.pop(name)
    except (SafetensorError, OSError, KeyError, RuntimeError) as e:  # the last two: scales that fit no tensor
        with suppress(OSError):
            if kind := describe_foreign_file(path):
                raise UserError(f"{source}: {kind}") from None
        raise UserError(f"{source}: not a readable safetensors file ({e}); train or copy it again") from None
    if text is None:
        raise UserError(f"{source}: contains no configuration; expected a file written by train.py")
    return tensors, text
