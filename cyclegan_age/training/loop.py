"""The training loop: steps, logging, samples, checkpoints, signals."""

import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import FrameType

from accelerate import Accelerator

from cyclegan_age.config import ModelConfig, TrainConfig
from cyclegan_age.training.checkpoints import Checkpoints
from cyclegan_age.training.log import Log
from cyclegan_age.training.progress_bar import ProgressBar
from cyclegan_age.training.samples import Samples
from cyclegan_age.training.setup import check_and_start, set_up
from cyclegan_age.training.state import Training

logger = logging.getLogger("cyclegan_age")


def train(config: TrainConfig, net: ModelConfig, *, begun: float | None = None) -> Path:
    """Train, or resume a training, for the configured number of epochs or minutes; returns the run's folder.

    Under `accelerate launch` or torchrun every process calls this with the same configuration. batch_size is per
    process, and gradients are averaged over processes.

    Args:
        config: of the training.
        net: of the model.
        begun: `time.monotonic()` at the start of the process, for `--minutes`; by default now.

    Raises:
        UserError: errors that the user can correct: data, flags, a run with other settings, a diverged training.
        KeyboardInterrupt: after SIGINT or SIGTERM; the checkpoint is saved and the same command resumes.
    """
    with ExitStack() as stack:  # the run's lock
        training = set_up(config, net, time.monotonic() if begun is None else begun, stack)
        run, schedule = training.run, training.schedule
        if schedule.step and schedule.ended:
            longer = "--minutes" if config.minutes else "--epochs"
            logger.info(
                "%s: finished; use another --name to start again, or --name with more %s to continue", run, longer
            )
            return run
        check_and_start(training)
        samples, checkpoints = Samples(training), Checkpoints(training)
        if schedule.total_s or schedule.total_steps:
            _run_steps(training, samples, checkpoints)
        else:
            with _trackers_ended(training.accelerator):
                checkpoints.save()
    return run


def _run_steps(training: Training, samples: Samples, checkpoints: Checkpoints) -> None:
    config, schedule, accelerator = training.config, training.schedule, training.accelerator
    if training.is_main and training.trainer.runtime.compile_networks:
        logger.info("compiling: the first steps take some minutes; --no_compile starts at once but is slower")
    batches = training.data.batches(
        schedule.step, accelerator.process_index, accelerator.num_processes, accelerator.device
    )
    bar = ProgressBar(schedule, shown=training.is_main)
    log = Log(training, bar)
    with _stop_signals() as stop_requested, _trackers_ended(accelerator), closing(batches), bar:
        training.progress = schedule.progress()
        for batch in batches:
            training.train_step(batch)
            bar.step()
            log()
            samples()
            last = training.ended or stop_requested()
            checkpoints(last=last)
            if last:
                break
    if training.data.bad_files:
        logger.warning(
            "%s: %d files could not be read; they are listed above", config.dataroot, training.data.bad_files
        )
    if not training.ended:
        step, length = schedule.step, schedule.length
        logger.warning("%s: stopped at step %d of %s; the same command resumes", training.run, step, length)
        raise KeyboardInterrupt


@contextmanager
def _trackers_ended(accelerator: Accelerator) -> Iterator[None]:
    """Context that flushes the trackers, even if the training fails."""
    try:
        yield
    finally:
        accelerator.end_training()


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """SIGINT and SIGTERM request a stop after the step; a second one stops immediately."""
    requested: list[int] = []

    def request(number: int, frame: FrameType | None) -> None:
        if requested:
            raise KeyboardInterrupt
        requested.append(number)
        logger.warning("stopping after this step; the checkpoint will be saved")

    before = {s: signal.signal(s, request) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(requested)
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
