"""Measurements from outside: train.py in child processes, on synthetic pictures. Does not import torch.

The system counts the parent's memory towards the peak of a child process. So these run first, while this process is
still small.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.plan import Plan, Row
from cyclegan_age.config import TrainConfig, UserError

PROJECT = Path(__file__).resolve().parent.parent
DECADES = (10, 20, 30, 40, 50, 60)
POLL_SECONDS = 0.02
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in one unit of ru_maxrss
LOG_EVERY = 4  # steps between two lines of the training whose speed is measured


def make_faces(root: Path, count: int, side: int) -> Path:
    """Write `count` JPEGs of `side` px into the folders `10s` to `60s`, with detail at every scale as photographs have.

    Returns `root`.
    """
    rng = np.random.default_rng(0)
    for i in range(count):
        picture = np.full((side, side, 3), 128.0)
        for cells, strength in ((4, 60), (16, 25), (side, 4)):
            noise = np.asarray(rng.integers(0, 256, (cells, cells, 3)), np.uint8)
            wide = Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC)
            picture += (np.asarray(wide, np.float64) / 127.5 - 1) * strength
        folder = root / f"{DECADES[i % len(DECADES)]}s"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / f"made-up-{i:04d}.jpg", quality=92)
    return root


@dataclass(frozen=True)
class Child:
    """Measurements of a child process."""

    first_seconds: float  # from its start until the watched file existed
    peak_bytes: int  # resident memory of it or of its largest child process


def run_child(command: list[str], watched: Path, log: Path, environment: Mapping[str, str]) -> Child:
    """Run a command in the project's folder until it ends.

    Args:
        command: program and arguments.
        watched: a file that the command writes.
        log: file for its output.
        environment: additional environment variables.

    Raises:
        UserError: it fails, or ends without writing the file.
    """
    first = None
    begin = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=PROJECT, env=os.environ | environment, stdout=out, stderr=out)
        try:
            while True:
                pid, status, usage = os.wait4(process.pid, os.WNOHANG)
                if first is None and watched.exists():
                    first = time.monotonic() - begin
                if pid:
                    process.returncode = os.waitstatus_to_exitcode(status)
                    break
                time.sleep(POLL_SECONDS)
        finally:
            if process.returncode is None:
                process.kill()
                process.wait()
    if process.returncode or first is None:
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise UserError(f"{command[1]}: failed with exit status {process.returncode}: {' '.join(last)}")
    return Child(first, usage.ru_maxrss * RSS_UNIT)


def train_child(
    plan: Plan, config: TrainConfig, folder: Path, name: str, steps: int, log_every: int, extra: tuple[str, ...] = ()
) -> tuple[Child, list[dict[str, float]]]:
    """Run train.py for some steps on `folder`/faces; returns the measurements and the lines of its metrics.jsonl."""
    metrics = folder / name / "metrics.jsonl"
    command = [sys.executable, "train.py", *plan.flags, *extra]
    command += ["--dataroot", str(folder / "faces"), "--results_dir", str(folder), "--name", name, "--monitor", "none"]
    command += ["--log_every", str(log_every), "--epochs", str((steps - 0.5) * config.batch_size / plan.files)]
    cache = {"CYCLEGAN_AGE_CACHE": str(folder / f"{name}-cache")}  # of decoded pictures: each training decodes its own
    child = run_child(command, metrics, folder / f"{name}.log", cache)
    return child, [json.loads(line) for line in metrics.read_text().splitlines()]


def measure(plan: Plan, config: TrainConfig, folder: Path, say: Callable[[str], None]) -> list[Row]:
    """Peak memory and speed of a whole training, and the time to its first batch."""
    make_faces(folder / "faces", plan.files, plan.side)
    say(f"train.py: {plan.steps} steps")
    child, lines = train_child(plan, config, folder, "whole", plan.steps, LOG_EVERY)
    speed = max(line["speed/images_per_s"] for line in lines)
    starts = []
    for i in range(plan.starts):
        say(f"train.py without --compile: first batch, {i + 1} of {plan.starts}")
        starts.append(train_child(plan, config, folder, f"start-{i}", 1, 1, ("--no_compile",))[0].first_seconds)
    return [
        Row(measure="train.py as a whole", value=speed, unit="images/s"),
        Row(measure="train.py: peak memory", value=child.peak_bytes / 2**30, unit="GiB", at_most=4),
        Row(measure="train.py --no_compile: first batch after", value=min(starts), unit="s", at_most=15),
    ]
