"""The flags of the benchmarks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True, kw_only=True)
class PhotoBenchConfig:
    """What `python -m benchmarks.photos` takes."""

    faces: Path | None = None
    """A folder of aligned face crops, as for training: how many of them are found again in photographs."""
    quick: bool = False
    """Small pictures and no repetitions: shows that everything runs; the numbers mean nothing."""


def parse_photo_bench(argv: Sequence[str]) -> PhotoBenchConfig:
    """argv -> configuration.

    Raises:
        UserError: an unknown flag.
    """
    description = "Measure what becomes of photographs and print a table (see docs/photos.md)."
    return parse(PhotoBenchConfig, argv, prog="benchmarks.photos", description=description, default=PhotoBenchConfig())
