"""Reference values of an evaluation: calibrations, thresholds and estimates of the real faces."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cyclegan_age.evaluation import measures
from cyclegan_age.evaluation.evaluators import Evaluator
from cyclegan_age.evaluation.faces import REACH_YEARS, Faces
from cyclegan_age.evaluation.measures import Array, Calibration, Regression
from cyclegan_age.evaluation.records import Record

Values = dict[str, float]

SETTLED_YEARS = 5  # tolerance of a hit
FARS = (0.01, 0.001)
FEW = 50  # number of faces from which the figures of weights are more than rough
FEWEST = 10  # minimum number of faces for a statistic of a group of people


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
            outputs = outputs_of(evaluator, real, numbers, 1)[:, 0]
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
            outputs = outputs_of(evaluator, self.real, numbers, 1)[:, 0, 0]
            for name, values in self.corrected(evaluator, outputs).items():
                out[f"{evaluator.name}.{name}mae"] = measures.mean(np.abs(values - true))
                out[f"{evaluator.name}.{name}bias"] = measures.mean(values - true)
                out[f"{evaluator.name}.{name}within_5"] = share_of(np.abs(values - true) <= SETTLED_YEARS, values)
        out["n"] = len(numbers)

        def estimates(evaluator: Evaluator, some: list[int]) -> Array:
            return np.stack(
                [ages[some], self.calibration[evaluator.name](outputs_of(evaluator, self.real, some, 1)[:, 0, 0])], 1
            )

        def span(true_and_read: Array) -> float:
            return measures.slope(*true_and_read.T) * (self.targets[-1] - self.targets[0])

        return out | spans_by_label(self, numbers, estimates, span)


def outputs_of(evaluator: Evaluator, records: Mapping[int, Record], numbers: Sequence[int], count: int) -> Array:
    """A network's outputs for each face's pictures: (N, count, width), NaN where it did not run."""
    nothing = np.full((count, evaluator.width), np.nan)
    outputs = [
        (records[i].get(evaluator.key, nothing) if evaluator.look else nothing).astype(np.float64) for i in numbers
    ]
    return np.stack(outputs) if outputs else np.empty((0, count, evaluator.width))


def share_of(hits: "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]", values: Array) -> float:
    return measures.mean(np.where(np.isfinite(values), hits.astype(np.float64), np.nan))


def by_label(faces: Faces, numbers: Sequence[int]) -> dict[str, dict[str, list[int]]]:
    """Faces by theme and label; labels of the folder that these faces lack are empty."""
    return {
        theme: {label: [i for i in numbers if labels[i] == label] for label in sorted(set(labels) - {""})}
        for theme, labels in (("sex", faces.sex), ("race", faces.race))
    }


def spans_by_label(
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
