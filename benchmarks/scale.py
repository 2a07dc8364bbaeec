"""Cost estimates of large trainings and services: `python -m benchmarks.scale` (formulas in docs/scale.md). No
torch."""

import math
import sys

from benchmarks.plan import digits, markdown
from options.bench_scale import ScaleBenchConfig, parse_scale
from options.command import command


def exchange_seconds(config: ScaleBenchConfig, gpus: int) -> float:
    """Seconds for a ring all-reduce of one step's gradients: 2 (n - 1)/n bytes over the slowest link."""
    if gpus == 1:
        return 0.0
    rate = config.link_gb_s if gpus <= config.gpus_per_machine else config.network_gb_s
    return 2 * (gpus - 1) / gpus * 4 * config.parameters / (rate * 1e9)


def efficiency(config: ScaleBenchConfig, gpus: int) -> float:
    """Images per second per GPU, relative to a single GPU.

    The share `overlap` of the exchange overlaps with computing; the remainder adds to the step time.
    """
    if gpus == 1:
        return 1.0
    step = step_seconds(config)
    exchange = exchange_seconds(config, gpus)
    exposed = max(exchange - config.overlap * step, (1 - config.overlap) * exchange)
    return config.uncaptured * step / (step + exposed)


def images_per_s(config: ScaleBenchConfig) -> float:
    """Images per second of one GPU at `image_size`; the operations of a convolution grow with the pixels."""
    return config.measured_per_s * (config.measured_size / config.image_size) ** 2


def step_seconds(config: ScaleBenchConfig) -> float:
    """Seconds per step on one GPU."""
    return config.batch_size / images_per_s(config)


def training(config: ScaleBenchConfig, gpus: int) -> tuple[str, ...]:
    """One row of the training table."""
    rate = gpus * images_per_s(config) * efficiency(config, gpus)
    hours = config.faces * config.epochs / rate / 3600
    row = 3 * config.cached_size**2  # bytes of a picture in the cache
    return (
        str(gpus),
        digits(rate),
        digits(100 * efficiency(config, gpus)),
        digits(hours),
        f"{hours * gpus * config.gpu_hour:,.0f}",
        digits(config.pictures_per_image * rate * row / 1e9),
        digits(config.faces * row / 1e12),
    )


def wait_ms(load: float, service_ms: float) -> float:
    """Mean queueing time before a server with constant service time and random arrivals (M/D/1)."""
    return load / (2 * (1 - load)) * service_ms


def serving(config: ScaleBenchConfig, kind: str) -> tuple[str, ...]:
    """One row of the serving table: aligned `crops`, or `photos`."""
    fresh = config.requests_per_s * (1 - config.cache_hits)
    gpu_s = config.gflop / (config.serving_tflops * 1e3)
    gpus = math.ceil(fresh * gpu_s / config.load)
    load = fresh * gpu_s / gpus
    batch_ms = config.serving_batch * gpu_s * 1e3
    filling_ms = config.serving_batch / (fresh / gpus) * 1e3 / 2  # mean time of a request until its batch is full
    processor_ms = config.crop_ms if kind == "crops" else config.photo_ms
    cores = math.ceil(fresh * processor_ms / 1e3 / config.load)
    return (
        kind,
        digits(fresh),
        str(gpus),
        str(cores),
        str(math.ceil(cores / gpus)),
        digits(filling_ms + wait_ms(load, batch_ms) + batch_ms + processor_ms),
        digits(config.requests_per_s * config.cache_hours * 3600 * (1 - config.cache_hits) * config.answer_kb / 1e9),
        f"{(gpus * config.gpu_hour + cores * config.core_hour) * 24:,.0f}",
    )


@command(parse_scale)
def main(config: ScaleBenchConfig) -> None:
    """Print the two tables."""
    print(f"Training: {config.faces:,} faces, {config.image_size} px, {config.epochs:g} epochs\n")
    heading: tuple[str, ...] = ("GPUs", "images/s", "% of n times one", "hours", "USD", "GB/s read", "cache, TB")
    print(markdown(heading, [training(config, n) for n in config.gpus], numbers=set(range(7))))
    print(f"\nServing: {config.requests_per_s:g} faces/s, {100 * config.cache_hits:g} % of them from the cache\n")
    heading = ("input", "faces/s made", "GPUs", "cores", "cores per GPU", "mean ms", "cache, TB", "USD a day")
    print(markdown(heading, [serving(config, kind) for kind in ("crops", "photos")], numbers=set(range(1, 8))))


if __name__ == "__main__":
    sys.exit(main())
