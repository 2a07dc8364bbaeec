"""Progress of a training: a bar on a terminal, otherwise a line at intervals."""

import logging
import sys
import time
from types import TracebackType

from tqdm import tqdm

from cyclegan_age.training.schedule import Schedule

LINE_SECONDS = 30.0

logger = logging.getLogger("cyclegan_age")


class ProgressBar:
    """Context manager for the duration of the training.

    Args:
        schedule: counts the steps.
        shown: whether to show anything.
    """

    def __init__(self, schedule: Schedule, *, shown: bool) -> None:
        terminal = sys.stderr.isatty()
        self._schedule, self._lines, self._text = schedule, shown and not terminal, ""
        self._said = (schedule.step, time.monotonic())  # step and time of the last line
        self._bar = tqdm(
            total=schedule.total_steps * schedule.per_step or None,
            initial=schedule.step * schedule.per_step,
            unit="img",
            disable=not (shown and terminal),
            dynamic_ncols=True,
            smoothing=0.05,
        )

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def step(self) -> None:
        """Update after a step is done and counted."""
        self._bar.update(self._schedule.per_step)
        step, (before, then), now = self._schedule.step, self._said, time.monotonic()
        if self._lines and now - then >= LINE_SECONDS:
            speed = (step - before) * self._schedule.per_step / (now - then)
            logger.info("step %d of %s: %.1f images/s %s", step, self._schedule.length, speed, self._text)
            self._said = (step, now)

    def say(self, text: str) -> None:
        """Set the text beside the numbers."""
        self._text = text
        self._bar.set_postfix_str(text, refresh=False)
