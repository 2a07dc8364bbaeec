"""The data card of a prepared folder: Markdown to read and a page with plots."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

from cyclegan_age.config import PrepareConfig
from cyclegan_age.data.prepare import SETS
from cyclegan_age.html_page import html_page
from cyclegan_age.images import counted
from cyclegan_age.plots import bar_plot

SEXES = {0: "male", 1: "female", 9: "unknown"}
RACES = {0: "White", 1: "Black", 2: "Asian", 3: "Indian", 4: "other", 9: "unknown"}
_SPLITS = ("train", "val", "test")

_STYLE = """
table { border-collapse: collapse; margin: .5rem 0 1rem; }
td { padding: .1rem .8rem .1rem 0; overflow-wrap: anywhere; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 1rem; }
figure { margin: 0; }
svg { width: 100%; }
svg text { fill: currentColor; }
"""

Line = Mapping[str, Any]


def as_markdown(
    config: PrepareConfig,
    lines: Sequence[Line],
    lost: Sequence[tuple[Path, str]],
    copies: Sequence[str],
    edges: Sequence[str] = (),
) -> str:
    """The card.

    Args:
        config: the settings of `prepare.py`.
        lines: of labels.csv, each also with `side` in pixels and `sharpness`.
        lost: excluded files, and why.
        copies: sentences on near duplicates.
        edges: sentences on the effect of the alignment.
    """
    public = SETS.get(config.set)
    test = f"--fold {config.fold}" if config.fold else f"--test {config.test:g}"
    shares = f" (--val {config.val:g} {test} --seed {config.seed})"
    unit = "by person" if any(line["person"] for line in lines) else "by picture, as persons are not known"
    splits = "the set's own" if all(line["given"] for line in lines) else f"{unit}{shares}"
    how = f"aligned to --frame {config.frame}, at most {config.size} px" if config.align else "unchanged"
    out = [
        f"# {public.title if public else config.source.name}, prepared",
        "",
        f"{counted(len(lines))}, {how}. Splits are {splits}. `labels.csv` has a line for each picture, "
        "`left_out.csv` lists the excluded files.",
        "",
        *edges,
        *[""][: len(edges)],
    ]
    folders = Counter((Path(line["file"]).parts[1], line["split"]) for line in lines)
    years = {Path(line["file"]).parts[1]: float(line["age"]) for line in lines}
    rows = [
        [age, *(f"{folders[age, split]:,}" for split in _SPLITS)] for age in sorted(years, key=lambda one: years[one])
    ]
    rows.append(["all", *(f"{sum(line['split'] == split for line in lines):,}" for split in _SPLITS)])
    out += _table(["age", *_SPLITS], rows)
    exact = sum(bool(line["exact"]) for line in lines)
    rest = f"Exact ages: {exact:,}. Estimates, or middles of groups: {len(lines) - exact:,}."
    out += ["All ages are exact." if exact == len(lines) else rest, ""]
    for title, names in (("sex", SEXES), ("race", RACES)):
        counts = Counter(names[line[title]] for line in lines)
        out += _table([title, "pictures"], [[name, f"{number:,}"] for name, number in counts.most_common()])
    persons = Counter(line["person"] for line in lines if line["person"])
    if persons:
        most = persons.most_common(1)[0][1]
        alone = sum(not line["person"] for line in lines)
        number = counted(len(persons), "person")
        out += [f"{number}: {median(persons.values()):g} pictures each (median), at most {most:,}."]
        out += [f"Of unknown persons: {alone:,}.", ""] if alone else [""]
    else:
        out += ["Persons are not known: pictures of one may be in several splits.", ""]
    for name, unit in (("side", " px"), ("sharpness", "")):
        values = sorted(line[name] for line in lines)
        low, middle, high = (values[round(share * (len(values) - 1))] for share in (0.05, 0.5, 0.95))
        what = "Shorter side" if name == "side" else "Sharpness (variance of the Laplacian)"
        out += [f"{what}: median {middle:g}{unit}; 5 % have at most {low:g}, 5 % at least {high:g}.", ""]
    out += ["## Copies", "", *copies, ""]
    if lost:
        reasons = Counter(reason for _, reason in lost)
        first = {reason: file.name for file, reason in reversed(lost)}
        out += ["## Left out", ""]
        out += _table(["reason", "pictures", "as"], [[r, f"{n:,}", first[r]] for r, n in reasons.most_common()])
    out += ["## Terms", ""]
    if public:
        out += [
            f"Terms: {public.terms}. The terms that come with the download are binding.",
            "",
            public.citation + ".",
            "",
        ]
    else:
        out += ["Write here the terms of use of these pictures, and the citation.", ""]
    return "\n".join(out)


def as_page(card: str, lines: Sequence[Line]) -> str:
    """The card as a self-contained HTML page with plots."""
    plots = [
        _bars("pictures by age and sex", *_by_age(lines, "sex", SEXES)),
        _bars("pictures by age and race", *_by_age(lines, "race", RACES)),
        _bars("pictures by age and split", *_by_age(lines, "split", {name: name for name in _SPLITS})),
        _bars("shorter side in pixels", *_histogram([line["side"] for line in lines])),
        _bars("sharpness, variance of the Laplacian", *_histogram([line["sharpness"] for line in lines])),
    ]
    if persons := Counter(line["person"] for line in lines if line["person"]):
        plots.append(_bars("persons by number of pictures", *_histogram(list(persons.values()))))
    title = card.partition("\n")[0].lstrip("# ")
    body = f'{_html(card)}\n<h2>Plots</h2><div class="plots">{"".join(plots)}</div>'
    return html_page(title, body, _STYLE)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (header, ["-"] * len(header), *rows)] + [""]


def _html(card: str) -> str:
    """HTML of the Markdown subset that the card uses."""
    out, open_table = [], False
    for line in card.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")] if line.startswith("|") else []
        if bool(cells) != open_table:
            out.append("<table>" if cells else "</table>")
            open_table = bool(cells)
        if cells and set("".join(cells)) != {"-"}:
            out.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
        elif line.startswith("#"):
            level = len(line) - len(line.lstrip("#"))
            out.append(f"<h{level}>{escape(line.lstrip('# '))}</h{level}>")
        elif line and not cells:
            out.append(f"<p>{escape(line)}</p>")
    text = "\n".join([*out, "</table>"] if open_table else out)
    return re.sub(r"`([^`\n]*)`", r"<code>\1</code>", text)


def _by_age(lines: Sequence[Line], column: str, names: Mapping[Any, str]) -> tuple[list[str], dict[str, list[int]]]:
    """Five-year bins, and the number of pictures in each by a label."""
    counts = Counter((int(float(line["age"])) // 5, names[line[column]]) for line in lines)
    steps = range(min(step for step, _ in counts), max(step for step, _ in counts) + 1)
    there = [name for name in names.values() if any(counts[step, name] for step in steps)]
    return [str(step * 5) for step in steps], {name: [counts[step, name] for step in steps] for name in there}


def _histogram(values: Sequence[float], bins: int = 20) -> tuple[list[str], dict[str, list[int]]]:
    low, high = min(values), max(values)
    width = max((high - low) / bins, 1)
    counts = Counter(min(int((value - low) / width), bins - 1) for value in values)
    steps = range(max(counts) + 1)
    return [f"{low + step * width:.0f}" for step in steps], {"": [counts[step] for step in steps]}


def _bars(title: str, names: Sequence[str], series: Mapping[str, Sequence[int]]) -> str:
    """Stacked bars over names, with a caption."""
    return f"<figure><figcaption>{escape(title)}</figcaption>{bar_plot(title, names, series)}</figure>"
