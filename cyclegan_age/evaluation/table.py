"""Records -> the columns of the table, its text and CSV, and the score against the goals."""

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from cyclegan_age.evaluation import measures
from cyclegan_age.evaluation.evaluators import Evaluator
from cyclegan_age.evaluation.measures import Array, Calibration, Regression
from cyclegan_age.evaluation.records import REACH_YEARS, Faces, Record, keeping_names

FARS = (0.01, 0.001)
GAPS = (0, 10, 20, 30, 40, 101)  # bounds in years
FAR_AWAY_YEARS = 15  # realism is measured on faces at least this far from the target
FEWEST = 10  # minimum number of faces for a statistic of a group of people
HAIR_SHARE = 0.02  # minimum share of the picture to measure its hair
DARK_HAIR = 35.0  # lightness of CIELAB, from 0 to 100, at the first target, below which hair counts as dark
LIGHTER_HAIR = 12.0  # increase from 20 to 70 years that counts as greying
SAME_DLIB = 0.6  # threshold of dlib's authors for two faces of one person
_SETTLED_YEARS = 5  # tolerance of a hit

Values = dict[str, float]


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


@dataclass(frozen=True, eq=False)
class Reference:
    """Reference values of the real faces, computed once for all rows.

    Attributes:
        faces: the faces.
        evaluators: all networks; the columns of missing ones are NaN.
        targets: ages in years.
        slider: ages in years, rising, including the targets.
        calibration: of each age estimator by name.
        regression: the same.
        real: record of each real face by index.
        least: verification threshold for each embedder and false accept rate.
    """

    faces: Faces
    evaluators: list[Evaluator]
    targets: tuple[int, ...]
    slider: tuple[int, ...]
    real: dict[int, Record]
    calibration: dict[str, Calibration]
    regression: dict[str, Regression]
    least: dict[tuple[str, float], float]

    @classmethod
    def take(
        cls,
        faces: Faces,
        evaluators: list[Evaluator],
        targets: tuple[int, ...],
        slider: tuple[int, ...],
        real: dict[int, Record],
    ) -> "Reference":
        """Fit the calibrations and the thresholds."""
        numbers = sorted(real)
        true = np.where([i in faces.exact for i in numbers], faces.age_years[numbers].astype(np.float64), np.nan)
        calibration: dict[str, Calibration] = {}
        regression: dict[str, Regression] = {}
        least: dict[tuple[str, float], float] = {}
        for evaluator in evaluators:
            outputs = _outputs(evaluator, real, numbers, 1)[:, 0]
            if evaluator.kind == "age":
                calibration[evaluator.name] = Calibration.fit(true, outputs[:, 0])
                regression[evaluator.name] = Regression.fit(true, outputs[:, 0])
            elif evaluator.kind != "features":
                least |= {(evaluator.name, far): measures.threshold(outputs, evaluator.kind, far) for far in FARS}
        return cls(faces, evaluators, targets, slider, real, calibration, regression, least)

    def corrected(self, evaluator: Evaluator, raw: Array) -> dict[str, Array]:
        """An age estimator's outputs, raw and corrected in both ways, by the prefixes of the columns."""
        name = evaluator.name
        return {"": raw, "calibrated_": self.calibration[name](raw), "regressed_": self.regression[name](raw)}

    def real_faces(self) -> Values:
        """Errors of the age estimators on real faces, from 5 years below the first target to 5 above the last.

        A span here is the slope of the estimates over true ages, times the years between the first target and the last.
        It shows the estimator's own bias by sex or race, at perfect rendering.
        """
        low, high = self.targets[0] - REACH_YEARS, self.targets[-1] + REACH_YEARS
        ages = self.faces.age_years.astype(np.float64)
        numbers = [i for i in sorted(self.real) if low <= ages[i] < high and i in self.faces.exact]
        true = ages[numbers]
        out: Values = {}
        for evaluator in (j for j in self.evaluators if j.kind == "age"):
            outputs = _outputs(evaluator, self.real, numbers, 1)[:, 0, 0]
            for name, values in self.corrected(evaluator, outputs).items():
                out[f"{evaluator.name}.{name}mae"] = measures.mean(np.abs(values - true))
                out[f"{evaluator.name}.{name}bias"] = measures.mean(values - true)
                out[f"{evaluator.name}.{name}within_5"] = _share(np.abs(values - true) <= _SETTLED_YEARS, values)
        out["n"] = len(numbers)

        def estimates(evaluator: Evaluator, some: list[int]) -> Array:
            return np.stack(
                [ages[some], self.calibration[evaluator.name](_outputs(evaluator, self.real, some, 1)[:, 0, 0])], 1
            )

        def span(true_and_read: Array) -> float:
            return measures.slope(*true_and_read.T) * (self.targets[-1] - self.targets[0])

        return out | _spans_by_label(self, numbers, estimates, span)


def _outputs(evaluator: Evaluator, records: Mapping[int, Record], numbers: Sequence[int], count: int) -> Array:
    """A network's outputs for each face's pictures: (N, count, width), NaN where it did not run."""
    nothing = np.full((count, evaluator.width), np.nan)
    outputs = [
        (records[i].get(evaluator.key, nothing) if evaluator.look else nothing).astype(np.float64) for i in numbers
    ]
    return np.stack(outputs) if outputs else np.empty((0, count, evaluator.width))


def _share(hits: "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]", values: Array) -> float:
    return measures.mean(np.where(np.isfinite(values), hits.astype(np.float64), np.nan))


def columns(reference: Reference, row: dict[int, Record]) -> Values:
    """Every column of one row, named by theme or network, measure, and target age if there is one.

    Args:
        reference: from the real faces.
        row: record of each aged face by index.
    """
    numbers = sorted(row)
    own = reference.faces.age_years[numbers].astype(np.float64)
    out: Values = {"faces": float(len(numbers))}
    for evaluator in reference.evaluators:
        if evaluator.kind == "age":
            out |= _age(evaluator, reference, _outputs(evaluator, row, numbers, len(reference.slider))[..., 0])
    for evaluator in reference.evaluators:
        if evaluator.kind in ("cosine", "distance"):
            out |= _identity(evaluator, reference, row, numbers, own)
        elif evaluator.kind == "features":
            out |= _realism(evaluator, reference, row, numbers, own)
    out |= _keeping(reference, row, numbers)
    out |= _hair(reference, row, numbers)
    out |= _fairness(reference, row, numbers)
    return out


def _age(evaluator: Evaluator, reference: Reference, slider: Array) -> Values:
    """Age and order by one estimator, from its estimates (N, Y)."""
    targets, name = np.array(reference.targets, np.float64), evaluator.name
    at = [reference.slider.index(t) for t in reference.targets]
    raw = slider[:, at]  # (N, T)
    out: Values = {}
    for kind, values in reference.corrected(evaluator, raw).items():
        error = np.abs(values - targets)
        for k, target in enumerate(reference.targets):
            out[f"{name}.{kind}mean_{target}"] = measures.mean(values[:, k])
            out[f"{name}.{kind}sd_{target}"] = _sd(values[:, k])
        for high, low in _spans(reference.targets):
            difference = values[:, reference.targets.index(high)] - values[:, reference.targets.index(low)]
            out[f"{name}.{kind}{high}_minus_{low}"] = measures.mean(difference)
        out[f"{name}.{kind}mae"] = measures.mean(error)
        out[f"{name}.{kind}within_5"] = _share(error <= _SETTLED_YEARS, values)
    out[f"{name}.spearman"] = measures.mean(measures.spearman(raw))
    out[f"{name}.monotone"] = measures.mean(measures.monotone(raw))
    out[f"{name}.spearman_slider"] = measures.mean(measures.spearman(slider))
    out[f"{name}.monotone_slider"] = measures.mean(measures.monotone(slider))
    return out


def estimated_ages(reference: Reference, evaluator: Evaluator, row: Mapping[int, Record]) -> Array:
    """Calibrated estimates of each face, in the order of their indices, at each age of the slider: (N, Y)."""
    return reference.calibration[evaluator.name](_outputs(evaluator, row, sorted(row), len(reference.slider))[..., 0])


def _sd(values: Array) -> float:
    defined = values[np.isfinite(values)]
    return float(defined.std(ddof=1)) if len(defined) > 1 else math.nan


def _spans(targets: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs of targets whose difference is reported: the last, and 60 if it is a target, minus the second and the
    first."""
    ends = dict.fromkeys((targets[-1], *(t for t in targets[2:] if t == 60)))
    return [(high, low) for high in ends for low in dict.fromkeys((targets[1], targets[0])) if low < high]


def _compared(evaluator: Evaluator, reference: Reference, row: Mapping[int, Record], i: int) -> bool:
    return evaluator.look is not None and evaluator.key in row[i] and evaluator.key in reference.real.get(i, {})


def near(evaluator: Evaluator, reference: Reference, row: Mapping[int, Record], numbers: Sequence[int]) -> Array:
    """Similarity of each aged face to its input (N, T) by one embedder, without the faces that it did not run on."""
    asked = [i for i in numbers if _compared(evaluator, reference, row, i)]
    before = _outputs(evaluator, reference.real, asked, 1)
    after = _outputs(evaluator, row, asked, len(reference.targets))
    return measures.closeness(before, after, evaluator.kind)


def _identity(
    evaluator: Evaluator, reference: Reference, row: dict[int, Record], numbers: list[int], own: Array
) -> Values:
    name = evaluator.name
    asked = [k for k, i in enumerate(numbers) if _compared(evaluator, reference, row, i)]
    close = near(evaluator, reference, row, numbers)
    gap = np.abs(np.array(reference.targets) - own[asked, None])
    sign = -1 if evaluator.kind == "distance" else 1
    what = "distance" if evaluator.kind == "distance" else "similarity"
    out: Values = {f"{name}.n": float(len(asked))}
    for far in FARS:
        least = reference.least[name, far]
        mark = f"far{far * 100:g}"
        same = measures.verified(close, least)
        out[f"{name}.threshold_{mark}"] = sign * least
        out[f"{name}.verified_{mark}"] = measures.mean(same)
        out[f"{name}.verified_{mark}_within_20"] = measures.mean(same[gap <= 20])
        for k, target in enumerate(reference.targets):
            out[f"{name}.verified_{mark}_{target}"] = measures.mean(same[:, k])
        for low, high in pairwise(GAPS):
            some = same[(gap >= low) & (gap < high)]
            out[f"{name}.verified_{mark}_gap_{low}"] = measures.mean(some) if len(some) >= FEWEST else math.nan
    if name == "dlib":
        same = measures.verified(close, -SAME_DLIB)
        out[f"{name}.same_person"] = measures.mean(same)
        out[f"{name}.same_person_within_20"] = measures.mean(same[gap <= 20])
    out[f"{name}.{what}"] = sign * measures.mean(close)
    for k, target in enumerate(reference.targets):
        out[f"{name}.{what}_{target}"] = sign * measures.mean(close[:, k])
    for low, high in pairwise(GAPS):
        out[f"{name}.{what}_gap_{low}"] = sign * measures.mean(close[(gap >= low) & (gap < high)])
    out[f"{name}.no_face"] = measures.mean((~np.isfinite(close)).astype(np.float64)) if len(asked) else math.nan
    return out


def _realism(
    evaluator: Evaluator, reference: Reference, row: dict[int, Record], numbers: list[int], own: Array
) -> Values:
    """KID (x 1000) and FID of the faces at least 15 years away from a target, against the real faces of about that
    age."""
    out: Values = {}
    real = [i for i in sorted(reference.real) if evaluator.key in reference.real[i]]
    years = reference.faces.age_years[real]
    away = 0
    for k, target in enumerate(reference.targets):
        chosen = [i for i, age in zip(numbers, own, strict=True) if abs(age - target) >= FAR_AWAY_YEARS]
        group = [i for i, age in zip(real, years, strict=True) if -REACH_YEARS <= age - target < REACH_YEARS]
        a = _outputs(evaluator, row, chosen, len(reference.targets))[:, k]
        b = _outputs(evaluator, reference.real, group, 1)[:, 0]
        enough = evaluator.look is not None and min(len(a), len(b)) >= FEWEST
        out[f"realism.kid_{target}"] = measures.kid(a, b) * 1000 if enough else math.nan
        out[f"realism.fid_{target}"] = measures.fid(a, b) if enough else math.nan
        out[f"realism.n_{target}"] = float(len(chosen))
        out[f"realism.n_real_{target}"] = float(len(group))
        away += enough
    for what in ("kid", "fid"):
        out[f"realism.{what}"] = measures.mean(np.array([out[f"realism.{what}_{t}"] for t in reference.targets]))
    out["realism.beats_copy"] = math.nan  # see `compare`
    return out


def compare(values: Values, copy: Values, targets: Sequence[int]) -> None:
    """Fill in the share of targets at which a row's KID is below that of the copied input."""
    pairs = [tuple(row.get(f"realism.kid_{t}", math.nan) for row in (values, copy)) for t in targets]
    better = np.array([float(a < b) for a, b in pairs if math.isfinite(a) and math.isfinite(b)])
    values["realism.beats_copy"] = measures.mean(better)


def _keeping(reference: Reference, row: dict[int, Record], numbers: list[int]) -> Values:
    names = keeping_names(reference.targets)
    table = np.stack([row[i]["keeping"].astype(np.float64) for i in numbers])
    by = {name: table[:, k] for k, name in enumerate(names)}
    out = {f"keeping.{name}": measures.mean(by[name]) for name in ("own_ssim", "own_l1", "cycle_ssim", "cycle_l1")}
    for what, of in (("outside_l1", "outside"), ("sharpness", "sharpness")):
        defined = np.stack([by[f"{of}_{t}"] for t in reference.targets], axis=1)
        out[f"keeping.{what}"] = measures.mean(defined) if of == "outside" else _middle(defined)
        for k, target in enumerate(reference.targets):
            out[f"keeping.{what}_{target}"] = (
                measures.mean(defined[:, k]) if of == "outside" else _middle(defined[:, k])
            )
    return out


def _hair(reference: Reference, row: dict[int, Record], numbers: list[int]) -> Values:
    """Lightness of hair at each target, and how often dark hair turns grey; for rows in FFHQ's frame."""
    if not all("hair" in row[i] for i in numbers):
        return {}
    share, *lightness = np.stack([row[i]["hair"].astype(np.float64) for i in numbers], axis=1)
    seen = share > HAIR_SHARE
    by = dict(zip(reference.targets, lightness, strict=True))
    out = {f"hair.lightness_{target}": measures.mean(values[seen]) for target, values in by.items()}
    dark = seen & (lightness[0] < DARK_HAIR)
    out["hair.dark"] = float(dark.sum())
    if {20, 70} <= by.keys():
        gain = (by[70] - by[20])[dark]
        out["hair.lighter"] = _share(gain >= LIGHTER_HAIR, gain)
    return out


def _middle(values: Array) -> float:
    defined = values[np.isfinite(values)]
    return float(np.median(defined)) if len(defined) else math.nan


def _fairness(reference: Reference, row: dict[int, Record], numbers: list[int]) -> Values:
    """Span reached (each age estimator) and share verified (first available embedder) by sex and race label."""

    def estimates(evaluator: Evaluator, some: list[int]) -> Array:
        return reference.calibration[evaluator.name](
            _outputs(evaluator, row, some, len(reference.slider))[:, [0, -1], 0]
        )

    def span(ends: Array) -> float:
        return measures.mean(ends[:, 1] - ends[:, 0])

    embedder = next((j for j in reference.evaluators if j.kind in ("cosine", "distance") and j.look), None)
    out = _spans_by_label(reference, numbers, estimates, span)
    for theme, people in by_label(reference.faces, numbers).items():
        kept = []
        for label, some in people.items():
            same = math.nan
            if embedder and len(some) >= FEWEST:
                close = near(embedder, reference, row, some)
                same = measures.mean(measures.verified(close, reference.least[embedder.name, FARS[0]]))
            out[f"fairness.{theme}_{label}_verified"] = same
            kept.append(same)
        out[f"fairness.{theme}_verified_ratio"] = measures.evenness(kept)
    return out


def by_label(faces: Faces, numbers: Sequence[int]) -> dict[str, dict[str, list[int]]]:
    """Faces by theme and label; labels of the folder that these faces lack are empty."""
    return {
        theme: {label: [i for i in numbers if labels[i] == label] for label in sorted(set(labels) - {""})}
        for theme, labels in (("sex", faces.sex), ("race", faces.race))
    }


def _spans_by_label(
    reference: Reference,
    numbers: Sequence[int],
    estimates: Callable[[Evaluator, list[int]], Array],
    span: Callable[[Array], float],
) -> Values:
    """Spans in years by sex and race label for each available age estimator, and their evenness.

    The columns of the first estimator do not have its name. A label that few of the source faces have is omitted, even
    if more real faces have it.

    Args:
        reference: networks and faces.
        numbers: indices of the faces.
        read: a network's estimates for N faces, (N, D).
        span: the span in years from these.
    """
    people, sources = by_label(reference.faces, numbers), by_label(reference.faces, reference.faces.sources)
    out = {f"fairness.{theme}_{label}_n": float(len(some)) for theme in people for label, some in people[theme].items()}
    for k, evaluator in enumerate(j for j in reference.evaluators if j.kind == "age" and j.look):
        by = f"_{evaluator.name}" if k else ""
        for theme, labels in people.items():
            enough = {
                label: estimates(evaluator, some)
                for label, some in labels.items()
                if min(len(some), len(sources[theme][label])) >= FEWEST
            }
            spans = {label: span(enough[label]) if label in enough else math.nan for label in labels}
            out |= {f"fairness.{theme}_{label}_span{by}": years for label, years in spans.items()}
            out[f"fairness.{theme}_span_ratio{by}"] = measures.evenness(spans.values())
            chance, p = measures.chance_evenness(list(enough.values()), span)
            out |= {f"fairness.{theme}_span_ratio_chance{by}": chance, f"fairness.{theme}_span_ratio_p{by}": p}
    return out


HEADS = ("goal", "real faces")


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
    head = ["", *HEADS, *rows]
    lines = [head]
    for name in order:
        goal = str(wanted[name]) if name in wanted else ""
        own = cell(real[name]) if name in real else ""
        marks = [
            cell(values.get(name, math.nan))
            + ("" if name not in wanted else " *" if wanted[name].reached(values.get(name, math.nan)) else "  ")
            for values in rows.values()
        ]
        lines.append([name, goal, own, *marks])
    widths = [max(len(line[k]) for line in lines) for k in range(len(head))]
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
