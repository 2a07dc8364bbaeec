"""Records -> the columns of the table, its text and CSV, and the score against the goals."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cyclegan_age.evaluation.reference import Values


@dataclass(frozen=True)
class Goal:
    """A goal for good weights: `column` at least `low` and at most `high`."""

    column: str
    low: float = -math.inf
    high: float = math.inf

    def reached(self, value: float) -> bool:
        return self.low <= value <= self.high

    def share(self, value: float) -> float:
        """Progress of a value towards the goal: 1 if it is reached, 0 for none."""
        if math.isnan(value):
            return math.nan
        if value < self.low:
            return max(0.0, value / self.low)
        return 1.0 if value <= self.high else max(0.0, self.high / value)

    def __str__(self) -> str:
        if math.isinf(self.high):
            return f"at least {self.low:g}"
        return f"at most {self.high:g}" if math.isinf(self.low) else f"{self.low:g} to {self.high:g}"


def goals(age: str, identity: str, targets: Sequence[int]) -> list[Goal]:
    """The goals, by an estimator and an embedder, if the targets are the decades from 10 to 60."""
    out = [
        Goal(f"{age}.calibrated_mae", high=7.5),
        Goal(f"{age}.spearman", low=0.96),
        Goal(f"{age}.monotone", low=0.8),
        Goal(f"{identity}.verified_far1", low=0.97),
        Goal(f"{identity}.verified_far1_within_20", low=0.99),
        Goal("keeping.outside_l1", high=0.01),
        Goal("keeping.sharpness", low=0.9, high=1.15),
        Goal("keeping.own_ssim", low=0.95),
        Goal("realism.beats_copy", low=1.0),
        Goal("fairness.sex_span_ratio", low=0.9),
        Goal("fairness.race_span_ratio", low=0.9),
    ]
    if {10, 20, 60} <= set(targets):
        spans = [Goal(f"{age}.calibrated_60_minus_20", low=32), Goal(f"{age}.calibrated_60_minus_10", low=42)]
        return spans + out
    return out


def score(values: Mapping[str, float], aims: Sequence[Goal]) -> float:
    """From 0 to 1: the geometric mean of the shares of the goals, without undefined values."""
    shares = [share for goal in aims if not math.isnan(share := goal.share(values.get(goal.column, math.nan)))]
    return math.exp(sum(math.log(max(s, 1e-3)) for s in shares) / len(shares)) if shares else math.nan


HEADER = ("goal", "real faces")


def cell(value: float) -> str:
    """A number in a few characters; a dash if undefined."""
    if math.isnan(value):
        return "-"
    if value == int(value) and abs(value) < 1e6:
        return f"{value + 0.0:.0f}"  # avoids -0
    return f"{value:.4f}" if abs(value) < 0.1 else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def as_text(rows: Mapping[str, Values], real: Values, aims: Sequence[Goal], notes: Sequence[str]) -> str:
    """The table as text: a line per column, those with a goal first, and the notes below."""
    wanted = {goal.column: goal for goal in aims}
    names = list(dict.fromkeys(name for values in rows.values() for name in values))
    order = [*(n for n in wanted if n in names), *(n for n in names if n not in wanted)]
    header = ["", *HEADER, *rows]
    lines = [header]
    for name in order:
        goal = str(wanted[name]) if name in wanted else ""
        own = cell(real[name]) if name in real else ""
        marks = [
            cell(values.get(name, math.nan))
            + ("" if name not in wanted else " *" if wanted[name].reached(values.get(name, math.nan)) else "  ")
            for values in rows.values()
        ]
        lines.append([name, goal, own, *marks])
    widths = [max(len(line[k]) for line in lines) for k in range(len(header))]
    text = "\n".join(
        "  ".join(
            part.ljust(width) if k < 2 else part.rjust(width)
            for k, (part, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
    return "\n".join([text, "", "* reaches the goal", *notes]) + "\n"


def as_csv(rows: Mapping[str, Values]) -> str:
    """The table as CSV: a line per row, empty where undefined."""
    names = list(dict.fromkeys(name for values in rows.values() for name in values))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["row", *names])
    for row, values in rows.items():
        defined = [values.get(name, math.nan) for name in names]
        writer.writerow([row, *("" if math.isnan(v) else f"{v:.6g}" for v in defined)])
    return out.getvalue()
