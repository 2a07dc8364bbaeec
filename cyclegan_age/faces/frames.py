"""Frames: positions of the face in an aligned crop, a property of the data and of the weights trained on it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cyclegan_age.config import frame_numbers

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Frame:
    """Detected positions of the landmarks in aligned crops.

    Attributes:
        points: eye on the picture's left, then on its right, tip of the nose, corner of the mouth on the left, then on
            the right; each (x, y) to the right and down, as shares of the crop's side.
        mirrored: whether the photograph is mirrored beyond its edges; otherwise the edges are repeated.
    """

    points: tuple[tuple[float, float], ...]
    mirrored: bool = False

    def __str__(self) -> str:
        """In the syntax of `of`."""
        names = [name for name, frame in FRAMES.items() if frame == self]
        return names[0] if names else ",".join(f"{value:g}" for point in self.points for value in point)

    @property
    def template(self) -> Points:
        """The points as an array (5, 2)."""
        return np.array(self.points, dtype=np.float64)

    @classmethod
    def of(cls, text: str) -> "Frame":
        """The frame of a `--frame` value: a name in `FRAMES`, or ten numbers, x and y of each point.

        Raises:
            UserError: neither of these.
        """
        if text in FRAMES:
            return FRAMES[text]
        numbers = frame_numbers(text)
        return cls(tuple(zip(numbers[::2], numbers[1::2], strict=True)))


# Mean detections in random crops; so a bias of the detector cancels out.
# utkface: 600 crops of people of 10 to 69 years (360 of UTKFace at 200 px, 240 of All-Age-Faces at 176 px). Their
# standard deviation is 0.02 for the eyes and 0.02 to 0.04 for the rest. The eyes of the data's own template are at
# (0.30, 0.30) and (0.68, 0.30).
# ffhq: 450 heads of all ages at 256 px, aligned so that eyes are at (0.377, 0.466) and (0.623, 0.466) and corners of
# the mouth at (0.395, 0.731) and (0.605, 0.731), as in FFHQ (Karras et al., CVPR 2019). Their standard deviation is
# 0.012 to 0.020.
FRAMES: dict[str, Frame] = {
    "utkface": Frame(((0.2953, 0.2955), (0.6842, 0.2998), (0.4773, 0.5061), (0.3198, 0.6878), (0.6451, 0.6952))),
    "ffhq": Frame(
        ((0.3708, 0.4700), (0.6227, 0.4700), (0.4889, 0.6058), (0.3916, 0.7241), (0.5998, 0.7261)), mirrored=True
    ),
}


def similarity(source: Points, target: Points) -> tuple[complex, complex]:
    """The translation and the rotation with scale of a least-squares fit of points (N, 2) to others.

    A point x + iy of the source is mapped to shift + turn (x + iy) (Umeyama, TPAMI 1991, without mirroring).
    """
    s, t = source @ (1, 1j), target @ (1, 1j)
    centred = s - s.mean()
    turn = complex((centred.conj() * (t - t.mean())).sum() / (abs(centred) ** 2).sum())
    return complex(t.mean() - turn * s.mean()), turn


def window(inner: Frame, outer: Frame) -> tuple[float, float, float]:
    """Left, top and side of the inner frame's square in an aligned crop of the outer one, in shares of its side.

    The square is upright; the small rotation between the two templates is ignored.
    """
    shift, turn = similarity(inner.template, outer.template)
    side = abs(turn)
    middle = shift + turn * (0.5 + 0.5j)
    return middle.real - side / 2, middle.imag - side / 2, side
