"""Scores -> a self-contained page: goals, plots, the same faces by every row, best and worst faces, the table."""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote

import numpy as np

from cyclegan_age.config import needs
from cyclegan_age.evaluation import measures
from cyclegan_age.evaluation.columns import GAPS, near
from cyclegan_age.evaluation.faces import BLEND, COPY, Row
from cyclegan_age.evaluation.reference import FARS, Values
from cyclegan_age.evaluation.scores import Scores
from cyclegan_age.evaluation.table import Goal, cell
from cyclegan_age.images import Picture, grid
from cyclegan_age.plots import colour, line_plot
from cyclegan_age.rendering.page import document
from cyclegan_age.rendering.pictures import save_jpg, save_text

with needs("dominate"):
    from dominate import tags
    from dominate.util import raw

_SAME, _BEST, _WORST = 8, 6, 10  # faces shown
_NOT_VERIFIED_YEARS = 20.0  # error in years of a target that is not verified as the same person

_STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1b1b1f; --soft: #5d5d66; --line: #d9d9df; --good: #0a7d43; }
@media (prefers-color-scheme: dark) { :root { --back: #17171b; --text: #ececf0; --soft: #a3a3ad; --line: #36363d;
  --good: #5fd39a; } }
body { margin: 0 auto; max-width: 82rem; padding: 1rem; background: var(--back); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; }
header p, figcaption, caption { color: var(--soft); font-size: .9rem; text-align: left; } header p { margin: .2rem 0; }
section { border-top: 1px solid var(--line); padding: 1rem 0; } h2 { font-size: 1.2rem; } h3 { font-size: 1rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; }
th, td { padding: .15rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child, thead th:nth-child(2), td.goal { text-align: left; font-weight: normal; }
td.good { color: var(--good); font-weight: 600; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(22rem, 1fr)); gap: 1rem; }
.faces figure { margin-bottom: 1rem; }
figure { margin: 0 0 .5rem; } img { max-width: 100%; height: auto; } svg { width: 100%; height: auto; }
svg text { fill: var(--soft); }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1rem; } .key i { display: inline-block; width: .8rem; height: .8rem;
  margin-right: .3rem; border-radius: 50%; }
"""


def write_page(folder: Path, scores: Scores, rows: Sequence[Row], real: Values, notes: Sequence[str]) -> Path:
    """Write `index.html` and the pictures under `faces/`; returns the page.

    Args:
        folder: the output folder.
        scores: of all rows.
        rows: those with weights.
        real: the estimators' errors on real faces.
        notes: lines under the heading.
    """
    page = document("Evaluation", _STYLE)
    with page, tags.main():
        with tags.header():
            tags.h1("Evaluation")
            for note in notes:
                tags.p(note)
            tags.p("The pictures are synthetic renderings, not predictions of anybody's future looks.")
        with tags.section():
            tags.h2("Goals")
            _table([goal.column for goal in scores.aims], scores, real)
        with tags.section():
            tags.h2("Curves")
            _plots(scores)
        with tags.section():
            tags.h2("The same faces by every row")
            with tags.div(cls="faces"):
                for path, caption in _same_faces(folder, scores, rows):
                    _figure(path, caption)
        for row in rows:
            _extremes(folder, scores, row)
        with tags.section():
            tags.h2("Every column")
            names = list(dict.fromkeys(name for values in scores.rows.values() for name in values))
            for theme in dict.fromkeys(name.partition(".")[0] for name in names):
                with tags.details():
                    tags.summary(theme)
                    _table([name for name in names if name.partition(".")[0] == theme], scores, real)
    save_text(str(page.render()), folder / "index.html")
    return folder / "index.html"


def _table(names: Sequence[str], scores: Scores, real: Values) -> None:
    aims = {goal.column: goal for goal in scores.aims}
    with tags.div(cls="wide"), tags.table():
        with tags.thead(), tags.tr():
            for name in ("", "goal", "real faces", *scores.rows):
                tags.th(name, scope="col")
        with tags.tbody():
            for name in names:
                with tags.tr():
                    tags.th(name, scope="row")
                    tags.td(str(aims[name]) if name in aims else "", cls="goal")
                    tags.td(cell(real[name]) if name in real else "")
                    for values in scores.rows.values():
                        _value(values.get(name, math.nan), aims.get(name))


def _value(value: float, goal: Goal | None) -> None:
    good = goal is not None and goal.reached(value)
    tags.td(cell(value) + (" ✓" if good else ""), cls="good" if good else "")


def _plots(scores: Scores) -> None:
    targets, rows = scores.reference.targets, scores.rows
    with tags.p(cls="key"):
        for k, name in enumerate(rows):
            with tags.span():
                tags.i(style=f"background:{colour(k)}")
                tags.span(name)

    def by_target(column: str) -> dict[str, list[float]]:
        return {name: [values.get(f"{column}_{t}", math.nan) for t in targets] for name, values in rows.items()}

    with tags.div(cls="plots"):
        for evaluator in scores.reference.evaluators:
            if evaluator.kind == "age" and evaluator.look:
                mean, sd = by_target(f"{evaluator.name}.calibrated_mean"), by_target(f"{evaluator.name}.calibrated_sd")
                svg = line_plot(targets, mean, x_name="target", y_name="age", spread=sd, diagonal=True)
                _plot(svg, f"{evaluator.name}: calibrated mean age ± standard deviation, years")
        for evaluator in scores.reference.evaluators:
            if evaluator.kind in ("cosine", "distance") and evaluator.look:
                column = f"{evaluator.name}.verified_far{FARS[0] * 100:g}_gap"
                lines = {n: [v.get(f"{column}_{low}", math.nan) for low, _ in pairwise(GAPS)] for n, v in rows.items()}
                names = [f"{low}-{high - 1}" if high <= 100 else f"{low}+" for low, high in pairwise(GAPS)]
                svg = line_plot(GAPS[:-1], lines, x_name="years between", y_name="verified", x_names=names, ends=(0, 1))
                _plot(svg, f"{evaluator.name}: share verified as the same person at FAR 1 %")
        for column, caption in (
            ("realism.kid", "KID x 1000 to the real faces of the target age"),
            ("keeping.outside_l1", "L1 outside the face, share of the range"),
            ("keeping.sharpness", "sharpness over the input's, median"),
        ):
            _plot(line_plot(targets, by_target(column), x_name="target", y_name=caption), caption)
        for name, curve in scores.reference.calibration.items():
            if len(curve.true_years):
                line = {name: [float(v) for v in curve.estimate]}
                svg = line_plot(list(curve.true_years), line, x_name="true age", y_name="estimate", diagonal=True)
                _plot(svg, f"{name}: mean estimate of real faces by true age, which the calibration inverts")


def _plot(svg: str, caption: str) -> None:
    if svg:
        with tags.figure():
            raw_svg = raw(svg)
            tags.div(raw_svg)
            tags.figcaption(caption)


def _same_faces(folder: Path, scores: Scores, rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Sheets of some faces, a line per row; path and caption."""
    faces, targets, renderer = scores.reference.faces, scores.reference.targets, scores.recorder.renderer
    numbers = [i for i in scores.recorder.plan.faces.sources if i in scores.records[COPY.name]]
    numbers = sorted(sorted(numbers, key=lambda i: int(faces.rank[i]))[:_SAME], key=lambda i: float(faces.age_years[i]))
    made: dict[int, list[list[Picture]]] = {i: [] for i in numbers}
    shown = [BLEND, *rows]
    for row in shown:
        renderer.use(row)
        for i in numbers:
            picture = renderer.pictures.get(i)
            assert picture is not None
            made[i].append([picture, *renderer.render(picture, targets, faces.attributes(i))])
    out = []
    for i in numbers:
        columns = ["input", *(str(t) for t in targets)]
        path = f"faces/same-{i}.jpg"
        save_jpg(grid(made[i], columns=columns), folder / path)
        out.append((path, f"{_who(scores, i)}; rows: {', '.join(row.name for row in shown)}"))
    return out


def _who(scores: Scores, i: int) -> str:
    faces = scores.reference.faces
    about = [f"{faces.age_years[i]:g} years", *(word for word in (faces.sex[i], faces.race[i]) if word)]
    return f"{', '.join(about)} ({faces.paths[i].name})"


def badness(scores: Scores, row: Row, i: int) -> float:
    """Error of one face in years: calibrated error to the targets, and 20 for each that is not the same person."""
    reference, record = scores.reference, scores.records[row.name][i]
    parts = []
    age = next((j for j in reference.evaluators if j.kind == "age" and j.look), None)
    if age:
        at = [reference.slider.index(t) for t in reference.targets]
        parts.append(np.abs(reference.calibration[age.name](record[age.key][at, 0]) - np.array(reference.targets)))
    who = next((j for j in reference.evaluators if j.kind in ("cosine", "distance") and j.look), None)
    if who:
        same = measures.verified(near(who, reference, {i: record}, [i])[0], reference.least[who.name, FARS[0]])
        parts.append(np.where(same > 0, 0.0, _NOT_VERIFIED_YEARS))
    return float(np.sum(parts, axis=0).mean()) if parts else 0.0


def _extremes(folder: Path, scores: Scores, row: Row) -> None:
    """The best and the worst faces of one row."""
    reference, renderer = scores.reference, scores.recorder.renderer
    order = sorted(scores.records[row.name], key=lambda i: (badness(scores, row, i), i))
    age = next((j for j in reference.evaluators if j.kind == "age" and j.look), None)
    at = [reference.slider.index(t) for t in reference.targets]
    renderer.use(row)
    worst = order[: -_WORST - 1 : -1]
    for title, numbers in (("best", [i for i in order[:_BEST] if i not in worst]), ("worst", worst)):
        with tags.section():
            tags.h2(f"{row.name}: the {title} faces")
            said = f", calibrated estimates of {age.name} in brackets" if age else ""
            tags.p(f"Sorted by the error in years, with a penalty for a lost identity{said}.")
            with tags.div(cls="faces"):
                for i in numbers:
                    picture = renderer.pictures.get(i)
                    assert picture is not None
                    columns = [str(t) for t in reference.targets]
                    if age:
                        years = reference.calibration[age.name](scores.records[row.name][i][age.key][at, 0])
                        columns = [f"{t} ({y:.0f})" for t, y in zip(reference.targets, years, strict=True)]
                    strip = [[picture, *renderer.render(picture, reference.targets, reference.faces.attributes(i))]]
                    path = f"faces/{_slug(row.name)}-{title}-{i}.jpg"
                    save_jpg(grid(strip, columns=["input", *columns]), folder / path)
                    _figure(path, f"{_who(scores, i)}; {badness(scores, row, i):.1f}")


def _slug(name: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in name)


def _figure(path: str, caption: str) -> None:
    with tags.figure():
        with tags.a(href=quote(path)):
            tags.img(src=quote(path), alt=caption, loading="lazy")
        tags.figcaption(caption)
