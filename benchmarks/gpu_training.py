"""Training steps for benchmarks.gpu: made up, counted, profiled, and timed from the start of a process."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from cyclegan_age.config import ModelConfig, TrainConfig
from cyclegan_age.data.batches import Batch
from cyclegan_age.devices import runtime_of
from cyclegan_age.models import SYSTEMS
from cyclegan_age.networks.efficientnet import FeatureMeans
from cyclegan_age.networks.regions import REGIONS, RegionMeans
from cyclegan_age.training.trainer import WARMUP_STEPS, Trainer
from options.train import parse_train

PAIR = ("--model", "cyclegan_pair", "--preset", "zhu", "--load_size", "286", "--image_size")
FULL = (
    *("--preset", "shift", "--image_size", "128", "--load_size", "136", "--ngf", "64", "--ndf", "64"),
    *("--inner_size", "0", "--detail", "0", "--lambda_embedding", "2"),
)
HEADS = ("--model", "cyclegan_heads")
CHILD = "import sys; from benchmarks.gpu_training import start; start(sys.argv[1], float(sys.argv[2]), sys.argv[3:])"


def made_up_batch(config: TrainConfig, size: int, device: torch.device, labels: int = 0) -> Batch:
    """`size` pictures of noise with ages between the anchors, and labels of 0 and 1."""
    shape = (size, 3, config.image_size, config.image_size)

    def half() -> tuple[Tensor, Tensor, Tensor]:
        x = (torch.rand(shape, device=device) * 2 - 1).contiguous(memory_format=torch.channels_last)
        age = torch.empty(size, device=device).uniform_(config.ages[0], config.ages[-1])
        return x, age, torch.randint(2, (size, labels), device=device).float()

    (x_source, age_source, label_source), (x_target, age_target, label_target) = half(), half()
    return Batch(x_source, age_source, x_target, age_target, label_source, label_target)


def trainer_of(
    config: TrainConfig, net: ModelConfig, device: torch.device, *, plain: bool = False
) -> tuple[Trainer, Batch]:
    """A trainer of a model with random weights, and a batch for it.

    Args:
        plain: in fp32, neither compiled nor captured.
    """
    torch.manual_seed(config.seed)
    if plain:
        config = replace(config, compile=False, precision="fp32")
    runtime = runtime_of(config, device)
    model = SYSTEMS[config.model].build(config, net)
    means = model.networks.get("means")
    if isinstance(means, FeatureMeans | RegionMeans):  # a face of each kind, or else nothing is finite
        maps, kinds = [torch.randn(means.kinds, *shape) for shape in means.shapes], torch.eye(means.kinds)
        if isinstance(means, RegionMeans):
            parts = torch.rand(means.kinds, len(REGIONS), 64, 64)
            means.add(maps, kinds[:, :, None].expand(-1, -1, len(REGIONS)), parts)
        else:
            means.add(maps, kinds)
        means.finish()
    trainer = Trainer(model, config, replace(runtime, capture=False) if plain else runtime)
    labels = isinstance(means, RegionMeans) or getattr(net, "sexes", False)
    batch = made_up_batch(config, config.batch_size, device, int(labels))
    return trainer, batch


def operations(config: TrainConfig, net: ModelConfig, device: torch.device, counted: int = 8) -> float:
    """Operations per picture of a step's convolutions and matrix products, forward and backward.

    A multiply-add counts as two. Counted in one plain step of `counted` pictures; eight, because some terms are
    computed on eighths of the batch.
    """
    trainer, batch = trainer_of(replace(config, batch_size=counted), net, device, plain=True)
    with FlopCounterMode(display=False) as counter:
        trainer(batch, 0.5, 0.5)
    return float(counter.get_total_flops()) / counted


def kernels(run: Callable[[], object], device: torch.device, most: int = 60) -> str:
    """Kernel times of a call: lines of milliseconds, launches and kernel name, the longest first."""
    cuda = device.type == "cuda"
    activity = torch.profiler.ProfilerActivity.CUDA if cuda else torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[activity], acc_events=True) as profile:
        run()
        if cuda:
            torch.cuda.synchronize()
    each = []
    for event in profile.key_averages():
        us = event.self_device_time_total if cuda else event.self_cpu_time_total
        if us:
            each.append((us / 1000, event.count, event.key[:120]))
    each.sort(reverse=True)
    lines = [f"{sum(ms for ms, _, _ in each):9.3f} {sum(count for _, count, _ in each):6} all {len(each)} kernels"]
    return "\n".join([*lines, *(f"{ms:9.3f} {count:6} {name}" for ms, count, name in each[:most])])


def start(kind: str, begin: float, flags: Sequence[str]) -> None:
    """Run in a separate process: print how long after `begin` (`time.time()`) its first and its captured step end."""
    config, net = parse_train(flags)
    trainer, batch = trainer_of(config, net, torch.device(kind))
    seconds = {}
    for i in range(WARMUP_STEPS + 1):
        trainer(batch, 0.5, 0.5)
        if i in (0, WARMUP_STEPS):
            trainer.read()  # waits for the device
            seconds["captured" if i else "first"] = time.time() - begin
    print(json.dumps(seconds))
