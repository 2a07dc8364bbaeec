"""Kills trainings and compares them with an uninterrupted one, for benchmarks.reliability."""

import json
import logging
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.plan import Row
from benchmarks.processes import make_faces
from cyclegan_age.config import UserError
from cyclegan_age.runs import load_checkpoint
from cyclegan_age.weight_files import from_settings, load_weights

FLAGS = [
    *("--ngf", "4", "--ndf", "4", "--blocks", "1", "--image_size", "32", "--load_size", "32", "--batch_size", "2"),
    *("--lambda_age", "0", "--no_compile", "--precision", "fp32", "--pool_size", "20"),
    *("--log_every", "2", "--save_every", "2", "--sample_every", "1000", "--snapshot_every", "8"),
]
FACES, STEPS = 24, 24


def rows_of_kills(found: Counter[str]) -> list[Row]:
    """The lines of the table."""
    return [
        Row(measure="kills", value=found["kills"], unit=""),
        Row(measure="- while a file was written", value=found["writing"], unit=""),
        Row(measure="- before the first checkpoint", value=found["stateless"], unit=""),
        Row(measure="trainings that went on to their end", value=found["trainings"], unit=""),
        Row(measure="checkpoints that were not valid", value=found["broken"], unit="", at_most=0),
        Row(measure="ends other than without a kill", value=found["different"], unit="", at_most=0),
    ]


def forked(do: Callable[[], int], log: Path) -> int:
    """Run a function in a process forked from this one, with its output in a file; returns the process id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        logging.disable(logging.INFO)
        status = do()
    finally:
        os._exit(status)


def kills(folder: Path, count: int, seconds: float, moments: random.Random, kept: Path) -> Counter[str]:
    """Kill trainings up to `count` times or for `seconds`; counts the outcomes.

    Args:
        folder: for the runs.
        count: kills.
        seconds: time limit, after which there are no more kills.
        moments: random generator of the times.
        kept: destination of a run with a fault.

    Raises:
        UserError: the training fails without a kill.
    """
    import train  # with all its imports, so that the forked processes start at once
    from cyclegan_age.training import loop  # noqa: F401

    torch.set_num_threads(1)
    faces = make_faces(folder / "faces", FACES, 32)
    common = ["--dataroot", str(faces), "--results_dir", str(folder / "runs"), "--monitor", "none", *FLAGS]
    common += ["--epochs", str(STEPS * 2 / FACES)]
    last = time.monotonic() + seconds

    def started(name: str) -> int:
        return forked(lambda: train.main([*common, "--name", name]), folder / f"{name}.log")

    begun = time.monotonic()
    if os.waitpid(started("whole"), 0)[1]:
        raise UserError(f"the training fails: {(folder / 'whole.log').read_text()[-500:]}")
    duration = time.monotonic() - begun
    expected = outcome(folder / "runs" / "whole")
    found: Counter[str] = Counter()
    past: list[str] = []  # the kills of one training
    while found["kills"] < count and time.monotonic() < last:
        name = f"killed-{found['trainings'] + found['different'] + found['broken']}"
        run = folder / "runs" / name
        child = started(name)
        wait = moments.uniform(0, duration)
        aimed = moments.random() < 0.5  # waits for the first save after that moment
        ended = killed(child, time.monotonic() + wait, run if aimed else None)
        if ended is None:
            parts = sorted(part.name for part in run.rglob(".*.part"))
            past.append(f"killed after {wait:.3f} s{', aimed' if aimed else ''}, while written: {parts}, {_at(run)}")
            found["kills"] += 1
            found["writing"] += bool(parts)
            found["stateless"] += not (run / "state.pt").is_file()
            faults = invalid(run)
            found["broken"] += bool(faults)
        elif ended:
            faults = [f"exit status {ended}: {(folder / f'{name}.log').read_text()[-500:]}"]
            found["broken"] += 1
        else:
            faults = [f"differs in {part}" for part in differences(outcome(run), expected)]
            found["different" if faults else "trainings"] += 1
        if faults:
            to = kept / f"kills-{os.getpid()}"
            print(f"{name}, kill {found['kills']}: {'; '.join(faults)}; kept in {to}", file=sys.stderr, flush=True)
            shutil.copytree(folder / "runs" / "whole", to / "whole", dirs_exist_ok=True)
            shutil.copytree(run, to / name) if run.is_dir() else (to / name).mkdir()
            (to / name / "kills.txt").write_text("\n".join([*past, *faults]) + "\n")
        if faults or ended is not None:
            shutil.rmtree(run, ignore_errors=True)
            past.clear()
    return found


def killed(child: int, due: float, saving: Path | None) -> int | None:
    """Kill a process at a given time, or at the first save after it; None, or its exit status if it ended before."""
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= due and (saving is None or any(saving.glob(".*.part"))):
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            return None if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)
        time.sleep(0.001)


def invalid(run: Path) -> list[str]:
    """Corrupt files of a killed run; a missing file counts as complete."""
    checks: list[tuple[str, Callable[[Path], object]]] = [
        ("config.json", lambda path: from_settings(json.loads(path.read_text()))),
        ("weights.safetensors", load_weights),
        ("snapshots/*.safetensors", load_weights),
        ("state.pt", lambda path: _state_of(run, path)),
        ("metrics.jsonl", lambda path: [json.loads(line) for line in path.read_text().split("\n")[:-1]]),
    ]
    faults = []
    for pattern, check in checks:
        for path in run.glob(pattern):
            try:
                check(path)
            except Exception as e:
                faults.append(f"{path.name}: {e}")
    return faults


def _at(run: Path) -> str:
    try:
        state = load_checkpoint(run / "state.pt")
    except UserError:
        return "with a checkpoint that cannot be read"
    return f"saved up to step {state['step']}" if state else "before the first checkpoint"


def _state_of(run: Path, path: Path) -> None:
    state = load_checkpoint(path)
    assert state is not None
    if load_checkpoint(run / f"state-0-{state['step']}.pt") is None:
        raise UserError(f"without state-0-{state['step']}.pt")


def outcome(run: Path) -> dict[str, Any]:
    """Complete final state of a training."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        "state": load_checkpoint(run / "state.pt"),
        "of rank": load_checkpoint(run / f"state-0-{STEPS}.pt"),
        "weights": load_weights(run / "weights.safetensors").tensors,
        "steps": [line["step"] for line in lines if "lr/lr" in line],
        "snapshots": sorted(path.name for path in (run / "snapshots").iterdir()),
    }


def differences(a: object, b: object, name: str = "all") -> list[str]:
    """The names of the parts that are not equal to the bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [name]
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [part for k in a for part in differences(a[k], b[k], f"{name}/{k}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [part for i, pair in enumerate(zip(a, b, strict=True)) for part in differences(*pair, f"{name}/{i}")]
    return [] if a == b else [name]
