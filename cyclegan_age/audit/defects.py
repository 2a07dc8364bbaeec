"""Defects of one picture that need no network: mosaic blocks, and artificial borders.

All functions take a picture uint8 (H, W, 3).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclegan_age.faces.alignment import opencv
from cyclegan_age.images import Picture

Floats = NDArray[np.float32]

_LONGEST_BLOCK = 14.0  # pixels
_LEAST_SHARE = 0.02  # minimum share of the picture that a border covers
_COARSE, _FINE = 48, 128  # sides in pixels of the copies that are searched for mirrored borders
_TURNS = np.arange(-16.0, 17.0, 4.0)  # degrees between a border and the picture's side
_STREAK_TURNS = np.arange(-18.0, 19.0, 3.0)
_LEAST_CONTRAST = 3.0  # standard deviation perpendicular to the border; a flat border shows no mirror
_LEAST_TEXTURE = 1.5, 0.9  # mean difference of neighbours along the border, in the coarse and the fine copy


def grey_of(picture: Picture) -> Any:
    """The picture in greyscale, uint8 (H, W)."""
    cv2 = opencv()
    return cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY)


def blocks(picture: Picture) -> tuple[float, float]:
    """Strength of the periodicity of pixel differences along both axes, 0 to 2, and its period in pixels.

    A picture enlarged without interpolation has differences only at the edges of its blocks, at a constant distance.
    The periods are 2.2 to 14 pixels: at 2 many files have such a pattern from chroma subsampling.
    """
    grey = grey_of(picture).astype(np.float32)
    across = np.minimum(np.abs(np.diff(grey, axis=1)), 20).mean(axis=0)
    down = np.minimum(np.abs(np.diff(grey, axis=0)), 20).mean(axis=1)
    if min(len(across), len(down)) < 32:
        return 0.0, 0.0
    size = 1024 * (1 + max(len(across), len(down)) // 1024)
    both = np.minimum(_spectrum(across, size), _spectrum(down, size))
    periods = size / np.maximum(np.arange(len(both)), 1)
    both[(periods > _LONGEST_BLOCK) | (periods < 2.2)] = 0
    k = int(both.argmax())
    return float(both[k]), float(periods[k]) if both[k] else 0.0


def _spectrum(profile: Floats, size: int) -> Floats:
    """Amplitudes of a profile relative to its running mean, from 0 to half a cycle per pixel."""
    mean = np.convolve(np.pad(profile, 7, mode="edge"), np.ones(15) / 15, "valid")
    window = np.hanning(len(profile))
    amplitude = np.abs(np.fft.rfft((profile / np.maximum(mean, 0.3) - 1) * window, size)) * 2 / window.sum()
    return np.asarray(amplitude, np.float32)


def flat_border(picture: Picture) -> tuple[float, str]:
    """Share of the picture in its largest black or white border, and the colour.

    Such a border ends in a straight line, which may be slanted, with a step in brightness behind it.
    """
    best, colour = 0.0, ""
    masks = {"black": picture.max(axis=2) <= 16, "white": picture.min(axis=2) >= 245}
    for name, mask in masks.items():
        for side in range(4):
            share = _straight(np.rot90(mask, side), np.rot90(picture, side))
            if share > best:
                best, colour = share, name
    return best, colour


def _straight(mask: NDArray[np.bool_], picture: Picture) -> float:
    """Share of the picture in a border at its upper side; 0 for none."""
    height, width = mask.shape
    depth = np.where(mask.all(axis=0), height, np.argmin(mask, axis=0))
    x = np.flatnonzero((depth >= 2) & (depth < 0.45 * height))
    y = depth[x]
    if len(x) < 0.2 * width or y.max() < 0.02 * height or (depth >= 0.45 * height).mean() > 0.3:
        return 0.0
    inliers = np.zeros(len(x), bool)
    ends = np.linspace(0, len(x) - 1, 9).astype(int)
    for i in ends:
        for j in ends[ends > i]:
            slope = (y[j] - y[i]) / max(x[j] - x[i], 1)
            near = np.abs(y - y[i] - slope * (x - x[i])) <= 1.5
            if abs(slope) <= 0.6 and near.sum() > inliers.sum():
                inliers = near
    if inliers.sum() < max(0.2 * width, 0.75 * len(x)):
        return 0.0
    x, y = x[inliers], y[inliers]
    border = picture[:, x][np.arange(height)[:, None] < y - 1].astype(int)
    if len(border) and np.abs(border - (0 if border.mean() < 128 else 255)).mean() > 3:  # a shadow, or a bright wall
        return 0.0
    inside = picture[np.minimum(y + 3, height - 1), x].astype(int)
    step = np.abs(inside - picture[np.maximum(y - 2, 0), x]).max(axis=1)
    return float(y.sum() / (height * width)) if (step >= 20).mean() >= 0.7 else 0.0


def mirrored_border(picture: Picture) -> float:
    """Highest correlation of a border with the mirror image of its neighbourhood, over lines near all four sides.

    The mean of each column across the line is removed, so that flat ones do not count; -1 where all are flat.
    """
    grey = grey_of(picture)
    turned, inside = _sides(grey, _COARSE, _TURNS)
    rough = []
    for line in range(3, _COARSE // 3):
        found = _mirror(turned, inside, line, 0).reshape(4, len(_TURNS))
        rough += [(float(one.max()), side, line, float(_TURNS[one.argmax()])) for side, one in enumerate(found)]
    rough.sort(reverse=True)
    if rough[0][0] < 0.6:
        return rough[0][0]
    best, first = -1.0, rough[0]
    apart = [one for one in rough if one[1] != first[1] or abs(one[2] - first[2]) > 2 or abs(one[3] - first[3]) > 4]
    for _, side, line_there, turn in [first, *apart[:1]]:
        turned, inside = _sides(grey, _FINE, turn + np.arange(-3.0, 4.0), [side])
        middle = round(line_there * _FINE / _COARSE)
        for line in range(max(4, middle - 3), middle + 4):
            best = max(best, *(float(_mirror(turned, inside, line, shared).max()) for shared in (0, 1)))
    return best


def _sides(
    grey: Any, size: int, turns: NDArray[np.float64], sides: Sequence[int] = range(4)
) -> tuple[Floats, NDArray[np.bool_]]:
    """The grey picture at a size, each of S sides once on top, rotated by T angles, and the mask of valid pixels.

    Returns:
        float32 (S x T, size, size), and bool of the same shape.
    """
    cv2 = opencv()
    small = cv2.resize(grey, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32)
    middle = (size - 1) / 2
    ways = [cv2.getRotationMatrix2D((middle, middle), float(turn), 1) for turn in turns]
    turned = np.stack([cv2.warpAffine(small, way, (size, size)) for way in ways])
    whole = np.ones((size, size), np.float32)
    inside = np.stack([cv2.warpAffine(whole, way, (size, size)) for way in ways]) > 0.99
    return tuple(np.concatenate([np.rot90(one, side, (1, 2)) for side in sides]) for one in (turned, inside))  # type: ignore[return-value]


def _mirror(turned: Floats, inside: NDArray[np.bool_], line: int, shared: int) -> Floats:
    """Correlations (N,) of the rows above a line with those below; a line in the middle of a row shares it."""
    rows = min(line, turned.shape[1] - line - shared)
    above, below = turned[:, line - rows : line][:, ::-1], turned[:, line + shared : line + shared + rows]
    both = inside[:, line - rows : line][:, ::-1] & inside[:, line + shared : line + shared + rows]
    both = both & (both.sum(axis=1, keepdims=True) >= 3)
    count = np.maximum(both.sum(axis=1, keepdims=True), 1)
    above = np.where(both, above - (above * both).sum(axis=1, keepdims=True) / count, 0)
    below = np.where(both, below - (below * both).sum(axis=1, keepdims=True) / count, 0)
    pixels = both.sum(axis=(1, 2))
    aa, bb, ab = ((p * q).sum(axis=(1, 2)) for p, q in ((above, above), (below, below), (above, below)))
    enough = (pixels >= _LEAST_SHARE * turned.shape[1] ** 2) & (aa >= _LEAST_CONTRAST**2 * np.maximum(pixels, 1))
    return np.asarray(np.where(enough, ab / np.sqrt(np.maximum(aa * bb, 1e-6)), -1), np.float32)


def repeated_border(picture: Picture) -> float:
    """Lowest ratio of differences perpendicular to a border to those along it, over borders at all four sides.

    It is near 0 where the edge pixels of a photograph were repeated, near 1 elsewhere; 9 where all is flat.
    """
    grey = grey_of(picture)
    best, side, share, turn = min(
        _streak(grey, _FINE // 2, _STREAK_TURNS, range(4), range(4, _FINE // 6), _LEAST_TEXTURE[0])
    )
    if best > 0.6:
        return best
    lines = range(max(4, round(share * _FINE) - 4), round(share * _FINE) + 3)
    return min(_streak(grey, _FINE, turn + np.arange(-2, 2.1, 0.5), [side], lines, _LEAST_TEXTURE[1]))[0]


def _streak(
    grey: Any, size: int, turns: NDArray[np.float64], sides: Sequence[int], lines: Iterable[int], texture: float
) -> list[tuple[float, int, float, float]]:
    """Ratio, side, depth as a share, and angle of the borders that reach down to each line."""
    turned, inside = _sides(grey, size, turns, sides)
    into = np.minimum(np.abs(np.diff(turned, axis=1))[:, :, :-1], 6)  # limits the effect of one strong edge
    along = np.minimum(np.abs(np.diff(turned, axis=2))[:, :-1], 6)
    valid = inside[:, :-1, :-1] & inside[:, 1:, :-1] & inside[:, :-1, 1:]
    into, along, pixels = (
        np.cumsum(one.sum(axis=2), axis=1) for one in (into * valid, along * valid, valid.astype(np.float32))
    )
    out = [(9.0, 0, 0.1, 0.0)]
    for line in lines:
        a, b, n = into[:, line - 2], along[:, line - 2], pixels[:, line - 2]
        ratio = np.where((n >= _LEAST_SHARE * size**2) & (b >= texture * n), a / np.maximum(b, 1e-6), 9)
        side, k = divmod(int(ratio.argmin()), len(turns))
        out.append((float(ratio.min()), sides[side], line / size, float(turns[k])))
    return out
