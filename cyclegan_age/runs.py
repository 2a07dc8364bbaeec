"""Run folders: configuration, metrics, weights for inference, and the checkpoint to resume from.

results/001-cyclegan-default/
    config.json               every setting
    metrics.jsonl             one object per logged step
    curves.png                the losses so far
    samples/                  sample sheets
    snapshots/                EMA weights kept along the training, safetensors with the configuration inside
    weights.safetensors       the newest EMA weights
    state.pt                  the checkpoint; loads without pickle code
    state-RANK-STEP.pt        its RNG state and history buffers of one process
    .lock                     held while training
"""

import io
import json
import logging
import re
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch

from cyclegan_age.config import ModelConfig, TrainConfig, UserError
from cyclegan_age.files import exclusive, lock, remove_partial_files, write_atomically, writing
from cyclegan_age.weight_files import from_settings, settings

SHIPPED = Path(__file__).parent / "weights"
# Shipped weights where none are named: for photographs, tight crops, games with latents, and faces from noise.
PHOTO_WEIGHTS, CROP_WEIGHTS, GAME_WEIGHTS, SAMPLE_WEIGHTS = "cyclegan_heads", "cyclegan", "caae", "cgan"

logger = logging.getLogger("cyclegan_age")


# Settings of the environment, not of the recipe: a run may resume under others.
_FREE = {
    "checkpoint",
    "compile",
    "dataroot",
    "feature_layers",
    "log_every",
    "monitor",
    "name",
    "precision",
    "preset",
    "results_dir",
    "sample_every",
    "save_every",
    "snapshot_every",
    "visdom_port",
    "visdom_server",
}

# Settings that affect only future steps, and no network, batch or checkpoint: a named run may change them. It may also
# change the weights of its losses if both values are above 0, so that no network is added or removed.
_TUNED = {
    "accumulate",
    "clip",
    "d_pause",
    "d_rate",
    "d_reset",
    "dataroot",
    "ema",
    "epochs",
    "head_start",
    "label_smoothing",
    "lr",
    "lr_constant",
    "minutes",
}


def find_weights(weights: str, results_dir: Path, model: str = PHOTO_WEIGHTS, *, flag: str = "--weights") -> Path:
    """The file of weights: of a file, a run's name (its newest weights), or the name of shipped weights.

    Args:
        weights: the name; "" or "shipped" for the shipped ones of `model`.
        results_dir: folder of the runs.
        model: see `weights`.
        flag: for errors.

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
    raise UserError(f"{flag} {weights}: {places}; check the name")


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


def _recipe(settings_json: Mapping[str, Any], source: object = "settings") -> dict[str, Any]:
    """Settings that must agree to resume a run; missing ones have their defaults."""
    whole = settings(*from_settings(settings_json, source))
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
        UserError: `--name` is taken by a run with other settings; another process trains the run; the folder cannot
            be written.
    """
    settings_json = settings(train, net)
    with writing(train.results_dir, needed), exclusive(train.results_dir):
        if train.name:
            folder = train.results_dir / train.name
            folder.mkdir(exist_ok=True)
        else:
            folder = _same_run(train, settings_json) or next_folder(
                train.results_dir, "", f"{train.model}-{train.preset}"
            )
        try:
            held.enter_context(lock(folder))
            if train.name and (folder / "config.json").is_file():
                _check_same(folder, settings_json)
            remove_partial_files(folder)
            if (folder / "config.json").is_file() and not has_checkpoint(folder):
                logger.info("%s: the run has no checkpoint; its training begins anew", folder)
            write_atomically(folder / "config.json", json.dumps(settings_json, indent=1).encode())
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


def _same_run(train: TrainConfig, settings_json: Mapping[str, Any]) -> Path | None:
    if not train.results_dir.is_dir():
        return None
    for folder in sorted(train.results_dir.glob(f"[0-9]*-{train.model}-{train.preset}"), reverse=True):
        if (folder / "config.json").is_file():
            with suppress(UserError):  # settings that are no longer valid
                there = _read_settings(folder / "config.json")
                same_recipe = _recipe(there) == _recipe(settings_json)
                if same_recipe and there["train"]["dataroot"] == settings_json["train"]["dataroot"]:
                    return folder
    return None


def _read_settings(path: Path) -> dict[str, Any]:
    """What a run's `config.json` holds.

    Raises:
        UserError: it is no JSON, as after a crash of the machine or an edit.
    """
    try:
        settings_json: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise UserError(f"{path}: not readable as JSON ({e}); restore it, or give another --name") from None
    return settings_json


def _check_same(folder: Path, settings_json: Mapping[str, Any]) -> None:
    """Check the settings of a named run, and log changed ones that may differ."""
    path = folder / "config.json"
    before = _read_settings(path)
    there, here = _recipe(before, path), _recipe(settings_json)
    there["dataroot"], here["dataroot"] = before["train"].get("dataroot"), settings_json["train"]["dataroot"]
    changed = [flag for flag in sorted(here) if here[flag] != there.get(flag)]
    fixed = [flag for flag in changed if not _may_change(flag, there.get(flag), here[flag])]
    if fixed:
        given = ", ".join(f"--{flag} {here[flag]}" for flag in fixed)
        before_them = ", ".join(str(there.get(flag)) for flag in fixed)
        raise UserError(
            f"{given}: the run {folder} was started with {before_them}; use the same, "
            f"or another --name with --init {folder.name}, which starts from its weights where they fit"
        )
    for flag in changed:
        logger.info("%s: resumes with --%s %s, previously %s", folder, flag, here[flag], there.get(flag))


def _may_change(flag: str, old: Any, new: Any) -> bool:
    return flag in _TUNED or (flag.startswith("lambda_") and min(_numbers(old) + _numbers(new), default=0) > 0)


def _numbers(value: Any) -> list[float]:
    return [n for n in (value if isinstance(value, list) else [value]) if isinstance(n, int | float)]


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint: nested dicts and lists of tensors, numbers and strings.

    Raises:
        OSError: it cannot be written; the previous one is kept.
    """
    whole = io.BytesIO()  # torch hides errors of files
    torch.save(dict(state), whole)
    write_atomically(path, whole.getbuffer())


def has_checkpoint(run: Path) -> bool:
    """Whether a run's folder has a checkpoint to resume from."""
    return (run / "state.pt").is_file()


def load_checkpoint(path: Path) -> dict[str, Any] | None:
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
