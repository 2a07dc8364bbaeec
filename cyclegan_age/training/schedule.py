"""Length and progress of a training: by pictures drawn, or by the clock."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from cyclegan_age.config import TrainConfig

_LEAST_RESERVE_S = 2.0  # minimum time reserved for the last pictures and files of a training by the clock


class Schedule:
    """Progress of a training.

    Args:
        config: its `minutes` or, if these are 0, its `epochs`.
        per_step: pictures drawn in a step by all processes.
        pictures: pictures in an epoch.
        begun: `time.monotonic()` at the start of the process.
        broadcast: the first process's number -> the same in all processes; a collective call.

    Attributes:
        step: steps done.
        seconds: duration of earlier processes of this training.
        before: progress before the previous step, 0 to 1.
    """

    def __init__(
        self, config: TrainConfig, *, per_step: int, pictures: int, begun: float, broadcast: Callable[[float], float]
    ) -> None:
        self.per_step, self.pictures = per_step, pictures
        self.total_steps = 0 if config.minutes else math.ceil(config.epochs * pictures / per_step)
        self.total_s = 60 * config.minutes
        self.step, self.seconds, self.before = 0, 0.0, 0.0
        self._begun, self._broadcast = begun, broadcast
        self._reserved = {"start": min(_LEAST_RESERVE_S, 0.1 * self.total_s)}  # seconds
        self._advanced, self._progress = begun, 0.0  # time of the last step, and last progress

    @property
    def elapsed_s(self) -> float:
        """Seconds of training, including earlier processes."""
        return self.seconds + time.monotonic() - self._begun

    @property
    def ended(self) -> bool:
        """Whether no step is left."""
        return self.progress() >= 1

    @property
    def length(self) -> str:
        """The whole training in words."""
        return f"{self.total_s / 60:g} minutes" if self.total_s else f"{self.total_steps:,} steps"

    def progress(self) -> float:
        """Share of the training that is done, 0 to 1. With `minutes` it is 1 early enough to write the last files."""
        if not self.total_s:
            return self.step / self.total_steps if self.total_steps else 1.0
        usable = self.total_s - min(sum(self._reserved.values()), 0.5 * self.total_s)
        self._progress = max(self._progress, self._broadcast(min(1.0, self.elapsed_s / usable)))
        return self._progress

    def advance(self) -> float:
        """Count a step; returns the progress after it. With `minutes`, the time of a step is reserved at the end."""
        self.step += 1
        now = time.monotonic()
        if self.step > 1:  # the first one compiles
            self._reserved["step"] = now - self._advanced
        self._advanced = now
        return self.progress()

    def reserve(self, what: str, seconds: float) -> None:
        """Reserve time at the end for an operation, by its previous duration."""
        self._reserved[what] = max(self._reserved.get(what, 0.0), 1.2 * seconds)

    def state_dict(self) -> dict[str, float]:
        """State for `load_state_dict`."""
        state = {"step": self.step, "before": self.before}
        if self.total_s:  # does not compute progress: only one process saves, and progress is a collective call
            state |= {"seconds": self.elapsed_s, "ended_s": self.total_s if self._progress >= 1 else 0.0}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state."""
        self.step, self.seconds = state["step"], state.get("seconds", 0.0)
        self._progress = 1.0 if self.total_s and state.get("ended_s") == self.total_s else 0.0
        self.before = state.get("before", max(self.step - 1, 0) / self.total_steps if self.total_steps else 0.0)
