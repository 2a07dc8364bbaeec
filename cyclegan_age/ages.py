"""Years, age groups and age vectors.

An age is a number of years. The networks take it as a vector with one entry per anchor age. In the `linear` form an
age between two anchors is their linear interpolation (27 is 0.3 of the 20 and 0.7 of the 30) and an age outside is
clamped to the nearest anchor. In the `onehot` form every age of a group is that group's unit vector.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from cyclegan_age.config import TrainConfig

_RANGE = re.compile(r"(?:ages?[ _-]?|train|test)?(\d{1,3})\s*(?:[-_–]|to)\s*(\d{1,3})", re.IGNORECASE)
_OPEN = re.compile(r"(?:ages?[ _-]?)?(\d{1,3})\s*\+", re.IGNORECASE)
_DECADE = re.compile(r"(?:ages?[ _-]?)?(\d{1,2}0|0)s", re.IGNORECASE)
_SINGLE = re.compile(r"(?:ages?[ _-]?)?(\d{1,3})", re.IGNORECASE)


@dataclass(frozen=True)
class AgeCode:
    """Mapping from years to age vectors.

    Args:
        anchors: at least two ages in years, rising.
        form: `linear` or `onehot`, see the module's text.
        ends: `onehot`: last year of each group, where groups leave gaps or the last is open. `encode` gives a year in a
            gap to the nearer group; `group` gives None.
    """

    anchors: tuple[int, ...] = (10, 20, 30, 40, 50, 60)
    form: Literal["linear", "onehot"] = "linear"
    ends: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.anchors)

    @property
    def edges(self) -> tuple[float, ...]:
        """Bounds in years of the groups, one more than there are anchors; group k is [edges[k], edges[k + 1]).

        `onehot`: each anchor begins its group. `linear`: each anchor is the middle of its group. The last group reaches
            a whole step up, since older ages are clamped to its anchor.
        """
        a = self.anchors
        if self.form == "onehot":
            return (*a, 2 * a[-1] - a[-2])
        middles = [(low + high) / 2 for low, high in pairwise(a)]
        return (a[0] - (a[1] - a[0]) / 2, *middles, 2 * a[-1] - a[-2])

    @property
    def spans(self) -> tuple[tuple[float, float], ...]:
        """Beginning and end of each group in years; the end does not belong to it."""
        if self.ends:
            return tuple((float(a), end + 1.0) for a, end in zip(self.anchors, self.ends, strict=True))
        return tuple(pairwise(self.edges))

    @property
    def nominal_years(self) -> tuple[float, ...]:
        """The age of each unit vector: the anchor itself, or the middle of its group for `onehot`."""
        if self.form == "linear":
            return tuple(float(a) for a in self.anchors)
        ends = [end + 1.0 for end in self.ends] or list(self.edges[1:])
        ends[-1] = min(ends[-1], self.edges[-1])  # an open group gets the length of the one before
        return tuple((low + high) / 2 for low, high in zip(self.anchors, ends, strict=True))

    def group(self, years: float) -> int | None:
        """Index of the group of an age, None if it lies outside all of them."""
        return next((k for k, (begin, end) in enumerate(self.spans) if begin <= years < end), None)

    def encode(self, years: Tensor | Sequence[float]) -> Tensor:
        """Ages (N,) in years -> age vectors (N, len(self)) that sum to 1, float32."""
        y = torch.as_tensor(years, dtype=torch.float32)
        if self.form == "linear":
            return between(y, constant(self.anchors, y.device))
        begins: tuple[float, ...] = self.anchors
        if self.ends:  # a gap is halved
            begins = (begins[0], *((end + 1 + a) / 2 for end, a in zip(self.ends, begins[1:], strict=False)))
        index = torch.bucketize(y, constant(begins, y.device), right=True) - 1
        return one_hot(index.clamp(0, len(self) - 1), len(self))


def between(y: Tensor, anchors: Tensor) -> Tensor:
    """Interpolation weights (N, K) of the anchors (K,) for each of y (N,), clamped to the first and the last anchor."""
    passed = ((y[:, None] - anchors[:-1]) / (anchors[1:] - anchors[:-1])).clamp(0, 1)  # (N, K - 1)
    one = torch.ones_like(passed[:, :1])
    return torch.cat([one, passed], dim=1) - torch.cat([passed, torch.zeros_like(one)], dim=1)


@lru_cache(maxsize=256)
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Numbers as a float32 tensor, copied to the device once: a later call needs no transfer from the host."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device)


def one_hot(index: Tensor, count: int) -> Tensor:
    """Indices (N,) below `count` -> unit vectors (N, count), float32. Unlike torch's, it does not check the values."""
    return (index[:, None] == torch.arange(count, device=index.device)).float()


def code_of(config: TrainConfig) -> AgeCode:
    """The age code of a training."""
    return AgeCode(config.ages, config.age_vector, config.ends)


def planes(vector: Tensor, height: int, width: int) -> Tensor:
    """Constant planes of an age vector: (N, K) -> (N, K, height, width)."""
    return vector[:, :, None, None].expand(-1, -1, height, width)


def parse_group(name: str) -> tuple[int, int] | None:
    """Years (first, last) of a folder name, or None.

    Accepted: `20` (that year alone), `20s`, `20-29`, `20_24`, `20 to 24`, each with `age` or `ages` before it, `60+`
        (ten years), and `train30-39` or `test30-39`, the names in LATS.
    """
    name = name.strip()
    if m := _RANGE.fullmatch(name):
        low, high = int(m[1]), int(m[2])
        return (low, high) if low <= high <= 120 else None
    if m := _OPEN.fullmatch(name) or _DECADE.fullmatch(name):
        return (int(m[1]), int(m[1]) + 9) if int(m[1]) <= 120 else None
    if m := _SINGLE.fullmatch(name):
        return (int(m[1]), int(m[1])) if int(m[1]) <= 120 else None
    return None


def parse_groups(names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Years of every folder name that means an age, parsed together.

    If every name is a bare number or open (`10`, `20`, `30`, `40+`), each group ends where the next begins, and the
    last is as long as the one before; a single bare number is a decade if it is a multiple of ten.
    """
    groups = {name: years for name in names if (years := parse_group(name))}
    bare = {name for name, (low, high) in groups.items() if low == high}
    if not bare or any(name not in bare and "+" not in name for name in groups):
        return groups
    lows = sorted({low for low, _ in groups.values()})
    steps = [b - a for a, b in pairwise(lows)] or [10 if lows[0] % 10 == 0 else 1]
    ends = {low: low + step - 1 for low, step in zip(lows, [*steps, steps[-1]], strict=False)}
    return {name: (low, ends[low] if name in bare else high) for name, (low, high) in groups.items()}
