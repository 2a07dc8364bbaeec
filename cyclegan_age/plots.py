"""All plots, by matplotlib: losses of a training as a picture; lines and stacked bars as SVG for HTML pages.

matplotlib is imported at the first plot, and pyplot, which has global state, never.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cyclegan_age.config import needs
from cyclegan_age.curves import HELD_OUT, Curve, Curves, smooth
from cyclegan_age.images import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#7f7f7f", "#bcbd22")
_INK, _GREY, _RULE = "#222222", "#707070", "#e3e3e3"
_PALE, _BLUE, _ORANGE = "#bcd3ea", "#1f6fb4", "#d9730d"
_ON_ANY_GROUND = "#88888866"  # rules of an SVG, on a light or a dark page

_PANELS, _WIDTH, _HEIGHT, _TITLE = 3, 360, 200, 34  # panels in a row; pixels of each, and of the title's line
_LEFT, _TOP, _RIGHT, _BOTTOM = 52, 30, 12, 24  # pixels around the area of the curves
_DPI = 100  # of the picture; an SVG's unit is a point
_POINTS = 240  # maximum number per curve; more are averaged
_LABELS = 12  # maximum number along a horizontal axis


def require() -> None:
    """Check for matplotlib, before a long computation that ends with plots.

    Raises:
        UserError: it is not installed.
    """
    with needs("matplotlib"):
        import matplotlib.figure  # noqa: F401


def colour(k: int) -> str:
    """The colour of the k-th line or series."""
    return _COLOURS[k % len(_COLOURS)]


def loss_panels(curves: Curves, title: str) -> Picture:
    """A panel for each loss: every logged value pale, the running mean blue, held-out faces orange.

    Args:
        curves: as of `loss_curves`, each with at least one point.
        title: of the picture.

    Returns:
        uint8 (H, W, 3), three panels of 360 x 200 px in a row.

    Raises:
        UserError: matplotlib is not installed.
    """
    names = [name for name in curves if not name.startswith(HELD_OUT)]
    last = max((steps[-1] for steps, _ in curves.values()), default=1)
    rows = -(-max(len(names), 1) // _PANELS)
    width, height = _PANELS * _WIDTH, _TITLE + rows * _HEIGHT
    figure = _figure(width / _DPI, height / _DPI)
    middle = 1 - _TITLE / 2 / height
    figure.text(14 / width, middle, title, color=_INK, size=11, va="center")
    legend = [("each interval", _PALE), ("running mean", _BLUE)]
    legend += [("faces held out", _ORANGE)] if len(names) < len(curves) else []
    _legend(figure, legend, (1, middle))
    for i, name in enumerate(names):
        row, column = divmod(i, _PANELS)
        left, bottom = column * _WIDTH + _LEFT, height - _TITLE - (row + 1) * _HEIGHT + _BOTTOM
        size = (_WIDTH - _LEFT - _RIGHT) / width, (_HEIGHT - _TOP - _BOTTOM) / height
        axes = figure.add_axes((left / width, bottom / height, *size))
        _loss(axes, name, curves[name], curves.get(HELD_OUT + name), last)
    return _pixels(figure)


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
        y_name: title of the vertical axis, for screen readers.
        x_names: names of the positions; by default their numbers.
        spread: name -> K half lengths of error bars.
        diagonal: draw the line of equal values.
        ends: values that the vertical axis includes in any case.

    Returns:
        An `svg` element; empty without values.

    Raises:
        UserError: matplotlib is not installed.
    """
    spread = spread or {}
    shown = [v for line in lines.values() for v in line if math.isfinite(v)]
    for name, bars in spread.items():
        shown += [v + s * b for v, b in zip(lines[name], bars, strict=True) if math.isfinite(v + b) for s in (-1, 1)]
    if not shown:
        return ""
    shown += [*ends, *((x[0], x[-1]) if diagonal else ())]
    figure = _figure(460 / 72, 300 / 72)
    axes = figure.add_axes((52 / 460, 42 / 300, 396 / 460, 248 / 300))
    _value_axis(axes, min(shown), max(shown))
    margin = 0.02 * ((x[-1] - x[0]) or 1)
    axes.set_xlim(x[0] - margin, x[-1] + margin)
    _name_places(axes, x, x_names or [f"{v:g}" for v in x])
    axes.set_xlabel(x_name, size=11)
    if diagonal:
        axes.plot([x[0], x[-1]], [x[0], x[-1]], color=_GREY, linestyle=(0, (5, 4)), linewidth=1)
    for k, (name, line) in enumerate(lines.items()):
        axes.plot(x, line, color=colour(k), linewidth=2, marker="o", markersize=6, clip_on=False)
        if name in spread:  # side by side
            beside = np.asarray(x, float) + 0.4 * margin * (k - (len(lines) - 1) / 2)
            middle, half = np.asarray(line, float), np.asarray(spread[name], float)
            axes.vlines(beside, middle - half, middle + half, color=colour(k), alpha=0.6, linewidth=1)
    return _svg(figure, f"{y_name} by {x_name}: {', '.join(lines)}")


def bar_plot(title: str, names: Sequence[str], series: Mapping[str, Sequence[int]]) -> str:
    """Stacked bars.

    Args:
        title: for screen readers.
        names: N names of the bars.
        series: name -> N counts; one without a name gets no line in the legend.

    Returns:
        An `svg` element.

    Raises:
        UserError: matplotlib is not installed.
    """
    figure = _figure(560 / 72, 220 / 72)
    axes = figure.add_axes((50 / 560, 40 / 220, 504 / 560, 168 / 220))
    below = np.zeros(len(names))
    for k, counts in enumerate(series.values()):
        axes.bar(range(len(names)), counts, bottom=below, width=0.9, color=colour(k))
        below += counts
    _value_axis(axes, 0, max(1.0, float(below.max())))
    axes.set_xlim(-0.6, len(names) - 0.4)
    _name_places(axes, range(len(names)), names)
    if legend := [(name, colour(k)) for k, name in enumerate(series) if name]:
        _legend(figure, legend, (0.08, 0), square=True)
    return _svg(figure, title)


def _figure(width: float, height: float) -> "Figure":
    """A figure of a size in inches, without pyplot."""
    require()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), facecolor="white")


def _loss(axes: "Axes", name: str, curve: Curve, held_out: Curve | None, last: int) -> None:
    steps, values = _thinned(*curve)
    mean = smooth(values)
    shown = [*mean, *(held_out[1] if held_out else [])]
    low, high = min(0.0, *shown), max(shown)
    if (most := 3 * float(np.percentile(mean, 75))) > 0:
        high = min(high, most)  # outliers are cut at the panel's edge
    high = high if high > low else low + 1
    axes.set(xlim=(0, last), ylim=(low, high))
    ticks = [low, (low + high) / 2, high]
    axes.set_yticks(ticks, [f"{value:.3g}" for value in ticks], color=_GREY, size=7.5)
    axes.set_xticks([0, last], ["step 0", f"{last:,}"], color=_GREY, size=7.5)
    first, final = axes.get_xticklabels()
    first.set_horizontalalignment("left")
    final.set_horizontalalignment("right")
    _plain(axes, _RULE)
    axes.set_title(name, loc="left", color=_INK, size=9.5, pad=5)
    axes.set_title(f"{mean[-1]:.3g}", loc="right", color=_BLUE, size=9.5, pad=5)
    lines = [(steps, values, _PALE, 1.0), (steps, mean, _BLUE, 1.6)]
    lines += [(*_thinned(*held_out), _ORANGE, 1.6)] if held_out else []
    for xs, ys, shade, width in lines:
        marker = "o" if len(xs) == 1 else ""
        axes.plot(xs, np.clip(ys, low, high), color=shade, linewidth=width, marker=marker, markersize=4, clip_on=False)


def _thinned(steps: Sequence[int], values: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most `_POINTS` points, each the mean of its neighbours."""
    cuts = np.linspace(0, len(steps), min(len(steps), _POINTS) + 1).astype(int)[:-1]
    count = np.diff([*cuts, len(steps)])
    return np.add.reduceat(np.asarray(steps, float), cuts) / count, np.add.reduceat(np.asarray(values), cuts) / count


def _plain(axes: "Axes", rule: str) -> None:
    """Horizontal rules instead of a frame and ticks."""
    axes.set_frame_on(False)
    axes.tick_params(length=0)
    axes.grid(axis="y", color=rule, linewidth=0.8, clip_on=False)
    axes.set_axisbelow(True)


def _value_axis(axes: "Axes", low: float, high: float) -> None:
    """Round numbers from below the lowest value to above the greatest."""
    from matplotlib.ticker import MaxNLocator

    high = high if high > low else low + (abs(low) or 1)
    ticks = MaxNLocator(nbins=7, steps=[1, 2, 5, 10]).tick_values(low, high)
    axes.set_yticks(ticks, [f"{round(value, 10):,.10g}" for value in ticks], size=11)
    axes.set_ylim(ticks[0], ticks[-1])
    _plain(axes, _ON_ANY_GROUND)


def _name_places(axes: "Axes", places: Sequence[float], names: Sequence[str]) -> None:
    """Names along the horizontal axis, where there are too many every second, third and so on."""
    step = -(-len(names) // _LABELS)
    axes.set_xticks(places[::step], names[::step], size=11)


def _legend(
    figure: "Figure", names: Sequence[tuple[str, str]], at: tuple[float, float], *, square: bool = False
) -> None:
    """Names and colours in one line: of bars from the left, of lines to the right."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    marks = [Patch(color=shade) if square else Line2D([], [], color=shade, linewidth=2.5) for _, shade in names]
    legend = figure.legend(
        handles=marks,
        labels=[name for name, _ in names],
        loc="lower left" if square else "center right",
        bbox_to_anchor=at,
        ncols=len(names),
        frameon=False,
    )
    for text in legend.get_texts():
        text.set(size=11 if square else 8.5, color="black" if square else _GREY)


def _pixels(figure: "Figure") -> Picture:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _svg(figure: "Figure", label: str) -> str:
    """A figure as an element of a page: in the page's font and text colour, and without links to specifications."""
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "cyclegan_age"}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = re.sub(r"<metadata>.*?</metadata>", "", out.getvalue(), flags=re.DOTALL)
    text = re.sub(r'<g id="[\w.]+_\d+"', "<g", text)  # the same in each plot of a page
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None
    body = text[text.index(">", text.index("<svg")) + 1 :]
    return f'<svg {box[0]} role="img" aria-label="{escape(label, quote=True)}">{body.strip()}'
