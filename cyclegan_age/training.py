"""The training loop: it knows phases, not models."""

import json
import logging
import math
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from copy import deepcopy
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from tqdm import tqdm

from cyclegan_age.config import ModelConfig, TrainConfig, UserError
from cyclegan_age.curves import draw_curves, loss_curves
from cyclegan_age.data.batches import Batch
from cyclegan_age.images import Picture, grid, to_uint8
from cyclegan_age.models import SYSTEMS
from cyclegan_age.models.base import Model
from cyclegan_age.monitor import log_pictures, read_metrics, trackers
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
from cyclegan_age.watchdog import Watchdog

SHEET_ROWS = 16
MAX_BAD_STEPS = 20  # non-finite steps in a row that end a training
EPOCH_SECONDS = 10.0  # at least, from the last pictures to those at the end of an epoch

logger = logging.getLogger("cyclegan_age")


def train(config: TrainConfig, net: ModelConfig) -> Path:
    """Train, or go on training, until the configured number of epochs; returns the run's folder.

    Under `accelerate launch` or torchrun every process calls this with the same configuration; batch_size is each
    process's own and gradients are averaged over processes.

    Raises:
        UserError: what the user can mend: data, flags, a run of other settings, a training that diverged.
        KeyboardInterrupt: SIGINT or SIGTERM came; the state is saved and the same command goes on from it.
    """
    # Processes, data and run folder; the first process decides, so that all fail or go on together.
    processes = PartialState(cpu=not torch.cuda.is_available())
    system = SYSTEMS[config.model]
    data = system.data(config, net)  # first: a folder without the labels a model needs is told at once
    torch.manual_seed(config.seed)  # the same start in every process
    model = system.build(config, net)
    torch.manual_seed(config.seed + processes.process_index)
    run = Path(_decide(processes, lambda: str(open_run(config, net))))
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision="no",  # --precision decides; fp16 in accelerate's configuration would scale the losses
        project_dir=run,
        log_with=trackers(
            config.monitor, run_dir=run, name=run.name, server=config.visdom_server, port=config.visdom_port
        )
        or None,
    )
    device, main = accelerator.device, accelerator.is_main_process
    per_step = config.batch_size * accelerator.num_processes  # pictures
    total_steps = math.ceil(config.epochs * len(data) / per_step)
    bf16 = config.precision == "bf16" or (config.precision == "auto" and has_bf16(device))

    # Networks, averaged copies, an optimiser per phase.
    for network in (model.networks | model.frozen).values():
        network.to(device).to(memory_format=torch.channels_last)
    ema = {name: deepcopy(model.networks[name]).eval().requires_grad_(False) for name in model.shipped}
    model.averaged = ema
    parameters = {
        p: [w for name in names for w in model.networks[name].parameters()] for p, names in model.phases.items()
    }
    optimizers = {p: _optimizer(config, weights) for p, weights in parameters.items()}
    compiled = config.compile and _has_compiler()
    if compiled:
        for network in (model.networks | model.frozen).values():
            network.compile(dynamic=False)

    # Resume, or begin from given weights.
    step, bad_steps, skipped, seen_before = 0, 0, 0, 0
    moves = dict.fromkeys(ema, 0)  # steps that moved each of the averaged networks
    if state := load_state(run / "state.pt"):
        if state.get("per_step", per_step) != per_step:
            raise UserError(
                f"{run}: {state['per_step'] // config.batch_size} processes trained it, now there are "
                f"{accelerator.num_processes}; start as many, or begin from it by --init {run.name} with another --name"
            )
        step, skipped, seen_before = state["step"], state["skipped"], state.get("seen_before", 0)
        moves = state.get("moves", dict.fromkeys(ema, step))
        _restore(model, ema, optimizers, state)
        _restore_random(load_state(_rank_state(run, accelerator.process_index, step)) or {}, model)
        if step < total_steps:
            logger.info("%s: goes on at step %d of %d", run, step, total_steps)
    else:
        model.prepare(data, device, progress=main)
    if not state and config.init:
        learning = {name for names in model.phases.values() for name in names}
        try:
            seen_before = _begin_from(config, {k: model.networks[k] for k in model.shipped if k in learning}, ema)
        except UserError:
            if main:
                forget_run(run)
            raise
    if main:
        trim_metrics(run / "metrics.jsonl", step)
    if 0 < total_steps <= step:
        logger.info("%s: finished; another --name begins anew, with --name more --epochs go on", run)
        return run
    accelerator.init_trackers("cyclegan-age", config=_flat(settings(config, net)))
    x_fixed, age_fixed = data.fixed()
    x_fixed, age_fixed = x_fixed.to(device), age_fixed.to(device)
    with torch.inference_mode(), _kept_random(device):  # a wrong layer is told before the first step
        model.feature_maps(ema, x_fixed[:1], config.feature_layers)
    watchdog, sums, logged_at, drawn_at = Watchdog(), _Sums(), (step, time.monotonic()), time.monotonic()
    phase_of: dict[str, str] = {}  # of each loss term
    due = False  # to be saved

    def save_all() -> None:
        save_state(
            _rank_state(run, accelerator.process_index, step),
            {"random": _random_state(device), "pools": {k: p.state_dict() for k, p in model.pools.items()}},
        )
        accelerator.wait_for_everyone()
        if main:
            counts = {"step": step, "per_step": per_step, "skipped": skipped, "seen_before": seen_before}
            save_state(run / "state.pt", counts | {"moves": moves} | _state(model, ema, optimizers))
            for old in run.glob("state-*.pt"):
                if old not in {_rank_state(run, r, step) for r in range(accelerator.num_processes)}:
                    old.unlink()

    def save_weights(path: Path) -> None:
        tensors = {f"{n}.{k}": v for n, network in ema.items() for k, v in network.state_dict().items()}
        seen = seen_before + step * per_step
        save_snapshot(path, config, net, seen, tensors, model.parts)

    if not total_steps:
        with _ended(accelerator):
            save_all()
            if main:
                save_weights(run / "weights.safetensors")
        return run
    if compiled and main:
        logger.info("compiling: the first steps take some minutes; --no_compile starts at once and is slower then")
    batches = data.batches(step, accelerator.process_index, accelerator.num_processes)
    bar = tqdm(
        total=total_steps * per_step,
        initial=step * per_step,
        unit="img",
        disable=not main,
        dynamic_ncols=True,
        smoothing=0.05,
    )
    with _stop_signals() as stop, _ended(accelerator), closing(batches), bar:
        for batch in batches:
            # One step: each phase of each part of the batch, in lockstep.
            progress = step / total_steps
            lr = config.lr * min(1.0, (1 - progress) / max(1 - config.lr_constant, 1e-9))
            for phase in model.renew(max(step - 1, 0) / total_steps, progress):
                optimizers[phase].state.clear()
            done, resting = torch.tensor(progress, device=device), model.resting(progress)
            parts = [model.losses(part, done, resting) for part in _split(batch, config.accumulate, device)]
            finite, moved = True, set()
            for phase, weights in parameters.items():
                for group in optimizers[phase].param_groups:
                    group["lr"] = lr * model.rates.get(phase, 1.0)
                optimizers[phase].zero_grad(set_to_none=True)
                for part in parts:
                    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                        name, terms = next(part)
                    assert name == phase, f"the model yields phase {name} where it declared {phase}"
                    if terms:
                        accelerator.backward(torch.stack(list(terms.values())).sum() / config.accumulate)
                    sums.add(terms)
                    phase_of |= dict.fromkeys(terms, phase)
                if not terms:  # it rests
                    continue
                gradients = [w.grad for w in weights if w.grad is not None]
                all_finite = _average(accelerator, gradients, sums.finite)
                norm = torch.nn.utils.get_total_norm(gradients)
                if not torch.isfinite(norm) or not all_finite:
                    finite = False
                    break
                optimizers[phase].step()
                moved |= set(model.phases[phase])
            step += 1
            bar.update(per_step)

            # A phase that is not finite, and what follows it in the step, moves nothing.
            bad_steps = 0 if finite else bad_steps + 1
            if finite:
                sums.count += 1
                for name in moved & set(ema):
                    moves[name] += 1
                    _average_weights(ema[name], model.networks[name], min(config.ema, moves[name] / (moves[name] + 10)))
            else:
                skipped += 1
                sums.forget()
                if bad_steps == 1:
                    logger.warning("step %d: a loss or gradient is not finite; the step is skipped", step)
                if bad_steps >= MAX_BAD_STEPS:
                    raise UserError(
                        f"{run}: {MAX_BAD_STEPS} steps in a row were not finite; the state before them is kept: "
                        f"give --init {run.name} with a lower --lr or --precision fp32 and another --name"
                    )

            # Numbers.
            if (step % config.log_every == 0 or step == total_steps) and sums.count:
                terms_mean = sums.mean()
                now = time.monotonic()
                speed = (step - logged_at[0]) * per_step / (now - logged_at[1])
                logged_at = (step, now)
                line = {f"loss/{k}": v for k, v in terms_mean.items()}
                line |= {"lr/lr": lr, "speed/images_per_s": speed, "skipped/steps": float(skipped)}
                if main:
                    _append(run / "metrics.jsonl", {"step": step, **line})
                    bar.set_postfix_str(_by_phase(terms_mean, phase_of), refresh=False)
                    for warning in watchdog.losses(terms_mean):
                        logger.warning("step %d: %s", step, warning)
                accelerator.log(line, step=step)

            # Pictures and curves, at the end of each epoch, too.
            ended = step * per_step // len(data) > (step - 1) * per_step // len(data)
            stale = ended and time.monotonic() - drawn_at > EPOCH_SECONDS
            if main and (stale or step % config.sample_every == 0 or step == total_steps):
                with torch.inference_mode(), _kept_random(device):
                    columns = model.samples(ema, x_fixed[:SHEET_ROWS], age_fixed[:SHEET_ROWS])
                    measures = model.measures(ema, x_fixed, age_fixed)
                    maps = model.feature_maps(ema, x_fixed[:1], config.feature_layers)
                    life = model.life(ema, x_fixed[:1])
                pictures = _sheets({k: to_uint8(c) for k, c in columns.items()}, maps)
                if life is not None:
                    pictures["life"] = grid([list(to_uint8(life))])
                for k, picture in pictures.items():
                    save_jpg(picture, run / "samples" / f"{k.replace(' ', '-')}-{step:07d}.jpg")
                log_pictures(accelerator, pictures, step)
                if measures:
                    line = {f"measure/{k}": v for k, v in measures.items()}
                    _append(run / "metrics.jsonl", {"step": step, **line})
                    accelerator.log(line, step=step)
                for warning in watchdog.samples(columns):
                    logger.warning("step %d: %s", step, warning)
                curves, drawn_at = loss_curves(read_metrics(run / "metrics.jsonl")), time.monotonic()
                save_png(draw_curves(curves, f"{run.name}, step {step:,} of {total_steps:,}"), run / "curves.png")
                for warning in watchdog.curves(curves, step / total_steps):
                    logger.warning("step %d: %s", step, warning)

            # Files.
            last = step >= total_steps or stop()
            if main and (step % config.snapshot_every == 0 or step == total_steps):
                save_weights(run / "snapshots" / f"step-{step:07d}.safetensors")
            due |= step % config.save_every == 0
            if last or (due and not bad_steps):
                due = False
                save_all()
                if main:
                    save_weights(run / "weights.safetensors")
            if last:
                break
    if data.bad_files:
        logger.warning("%s: %d files could not be used; they are named above", config.dataroot, data.bad_files)
    if step < total_steps:
        logger.warning("%s: stopped at step %d of %d; the same command goes on from here", run, step, total_steps)
        raise KeyboardInterrupt
    return run


def has_bf16(device: torch.device) -> bool:
    """Whether the processor multiplies bfloat16 natively."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _has_compiler() -> bool:
    if any(shutil.which(c) for c in ("c++", "g++", "clang++")):
        return True
    logger.warning("no C++ compiler found: training without torch.compile")
    return False


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


def _optimizer(config: TrainConfig, weights: list[nn.Parameter]) -> torch.optim.Optimizer:
    if config.optimizer == "sgd":
        return torch.optim.SGD(weights, lr=config.lr)
    return torch.optim.Adam(weights, lr=config.lr, betas=config.betas, fused=True)


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


def _split(batch: Batch, parts: int, device: torch.device) -> list[Batch]:
    columns = [
        x.to(device, non_blocking=True).chunk(parts)
        for x in (
            batch.x_source.contiguous(memory_format=torch.channels_last),
            batch.age_source,
            batch.x_target.contiguous(memory_format=torch.channels_last),
            batch.age_target,
            batch.label_source,
            batch.label_target,
        )
    ]
    return [Batch(*part) for part in zip(*columns, strict=True)]


def _average(accelerator: Accelerator, gradients: list[Tensor], finite: bool) -> bool:
    """Replace gradients by their mean over the processes; gives whether `finite` holds in all of them."""
    if accelerator.num_processes == 1:
        return finite
    wrong = gradients[0].new_tensor([0.0 if finite else 1.0])
    flat = accelerator.reduce(torch.cat([*(g.flatten() for g in gradients), wrong]), "mean")
    for g, mean in zip(gradients, flat[:-1].split([g.numel() for g in gradients]), strict=True):
        g.copy_(mean.view_as(g))
    return not flat[-1]


@torch.no_grad()
def _average_weights(average: nn.Module, network: nn.Module, decay: float) -> None:
    new = network.state_dict()
    pairs = [(a, new[k]) for k, a in average.state_dict().items()]
    floats = [(a, b) for a, b in pairs if a.is_floating_point()]
    torch._foreach_lerp_([a for a, _ in floats], [b for _, b in floats], 1 - decay)
    for a, b in pairs:
        if not a.is_floating_point():
            a.copy_(b)


class _Sums:
    """Running sums of loss terms between two log lines."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self.terms: dict[str, list[Tensor]] = {}
        self.count = 0

    @property
    def finite(self) -> bool:
        return all(bool(torch.isfinite(values[-1])) for values in self.terms.values())

    def add(self, terms: Mapping[str, Tensor]) -> None:
        for k, v in terms.items():
            self.terms.setdefault(k, []).append(v.detach())

    def mean(self) -> dict[str, float]:
        out = {k: float(torch.stack(v).mean()) for k, v in self.terms.items()}
        self.forget()
        return out


def _by_phase(terms: Mapping[str, float], phase_of: Mapping[str, str]) -> str:
    """The sum of each phase's terms, for the progress bar, which has no room for them all."""
    totals: dict[str, float] = {}
    for name, value in terms.items():
        totals[phase_of[name]] = totals.get(phase_of[name], 0.0) + value
    return " ".join(f"{phase}={total:.3g}" for phase, total in totals.items())


def _state(
    model: Model, ema: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer]
) -> dict[str, Any]:
    return {
        "networks": {k: n.state_dict() for k, n in model.networks.items()},
        "ema": {k: n.state_dict() for k, n in ema.items()},
        "optimizers": {k: o.state_dict() for k, o in optimizers.items()},
    }


def _restore(
    model: Model,
    ema: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    state: Mapping[str, Any],
) -> None:
    for key, objects in (("networks", model.networks), ("ema", ema), ("optimizers", optimizers)):
        for name, thing in objects.items():
            thing.load_state_dict(state[key][name])


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


def _rank_state(run: Path, rank: int, step: int) -> Path:
    return run / f"state-{rank}-{step}.pt"


def _random_state(device: torch.device) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    return state | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else state


def _restore_random(state: Mapping[str, Any], model: Model) -> None:
    if "random" in state:
        torch.set_rng_state(state["random"]["cpu"])
        if "cuda" in state["random"]:
            torch.cuda.set_rng_state(state["random"]["cuda"])
        for name, pool in model.pools.items():
            pool.load_state_dict(state["pools"][name])


@contextmanager
def _kept_random(device: torch.device) -> Iterator[None]:
    """Sheets draw no numbers from the training's sequence."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


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
