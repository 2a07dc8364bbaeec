"""A real Visdom server, its page in a real Chromium, and what both show."""

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

from cyclegan_age.curves import read_metrics

T = TypeVar("T")
Curves = dict[str, tuple[list[float], list[float]]]  # "window/curve" -> steps, values

CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def wait_for(read: Callable[[], T], good: Callable[[T], object], seconds: float = 120) -> T:
    """What `read` gives as soon as it is `good`; fails with the last of it when time is up."""
    end = time.monotonic() + seconds
    while True:
        value = read()
        if good(value):
            return value
        if time.monotonic() > end:
            pytest.fail(f"not so after {seconds:g} s; last seen: {str(value)[:500]}")
        time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


class Server:
    """`python -m cyclegan_age.visdom_server` in a process of its own."""

    def __init__(self, *, port: int, env_dir: Path) -> None:
        self.port = port
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cyclegan_age.visdom_server"],
            env=os.environ | {"VISDOM_PORT": str(port), "VISDOM_ENV": str(env_dir)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
        )
        try:
            wait_for(self._answers, bool, 300)  # it imports torch; slow where a training has the processor
        except BaseException:
            self.kill()
            raise

    def _answers(self) -> bool:
        assert self.process.poll() is None, f"the server ended with status {self.process.returncode}"
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        """As `kill -9`."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """As Ctrl-C; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)


def windows(port: int, env: str) -> dict[str, dict[str, Any]]:
    """All windows of an environment by Visdom's own client; {} as long as it does not exist."""
    from visdom import Visdom

    logging.getLogger("visdom").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it calls logger.warn
        client = Visdom(port=port, env=env, use_incoming_socket=False, raise_exceptions=True)
    try:
        found: dict[str, dict[str, Any]] = json.loads(client.get_window_data(env=env))
        return found
    finally:
        client.session.close()


def server_curves(port: int, env: str) -> Curves:
    return {
        f"{window['title']}/{trace['name']}": (trace["x"], trace["y"])
        for window in windows(port, env).values()
        if window["type"] == "plot"
        for trace in window["content"]["data"]
    }


def file_curves(run_dir: Path) -> Curves:
    """What the page is to show, from the run's metrics.jsonl."""
    curves: Curves = {}
    for row in read_metrics(run_dir / "metrics.jsonl"):
        for name, value in row.items():
            if "/" in name:
                steps, values = curves.setdefault(name, ([], []))
                steps.append(row["step"])
                values.append(value)
    return curves


@contextmanager
def chromium(*flags: str) -> Iterator[Any]:
    """A page of a fresh headless Chromium; skips where there is none. A console error fails the test.

    Args:
        flags: more for its command line.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as p:
        program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        program = program or (p.chromium.executable_path if Path(p.chromium.executable_path).exists() else None)
        if program is None:
            pytest.skip("no Chromium; on Debian and Ubuntu: apt-get install chromium")
        browser = p.chromium.launch(executable_path=program, args=[*CHROMIUM_FLAGS, *flags])
        page = browser.new_page(viewport={"width": 1400, "height": 1400})
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        try:
            yield page
        finally:
            browser.close()
        assert not errors, errors


def page_curves(page: Any) -> Curves:
    """The curves as the page's Plotly holds them."""
    found = page.evaluate(
        """() => [...document.querySelectorAll('.js-plotly-plot')].flatMap(
            plot => plot.data.map(t => [plot.layout.title.text ?? plot.layout.title, t.name, [...t.x], [...t.y]]))"""
    )
    return {f"{title}/{name}": (x, y) for title, name, x, y in found}


def page_pictures(page: Any) -> dict[str, tuple[int, int]]:
    """Caption -> width and height in pixels of each picture that the page has decoded."""
    found = page.evaluate(
        """() => [...document.querySelectorAll('img.content-image')].filter(i => i.naturalWidth).map(
            i => [i.alt, i.naturalWidth, i.naturalHeight])"""
    )
    return {caption: (width, height) for caption, width, height in found}
