"""Snapshots for inference: weights with the configuration of their training, as safetensors files."""

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cyclegan_age.config import MODEL_CONFIGS, ModelConfig, TrainConfig, UserError
from cyclegan_age.files import foreign, write_atomically

logger = logging.getLogger("cyclegan_age")

_SETTINGS = "cyclegan_age"  # key of the configuration in the metadata of a snapshot
_LARGE = 4096  # minimum size of a tensor to be stored in half precision
_HALF_ERROR = 1e-3  # maximum relative error of it

# Terms once used in every k-th step, now on a k-th of the batch; old weights contain both.
_SHARES = {"cycle_every": "cycle_share", "identity_every": "identity_share"}
# Settings of early versions without a successor.
_DROPPED = {"keep_hue", "asked", "age_warmup"}


@dataclass(frozen=True)
class Snapshot:
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
        """State dict of one network of the snapshot."""
        prefix = name + "."
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}


def settings(train: TrainConfig, net: ModelConfig) -> dict[str, Any]:
    """All settings in JSON types."""
    plain: dict[str, Any] = json.loads(json.dumps({"train": asdict(train), "net": asdict(net)}, default=str))
    return plain


def from_settings(plain: Mapping[str, Any], source: object = "settings") -> tuple[TrainConfig, ModelConfig]:
    """The configurations from `settings`; missing settings have their defaults.

    Args:
        plain: output of `settings`.
        source: its file, for errors.

    Raises:
        UserError: an unknown model or setting, or an invalid value.
    """
    try:
        model, train, net = plain["train"]["model"], dict(plain["train"]), dict(plain["net"])
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
        if name not in _DROPPED:
            raise UserError(f"{source}: setting {name}: unknown to this version; update cyclegan-age")
        logger.warning("%s: setting %s: has no effect in this version", source, name)
        del values[name]
    for name, value in values.items():
        if types[name] is Path or isinstance(value, list):
            values[name] = Path(value) if types[name] is Path else tuple(value)
    try:
        return kind(**values)
    except UserError as e:
        raise UserError(f"{source}: {e}") from None
    except TypeError as e:  # a value of another type
        raise UserError(f"{source}: a setting is not as train.py wrote it ({e}); restore it, or train again") from None


def save_snapshot(
    path: Path,
    train: TrainConfig,
    net: ModelConfig,
    images_seen: int,
    tensors: Mapping[str, Tensor],
    parts: Mapping[str, ModelConfig] | None = None,
) -> None:
    """Write weights (names `network.parameter`) and their configuration as one safetensors file."""
    plain = settings(train, net)
    for place in (
        "dataroot",
        "results_dir",
        "init",
        "init_average",
    ):  # names of folders are private
        del plain["train"][place]
    if "embedder" in plain["net"]:  # may be a file in such a folder
        plain["net"]["embedder"] = Path(plain["net"]["embedder"]).name
    if "estimators" in plain["net"]:
        plain["net"]["estimators"] = [Path(name).name for name in plain["net"]["estimators"]]
    models = {kind: model for model, kind in MODEL_CONFIGS.items()}
    of_parts = {name: {"model": models[type(part)], "net": asdict(part)} for name, part in (parts or {}).items()}
    metadata = {_SETTINGS: json.dumps(plain | {"images_seen": images_seen, "parts": of_parts}, default=str)}
    write_atomically(path, save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, metadata))


def load_snapshot(path: Path) -> Snapshot:
    """Read a snapshot; its tensors are in fp32 (except counters), even if the file is in half precision.

    Raises:
        UserError: the file is missing, is no safetensors file, or has no configuration of this version.
    """
    tensors, text = _read(path)
    plain = json.loads(text)
    source = f"--weights {path}"
    train, net = from_settings(plain, source)
    parts = {
        name: _restore(MODEL_CONFIGS[part["model"]], part["net"], source)
        for name, part in plain.get("parts", {}).items()
    }
    single = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
    return Snapshot(train, net, plain["images_seen"], single, parts)


def in_half(path: Path) -> bytes:
    """A snapshot's file with its large tensors in half precision and the same configuration.

    Biases, norms and their statistics stay in fp32, and so does a tensor that fp16 cannot represent or would change by
    more than a thousandth (Frobenius norm).

    Raises:
        UserError: the file is not readable; see `load_snapshot`.
    """
    tensors, text = _read(path)
    return save({k: _halved(v) for k, v in tensors.items()}, {_SETTINGS: text})


def _halved(tensor: Tensor) -> Tensor:
    if tensor.dtype != torch.float32 or tensor.numel() < _LARGE:
        return tensor
    half = tensor.half()
    close = (half.float() - tensor).norm() <= _HALF_ERROR * tensor.norm()
    return half if close else tensor


def _read(path: Path) -> tuple[dict[str, Tensor], str]:
    """The stored tensors of a snapshot's file, and its configuration as JSON."""
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        raise UserError(f"--weights {path}: {what}; expected a .safetensors file or the name of a run")
    try:
        with safe_open(path, framework="pt") as f:
            text = (f.metadata() or {}).get(_SETTINGS)
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as e:
        with suppress(OSError):
            if kind := foreign(path):
                raise UserError(f"--weights {path}: {kind}") from None
        raise UserError(f"--weights {path}: not a readable safetensors file ({e}); train or copy it again") from None
    if text is None:
        raise UserError(f"--weights {path}: contains no configuration; expected a file written by train.py")
    return tensors, text
