"""The flags of the benchmarks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclegan_age.config.fields import Option, check
from options.parse import parse


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """What `python -m benchmarks` takes."""

    quick: bool = False
    """Tiny networks and no repetitions: shows that everything runs; the numbers mean nothing."""


def parse_bench(argv: Sequence[str]) -> BenchConfig:
    """argv -> configuration.

    Raises:
        UserError: an unknown flag.
    """
    description = "Measure speed and memory on this machine's processor and print a table (see docs/benchmarks.md)."
    return parse(BenchConfig, argv, prog="benchmarks", description=description, default=BenchConfig())


GPU_ROWS = {
    "matrix": "matrix rate and copy bandwidth",
    "data": "batches from pictures that lie on the GPU",
    "pair": "training step of two domains",
    "full": "training step of the age-conditional model",
    "start": "seconds to the first step and to the captured one",
    "render": "rendering",
    "heads": "training step of the model for whole heads",
}


@dataclass(frozen=True, kw_only=True)
class GPUBenchConfig:
    """What `python -m benchmarks.gpu` takes."""

    rows: Annotated[
        tuple[str, ...],
        Option(valid=lambda rows: set(rows) <= set(GPU_ROWS), must_be=f"among {', '.join(GPU_ROWS)}"),
    ] = ()
    """What to measure: matrix, data, pair, full, start, render, heads; without it all."""
    compile: bool = True
    """As train.py does; --no_compile shows what that gives."""
    profile: bool = False
    """Print what a training step spends its time in, kernel by kernel, too."""
    json: Annotated[
        Path | None, Option(valid=lambda file: file.parent.is_dir(), must_be="in a folder that is there")
    ] = None
    """Write the results to this file, too."""

    def __post_init__(self) -> None:
        check(self)


def parse_gpu_bench(argv: Sequence[str]) -> GPUBenchConfig:
    """argv -> configuration.

    Raises:
        UserError: an unknown flag or a value that does not fit.
    """
    description = "Measure speed and memory on one GPU and print a table (see docs/benchmarks.md)."
    return parse(GPUBenchConfig, argv, prog="benchmarks.gpu", description=description, default=GPUBenchConfig())


@dataclass(frozen=True, kw_only=True)
class PhotoBenchConfig:
    """What `python -m benchmarks.photos` takes."""

    faces: Path | None = None
    """A folder of aligned face crops, as for training: how many of them are found again in photographs."""
    turned: tuple[Path, ...] = ()
    """Folders of upright pictures of faces: measure only how they are found turned by 90, 180 and 270 degrees."""
    weights: str = "cyclegan"
    """Weights that age: a shipped name or a file."""
    quick: bool = False
    """Small pictures and no repetitions: shows that everything runs; the numbers mean nothing."""


def parse_photo_bench(argv: Sequence[str]) -> PhotoBenchConfig:
    """argv -> configuration.

    Raises:
        UserError: an unknown flag.
    """
    description = "Measure what becomes of photographs and print a table (see docs/photos.md)."
    return parse(PhotoBenchConfig, argv, prog="benchmarks.photos", description=description, default=PhotoBenchConfig())


@dataclass(frozen=True, kw_only=True)
class MutationsBenchConfig:
    """What `python -m benchmarks.mutations` takes."""

    count: Annotated[int, Option(at_least=1)] = 10_000
    """Mutated files to try."""
    seconds: float = 3600.0
    """Time after which no more are tried."""
    seed: int = 0
    """Seed of the mutations."""

    def __post_init__(self) -> None:
        check(self)


def parse_mutations_bench(argv: Sequence[str]) -> MutationsBenchConfig:
    """argv -> configuration.

    Raises:
        UserError: an unknown flag or a value that does not fit.
    """
    description = "Try mutated pictures, videos and weights and print a table (see docs/reliability.md)."
    default = MutationsBenchConfig()
    return parse(MutationsBenchConfig, argv, prog="benchmarks.mutations", description=description, default=default)


@dataclass(frozen=True, kw_only=True)
class SystemsBenchConfig:
    """What `python -m benchmarks.systems` takes."""

    dataroot: Annotated[Path, Option(required="the folder of faces to train on")] = Path()
    """Folder of faces to train on, one sub-folder per age group (see datasets/README.md)."""
    test: Annotated[Path, Option(required="the folder of faces to compare on")] = Path()
    """Folder of faces to compare on, which no training saw."""
    minutes: Annotated[float, Option(above=0)] = 20.0
    """Minutes that each system is trained for, from its first step on."""
    systems: tuple[str, ...] = ()
    """Systems to compare; without it all."""
    embedder: str = "face_embedder"
    """Face embedder for the systems that need one: a shipped name, a file or a run."""
    compile: bool = True
    """Compile the networks with torch.compile, which takes no part of the minutes."""
    limit: int = 300
    """Faces that are aged to compare the systems; 0 takes all."""
    faces: tuple[Path, ...] = ()
    """Photographs whose faces the picture shows; without them it shows the built-in one."""
    results_dir: Path = Path("results")
    """Where the runs and the comparison are kept."""

    def __post_init__(self) -> None:
        check(self)


def parse_systems_bench(argv: Sequence[str]) -> SystemsBenchConfig:
    """argv -> configuration.

    Raises:
        UserError: an unknown flag, a value that does not fit, or a folder that is not given.
    """
    description = "Train each system for the same time and compare them (see docs/systems.md)."
    return parse(
        SystemsBenchConfig, argv, prog="benchmarks.systems", description=description, default=SystemsBenchConfig()
    )


@dataclass(frozen=True, kw_only=True)
class WebBenchConfig:
    """What `python -m benchmarks.web` takes."""

    url: str = ""
    """Address of a server that runs already, with the shipped weights; without it one is started."""
    pid: int = 0
    """Its process, for its memory; 0 leaves that out."""
    clients: Annotated[int, Option(at_least=1)] = 50
    """Clients that ask at the same time."""
    seconds: Annotated[float, Option(above=0)] = 60.0
    """How long they ask."""
    rough: bool = False
    """Beside them one that reads slowly, one that sends 400 MB and one that vanishes, again and again."""

    def __post_init__(self) -> None:
        check(self)


def parse_web_bench(argv: Sequence[str]) -> WebBenchConfig:
    """argv -> configuration.

    Raises:
        UserError: an unknown flag or a value that does not fit.
    """
    description = "Put load on the REST service and print a table (see docs/web.md)."
    return parse(WebBenchConfig, argv, prog="benchmarks.web", description=description, default=WebBenchConfig())


@dataclass(frozen=True, kw_only=True)
class ReliabilityConfig:
    """What `python -m benchmarks.reliability` takes."""

    campaign: Annotated[Literal["kills", "visdom"], Option(positional=True, required="kills or visdom")] = "kills"
    """kills: a training is killed at any moment, again and again, and must end as if it had not been. visdom: the
    Visdom server of a training is, and must have every point at the end."""
    count: Annotated[int, Option(at_least=1)] = 200
    """How often."""
    seconds: Annotated[float, Option(at_least=0)] = 0.0
    """Stop after this time, too; 0 sets no limit."""
    seed: int = 0
    """Seed of the moments."""
    results_dir: Path = Path("results")
    """Where a run that differs or is not whole is kept."""

    def __post_init__(self) -> None:
        check(self)


def parse_reliability(argv: Sequence[str]) -> ReliabilityConfig:
    """argv -> configuration.

    Raises:
        UserError: an unknown flag or a value that does not fit.
    """
    description = "Break trainings on purpose and print a table (see docs/reliability.md)."
    default = ReliabilityConfig()
    return parse(ReliabilityConfig, argv, prog="benchmarks.reliability", description=description, default=default)


@dataclass(frozen=True, kw_only=True)
class ScaleBenchConfig:
    """What `python -m benchmarks.scale` takes. Measured: docs/scale.md says where. Assumed: put in your own."""

    faces: Annotated[int, Option(above=0)] = 1_000_000
    """Faces of the training set."""
    image_size: Annotated[int, Option(above=0)] = 512
    """Side in pixels of what is trained on."""
    epochs: Annotated[float, Option(above=0)] = 15.0
    """Times that each face is aged in the training; the default of the model for whole heads."""
    gpus: Annotated[tuple[int, ...], Option(above=0)] = (1, 8, 64)
    """Numbers of GPUs to train on."""
    measured_per_s: Annotated[float, Option(above=0)] = 500.0
    """Measured: images/s of a training on one GPU."""
    measured_size: Annotated[int, Option(above=0)] = 256
    """Measured: the side in pixels of these."""
    batch_size: Annotated[int, Option(above=0)] = 32
    """Images per step and GPU."""
    parameters: Annotated[float, Option(above=0)] = 12e6
    """Measured: numbers in the networks that are trained, generator and discriminators."""
    gpus_per_machine: Annotated[int, Option(above=0)] = 8
    """Assumed: GPUs that one machine has."""
    link_gb_s: Annotated[float, Option(above=0)] = 300.0
    """Assumed: GB/s between the GPUs of a machine (NVLink)."""
    network_gb_s: Annotated[float, Option(above=0)] = 6.0
    """Assumed: GB/s of each GPU between machines (400 Gbit/s for eight)."""
    overlap: Annotated[float, Option(at_least=0, below=1)] = 0.7
    """Assumed: share of the exchange that runs while gradients are still computed."""
    uncaptured: Annotated[float, Option(above=0)] = 0.85
    """Assumed: speed without CUDA graphs, which several processes do not have, over the speed with them."""
    pictures_per_image: Annotated[float, Option(above=0)] = 2.0
    """Pictures read for each image that is aged: itself and a real one of the target age."""
    cached_size: Annotated[int, Option(above=0)] = 528
    """Side in pixels of the decoded pictures in the cache; crops are taken of them."""
    gpu_hour: Annotated[float, Option(above=0)] = 3.5
    """Assumed: price of a GPU in USD per hour, its share of the machine included."""
    core_hour: Annotated[float, Option(above=0)] = 0.04
    """Assumed: price of a core in USD per hour."""
    requests_per_s: Annotated[float, Option(above=0)] = 1000.0
    """Faces per second that are asked for."""
    cache_hits: Annotated[float, Option(at_least=0, below=1)] = 0.3
    """Assumed: share of them that were asked for before."""
    cache_hours: Annotated[float, Option(above=0)] = 24.0
    """How long answers are kept."""
    answer_kb: Annotated[float, Option(above=0)] = 250.0
    """Assumed: size of an answer in kB."""
    gflop: Annotated[float, Option(above=0)] = 35.9
    """Measured: operations of the generator for one face."""
    serving_tflops: Annotated[float, Option(above=0)] = 60.0
    """Assumed: operations per second that a GPU reaches meanwhile."""
    serving_batch: Annotated[int, Option(above=0)] = 16
    """Faces per forward pass."""
    load: Annotated[float, Option(above=0, below=1)] = 0.6
    """Share of the time that GPUs and cores are busy; the rest is for peaks."""
    crop_ms: Annotated[float, Option(above=0)] = 10.0
    """Assumed: time of a core to decode, check, enlarge and encode an aligned crop."""
    photo_ms: Annotated[float, Option(above=0)] = 1100.0
    """Measured: time of a core for a photograph of 12 megapixels, without the network."""

    def __post_init__(self) -> None:
        check(self)


def parse_scale(argv: Sequence[str]) -> ScaleBenchConfig:
    """argv -> configuration.

    Raises:
        UserError: an unknown flag or a value that does not fit.
    """
    description = "Estimate what large trainings and services take and print two tables (see docs/scale.md)."
    return parse(ScaleBenchConfig, argv, prog="benchmarks.scale", description=description, default=ScaleBenchConfig())


@dataclass(frozen=True, kw_only=True)
class ShardsBenchConfig:
    """What `python -m benchmarks.shards` takes."""

    seconds: Annotated[int, Option(at_least=1)] = 60
    """How long the speed is measured, for each number of workers."""
    samples: Annotated[int, Option(at_least=1)] = 1_000_000
    """Pictures drawn to see that memory stays flat."""

    def __post_init__(self) -> None:
        check(self)


def parse_shards_bench(argv: Sequence[str]) -> ShardsBenchConfig:
    """argv -> configuration.

    Raises:
        UserError: an unknown flag or a value that does not fit.
    """
    description = "Measure how fast shards are read, and the memory that takes (see docs/data.md)."
    default = ShardsBenchConfig()
    return parse(ShardsBenchConfig, argv, prog="benchmarks.shards", description=description, default=default)
