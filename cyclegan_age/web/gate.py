"""ASGI middleware before the application: open routes, limits on the size and time of a body, proxies and CORS."""

import asyncio
import json
import re
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cyclegan_age.web.limits import Refused

_SLACK = 100_000  # bytes of a request without its pictures
_DRAINED = 8  # limit, times `most`, of the bytes that are read and dropped of a refused request
# The page may load from its own server, and data URLs. Gradio compiles templates in the browser.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; object-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'self'"
)
_PREFIX = re.compile(r"(/[\w.~-]+)+", re.ASCII)  # prefix from a proxy
_MAX_AGE = 600  # seconds for which a browser may cache a preflight
# Gradio's routes that the page and gradio_client need. The rest stays closed, its files and uploads above all.
_OPEN = (
    *("/", "/config", "/theme.css", "/favicon.ico", "/robots.txt", "/manifest.json", "/openapi.json"),
    *("/gradio_api/info", "/gradio_api/heartbeat/*", "/gradio_api/queue/join", "/gradio_api/queue/data"),
    *("/gradio_api/startup-events", "/gradio_api/cancel", "/gradio_api/reset", "/gradio_api/login_check"),
    *("/gradio_api/call/*", "/gradio_api/app_id", "/api/*", "/assets/*", "/static/*", "/svelte/*"),
)


class Gate:
    """ASGI middleware: it answers 404 to closed routes, and reads or refuses a whole body before the application runs.

    Args:
        app: the application.
        most: maximum number of bytes of a picture.
        held: maximum number of bytes of all bodies in memory; further requests are refused with 503.
        seconds: time limit of sending a body.
        root_path: path at which a proxy serves the application, such as `/aging`; `X-Forwarded-Prefix` overrides it.
        allow_origin: origins whose pages may read the answers (CORS), such as `https://example.org`, or `*` for all.
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
        """End the answers to open pages, which would not end by themselves, so that the server can stop."""
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
        own = [(b"content-security-policy", _POLICY.encode()), (b"x-content-type-options", b"nosniff")]
        own += self._cors(headers)
        held = _Held(self)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)

        async def answer(message: Message) -> None:
            nonlocal begun, ended
            if message["type"] == "http.response.start":
                begun = True
                rest = [one for one in message["headers"] if not one[0].lower().startswith(b"access-control-")]
                message = {**message, "headers": [*rest, *own]}  # Gradio's CORS lines would allow other origins
            ended = ended or (message["type"] == "http.response.body" and not message.get("more_body"))
            await send(message)

        try:
            if not _is_open(path):
                raise Refused(404, "no such page")
            if scope.get("method") == "OPTIONS" and "access-control-request-method" in headers:
                if not self._allows(headers.get("origin", "")):
                    raise Refused(403, "this origin is not allowed; start demo.py with --allow_origin ORIGIN")
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
                await _answer(answer, 503, {"error": "the server stops; try again later"}, {})
        finally:
            self._tasks.discard(task)
            held.drop()

    def _allows(self, origin: str) -> bool:
        return bool(origin) and ("*" in self._allow_origin or origin in self._allow_origin)

    def _cors(self, headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
        """Header lines of CORS for a request: for its preflight and for every answer, refusals included."""
        if not self._allow_origin:
            return []
        lines = [] if "*" in self._allow_origin else [("vary", "Origin")]
        origin = headers.get("origin", "")
        if self._allows(origin):
            lines.append(("access-control-allow-origin", "*" if "*" in self._allow_origin else origin))
            lines.append(("access-control-expose-headers", "Retry-After, X-Note"))
            if "access-control-request-method" in headers:
                lines += [
                    ("access-control-allow-methods", "GET, POST"),
                    ("access-control-allow-headers", headers.get("access-control-request-headers", "Content-Type")),
                    ("access-control-max-age", str(_MAX_AGE)),
                ]
        return [(name.encode(), value.encode("latin-1")) for name, value in lines]

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
    """Bytes that one request holds of a gate's limit; a single request may hold any number."""

    def __init__(self, gate: Gate) -> None:
        self._gate, self._mine, self.full = gate, 0, False

    def take(self, count: int) -> bool:
        """Count more bytes and return True; once the limit is reached return False, for this request from then on."""
        others = self._gate.now - self._mine
        self.full = self.full or (others > 0 and self._gate.now + count > self._gate.held)
        if not self.full:
            self._mine += count
            self._gate.now += count
        return not self.full

    def drop(self) -> None:
        """Release the bytes."""
        self._gate.now -= self._mine
        self._mine = 0


async def _read(receive: Receive, most: int, held: _Held) -> tuple[int, bytes]:
    """The size of a body, and the body; empty if it is larger than `most` or exceeds the limit of `held`.

    The rest of such a body is read and dropped, up to a limit, because many clients read no answer before they have
    sent everything.
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
    """The scope for an application that is served at a path, and the request's path without that prefix.

    A proxy may send the prefix or strip it. Its `X-Forwarded-Host` replaces the host of the request.
    """
    given = headers.get("x-forwarded-prefix", "").partition(",")[0].strip().rstrip("/")
    prefix = given if len(given) <= 200 and _PREFIX.fullmatch(given) else root_path
    path: str = scope["path"]
    if prefix and (path == prefix or path.startswith(f"{prefix}/")):
        path = path[len(prefix) :] or "/"
    lines = scope["headers"]
    if host := headers.get("x-forwarded-host", "").partition(",")[0].strip():
        lines = [one for one in lines if one[0] not in (b"host", b"x-forwarded-host")] + [
            (b"host", host.encode("latin-1"))
        ]
    full = f"{prefix}{path}"
    return {**scope, "path": full, "raw_path": full.encode(), "root_path": prefix, "headers": lines}, path


def _is_open(path: str) -> bool:
    return any(path.startswith(one[:-1]) if one.endswith("*") else path.rstrip("/") == one.rstrip("/") for one in _OPEN)


def _replay(body: bytes, receive: Receive) -> Receive:
    read = False

    async def again() -> Message:
        nonlocal read
        if read:
            return await receive()  # the disconnection
        read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _unless_left(answering: Awaitable[None], receive: Receive) -> None:
    """Answer a request, or cancel the answer if the client disconnects: its job is dropped if it still waits."""

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
    content = {"content-type": "application/json", "content-length": str(len(data)), **headers}
    lines = [(name.encode(), value.encode()) for name, value in content.items()]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": data})
