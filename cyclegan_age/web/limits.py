"""Limits of the service: one worker with a short queue and a time limit, and requests that are refused."""

import asyncio
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class Refused(Exception):
    """A refused request.

    Attributes:
        status: of HTTP.
        text: one line with the cause and the remedy.
        waiting: number of requests in the queue, if it is full.
        retry_after: seconds to wait, if the queue is full.
    """

    def __init__(self, status: int, text: str, *, waiting: int | None = None, retry_after: int | None = None) -> None:
        super().__init__(text)
        self.status, self.text, self.waiting, self.retry_after = status, text, waiting, retry_after

    @property
    def body(self) -> dict[str, Any]:
        """The answer as JSON."""
        return {"error": self.text} | ({} if self.waiting is None else {"waiting": self.waiting})

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}


class Worker:
    """Does one job after the other in its own thread, for requests and for the page.

    Args:
        most: maximum number of waiting jobs.
        seconds: time limit of a job, with its waiting time.
        before: called before each job.
    """

    def __init__(self, most: int, seconds: float, before: Callable[[], object] = lambda: None) -> None:
        self._most, self._seconds, self._before = most, seconds, before
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="worker")
        self._lock = threading.Lock()
        self._jobs = 0  # waiting and running
        self._mean = 0.5  # seconds of the latest jobs

    @property
    def waiting(self) -> int:
        """Number of waiting jobs."""
        return max(0, self._jobs - 1)

    async def run(self, job: Callable[[], T]) -> T:
        """Do a job when its turn comes.

        After the time limit a waiting job is dropped. A job that has begun runs to its end, and its successors wait.

        Raises:
            Refused: 503, the queue is full; 504, the time is up.
        """
        with self._lock:
            if self._jobs > self._most:
                wait = max(1, math.ceil(self._jobs * self._mean))
                text = f"busy: {self.waiting} requests are waiting; try again in {wait} s"
                raise Refused(503, text, waiting=self.waiting, retry_after=wait)
            self._jobs += 1
            future = self._pool.submit(self._timed, job)
        future.add_done_callback(self._ended)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self._seconds)
        except asyncio.TimeoutError:
            raise Refused(504, f"not done in {self._seconds:g} s; try again, or with a smaller picture") from None

    def _timed(self, job: Callable[[], T]) -> T:
        self._before()
        begin = time.monotonic()
        try:
            return job()
        finally:
            self._mean = 0.8 * self._mean + 0.2 * (time.monotonic() - begin)

    def _ended(self, _: Future[Any]) -> None:
        with self._lock:
            self._jobs -= 1

    def close(self) -> None:
        """Accept no more jobs."""
        self._pool.shutdown(wait=False, cancel_futures=True)
