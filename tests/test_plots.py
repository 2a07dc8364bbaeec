"""Plots: the losses of a training, and the lines and bars of HTML pages."""

import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from cyclegan_age import plots

PROJECT = Path(__file__).resolve().parent.parent
ORANGE, BLUE = (217, 115, 13), (31, 111, 180)


def _has(picture: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], colour: tuple[int, int, int]) -> bool:
    return bool((abs(picture.astype(int) - colour).max(axis=-1) < 12).any())


def _curve(*corners: float, points: int = 40, last: int = 4000) -> tuple[list[int], list[float]]:
    """Straight lines through evenly spaced corners."""
    steps = np.linspace(last / points, last, points)
    return steps.astype(int).tolist(), np.interp(steps, np.linspace(0, last, len(corners)), corners).tolist()


def _words(svg: str) -> list[str]:
    """The texts of a plot, in order."""
    return re.findall(r"<text [^>]*>([^<]*)</text>", svg)


def test_the_picture_has_a_panel_for_each_loss_and_orange_for_faces_held_out() -> None:
    curves = {"age": _curve(3, 1, 0.5), "d_real": ([4000], [0.2]), "flat": _curve(0, 0)}
    plain = plots.loss_panels(curves, "run")
    assert plain.dtype == np.uint8 and plain.shape[1:] == (1080, 3)
    assert _has(plain, BLUE) and not _has(plain, ORANGE)
    both = plots.loss_panels(curves | {"held_out_age": _curve(3, 2, 2, points=5)}, "run")
    assert both.shape == plain.shape
    assert _has(both[:, :360], ORANGE) and not _has(both[34:, 360:], ORANGE)
    four = plots.loss_panels(curves | {"more": _curve(1, 2)}, "run")
    assert len(four) == len(plain) + 200
    assert plots.loss_panels({}, "nothing yet").shape[2] == 3


def test_the_curve_falls_from_left_to_right_and_one_wild_value_does_not_flatten_it() -> None:
    steps, values = _curve(2, 1)
    values[20] = 500.0
    picture = plots.loss_panels({"age": (steps, values)}, "run")[64:210, 52:348]  # the area of the first panel's curves
    blue = (abs(picture.astype(int) - BLUE).max(axis=-1) < 60).astype(float)
    early, late = (float(np.average(np.arange(146), weights=blue[:, x] + 1e-9)) for x in (15, 288))
    assert 20 < late - early < 120  # rows are counted from above


def test_line_plot_has_gaps_bars_and_escaped_names() -> None:
    svg = plots.line_plot(
        (10, 20, 30), {"<b>": (1, math.nan, 3), "c": (0, 1, 2)}, x_name="x", y_name="y", spread={"c": (1, 1, 1)}
    )
    assert "<b>" not in svg and 'aria-label="y by x: &lt;b&gt;, c"' in svg
    assert [len(re.findall(rf"<use [^>]*fill: {plots.colour(k)}", svg)) for k in (0, 1)] == [2, 3]  # dots
    assert svg.count("stroke-opacity: 0.6") == 3
    assert _words(svg)[:4] == ["10", "20", "30", "x"]
    assert plots.line_plot((1, 2), {"a": (math.nan, math.nan)}, x_name="x", y_name="y") == ""
    shares = plots.line_plot((1, 2), {"a": (1, 1)}, x_name="x", y_name="y", x_names=("p", "q"), ends=(0, 1))
    assert _words(shares) == ["p", "q", "x", "0", "0.2", "0.4", "0.6", "0.8", "1"]
    same = plots.line_plot((10, 60), {"a": (20, 30)}, x_name="x", y_name="y", diagonal=True)
    assert "stroke-dasharray" in same and _words(same)[3:] == ["10", "20", "30", "40", "50", "60"]


def test_bars_are_stacked_and_named() -> None:
    names = [str(5 * i) for i in range(20)]
    svg = plots.bar_plot("by age & sex", names, {"male": [700] * 20, "female": [0, *[500] * 19]})
    assert 'aria-label="by age &amp; sex"' in svg
    assert _words(svg)[:10] == names[::2]
    assert {"1,200", "male", "female"} <= set(_words(svg))

    def ends(k: int) -> tuple[list[float], list[float]]:
        """Lower and upper ends of a series' bars; the vertical axis of an SVG points down."""
        bars = re.findall(rf'd="([^"]*)"[^>]*fill: {plots.colour(k)}', svg)[: len(names)]
        ys = [[float(y) for y in re.findall(r"[ML] [\d.]+ ([\d.]+)", bar)] for bar in bars]
        return [max(one) for one in ys], [min(one) for one in ys]

    (ground, top), (lower, upper) = ends(0), ends(1)
    assert lower[1:] == top[1:] and lower[0] == upper[0]
    assert np.allclose(np.subtract(lower, upper)[1:] * 7, np.subtract(ground, top)[1:] * 5, atol=1e-3)
    assert "male" not in plots.bar_plot("sides", ["200"], {"": [3]})


def test_plots_can_stand_in_one_page() -> None:
    one = plots.bar_plot("a", ["p"], {"": [1]})
    assert one == plots.bar_plot("a", ["p"], {"": [1]})
    assert one.startswith("<svg viewBox=") and one.endswith("</svg>") and "http" not in one and "figure_1" not in one


def test_matplotlib_is_imported_at_the_first_plot_and_pyplot_never() -> None:
    code = (
        "import sys; from cyclegan_age import plots; assert 'matplotlib' not in sys.modules; "
        "plots.bar_plot('a', ['p'], {'': [1]}); plots.loss_panels({'a': ([1], [2.0])}, 'run'); "
        "sys.exit('matplotlib' not in sys.modules or 'matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, timeout=120).returncode == 0
