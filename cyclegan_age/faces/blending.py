"""What a network changed in a face, found at its own size, done to the face in the photograph at the photograph's."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cyclegan_age.faces.alignment import Place, opencv
from cyclegan_age.faces.frames import FRAMES, Frame, window

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8] | NDArray[np.uint16]

# The face's ellipse in a crop of UTKFace's frame: as large as fits in, around the middle of the faces that the detector
# sees there. Without a mask nothing outside it is changed.
CENTRE = (0.49, 0.495)
SEMI_AXES = (0.48, 0.49)
_FULL = 0.8  # share of the way to the ellipse up to which the change is whole; from there it fades to nothing
_RIVAL = 0.25  # how gradually, in shares of an ellipse, one face gives way to another one beside it
_RIM = 0.03  # share of the side: where a change goes on beyond the square, colours are those from so far inside it
_ROWS = 256  # of the photograph worked on at a time, which bounds the memory


@dataclass(frozen=True)
class Change:
    """What is to be done to an aligned face.

    First each point is taken from where `shift` says, then `colour` is added. A change that `replaces` is the new face
    itself instead: its `colour` takes the place of what was there, since a face made anew has no use for old detail.
    """

    colour: Floats  # (S, S, 3) in levels of 255
    shift: Floats | None = None  # (h, w, 2) to the right and down, as shares of the square's side
    replaces: bool = False
    share: float = 1.0  # how much of a change that replaces is let through
    mask: Floats | None = None  # (M, M), 0 to 1 and 0 at its border: how much of it is done, instead of the ellipse
    margin: float = 0.0  # shares of the square's side by which the mask goes on beyond it
    before: Floats | None = None  # (S, S, 3) in levels of 255: what the colour is added to in the square


def distance(u: Floats, v: Floats) -> Floats:
    """How far points of the square are from the middle of the face; 1 on its ellipse."""
    r: Floats = np.hypot((u - CENTRE[0]) / SEMI_AXES[0], (v - CENTRE[1]) / SEMI_AXES[1])
    return r


def face_distance(u: Floats, v: Floats, frame: Frame) -> Floats:
    """As `distance`, for points of a crop in any frame."""
    left, top, side = map(np.float32, window(FRAMES["utkface"], frame))
    return distance((u - left) / side, (v - top) / side)


def weight(r: Floats) -> Floats:
    """How much of the change is done at such distances: 1 inside, exactly 0 from the ellipse on, smooth between."""
    t = ((1 - r) / (1 - _FULL)).clip(0, 1)
    w: Floats = t * t * t * (t * (t * 6 - 15) + 10)
    return w


def blend(
    photo: Pixels, changes: Sequence[tuple[Place, Change]], *, others: Sequence[Place] = (), whole: bool = False
) -> Pixels:
    """Change faces of a photograph.

    Args:
        photo: uint8 or uint16 (H, W, 3), or (H, W, 1), which takes the mean of a change's colours.
        changes: where the faces are and what is done to each. Between faces whose ellipses overlap the changes give way
            to each other.
        others: where faces are that are not changed.
        whole: change all of the squares, not the masks or ellipses alone.

    Returns:
        A new array of the same kind; pixels outside the masks, ellipses or squares are the same.
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
        new += (added - new) * (w[..., None] * np.float32(change.share)) if change.replaces else added * w[..., None]
        np.rint(new, out=new)
        rows = out[top + first : top + first + len(y), left:right]
        np.copyto(rows, new.clip(0, highest).astype(out.dtype), where=inside[..., None])


def _like_rim(rim: Floats, u: Floats, v: Floats, light: Floats, beyond: NDArray[np.bool_]) -> Floats:
    """How much of the rim's change pixels take, 0 to 1: those in the square, and those beyond that look like the rim.

    What is there already as light, or dark, as the head becomes at the rim is background, or grey hair.

    Args:
        rim: (S, S, 2) light before and after, in levels.
        u: of the points whose change is taken.
        v: likewise.
        light: of the pixels, in levels.
        beyond: which of them are not in the square.
    """
    was, becomes = np.moveaxis(_sampled(rim, u, v), 2, 0)
    step = becomes - was
    told = ((abs(step) - 4) / 12).clip(0, 1)  # a small step tells nothing of what a pixel is
    like = (2 * (becomes - light) / np.where(told > 0, step, 1)).clip(0, 1)
    share: Floats = np.where(beyond, 1 - told * (1 - like), 1)
    return share


def _sampled(field: Floats, u: Floats, v: Floats) -> Floats:
    """Values of a field (h, w, C) over the square at its points: (..., C)."""
    cv2 = opencv()
    height, width = field.shape[:2]
    flat = cv2.remap(field, u * width - 0.5, v * height - 0.5, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    values: Floats = flat.reshape(*u.shape, -1)
    return values


def _masked(mask: Floats, margin: float, u: Floats, v: Floats) -> Floats:
    """Values of a mask (M, M) over the square, widened, at its points; 0 from a pixel beyond those above 0 on."""
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
