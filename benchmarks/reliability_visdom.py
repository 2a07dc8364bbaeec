"""Kills the Visdom server of a training, for benchmarks.reliability."""

import json
import math
import os
import random
import signal
import socket
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.plan import Row
from benchmarks.processes import make_faces
from benchmarks.reliability_kills import FACES, FLAGS, forked
from cyclegan_age.config import UserError
from cyclegan_age.curves import read_metrics

KILL_SECONDS, AWAY_SECONDS = 4.0, 2.0  # maximum lifetime of a server, and maximum downtime
PATIENCE = 300  # timeout of a process in seconds


def rows_of_visdom(found: Counter[str]) -> list[Row]:
    """The lines of the table."""
    return [
        Row(measure="kills of the server", value=found["kills"], unit=""),
        Row(measure="points of the training", value=found["points"], unit=""),
        Row(measure="points that are not on the page", value=found["lost"], unit="", at_most=0),
        Row(measure="points that are on it twice, or are none", value=found["doubled"], unit="", at_most=0),
    ]


def visdom(folder: Path, count: int, seconds: float, moments: random.Random) -> Counter[str]:
    """Kill the Visdom server of a training up to `count` times or for `seconds`; counts the points on its page at the
    end.

    Args:
        folder: for the run and the server's files.
        count: kills.
        seconds: time limit, after which there are no more kills.
        moments: random generator of the times.

    Raises:
        UserError: the training or the server does not run.
    """
    import train  # as in `kills`
    from cyclegan_age import visdom_server
    from cyclegan_age.training import loop  # noqa: F401

    visdom_server.build_assets()
    torch.set_num_threads(1)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    faces, last, run = make_faces(folder / "faces", FACES, 32), time.monotonic() + seconds, folder / "run"
    flags = ["--dataroot", str(faces), "--results_dir", str(folder), "--name", run.name, "--epochs", "1000000", *FLAGS]
    flags += ["--log_every", "1", "--save_every", "1000", "--monitor", "visdom", "--visdom_port", str(port)]

    def served() -> int:
        visdom_server.start(port, folder / "pages")
        return 0

    def serve() -> int:
        child = forked(served, folder / "server.log")
        _until(lambda: _drawn(port, run.name) is not None, child, "the Visdom server does not answer", folder)
        return child

    server = serve()
    training = forked(lambda: train.main(flags), folder / "training.log")
    found: Counter[str] = Counter()
    try:
        _until(lambda: bool(_drawn(port, run.name)), training, "the training draws nothing", folder)
        while found["kills"] < count and time.monotonic() < last:
            time.sleep(moments.uniform(0, KILL_SECONDS))
            os.kill(server, signal.SIGKILL)
            os.waitpid(server, 0)
            found["kills"] += 1
            time.sleep(moments.uniform(0, AWAY_SECONDS))
            server = serve()
        _until(lambda: bool(_drawn(port, run.name)), training, "the training draws nothing", folder)
        os.kill(training, signal.SIGTERM)
        os.waitpid(training, 0)
        training = 0
        expected = _points(run)
        page = _drawn(port, run.name) or Counter()
        found["points"] = expected.total()
        found["lost"], found["doubled"] = (expected - page).total(), (page - expected).total()
        return found
    finally:
        for child in filter(None, (server, training)):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _until(good: Callable[[], bool], child: int, fault: str, folder: Path) -> None:
    """Wait for a condition while a child runs.

    Raises:
        UserError: timeout, or the child ended.
    """
    last = time.monotonic() + PATIENCE
    while not good():
        if time.monotonic() > last or os.waitpid(child, os.WNOHANG)[0]:
            said = "".join(log.read_text()[-300:] for log in folder.glob("*.log"))
            raise UserError(f"{fault}: {said}")
        time.sleep(0.1)


def _points(run: Path) -> Counter[tuple[str, int, float]]:
    """Points that the page must show: curve, step, value."""
    found: Counter[tuple[str, int, float]] = Counter()
    for row in read_metrics(run / "metrics.jsonl"):
        found.update((name, row["step"], value) for name, value in row.items() if "/" in name and math.isfinite(value))
    return found


def _drawn(port: int, page: str) -> Counter[tuple[str, int, float]] | None:
    """Points on the server; None if it does not answer."""
    body = json.dumps({"eid": page, "win": None}).encode()
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/win_data", body, {"Content-Type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            windows = json.loads(answer.read() or b"{}")
    except urllib.error.HTTPError:  # the page does not exist yet
        return Counter()
    except OSError:
        return None
    found: Counter[tuple[str, int, float]] = Counter()
    for window in windows.values() if isinstance(windows, dict) else ():
        for trace in window["content"]["data"] if window["type"] == "plot" else ():
            name = f"{window['title']}/{trace['name']}"
            found.update((name, int(x), y) for x, y in zip(trace["x"], trace["y"], strict=True))
    return found
