"""The flags of benchmarks.scale."""

from dataclasses import dataclass
from typing import Annotated

from cyclegan_age.config.fields import Option, check
from options.parse import make_parser


@dataclass(frozen=True, kw_only=True)
class ScaleBenchConfig:
    """Configuration of `python -m benchmarks.scale`. Measured: source in docs/scale.md. Assumed: insert your own."""

    faces: Annotated[int, Option(above=0)] = 1_000_000
    """Faces of the training set."""
    image_size: Annotated[int, Option(above=0)] = 512
    """Side in pixels of the training's pictures."""
    epochs: Annotated[float, Option(above=0)] = 15.0
    """Number of times that each face is aged in the training; the default of the model for whole heads."""
    gpus: Annotated[tuple[int, ...], Option(above=0)] = (1, 8, 64)
    """Numbers of GPUs to train on."""
    measured_per_s: Annotated[float, Option(above=0)] = 518.0
    """Measured: images/s of a training on one GPU."""
    measured_size: Annotated[int, Option(above=0)] = 256
    """Measured: their side in pixels."""
    batch_size: Annotated[int, Option(above=0)] = 32
    """Images per step and GPU."""
    parameters: Annotated[float, Option(above=0)] = 12e6
    """Measured: parameters of the trained networks, generator and discriminators."""
    gpus_per_machine: Annotated[int, Option(above=0)] = 8
    """Assumed: GPUs per machine."""
    link_gb_s: Annotated[float, Option(above=0)] = 300.0
    """Assumed: GB/s between the GPUs of a machine (NVLink)."""
    network_gb_s: Annotated[float, Option(above=0)] = 6.0
    """Assumed: GB/s of each GPU between machines (400 Gbit/s for eight)."""
    overlap: Annotated[float, Option(at_least=0, below=1)] = 0.7
    """Assumed: share of the exchange that overlaps with the backward pass."""
    uncaptured: Annotated[float, Option(above=0)] = 0.85
    """Assumed: relative speed without CUDA graphs, which do not support several processes."""
    pictures_per_image: Annotated[float, Option(above=0)] = 2.0
    """Pictures read for each aged image: itself and a real one of the target age."""
    cached_size: Annotated[int, Option(above=0)] = 528
    """Side in pixels of the decoded pictures in the cache; crops are taken from them."""
    gpu_hour: Annotated[float, Option(above=0)] = 3.5
    """Assumed: price of a GPU in USD per hour, including its share of the machine."""
    core_hour: Annotated[float, Option(above=0)] = 0.04
    """Assumed: price of a core in USD per hour."""
    requests_per_s: Annotated[float, Option(above=0)] = 1000.0
    """Requested faces per second."""
    cache_hits: Annotated[float, Option(at_least=0, below=1)] = 0.3
    """Assumed: share of repeated requests."""
    cache_hours: Annotated[float, Option(above=0)] = 24.0
    """Lifetime of cached answers in hours."""
    answer_kb: Annotated[float, Option(above=0)] = 250.0
    """Assumed: size of an answer in kB."""
    gflop: Annotated[float, Option(above=0)] = 35.9
    """Measured: operations of the generator per face in GFLOP."""
    serving_tflops: Annotated[float, Option(above=0)] = 36.0
    """Measured: achieved operations per second of a GPU in TFLOP/s."""
    serving_batch: Annotated[int, Option(above=0)] = 16
    """Faces per forward pass."""
    load: Annotated[float, Option(above=0, below=1)] = 0.6
    """Utilisation of GPUs and cores; the rest is for peaks."""
    crop_ms: Annotated[float, Option(above=0)] = 10.0
    """Assumed: time of a core to decode, check, enlarge and encode an aligned crop."""
    photo_ms: Annotated[float, Option(above=0)] = 1100.0
    """Measured: time of a core for a photograph of 12 megapixels, without the network."""

    def __post_init__(self) -> None:
        check(self)


parse_scale = make_parser(
    ScaleBenchConfig,
    "benchmarks.scale",
    "Estimate the cost of large trainings and services and print two tables (see docs/scale.md).",
)
