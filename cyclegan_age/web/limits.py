"""What keeps the service answering: one worker with a short queue, a time limit, a size limit, few open routes."""

import asyncio
import json
import math
import re
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

T = TypeVar("T")

_SLACK = 100_000  # bytes of a request besides its pictures
_DRAINED = 8  # times the limit that is read, and dropped, of a request that is refused
# What the page may load: what its own server has, and what it holds itself. Gradio compiles templates in the browser.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; object-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'self'"
)
_PREFIX = re.compile(r"(/[\w.~-]+)+", re.ASCII)  # of a path that a proxy may say
_MAX_AGE = 600  # seconds that a browser may remember what `allow_origin` allows
# Gradio's routes that the page and gradio_client need. The rest stays closed, its files and uploads above all.
_OPEN = (
    *("/", "/config", "/theme.css", "/favicon.ico", "/robots.txt", "/manifest.json", "/openapi.json"),
    *("/gradio_api/info", "/gradio_api/heartbeat/*", "/gradio_api/queue/join", "/gradio_api/queue/data"),
    *("/gradio_api/startup-events", "/gradio_api/cancel", "/gradio_api/reset", "/gradio_api/login_check"),
    *("/gradio_api/call/*", "/gradio_api/app_id", "/api/*", "/assets/*", "/static/*", "/svelte/*"),
)


class Refused(Exception):
    """A request that is not done.

    Attributes:
        status: HTTP's.
        text: one line for a person: the cause and the remedy.
        waiting: requests in the queue, where that is the cause.
        retry_after: seconds, likewise.
    """

    def __init__(self, status: int, text: str, *, waiting: int | None = None, retry_after: int | None = None) -> None:
        super().__init__(text)
        self.status, self.text, self.waiting, self.retry_after = status, text, waiting, retry_after

    @property
    def body(self) -> dict[str, Any]:
        """The answer, as JSON holds it."""
        return {"error": self.text} | ({} if self.waiting is None else {"waiting": self.waiting})

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}


class Worker:
    """Does one job after the other in a thread of its own, for requests and for the page alike.

    Args:
        most: jobs that may wait besides the one that is done.
        seconds: time that a job may take, waiting included.
        before: done before each job.
    """

    def __init__(self, most: int, seconds: float, before: Callable[[], object] = lambda: None) -> None:
        self._most, self._seconds, self._before = most, seconds, before
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="worker")
        self._lock = threading.Lock()
        self._jobs = 0  # waiting and running
        self._mean = 0.5  # seconds that a job took of late

    @property
    def waiting(self) -> int:
        """Jobs that wait."""
        return max(0, self._jobs - 1)

    async def run(self, job: Callable[[], T]) -> T:
        """Do a job when its turn comes.

        A job that is not done in time and has not begun is dropped. One that has begun ends in its own time, and those
        that wait behind it count as before.

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
        """Take no more jobs."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class Gate:
    """ASGI middleware: closed routes are not found, and a body is read whole, or refused, before the application runs.

    Args:
        app: what is behind it.
        most: bytes of a picture.
        held: bytes of bodies kept at the same time, over which requests are refused with 503.
        seconds: time for sending a body.
        root_path: path below which a proxy shows the application, as `/aging`; `X-Forwarded-Prefix` overrides it.
        allow_origin: origins whose pages may read the answers (CORS), as `https://example.org`; `*` stands for all.
    """

    def __init__(
        self,
        app: ASGIApp,
        most: int,
        held: int,
        seconds: float,
        *,
        root_path: str = "",
        allow_origin: Sequence[str] = (),
    ) -> None:
        self._app, self._most, self._seconds = app, most, seconds
        self._root_path, self._allow_origin = root_path, allow_origin
        self.held, self.now = held, 0
        self._tasks: set[asyncio.Task[Any]] = set()

    def close(self) -> None:
        """End the answers that go on for as long as a page is open, so that the server can stop."""
        for task in self._tasks:
            task.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        begun, ended = False, False
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        scope, path = _below(scope, headers, self._root_path)
        told = [(b"content-security-policy", _POLICY.encode()), (b"x-content-type-options", b"nosniff")]
        told += self._cors(headers)
        held = _Held(self)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)

        async def answer(message: Message) -> None:
            nonlocal begun, ended
            if message["type"] == "http.response.start":
                begun = True
                own = [one for one in message["headers"] if not one[0].lower().startswith(b"access-control-")]
                message = {**message, "headers": [*own, *told]}  # Gradio's own would allow other origins
            ended = ended or (message["type"] == "http.response.body" and not message.get("more_body"))
            await send(message)

        try:
            if not _is_open(path):
                raise Refused(404, "no such page")
            if scope.get("method") == "OPTIONS" and "access-control-request-method" in headers:
                if not self._allows(headers.get("origin", "")):
                    raise Refused(403, "pages of this origin may not ask; start demo.py with --allow_origin ORIGIN")
                await answer({"type": "http.response.start", "status": 204, "headers": []})
                await answer({"type": "http.response.body", "body": b""})
                return
            # The page sends up to two pictures in one message, in Base64.
            most = (self._most if path.startswith("/api/") else self._most * 8 // 3) + _SLACK
            body = await self._body(receive, most, held)
            answering = self._app(scope, _replay(body, receive), answer)
            await (_unless_left(answering, receive) if path.startswith("/api/") else answering)
        except Refused as no:
            await _answer(answer, no.status, no.body, no.headers)
        except asyncio.CancelledError:  # by `close`
            if begun and not ended:
                await answer({"type": "http.response.body", "body": b""})
            elif not begun:
                await _answer(answer, 503, {"error": "the server is being stopped"}, {})
        finally:
            self._tasks.discard(task)
            held.drop()

    def _allows(self, origin: str) -> bool:
        return bool(origin) and ("*" in self._allow_origin or origin in self._allow_origin)

    def _cors(self, headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
        """Header lines of CORS for a request, the same for its preflight and for every answer, refusals included."""
        if not self._allow_origin:
            return []
        told = [] if "*" in self._allow_origin else [("vary", "Origin")]
        origin = headers.get("origin", "")
        if self._allows(origin):
            told.append(("access-control-allow-origin", "*" if "*" in self._allow_origin else origin))
            told.append(("access-control-expose-headers", "Retry-After, X-Note"))
            if "access-control-request-method" in headers:
                told += [
                    ("access-control-allow-methods", "GET, POST"),
                    ("access-control-allow-headers", headers.get("access-control-request-headers", "Content-Type")),
                    ("access-control-max-age", str(_MAX_AGE)),
                ]
        return [(name.encode(), value.encode("latin-1")) for name, value in told]

    async def _body(self, receive: Receive, most: int, held: "_Held") -> bytes:
        try:
            size, body = await asyncio.wait_for(_read(receive, most, held), self._seconds)
        except asyncio.TimeoutError:
            raise Refused(408, f"the picture took more than {self._seconds:g} s to arrive; try again") from None
        if size > most:
            raise Refused(413, f"larger than {self._most / 1e6:g} MB; send a smaller file")
        if held.full:
            raise Refused(503, "busy: too many pictures at the same time; try again in 2 s", retry_after=2)
        return body


class _Held:
    """Bytes of a gate's bodies that one request holds; alone it may hold any number."""

    def __init__(self, gate: Gate) -> None:
        self._gate, self._mine, self.full = gate, 0, False

    def take(self, count: int) -> bool:
        """Count some more, if there is room for them; without room there is none any more."""
        others = self._gate.now - self._mine
        self.full = self.full or (others > 0 and self._gate.now + count > self._gate.held)
        if not self.full:
            self._mine += count
            self._gate.now += count
        return not self.full

    def drop(self) -> None:
        """Hold nothing."""
        self._gate.now -= self._mine
        self._mine = 0


async def _read(receive: Receive, most: int, held: _Held) -> tuple[int, bytes]:
    """The size of a body and, where there is room for it, the body.

    One that has none, or is larger than `most`, is read on for a while and dropped, so that its sender listens.
    """
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        part: bytes = message.get("body", b"")
        size += len(part)
        if size <= most and held.take(len(part)):
            parts.append(part)
        else:
            parts.clear()
            held.drop()
        if not message.get("more_body") or size > _DRAINED * most:
            return size, b"".join(parts)


def _below(scope: Scope, headers: Mapping[str, str], root_path: str) -> tuple[Scope, str]:
    """A request as applications below a path take it, and its path below that.

    A proxy may leave the path before the request's or not. Where it names the host that the browser asked, that one is
    taken for the request's.
    """
    given = headers.get("x-forwarded-prefix", "").partition(",")[0].strip().rstrip("/")
    prefix = given if len(given) <= 200 and _PREFIX.fullmatch(given) else root_path
    path: str = scope["path"]
    if prefix and (path == prefix or path.startswith(f"{prefix}/")):
        path = path[len(prefix) :] or "/"
    told = scope["headers"]
    if host := headers.get("x-forwarded-host", "").partition(",")[0].strip():
        told = [one for one in told if one[0] not in (b"host", b"x-forwarded-host")] + [
            (b"host", host.encode("latin-1"))
        ]
    full = f"{prefix}{path}"
    return {**scope, "path": full, "raw_path": full.encode(), "root_path": prefix, "headers": told}, path


def _is_open(path: str) -> bool:
    return any(path.startswith(one[:-1]) if one.endswith("*") else path.rstrip("/") == one.rstrip("/") for one in _OPEN)


def _replay(body: bytes, receive: Receive) -> Receive:
    told = False

    async def again() -> Message:
        nonlocal told
        if told:
            return await receive()  # that the sender has gone
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _unless_left(answering: Awaitable[None], receive: Receive) -> None:
    """Answer a request, or cancel that once its sender has gone: a job that still waits is then not done."""

    async def left() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(answering), asyncio.ensure_future(left())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
    if isinstance(done[0], Exception):
        raise done[0]


async def _answer(send: Send, status: int, body: Mapping[str, Any], headers: Mapping[str, str]) -> None:
    data = json.dumps(body).encode()
    told = {"content-type": "application/json", "content-length": str(len(data)), **headers}
    lines = [(name.encode(), value.encode()) for name, value in told.items()]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": data})
