"""Blending: a network's change of an aligned face, applied to the face in the photograph at full resolution."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cyclegan_age.faces.alignment import Place, opencv
from cyclegan_age.faces.frames import FRAMES, Frame, window

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8] | NDArray[np.uint16]

# The face's ellipse in a crop of UTKFace's frame: the largest that fits, around the mean centre of detected faces.
# Without a mask nothing outside it is changed.
CENTRE = (0.49, 0.495)
SEMI_AXES = (0.48, 0.49)
_FULL = 0.8  # radius, relative to the ellipse, up to which the change is complete; beyond it fades to 0
_RIVAL = 0.25  # width, relative to an ellipse, of the transition between two overlapping faces
_RIM = 0.03  # share of the side: beyond the square, the change's colours come from this far inside it
_ROWS = 256  # of the photograph per block, to limit memory


@dataclass(frozen=True)
class Change:
    """A change of an aligned face.

    First the face is warped by the flow `shift`, then `colour` is added. A change that `replaces` is a new face
    instead: its `colour` replaces the old pixels, since old detail does not fit a new face.
    """

    colour: Floats  # (S, S, 3) in levels of 255
    shift: Floats | None = None  # (h, w, 2) displacement of the sampling points, right and down, shares of the side
    replaces: bool = False
    opacity: float = 1.0  # of a change that replaces
    mask: Floats | None = None  # (M, M), 0 to 1 and 0 at its border: opacity, instead of the ellipse
    margin: float = 0.0  # extension of the mask beyond the square, as a share of its side
    before: Floats | None = None  # (S, S, 3) in levels of 255: the pixels that the colour is added to in the square


def distance(u: Floats, v: Floats) -> Floats:
    """Distance of points of the square from the centre of the face; 1 on its ellipse."""
    r: Floats = np.hypot((u - CENTRE[0]) / SEMI_AXES[0], (v - CENTRE[1]) / SEMI_AXES[1])
    return r


def face_distance(u: Floats, v: Floats, frame: Frame) -> Floats:
    """Like `distance`, for points of a crop in any frame."""
    left, top, side = map(np.float32, window(FRAMES["utkface"], frame))
    return distance((u - left) / side, (v - top) / side)


def weight(r: Floats) -> Floats:
    """Opacity of the change at such distances: 1 inside, exactly 0 from the ellipse on, smooth between."""
    t = ((1 - r) / (1 - _FULL)).clip(0, 1)
    w: Floats = t * t * t * (t * (t * 6 - 15) + 10)
    return w


def blend(
    photo: Pixels, changes: Sequence[tuple[Place, Change]], *, others: Sequence[Place] = (), whole: bool = False
) -> Pixels:
    """Change faces of a photograph.

    Args:
        photo: uint8 or uint16 (H, W, 3), or (H, W, 1), which takes the mean of a change's colours.
        changes: position of each face and its change. Between faces whose ellipses overlap there is a smooth
            transition.
        others: positions of unchanged faces.
        whole: change the whole squares, not only the masks or ellipses.

    Returns:
        A new array of the same type; pixels outside the masks, ellipses or squares are unchanged.
    """
    out = photo.copy()
    for i, (place, change) in enumerate(changes):
        _apply(out, place, change, [*(other for j, (other, _) in enumerate(changes) if j != i), *others], whole)
    return out


def _apply(out: Pixels, place: Place, change: Change, others: Sequence[Place], whole: bool) -> None:
    cv2 = opencv()
    margin = max(0.0 if change.shift is None else 0.1, change.margin)
    left, top, right, bottom = place.bounds(out.shape, margin)
    if left >= right or top >= bottom:
        return
    others = [other for other in others if _near(place, other)]
    source = out[top:bottom, left:right].copy()
    colour = change.colour
    if out.shape[2] == 1:
        colour = colour.mean(axis=2, keepdims=True)
    if place.side < len(colour):  # enlarging interpolates; reducing has to average first
        size = max(1, round(place.side))
        colour = cv2.resize(colour, (size, size), interpolation=cv2.INTER_AREA)
    rim = None
    if change.margin and change.before is not None and not change.replaces:
        both = [one.mean(axis=2) for one in (change.before, change.colour)]
        rim = cv2.blur(np.stack([both[0], both[0] + both[1]], axis=2), (5, 5))  # light before and after
    highest = np.iinfo(out.dtype).max
    x = np.arange(right - left, dtype=np.float32)
    for first in range(0, bottom - top, _ROWS):
        y = np.arange(first, min(first + _ROWS, bottom - top), dtype=np.float32)[:, None]
        u, v = _in_square(place, x + (left + 0.5), y + (top + 0.5))
        r = distance(u, v)
        w = weight(r) if change.mask is None else _masked(change.mask, change.margin, u, v)
        if whole:
            w = np.ones_like(r)
        for other in others:
            rival = distance(*_in_square(other, x + (left + 0.5), y + (top + 0.5)))
            w *= (0.5 + (rival - r) / _RIVAL).clip(0, 1)
        inside = w > 0
        if not inside.any():
            continue
        new = source[first : first + len(y)].astype(np.float32)
        if change.shift is not None:
            moved = _sampled(change.shift, u, v) * w[..., None]  # (rows, columns, 2)
            across, down = np.float32(place.edge.real), np.float32(place.edge.imag)
            map_x = x + across * moved[..., 0] - down * moved[..., 1]
            map_y = y + down * moved[..., 0] + across * moved[..., 1]
            bent = cv2.remap(source, map_x, map_y, cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REPLICATE)
            new = bent.astype(np.float32).reshape(new.shape)
        beyond = np.zeros(r.shape, np.bool_)
        if change.margin:
            beyond = (np.minimum(u, v) < _RIM) | (np.maximum(u, v) > 1 - _RIM)
            u, v = u.clip(_RIM, 1 - _RIM), v.clip(_RIM, 1 - _RIM)
        added = _sampled(colour, u, v) * np.float32(highest / 255)
        if rim is not None and beyond.any():
            added *= _like_rim(rim, u, v, new.mean(axis=2) * np.float32(255 / highest), beyond)[..., None]
        new += (added - new) * (w[..., None] * np.float32(change.opacity)) if change.replaces else added * w[..., None]
        np.rint(new, out=new)
        rows = out[top + first : top + first + len(y), left:right]
        np.copyto(rows, new.clip(0, highest).astype(out.dtype), where=inside[..., None])


def _like_rim(rim: Floats, u: Floats, v: Floats, light: Floats, beyond: NDArray[np.bool_]) -> Floats:
    """Opacity of the rim's change, 0 to 1: 1 for pixels in the square, and for those beyond it that resemble the rim.

    Pixels that are already as light, or dark, as the head becomes at the rim are background, or grey hair.

    Args:
        rim: (S, S, 2) light before and after, in levels.
        u: of the points whose change is used.
        v: likewise.
        light: of the pixels, in levels.
        beyond: which of them are outside the square.
    """
    was, becomes = np.moveaxis(_sampled(rim, u, v), 2, 0)
    step = becomes - was
    certain = ((abs(step) - 4) / 12).clip(0, 1)  # a small step does not classify a pixel
    like = (2 * (becomes - light) / np.where(certain > 0, step, 1)).clip(0, 1)
    share: Floats = np.where(beyond, 1 - certain * (1 - like), 1)
    return share


def _sampled(field: Floats, u: Floats, v: Floats) -> Floats:
    """Values of a field (h, w, C) over the square, interpolated at its points: (..., C)."""
    cv2 = opencv()
    height, width = field.shape[:2]
    flat = cv2.remap(field, u * width - 0.5, v * height - 0.5, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    values: Floats = flat.reshape(*u.shape, -1)
    return values


def _masked(mask: Floats, margin: float, u: Floats, v: Floats) -> Floats:
    """Values of a mask (M, M) over the extended square, at its points; 0 from one pixel beyond its support."""
    cv2 = opencv()
    across, down = ((at + np.float32(margin)) * np.float32(len(mask) / (1 + 2 * margin)) - 0.5 for at in (u, v))
    values: Floats = cv2.remap(mask, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return values


def _in_square(place: Place, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Pixels of the photograph, a row of x and a column of y -> points (u, v) of the square."""
    inverse = 1 / place.edge
    u = (x - place.corner.real) * inverse.real - (y - place.corner.imag) * inverse.imag
    v = (x - place.corner.real) * inverse.imag + (y - place.corner.imag) * inverse.real
    return u.astype(np.float32), v.astype(np.float32)


def _near(a: Place, b: Place) -> bool:
    middles = [place.corner + place.edge * complex(*CENTRE) for place in (a, b)]
    return abs(middles[0] - middles[1]) < (a.side + b.side) / 2
