"""Position of an aligned crop in a photograph, and cutting the crop out."""

import importlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cyclegan_age.config import needs
from cyclegan_age.faces.frames import Frame, Points, similarity, window
from cyclegan_age.images import Picture


@dataclass(frozen=True)
class Place:
    """The square of an aligned crop in a photograph: rotated, scaled and translated, not skewed or mirrored.

    A point (u, v) of the square, 0 to 1 to the right and down, lies at `corner` + `edge` (u + iv), x + iy in pixels.
    """

    corner: complex  # the square's upper left corner
    edge: complex  # from there to the upper right one
    mirrored: bool = False  # whether the photograph is mirrored beyond its edges

    @classmethod
    def fit(cls, landmarks: Points, frame: Frame) -> "Place":
        """The least-squares fit of a frame's points to landmarks (5, 2)."""
        return cls(*similarity(frame.template, landmarks), frame.mirrored)

    def widened(self, margin: float) -> "Place":
        """The place of a larger crop, extended on all sides by a share of this one's side."""
        return replace(self, corner=self.corner - self.edge * margin * (1 + 1j), edge=self.edge * (1 + 2 * margin))

    @property
    def side(self) -> float:
        """Pixels of the photograph along a side of the square."""
        return abs(self.edge)

    def to_photo(self, points: Points) -> Points:
        """Points (N, 2) of the square -> pixels of the photograph."""
        z = self.corner + self.edge * (points @ (1, 1j))
        return np.stack([z.real, z.imag], axis=1)

    def bounds(self, shape: tuple[int, ...], margin: float = 0.0) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of the pixels of a photograph (H, W, ...) that the extended square may cover."""
        corners = np.array([(0, 0), (1, 0), (0, 1), (1, 1)], dtype=np.float64)
        points = self.to_photo(corners * (1 + 2 * margin) - margin)
        (left, top), (right, bottom) = np.floor(points.min(axis=0)), np.ceil(points.max(axis=0))
        height, width = shape[:2]
        return max(0, int(left)), max(0, int(top)), min(width, int(right)), min(height, int(bottom))

    def off(self, shape: tuple[int, ...]) -> float:
        """How far the square is from covering a photograph (H, W, ...) exactly, as a share of its longer side."""
        height, width = shape[:2]
        corners = np.array([(0, 0), (1, 0), (0, 1), (1, 1)], dtype=np.float64)
        return float(np.abs(self.to_photo(corners) - corners * (width, height)).max()) / max(height, width)

    def beyond(self, shape: tuple[int, ...]) -> float:
        """Share of the square that lies outside of a photograph (H, W, ...)."""
        middles = (np.arange(64) + 0.5) / 64
        points = self.to_photo(np.stack(np.meshgrid(middles, middles), axis=-1).reshape(-1, 2))
        return 1 - float(((points >= 0) & (points < (shape[1], shape[0]))).all(axis=1).mean())

    def touches(self, shape: tuple[int, ...]) -> bool:
        """Whether the square overlaps a photograph (H, W, ...) and has at least 8 px."""
        left, top, right, bottom = self.bounds(shape)
        return self.side >= 8 and left < right and top < bottom


def opencv() -> Any:
    """OpenCV, imported on demand.

    Raises:
        UserError: it is not installed.
    """
    with needs("opencv-python-headless", "<5"):
        return importlib.import_module("cv2")


def crop(photo: Picture, place: Place, size: int) -> Picture:
    """The square of a photograph uint8 (H, W, 3) in `size` pixels a side: uint8 (size, size, 3).

    Beyond the photograph its edge is repeated, or it is mirrored, as `place` says. The square is sampled at twice the
    size, from a photograph that was reduced to about that size, and averaged. So it has no aliasing, and the sharpness
    of a downsampled picture.
    """
    cv2 = opencv()
    left, top, right, bottom = place.bounds(photo.shape, margin=0.05)
    part = photo[top:bottom, left:right]
    reduced = min(1.0, 2 * size / place.side)
    width, height = (max(1, round(side * reduced)) for side in (right - left, bottom - top))
    part = cv2.resize(np.ascontiguousarray(part), (width, height), interpolation=cv2.INTER_AREA)
    across, down = width / (right - left), height / (bottom - top)
    # Pixel i of the square has its centre at (i + 0.5) / (2 size), likewise in the part.
    edge = place.edge / (2 * size)
    first = place.corner + edge * (0.5 + 0.5j) - complex(left, top)
    matrix = np.array(
        [
            [across * edge.real, -across * edge.imag, across * first.real - 0.5],
            [down * edge.imag, down * edge.real, down * first.imag - 0.5],
        ]
    )
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    beyond = cv2.BORDER_REFLECT if place.mirrored else cv2.BORDER_REPLICATE
    large = cv2.warpAffine(part, matrix, (2 * size, 2 * size), flags=flags, borderMode=beyond)
    square: Picture = cv2.resize(large, (size, size), interpolation=cv2.INTER_AREA)
    return square


def reframed(square: Picture, source: Frame, target: Frame, size: int = 0) -> Picture:
    """An aligned crop uint8 (S, S, 3) in one frame -> (size, size, 3) in another; by default S times their scale.

    Areas outside the first frame repeat its edge, or mirror it, as in the second one.
    """
    if source == target and size in (0, len(square)):
        return square
    left, top, side = window(target, source)
    place = Place(len(square) * complex(left, top), complex(len(square) * side), target.mirrored)
    return crop(square, place, size or max(1, round(place.side)))
