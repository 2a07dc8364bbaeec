"""Logs pictures of a training: samples and feature maps of fixed faces, and loss curves; warns of faults in both."""

import logging
import time
from collections.abc import Mapping

import torch
from torch import Tensor

from cyclegan_age import plots
from cyclegan_age.config import TrainConfig, UserError
from cyclegan_age.curves import Curves, loss_curves, read_metrics
from cyclegan_age.devices import fork_rng
from cyclegan_age.images import Picture, grid, to_uint8
from cyclegan_age.monitor import log_pictures
from cyclegan_age.rendering.pictures import difference_map, feature_grid, feature_strip, save_jpg, save_png
from cyclegan_age.training.log import log_numbers
from cyclegan_age.training.sheets import feature_maps, life, sample_columns
from cyclegan_age.training.state import Training
from cyclegan_age.watchdog import Watchdog

SHEET_ROWS = 16
EPOCH_SECONDS = 10.0  # minimum interval before the pictures at the end of an epoch

logger = logging.getLogger("cyclegan_age")


class Samples:
    """Callback after each step.

    Raises:
        UserError: the network has no layer of `--feature_layers`.
    """

    def __init__(self, training: Training) -> None:
        self._training, self._watchdog = training, Watchdog()
        self._x, self._age_years = (t.to(training.accelerator.device) for t in training.data.fixed())
        with torch.inference_mode(), fork_rng(training.accelerator.device):
            self._feature_maps()  # reports a wrong layer before the first step
        self._plots = training.is_main and _has_plots()
        self._drawn_at = time.monotonic()

    def __call__(self) -> None:
        """Draw in the first process, if due: at an interval of steps and at the end of an epoch."""
        training, schedule = self._training, self._training.schedule
        if not (training.is_main and self._due()):
            return
        started = time.monotonic()
        columns = self._draw()
        warnings = self._watchdog.samples(columns)
        curves, self._drawn_at = loss_curves(read_metrics(training.run / "metrics.jsonl")), time.monotonic()
        self._draw_curves(curves)
        for warning in [*warnings, *self._watchdog.curves(curves, training.progress)]:
            logger.warning("step %d: %s", schedule.step, warning)
        schedule.reserve("pictures", self._drawn_at - started)

    def _due(self) -> bool:
        schedule, pictures = self._training.schedule, len(self._training.data)
        step, per_step = schedule.step, schedule.per_step
        epoch_ended = step * per_step // pictures > (step - 1) * per_step // pictures
        stale = epoch_ended and time.monotonic() - self._drawn_at > EPOCH_SECONDS
        return stale or step % self._training.config.sample_every == 0 or self._training.ended

    def _draw(self) -> dict[str, Tensor]:
        """Write and log the pictures and measures; returns the sample sheet's columns, (N, 3, H, W) in [-1, 1]."""
        training, model, networks = self._training, self._training.model, self._training.trainer.ema_networks
        with torch.inference_mode(), fork_rng(training.accelerator.device):
            columns = sample_columns(model, networks, self._x[:SHEET_ROWS], self._age_years[:SHEET_ROWS])
            measures = model.measures(networks, self._x, self._age_years)
            maps = self._feature_maps()
            frames = life(model, networks, self._x[:1])
        pictures = _sheets({name: to_uint8(column) for name, column in columns.items()}, maps)
        if frames is not None:
            pictures["life"] = grid([list(to_uint8(frames))])
        for name, picture in pictures.items():
            file = f"{name.replace(' ', '-')}-{training.schedule.step:07d}.jpg"
            save_jpg(picture, training.run / "samples" / file)
        log_pictures(training.accelerator, pictures, training.schedule.step)
        if measures:
            log_numbers(training, {f"measure/{name}": value for name, value in measures.items()})
        return columns

    def _draw_curves(self, curves: Curves) -> None:
        if self._plots:
            run, schedule = self._training.run, self._training.schedule
            title = f"{run.name}, step {schedule.step:,} of {schedule.length}"
            save_png(plots.loss_panels(curves, title), run / "curves.png")

    def _feature_maps(self) -> dict[str, dict[str, Tensor]]:
        model, layers = self._training.model, self._training.config.feature_layers
        if model.default_layers and layers == TrainConfig.feature_layers:
            layers = tuple(model.default_layers)
        return feature_maps(model, self._training.trainer.ema_networks, self._x[:1], layers)


def _has_plots() -> bool:
    """Whether curves can be drawn; otherwise a warning names the cause and the remedy."""
    try:
        plots.require()
    except UserError as e:
        logger.warning("curves.png is not drawn: %s", e)
        return False
    return True


def _sheets(columns: Mapping[str, Picture], maps: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Picture]:
    """Sheets of a training: the samples, and the feature maps and changes of the first face.

    Args:
        columns: of the samples, uint8 (N, H, W, 3) by name, the faces themselves first.
        maps: layer -> column -> (C, h, w).
    """
    sheets = {"samples": grid(list(zip(*columns.values(), strict=True)), columns=list(columns))}
    changed: list[str] = []
    for layer, by_column in maps.items():
        changed = [name for name in by_column if name in columns]
        sheets[f"features {layer}"] = feature_strip(list(by_column.values()), list(by_column))
        sheets[f"channels {layer}"] = feature_grid(list(by_column.values())[-1])
    if changed:
        before, *_ = columns.values()
        sheets["change"] = grid([[difference_map(before[0], columns[k][0]) for k in changed]], columns=changed)
    return sheets
