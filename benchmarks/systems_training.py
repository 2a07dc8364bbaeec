"""Trains systems for the same time, for benchmarks.systems."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.processes import PROJECT
from cyclegan_age.config import EncodedConfig, UserError
from options.bench import SystemsBenchConfig
from options.train import parse_train

# Preset of each system, and flags for settings that the preset gives as a share of the training's length.
SYSTEMS: dict[str, tuple[str, ...]] = {
    "cyclegan": ("--preset", "default", "--fooled_warmup", "0.001"),
    "cyclegan_pair": ("--preset", "small"),
    "caae": ("--preset", "small"),
    "gan": ("--preset", "default"),
    "cgan": ("--preset", "default"),
    "age_cgan": ("--preset", "default"),
    "pfa_gan": ("--preset", "small"),
    "encoder_cdcgan": ("--preset", "default"),
}
ALIKE = (
    *("--epochs", "1000", "--lr_constant", "1", "--monitor", "none"),
    *("--log_every", "10", "--sample_every", "500", "--save_every", "200", "--snapshot_every", "1000000"),
)
POLL_SECONDS = 0.5
SLOW = 3  # times the median: longer steps waited for the compiler or for a suspended machine

# train.py, which ends as by SIGTERM when the parent at the other end of stdin is gone.
CHILD = """
import os, signal, sys, threading
sys.path.insert(0, sys.argv.pop(1))
def end_with_parent():
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=end_with_parent, daemon=True).start()
import train
sys.exit(train.main())
"""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """The run of train.py that trains a system."""

    name: str
    flags: list[str]
    batch_size: int
    minutes: float


@dataclass(frozen=True)
class Trained:
    """Training time and pictures so far."""

    seconds: float = 0.0
    images: int = 0

    @property
    def speed(self) -> float:
        """Images per second."""
        return self.images / self.seconds if self.seconds else 0.0


def run_of(system: str, config: SystemsBenchConfig) -> Run:
    """The run of a system.

    Raises:
        UserError: no such system.
    """
    if system not in SYSTEMS:
        raise UserError(f"--systems {system}: must be among {', '.join(SYSTEMS)}")
    name = f"{system}-{config.minutes:g}-minutes"
    flags = ["--model", system, *SYSTEMS[system], *ALIKE, "--dataroot", str(config.dataroot)]
    flags += ["--results_dir", str(config.results_dir)] + ([] if config.compile else ["--no_compile"])
    train, net = parse_train(flags)
    if isinstance(net, EncodedConfig):
        flags += ["--embedder", config.embedder]
    return Run(name, flags, train.batch_size, config.minutes)


def check(flags: Sequence[str]) -> None:
    """Check data and weights before hours of training.

    Raises:
        UserError: the data or weights that the training needs are missing.
    """
    from cyclegan_age.models import SYSTEMS as MODELS

    train, net = parse_train(flags)
    MODELS[train.model].data(train, net)
    MODELS[train.model].build(train, net)


def trained(lines: Sequence[Mapping[str, Any]], batch_size: int) -> Trained:
    """Training time and pictures from the lines of metrics.jsonl.

    The first steps of a process wait for its compiler. So the first line, and every line `SLOW` times slower than the
    median, count as the median.
    """
    logged = [(line["step"], line["speed/images_per_s"]) for line in lines if line.get("speed/images_per_s")]
    if len(logged) < 2:
        return Trained()
    usual = statistics.median(1 / speed for _, speed in logged[1:])
    seconds, before = 0.0, 0
    for step, speed in logged:
        slow = before == 0 or 1 / speed > SLOW * usual
        seconds += (step - before) * batch_size * (usual if slow else 1 / speed)
        before = step
    return Trained(seconds, before * batch_size)


def saved_step(run: Path) -> int:
    """Steps in the saved checkpoint of a run; 0 without one."""
    from cyclegan_age.runs import load_checkpoint

    state = load_checkpoint(run / "state.pt")
    return int(state["step"]) if state else 0


def finished(run: Path) -> Trained:
    """Training time of a finished run; needs only its weights and minutes.json, so that they can be moved."""
    if not all((run / name).is_file() for name in ("minutes.json", "weights.safetensors")):
        return Trained()
    record = json.loads((run / "minutes.json").read_text())
    return Trained(60 * record["minutes"], record["images"])


def train_system(run: Run, results_dir: Path, say: Say, lock: int) -> Trained:
    """Train until its minutes are used up; resumes an earlier run, and skips a finished one.

    Raises:
        UserError: train.py fails.
    """
    from cyclegan_age.curves import read_metrics
    from cyclegan_age.files import write_atomically
    from cyclegan_age.runs import trim_metrics

    folder = results_dir / run.name
    metrics, goal = folder / "metrics.jsonl", run.minutes * 60
    if (before := finished(folder)).seconds >= 0.99 * goal:
        return before
    trim_metrics(metrics, saved_step(folder))  # drops steps after the last checkpoint
    done = trained(read_metrics(metrics), run.batch_size)
    if done.seconds < 0.99 * goal:
        say(f"{run.name}: {done.seconds / 60:.1f} of {run.minutes:.1f} minutes")
        command = [sys.executable, "-c", CHILD, str(PROJECT), *run.flags, "--name", run.name]
        log = results_dir / f"{run.name}.log"
        with (
            log.open("ab") as out,
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=out, stderr=out, pass_fds=(lock,), start_new_session=True
            ) as process,
        ):
            try:
                while process.poll() is None and done.seconds < goal:
                    time.sleep(POLL_SECONDS)
                    done = trained(read_metrics(metrics), run.batch_size)
            finally:
                process.terminate()  # train.py finishes its step and saves
                status = process.wait()
        if status not in (0, 130) or (status and done.seconds < goal):
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise UserError(f"{run.name}: train.py failed with exit status {status}: {' '.join(last)} (see {log})")
        trim_metrics(metrics, saved_step(folder))
        done = trained(read_metrics(metrics), run.batch_size)
    record = {"minutes": round(done.seconds / 60, 2), "images": done.images, "images_per_s": round(done.speed, 1)}
    write_atomically(folder / "minutes.json", (json.dumps(record) + "\n").encode())
    return done
