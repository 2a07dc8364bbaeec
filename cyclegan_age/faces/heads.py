"""Masks for blending: the head in an aligned crop by a face parser, including hair."""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cyclegan_age.config import UserError
from cyclegan_age.faces.alignment import opencv
from cyclegan_age.faces.blending import Change, Floats, face_distance, weight
from cyclegan_age.faces.frames import FRAMES, Frame
from cyclegan_age.images import Picture
from cyclegan_age.networks.parsers import PARTS

MARGIN = 0.125  # extension of masks beyond the crop, as a share of its side: crown and long hair often reach there
SIZE = 320  # side in pixels of masks, of which 256 are in the crop
_EDGE = round(SIZE * MARGIN / (1 + 2 * MARGIN))  # pixels beyond the crop on each side
GROWN = 8  # pixels beyond the head from which nothing is changed

_FALL = GROWN - 3  # pixels beyond the head where the mask ends: averaging and interpolation add less than 3
_CORE = 5  # pixels inside the edge where the guidance by the picture begins to fade; it ends at twice as many
_RADIUS, _NOISE = 8, 0.002  # radius in pixels and regularisation of the guided filter
_BLUR = 2.0  # pixels: standard deviation of the Gaussian over the probabilities, whose cells are larger than that
_BORDER = 24  # fade width in pixels at the mask's border, for heads that reach beyond it
_INNER = np.zeros((SIZE, SIZE), np.float32)  # 1 in the crop, 0 in the margin
_INNER[_EDGE:-_EDGE, _EDGE:-_EDGE] = 1
_WITHIN: Floats = (np.minimum(np.arange(SIZE), np.arange(SIZE)[::-1]) - _EDGE).astype(np.float32)  # pixels in the crop
_MIDDLE = SIZE * (FRAMES["ffhq"].template.mean(axis=0) + MARGIN) / (1 + 2 * MARGIN)  # of the face


@dataclass(frozen=True, eq=False)
class HeadMask:
    """The mask of a head in an aligned crop, extended by `MARGIN`.

    Attributes:
        mask: (320, 320) float32, 0 to 1: opacity of the change.
        hair: (320, 320) float32, 0 to 1: fraction of hair, the rest face and neck; None if unknown.
    """

    mask: Floats
    hair: Floats | None = None

    @classmethod
    def of(cls, picture: Picture, probabilities: Floats) -> "HeadMask":
        """The central head of an extended crop in FFHQ's frame.

        Its pixels are those more likely face, hair or neck than anything else, in one connected component at the centre
        of the face. The mask is 1 inside and follows the picture's edges at its border (guided filter: He et al., ECCV
        2010). It is exactly 0 from `GROWN` pixels beyond the head on, and falls on worn or held objects and on other
        heads.

        Args:
            picture: uint8 (320, 320, 3), the extended crop.
            probabilities: (5, 320, 320) float32 of `networks.parsers.PARTS`, summing to 1.
        """
        cv2 = opencv()
        smooth = np.stack([cv2.GaussianBlur(one, (0, 0), _BLUR) for one in probabilities])
        face, hair, neck, other = (smooth[PARTS.index(name)] for name in ("face", "hair", "neck", "other"))
        head = face + hair + neck
        _, labels = cv2.connectedComponents((head > 0.5).astype(np.uint8), connectivity=4)
        own = labels == _label(labels)
        grey = picture.mean(axis=2, dtype=np.float32) / 255
        within = cv2.distanceTransform(own.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        beyond = cv2.distanceTransform((~own).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        foreign = other + np.where((labels > 0) & ~own, head, 0)
        # Only hair is changed in the margin; the picture's edges determine the mask there.
        fall = 1 + (_FALL - 1) * _INNER
        edge = _guided(grey, own.astype(np.float32)).clip(0, 1) * smoothstep(2 * (1 - beyond / fall))
        core = smoothstep((within - _CORE) / _CORE) * _INNER
        mask = cv2.blur(np.maximum(edge, core), (3, 3)) * (1 - foreign).clip(0, 1)
        # The change of a neck below the crop is unknown: the mask fades before the border.
        of_hair = hair / (head + 1e-6)
        mask *= of_hair + (1 - of_hair) * smoothstep((np.minimum.outer(_WITHIN, _WITHIN) / _BORDER).astype(np.float32))
        return cls((mask * _FADE).astype(np.float32), of_hair.astype(np.float32))

    @classmethod
    def ellipse(cls, frame: Frame) -> "HeadMask":
        """The face's ellipse, for frames without a parser."""
        at = ((np.arange(SIZE) + 0.5) / SIZE * (1 + 2 * MARGIN) - MARGIN).astype(np.float32)
        return cls(weight(face_distance(at[None, :], at[:, None], frame)))

    def restrict(self, change: Change, strengths: Mapping[str, float]) -> Change:
        """A change, restricted to this head; see `with_strengths` for the strengths."""
        return replace(with_strengths(change, strengths, self.hair), mask=self.mask, margin=MARGIN)


def with_strengths(change: Change, strengths: Mapping[str, float], hair: Floats | None = None) -> Change:
    """A change with its parts multiplied by strengths.

    Args:
        change: the change.
        strengths: of `hair` and `skin`, the colour changes, and of `shape`, the flow; 1 by default.
        hair: of a `HeadMask`; None if unknown, then all colour counts as skin.

    Raises:
        UserError: a strength that these weights do not support.
    """
    if not strengths:
        return change
    if change.replaces:
        raise UserError("--change: these weights generate whole faces, not parts; omit it")
    if hair is None and "hair" in strengths:
        raise UserError(
            "--change hair: only weights with --frame ffhq distinguish hair; omit it or choose other --weights"
        )
    of_skin, of_shape = (np.float32(strengths.get(name, 1)) for name in ("skin", "shape"))
    colour = change.colour * of_skin
    if hair is not None:
        cv2 = opencv()
        beyond = round(SIZE * MARGIN / (1 + 2 * MARGIN))
        of_hair = cv2.resize(
            hair[beyond:-beyond, beyond:-beyond], change.colour.shape[1::-1], interpolation=cv2.INTER_AREA
        )[..., None]
        colour = change.colour * (of_skin + (np.float32(strengths.get("hair", 1)) - of_skin) * of_hair)
    return replace(change, colour=colour, shift=None if change.shift is None else change.shift * of_shape)


class Steady:
    """Heads of the faces of a video, averaged over neighbouring frames to prevent flicker of the masks' edges.

    A crop follows its head, so that the averaged masks have the same pose.

    Args:
        found: for each frame its heads by the index of the face.
        reach: frames before and after that are averaged, with falling weights.
    """

    def __init__(self, found: Iterator[Mapping[int, HeadMask]], reach: int) -> None:
        self._found = found
        self._reach = reach
        self._first = 0  # number of the first frame kept
        self._kept: deque[Mapping[int, HeadMask]] = deque()

    def at(self, number: int) -> dict[int, HeadMask]:
        """The heads of a frame, empty beyond the last; frames must be requested in rising order."""
        while self._first + len(self._kept) <= number + self._reach:
            one = next(self._found, None)
            if one is None:
                break
            self._kept.append(one)
        while self._kept and self._first < number - self._reach:
            self._kept.popleft()
            self._first += 1
        here = number - self._first
        return {face: self._mean(number, face) for face in (self._kept[here] if here < len(self._kept) else ())}

    def _mean(self, number: int, face: int) -> HeadMask:
        near = [(1 - abs(self._first + i - number) / (self._reach + 1), one) for i, one in enumerate(self._kept)]
        weights = np.array([weight for weight, one in near if face in one], dtype=np.float32)
        heads = [one[face] for _, one in near if face in one]
        weights /= weights.sum()
        hairs = [head.hair for head in heads if head.hair is not None]
        hair = np.tensordot(weights, np.stack(hairs), 1) if len(hairs) == len(heads) else None
        return HeadMask(np.tensordot(weights, np.stack([head.mask for head in heads]), 1), hair)


def _guided(guide: Floats, mask: Floats) -> Floats:
    """The mask as a line a + b guide around each pixel, by least squares: it follows the guide's edges."""
    cv2 = opencv()
    side = (2 * _RADIUS + 1, 2 * _RADIUS + 1)
    mean_guide, mean_mask = cv2.blur(guide, side), cv2.blur(mask, side)
    slope = (cv2.blur(guide * mask, side) - mean_guide * mean_mask) / (
        cv2.blur(guide * guide, side) - mean_guide**2 + _NOISE
    )
    filtered: Floats = cv2.blur(slope, side) * guide + cv2.blur(mean_mask - slope * mean_guide, side)
    return filtered


def smoothstep(t: Floats) -> Floats:
    """0 up to t = 0, 1 from t = 1 on, smooth between, with zero slope at both ends."""
    t = t.clip(0, 1)
    smooth: Floats = t * t * (3 - 2 * t)
    return smooth


def _faded() -> Floats:
    edge = np.minimum(np.arange(SIZE), np.arange(SIZE)[::-1])  # pixels to the border
    fade = smoothstep((edge / _BORDER).astype(np.float32))
    faded: Floats = fade[:, None] * fade[None, :]
    return faded


_FADE = _faded()


def _label(labels: NDArray[np.int32]) -> int:
    """The connected component at the centre of the face, or the nearest one; -1 without any."""
    rows, columns = np.nonzero(labels)
    if not len(rows):
        return -1
    x, y = _MIDDLE
    nearest = np.argmin((columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2)
    return int(labels[rows[nearest], columns[nearest]])
