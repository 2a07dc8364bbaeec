"""Loss curves, from the lines of a metrics.jsonl."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Curve = tuple[list[int], list[float]]  # steps, values
Curves = dict[str, Curve]
Points = Iterable[tuple[int, Mapping[str, float]]]  # (step, values by name)

HELD_OUT = "held_out_"  # prefix of a loss on faces outside the training set


def as_curves(points: Points) -> Curves:
    """Points as curves; the last value of a step counts."""
    curves: Curves = {}
    for step, values in points:
        for name, value in values.items():
            steps, numbers = curves.setdefault(name, ([], []))
            while steps and steps[-1] >= step:
                steps.pop()
                numbers.pop()
            steps.append(step)
            numbers.append(value)
    return curves


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Lines of a metrics.jsonl by rising step; [] without the file.

    Incomplete or foreign lines are skipped. A line with a lower step than one before it (a run resumed from its last
    checkpoint) replaces everything from that step on; lines of the same step are merged.
    """
    rows: list[dict[str, Any]] = []
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return rows
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            continue
        while rows and rows[-1]["step"] > row["step"]:
            rows.pop()
        if rows and rows[-1]["step"] == row["step"]:
            rows[-1] |= row
        else:
            rows.append(row)
    return rows


def loss_curves(rows: Iterable[Mapping[str, Any]]) -> Curves:
    """The losses of a training by name, and those on held-out faces as `held_out_NAME`.

    Args:
        rows: `step` and `loss/NAME` or `measure/held_out_NAME`, by rising step, as `read_metrics` reads them.
    """
    curves: Curves = {}
    for row in rows:
        for key, value in row.items():
            kind, _, name = key.partition("/")
            wanted = kind == "loss" or (kind == "measure" and name.startswith(HELD_OUT))
            if wanted and isinstance(value, int | float) and np.isfinite(value):
                steps, values = curves.setdefault(name, ([], []))
                steps.append(int(row["step"]))
                values.append(float(value))
    return curves


def smooth(values: Sequence[float] | NDArray[np.float64], share: float = 0.05) -> NDArray[np.float64]:
    """Running mean over a share of the values; at the ends over the values that exist."""
    count = len(values)
    half = max(1, round(share * count)) // 2
    total = np.concatenate([[0.0], np.cumsum(values)])
    low, high = np.maximum(np.arange(count) - half, 0), np.minimum(np.arange(count) + half + 1, count)
    mean: NDArray[np.float64] = (total[high] - total[low]) / (high - low)
    return mean
