"""Measurements of each picture, taken once and stored: sharpness, faces, estimated age, embedding."""

import base64
import hashlib
import json
import math
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from cyclegan_age.audit.defects import blocks, flat_border, grey_of, mirrored_border, repeated_border
from cyclegan_age.config import AuditConfig, TrainConfig
from cyclegan_age.data.prepare.copies import perceptual_hash
from cyclegan_age.data.teacher import Embed, sface
from cyclegan_age.data.workers import in_processes, processors
from cyclegan_age.faces.alignment import crop, opencv
from cyclegan_age.faces.detection import detector
from cyclegan_age.faces.frames import FRAMES
from cyclegan_age.files import write_atomically, write_error
from cyclegan_age.images import BadImage, Picture, open_image, to_float
from cyclegan_age.models import load_embedder, load_estimator
from cyclegan_age.networks.embedders import FaceEmbedder
from cyclegan_age.networks.estimators import AgeEstimator, LiteAgeEstimator, expected_age
from cyclegan_age.networks.warping import both_ways

ESTIMATOR, EMBEDDER = "age_judge", "face_embedder"
SMALL = 32  # side in pixels of the face crops kept for comparison
_SIDE = 128  # of the network inputs
_BESIDE = 0.5  # minimum size of a second face, relative to the first
_AT_ONCE = 16  # pictures per batch
_VERSION = 1  # of the stored measurements; others are taken again
_PAUSE_SECONDS = 20.0

Measurements = dict[str, Any]


def measure_all(config: AuditConfig, files: Sequence[Path]) -> list[Measurements]:
    """Measurements of each picture, as `measure` gives them; reuses those of an earlier audit of the same file.

    Raises:
        UserError: they cannot be stored below `--results_dir`.
    """
    name = hashlib.sha256(str(config.folder.resolve()).encode(errors="surrogateescape")).hexdigest()[:16]
    journal = config.results_dir / ".audit" / f"{name}.jsonl"
    try:
        marks = [_mark(config.folder, file) for file in files]
        wanted = set(marks)
        kept = {mark: one for mark, one in _read(journal) if mark in wanted}
        write_atomically(journal, "".join(_line(mark, one) for mark, one in kept.items()).encode())
        missing = [(file, mark) for file, mark in zip(files, marks, strict=True) if mark not in kept]
        parts = [missing[i : i + _AT_ONCE] for i in range(0, len(missing), _AT_ONCE)]
        processes = min(processors() if config.workers < 0 else config.workers, len(parts))
        chunks = [[file for file, _ in part] for part in parts]
        seen = in_processes(measure, chunks, processes) if processes else map(measure, chunks)
        pause = 0.1 if sys.stderr.isatty() else _PAUSE_SECONDS
        times = {"mininterval": pause, "maxinterval": pause}
        with (
            journal.open("a", encoding="utf-8") as log,
            tqdm(total=len(files), initial=len(kept), unit="img", desc="audit", **times) as bar,
        ):
            for part, some in zip(parts, seen, strict=True):
                for (_, mark), one in zip(part, some, strict=True):
                    kept[mark] = one
                    log.write(_line(mark, one))
                log.flush()
                bar.update(len(part))
    except OSError as e:
        raise write_error(f"--results_dir {config.results_dir}", e, "or choose another folder") from None
    return [kept[mark] for mark in marks]


def recognise(workers: int, files: Sequence[Path]) -> list[NDArray[np.float32] | None]:
    """Embeddings (128,) of length 1 by SFace, which was trained on names; None where it finds no face."""
    if not files:
        return []
    processes = min(processors() if workers < 0 else workers, len(files))
    seen = in_processes(_sface, files, processes) if processes else map(_sface, files)
    pause = 0.1 if sys.stderr.isatty() else _PAUSE_SECONDS
    return list(tqdm(seen, total=len(files), unit="img", desc="persons", mininterval=pause, maxinterval=pause))


def _sface(file: Path) -> NDArray[np.float32] | None:
    opencv().setNumThreads(1)
    try:
        return _recogniser()(np.asarray(open_image(file)))
    except (BadImage, OSError):  # it was readable before
        return None


@lru_cache(maxsize=1)
def _recogniser() -> Embed:
    return sface()


def _mark(root: Path, file: Path) -> str:
    """Key of a file's content: its path, size and modification time."""
    state = file.stat()
    return f"{state.st_size} {state.st_mtime_ns} {file.relative_to(root).as_posix()}"


def _line(mark: str, one: Measurements) -> str:
    return json.dumps({"version": _VERSION, "mark": mark, **one}) + "\n"


def _read(journal: Path) -> Iterator[tuple[str, Measurements]]:
    for line in journal.read_text(encoding="utf-8").splitlines() if journal.is_file() else ():
        try:
            one = json.loads(line)
            if one.pop("version") == _VERSION:
                yield one.pop("mark"), one
        except (ValueError, KeyError, AttributeError):  # cut off
            continue


def measure(files: Sequence[Path]) -> list[Measurements]:
    """Measurements of pictures, each by itself; a `broken` one has that key alone.

    Returns:
        For each: `bytes`, a digest of the file; `hash`, the perceptual one; `sharpness`, the variance of the Laplacian
        at 200 px; `colour`, the mean difference of the channels; `blocks`, `border`, `mirrored` and `repeated`, see
        `defects`; `faces`, their number; `turn` and `roll` of the largest in degrees. With an upright face: its `age`
        in years by `ESTIMATOR`, and `embedding` and `small`, see `embedding_of` and `small_of`.
    """
    out, faces, whose = [], [], []
    for file in files:
        one, face = _measure(file)
        out.append(one)
        if face is not None:
            faces.append(face)
            whose.append(one)
    if faces:
        estimator, embedder = _networks()
        with torch.inference_mode():
            x = to_float(np.stack(faces)).contiguous(memory_format=torch.channels_last)
            ages = expected_age(estimator(x))
            means = F.normalize(embedder(both_ways(x)).view(2, len(x), -1).mean(dim=0), dim=1)
        for one, face, age, embedding in zip(whose, faces, ages.tolist(), means.numpy(), strict=True):
            small = opencv().resize(grey_of(face), (SMALL, SMALL), interpolation=opencv().INTER_AREA)
            one["age"] = round(age, 2)
            one["embedding"] = _text(embedding.astype(np.float16))
            one["small"] = _text(small)
    return out


def embedding_of(one: Measurements) -> NDArray[np.float32]:
    """The embedding of its face, the mean with that of its mirror image, of length 1."""
    embedding: NDArray[np.float32] = np.frombuffer(base64.b64decode(one["embedding"]), np.float16).astype(np.float32)
    return embedding


def small_of(one: Measurements) -> NDArray[np.uint8]:
    """Its face in UTKFace's frame, in greyscale, uint8 (SMALL, SMALL)."""
    return np.frombuffer(base64.b64decode(one["small"]), np.uint8).reshape(SMALL, SMALL)


def _text(array: NDArray[Any]) -> str:
    return base64.b64encode(array.tobytes()).decode()


def _measure(file: Path) -> tuple[Measurements, Picture | None]:
    """Measurements of a picture without networks, and its aligned face as network input."""
    cv2 = opencv()
    cv2.setNumThreads(1)
    try:
        data = file.read_bytes()
        picture: Picture = np.asarray(open_image(data))
    except BadImage as e:
        return {"broken": str(e)}, None
    except OSError as e:
        return {"broken": e.strerror or type(e).__name__}, None
    grey = grey_of(picture)
    small = cv2.resize(grey, (200, 200), interpolation=cv2.INTER_AREA)
    channels = picture.astype(np.int16)
    border = flat_border(picture)
    found = sorted(detector().find(picture), key=lambda face: face.size, reverse=True)
    one: Measurements = {
        "broken": "",
        "bytes": hashlib.sha256(data).hexdigest(),
        "hash": perceptual_hash(grey),
        "sharpness": round(float(cv2.Laplacian(small, cv2.CV_64F).var()), 2),
        "colour": round(float(np.abs(channels - channels.mean(axis=2, keepdims=True)).mean()), 2),
        "blocks": [round(value, 3) for value in blocks(picture)],
        "border": [round(border[0], 4), border[1]],
        "mirrored": round(mirrored_border(picture), 3) if not border[0] else -1,
        "repeated": round(repeated_border(picture), 3) if not border[0] else 9,
        "faces": sum(face.size >= _BESIDE * found[0].size for face in found),
        "turn": found[0].turn if found else 0,
        "roll": 0.0,
    }
    if not found or found[0].turn:
        return one, None
    x, y = found[0].landmarks[1] - found[0].landmarks[0]
    one["roll"] = round(math.degrees(math.atan2(y, x)), 1)
    return one, crop(picture, found[0].place(FRAMES["utkface"]), _SIDE)


@lru_cache(maxsize=1)
def _networks() -> tuple[AgeEstimator, FaceEmbedder]:
    estimator: AgeEstimator = load_estimator(ESTIMATOR, TrainConfig()).eval()
    estimator = estimator.to(memory_format=torch.channels_last)
    if isinstance(estimator, LiteAgeEstimator):
        estimator.fuse()
    embedder: nn.Module = load_embedder(EMBEDDER, TrainConfig())
    assert isinstance(embedder, FaceEmbedder)
    return estimator, embedder
