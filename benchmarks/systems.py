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
from benchmarks.systems_training import SYSTEMS, Trained, check, parts_of, train_part
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

    todo = {system: parts_of(system, config) for system in config.systems or SYSTEMS}
    for parts in todo.values():
        check(parts[0].flags)
    with held(config.results_dir) as lock:
        training = {
            system: sum((train_part(part, config.results_dir, say, lock) for part in parts), Trained())
            for system, parts in todo.items()
        }
        print(compare(config, training, say))


if __name__ == "__main__":
    sys.exit(main())
