"""Run folders: configuration, metrics, snapshots for inference, and the checkpoint to resume from.

results/001-cyclegan-default/
    config.json               every setting
    metrics.jsonl             one object per logged step
    curves.png                the losses so far
    samples/                  sample sheets
    snapshots/                EMA weights at some numbers of images, safetensors with the configuration inside
    weights.safetensors       the newest of them
    state.pt                  the checkpoint; loads without pickle code
"""

import io
import json
import logging
import re
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cyclegan_age.config import MODEL_CONFIGS, ModelConfig, TrainConfig, UserError
from cyclegan_age.files import clear, exclusive, foreign, lock, writing
from cyclegan_age.files import write_atomically as write_atomically

SHIPPED = Path(__file__).parent / "weights"
HEADS, TIGHT = "cyclegan_heads", "cyclegan"  # shipped weights where none are named: for photographs, for tight crops

logger = logging.getLogger("cyclegan_age")

_SETTINGS = "cyclegan_age"  # key of the configuration in the metadata of a snapshot
_LARGE = 4096  # minimum size of a tensor to be stored in half precision
_HALF_ERROR = 1e-3  # maximum relative error of it

# Settings of the environment, not of the recipe: a run may resume under others.
_FREE = {
    *("dataroot", "results_dir", "name", "preset", "monitor", "visdom_server", "visdom_port", "compile", "precision"),
    *("log_every", "sample_every", "save_every", "snapshot_every", "feature_layers", "checkpoint"),
}

# Settings that affect only future steps, and no network, batch or checkpoint: a named run may change them. It may also
# change the weights of its losses if both values are above 0, so that no network is added or removed.
_LENGTH = {"epochs", "minutes"}
_TUNED = {
    *("lr", "lr_constant", "clip", "ema", "accumulate"),
    *("label_smoothing", "d_rate", "d_reset", "d_pause", "head_start"),
}

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
        raise UserError(f"--weights {path}: no such file; expected a .safetensors file or the name of a run")
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


def find_weights(weights: str, results_dir: Path, model: str = HEADS) -> Path:
    """The file of a `--weights` value: a file, a run's name (its newest snapshot), the name of shipped weights, or ""
    or "shipped" for the shipped ones of `model`.

    Raises:
        UserError: none of these.
    """
    if not weights or (weights == "shipped" and not (results_dir / weights).is_dir()):
        return SHIPPED / f"{model}.safetensors"
    for candidate in (
        Path(weights),
        Path(weights) / "weights.safetensors",
        results_dir / weights / "weights.safetensors",
        SHIPPED / f"{Path(weights).name}.safetensors",
    ):
        if candidate.is_file():
            return candidate
    places = f"neither a file nor a run with weights in {results_dir} nor shipped"
    raise UserError(f"--weights {weights}: {places}; check the name")


def weights_name(weights: Path) -> str:
    """Name of weights: that of their run, or of their file; no other part of their path."""
    return weights.parent.name if weights.stem == "weights" else weights.stem


def next_folder(results_dir: Path, stem: str, suffix: str = "") -> Path:
    """Create and return `stem-NNN` or `NNN-suffix`: one more than the highest existing number."""
    results_dir.mkdir(parents=True, exist_ok=True)
    pattern = re.compile(rf"{re.escape(stem)}-(\d+)" if stem else r"(\d+)-.*")
    while True:
        numbers = [int(m[1]) for p in results_dir.iterdir() if (m := pattern.fullmatch(p.name))]
        number = f"{max(numbers, default=0) + 1:03d}"
        folder = results_dir / (f"{stem}-{number}" if stem else f"{number}-{suffix}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder


def _recipe(plain: Mapping[str, Any], source: object = "settings") -> dict[str, Any]:
    """Settings that must agree to resume a run; missing ones have their defaults."""
    whole = settings(*from_settings(plain, source))
    return {k: v for part in ("train", "net") for k, v in whole[part].items() if k not in _FREE}


def open_run(train: TrainConfig, net: ModelConfig, held: ExitStack, needed: int = 0) -> Path:
    """The folder of this command's run, created if new, and locked for this process.

    Without `--name` it is the newest run with the same data and settings, else a new number.

    Args:
        train: of the training.
        net: of the model.
        held: receives the run's lock.
        needed: bytes that the run will take, for the error of a full disk.

    Raises:
        UserError: `--name` is taken by a run with other settings, or is not a plain name; another process trains the
            run; the folder cannot be written.
    """
    plain = settings(train, net)
    if train.name and (Path(train.name).name != train.name or train.name.startswith(".")):
        raise UserError(f"--name {train.name}: not a plain folder name; use letters, digits, - and _")
    with writing(train.results_dir, needed), exclusive(train.results_dir):
        if train.name:
            folder = train.results_dir / train.name
            folder.mkdir(exist_ok=True)
        else:
            folder = _same_run(train, plain) or next_folder(train.results_dir, "", f"{train.model}-{train.preset}")
        try:
            held.enter_context(lock(folder))
            if train.name and (folder / "config.json").is_file():
                _check_same(folder, plain)
            clear(folder)
            write_atomically(folder / "config.json", json.dumps(plain, indent=1).encode())
        except OSError:
            with suppress(OSError):
                remove_new_run(folder)
            raise
    return folder


def remove_new_run(folder: Path) -> None:
    """Remove a run that could not start, so that its name is free; a folder with other files stays."""
    own = [folder / ".lock", folder / "config.json"]
    if set(folder.iterdir()) <= set(own):
        for path in own:
            path.unlink(missing_ok=True)
        folder.rmdir()


def _same_run(train: TrainConfig, plain: Mapping[str, Any]) -> Path | None:
    if not train.results_dir.is_dir():
        return None
    for folder in sorted(train.results_dir.glob(f"[0-9]*-{train.model}-{train.preset}"), reverse=True):
        if (folder / "config.json").is_file():
            with suppress(UserError):  # settings that are no longer valid
                there = _read_settings(folder / "config.json")
                if _recipe(there) == _recipe(plain) and there["train"]["dataroot"] == plain["train"]["dataroot"]:
                    return folder
    return None


def _read_settings(path: Path) -> dict[str, Any]:
    """What a run's `config.json` holds.

    Raises:
        UserError: it is no JSON, as after a crash of the machine or an edit.
    """
    try:
        plain: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise UserError(f"{path}: not readable as JSON ({e}); restore it, or give another --name") from None
    return plain


def _check_same(folder: Path, plain: Mapping[str, Any]) -> None:
    """Check the settings of a named run, and log changed ones that may differ."""
    path = folder / "config.json"
    there, here = _recipe(_read_settings(path), path), _recipe(plain)
    changed = [flag for flag in sorted(here) if here[flag] != there.get(flag) and flag not in _LENGTH]
    for flag in changed:
        old, new = there.get(flag), here[flag]
        weight = flag.startswith("lambda_") and min(_numbers(old) + _numbers(new), default=0) > 0
        if not weight and flag not in _TUNED:
            raise UserError(
                f"--{flag} {new}: the run {folder} was started with {old}; use the same value, "
                f"or another --name with --init {folder.name}, which starts from its weights where they fit"
            )
    for flag in changed:
        logger.info("%s: resumes with --%s %s, previously %s", folder, flag, here[flag], there.get(flag))


def _numbers(value: Any) -> list[float]:
    return [n for n in (value if isinstance(value, list) else [value]) if isinstance(n, int | float)]


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint: nested dicts and lists of tensors, numbers and strings.

    Raises:
        OSError: it cannot be written; the previous one is kept.
    """
    whole = io.BytesIO()  # torch hides errors of files
    torch.save(dict(state), whole)
    write_atomically(path, whole.getbuffer())


def has_state(run: Path) -> bool:
    """Whether a run's folder has a state to resume from."""
    return (run / "state.pt").is_file()


def load_state(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint; None if it does not exist.

    Raises:
        UserError: the file exists but cannot be read.
    """
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # torch raises many types on a corrupt file, with misleading advice
        cause = (isinstance(e, OSError) and e.strerror) or "corrupt, or not written by train.py"
        raise UserError(f"{path}: cannot be read ({cause}); restore it, or delete it to restart the run") from None
    return state


def trim_metrics(path: Path, step: int) -> None:
    """Cut lines after `step` (and an incomplete last one) from metrics.jsonl, so that a resumed run does not repeat
    them."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    write_atomically(path, "".join(line + "\n" for line in kept).encode())
