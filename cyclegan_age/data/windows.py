"""Draws of pictures from a changing subset of shards, where not all are available at once.

In a pass over all pictures their shards come in random order, a fixed number at a time: a window. Within a window every
age group has draws in proportion to its share of pictures there. So over a pass all groups have the same number of
draws, and the counts of two pictures of a group differ by at most one.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
Random = Callable[..., np.random.Generator]

_SHARDS, _DRAWS = 0, 1  # purposes of a random number


class Windows:
    """The picture of each draw; it depends on the number of the draw alone.

    Args:
        pools: for each age group the indices of its pictures; none is empty.
        shard_of: (n,) shard of each picture.
        shards: number of shards.
        count: windows in a pass.
        length: draws in a pass; a multiple of the number of pools.
        random: numbers -> a generator; the same for the same numbers.
        stream: number of these draws among those that use the same windows.
    """

    def __init__(
        self,
        *,
        pools: Sequence[Numbers],
        shard_of: NDArray[np.int32],
        shards: int,
        count: int,
        length: int,
        random: Random,
        stream: int,
    ) -> None:
        self._pools = [pool[np.argsort(shard_of[pool], kind="stable")] for pool in pools]
        self._sizes = np.stack([np.bincount(shard_of[pool], minlength=shards) for pool in pools])  # (G, shards)
        self._ends = self._sizes.cumsum(axis=1)
        self._count, self._length, self._random, self._stream = min(count, shards), length, random, stream
        self._pass: tuple[int, list[Numbers], Numbers, Numbers] | None = None
        self._window: tuple[tuple[int, int], Numbers, Numbers] | None = None

    def candidates(self, n: int) -> Iterator[int]:
        """The picture of draw n, and its substitutes: the next of its group, then any of the window."""
        turn, k = place = self.place(n)
        if self._window is None or self._window[0] != place:
            self._window = place, *self._sequence(turn, k)
        _, pictures, groups = self._window
        i = n - turn * self._length - int(self._of_pass(turn)[2][k])
        yield int(pictures[i])
        after = np.roll(pictures, -i - 1)
        same = np.roll(groups, -i - 1) == groups[i]
        yield from after[same].tolist()
        yield from after[~same].tolist()

    def place(self, n: int) -> tuple[int, int]:
        """The pass of a draw, and the window in it."""
        turn, rest = divmod(n, self._length)
        return turn, int(np.searchsorted(self._of_pass(turn)[2], rest, side="right")) - 1

    def shards(self, turn: int, k: int) -> Numbers:
        """The shards of window k of a pass; k may be one too large."""
        return self._of_pass(turn)[1][k] if k < self._count else self._of_pass(turn + 1)[1][0]

    def _of_pass(self, turn: int) -> tuple[int, list[Numbers], Numbers, Numbers]:
        """The pass; its windows' shards; their first draws (K,); and the draws of each group in each (G, K)."""
        if self._pass is None or self._pass[0] != turn:
            order = self._random(_SHARDS, turn).permutation(self._sizes.shape[1])
            windows = np.array_split(order, self._count)
            held = np.stack([self._sizes[:, window].sum(axis=1) for window in windows], axis=1)  # (G, K)
            up_to = np.rint(held.cumsum(axis=1) / held.sum(axis=1, keepdims=True) * (self._length // len(self._pools)))
            draws = np.diff(up_to.astype(np.int64), prepend=0, axis=1)
            self._pass = turn, windows, draws.sum(axis=0).cumsum() - draws.sum(axis=0), draws
        return self._pass

    def _sequence(self, turn: int, k: int) -> tuple[Numbers, Numbers]:
        """The pictures of a window in the order of its draws, groups evenly mixed, and their groups."""
        random = self._random(_DRAWS, turn, k, self._stream)
        window, draws = self.shards(turn, k), self._of_pass(turn)[3][:, k]
        pictures, times = [], []
        for pool, sizes, ends, count in zip(self._pools, self._sizes, self._ends, draws.tolist(), strict=True):
            members = np.concatenate([pool[ends[s] - sizes[s] : ends[s]] for s in window])
            passes = -(-count // max(1, len(members)))
            pictures.append(
                np.concatenate([members[:0], *(random.permutation(members) for _ in range(passes))])[:count]
            )
            times.append((np.arange(count) + random.random(count)) / max(1, count))
        order = np.concatenate(times).argsort(kind="stable")
        return np.concatenate(pictures)[order], np.repeat(np.arange(len(draws)), draws)[order]
