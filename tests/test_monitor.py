"""Trackers: what is sent to a Visdom server that dies, comes back empty or never answers, and what is read back."""

import io
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate import Accelerator
from PIL import Image
from visdom_tools import free_port, wait_for

from cyclegan_age import monitor, visdom_tracker
from cyclegan_age.config import INSTALL_VISDOM, UserError
from cyclegan_age.curves import read_metrics
from cyclegan_age.monitor import log_pictures, trackers
from cyclegan_age.visdom_tracker import VisdomTracker

PROJECT = Path(__file__).resolve().parent.parent


class FakeServer:
    """Keeps windows as Visdom does; each update and picture counts."""

    def __init__(self, port: int = 0) -> None:
        fake = self
        self.windows: dict[str, dict[str, Any]] = {}
        self.saved: list[str] = []
        self.drawn = 0  # windows begun

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                fake.connections.append(self.connection)

            def do_POST(self) -> None:
                message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                answer = fake.answer(self.path, message).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args: Any) -> None:
                pass

        self.connections: list[socket.socket] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port: int = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def answer(self, path: str, message: dict[str, Any]) -> str:
        if path == "/win_exists":
            return json.dumps(message["win"] in self.windows)
        if path == "/save":
            self.saved += message["data"]
        elif path == "/events":
            self.drawn += 1
            self.windows[message["win"]] = message
        elif path == "/update" and message["append"]:
            traces = self.windows[message["win"]]["data"]
            (new,) = message["data"]
            for trace in traces:
                if trace["name"] == message["name"]:
                    trace["x"] += new["x"]
                    trace["y"] += new["y"]
                    break
            else:
                traces.append(new)
        return ""

    def curve(self, name: str) -> list[tuple[float, float]]:
        window, _, label = name.partition("/")
        traces = [t for t in self.windows.get(window, {"data": []})["data"] if t["name"] == label]
        return [point for t in traces for point in zip(t["x"], t["y"], strict=True)]

    def kill(self) -> None:
        self.server.shutdown()
        self.server.socket.close()
        for connection in self.connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # closed already


Begin = Callable[..., VisdomTracker]


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Begin]:
    """Starts trackers of a fast tick and finishes them."""
    monkeypatch.setattr(visdom_tracker, "TICK_SECONDS", 0.02)
    monkeypatch.setattr(visdom_tracker, "LONGEST_PAUSE", 0.1)
    monkeypatch.setattr(visdom_tracker, "LONGEST_REST", 0.1)
    started: list[VisdomTracker] = []

    def start(port: int, name: str = "run") -> VisdomTracker:
        tracker = VisdomTracker(run_dir=tmp_path, name=name, port=port)
        tracker.start()
        started.append(tracker)
        return tracker

    yield start
    for tracker in started:
        tracker.finish()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    server = FakeServer()
    yield server
    server.kill()


def write(folder: Path, step: int, **values: float) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, **{k.replace("__", "/"): v for k, v in values.items()}}) + "\n")


def test_metrics_survive_torn_and_foreign_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    path.write_text(
        '{"step": 1, "loss/d": 0.5}\n[1]\nnull\n{"loss/d": 3}\n\n{"step": 2, "loss/d": 0.25}\n{"step": 3, "lo'
    )
    assert read_metrics(path) == [{"step": 1, "loss/d": 0.5}, {"step": 2, "loss/d": 0.25}]


def test_metrics_of_a_run_that_went_back_are_replaced_and_one_step_is_joined(tmp_path: Path) -> None:
    for step, value in ((10, 1.0), (20, 2.0), (30, 3.0), (20, 4.0)):
        write(tmp_path, step, loss__d=value)
    write(tmp_path, 20, loss__g=5.0)
    assert read_metrics(tmp_path / "metrics.jsonl") == [
        {"step": 10, "loss/d": 1.0},
        {"step": 20, "loss/d": 4.0, "loss/g": 5.0},
    ]


def test_points_are_drawn_once_and_only_finite_numbers(server: FakeServer, begin: Begin, tmp_path: Path) -> None:
    tracker = begin(server.port)
    for step in range(1, 31):
        write(tmp_path, step, loss__d=step / 2)
        g = float("nan") if step == 2 else 1.0
        tracker.log({"loss/d": step / 2, "loss/g": g, "epoch": 3, "lr/lr": "x"}, step=step)
        time.sleep(0.005)
    wait_for(lambda: server.curve("loss/g"), lambda curve: len(curve) == 29)
    assert server.curve("loss/d") == [(s, s / 2) for s in range(1, 31)]
    assert 2 not in [x for x, _ in server.curve("loss/g")]
    assert set(server.windows) == {"loss"}
    assert server.windows["loss"]["eid"] == "run"


def test_a_curve_of_one_point_is_seen(server: FakeServer, begin: Begin) -> None:
    tracker = begin(server.port)
    tracker.log({"loss/d": 1.0, "loss/g": 2.0}, step=1)
    wait_for(lambda: server.curve("loss/g"), lambda curve: curve == [(1, 2)])
    for trace in server.windows["loss"]["data"]:  # one began the window, the other was added to it
        assert trace["mode"] == "lines+markers"
        assert trace["marker"] == {"size": 4, "maxdisplayed": 20}  # long curves keep few


def test_server_that_came_back_empty_gets_all(
    server: FakeServer, begin: Begin, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="cyclegan_age")
    write(tmp_path, 1, loss__d=1.0)  # of the run before
    tracker = begin(server.port)
    tracker.log_images({"samples": np.zeros((4, 4, 3), np.uint8)}, step=1)
    write(tmp_path, 2, loss__d=2.0)
    tracker.log({"loss/d": 2.0}, step=2)
    wait_for(lambda: server.curve("loss/d"), lambda curve: curve == [(1, 1), (2, 2)])
    server.kill()
    write(tmp_path, 3, loss__d=3.0)
    tracker.log({"loss/d": 3.0}, step=3)
    tracker.log({"loss/d": 4.0}, step=4)  # its line is not written yet
    wait_for(lambda: caplog.text, lambda text: "does not answer" in text)
    time.sleep(0.3)  # several attempts, one warning

    back = FakeServer(server.port)
    try:
        wait_for(lambda: back.curve("loss/d"), lambda curve: curve == [(1, 1), (2, 2), (3, 3), (4, 4)])
        wait_for(lambda: back.windows, lambda windows: "picture/samples" in windows)
        tracker.finish()
        assert back.saved == ["run"]
    finally:
        back.kill()
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING", "INFO"]


def test_closed_window_and_a_run_that_went_back_are_drawn_again(
    server: FakeServer, begin: Begin, tmp_path: Path
) -> None:
    tracker = begin(server.port)
    for step in (1, 2, 3):
        write(tmp_path, step, loss__d=float(step))
        tracker.log({"loss/d": float(step)}, step=step)
    wait_for(lambda: server.curve("loss/d"), lambda curve: len(curve) == 3)
    server.windows.clear()
    write(tmp_path, 4, loss__d=4.0)
    tracker.log({"loss/d": 4.0}, step=4)
    wait_for(lambda: server.curve("loss/d"), lambda curve: curve == [(1, 1), (2, 2), (3, 3), (4, 4)])
    write(tmp_path, 2, loss__d=7.0)
    tracker.log({"loss/d": 7.0}, step=2)
    wait_for(lambda: server.curve("loss/d"), lambda curve: curve == [(1, 1), (2, 7)])


def test_pending_is_bounded(server: FakeServer, begin: Begin, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(visdom_tracker, "PENDING_POINTS", 5)
    port = free_port()
    tracker = begin(port)
    for step in range(100):
        tracker.log({"loss/d": 1.0}, step=step)
        tracker.log_images({"samples": np.full((2, 2, 3), step, np.uint8)}, step=step)
        time.sleep(0.002)
    late = FakeServer(port)
    try:
        wait_for(lambda: late.curve("loss/d"), lambda curve: [x for x, _ in curve] == [95, 96, 97, 98, 99])
        wait_for(lambda: late.windows, lambda windows: "picture/samples" in windows)
        assert late.windows["picture/samples"]["data"][0]["content"]["caption"] == "samples, step 99"
    finally:
        late.kill()


def test_server_that_never_answers_holds_nothing_up(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(visdom_tracker, "FLUSH_SECONDS", 0.2)
    monkeypatch.setattr(visdom_tracker, "ANSWER_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        tracker = begin(silent.getsockname()[1])
        for step in range(1000):
            tracker.log({"loss/d": 1.0}, step=step)
        started = time.monotonic()
        tracker.finish()
        assert time.monotonic() - started < 1, "finish() waits for the flush alone"
        tracker._thread.join(10)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_pictures_are_tiled_and_kept_apart_from_their_source(
    server: FakeServer, begin: Begin, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = begin(server.port, "../a b<i>")
    faces = np.full((10, 16, 16, 3), 200, np.uint8)
    tracker.log_images({"bad": faces[0, 0], "batch": faces, "list": list(faces), "one": faces[0]}, step=5)
    faces[:] = 0
    wait_for(lambda: server.windows, lambda windows: "picture/one" in windows)
    assert set(server.windows) == {"picture/batch", "picture/list", "picture/one"}
    assert "picture bad left out" in caplog.text
    shown = {}
    for window in server.windows.values():
        source = window["data"][0]["content"]["src"].partition("base64,")[2]
        shown[window["opts"]["title"]] = np.asarray(Image.open(io.BytesIO(b64decode(source))))
        assert window["eid"] == ".._a_b_i_", "the environment is a plain file name"
    assert shown["one"].shape == (16, 16, 3)
    assert abs(int(shown["one"].mean()) - 200) < 3, "later changes of the array are not shown"
    assert shown["batch"].shape == shown["list"].shape == (2 * 16 + 2, 8 * 16 + 7 * 2, 3)


def test_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def make(kind: str, server: str = "http://127.0.0.1") -> list[Any]:
        return trackers(kind, run_dir=tmp_path, name="run", server=server, port=8097)

    assert make("none") == []
    assert [tracker.name for tracker in make("auto")] == ["visdom"]
    (visdom,) = make("visdom", "https://user@example.org/seen/")
    assert visdom.url == "https://example.org:8097/seen"
    with pytest.raises(UserError, match=r"^--monitor tensorbord: unknown; must be auto, visdom"):
        make("tensorbord")
    with pytest.raises(UserError, match=r"^--visdom_server ftp://x: not an address; expected"):
        make("visdom", "ftp://x")
    monkeypatch.setitem(sys.modules, "visdom", None)
    monkeypatch.setattr(monitor, "is_wandb_available", lambda: False)
    monkeypatch.setattr(monitor, "is_tensorboard_available", lambda: False)
    for kind in ("visdom", "tensorboard", "wandb"):
        with pytest.raises(UserError, match=rf"^--monitor {kind}: .*not installed; run python -m pip install .*{kind}"):
            make(kind)
    with caplog.at_level("INFO", "cyclegan_age"):
        assert make("auto") == []
    assert [r.message for r in caplog.records] == [
        f"Visdom is not installed, curves are only in {tmp_path}; to watch live: {INSTALL_VISDOM}"
    ]


def test_tensorboard_gets_numbers_and_pictures(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    kinds = trackers("tensorboard", run_dir=tmp_path, name="run", server="", port=0)
    accelerator = Accelerator(cpu=True, log_with=kinds)
    accelerator.init_trackers("cyclegan-age")
    accelerator.log({"loss/d": 0.5}, step=3)
    log_pictures(accelerator, {"samples": np.zeros((8, 6, 3), np.uint8)}, 3)
    accelerator.end_training()

    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss/d")] == [(3, 0.5)]
    assert [(e.step, e.width, e.height) for e in events.Images("samples")] == [(3, 6, 8)]


WANDB = """
import numpy as np
from accelerate import Accelerator
from pathlib import Path
from cyclegan_age.monitor import log_pictures, start, trackers

kinds = trackers("wandb", run_dir=Path(), name="face", server="", port=0)
accelerator = Accelerator(cpu=True, log_with=kinds)
start(accelerator, {"train.lr": 0.5})
accelerator.log({"loss/d": 0.25}, step=3)
log_pictures(accelerator, {"samples": np.full((8, 6, 3), 9, np.uint8)}, 3)
run = accelerator.get_tracker("wandb", unwrap=True)
assert (run.name, run.config["train.lr"]) == ("face", 0.5)
accelerator.end_training()
"""


def test_wandb_gets_settings_numbers_and_pictures(tmp_path: Path) -> None:
    """Offline, in a process of its own, since it starts others."""
    pytest.importorskip("wandb", reason="wandb is not installed: requirements-dev.txt")
    environment = os.environ | {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "PYTHONPATH": str(PROJECT)}
    subprocess.run([sys.executable, "-c", WANDB], cwd=tmp_path, env=environment, check=True)
    (log,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert b"loss/d" in log.read_bytes() and b"0.25" in log.read_bytes()
    (picture,) = tmp_path.glob("wandb/offline-run-*/files/media/images/samples_3_*.png")
    shown = np.asarray(Image.open(picture).convert("RGB"))
    assert shown.shape == (8, 6, 3) and (shown == 9).all()


def test_wandb_without_a_login_is_reported_in_one_line(tiny_faces: Path, tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed: requirements-dev.txt")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    environment |= {"HOME": str(tmp_path), "WANDB_CONFIG_DIR": str(tmp_path / "config")}
    flags = ["--dataroot", str(tiny_faces), "--results_dir", str(tmp_path / "out"), "--name", "run"]
    flags += ["--monitor", "wandb", "--epochs", "1", "--ngf", "4", "--ndf", "4", "--blocks", "1", "--image_size", "32"]
    flags += ["--load_size", "36", "--batch_size", "4", "--lambda_age", "0", "--no_compile", "--precision", "fp32"]
    done = subprocess.run(
        [sys.executable, "train.py", *flags],
        cwd=PROJECT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("--monitor wandb: No API key configured")
    assert done.stderr.endswith("; set WANDB_MODE=offline, or choose another --monitor\n")
    assert "Traceback" not in done.stderr and not (tmp_path / "out" / "run" / "config.json").exists()
