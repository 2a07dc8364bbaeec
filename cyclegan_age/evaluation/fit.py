"""Calibration of a generator's age input, so that an age estimator's output equals the target age."""

from pathlib import Path

import numpy as np
import torch

from cyclegan_age.ages import code_of
from cyclegan_age.config import CycleGANConfig, CycleGANHeadsConfig, UserError
from cyclegan_age.evaluation import measures
from cyclegan_age.evaluation.faces import Row
from cyclegan_age.evaluation.measures import Array
from cyclegan_age.images import Picture, to_float
from cyclegan_age.models import SYSTEMS, trained_estimator
from cyclegan_age.networks.estimators import AgeCalibration, expected_age
from cyclegan_age.weight_files import Weights, load_weights, save_weights

_STEP_YEARS = 0.5
_ENDS = (5, 95)  # percentiles of the estimated source ages: the young-looking and the old-looking face


def calibratable(row: Row) -> Weights:
    """The weights of a row whose age input can be calibrated.

    Raises:
        UserError: it is of another kind.
    """
    assert row.weights
    weights = load_weights(row.weights)
    if not isinstance(weights.net, CycleGANConfig | CycleGANHeadsConfig) or weights.train.age_vector != "linear":
        kinds = "a cyclegan or cyclegan_heads with --age_vector linear"
        raise UserError(f"--fit_ages: the weights {row.name} must be of {kinds}")
    return weights


def fit_ages(row: Row, pictures: Picture, estimates: Array, slider: Array, file: Path) -> AgeCalibration:
    """Write a row's weights with a calibration of the age input; returns the calibration.

    Args:
        row: the weights.
        pictures: faces uint8 (N, S, S, 3), at the size of the generator.
        estimates: (N, Y) calibrated estimates for each face at each age of the slider.
        slider: (Y,) years, rising.
        file: output file.
    """
    weights = calibratable(row)
    render = SYSTEMS[weights.train.model].renderer
    assert render is not None and isinstance(weights.net, CycleGANConfig | CycleGANHeadsConfig)
    calibration = render(weights).calibration
    if calibration is None:
        train, name = weights.train, (*weights.net.estimators, "age_loss_a")[0]
        estimator, of_estimator = trained_estimator(name, train, train.frame)
        calibration = AgeCalibration(estimator=estimator, anchors=weights.train.ages)
        weights.parts["correction"] = of_estimator
    calibration.eval()
    with torch.inference_mode():
        apparent = torch.cat([expected_age(calibration.estimator(part)) for part in to_float(pictures).split(16)])
        vectors = code_of(weights.train).encode(slider.tolist())
        inputs = np.stack(
            [calibration.years(apparent, one.expand(len(apparent), -1)).numpy() for one in vectors], axis=1
        )
    ends, years = calibrated_inputs(apparent.numpy(), inputs, estimates, np.array(weights.train.ages))
    calibration.looks, calibration.asked = (torch.tensor(v, dtype=torch.float32) for v in (ends, years))
    tensors = weights.tensors | {f"correction.{name}": v for name, v in calibration.state_dict().items()}
    save_weights(file, weights.train, weights.net, weights.images_seen, tensors, weights.parts)
    return calibration


def calibrated_inputs(apparent: Array, inputs: Array, estimates: Array, anchors: Array) -> tuple[Array, Array]:
    """Calibrated age inputs by the apparent age of a face.

    At each of some input ages, a straight line is fitted to the estimated ages over the apparent ages of the sources.
    The lines predict the estimate for a young-looking and an old-looking face at every input age. These functions are
    made rising and inverted.

    Args:
        apparent: (N,) apparent ages of the sources in years.
        inputs: (N, Y) input ages in years, rising in each row.
        estimates: (N, Y) estimated ages of the results in years; NaN where unknown.
        anchors: (K,) years, rising.

    Returns:
        (2,) apparent ages of the two faces in years, and (2, K) the calibrated input at each anchor.
    """
    known = np.isfinite(estimates).all(axis=1)
    apparent, inputs, estimates = apparent[known].astype(np.float64), inputs[known], estimates[known]
    grid = np.arange(anchors[0], anchors[-1] + _STEP_YEARS, _STEP_YEARS)
    there = np.stack([np.interp(grid, a, r) for a, r in zip(inputs, estimates, strict=True)])  # (N, G)
    ends = np.percentile(apparent, _ENDS)
    ends[1] = max(ends[1], ends[0] + 1)
    lines = np.linalg.lstsq(np.stack([np.ones_like(apparent), apparent], axis=1), there, rcond=None)[0]  # (2, G)
    years = []
    for end in ends:
        level = measures.rising(lines[0] + lines[1] * end, np.ones(len(grid))).round(6)
        rises, first = np.unique(level, return_index=True)  # the smallest input of each plateau
        years.append(np.interp(anchors, rises, grid[first]))
    return ends.round(2), np.stack(years).round(2)
