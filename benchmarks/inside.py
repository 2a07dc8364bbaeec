"""Measurements inside one process, interleaved so that ratios are valid: matrices, training steps, rendering."""

import math
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.plan import Plan, Row
from benchmarks.processes import make_faces
from cyclegan_age.config import CycleGANConfig, InferConfig, TrainConfig
from cyclegan_age.data.batches import Batch
from cyclegan_age.devices import has_bf16
from cyclegan_age.inference import Ager
from cyclegan_age.models import SYSTEMS
from cyclegan_age.networks.discriminators import AgeCritic
from cyclegan_age.rendering.gallery import render_all
from cyclegan_age.weight_files import save_weights

CPU = torch.device("cpu")


def machine() -> str:
    """Processor, cores and versions in one line."""
    can = torch.cpu.get_capabilities()
    name = can.get("cpu_name") or platform.processor() or platform.machine()
    cores = f"{can.get('num_physical_cores', '?')} cores, {torch.get_num_threads()} threads"
    bf16 = "native bf16" if has_bf16(CPU) else "no native bf16"
    return f"{name}, {cores}, {bf16}, torch {torch.__version__}, Python {platform.python_version()}"


@dataclass
class Task:
    """Something to be timed."""

    run: Callable[[], object]
    repeat: int = 1  # times in a row in each round
    seconds: float = math.inf  # the fastest so far


def take_turns(tasks: Mapping[str, Task], rounds: int) -> None:
    """Time the tasks in turn, so that a slow phase of the machine affects all of them."""
    for _ in range(rounds):
        for task in tasks.values():
            for _ in range(task.repeat):
                begin = time.perf_counter()
                task.run()
                task.seconds = min(task.seconds, time.perf_counter() - begin)


def made_up_batch(config: TrainConfig, size: int) -> Batch:
    """`size` pictures of noise and ages between the anchors."""

    def pictures() -> Tensor:
        return torch.rand(size, 3, config.image_size, config.image_size) * 2 - 1

    def ages() -> Tensor:
        low, high = config.ages[0], config.ages[-1]
        return low + (high - low) * torch.rand(size)

    return Batch(pictures(), ages(), pictures(), ages())


class SingleBatchTrainer:
    """A model with its optimisers, on one batch that stays in memory.

    Args:
        fast: as the training does it; otherwise fp32, not compiled, tensors in contiguous layout.
    """

    def __init__(self, *, config: TrainConfig, net: CycleGANConfig, fast: bool) -> None:
        torch.manual_seed(config.seed)
        self.model = SYSTEMS["cyclegan"].build(config, net)
        self.batch = made_up_batch(config, config.batch_size)
        self.bf16 = fast and has_bf16(CPU)
        networks = self.model.networks | self.model.frozen
        if fast:
            for network in networks.values():
                network.to(memory_format=torch.channels_last)
            x_source, x_target = (
                x.contiguous(memory_format=torch.channels_last) for x in (self.batch.x_source, self.batch.x_target)
            )
            self.batch = Batch(x_source, self.batch.age_source, x_target, self.batch.age_target)
        average = get_ema_multi_avg_fn(config.ema)
        self.ema = {name: AveragedModel(self.model.networks[name], multi_avg_fn=average) for name in self.model.shipped}
        self.weights = {
            phase: [w for name in names for w in self.model.networks[name].parameters()]
            for phase, names in self.model.phases.items()
        }
        self.optimizers = {
            phase: torch.optim.Adam(weights, lr=config.lr, betas=config.betas, fused=fast)
            for phase, weights in self.weights.items()
        }
        if fast and config.compile and any(map(shutil.which, ("c++", "g++", "clang++"))):
            for network in networks.values():
                network.compile(dynamic=False)

    def step(self) -> None:
        """One step, as in the training loop."""
        losses = self.model.losses(self.batch, torch.tensor(0.5), self.model.paused(0.5))
        for phase, optimizer in self.optimizers.items():
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                terms = list(next(losses)[1].values())
            torch.stack(terms).sum().backward()
            gradients = [w.grad for w in self.weights[phase] if w.grad is not None]
            if not torch.isfinite(torch.nn.utils.get_total_norm([*gradients, *terms])):
                raise RuntimeError(f"phase {phase}: not finite")
            optimizer.step()
        for name, average in self.ema.items():
            average.update_parameters(self.model.networks[name])


@dataclass(frozen=True)
class Flops:
    """Floating point operations of a training step per picture, forward and backward; a multiply-add counts as two."""

    generator: float
    discriminator: float
    critics: float

    @property
    def total(self) -> float:
        return self.generator + self.discriminator + self.critics


def flops_per_image(config: TrainConfig, net: CycleGANConfig) -> Flops:
    """Count the operations of a step."""
    model = SYSTEMS["cyclegan"].build(config, net)
    phases = dict.fromkeys(model.phases, 0.0)
    losses = model.losses(made_up_batch(config, config.batch_size), torch.tensor(0.5), model.paused(0.5))
    for phase in phases:
        with FlopCounterMode(display=False) as counter:
            torch.stack(list(next(losses)[1].values())).sum().backward()
        phases[phase] = counter.get_total_flops() / config.batch_size

    def judged(network: nn.Module) -> int:
        """Operations to score a generated picture and to propagate the gradient back to it."""
        network.requires_grad_(False)
        x = torch.zeros(1, 3, config.image_size, config.image_size, requires_grad=True)
        with FlopCounterMode(display=False) as counter:
            outputs = network(x, x) if isinstance(network, AgeCritic) else (network(x),)
            torch.stack([out.sum() for out in outputs]).sum().backward()
        return int(counter.get_total_flops())

    networks = model.networks | model.frozen
    discriminator = judged(networks.pop("discriminator"))
    critics = sum([judged(network) for name, network in networks.items() if name != "generator"])
    return Flops(
        generator=phases["generator"] - discriminator - critics,
        discriminator=phases["discriminator"] + discriminator,
        critics=phases.get("critics", 0.0) + critics,
    )


def multiply(size: int, dtype: torch.dtype) -> Callable[[], Tensor]:
    """A product of two square matrices."""
    a, b = torch.rand(size, size).to(dtype), torch.rand(size, size).to(dtype)
    return lambda: torch.mm(a, b)


def measure_training(plan: Plan, config: TrainConfig, net: CycleGANConfig, say: Callable[[str], None]) -> list[Row]:
    """Matrix rate, and the speed of real training steps against plain ones."""
    say("training step: operations")
    flops = flops_per_image(config, net)
    bf16 = has_bf16(CPU)
    fast, plain = (SingleBatchTrainer(config=config, net=net, fast=fast) for fast in (True, False))
    say("training step: compiling")
    fast.step()
    plain.step()
    tasks = {"fp32": Task(multiply(plan.matrix, torch.float32), 10)}
    if bf16:  # elsewhere it is emulated and takes long
        tasks["bf16"] = Task(multiply(plan.matrix, torch.bfloat16), 10)
    tasks |= {"fast": Task(fast.step), "plain": Task(plain.step)}
    for i in range(plan.rounds):
        say(f"training step: round {i + 1} of {plan.rounds}")
        take_turns(tasks, 1)
    rates = {k: 2 * plan.matrix**3 / t.seconds / 1e12 for k, t in tasks.items() if k in ("fp32", "bf16")}
    best = "bf16" if bf16 else "fp32"
    speeds = {k: config.batch_size / tasks[k].seconds for k in ("fast", "plain")}
    used = speeds["fast"] * flops.total / 1e12
    return [
        *(Row(measure=f"matrix rate, {k}", value=v, unit="TFLOPS") for k, v in rates.items()),
        Row(measure="training step", value=speeds["fast"], unit="images/s"),
        Row(measure="training step, plain fp32", value=speeds["plain"], unit="images/s"),
        Row(measure="training step, times plain", value=speeds["fast"] / speeds["plain"], unit="x", at_least=4),
        Row(measure="operations per image", value=flops.total / 1e9, unit="GFLOP"),
        Row(measure="- generator", value=flops.generator / 1e9, unit="GFLOP"),
        Row(measure="- discriminator", value=flops.discriminator / 1e9, unit="GFLOP"),
        Row(measure="- age critics", value=flops.critics / 1e9, unit="GFLOP"),
        Row(measure="training step, operations per second", value=used, unit="TFLOPS"),
        Row(measure=f"- of the matrix rate, {best}", value=100 * used / rates[best], unit="%", at_least=45),
    ]


def measure_rendering(
    plan: Plan, config: TrainConfig, net: CycleGANConfig, folder: Path, say: Callable[[str], None]
) -> list[Row]:
    """All of test.py, from loading to the page, against the generator alone; random weights."""
    generator = SYSTEMS["cyclegan"].build(config, net).networks["generator"]
    weights = folder / "random.safetensors"
    save_weights(weights, config, net, 0, {f"generator.{k}": v for k, v in generator.state_dict().items()})
    faces = make_faces(folder / "portraits", plan.faces, config.image_size)
    infer = InferConfig(
        input=faces, aligned=True, weights=str(weights), batch_size=plan.batch_size, results_dir=folder / "rendered"
    )
    ager = Ager.load(weights)
    images = plan.faces * len(config.ages)
    x = made_up_batch(config, plan.batch_size).x_source.contiguous(memory_format=torch.channels_last)
    vectors = ager.age_vectors(x, [float(config.ages[0])] * plan.batch_size)

    def bare() -> None:
        with torch.inference_mode():
            for _ in range(math.ceil(images / plan.batch_size)):
                ager.generator(x, vectors)

    tasks = {"bare": Task(bare), "test.py": Task(lambda: render_all(infer, lambda line: None))}
    for i in range(plan.rounds):
        say(f"test.py: round {i + 1} of {plan.rounds}")
        take_turns(tasks, 1)
    each = {
        "bare": tasks["bare"].seconds / (math.ceil(images / plan.batch_size) * plan.batch_size),
        "test.py": tasks["test.py"].seconds / images,
    }
    return [
        Row(measure="generator alone, per image", value=1000 * each["bare"], unit="ms"),
        Row(measure="test.py, per image", value=1000 * each["test.py"], unit="ms"),
        Row(measure="test.py, times generator", value=each["test.py"] / each["bare"], unit="x", at_most=1.2),
    ]
