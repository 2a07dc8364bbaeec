"""A training on the real Visdom server, seen by Chromium: the server dies and comes back, the page has it all."""

import json
import logging
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from visdom_tools import (
    Server,
    chromium,
    file_curves,
    free_port,
    page_curves,
    page_pictures,
    server_curves,
    wait_for,
    windows,
)

from cyclegan_age.config import UserError
from cyclegan_age.curves import read_metrics
from cyclegan_age.visdom_server import build_assets
from cyclegan_age.visdom_tracker import VisdomTracker

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def assets() -> None:
    """The page's scripts, fetched at most once for all runs."""
    try:
        build_assets()
    except UserError as error:
        pytest.skip(str(error))


class Training:
    """Writes metrics.jsonl and logs as the training loop does."""

    def __init__(self, run_dir: Path, port: int) -> None:
        self.run_dir, self.step = run_dir, 0
        run_dir.mkdir(exist_ok=True)
        self.tracker = VisdomTracker(run_dir=run_dir, name=run_dir.name, port=port)
        self.tracker.start()

    def go(self, steps: int, *, picture: bool = False) -> None:
        for _ in range(steps):
            self.step += 1
            line = {
                "loss/cycle": 1 / self.step,
                "loss/g_adversarial": 0.5 + 0.1 * (self.step % 3),
                "lr/lr": 2e-4,
                "speed/images_per_s": 7.0 + self.step % 2,
            }
            with (self.run_dir / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": self.step, **line}) + "\n")
            self.tracker.log(line, step=self.step)
        if picture:
            faces = np.full((6, 32, 32, 3), 20 * np.arange(1, 7)[:, None, None, None], dtype=np.uint8)
            self.tracker.log_images({"samples": faces, "features <b>stem</b>": faces[0]}, step=self.step)


Start = Callable[[Path, int], Training]


@pytest.fixture
def start() -> Iterator[Start]:
    trainings: list[Training] = []

    def begin(run_dir: Path, port: int) -> Training:
        trainings.append(Training(run_dir, port))
        return trainings[-1]

    yield begin
    for training in trainings:
        training.tracker.finish()


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def server(port: int, tmp_path: Path) -> Iterator[Server]:
    server = Server(port=port, env_dir=tmp_path / "env")
    yield server
    server.stop()


def test_page_has_every_point_and_picture_after_the_server_died(
    server: Server, port: int, start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="cyclegan_age")
    training = start(tmp_path / "run-1", port)
    page_url = f"http://127.0.0.1:{port}/env/run-1"
    with chromium() as page:
        training.go(10, picture=True)
        wait_for(lambda: windows(port, "run-1"), lambda found: len(found) == 5)
        page.goto(page_url)
        wait_for(lambda: page_curves(page), lambda curves: curves == file_curves(training.run_dir))
        training.go(10)  # drawn on the open page
        wait_for(lambda: page_curves(page), lambda curves: curves == file_curves(training.run_dir))

        server.kill()
        training.go(10)
        wait_for(lambda: caplog.text, lambda text: "does not answer" in text)
        again = Server(port=port, env_dir=tmp_path / "empty")
        try:
            training.go(10)
            wait_for(lambda: windows(port, "run-1"), lambda found: len(found) == 5)
            page.goto(page_url)
            curves = wait_for(lambda: page_curves(page), lambda curves: curves == file_curves(training.run_dir))
            assert curves["loss/cycle"][0] == list(range(1, 41))
            pictures = wait_for(lambda: page_pictures(page), lambda pictures: len(pictures) == 2)
            assert pictures == {"samples, step 10": (202, 32), "features <b>stem</b>, step 10": (32, 32)}
            assert page.locator("b", has_text="stem").count() == 0, "names are text, not HTML"
            training.tracker.finish()
        finally:
            assert again.stop() == 0
    assert (tmp_path / "empty" / "run-1.json").is_file()
    assert [r.levelname for r in caplog.records if r.name == "cyclegan_age"] == ["INFO", "WARNING", "INFO"]


def test_real_training_outlives_its_server_and_the_page_has_it_all(
    server: Server, port: int, tiny_faces: Path, tmp_path: Path
) -> None:
    run, page_url = tmp_path / "run-3", f"http://127.0.0.1:{port}/env/run-3"
    flags = [
        *("--dataroot", str(tiny_faces), "--results_dir", str(tmp_path), "--name", "run-3", "--epochs", "1000"),
        *("--ngf", "4", "--ndf", "4", "--blocks", "3", "--image_size", "32", "--load_size", "36", "--batch_size", "2"),
        *("--lambda_age", "0", "--no_compile", "--visdom_port", str(port), "--log_every", "5", "--sample_every", "50"),
    ]
    training = subprocess.Popen(
        [sys.executable, "train.py", *flags], cwd=PROJECT, stderr=subprocess.PIPE, text=True, errors="replace"
    )
    again = None
    try:
        wait_for(lambda: server_curves(port, "run-3"), lambda curves: len(curves.get("loss/cycle", ((), ()))[0]) > 3)
        server.kill()
        rows = len(read_metrics(run / "metrics.jsonl"))
        wait_for(lambda: len(read_metrics(run / "metrics.jsonl")), lambda now: now > rows + 5)
        assert training.poll() is None, "the training died with its server"
        again = Server(port=port, env_dir=tmp_path / "empty")
        wait_for(lambda: windows(port, "run-3"), lambda found: any(w["type"] == "image" for w in found.values()))
        training.send_signal(signal.SIGTERM)
        _, said = training.communicate(timeout=60)
        assert training.returncode == 130
        assert said.count("does not answer") == 1
        assert said.count("watch the training at") == 2
        with chromium() as page:
            page.goto(page_url)
            wait_for(lambda: page_curves(page), lambda curves: curves == file_curves(run))
            pictures = wait_for(lambda: page_pictures(page), lambda pictures: len(pictures) == 7)
        assert sorted(caption.split(",")[0] for caption in pictures) == [
            "change",
            "channels blocks.0",
            "channels down2",
            "features blocks.0",
            "features down2",
            "life",
            "samples",
        ]
    finally:
        training.kill()
        training.wait()
        if again:
            again.stop()


def test_resumed_run_resumes_in_the_same_windows(server: Server, port: int, start: Start, tmp_path: Path) -> None:
    training = start(tmp_path / "run-2", port)
    training.go(5, picture=True)
    training.tracker.finish()
    resumed = start(training.run_dir, port)
    resumed.step = training.step
    resumed.go(5, picture=True)
    resumed.tracker.finish()

    found = windows(port, "run-2")
    assert sorted(w["title"] for w in found.values() if w["type"] == "plot") == ["loss", "lr", "speed"]
    pictures = {w["title"]: w["content"]["caption"] for w in found.values() if w["type"] == "image"}
    assert pictures == {"samples": "samples, step 10", "features <b>stem</b>": "features <b>stem</b>, step 10"}
    assert server_curves(port, "run-2") == file_curves(training.run_dir)
    assert server_curves(port, "run-2")["loss/cycle"][0] == list(range(1, 11))


def test_server_answers_this_machine_alone_and_ends_clean(server: Server, port: int) -> None:
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    assert [f[1] for f in listening if f[1].endswith(f":{port:04X}") and f[3] == "0A"] == [f"0100007F:{port:04X}"]
    assert server.stop() == 0
