"""Line plots as standalone SVG."""

import math
from collections.abc import Mapping, Sequence
from html import escape

_WIDTH, _HEIGHT = 460, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 40
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#7f7f7f", "#bcbd22")


def colour(k: int) -> str:
    """The colour of the k-th line."""
    return _COLOURS[k % len(_COLOURS)]


def line_plot(
    x: Sequence[float],
    lines: Mapping[str, Sequence[float]],
    *,
    x_name: str,
    y_name: str,
    x_names: Sequence[str] = (),
    spread: Mapping[str, Sequence[float]] | None = None,
    diagonal: bool = False,
    ends: tuple[float, ...] = (),
) -> str:
    """Lines of one colour each, with a gap at NaN.

    Args:
        x: K positions on the horizontal axis, rising.
        lines: name -> K values.
        x_name: title of the horizontal axis.
        y_name: title of the vertical axis.
        x_names: names of the positions; by default their numbers.
        spread: name -> K half lengths of error bars.
        diagonal: draw the line of equal values.
        ends: values that the vertical axis includes in any case.

    Returns:
        An `svg` element; empty without values.
    """
    spread = spread or {}
    reach = [v for line in lines.values() for v in line if math.isfinite(v)]
    for name, bars in spread.items():
        pairs = zip(lines[name], bars, strict=True)
        reach += [v + s * b for v, b in pairs if math.isfinite(v + b) for s in (-1, 1)]
    if not reach:
        return ""
    if diagonal:
        reach += [x[0], x[-1]]
    reach += ends
    ticks = _ticks(min(reach), max(reach))
    low, high = ticks[0], ticks[-1]

    def at(a: float, b: float) -> tuple[float, float]:
        across = (a - x[0]) / ((x[-1] - x[0]) or 1)
        up = (b - low) / (high - low)
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

    label = escape(f"{y_name} by {x_name}: {', '.join(lines)}", quote=True)
    out = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">']
    for tick in ticks:
        left, y = at(x[0], tick)
        out.append(f'<path class="grid" d="M{left:.1f} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        out.append(f'<text x="{left - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for place, name in zip(x, x_names or [f"{v:g}" for v in x], strict=True):
        out.append(
            f'<text x="{at(place, low)[0]:.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{escape(name)}</text>'
        )
    out.append(f'<text x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x_name)}</text>')
    if diagonal:
        (ax, ay), (bx, by) = at(x[0], x[0]), at(x[-1], x[-1])
        out.append(f'<path class="same" d="M{ax:.1f} {ay:.1f}L{bx:.1f} {by:.1f}"/>')
    for k, (name, line) in enumerate(lines.items()):
        out += _line([at(a, b) if math.isfinite(b) else None for a, b in zip(x, line, strict=True)], colour(k))
        for a, b, bar in zip(x, line, spread.get(name, ()), strict=False):
            if math.isfinite(b + bar):
                (px, top), (_, bottom) = at(a, b + bar), at(a, b - bar)
                px += 3 * (k - (len(lines) - 1) / 2)  # side by side
                out.append(f'<path d="M{px:.1f} {top:.1f}V{bottom:.1f}" stroke="{colour(k)}" opacity=".6"/>')
    return "".join([*out, "</svg>"])


def _line(points: Sequence[tuple[float, float] | None], stroke: str) -> list[str]:
    path, pen, dots = [], "M", []
    for point in points:
        if point is None:
            pen = "M"
            continue
        path.append(f"{pen}{point[0]:.1f} {point[1]:.1f}")
        dots.append(f'<circle cx="{point[0]:.1f}" cy="{point[1]:.1f}" r="3" fill="{stroke}"/>')
        pen = "L"
    return [f'<path d="{"".join(path)}" fill="none" stroke="{stroke}" stroke-width="2"/>', *dots]


def _ticks(low: float, high: float) -> list[float]:
    """Four to nine round numbers that span a range."""
    span = (high - low) or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(span / 4))
    step = next(s * step for s in (1, 2, 5, 10) if span / (s * step) <= 7)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 10) for k in range(first, max(last, first + 1) + 1)]
