"""Batches for training, made ahead of their use by a thread or by processes."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from threading import Event

import torch
from torch import Tensor

from cyclegan_age.config import UserError
from cyclegan_age.data.draws import SOURCE, BatchFields, Draws, Pool
from cyclegan_age.data.workers import in_processes, processors
from cyclegan_age.images import to_float

_AHEAD = 4  # batches prepared ahead
_MOST_PROCESSES = 16


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


def prepared(
    draws: Draws, start_step: int, rank: int, world: int, device: torch.device
) -> Generator[Batch, None, None]:
    """Batches made by a thread."""
    with ThreadPoolExecutor(1, "batches") as thread:
        ahead = deque(thread.submit(draws.fields, start_step + i, rank, world) for i in range(_AHEAD))
        step = start_step + _AHEAD
        try:
            while True:
                made = ahead.popleft().result()
                ahead.append(thread.submit(draws.fields, step, rank, world))
                step += 1
                # not in the thread, where torch would start additional OpenMP threads
                yield to_batch(tuple(x.to(device) for x in made))
        finally:
            thread.shutdown(wait=True, cancel_futures=True)


def streamed(
    draws: Draws, start_step: int, rank: int, world: int, device: torch.device
) -> Generator[Batch, None, None]:
    """Batches made by processes."""
    processes = min(max(1, processors() // world), _MOST_PROCESSES)
    made = in_processes(
        partial(make, draws, rank, world), count(start_step), processes, pin_memory=device.type == "cuda"
    )
    with closing(prefetching(draws, _named(draws, made), start_step, rank, world)) as whole:
        yield from _copied(whole, device)


def prefetching(
    draws: Draws, made: Iterable[BatchFields], start_step: int, rank: int, world: int
) -> Generator[BatchFields, None, None]:
    """The batches unchanged; meanwhile a thread fetches the shards of the next window."""
    if not draws.windows:
        yield from made
        return
    windows, stop, last = draws.windows[SOURCE], Event(), None

    def fetch(shards: Pool) -> None:
        with suppress(UserError):  # raised again at their use
            draws.cache.fetch(shards, stop.is_set)

    with ThreadPoolExecutor(1, "shards") as thread:
        try:
            for step, batch in zip(count(start_step), made, strict=False):
                turn, k = place = windows.place(draws.first(step, rank, world))
                if place != last:
                    last = place
                    thread.submit(fetch, windows.shards(turn, k + 1))
                yield batch
        finally:
            stop.set()
            thread.shutdown(wait=True, cancel_futures=True)


def make(draws: Draws, rank: int, world: int, step: int) -> tuple[BatchFields, dict[Path, str]]:
    """A batch made in another process, and the bad files known there."""
    return draws.fields(step, rank, world), draws.cache.bad


def _named(draws: Draws, made: Iterable[tuple[BatchFields, dict[Path, str]]]) -> Iterator[BatchFields]:
    for batch, bad in made:
        draws.cache.leave_out(bad)
        yield batch


def to_batch(made: BatchFields) -> Batch:
    """A batch of such fields."""
    x_source, age_source, x_target, age_target, *labels = made
    return Batch(to_float(x_source), age_source, to_float(x_target), age_target, *labels)


def _copied(made: Iterable[BatchFields], device: torch.device) -> Iterator[Batch]:
    """Batches on a device; a GPU copies the next one while this one is used."""
    if device.type != "cuda":
        yield from map(to_batch, made)
        return
    side, ahead = torch.cuda.Stream(device), deque[tuple[Batch, torch.cuda.Event]]()
    for tensors in made:
        with torch.cuda.stream(side):
            batch = to_batch(tuple(x.to(device, non_blocking=True) for x in tensors))
            ahead.append((batch, side.record_event()))
        if len(ahead) == 2:
            batch, copied = ahead.popleft()
            here = torch.cuda.current_stream(device)
            here.wait_event(copied)
            for x in vars(batch).values():
                x.record_stream(here)  # or its memory would be reused before this stream has finished
            yield batch
