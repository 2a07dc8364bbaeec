"""Balanced random draws of pictures; each depends on its number alone.

Every draw has a number n = (step * world + rank) * batch_size + i. Each block of as many draws as there are age groups
contains each group once, in random order. No picture of a group repeats before all of them were drawn. If too few
shards are available at once, the draws take windows of shards one after the other, see `Windows`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import lcm

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cyclegan_age.config import UserError
from cyclegan_age.data.cache import Pictures
from cyclegan_age.data.windows import Windows
from cyclegan_age.images import Picture

SOURCE, TARGET = 0, 1  # streams
_GROUPS, _ELEMENTS, _CROP, _WINDOWS = 0, 1, 2, 3  # purposes of a random number
_MOST_REPEATS = 4  # maximum per picture in a balanced pool

Pool = NDArray[np.int64]
BatchFields = tuple[Tensor, ...]  # fields of a Batch, pictures still uint8 (N, S, S, 3)


@dataclass(frozen=True)
class _Draw:
    pictures: Picture  # (N, S, S, 3)
    age_years: NDArray[np.float32]  # (N,)
    labels: NDArray[np.float32 | np.uint8]  # (N, L)


class Draws:
    """The pictures of each step, as arrays.

    Args:
        cache: the pictures.
        age_years: (len(cache),) age of each in years.
        source_pools: for each age group the indices of its pictures in the cache; one pool for one domain.
        target_pools: the same for the targets.
        image_size: side in pixels of the random crops; at most the cache's.
        flip: whether half of the pictures are mirrored.
        batch_size: pictures per batch.
        seed: seed of order, crops and mirroring.
        labels: (len(cache), L) float32 or uint8 of each picture, see `Batch`; without it L is 0.
        paired: whether the target is the next picture of the source's shuffled pool, such as another picture of the
            same person, instead of an independent draw.

    Attributes:
        pools: those of the sources and of the targets, by stream.
        windows: of each stream if not all shards are available at once, else empty.

    Raises:
        UserError: pairs are required, but not all pictures are available at once.
    """

    def __init__(
        self,
        *,
        cache: Pictures,
        age_years: NDArray[np.float32],
        source_pools: Sequence[Pool],
        target_pools: Sequence[Pool],
        image_size: int,
        flip: bool,
        batch_size: int,
        seed: int,
        labels: NDArray[np.float32 | np.uint8] | None = None,
        paired: bool = False,
    ) -> None:
        if image_size > cache.size:
            raise ValueError(f"image_size {image_size} is more than the cache's {cache.size}")
        self.cache = cache
        self.pools = {SOURCE: list(source_pools), TARGET: list(target_pools)}
        if not all(pools and all(len(pool) for pool in pools) for pools in self.pools.values()):
            raise ValueError("no pools, or an empty one")
        self.age_years = np.asarray(age_years, dtype=np.float32)
        self.labels = np.zeros((len(cache), 0), np.float32) if labels is None else labels
        self.image_size, self.flip, self.batch_size = image_size, flip, batch_size
        self.seed, self.paired = seed % 2**64, paired
        self._orders: dict[tuple[int, int], tuple[int, Pool]] = {}  # (stream, pool) -> pass, order of that pass
        self.windows = self._in_windows() if cache.parts > 1 else {}

    def used(self) -> Pool:
        """Indices of the pictures that are in a pool."""
        return np.unique(np.concatenate([pool for pools in self.pools.values() for pool in pools]))

    def fields(self, step: int, rank: int, world: int) -> BatchFields:
        """The fields of a batch."""
        first = self.first(step, rank, world)
        source, target = self._draw(SOURCE, first), self._draw(TARGET, first)
        arrays = (
            source.pictures,
            source.age_years,
            target.pictures,
            target.age_years,
            source.labels,
            target.labels,
        )
        return tuple(torch.from_numpy(array) for array in arrays)

    def first(self, step: int, rank: int, world: int) -> int:
        """Number of the first draw of a batch."""
        return (step * world + rank) * self.batch_size

    def _draw(self, stream: int, first: int) -> _Draw:
        """Draws first .. first + batch_size - 1 of a stream."""
        pools, margin = self.pools[stream], self.cache.size - self.image_size
        ordered, ahead = (SOURCE, stream) if self.paired else (stream, 0)
        pictures, indices = [], []
        for n in range(first, first + self.batch_size):
            if self.windows:
                index, picture = self._within(self.windows[stream], n)
            else:
                block, slot = divmod(n, len(pools))
                pool = int(self._random(ordered, _GROUPS, block).permutation(len(pools))[slot])
                index, picture = self._element(ordered, pool, block, ahead)
            random = self._random(stream, _CROP, n)
            top, left = random.integers(0, margin, 2, endpoint=True)
            crop = picture[top : top + self.image_size, left : left + self.image_size]
            pictures.append(crop[:, ::-1] if self.flip and random.random() < 0.5 else crop)
            indices.append(index)
        return _Draw(np.stack(pictures), self.age_years[indices], self.labels[indices])

    def _element(self, stream: int, pool: int, visit: int, ahead: int) -> tuple[int, Picture]:
        """The picture of the given visit to a pool, or the picture that many places ahead in the order of the pass.

        A bad picture is replaced by the next good one of the pass.
        """
        members = self.pools[stream][pool]
        turn, position = divmod(visit, len(members))
        last, order = self._orders.get((stream, pool), (-1, members))
        if last != turn:
            order = self._random(stream, _ELEMENTS, turn, pool).permutation(members)
            self._orders[stream, pool] = turn, order
        for k in range(len(order)):
            index = int(order[(position + ahead + k) % len(order)])
            if (picture := self.cache.get(index)) is not None:
                return index, picture
        raise self.none_readable(members)

    def _in_windows(self) -> dict[int, Windows]:
        """The draws of both streams, which use the same windows."""
        if self.paired:
            raise UserError(
                "--shard_cache: pairs of pictures of one person need all shards at once; raise it to their "
                "size, or use copies of them in a local folder"
            )
        groups = lcm(*(len(pools) for pools in self.pools.values()))
        return {
            stream: Windows(
                pools=pools,
                shard_of=self.cache.part_of,
                shards=int(self.cache.part_of.max()) + 1,
                count=self.cache.parts,
                length=-(-len(np.unique(np.concatenate(self.pools[SOURCE]))) // groups) * groups,
                random=partial(self._random, SOURCE, _WINDOWS),
                stream=stream,
            )
            for stream, pools in self.pools.items()
        }

    def _within(self, windows: Windows, n: int) -> tuple[int, Picture]:
        """The picture of draw n; a bad one is replaced by another one of its window."""
        for index in windows.candidates(n):
            if (picture := self.cache.get(index)) is not None:
                return index, picture
        raise self.none_readable(np.fromiter(windows.candidates(n), np.int64))

    def _random(self, stream: int, purpose: int, *numbers: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, stream, purpose, *numbers])))

    def none_readable(self, pool: Pool) -> UserError:
        """The error of a pool without readable pictures."""
        path = self.cache.paths[int(pool[0])]
        cause = f"{path.name}: {self.cache.bad[path]}"
        return UserError(f"{path.parent}: none of {len(pool)} pictures can be read ({cause}); replace them")


def balanced(pools: Sequence[Pool], kinds: NDArray[np.int64]) -> list[Pool]:
    """Pools with the same share of each kind of face, so that the kinds do not correlate with age.

    The share is the mean of those in the pools. Pictures of a rare kind are repeated up to four times, which may fall
    short of its share; no picture is dropped.

    Args:
        pools: indices of pictures.
        kinds: (n,) kind of each picture, at least 0.
    """
    counts = np.stack([np.bincount(kinds[pool], minlength=int(kinds.max()) + 1) for pool in pools])
    share = (counts / counts.sum(axis=1, keepdims=True)).mean(axis=0)
    out = []
    for pool, own in zip(pools, counts, strict=True):
        here = np.flatnonzero(own)
        length = (own[here] / share[here]).max()  # minimum that keeps every picture
        wanted = np.minimum(np.rint(share[here] * length).astype(np.int64), _MOST_REPEATS * own[here])
        out.append(np.concatenate([np.resize(pool[kinds[pool] == k], n) for k, n in zip(here, wanted, strict=True)]))
    return out
