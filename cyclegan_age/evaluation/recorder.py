"""Records of whole rows, made in parallel processes."""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process

import torch
from tqdm import tqdm

from cyclegan_age.config import UserError
from cyclegan_age.evaluation.faces import Row
from cyclegan_age.evaluation.records import Plan, Record, Renderer

_PAUSE_SECONDS = 20.0  # between two lines of the progress bar in a file


@dataclass(eq=False)
class Recorder:
    """Makes the records of whole rows, in several processes if requested.

    Attributes:
        renderer: of this process.
        workers: number of other processes; 0 uses only this one.
    """

    plan: Plan
    workers: int
    renderer: Renderer = field(init=False)
    _pool: ProcessPoolExecutor | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.renderer = Renderer(self.plan)

    def records(self, row: Row, numbers: Sequence[int]) -> dict[int, Record]:
        """Records of faces by index, without unreadable pictures."""
        found = {i: self.renderer.complete(row, i) for i in numbers}
        missing = [i for i in numbers if found[i] is None]
        if missing:
            pause = 0.1 if sys.stderr.isatty() else _PAUSE_SECONDS
            with tqdm(total=len(missing), desc=row.name, unit="face", mininterval=pause, maxinterval=pause) as bar:
                for i, record in self._made(row, missing):
                    found[i] = record
                    bar.update()
        return {i: record for i, record in found.items() if record}

    def _made(self, row: Row, missing: Sequence[int]) -> Iterator[tuple[int, Record]]:
        if not self.workers:
            with _one_thread():
                for i in missing:
                    yield i, self.renderer.record(row, i)
            return
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self.workers, get_context("spawn"), _begin, (self.plan,))
        waiting = {self._pool.submit(_work, row, i): i for i in missing}
        try:
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        except BrokenProcessPool:
            raise UserError(f"--workers {self.workers}: one of them was killed; use fewer if memory is short") from None

    def close(self) -> None:
        """End the processes; unfinished records are lost, finished ones are kept."""
        pool, self._pool = self._pool, None
        if pool:
            for process in [*pool._processes.values()]:  # after an interruption they may not receive a shutdown
                process.kill()
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Context with one thread, so that sums do not depend on the number of processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_renderer: Renderer | None = None  # of a process of the pool


def _begin(plan: Plan) -> None:
    global _renderer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _renderer = Renderer(plan)


def _end_with_parent() -> None:
    """End this process if its parent was killed."""
    parent = parent_process()
    if parent:
        parent.join()
        os._exit(1)


def _work(row: Row, i: int) -> Record:
    assert _renderer
    return _renderer.record(row, i)
