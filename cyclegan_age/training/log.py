"""Logs the loss terms of a training: metrics.jsonl, trackers, the progress bar, and warnings."""

import json
import logging
import time
from collections.abc import Mapping

from cyclegan_age.config import UserError
from cyclegan_age.files import append_line
from cyclegan_age.runs import has_checkpoint
from cyclegan_age.training.progress_bar import ProgressBar
from cyclegan_age.training.report import Report
from cyclegan_age.training.state import Training
from cyclegan_age.watchdog import Watchdog

MAX_BAD_STEPS = 20  # non-finite steps in a row that end a training

logger = logging.getLogger("cyclegan_age")


class Log:
    """Callback after each step.

    Args:
        training: the training.
        bar: shows the sums of the loss terms.
    """

    def __init__(self, training: Training, bar: ProgressBar) -> None:
        self._training, self._bar, self._watchdog = training, bar, Watchdog()
        self._logged_at = training.schedule.step, time.monotonic()  # step and time of the last line

    def __call__(self) -> None:
        """Log the means since the last line, if one is due.

        Raises:
            UserError: too many consecutive steps were not finite.
        """
        training, config, schedule = self._training, self._training.config, self._training.schedule
        if schedule.step % config.log_every and not training.ended:
            return
        report = training.trainer.read()
        self._check_finite(report)
        (before, then), self._logged_at = self._logged_at, (schedule.step, time.monotonic())
        if not report.terms:
            return
        speed = (schedule.step - before) * schedule.per_step / (self._logged_at[1] - then)
        numbers = {f"loss/{name}": value for name, value in report.terms.items()}
        numbers |= {"lr/lr": training.lr, "speed/images_per_s": speed, "skipped/steps": float(report.skipped)}
        log_numbers(training, numbers)
        if training.is_main:
            spent = f"{schedule.elapsed_s / 60:.1f} of {schedule.length}, " if config.minutes else ""
            self._bar.say(spent + _by_phase(report))
            for warning in self._watchdog.losses(report.terms):
                logger.warning("step %d: %s", schedule.step, warning)

    def _check_finite(self, report: Report) -> None:
        run, step = self._training.run, self._training.schedule.step
        if report.longest_bad_run:
            logger.warning("up to step %d: a loss or gradient is not finite; the steps are skipped", step)
        if report.longest_bad_run >= MAX_BAD_STEPS:
            begin = f"{run}: {MAX_BAD_STEPS} consecutive steps were not finite"
            remedy = "a lower --lr or --precision fp32 and another --name"
            if not has_checkpoint(run):
                raise UserError(f"{begin}; there is no earlier checkpoint: start again with {remedy}")
            raise UserError(f"{begin}; the checkpoint before them is kept: use --init {run.name} with {remedy}")


def log_numbers(training: Training, numbers: Mapping[str, float]) -> None:
    """Write numbers of the last step, by names like `loss/cycle`, to metrics.jsonl and the trackers."""
    step = training.schedule.step
    if training.is_main:
        append_line(training.run / "metrics.jsonl", json.dumps({"step": step, **numbers}))
    training.accelerator.log(dict(numbers), step=step)


def _by_phase(report: Report) -> str:
    """The sum of each phase's loss terms, for the progress bar."""
    totals: dict[str, float] = {}
    for name, value in report.terms.items():
        phase = report.phases[name]
        totals[phase] = totals.get(phase, 0.0) + value
    return " ".join(f"{phase}={total:.3g}" for phase, total in totals.items())
