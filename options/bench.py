"""The flags of the benchmarks."""

from collections.abc import Sequence
from dataclasses import dataclass

from options.parse import parse


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """What `python -m benchmarks` takes."""

    quick: bool = False
    """Tiny networks and no repetitions: shows that everything runs; the numbers mean nothing."""


def parse_bench(argv: Sequence[str]) -> BenchConfig:
    """argv -> configuration.

    Raises:
        UserError: an unknown flag.
    """
    description = "Measure speed and memory on this machine's processor and print a table (see docs/benchmarks.md)."
    return parse(BenchConfig, argv, prog="benchmarks", description=description, default=BenchConfig())
