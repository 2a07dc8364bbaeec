"""Loss curves: from the lines of a metrics.jsonl, and as a picture with a panel for each loss."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cyclegan_age.images import Picture

Curve = tuple[list[int], list[float]]  # steps, values
Curves = dict[str, Curve]
Points = Iterable[tuple[int, Mapping[str, float]]]  # (step, values by name)

HELD_OUT = "held_out_"  # prefix of a loss on faces outside the training set

_COLUMNS, _WIDTH, _HEIGHT = 3, 360, 200  # panels in a row, size of each in pixels
_LEFT, _TOP, _RIGHT, _BOTTOM = 52, 30, 12, 24  # around the area of the curves
_SCALE = 2  # antialiasing: drawn at this scale, then reduced
_POINTS = 240  # maximum number per curve; more are averaged
_INK, _GREY, _LINE = "#222222", "#777777", "#e3e3e3"
_PALE, _BLUE, _ORANGE = "#bcd3ea", "#1f6fb4", "#d9730d"


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


def draw_curves(curves: Curves, title: str) -> Picture:
    """A panel for each loss: every logged value pale, the running mean blue, held-out faces orange.

    Args:
        curves: as of `loss_curves`, each with at least one point.
        title: of the picture.

    Returns:
        uint8 (H, W, 3), three panels in a row.
    """
    names = [name for name in curves if not name.startswith(HELD_OUT)]
    last = max((steps[-1] for steps, _ in curves.values()), default=1)
    rows = -(-max(len(names), 1) // _COLUMNS)
    head = 34
    sheet = Image.new("RGB", (_COLUMNS * _WIDTH * _SCALE, (head + rows * _HEIGHT) * _SCALE), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((14 * _SCALE, head / 2 * _SCALE), title, _INK, _font(15), anchor="lm")
    legend = [("each interval", _PALE), ("running mean", _BLUE)]
    legend += [("faces held out", _ORANGE)] if len(names) < len(curves) else []
    x = _COLUMNS * _WIDTH - 12.0
    for text, colour in reversed(legend):
        draw.text((x * _SCALE, head / 2 * _SCALE), text, _GREY, _font(11), anchor="rm")
        x -= _font(11).getlength(text) / _SCALE + 22
        draw.line([x * _SCALE, head / 2 * _SCALE, (x + 16) * _SCALE, head / 2 * _SCALE], colour, 3 * _SCALE)
        x -= 16
    for i, name in enumerate(names):
        row, column = divmod(i, _COLUMNS)
        _panel(draw, column * _WIDTH, head + row * _HEIGHT, name, curves[name], curves.get(HELD_OUT + name), last)
    size = (_COLUMNS * _WIDTH, head + rows * _HEIGHT)
    return np.array(sheet.resize(size, Image.Resampling.LANCZOS))


def smooth(values: Sequence[float] | NDArray[np.float64], share: float = 0.05) -> NDArray[np.float64]:
    """Running mean over a share of the values; at the ends over the values that exist."""
    count = len(values)
    half = max(1, round(share * count)) // 2
    total = np.concatenate([[0.0], np.cumsum(values)])
    low, high = np.maximum(np.arange(count) - half, 0), np.minimum(np.arange(count) + half + 1, count)
    mean: NDArray[np.float64] = (total[high] - total[low]) / (high - low)
    return mean


def _panel(
    draw: ImageDraw.ImageDraw, left: int, top: int, name: str, curve: Curve, held_out: Curve | None, last: int
) -> None:
    steps, values = _thinned(*curve)
    mean = smooth(values)
    shown = [*mean, *(held_out[1] if held_out else [])]
    low, high = min(0.0, *shown), max(shown)
    if (most := 3 * float(np.percentile(mean, 75))) > 0:
        high = min(high, most)  # outliers are cut at the panel's edge
    high = high if high > low else low + 1
    x0, x1 = left + _LEFT, left + _WIDTH - _RIGHT
    y0, y1 = top + _HEIGHT - _BOTTOM, top + _TOP

    def at(step: float, value: float) -> tuple[float, float]:
        y = y0 + (min(max(value, low), high) - low) / (high - low) * (y1 - y0)
        return (x0 + step / last * (x1 - x0)) * _SCALE, y * _SCALE

    for share in (0.0, 0.5, 1.0):
        value = low + share * (high - low)
        draw.line([at(0, value), at(last, value)], _LINE, _SCALE)
        draw.text(((x0 - 6) * _SCALE, at(0, value)[1]), f"{value:.3g}", _GREY, _font(10), anchor="rm")
    draw.text((x0 * _SCALE, (y0 + 12) * _SCALE), "step 0", _GREY, _font(10), anchor="lm")
    draw.text((x1 * _SCALE, (y0 + 12) * _SCALE), f"{last:,}", _GREY, _font(10), anchor="rm")
    draw.text((x0 * _SCALE, (top + 15) * _SCALE), name, _INK, _font(13), anchor="lm")
    draw.text((x1 * _SCALE, (top + 15) * _SCALE), f"{mean[-1]:.3g}", _BLUE, _font(13), anchor="rm")
    lines = [(steps, values, _PALE, 1), (steps, mean, _BLUE, 2)]
    lines += [(*_thinned(*held_out), _ORANGE, 2)] if held_out else []
    for xs, ys, colour, width in lines:
        points = [at(float(s), float(v)) for s, v in zip(xs, ys, strict=True)]
        if len(points) > 1:
            draw.line(points, colour, width * _SCALE, joint="curve")
        else:
            (x, y), r = points[0], 2 * _SCALE
            draw.ellipse([x - r, y - r, x + r, y + r], colour)


def _thinned(steps: Sequence[int], values: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most `_POINTS` points, each the mean of its neighbours."""
    cuts = np.linspace(0, len(steps), min(len(steps), _POINTS) + 1).astype(int)[:-1]
    count = np.diff([*cuts, len(steps)])
    return np.add.reduceat(np.asarray(steps, float), cuts) / count, np.add.reduceat(np.asarray(values), cuts) / count


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size * _SCALE)
