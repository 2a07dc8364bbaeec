"""Draws of pictures that lie on a device, computed there without synchronisation with the host.

Random numbers are hashes of their purpose and position, so that each can be computed independently: the draws of a step
depend on its number alone. They are computed for `_STEPS` steps at once, since a GPU takes as long for a few.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cyclegan_age.images import to_float

_STEPS = 32  # steps per computation of draws
_GAMMA = 0x9E3779B97F4A7C15 - 2**64  # splitmix64, as a signed number
_FACTORS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)
_LOW = 2**31 - 1


@dataclass(frozen=True, eq=False)
class _Drawn:
    """The draws of K steps of one stream."""

    picture: Tensor  # (K, N) int64, its index
    row: Tensor  # (K, N, S) int64, of the crop's rows
    column: Tensor  # (K, N, S) int64, of the crop's columns, from right to left if it is mirrored
    age_years: Tensor  # (K, N) float32
    label: Tensor  # (K, N, L)


class ResidentPictures:
    """Pictures on a device, and the draws of each step; see `FaceData` for the order of the draws.

    Args:
        pictures: (M, C, C, 3) uint8, on the device.
        age_years: (M,) float32, on the device.
        labels: (M, L) float32 or uint8, on the device.
        source_pools: for each age group the indices of its pictures; none is empty.
        target_pools: the same for the targets.
        image_size: side S in pixels of the random crops.
        flip: whether half of the pictures are mirrored.
        batch_size: pictures N per batch.
        seed: seed of order, crops and mirroring.
        paired: whether a target is the next picture of the source's shuffled pool.
        rank: index of this process.
        world: number of processes.
    """

    def __init__(
        self,
        *,
        pictures: Tensor,
        age_years: Tensor,
        labels: Tensor,
        source_pools: Sequence[NDArray[np.int64]],
        target_pools: Sequence[NDArray[np.int64]],
        image_size: int,
        flip: bool,
        batch_size: int,
        seed: int,
        paired: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._pictures, self._age_years, self._labels = pictures, age_years, labels
        self._image_size, self._flip = image_size, flip
        self._stride, self._first = world * batch_size, rank * batch_size  # draw n = step * stride + first + i
        device = pictures.device
        step = torch.arange(_STEPS, device=device)[:, None]
        self._offset = step * self._stride + torch.arange(batch_size, device=device)  # (K, N)
        self._side = torch.arange(image_size, device=device)
        most = (_STEPS - 1) * self._stride + batch_size
        source = _Order(source_pools, most, (_key(seed, "source groups"), _key(seed, "source pictures")), device)
        target = _Order(target_pools, most, (_key(seed, "target groups"), _key(seed, "target pictures")), device)
        self._orders = ((source, 0), (source, 1) if paired else (target, 0))
        self._crops = (_key(seed, "source crops"), _key(seed, "target crops"))
        self._chunk = -1
        self._drawn: list[_Drawn] = []

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """The fields of a step's `Batch`, in order, independent of earlier draws."""
        chunk, k = divmod(step, _STEPS)
        if chunk != self._chunk:
            self._chunk, self._drawn = chunk, self._draw(chunk * _STEPS)
        x_source, x_target = (
            to_float(self._pictures[d.picture[k, :, None, None], d.row[k, :, :, None], d.column[k, :, None]])
            for d in self._drawn
        )
        source, target = self._drawn
        return x_source, source.age_years[k], x_target, target.age_years[k], source.label[k], target.label[k]

    def _draw(self, step: int) -> list[_Drawn]:
        """The draws of the chunk that starts at a step, of both streams."""
        first, drawn = step * self._stride + self._first, []
        n = self._offset + first  # (K, N)
        margin = self._pictures.shape[1] - self._image_size
        for (order, ahead), key in zip(self._orders, self._crops, strict=True):
            picture = order(n, first, ahead)
            bits = _hash(key, n)[..., None]  # 31 for the column, one for mirroring, 31 for the row
            row = ((bits >> 32 & _LOW) * (margin + 1) >> 31) + self._side
            column = (bits & _LOW) * (margin + 1) >> 31
            if self._flip:
                mirrored = bits >> 31 & 1
                column = column + mirrored * (self._image_size - 1) + (1 - 2 * mirrored) * self._side
            else:
                column = column + self._side
            drawn.append(_Drawn(picture, row, column, self._age_years[picture], self._labels[picture]))
        return drawn


class _Order:
    """The picture of each draw of a stream: blocks of all groups in random order, passes over each pool.

    Each block visits each pool once, so that visit b to a pool is in block b.

    Args:
        pools: for each age group the indices of its pictures.
        most: draws from the first to the last of a chunk.
        keys: of the order of the groups, and of the pictures.
        device: of the computation.
    """

    def __init__(
        self, pools: Sequence[NDArray[np.int64]], most: int, keys: tuple[int, int], device: torch.device
    ) -> None:
        self._keys = keys
        self._blocks = (most + len(pools) - 2) // len(pools) + 1  # maximum per chunk
        length = np.array([len(pool) for pool in pools])
        passes = (self._blocks + length - 2) // length + 1  # maximum per pool in those blocks
        size = passes * length
        start = np.cumsum(size) - size
        # One row for each picture in each pass of each pool, pass after pass.
        pool = np.repeat(np.arange(len(pools)), size)
        number = np.arange(size.sum()) - start[pool]
        position = number % length[pool] + (np.cumsum(length) - length)[pool]  # in the concatenation of all pools
        turn = number // length[pool]
        first_pass = (np.cumsum(passes) - passes)[pool]

        def sent(numbers: NDArray[np.int64]) -> Tensor:
            return torch.from_numpy(numbers).to(device)

        self._groups = torch.arange(len(pools), device=device)
        self._length, self._start, self._pool, self._turn = sent(length), sent(start), sent(pool), sent(turn)
        self._position = sent(position)
        self._picture = sent(np.concatenate(pools)[position])
        self._rank = sent(first_pass + turn << 32)  # keeps the pictures of a pass together in the sort

    def __call__(self, n: Tensor, first: int, ahead: int) -> Tensor:
        """Indices of the pictures of draws, or of those that many places ahead in their passes.

        Args:
            n: (K, N) int64, numbers of the draws of a chunk.
            first: the smallest of them.
            ahead: at least 0.
        """
        groups = len(self._groups)
        first_block = first // groups
        block = torch.arange(first_block, first_block + self._blocks, device=n.device)  # (B,)
        order = _hash(self._keys[0], block[:, None], self._groups).argsort(stable=True)  # (B, G)
        turn = block[:1] // self._length  # (G,) the first pass of each pool
        key = self._rank + (_hash(self._keys[1], turn[self._pool] + self._turn, self._position) & 2**32 - 1)
        picture = self._picture[key.argsort(stable=True)]

        pool = order.flatten()[n - first_block * groups]
        block, length = n // groups, self._length[pool]
        position = (block // length - turn[pool]) * length + (block + ahead) % length
        return picture[self._start[pool] + position]


def _key(seed: int, purpose: str) -> int:
    """A signed 64-bit key for one purpose of random numbers."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {purpose}".encode(), digest_size=8).digest(), "big", signed=True)


def _hash(key: int, *numbers: Tensor) -> Tensor:
    """64 random bits for each tuple of numbers: the finaliser of splitmix64 after each (Steele et al., 2014)."""
    state: int | Tensor = key
    for number in numbers:
        state = number * _GAMMA + state
        state = (state ^ _shifted(state, 30)) * _FACTORS[0]
        state = (state ^ _shifted(state, 27)) * _FACTORS[1]
        state = state ^ _shifted(state, 31)
    assert isinstance(state, Tensor)
    return state


def _shifted(bits: Tensor, count: int) -> Tensor:
    """Logical shift to the right."""
    return bits >> count & (1 << 64 - count) - 1
