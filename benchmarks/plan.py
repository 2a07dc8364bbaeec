"""Sizes of the measurements, and the resulting table. Does not import torch."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Sizes of the measurements; the defaults give valid numbers."""

    flags: tuple[str, ...] = ("--image_size", "128", "--load_size", "144", "--batch_size", "8")  # of train.py
    matrix: int = 2048  # side of the matrices multiplied
    rounds: int = 4  # repetitions inside the process
    files: int = 240  # JPEGs of the made-up data
    side: int = 200  # their width and height in pixels
    steps: int = 24  # of the training whose memory is measured
    starts: int = 2  # repetitions of the time to the first batch
    faces: int = 32  # rendered by test.py, each at every anchor age
    batch_size: int = 16  # of test.py


QUICK = Plan(
    flags=(
        *("--image_size", "32", "--load_size", "36", "--batch_size", "2", "--no_compile"),
        *("--ngf", "4", "--ndf", "4", "--blocks", "3"),
    ),
    matrix=64,
    rounds=1,
    files=12,
    side=40,
    steps=4,
    starts=1,
    faces=6,
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    measure: str
    value: float
    unit: str
    at_least: float | None = None  # the goal, in the same unit
    at_most: float | None = None

    @property
    def goal(self) -> str:
        """The goal and whether it is met; empty where there is none."""
        if self.at_least is not None:
            return f"at least {self.at_least:g}, {'met' if self.value >= self.at_least else 'missed'}"
        if self.at_most is not None:
            return f"at most {self.at_most:g}, {'met' if self.value <= self.at_most else 'missed'}"
        return ""


def digits(value: float) -> str:
    """A number with three significant digits, never in the form 1e+03."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}" if value > 0 else f"{value:g}"


def table(rows: Sequence[Row]) -> str:
    """Rows as Markdown, in aligned columns."""
    cells = [(row.measure, digits(row.value), row.unit, row.goal) for row in rows]
    return markdown(("measure", "value", "unit", "goal"), cells, numbers={1})


def markdown(heading: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Collection[int]) -> str:
    """A Markdown table in aligned columns; those in `numbers` are right-aligned."""
    lines = [heading, *rows]
    widths = [max(len(line[k]) for line in lines) for k in range(len(heading))]
    rule = ["-" * (w - 1) + ":" if k in numbers else "-" * w for k, w in enumerate(widths)]
    padded = [
        [c.rjust(w) if k in numbers else c.ljust(w) for k, (c, w) in enumerate(zip(line, widths, strict=True))]
        for line in lines
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [padded[0], rule, *padded[1:]])
