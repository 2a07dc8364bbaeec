"""Train each system for the same time, then compare all of them on the same faces: a table and a picture.

Everything is kept in --results_dir, so that the same command resumes after an interruption.
"""

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.systems_comparison import compare
from benchmarks.systems_training import SYSTEMS, check, run_of, train_system
from options.bench import SystemsBenchConfig, parse_systems_bench
from options.command import command


@contextmanager
def held(results_dir: Path) -> Iterator[int]:
    """A lock on the folder, shared by the trainings; waits for one that outlives this process."""
    results_dir.mkdir(parents=True, exist_ok=True)
    lock = os.open(results_dir / ".systems.lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


@command(parse_systems_bench, interrupted="stopped; the same command resumes")
def main(config: SystemsBenchConfig) -> None:
    """Train the systems, compare them and print the table."""

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    todo = {system: run_of(system, config) for system in config.systems or SYSTEMS}
    for run in todo.values():
        check(run.flags)
    with held(config.results_dir) as lock:
        training = {system: train_system(run, config.results_dir, say, lock) for system, run in todo.items()}
        print(compare(config, training, say))


if __name__ == "__main__":
    sys.exit(main())
