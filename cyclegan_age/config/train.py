"""Settings of every training, for all models."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from cyclegan_age.config.fields import DATA, LOGGING, MODEL, OPTIMISATION, RARE, RUNTIME, Option, check, require
from cyclegan_age.config.values import FOLDER_NAME, FRAME, OLDEST, PORT


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of every training, for all models."""

    dataroot: Annotated[Path, Option(DATA, required="the folder with one sub-folder per age group")] = Path()
    """Folder with one sub-folder per age group, or shards, such as 'train-{000..099}.tar' (see docs/data.md)."""
    image_size: Annotated[int, Option(DATA, multiple_of=4, at_least=32)] = 128
    """Side in pixels of the networks' pictures; a multiple of 4."""
    load_size: Annotated[int, Option(DATA)] = 144
    """Side in pixels of the cached pictures; random crops of image_size are taken from them."""
    ages: Annotated[tuple[int, ...], Option(DATA, min_length=2, rising=True, at_least=0, at_most=OLDEST)] = (
        10,
        20,
        30,
        40,
        50,
        60,
    )
    """Anchor ages in years, rising."""
    age_vector: Annotated[Literal["linear", "onehot"], Option(DATA)] = "linear"
    """Interpolate between anchors, or one unit vector per group."""
    ends: Annotated[tuple[int, ...], Option(DATA, needs=("age_vector", "onehot"))] = ()
    """Last year of each group, for unit vectors. By default each group ends where the next begins, and the last has
    the length of the one before."""
    frame: Annotated[str, replace(FRAME, group=DATA)] = "utkface"
    """Positions of the face in the pictures of --dataroot: utkface (tight faces), ffhq (whole heads), or x and y of
    eyes, tip of the nose and corners of the mouth, as ten shares of the side with commas between them."""
    flip: Annotated[bool, Option(DATA)] = True
    """Mirror half of the pictures."""
    shard_cache: Annotated[float, Option(DATA, above=0)] = 50.0
    """Size limit in GB of the local cache of shards fetched by http; the draws change if the data are larger."""
    model: Annotated[str, Option(MODEL)] = "cyclegan"
    """System to train."""
    preset: Annotated[str, Option(MODEL)] = "default"
    """Recipe that sets the defaults of all other flags."""
    init: Annotated[str, Option(MODEL)] = ""
    """Initial weights: a file, a run, or `shipped`; default: random."""
    init_average: Annotated[str, Option(RARE, needs=("init",))] = ""
    """Other weights to average with those of --init, parameter by parameter (Wortsman et al., ICML 2022)."""
    init_share: Annotated[float, Option(RARE, at_least=0, at_most=1, needs=("init_average",))] = 0.5
    """Weight of --init_average in the average, 0 to 1."""
    epochs: Annotated[float, Option(OPTIMISATION, at_least=0)] = 50.0
    """Length of the training: an epoch draws as many pictures as the data have. 0 only writes the initial weights."""
    minutes: Annotated[float, Option(OPTIMISATION, at_least=0)] = 0.0
    """Length in minutes from the start of the command, summed over resumes; 0 uses --epochs."""
    batch_size: Annotated[int, Option(OPTIMISATION, at_least=1)] = 8
    """Pictures per step and process."""
    lr: Annotated[float, Option(OPTIMISATION, above=0)] = 2e-4
    """Learning rate."""
    lr_constant: Annotated[float, Option(OPTIMISATION, at_least=0, at_most=1)] = 0.5
    """Share of the training at the full learning rate; it then falls linearly to 0."""
    optimizer: Annotated[Literal["adam", "sgd"], Option(OPTIMISATION)] = "adam"
    """Optimiser of every network."""
    betas: Annotated[tuple[float, float], Option(OPTIMISATION, at_least=0, below=1)] = (0.5, 0.999)
    """Adam's decay rates."""
    clip: Annotated[float, Option(OPTIMISATION, at_least=0)] = 0.0
    """Maximum gradient norm of a phase (clipping); 0 sets no limit."""
    ema: Annotated[float, Option(OPTIMISATION, at_least=0, below=1)] = 0.998
    """Decay per step of the exponential moving average (EMA), whose weights inference loads; 0 averages nothing."""
    accumulate: Annotated[int, Option(OPTIMISATION, at_least=1)] = 1
    """Gradient accumulation: number of parts that a batch is split into, to save memory."""
    name: Annotated[str, replace(FOLDER_NAME, group=RUNTIME)] = ""
    """Run name; without it the run is numbered, and the same command resumes it."""
    results_dir: Annotated[Path, Option(RUNTIME)] = Path("results")
    """Folder that contains the runs."""
    seed: Annotated[int, Option(RUNTIME, at_least=0, below=2**63, must_be="from 0 to 2^63 - 1")] = 0
    """Seed of all random numbers."""
    precision: Annotated[Literal["auto", "fp32", "bf16"], Option(RUNTIME)] = "auto"
    """auto uses bf16 where the device supports it natively."""
    compile: Annotated[bool, Option(RUNTIME)] = True
    """Faster steps: torch.compile on a CPU (takes minutes at the start), this package's kernels on a GPU."""
    save_every: Annotated[int, Option(RUNTIME, at_least=1)] = 500
    """Steps between two checkpoints."""
    snapshot_every: Annotated[int, Option(RUNTIME, at_least=1)] = 1000
    """Steps between two permanent snapshots of the weights."""
    checkpoint: Annotated[Literal["full", "light"], Option(RUNTIME)] = "full"
    """light omits optimisers and history buffers from checkpoints and stores weights in half precision."""
    monitor: Annotated[Literal["auto", "visdom", "tensorboard", "wandb", "none"], Option(LOGGING)] = "auto"
    """Tracker of losses and samples; the training does not depend on it. auto takes visdom where it is installed."""
    log_every: Annotated[int, Option(LOGGING, at_least=1)] = 20
    """Steps between two lines of metrics.jsonl."""
    sample_every: Annotated[int, Option(LOGGING, at_least=1)] = 200
    """Steps between two sample sheets; another is written at the end of each epoch."""
    feature_layers: Annotated[tuple[str, ...], Option(LOGGING)] = ("down2", "blocks.0")
    """Layers whose feature maps are logged with the samples."""
    visdom_server: Annotated[str, Option(LOGGING)] = "http://127.0.0.1"
    """Address of the Visdom server."""
    visdom_port: Annotated[int, replace(PORT, group=LOGGING)] = 8097
    """Port of the Visdom server."""

    def __post_init__(self) -> None:
        check(self)

    def check_together(self) -> None:
        """Refuse inconsistent sizes, groups and parts of a batch."""
        require(self, "load_size", self.load_size >= self.image_size, "at least --image_size")
        divides = self.batch_size % self.accumulate == 0
        require(self, "accumulate", divides, "a divisor of --batch_size")
        apart = len(self.ends) == len(self.ages) and all(
            first <= end < after for first, end, after in zip(self.ages, self.ends, (*self.ages[1:], 1000), strict=True)
        )
        require(self, "ends", not self.ends or apart, "one for each of --ages, below the next of them")
