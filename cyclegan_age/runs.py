"""Run folders and what lies in them: configuration, metrics, snapshots for inference, the state to resume from.

results/001-cyclegan-default/
    config.json               every setting
    metrics.jsonl             one object per logged step
    curves.png                the losses so far
    samples/                  sample sheets
    snapshots/                averaged weights at some numbers of images, safetensors with the configuration inside
    weights.safetensors       the newest of them
    state.pt                  all that resuming needs; loads without pickle code
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
from cyclegan_age.files import clear, foreign, lock, taking_turns, writing
from cyclegan_age.files import write_atomically as write_atomically

SHIPPED = Path(__file__).parent / "weights"

logger = logging.getLogger("cyclegan_age")

_SETTINGS = "cyclegan_age"  # the metadata of a snapshot's file that hold its configuration
_LARGE = 4096  # numbers in a tensor, from which it is stored in half precision
_HALF_ERROR = 1e-3  # relative error, above which it is not

# Settings of the place and not of the recipe: a run may go on under others.
_FREE = {
    *("dataroot", "results_dir", "name", "preset", "monitor", "visdom_server", "visdom_port", "compile", "precision"),
    *("log_every", "sample_every", "save_every", "snapshot_every", "feature_layers", "checkpoint"),
}

# Settings that steer the steps still to come and that no network, batch or state depends on: a named run may change
# them, and the weights of its losses where both are above 0, so that no network comes or goes.
_LENGTH = {"epochs", "minutes"}
_TUNED = {
    *("lr", "lr_constant", "clip", "ema", "accumulate"),
    *("label_smoothing", "d_rate", "d_reset", "d_pause", "head_start"),
}

# Terms that were once used in every k-th step, now on a k-th of the batch; old weights hold both.
_SHARES = {"cycle_every": "cycle_share", "identity_every": "identity_share"}
# Settings of early versions that have no successor.
_DROPPED = {"keep_hue", "asked", "age_warmup"}


@dataclass(frozen=True)
class Snapshot:
    """Weights for inference with the configuration they were trained under.

    Attributes:
        parts: configurations of networks that were trained before, as models of their own, and are in the weights.
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
    """All settings as JSON can hold them."""
    plain: dict[str, Any] = json.loads(json.dumps({"train": asdict(train), "net": asdict(net)}, default=str))
    return plain


def from_settings(plain: Mapping[str, Any], source: object = "settings") -> tuple[TrainConfig, ModelConfig]:
    """The configurations that `settings` wrote; settings that did not exist yet are at their defaults.

    Args:
        plain: what it wrote.
        source: the file that it is from, for errors.

    Raises:
        UserError: an unknown model or setting, or a value that does not fit.
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
    ):  # names of folders are nobody's business but the trainer's
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
    """Read a snapshot; its tensors are in fp32 (counters aside), also where the file is in half precision.

    Raises:
        UserError: the file is missing, is no safetensors file, or has no configuration inside that this version knows.
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
    """A snapshot's file with its large tensors in half precision; its configuration stays as it is.

    Biases, norms and their statistics stay in fp32, and so does a tensor that fp16 would change by more than a
    thousandth (Frobenius norm) or cannot hold.

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
    """The tensors of a snapshot's file as they are stored, and its configuration as JSON."""
    if not path.is_file():
        raise UserError(f"--weights {path}: no such file; give a .safetensors file or the name of a run")
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
        raise UserError(f"--weights {path}: holds no configuration; give a file that train.py wrote")
    return tensors, text


def find_weights(weights: str, results_dir: Path, model: str = "cyclegan") -> Path:
    """The file that `--weights` means: a file, a run's name (its newest snapshot), the name of shipped weights, or ""
    or "shipped" for those of `model`.

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


def known_as(weights: Path) -> str:
    """Name of weights: that of their run, or of their file; no other part of their path."""
    return weights.parent.name if weights.stem == "weights" else weights.stem


def next_folder(results_dir: Path, stem: str, suffix: str = "") -> Path:
    """Make and return `stem-NNN` or `NNN-suffix`: one more than the highest number there is."""
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
    """Settings that must agree for a run to go on; what its version did not have yet is at its default."""
    whole = settings(*from_settings(plain, source))
    return {k: v for part in ("train", "net") for k, v in whole[part].items() if k not in _FREE}


def open_run(train: TrainConfig, net: ModelConfig, held: ExitStack, needed: int = 0) -> Path:
    """The folder of the run that this command means, made if it is new, and kept to this process.

    Without `--name` it is the newest run of the same data and settings, else a new number.

    Args:
        train: of the training.
        net: of the model.
        held: takes the run's lock.
        needed: bytes that the run will take, for the error of a full disk.

    Raises:
        UserError: `--name` is taken by a run with other settings, or is not a plain name; another process trains the
            run; the folder cannot be written.
    """
    plain = settings(train, net)
    if train.name and (Path(train.name).name != train.name or train.name.startswith(".")):
        raise UserError(f"--name {train.name}: not a plain folder name; use letters, digits, - and _")
    with writing(train.results_dir, needed), taking_turns(train.results_dir):
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
                forget_run(folder)
            raise
    return folder


def forget_run(folder: Path) -> None:
    """Take back a run that could not begin, so that its name is free; one that holds anything else stays."""
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
            with suppress(UserError):  # settings that are not possible any more
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
    """Say what a named run goes on with that it was not begun with, where that may change."""
    path = folder / "config.json"
    there, here = _recipe(_read_settings(path), path), _recipe(plain)
    changed = [flag for flag in sorted(here) if here[flag] != there.get(flag) and flag not in _LENGTH]
    for flag in changed:
        old, new = there.get(flag), here[flag]
        weight = flag.startswith("lambda_") and min(_numbers(old) + _numbers(new), default=0) > 0
        if not weight and flag not in _TUNED:
            raise UserError(
                f"--{flag} {new}: the run {folder} was begun with {old}; give the same value, "
                f"or another --name with --init {folder.name}, which begins from its weights where they fit"
            )
    for flag in changed:
        logger.info("%s: goes on with --%s %s, before %s", folder, flag, here[flag], there.get(flag))


def _numbers(value: Any) -> list[float]:
    return [n for n in (value if isinstance(value, list) else [value]) if isinstance(n, int | float)]


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a resume state: nested dicts and lists of tensors, numbers and strings.

    Raises:
        OSError: it cannot be written; the one before is kept.
    """
    whole = io.BytesIO()  # torch hides what goes wrong with a file
    torch.save(dict(state), whole)
    write_atomically(path, whole.getbuffer())


def has_state(run: Path) -> bool:
    """Whether a run's folder has a state to resume from."""
    return (run / "state.pt").is_file()


def load_state(path: Path) -> dict[str, Any] | None:
    """Read a resume state; None where there is none.

    Raises:
        UserError: the file is there but cannot be read.
    """
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # torch raises many kinds on a broken file, with advice that is none here
        cause = (isinstance(e, OSError) and e.strerror) or "broken, or not written by train.py"
        raise UserError(f"{path}: cannot be read ({cause}); restore it, or delete it to begin the run again") from None
    return state


def trim_metrics(path: Path, step: int) -> None:
    """Cut lines after `step` (and a torn last one) from metrics.jsonl, so that a resumed run writes them but once."""
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
