"""The metrics: arrays -> numbers. This module knows no models, files or networks. NaN means "undefined"."""

import importlib.util
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from cyclegan_age.config import needs
from cyclegan_age.faces.frames import FRAMES, Frame, window
from cyclegan_age.images import Picture

with needs("scikit-image"):
    from skimage.metrics import structural_similarity

Array = NDArray[np.float64]

_MIN_SLOPE = 0.2  # minimum slope of a calibration, in estimated years per true year, so that it is invertible
_MIN_FACES = 3.0  # minimum number of faces per knot of a calibration
_OLDEST = 100.0  # years


@dataclass(frozen=True, eq=False)
class Calibration:
    """An estimator's mean output at each true age, as a rising piecewise linear function, to be inverted.

    The mean of the calibrated estimates of real faces of an age is then the true age. The opposite direction is
    `Regression`, which pulls every estimate towards the mean age of the data.

    Attributes:
        true_years: (K,) ages of the knots, rising.
        estimate: (K,) mean estimate at each, rising. With fewer than two knots the calibration is the identity.
    """

    true_years: Array
    estimate: Array

    @classmethod
    def fit(cls, true_years: Array, estimate: Array, step: float = 10.0) -> "Calibration":
        """Least squares over real faces, with a knot every `step` years, made rising by pooling neighbours.

        Args:
            true_years: (N,), NaN if unknown.
            estimate: (N,), NaN if undefined.
            step: years between two knots.
        """
        seen = np.isfinite(estimate) & np.isfinite(true_years)
        if not seen.any():
            return cls(np.empty(0), np.empty(0))
        x, y = true_years[seen].astype(np.float64), estimate[seen].astype(np.float64)
        first, last = np.ceil(x.min() / step), np.floor(x.max() / step)
        knots = np.arange(first, last + 1) * step
        if len(knots) > 1:
            knots = knots[_hats(x, knots).clip(0, 1).sum(axis=0) >= _MIN_FACES]
        if len(knots) < 2:
            return cls(np.empty(0), np.empty(0))
        basis = _hats(x, knots)
        level = rising(np.asarray(np.linalg.lstsq(basis, y, rcond=None)[0], np.float64), basis.clip(0, 1).sum(axis=0))
        for k in range(1, len(knots)):
            level[k] = max(level[k], level[k - 1] + _MIN_SLOPE * (knots[k] - knots[k - 1]))
        return cls(knots, level)

    def __call__(self, estimate: ArrayLike) -> Array:
        """Estimates of any shape -> calibrated years, from 0 to 100; extrapolates linearly beyond the ends."""
        x, y, e = self.estimate, self.true_years, np.asarray(estimate, np.float64)
        if len(x) < 2:
            return e
        out = np.interp(e, x, y)
        low, high = (y[1] - y[0]) / (x[1] - x[0]), (y[-1] - y[-2]) / (x[-1] - x[-2])
        out = np.where(e < x[0], y[0] + (e - x[0]) * low, out)
        out = np.where(e > x[-1], y[-1] + (e - x[-1]) * high, out)
        clipped: Array = np.where(np.isfinite(e), out.clip(0, _OLDEST), np.nan)
        return clipped


def _hats(x: Array, knots: Array) -> Array:
    """Weights (N, K) of each knot for each value, piecewise linear, extrapolated beyond the ends."""
    k = np.searchsorted(knots, x, side="right").clip(1, len(knots) - 1)
    share = (x - knots[k - 1]) / (knots[k] - knots[k - 1])
    weights: Array = np.zeros((len(x), len(knots)))
    rows = np.arange(len(x))
    weights[rows, k - 1], weights[rows, k] = 1 - share, share
    return weights


def rising(values: Array, weights: Array) -> Array:
    """The nearest non-decreasing sequence (weighted least squares, pool-adjacent-violators)."""
    blocks: list[tuple[float, float, int]] = []  # mean, weight, length
    for value, weight in zip(values, weights, strict=True):
        blocks.append((float(value), float(weight), 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, wa, na), (b, wb, nb) = blocks[-2:]
            blocks[-2:] = [((a * wa + b * wb) / (wa + wb), wa + wb, na + nb)]
    return np.concatenate([np.full(count, mean) for mean, _, count in blocks])


def mean(values: Array) -> float:
    """Mean of the defined values; NaN without any."""
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if len(defined) else float("nan")


@dataclass(frozen=True)
class Regression:
    """The least-squares line of true age on estimate: the best prediction, with a narrower range than the estimates.

    Attributes:
        rise: years of true age for each year of the estimate.
        start: years at an estimate of 0.
    """

    rise: float = 1.0
    start: float = 0.0

    @classmethod
    def fit(cls, true_years: Array, estimate: Array) -> "Regression":
        """Arguments as of `Calibration.fit`; the identity with fewer than two faces."""
        known = np.isfinite(true_years) & np.isfinite(estimate)
        rise = slope(estimate[known], true_years[known])
        return cls(rise, mean(true_years[known]) - rise * mean(estimate[known])) if math.isfinite(rise) else cls()

    def __call__(self, estimate: Array) -> Array:
        """Estimates of any shape -> years."""
        return self.start + self.rise * estimate


def slope(x: Array, y: Array) -> float:
    """Slope of y over x, by least squares over the pairs with a defined y; NaN with fewer than two x."""
    known = np.isfinite(y)
    x, y = x[known], y[known]
    spread = x - mean(x)
    below = float((spread**2).sum())
    return float(spread @ y) / below if below > 0 else float("nan")


def spearman(estimate: Array) -> Array:
    """Spearman's rank correlation of each row with its rising targets: (N, Y) -> (N,); 0 for a constant row."""
    ranks = _ranks(estimate) - (estimate.shape[1] + 1) / 2
    target = np.arange(estimate.shape[1]) - (estimate.shape[1] - 1) / 2
    below = np.sqrt((ranks**2).sum(axis=1) * (target**2).sum())
    rho = np.divide(ranks @ target, below, out=np.zeros(len(estimate)), where=below > 0)
    out: Array = np.where(np.isfinite(estimate).all(axis=1), rho, np.nan)
    return out


def _ranks(x: Array) -> Array:
    """Ranks 1..Y along each row, ties sharing their mean."""
    less = (x[:, None, :] < x[:, :, None]).sum(axis=2)
    same = (x[:, None, :] == x[:, :, None]).sum(axis=2)
    ranks: Array = less + (same + 1) / 2
    return ranks


def monotone(estimate: Array) -> Array:
    """Which rows (N, Y) never fall, and end higher than they begin: (N,) of 0 and 1."""
    rises = (np.diff(estimate, axis=1) >= 0).all(axis=1) & (estimate[:, -1] > estimate[:, 0])
    out: Array = np.where(np.isfinite(estimate).all(axis=1), rises.astype(np.float64), np.nan)
    return out


def closeness(a: Array, b: Array, kind: str) -> Array:
    """Similarity of embeddings (..., D): `cosine`, or `distance`, the negative Euclidean distance."""
    if kind == "distance":
        out: Array = -np.sqrt(((a - b) ** 2).sum(axis=-1))
        return out
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    cosine: Array = (a * b).sum(axis=-1) / norms
    return cosine


def threshold(embeddings: Array, kind: str, far: float) -> float:
    """The similarity exceeded by at most a share `far` of all pairs of different people (N, D); NaN without pairs."""
    known = embeddings[np.isfinite(embeddings).all(axis=1)]
    i, j = np.triu_indices(len(known), 1)
    if not len(i):
        return float("nan")
    falling = -np.sort(-closeness(known[i], known[j], kind))
    return float(falling[min(int(far * len(falling)), len(falling) - 1)])


def verified(near: Array, least: float) -> Array:
    """Which pairs count as one person: 1, or 0, also without a detected face; NaN without a threshold."""
    if not np.isfinite(least):
        return np.full(near.shape, np.nan)
    out: Array = (near > least).astype(np.float64)  # NaN compares as False
    return out


def kid(a: Array, b: Array) -> float:
    """Kernel inception distance: the unbiased estimate over all pairs of features (N, D) and (M, D).

    Binkowski et al., "Demystifying MMD GANs", ICLR 2018: kernel (x.y / D + 1)^3. It may fall below 0.
    """
    n, m = len(a), len(b)
    if n < 2 or m < 2:
        return float("nan")
    aa, bb, ab = ((x @ y.T / x.shape[1] + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    within = (aa.sum() - np.trace(aa)) / (n * (n - 1)) + (bb.sum() - np.trace(bb)) / (m * (m - 1))
    return float(within - 2 * ab.mean())


class _Identity(nn.Module):
    """Identity in the interface of a feature network of torchmetrics."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.num_features = count

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def fid(a: Array, b: Array) -> float:
    """Frechet inception distance of features (N, D) and (M, D) (Heusel et al., NIPS 2017), by torchmetrics.

    NaN with fewer than two faces, or without that package.
    """
    if min(len(a), len(b)) < 2 or importlib.util.find_spec("torchmetrics") is None:
        return float("nan")
    from torchmetrics.image.fid import FrechetInceptionDistance  # takes seconds to import

    distance = FrechetInceptionDistance(feature=_Identity(a.shape[1]))
    distance.set_dtype(torch.float64)
    distance.update(torch.from_numpy(a), real=True)
    distance.update(torch.from_numpy(b), real=False)
    return float(distance.compute())


def ssim(a: Picture, b: Picture) -> float:
    """Structural similarity (Wang et al. 2004): Gaussian window of sigma 1.5, mean over the channels."""
    return float(
        structural_similarity(
            a, b, channel_axis=2, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
    )


def l1(a: Picture, b: Picture, where: NDArray[np.bool_] | None = None) -> float:
    """Mean absolute difference as a share of the range of values, over all pixels or those of a mask (H, W)."""
    difference = np.abs(a.astype(np.float64) - b) / 255
    return float(difference.mean() if where is None else difference[where].mean())


def outside(size: int, frame: Frame) -> NDArray[np.bool_]:
    """The mask (size, size) of the background in an aligned crop: outside an ellipse from brow to chin, ear to ear."""
    left, top, side = window(FRAMES["utkface"], frame)
    at = (np.arange(size) + 0.5) / size
    x, y = np.meshgrid((at - left) / side, (at - top) / side)
    mask: NDArray[np.bool_] = ((x - 0.49) / 0.47) ** 2 + ((y - 0.5) / 0.55) ** 2 > 1
    return mask


def sharpness(picture: Picture) -> float:
    """Variance of the Laplacian (four neighbours) of the grey picture."""
    grey = picture.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    middle = grey[1:-1, 1:-1]
    return float((grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * middle).var())


def evenness(values: Iterable[float]) -> float:
    """Smallest over largest, of values that should be equal; 0 if the smallest is not above 0; NaN below two."""
    defined = [v for v in values if np.isfinite(v)]
    if len(defined) < 2:
        return float("nan")
    return max(0.0, min(defined) / max(defined)) if max(defined) > 0 else 0.0


def chance_evenness(
    groups: Sequence[Array], summary: Callable[[Array], float], rounds: int = 1000
) -> tuple[float, float]:
    """Expected evenness of the summaries of groups under chance alone: a permutation test.

    Each round permutes the rows and splits them into groups of the same sizes; the random numbers are fixed.

    Args:
        groups: (N_k, D) each.
        summary: of the rows of a group, (N_k, D) -> number.
        rounds: number of permutations.

    Returns:
        The mean evenness of the rounds, and the p-value: the share of rounds (with the observation as one more) that
        are at least as uneven as the observation. NaN if undefined.
    """
    found = evenness(map(summary, groups))
    if not np.isfinite(found):
        return float("nan"), float("nan")
    rows, ends, rng = np.concatenate(groups), np.cumsum([len(g) for g in groups])[:-1], np.random.default_rng(0)
    drawn = np.array([evenness(map(summary, np.split(rng.permutation(rows), ends))) for _ in range(rounds)])
    return mean(drawn), float((1 + (drawn <= found + 1e-9).sum()) / (1 + rounds))
