"""Builds a training: processes, data, model, run folder, trackers; restores its checkpoint, or loads `--init`."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list

from cyclegan_age.config import ModelConfig, TrainConfig, UserError
from cyclegan_age.devices import best_device, runtime_of
from cyclegan_age.files import check_room, writing
from cyclegan_age.models import SYSTEMS
from cyclegan_age.monitor import start, trackers
from cyclegan_age.runs import has_checkpoint, open_run, remove_new_run, trim_metrics
from cyclegan_age.training.checkpoints import room_needed
from cyclegan_age.training.initial import load_initial_weights
from cyclegan_age.training.schedule import Schedule
from cyclegan_age.training.state import Training
from cyclegan_age.training.trainer import Trainer
from cyclegan_age.weight_files import settings

T = TypeVar("T")

logger = logging.getLogger("cyclegan_age")


def set_up(config: TrainConfig, net: ModelConfig, begun: float, stack: ExitStack) -> Training:
    """Build a training and restore its checkpoint; without one, load the weights of `--init`.

    Args:
        config: of the training.
        net: of the model.
        begun: `time.monotonic()` at the start of the process.
        stack: receives the run's lock, and the context that converts write errors to a UserError.

    Raises:
        UserError: errors that the user can correct: data, flags, a run with other settings.
    """
    training = _build(config, net, begun, stack)
    training.restore()
    if training.schedule.step == 0 and not training.schedule.ended:
        training.model.prepare(training.data, training.accelerator.device, progress=training.is_main)
    if config.init and not training.resumed:
        with _remove_run_on_error(training):
            training.seen_before = load_initial_weights(config, training.trainer)
    needed = room_needed(config, training.model)
    stack.enter_context(writing(training.run, needed, kept=lambda: _kept(training.run)))
    if training.is_main:
        trim_metrics(training.run / "metrics.jsonl", training.schedule.step)
        training.remove_old_files()
    return training


def check_and_start(training: Training) -> None:
    """Check the free disk space and start the trackers; on failure the folder of a new run is removed.

    Raises:
        UserError: there is too little space, or a tracker does not start.
    """
    run, needed = training.run, room_needed(training.config, training.model)
    needed *= 1 if training.resumed else 2  # old files stay until new ones are complete
    shown = _flat(settings(training.config, training.net))
    with _remove_run_on_error(training):
        _on_main(lambda: check_room(run, needed))
        _on_main(lambda: start(training.accelerator, shown))


def _build(config: TrainConfig, net: ModelConfig, begun: float, stack: ExitStack) -> Training:
    cpu = best_device().type == "cpu"
    processes = PartialState(cpu=cpu)
    system = SYSTEMS[config.model]
    data = system.data(config, net)  # first: a folder without the labels that a model needs is reported at once
    torch.manual_seed(config.seed)  # the same initial weights in every process
    model = system.build(config, net)
    torch.manual_seed(config.seed + processes.process_index)
    run = _on_main(lambda: open_run(config, net, stack, room_needed(config, model)))
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision="no",  # --precision decides; fp16 in accelerate's configuration would scale the losses
        project_dir=run,
        log_with=trackers(
            config.monitor, run_dir=run, name=run.name, server=config.visdom_server, port=config.visdom_port
        )
        or None,
    )
    count = processes.num_processes
    if count > 1:
        logger.info("%d processes, each with batches of %d", count, config.batch_size)
    schedule = Schedule(
        config,
        per_step=config.batch_size * count,
        pictures=len(data),
        begun=begun,
        broadcast=lambda progress: _on_main(lambda: progress),
    )
    trainer = Trainer(model, config, runtime_of(config, accelerator.device, count), distributed=count > 1)
    return Training(
        config=config, net=net, run=run, data=data, accelerator=accelerator, schedule=schedule, trainer=trainer
    )


def _on_main(do: Callable[[], T]) -> T:
    """Call a function only in the first process; all processes get its result, or its UserError."""
    processes = PartialState()
    answer: list[Any] = [None, None]
    if processes.is_main_process:
        try:
            answer[0] = do()
        except UserError as e:
            answer[1] = str(e)
    if processes.num_processes > 1:
        broadcast_object_list(answer)
    if answer[1] is not None:
        raise UserError(answer[1])
    result: T = answer[0]
    return result


@contextmanager
def _remove_run_on_error(training: Training) -> Iterator[None]:
    """Context that after a UserError removes the run's folder unless it has other files."""
    try:
        yield
    except UserError:
        if training.is_main:
            remove_new_run(training.run)
        raise


def _kept(run: Path) -> str:
    return "; the last checkpoint is kept" if has_checkpoint(run) else "; there is no checkpoint yet"


def _flat(nested: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {k: v if isinstance(v, int | float | str) else str(v) for part in nested.values() for k, v in part.items()}
