"""The flags of the benchmarks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclegan_age.config.fields import Option, check
from options.parse import make_parser


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Configuration of `python -m benchmarks`."""

    quick: bool = False
    """Tiny networks and no repetitions: a smoke test without valid numbers."""


parse_bench = make_parser(
    BenchConfig,
    "benchmarks",
    "Measure speed and memory on this machine's processor and print a table (see docs/benchmarks.md).",
)


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
    """Configuration of `python -m benchmarks.gpu`."""

    rows: Annotated[
        tuple[str, ...],
        Option(valid=lambda rows: set(rows) <= set(GPU_ROWS), must_be=f"among {', '.join(GPU_ROWS)}"),
    ] = ()
    """Measurements to run: matrix, data, pair, full, start, render, heads; default: all."""
    compile: bool = True
    """Compile as train.py does; --no_compile measures without it."""
    profile: bool = False
    """Also print the kernel times of a training step."""
    json: Annotated[Path | None, Option(valid=lambda file: file.parent.is_dir(), must_be="in an existing folder")] = (
        None
    )
    """Also write the results to this file."""

    def __post_init__(self) -> None:
        check(self)


parse_gpu_bench = make_parser(
    GPUBenchConfig, "benchmarks.gpu", "Measure speed and memory on one GPU and print a table (see docs/benchmarks.md)."
)


@dataclass(frozen=True, kw_only=True)
class PhotoBenchConfig:
    """Configuration of `python -m benchmarks.photos`."""

    faces: Path | None = None
    """A folder of aligned face crops, as for training, to measure how many are found in photographs."""
    turned: tuple[Path, ...] = ()
    """Folders of upright pictures of faces: measure only their detection after rotation by 90, 180 and 270 degrees."""
    weights: str = "cyclegan"
    """Weights for the aging: a shipped name or a file."""
    quick: bool = False
    """Small pictures and no repetitions: a smoke test without valid numbers."""


parse_photo_bench = make_parser(
    PhotoBenchConfig, "benchmarks.photos", "Measure the aging of photographs and print a table (see docs/photos.md)."
)


@dataclass(frozen=True, kw_only=True)
class MutationsBenchConfig:
    """Configuration of `python -m benchmarks.mutations`."""

    count: Annotated[int, Option(at_least=1)] = 10_000
    """Mutated files to try."""
    seconds: float = 3600.0
    """Time limit, after which no more are tried."""
    seed: int = 0
    """Seed of the mutations."""
    data: bool = False
    """Try generators for convert.py, tables of labels and shards instead of pictures, videos and weights."""

    def __post_init__(self) -> None:
        check(self)


parse_mutations_bench = make_parser(
    MutationsBenchConfig,
    "benchmarks.mutations",
    "Try mutated pictures, videos and weights and print a table (see docs/reliability.md).",
)


@dataclass(frozen=True, kw_only=True)
class SystemsBenchConfig:
    """Configuration of `python -m benchmarks.systems`."""

    dataroot: Annotated[Path, Option(required="the folder of faces to train on")] = Path()
    """Folder of faces to train on, one sub-folder per age group (see datasets/README.md)."""
    test: Annotated[Path, Option(required="the folder of faces to compare on")] = Path()
    """Folder of faces to compare on, outside all training sets."""
    minutes: Annotated[float, Option(above=0)] = 20.0
    """Training time of each system in minutes, from its first step on."""
    systems: tuple[str, ...] = ()
    """Systems to compare; default: all."""
    embedder: str = "face_embedder"
    """Face embedder for the systems that need one: a shipped name, a file or a run."""
    compile: bool = True
    """Compile the networks with torch.compile; the time for it is not counted."""
    limit: int = 300
    """Number of faces to age for the comparison; 0 takes all."""
    faces: tuple[Path, ...] = ()
    """Photographs whose faces the picture shows; default: the built-in one."""
    results_dir: Path = Path("results")
    """Folder of the runs and the comparison."""

    def __post_init__(self) -> None:
        check(self)


parse_systems_bench = make_parser(
    SystemsBenchConfig,
    "benchmarks.systems",
    "Train each system for the same time and compare them (see docs/systems.md).",
)


@dataclass(frozen=True, kw_only=True)
class SamplesBenchConfig:
    """Configuration of `python -m benchmarks.samples`."""

    weights: tuple[str, ...] = ("gan", "cgan")
    """Weights that make faces from noise: shipped names, files or runs."""
    dataroot: Annotated[Path, Option(required="the folder of training faces")] = Path()
    """Folder of training faces, whose KID is the least that can be reached."""
    test: Annotated[Path, Option(required="the folder of faces to compare with")] = Path()
    """Folder of faces to compare with, outside all training sets."""
    limit: int = 300
    """As in evaluate.py."""
    results_dir: Path = Path("results")
    """Folder of the runs, and of what is measured of the faces to compare with."""

    def __post_init__(self) -> None:
        check(self)


parse_samples_bench = make_parser(
    SamplesBenchConfig, "benchmarks.samples", "Measure the KID of faces from noise (see docs/systems.md)."
)


@dataclass(frozen=True, kw_only=True)
class WebBenchConfig:
    """Configuration of `python -m benchmarks.web`."""

    url: str = ""
    """Address of a running server with the shipped weights; default: start one."""
    pid: int = 0
    """Its process id, to measure its memory; 0 omits that."""
    clients: Annotated[int, Option(at_least=1)] = 50
    """Number of concurrent clients."""
    seconds: Annotated[float, Option(above=0)] = 60.0
    """Duration in seconds."""
    rough: bool = False
    """Add misbehaving clients: one reads slowly, one uploads 400 MB and one disconnects, again and again."""

    def __post_init__(self) -> None:
        check(self)


parse_web_bench = make_parser(
    WebBenchConfig, "benchmarks.web", "Put load on the REST service and print a table (see docs/web.md)."
)


@dataclass(frozen=True, kw_only=True)
class ReliabilityConfig:
    """Configuration of `python -m benchmarks.reliability`."""

    campaign: Annotated[Literal["kills", "visdom"], Option(positional=True, required="kills or visdom")] = "kills"
    """kills: a training is killed again and again and must end like an uninterrupted one. visdom: the Visdom server of
    a training is killed, and must have every point at the end."""
    count: Annotated[int, Option(at_least=1)] = 200
    """Number of kills."""
    seconds: Annotated[float, Option(at_least=0)] = 0.0
    """Additional time limit; 0 sets none."""
    seed: int = 0
    """Seed of the times."""
    results_dir: Path = Path("results")
    """Folder for runs with faults."""

    def __post_init__(self) -> None:
        check(self)


parse_reliability = make_parser(
    ReliabilityConfig,
    "benchmarks.reliability",
    "Break trainings on purpose and print a table (see docs/reliability.md).",
)


@dataclass(frozen=True, kw_only=True)
class ShardsBenchConfig:
    """Configuration of `python -m benchmarks.shards`."""

    seconds: Annotated[int, Option(at_least=1)] = 60
    """Duration of the speed measurement, for each number of workers."""
    samples: Annotated[int, Option(at_least=1)] = 1_000_000
    """Number of pictures drawn to check that memory stays constant."""

    def __post_init__(self) -> None:
        check(self)


parse_shards_bench = make_parser(
    ShardsBenchConfig,
    "benchmarks.shards",
    "Measure the reading speed of shards, and the memory for it (see docs/data.md).",
)
