"""Records of one row -> the columns of the table."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from cyclegan_age.evaluation import measures
from cyclegan_age.evaluation.evaluators import Evaluator
from cyclegan_age.evaluation.faces import REACH_YEARS
from cyclegan_age.evaluation.measures import Array
from cyclegan_age.evaluation.records import Record, keeping_names
from cyclegan_age.evaluation.reference import (
    FARS,
    FEWEST,
    SETTLED_YEARS,
    Reference,
    Values,
    by_label,
    outputs_of,
    share_of,
    spans_by_label,
)

GAPS = (0, 10, 20, 30, 40, 101)  # bounds in years
FAR_AWAY_YEARS = 15  # realism is measured on faces at least this far from the target
HAIR_SHARE = 0.02  # minimum share of the picture to measure its hair
DARK_HAIR = 35.0  # lightness of CIELAB, from 0 to 100, at the first target, below which hair counts as dark
LIGHTER_HAIR = 12.0  # increase from 20 to 70 years that counts as greying
SAME_DLIB = 0.6  # threshold of dlib's authors for two faces of one person


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
            out |= _age(evaluator, reference, outputs_of(evaluator, row, numbers, len(reference.slider))[..., 0])
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
        out[f"{name}.{kind}within_5"] = share_of(error <= SETTLED_YEARS, values)
    out[f"{name}.spearman"] = measures.mean(measures.spearman(raw))
    out[f"{name}.monotone"] = measures.mean(measures.monotone(raw))
    out[f"{name}.spearman_slider"] = measures.mean(measures.spearman(slider))
    out[f"{name}.monotone_slider"] = measures.mean(measures.monotone(slider))
    return out


def estimated_ages(reference: Reference, evaluator: Evaluator, row: Mapping[int, Record]) -> Array:
    """Calibrated estimates of each face, in the order of their indices, at each age of the slider: (N, Y)."""
    return reference.calibration[evaluator.name](outputs_of(evaluator, row, sorted(row), len(reference.slider))[..., 0])


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
    before = outputs_of(evaluator, reference.real, asked, 1)
    after = outputs_of(evaluator, row, asked, len(reference.targets))
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
        a = outputs_of(evaluator, row, chosen, len(reference.targets))[:, k]
        b = outputs_of(evaluator, reference.real, group, 1)[:, 0]
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
        out["hair.lighter"] = share_of(gain >= LIGHTER_HAIR, gain)
    return out


def _middle(values: Array) -> float:
    defined = values[np.isfinite(values)]
    return float(np.median(defined)) if len(defined) else math.nan


def _fairness(reference: Reference, row: dict[int, Record], numbers: list[int]) -> Values:
    """Span reached (each age estimator) and share verified (first available embedder) by sex and race label."""

    def estimates(evaluator: Evaluator, some: list[int]) -> Array:
        return reference.calibration[evaluator.name](
            outputs_of(evaluator, row, some, len(reference.slider))[:, [0, -1], 0]
        )

    def span(ends: Array) -> float:
        return measures.mean(ends[:, 1] - ends[:, 0])

    embedder = next((j for j in reference.evaluators if j.kind in ("cosine", "distance") and j.look), None)
    out = spans_by_label(reference, numbers, estimates, span)
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
