"""Curves and pictures of a training on a Visdom server."""

import http.client
import json
import logging
import math
import re
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import numpy as np
from accelerate.tracking import GeneralTracker

from cyclegan_age.config import UserError
from cyclegan_age.curves import Curves, Points, as_curves, read_metrics
from cyclegan_age.images import Picture, grid

logger = logging.getLogger("cyclegan_age")

METRICS = "metrics.jsonl"
PENDING_POINTS = 10_000  # calls of log() kept while the server is unreachable; older ones are in metrics.jsonl
CONNECT_SECONDS, ANSWER_SECONDS, FLUSH_SECONDS = 2.0, 10.0, 5.0
TICK_SECONDS, HEARTBEAT_SECONDS, SAVE_SECONDS = 0.5, 5.0, 60.0
LONGEST_REST, LONGEST_PAUSE = 60.0, 15.0  # after drawing; between attempts to connect
LOST = (OSError, http.client.HTTPException)


class VisdomTracker(GeneralTracker):
    """Curves and pictures on a Visdom server, sent by a background thread.

    Each prefix before "/" has a window with its curves (`loss/cycle` is the curve `cycle` of the window `loss`); names
    without "/" are not drawn. Each picture name has a window with the latest picture. No method raises or waits for the
    server, except `finish`, which waits a few seconds at most.

    The thread keeps one connection: while it is open, the server is the same process and keeps its data, so new points
    are appended. When it breaks, everything is drawn again from metrics.jsonl; so no point is lost or doubled.
    """

    name = "visdom"
    requires_logging_directory = False

    def __init__(self, *, run_dir: Path, name: str, server: str = "http://127.0.0.1", port: int = 8097) -> None:
        """
        Args:
            run_dir: folder whose metrics.jsonl holds the history; read only.
            name: run name; the Visdom environment (characters except letters, digits, "_", "." and "-" become "_").
            server: address starting with http:// or https://.
            port: its port.

        Raises:
            ImportError: visdom is not installed.
            UserError: `server` is not an address.
        """
        super().__init__()
        from visdom import Visdom

        address = urlsplit(server if "//" in server else f"http://{server}")
        if address.scheme not in ("http", "https") or not address.hostname:
            raise UserError(f"--visdom_server {server}: not an address; expected one such as http://127.0.0.1")
        self.env = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
        host = f"[{address.hostname}]" if ":" in address.hostname else address.hostname
        self.url = f"{address.scheme}://{host}:{port}{address.path.rstrip('/')}"
        self._metrics = run_dir / METRICS
        # Only builds the messages: its own sending has no timeout and prints.
        self._visdom = Visdom(env=self.env, send=False, use_incoming_socket=False)
        self._connection: http.client.HTTPConnection | None = None

        self._lock = threading.Lock()  # guards the next three
        self._points: deque[tuple[int, dict[str, float]]] = deque(maxlen=PENDING_POINTS)
        self._pictures: dict[str, tuple[int, list[Picture]]] = {}
        self._unsent: set[str] = set()

        self._shown: dict[str, int] = {}  # curve -> last step on the page
        self._contact = self._saved = time.monotonic()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="visdom", daemon=True)

    @property
    def tracker(self) -> Any:
        """The Visdom client for building messages; it is not connected."""
        return self._visdom

    def start(self) -> None:
        """Start the thread; the history so far appears as soon as the server answers."""
        self._thread.start()

    def log(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Draw finite numbers at `step`; other values, and a call without step, are ignored."""
        if step is not None:
            with self._lock:
                self._points.append((step, _numbers(values)))

    def log_images(
        self, values: Mapping[str, Sequence[Picture] | Picture], step: int | None = None, **kwargs: Any
    ) -> None:
        """Show pictures.

        Args:
            values: name -> uint8 (H, W, 3), (N, H, W, 3) or a list of (H, W, 3) of one size, 0..255; they are copied.
            step: step of the training, for the caption.
        """
        for name, pictures in values.items():
            single = isinstance(pictures, np.ndarray) and pictures.ndim == 3
            copies = [np.array(p) for p in ([pictures] if single else pictures)]
            with self._lock:
                self._pictures[name] = (step or 0, copies)
                self._unsent.add(name)

    def finish(self) -> None:
        """Send the rest and make the server save it, within a few seconds."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(FLUSH_SECONDS)

    # The following methods run in the thread.

    def _serve(self) -> None:
        pause, up, warned = 0.0, False, False
        while True:
            closing = self._closing.wait(pause)
            started = time.monotonic()
            try:
                self._deliver(save=closing)
                if not up:
                    logger.info("Visdom: watch the training at %s/env/%s", self.url, self.env)
                up, warned = True, False
                # The server's time for drawing grows with the curves: limit it to a tenth of all time.
                pause = min(max(TICK_SECONDS, 9 * (time.monotonic() - started)), LONGEST_REST)
            except LOST as error:
                if not warned:
                    logger.warning(
                        "Visdom at %s does not answer (%s): the training continues, the page catches up later; "
                        "make visdom starts it",
                        self.url,
                        error or type(error).__name__,
                    )
                up, warned = False, True
                pause = min(max(TICK_SECONDS, 2 * pause), LONGEST_PAUSE)
            except Exception as error:  # must never reach the training
                logger.warning("Visdom: stopped, the training continues: %s: %s", type(error).__name__, error)
                return
            if closing:
                self._disconnect()
                return

    def _deliver(self, *, save: bool) -> None:
        """Update the page; connects first if needed.

        Raises:
            LOST: the server is unreachable, also at the second attempt.
        """
        with self._lock:
            points = list(self._points)
            self._points.clear()
            names, self._unsent = self._unsent, set()
        try:
            try:
                self._update(points, names)
            except LOST:
                self._connect()
                self._draw_history(points)
                with self._lock:
                    names |= self._pictures.keys()
                self._show(names)
            now = time.monotonic()
            if save or now - self._saved > SAVE_SECONDS:
                self._post("save", {"data": [self.env]})
                self._saved = now
        except LOST:
            with self._lock:
                self._points = deque([*points, *self._points], maxlen=PENDING_POINTS)
                self._unsent |= names
            self._disconnect()
            raise

    def _update(self, points: Points, names: set[str]) -> None:
        if self._connection is None:
            raise http.client.NotConnected
        curves = as_curves(points)
        windows = {_window(name) for name in curves} & {_window(name) for name in self._shown}
        if any(steps[0] < self._shown.get(name, 0) for name, (steps, _) in curves.items()) or not all(
            self._post("win_exists", {"win": window}) == "true" for window in windows
        ):  # the run resumed from an earlier step, or someone closed a window
            self._draw_history(points)
        else:
            self._draw(curves)
        self._show(names)
        if time.monotonic() - self._contact > HEARTBEAT_SECONDS:
            self._post("win_exists", {"win": ""})

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> None:
        self._disconnect()
        address = urlsplit(self.url)
        kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
        connection = kind(cast(str, address.hostname), address.port, timeout=CONNECT_SECONDS)
        connection.connect()
        connection.auto_open = 0  # a broken connection raises; it is never silently replaced
        connection.sock.settimeout(ANSWER_SECONDS)
        self._connection = connection
        self._post("win_exists", {"win": ""})  # something listens; check that it answers

    def _post(self, endpoint: str, message: dict[str, Any]) -> str:
        if self._connection is None:
            raise http.client.NotConnected
        body = json.dumps({"eid": self.env} | message)
        path = f"{urlsplit(self.url).path}/{endpoint}"
        self._connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        answer = response.read().decode(errors="replace")
        if response.status >= 400:
            raise ConnectionError(f"HTTP {response.status}")
        self._contact = time.monotonic()
        return answer

    def _draw_history(self, points: Points) -> None:
        """Draw all windows again from metrics.jsonl and from points that are not in it yet."""
        rows = read_metrics(self._metrics)
        self._shown.clear()
        self._draw(as_curves((row["step"], _numbers(row)) for row in rows))
        self._draw(as_curves(points))

    def _draw(self, curves: Curves) -> None:
        for name, (steps, values) in curves.items():
            first = next((i for i, step in enumerate(steps) if step > self._shown.get(name, -1)), len(steps))
            if first == len(steps):
                continue  # drawn already
            window = _window(name)
            label = name.partition("/")[2]
            # Markers make a curve of one point visible; so few of them are cheap.
            look = {"markers": True, "traceopts": {"plotly": {label: {"marker": {"size": 4, "maxdisplayed": 20}}}}}
            opts = {"title": window, "xlabel": "step", "showlegend": True, "width": 480, "height": 320}
            known = any(_window(n) == window for n in self._shown)
            message, endpoint = cast(
                tuple[dict[str, Any], str],
                self._visdom.line(
                    np.array(values[first:]),
                    np.array(steps[first:]),
                    win=window,
                    name=label,
                    update="append" if known else None,
                    opts=look if known else look | opts,
                ),
            )
            self._post(endpoint, message)
            self._shown[name] = steps[-1]

    def _show(self, names: Iterable[str]) -> None:
        for name in sorted(names):
            with self._lock:
                step, pictures = self._pictures[name]
            try:
                rows = [pictures[i : i + 8] for i in range(0, len(pictures), 8)]
                sheet = pictures[0] if len(pictures) == 1 else grid(rows)
                height, width = sheet.shape[:2]
                shown_width = min(max(width, 240), 800)
                message, endpoint = cast(
                    tuple[dict[str, Any], str],
                    self._visdom.image(
                        sheet.transpose(2, 0, 1),
                        win=f"picture/{name}",
                        opts={
                            "title": name,
                            "caption": f"{name}, step {step}",  # text, not HTML
                            "jpgquality": 90,
                            "width": shown_width,
                            "height": shown_width * height // width + 44,  # room for the caption
                        },
                    ),
                )
            except Exception as error:
                logger.warning("Visdom: picture %s left out: %s", name, error)
                continue
            self._post(endpoint, message)


def _window(name: str) -> str:
    return name.partition("/")[0]


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers whose names have a prefix; NaN and infinity would break the page."""
    return {
        name: float(value)
        for name, value in values.items()
        if "/" in name and isinstance(value, Real) and math.isfinite(value)
    }
