"""The training loop: it knows phases, not models."""

import json
import logging
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from cyclegan_age.config import ModelConfig, TrainConfig, UserError
from cyclegan_age.curves import draw_curves, loss_curves
from cyclegan_age.devices import best_device, kept_random, random_state, runtime_of, set_random_state
from cyclegan_age.files import check_room, writing
from cyclegan_age.images import Picture, grid, to_uint8
from cyclegan_age.models import SYSTEMS
from cyclegan_age.models.base import Model
from cyclegan_age.monitor import log_pictures, read_metrics, start, trackers
from cyclegan_age.render import difference_map, feature_grid, feature_strip, save_jpg, save_png
from cyclegan_age.runs import (
    Snapshot,
    find_weights,
    forget_run,
    load_snapshot,
    load_state,
    open_run,
    save_snapshot,
    save_state,
    settings,
    trim_metrics,
)
from cyclegan_age.training.progress import Progress
from cyclegan_age.training.schedule import Schedule
from cyclegan_age.training.step import Report, Step
from cyclegan_age.watchdog import Watchdog

SHEET_ROWS = 16
MAX_BAD_STEPS = 20  # non-finite steps in a row that end a training
EPOCH_SECONDS = 10.0  # at least, from the last pictures to those at the end of an epoch
_PICTURES_BYTES = 1_000_000  # of sheets, curves and metrics, about

logger = logging.getLogger("cyclegan_age")


def train(config: TrainConfig, net: ModelConfig, *, begun: float | None = None) -> Path:
    """Train, or go on training, for the configured number of epochs or minutes; returns the run's folder.

    Under `accelerate launch` or torchrun every process calls this with the same configuration; batch_size is each
    process's own and gradients are averaged over processes.

    Args:
        config: of the training.
        net: of the model.
        begun: `time.monotonic()` at the start of the process, which `--minutes` counts from; by default now.

    Raises:
        UserError: what the user can mend: data, flags, a run of other settings, a training that diverged.
        KeyboardInterrupt: SIGINT or SIGTERM came; the state is saved and the same command goes on from it.
    """
    with ExitStack() as held:  # the run's lock
        return _train(config, net, time.monotonic() if begun is None else begun, held)


def _train(config: TrainConfig, net: ModelConfig, begun: float, held: ExitStack) -> Path:
    # Processes, data and run folder; the first process decides, so that all fail or go on together.
    processes = PartialState(cpu=best_device().type == "cpu")
    system = SYSTEMS[config.model]
    data = system.data(config, net)  # first: a folder without the labels a model needs is told at once
    torch.manual_seed(config.seed)  # the same start in every process
    model = system.build(config, net)
    torch.manual_seed(config.seed + processes.process_index)
    run = Path(_decide(processes, lambda: str(open_run(config, net, held))))
    accelerator = Accelerator(
        cpu=best_device().type == "cpu",
        mixed_precision="no",  # --precision decides; fp16 in accelerate's configuration would scale the losses
        project_dir=run,
        log_with=trackers(
            config.monitor, run_dir=run, name=run.name, server=config.visdom_server, port=config.visdom_port
        )
        or None,
    )
    device, main, count = accelerator.device, accelerator.is_main_process, accelerator.num_processes
    per_step = config.batch_size * count  # pictures
    if count > 1:
        logger.info("%d processes, each with batches of %d", count, config.batch_size)
    schedule = Schedule(
        config,
        per_step=per_step,
        pictures=len(data),
        begun=begun,
        agree=lambda share: float(_decide(processes, lambda: str(share))) if count > 1 else share,
    )
    runtime = runtime_of(config, device, count)
    step = Step(model, config, runtime, distributed=count > 1)

    # Resume, or begin from given weights.
    seen_before = 0
    if state := load_state(run / "state.pt"):
        if state.get("per_step", per_step) != per_step:
            raise UserError(
                f"{run}: {state['per_step'] // config.batch_size} processes trained it, now there are {count}; "
                f"start as many, or begin from it by --init {run.name} with another --name"
            )
        seen_before = state.get("seen_before", 0)
        schedule.load_state_dict(state)
        step.load_state_dict(state)
        _restore_random(load_state(_rank_state(run, accelerator.process_index, schedule.step)) or {}, model)
        if not schedule.ended:
            logger.info("%s: goes on at step %d of %s", run, schedule.step, schedule.length)
            if "optimizers" not in state:
                logger.info("%s: a light checkpoint: the optimisers begin anew", run)
    else:
        model.prepare(data, device, progress=main)
    if not state and config.init:
        learning = {name for names in model.phases.values() for name in names}
        try:
            begins = {k: model.networks[k] for k in model.shipped if k in learning}
            seen_before = _begin_from(config, begins, step.averaged)
        except UserError:
            if main:
                forget_run(run)
            raise
    room = _room(step, config)
    held.enter_context(writing(run, room, kept="; the last saved state is kept"))
    if main:
        trim_metrics(run / "metrics.jsonl", schedule.step)
        for left in run.glob("state-*.pt"):  # of a save that was killed
            if not left.stem.endswith(f"-{schedule.step}"):
                left.unlink()
    if schedule.step and schedule.ended:
        longer = "--minutes" if config.minutes else "--epochs"
        logger.info("%s: finished; another --name begins anew, with --name more %s go on", run, longer)
        return run
    _decide(processes, lambda: _check_room(run, room if state else 2 * room))  # old files stay until new ones are whole
    _decide(processes, lambda: _start(accelerator, run, _flat(settings(config, net))))
    x_fixed, age_fixed = data.fixed()
    x_fixed, age_fixed = x_fixed.to(device), age_fixed.to(device)
    with torch.inference_mode(), kept_random(device):  # a wrong layer is told before the first step
        model.feature_maps(step.averaged, x_fixed[:1], config.feature_layers)
    watchdog, logged_at, drawn_at = Watchdog(), (schedule.step, time.monotonic()), time.monotonic()
    due = False  # to be saved

    def save_all() -> None:
        light = config.checkpoint == "light"
        pools = {} if light else {k: p.state_dict() for k, p in model.pools.items()}
        of_rank = _rank_state(run, accelerator.process_index, schedule.step)
        try:
            save_state(of_rank, {"random": random_state(device), "pools": pools})
            accelerator.wait_for_everyone()
            if main:
                own = {"per_step": per_step, "seen_before": seen_before} | schedule.state_dict()
                save_state(run / "state.pt", own | step.state_dict(light=light))
        except OSError:  # it belongs to no state
            of_rank.unlink(missing_ok=True)
            raise
        if main:
            for old in run.glob("state-*.pt"):
                if old not in {_rank_state(run, r, schedule.step) for r in range(count)}:
                    old.unlink()

    def save_weights(path: Path) -> None:
        tensors = {f"{n}.{k}": v for n, network in step.averaged.items() for k, v in network.state_dict().items()}
        save_snapshot(path, config, net, seen_before + schedule.step * per_step, tensors, model.parts)

    if not schedule.total_s and not schedule.total_steps:
        with _ended(accelerator):
            if main:
                save_weights(run / "weights.safetensors")
            save_all()
        return run
    if main and runtime.compile_networks:
        logger.info("compiling: the first steps take some minutes; --no_compile starts at once and is slower then")
    batches = data.batches(schedule.step, accelerator.process_index, count, device)
    bar = Progress(schedule, shown=main)
    with _stop_signals() as stop, _ended(accelerator), closing(batches), bar:
        progress = schedule.progress()
        for batch in batches:
            step(batch, schedule.before, progress)
            lr = step.rate(progress)
            schedule.before, progress = progress, schedule.advance()
            done, ended = schedule.step, progress >= 1
            bar.step()

            # Numbers.
            if done % config.log_every == 0 or ended:
                report = step.read()
                _check_finite(report, run, done)
                now = time.monotonic()
                speed = (done - logged_at[0]) * per_step / (now - logged_at[1])
                logged_at = (done, now)
                if report.terms:
                    line = {f"loss/{k}": v for k, v in report.terms.items()}
                    line |= {"lr/lr": lr, "speed/images_per_s": speed, "skipped/steps": float(report.skipped)}
                    if main:
                        _append(run / "metrics.jsonl", {"step": done, **line})
                        spent = f"{schedule.elapsed_s / 60:.1f} of {schedule.length}, " if config.minutes else ""
                        bar.say(spent + _by_phase(report.terms, report.phases))
                        for warning in watchdog.losses(report.terms):
                            logger.warning("step %d: %s", done, warning)
                    accelerator.log(line, step=done)

            # Pictures and curves, at the end of each epoch, too.
            epoch_ended = done * per_step // len(data) > (done - 1) * per_step // len(data)
            stale = epoch_ended and time.monotonic() - drawn_at > EPOCH_SECONDS
            if main and (stale or done % config.sample_every == 0 or ended):
                started = time.monotonic()
                with torch.inference_mode(), kept_random(device):
                    columns = model.samples(step.averaged, x_fixed[:SHEET_ROWS], age_fixed[:SHEET_ROWS])
                    measures = model.measures(step.averaged, x_fixed, age_fixed)
                    maps = model.feature_maps(step.averaged, x_fixed[:1], config.feature_layers)
                    life = model.life(step.averaged, x_fixed[:1])
                pictures = _sheets({k: to_uint8(c) for k, c in columns.items()}, maps)
                if life is not None:
                    pictures["life"] = grid([list(to_uint8(life))])
                for k, picture in pictures.items():
                    save_jpg(picture, run / "samples" / f"{k.replace(' ', '-')}-{done:07d}.jpg")
                log_pictures(accelerator, pictures, done)
                if measures:
                    line = {f"measure/{k}": v for k, v in measures.items()}
                    _append(run / "metrics.jsonl", {"step": done, **line})
                    accelerator.log(line, step=done)
                for warning in watchdog.samples(columns):
                    logger.warning("step %d: %s", done, warning)
                curves, drawn_at = loss_curves(read_metrics(run / "metrics.jsonl")), time.monotonic()
                save_png(draw_curves(curves, f"{run.name}, step {done:,} of {schedule.length}"), run / "curves.png")
                for warning in watchdog.curves(curves, progress):
                    logger.warning("step %d: %s", done, warning)
                schedule.reserve("pictures", drawn_at - started)

            # Files.
            last = ended or stop()
            if main and (done % config.snapshot_every == 0 or ended):
                save_weights(run / "snapshots" / f"step-{done:07d}.safetensors")
            due |= done % config.save_every == 0
            if last or (due and not step.bad_steps):
                due, started = False, time.monotonic()
                if main:  # before the state: with that of the last step nothing is left to write
                    save_weights(run / "weights.safetensors")
                save_all()
                schedule.reserve("files", time.monotonic() - started)
            if last:
                break
    if data.bad_files:
        logger.warning("%s: %d files could not be used; they are named above", config.dataroot, data.bad_files)
    if not ended:
        logger.warning("%s: stopped at step %d of %s; the same command goes on from here", run, done, schedule.length)
        raise KeyboardInterrupt
    return run


def _check_finite(report: Report, run: Path, step: int) -> None:
    if report.longest:
        logger.warning("up to step %d: a loss or gradient is not finite; the steps are skipped", step)
    if report.longest >= MAX_BAD_STEPS:
        raise UserError(
            f"{run}: {MAX_BAD_STEPS} steps in a row were not finite; the state before them is kept: "
            f"give --init {run.name} with a lower --lr or --precision fp32 and another --name"
        )


def _decide(processes: PartialState, choose: Callable[[], str]) -> str:
    """What the first process chose, in all of them; its UserError is raised in all of them, too."""
    answer = ["", ""]
    if processes.is_main_process:
        try:
            answer[0] = choose()
        except UserError as e:
            answer[1] = str(e)
    if processes.num_processes > 1:
        broadcast_object_list(answer)
    if answer[1]:
        raise UserError(answer[1])
    return answer[0]


def _sheets(columns: Mapping[str, Picture], maps: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Picture]:
    """What is shown of a training: the samples, and of the first face its feature maps and what changed in it.

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


def _by_phase(terms: Mapping[str, float], phase_of: Mapping[str, str]) -> str:
    """The sum of each phase's terms, for the progress bar, which has no room for them all."""
    totals: dict[str, float] = {}
    for name, value in terms.items():
        totals[phase_of[name]] = totals.get(phase_of[name], 0.0) + value
    return " ".join(f"{phase}={total:.3g}" for phase, total in totals.items())


def _begin_from(config: TrainConfig, networks: Mapping[str, nn.Module], ema: Mapping[str, nn.Module]) -> int:
    """Load the weights of `--init`; gives how many pictures they have seen."""
    snapshot = _snapshot(config, "init")
    given = {name: snapshot.network(name) for name in networks}
    if config.init_average:
        other = _snapshot(config, "init_average")
        for name, tensors in given.items():
            others = other.network(name)
            sizes, of_others = ({k: list(v.shape) for k, v in one.items()} for one in (tensors, others))
            if wrong := next((k for k in sizes | of_others if sizes.get(k) != of_others.get(k)), None):
                raise UserError(
                    f"--init_average {config.init_average}: its {name} is of another kind than that of --init: "
                    f"{wrong} is {of_others.get(wrong, 'missing')} and not {sizes.get(wrong, 'there')}; "
                    "give weights of the same settings"
                )
            given[name] = {k: torch.lerp(v.float(), others[k].float(), config.init_share) for k, v in tensors.items()}
    for name, network in networks.items():
        if not given[name] and any(given.values()):  # of an earlier stage
            logger.info("--init %s: begins as it is: %s", config.init, name)
            continue
        try:
            missing, foreign = network.load_state_dict(given[name], strict=False)
        except RuntimeError as e:
            cause = str(e).splitlines()[-1].strip(" \t.")
            raise UserError(f"--init {config.init}: {cause}; give the same settings, as --ngf") from None
        if foreign or len(missing) == len(network.state_dict()):
            raise UserError(f"--init {config.init}: its {name} is of another kind; give its own settings")
        if missing:
            logger.info("--init %s: begins anew: %s", config.init, ", ".join(missing))
        ema[name].load_state_dict(network.state_dict())
    return snapshot.images_seen


def _snapshot(config: TrainConfig, flag: str) -> Snapshot:
    """What the weights of a flag are."""
    try:
        return load_snapshot(find_weights(getattr(config, flag), config.results_dir, config.model))
    except UserError as e:
        raise UserError(str(e).replace("--weights", f"--{flag}", 1)) from None


def _room(step: Step, config: TrainConfig) -> int:
    """Bytes of what is written at a save, some pictures included."""
    averaged, state = (sum(map(_bytes, networks.values())) for networks in (step.averaged, step.model.networks))
    state += averaged
    if config.checkpoint == "light":
        state //= 2
    else:
        parameters = sum(w.numel() * w.element_size() for weights in step.parameters.values() for w in weights)
        state += 2 * parameters if config.optimizer == "adam" else 0
        one = 4 * (3 * config.image_size**2 + len(config.ages))  # a picture in a history buffer, and its age vector
        state += sum(pool.size * one for pool in step.model.pools.values())
    return state + 2 * averaged + _PICTURES_BYTES


def _bytes(network: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in network.state_dict().values())


def _check_room(run: Path, needed: int) -> str:
    try:
        check_room(run, needed)
    except UserError:
        forget_run(run)
        raise
    return ""


def _start(accelerator: Accelerator, run: Path, shown: Mapping[str, Any]) -> str:
    try:
        start(accelerator, shown)
    except UserError:
        forget_run(run)
        raise
    return ""


def _rank_state(run: Path, rank: int, step: int) -> Path:
    return run / f"state-{rank}-{step}.pt"


def _restore_random(state: Mapping[str, Any], model: Model) -> None:
    if "random" in state:
        set_random_state(state["random"])
        for name, pool in state["pools"].items():  # none in a light state
            model.pools[name].load_state_dict(pool)


@contextmanager
def _ended(accelerator: Accelerator) -> Iterator[None]:
    """Trackers send what is left, also when the training fails."""
    try:
        yield
    finally:
        accelerator.end_training()


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """SIGINT and SIGTERM ask for a stop after the step; a second one stops at once."""
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        logger.warning("stopping after this step; the state will be saved")

    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


def _append(path: Path, line: Mapping[str, float]) -> None:
    with path.open("a") as f:
        f.write(json.dumps(line) + "\n")


def _flat(plain: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {k: v if isinstance(v, int | float | str) else str(v) for part in plain.values() for k, v in part.items()}
