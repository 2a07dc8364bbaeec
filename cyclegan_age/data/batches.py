"""Balanced batches that depend on the step alone, so that a resumed training draws the same batches.

Every draw has a number n = (step * world + rank) * batch_size + i. Each block of as many draws as there are age groups
contains each group once, in random order. No picture of a group repeats before all of them were drawn.

On a GPU the pictures lie in its memory and the draws are computed there, see `ResidentPictures`. If they do not fit,
other processes make the batches. On a CPU a thread makes them, and other processes those of shards. If too few shards
are available at once, the draws take windows of shards one after the other, see `Windows`.
"""

import logging
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count, islice, zip_longest
from math import lcm
from pathlib import Path
from threading import Event

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cyclegan_age.config import UserError
from cyclegan_age.data.cache import PictureCache, Pictures
from cyclegan_age.data.resident import ResidentPictures
from cyclegan_age.data.windows import Windows
from cyclegan_age.data.workers import in_processes, processors
from cyclegan_age.images import Picture, to_float

_SOURCE, _TARGET = 0, 1  # streams
_GROUPS, _ELEMENTS, _CROP, _WINDOWS = 0, 1, 2, 3  # purposes of a random number
_AHEAD = 4  # batches prepared ahead
_MOST_PROCESSES = 16
_MOST_REPEATS = 4  # maximum per picture in a balanced pool

Pool = NDArray[np.int64]
Made = tuple[Tensor, ...]  # fields of a Batch, pictures still uint8 (N, S, S, 3)

log = logging.getLogger("cyclegan_age")


@dataclass(frozen=True, eq=False)
class Batch:
    """Two independent draws of pictures with their ages.

    Attributes:
        x_source: (N, 3, S, S) float32 in [-1, 1].
        age_source: (N,) float32, years.
        x_target: (N, 3, S, S) float32 in [-1, 1].
        age_target: (N,) float32, years.
        label_source: (N, L) float32, the model's other labels of each picture: its person, its sex, a teacher's output;
            or uint8, its mask. L is 0 without labels.
        label_target: the same for x_target.
    """

    x_source: Tensor
    age_source: Tensor
    x_target: Tensor
    age_target: Tensor
    label_source: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    label_target: Tensor = field(default_factory=lambda: torch.zeros(0, 0))


@dataclass(frozen=True)
class _Draw:
    pictures: Picture  # (N, S, S, 3)
    age_years: NDArray[np.float32]  # (N,)
    labels: NDArray[np.float32 | np.uint8]  # (N, L)


class FaceData:
    """Batches of the pictures of a cache.

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
        held_out: indices of the pictures, for each age group, that are in no pool; `fixed` shows them.
        paired: whether the target is the picture after its source in the order of one pool, such as two pictures of one
            person, instead of an independent draw.

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
        held_out: Sequence[Pool] = (),
        paired: bool = False,
    ) -> None:
        if image_size > cache.size:
            raise ValueError(f"image_size {image_size} is more than the cache's {cache.size}")
        self._pools = {_SOURCE: list(source_pools), _TARGET: list(target_pools)}
        if not all(pools and all(len(pool) for pool in pools) for pools in self._pools.values()):
            raise ValueError("no pools, or an empty one")
        self._cache = cache
        self._age_years = np.asarray(age_years, dtype=np.float32)
        self._labels = np.zeros((len(cache), 0), np.float32) if labels is None else labels
        self._held_out = [pool for pool in held_out if len(pool)]
        self._paired = paired
        self._image_size = image_size
        self._flip = flip
        self._batch_size = batch_size
        self._seed = seed % 2**64
        self._orders: dict[tuple[int, int], tuple[int, Pool]] = {}  # (stream, pool) -> pass, order of that pass
        self._resident: dict[torch.device, tuple[Tensor, Pool]] = {}  # (M, C, C, 3) uint8, number of each
        self._windows = self._in_windows() if cache.parts > 1 else {}

    def __len__(self) -> int:
        """Number of distinct source pictures."""
        return len(np.unique(np.concatenate(self._pools[_SOURCE])))

    @property
    def bad_files(self) -> int:
        """Number of unreadable files so far."""
        return len(self._cache.bad)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The batch of a step, independent of earlier draws.

        Args:
            step: number of steps before it.
            rank: index of this process.
            world: number of processes.

        Raises:
            UserError: no picture of a group can be read.
        """
        return _to_batch(_joined(*self._draws(step, rank, world)))

    def batches(
        self, start_step: int, rank: int = 0, world: int = 1, device: torch.device | None = None
    ) -> Generator[Batch, None, None]:
        """The batches of step `start_step` and of all following ones, without end, prepared ahead.

        On a CPU these equal `batch`; a thread makes them, or processes where each picture is decoded at each use. On a
        GPU with enough memory (at most half of the free memory is used) the pictures are loaded there, and order, crops
        and mirroring differ. Otherwise several processes make the batches of `batch`, and each is copied while the one
        before it is used.

        Close the iterator (or delete it) to end threads and processes.

        Args:
            start_step: number of steps before the first.
            rank: index of this process.
            world: number of processes.
            device: device of the batches; CPU if None.

        Raises:
            UserError: no picture of a group can be read.
        """
        if device is None or device.type != "cuda":
            device = device or torch.device("cpu")
            if isinstance(self._cache, PictureCache):
                return self._prepared(start_step, rank, world, device)
            return self._streamed(start_step, rank, world, device)
        needed, free = len(self._used()) * self._cache.size**2 * 3, torch.cuda.mem_get_info(device)[0]
        fits = device in self._resident or needed <= free // 2
        if rank == 0:
            where = "in GPU memory" if fits else "read from disk"
            log.info(
                "pictures are %s: they take %.2f GB, %.2f GB of GPU memory are free", where, needed / 1e9, free / 1e9
            )
        if not fits:
            return self._streamed(start_step, rank, world, device)
        pictures = self.resident(device, rank, world)
        return (Batch(*pictures.batch(step)) for step in count(start_step))

    def resident(self, device: torch.device, rank: int = 0, world: int = 1) -> ResidentPictures:
        """The pictures of all pools on a device, loaded at the first call; the draws are computed there.

        Raises:
            UserError: no picture of a group can be read.
        """
        if device not in self._resident:
            self._resident[device] = self._load(device, progress=rank == 0)
        pictures, loaded = self._resident[device]
        place = np.full(len(self._cache), -1)
        place[loaded] = np.arange(len(loaded))
        pools = {s: [place[pool][place[pool] >= 0] for pool in pools] for s, pools in self._pools.items()}
        for stream, readable in pools.items():
            for k, pool in enumerate(readable):
                if not len(pool):
                    raise self._none_readable(self._pools[stream][k])
        return ResidentPictures(
            pictures=pictures,
            age_years=torch.from_numpy(self._age_years[loaded]).to(device),
            labels=torch.from_numpy(self._labels[loaded]).to(device),
            source_pools=pools[_SOURCE],
            target_pools=pools[_TARGET],
            image_size=self._image_size,
            flip=self._flip,
            batch_size=self._batch_size,
            seed=self._seed,
            paired=self._paired,
            rank=rank,
            world=world,
        )

    def fixed(self, per_pool: int = 1, most: int = 16) -> tuple[Tensor, Tensor]:
        """The first readable pictures of the first `most` source pools, centre crops, for sample sheets.

        With held-out pictures all of these instead, the first of each group before the second.

        Returns:
            Pictures (M, 3, S, S) float32 in [-1, 1] and their ages (M,) float32 in years.
        """
        edge = (self._cache.size - self._image_size) // 2
        middle = slice(edge, edge + self._image_size)
        found = []
        for pool in self._held_out or self._pools[_SOURCE][:most]:
            readable = ((int(i), picture) for i in pool if (picture := self._cache.get(int(i))) is not None)
            found.append(list(islice(readable, None if self._held_out else per_pool)))
            if not found[-1]:
                raise self._none_readable(pool)
        if self._held_out:
            found = [[face for face in turn if face] for turn in zip_longest(*found)]
        pictures = [picture[middle, middle] for turn in found for _, picture in turn]
        indices = [i for turn in found for i, _ in turn]
        return to_float(np.stack(pictures)), torch.from_numpy(self._age_years[indices])

    def _used(self) -> Pool:
        """Indices of the pictures that are in a pool."""
        return np.unique(np.concatenate([pool for pools in self._pools.values() for pool in pools]))

    def _load(self, device: torch.device, *, progress: bool) -> tuple[Tensor, Pool]:
        """The readable pictures on a device, uint8 (M, C, C, 3), and their indices (M,)."""
        used, size = self._used(), self._cache.size
        pictures, loaded = torch.empty((len(used), size, size, 3), dtype=torch.uint8, device=device), used[:0]
        for indices, piece in self._cache.pieces(used, progress=progress):
            pictures[len(loaded) : len(loaded) + len(indices)] = torch.from_numpy(piece).to(device)
            loaded = np.concatenate([loaded, indices])
        return pictures[: len(loaded)], loaded

    def _prepared(self, start_step: int, rank: int, world: int, device: torch.device) -> Generator[Batch, None, None]:
        """Batches made by a thread."""
        with ThreadPoolExecutor(1, "batches") as thread:
            ahead = deque(thread.submit(self._draws, start_step + i, rank, world) for i in range(_AHEAD))
            step = start_step + _AHEAD
            try:
                while True:
                    draws = ahead.popleft().result()
                    ahead.append(thread.submit(self._draws, step, rank, world))
                    step += 1
                    # not in the thread, where torch would start additional OpenMP threads
                    yield _to_batch(tuple(x.to(device) for x in _joined(*draws)))
            finally:
                thread.shutdown(wait=True, cancel_futures=True)

    def _streamed(self, start_step: int, rank: int, world: int, device: torch.device) -> Generator[Batch, None, None]:
        """Batches made by processes."""
        processes = min(max(1, processors() // world), _MOST_PROCESSES)
        make = partial(self._make, rank, world)
        made = in_processes(make, count(start_step), processes, pin_memory=device.type == "cuda")
        with closing(self._fetching(self._named(made), start_step, rank, world)) as whole:
            yield from _copied(whole, device)

    def _fetching(self, made: Iterable[Made], start_step: int, rank: int, world: int) -> Generator[Made, None, None]:
        """The batches unchanged; meanwhile a thread fetches the shards of the next window."""
        if not self._windows:
            yield from made
            return
        windows, stop, last = self._windows[_SOURCE], Event(), None

        def fetch(shards: Pool) -> None:
            with suppress(UserError):  # raised again at their use
                self._cache.fetch(shards, stop.is_set)

        with ThreadPoolExecutor(1, "shards") as thread:
            try:
                for step, batch in zip(count(start_step), made, strict=False):
                    turn, k = place = windows.place(self._first(step, rank, world))
                    if place != last:
                        last = place
                        thread.submit(fetch, windows.shards(turn, k + 1))
                    yield batch
            finally:
                stop.set()
                thread.shutdown(wait=True, cancel_futures=True)

    def _make(self, rank: int, world: int, step: int) -> tuple[Made, dict[Path, str]]:
        """A batch made in another process, and the bad files known there."""
        return _joined(*self._draws(step, rank, world)), self._cache.bad

    def _named(self, made: Iterable[tuple[Made, dict[Path, str]]]) -> Iterator[Made]:
        for batch, bad in made:
            self._cache.leave_out(bad)
            yield batch

    def _draws(self, step: int, rank: int, world: int) -> tuple[_Draw, _Draw]:
        first = self._first(step, rank, world)
        return self._draw(_SOURCE, first), self._draw(_TARGET, first)

    def _first(self, step: int, rank: int, world: int) -> int:
        """Number of the first draw of a batch."""
        return (step * world + rank) * self._batch_size

    def _draw(self, stream: int, first: int) -> _Draw:
        """Draws first .. first + batch_size - 1 of a stream."""
        pools, edge = self._pools[stream], self._cache.size - self._image_size
        ordered, ahead = (_SOURCE, stream) if self._paired else (stream, 0)
        pictures, indices = [], []
        for n in range(first, first + self._batch_size):
            if self._windows:
                index, picture = self._within(self._windows[stream], n)
            else:
                block, slot = divmod(n, len(pools))
                pool = int(self._random(ordered, _GROUPS, block).permutation(len(pools))[slot])
                index, picture = self._element(ordered, pool, block, ahead)
            random = self._random(stream, _CROP, n)
            top, left = random.integers(0, edge, 2, endpoint=True)
            crop = picture[top : top + self._image_size, left : left + self._image_size]
            pictures.append(crop[:, ::-1] if self._flip and random.random() < 0.5 else crop)
            indices.append(index)
        return _Draw(np.stack(pictures), self._age_years[indices], self._labels[indices])

    def _element(self, stream: int, pool: int, visit: int, ahead: int) -> tuple[int, Picture]:
        """The picture of the given visit to a pool, or the picture that many places ahead in the order of the pass.

        A bad picture is replaced by the next good one of the pass.
        """
        members = self._pools[stream][pool]
        turn, position = divmod(visit, len(members))
        last, order = self._orders.get((stream, pool), (-1, members))
        if last != turn:
            order = self._random(stream, _ELEMENTS, turn, pool).permutation(members)
            self._orders[stream, pool] = turn, order
        for k in range(len(order)):
            index = int(order[(position + ahead + k) % len(order)])
            if (picture := self._cache.get(index)) is not None:
                return index, picture
        raise self._none_readable(members)

    def _in_windows(self) -> dict[int, Windows]:
        """The draws of both streams, which use the same windows."""
        if self._paired:
            raise UserError(
                "--shard_cache: pairs of pictures of one person need all shards at once; raise it to their "
                "size, or use copies of them in a local folder"
            )
        groups = lcm(*(len(pools) for pools in self._pools.values()))
        return {
            stream: Windows(
                pools=pools,
                shard_of=self._cache.part_of,
                shards=int(self._cache.part_of.max()) + 1,
                count=self._cache.parts,
                length=-(-len(self) // groups) * groups,
                random=partial(self._random, _SOURCE, _WINDOWS),
                stream=stream,
            )
            for stream, pools in self._pools.items()
        }

    def _within(self, windows: Windows, n: int) -> tuple[int, Picture]:
        """The picture of draw n; a bad one is replaced by another one of its window."""
        for index in windows.candidates(n):
            if (picture := self._cache.get(index)) is not None:
                return index, picture
        raise self._none_readable(np.fromiter(windows.candidates(n), np.int64))

    def _random(self, stream: int, purpose: int, *numbers: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([self._seed, stream, purpose, *numbers])))

    def _none_readable(self, pool: Pool) -> UserError:
        path = self._cache.paths[int(pool[0])]
        cause = f"{path.name}: {self._cache.bad[path]}"
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


def _joined(source: _Draw, target: _Draw) -> Made:
    arrays = (
        source.pictures,
        source.age_years,
        target.pictures,
        target.age_years,
        source.labels,
        target.labels,
    )
    return tuple(torch.from_numpy(array) for array in arrays)


def _to_batch(made: Made) -> Batch:
    x_source, age_source, x_target, age_target, *labels = made
    return Batch(to_float(x_source), age_source, to_float(x_target), age_target, *labels)


def _copied(made: Iterable[Made], device: torch.device) -> Iterator[Batch]:
    """Batches on a device; a GPU copies the next one while this one is used."""
    if device.type != "cuda":
        yield from map(_to_batch, made)
        return
    side, ahead = torch.cuda.Stream(device), deque[tuple[Batch, torch.cuda.Event]]()
    for tensors in made:
        with torch.cuda.stream(side):
            batch = _to_batch(tuple(x.to(device, non_blocking=True) for x in tensors))
            ahead.append((batch, side.record_event()))
        if len(ahead) == 2:
            batch, copied = ahead.popleft()
            here = torch.cuda.current_stream(device)
            here.wait_event(copied)
            for x in vars(batch).values():
                x.record_stream(here)  # or its memory would be reused before this stream has finished
            yield batch
