"""Parallel processes with ordered results."""

import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Iterable
from typing import Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from cyclegan_age.config import UserError

T = TypeVar("T")
R = TypeVar("R")


def processors() -> int:
    """Number of processors available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_processes(
    work: Callable[[T], R], items: Iterable[T], processes: int, *, pin_memory: bool = False
) -> Generator[R, None, None]:
    """The results of `work` for each item, in the order of the items, two items ahead in each process.

    The processes are not forks of this one, which would share its CUDA context and the locks of its threads. They end
    with the iterator, and with this process. They log nothing.

    Args:
        work: called in the processes; it and its results are pickled.
        items: may have no end.
        processes: number of them.
        pin_memory: whether the tensors of the results are in page-locked memory.

    Raises:
        UserError: raised by `work`.
        UserError: raised by `work`.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cyclegan_age.data.batches"])  # one import of torch for all of them
    loader: DataLoader[R | UserError] = DataLoader(
        _Work(work),
        batch_size=None,
        sampler=items,
        num_workers=processes,
        collate_fn=_as_it_is,
        pin_memory=pin_memory,
        worker_init_fn=_begin,
        multiprocessing_context=context,
        generator=torch.Generator(),  # separate: the loader must not change the training's RNG state
    )
    for result in loader:
        if isinstance(result, UserError):
            raise result
        yield result


class _Work(Dataset[R | UserError], Generic[T, R]):
    """A function in the interface of a Dataset."""

    def __init__(self, work: Callable[[T], R]) -> None:
        self.work = work

    def __getitem__(self, item: T) -> R | UserError:
        try:
            return self.work(item)
        except UserError as e:  # returned as a result: the loader would add a traceback to its text
            return e


def _as_it_is(result: T) -> T:
    return result


def _begin(process: int) -> None:
    logging.getLogger("cyclegan_age").disabled = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the process that reads the results decides
