"""Aligned crops of any size: brought to a network's square and back; and the built-in one."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from cyclegan_age.config import needs
from cyclegan_age.faces.alignment import Place
from cyclegan_age.faces.blending import Change, blend
from cyclegan_age.faces.frames import FRAMES, Frame, window
from cyclegan_age.images import Picture

_PORTRAIT = (170, 68, 112)  # left, top, side of UTKFace's frame: her eyes are at (0.30, 0.29) and (0.68, 0.32) of it


@dataclass(frozen=True)
class Letterboxed:
    """A picture resized and padded to a network's square.

    The longer side becomes the side of the square; the rest of the square repeats the edge.
    """

    square: Picture  # uint8 (S, S, 3)
    box: tuple[int, int, int, int]  # left, top, right, bottom of the picture in the square
    size: tuple[int, int]  # width and height of the picture before
    detail: bool = True  # whether a larger picture's detail is kept

    @classmethod
    def of(cls, image: Image.Image, image_size: int, *, detail: bool = True) -> "Letterboxed":
        """Letterbox an RGB picture of any size to `image_size` pixels."""
        scale = image_size / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        left, top = (image_size - width) // 2, (image_size - height) // 2
        small = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))
        rest = ((top, image_size - height - top), (left, image_size - width - left), (0, 0))
        return cls(np.pad(small, rest, mode="edge"), (left, top, left + width, top + height), image.size, detail)

    @property
    def enlarges(self) -> bool:
        """Whether the picture has detail that the square lacks, to be kept."""
        return self.detail and max(self.size) > len(self.square)

    def restore(self, square: Picture | Change, image: Image.Image) -> Image.Image:
        """The square that a network made, or its change of the square -> a picture of the original size.

        Where `image`, the original picture, is larger than the square, the change between the squares is enlarged
        and added to it, so that its detail stays. Otherwise, or without `detail`, the new square is scaled.
        """
        left, top, right, bottom = self.box
        if isinstance(square, Change):
            corner = complex(-left * self.size[0] / (right - left), -top * self.size[1] / (bottom - top))
            place = Place(corner, complex(max(self.size)))
            return Image.fromarray(blend(np.asarray(image), [(place, square)], whole=True))
        before, after = self.square[top:bottom, left:right], square[top:bottom, left:right]
        if not self.enlarges:
            return Image.fromarray(after).resize(self.size, Image.Resampling.LANCZOS)
        out = np.empty((self.size[1], self.size[0], 3), dtype=np.uint8)
        full = np.asarray(image)
        for c in range(3):  # one colour at a time keeps the memory of large pictures low
            change = after[..., c].astype(np.float32) - before[..., c]
            wide = np.asarray(Image.fromarray(change).resize(self.size, Image.Resampling.BICUBIC))
            out[..., c] = (full[..., c] + wide).round().clip(0, 255)
        return Image.fromarray(out)


def demo_portrait(frame: Frame = FRAMES["utkface"]) -> Image.Image:
    """The built-in face, 256 x 256 px: Eileen Collins, by NASA, in the public domain; an aligned crop in a frame.

    Raises:
        UserError: scikit-image, which brings it, is not installed.
    """
    with needs("scikit-image"):
        from skimage.data import astronaut

    left, top, side = window(frame, FRAMES["utkface"])
    x, y, scale = _PORTRAIT
    box = (x + scale * left, y + scale * top, x + scale * (left + side), y + scale * (top + side))
    return Image.fromarray(astronaut()).resize((256, 256), Image.Resampling.LANCZOS, box=box)
