"""What every training has, whatever the model."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from cyclegan_age.config.fields import DATA, LOGGING, MODEL, OPTIMISATION, RARE, RUNTIME, Option, check, require
from cyclegan_age.config.values import FRAME, OLDEST, PORT


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What every training has, whatever the model."""

    dataroot: Annotated[Path, Option(DATA, required="the folder that holds one sub-folder per age group")] = Path()
    """Folder with one sub-folder per age group, or shards, as 'train-{000..099}.tar' (see docs/data.md)."""
    image_size: Annotated[int, Option(DATA, multiple_of=4, at_least=32)] = 128
    """Side in pixels of the pictures the networks see; a multiple of 4."""
    load_size: Annotated[int, Option(DATA)] = 144
    """Side in pixels that pictures are cached at; random crops of image_size are taken from it."""
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
    """Last year of each group, for unit vectors; without it groups touch and the last is as long as the one before."""
    frame: Annotated[str, replace(FRAME, group=DATA)] = "utkface"
    """Where the face stands in the pictures of --dataroot: utkface (tight faces), ffhq (whole heads), or x and y of
    eyes, tip of the nose and corners of the mouth, as ten shares of the side with commas between them."""
    flip: Annotated[bool, Option(DATA)] = True
    """Mirror half of the pictures."""
    shard_cache: Annotated[float, Option(DATA, above=0)] = 50.0
    """Most GB of shards fetched by http that are kept on disk; what is drawn depends on it where they take more."""
    model: Annotated[str, Option(MODEL)] = "cyclegan"
    """System to train."""
    preset: Annotated[str, Option(MODEL)] = "default"
    """Recipe that sets the defaults of all other flags."""
    init: Annotated[str, Option(MODEL)] = ""
    """Weights to begin from: a file, a run, or `shipped`; without them from random ones."""
    init_average: Annotated[str, Option(RARE, needs=("init",))] = ""
    """Other weights that those of --init are averaged with, parameter by parameter (Wortsman et al., ICML 2022)."""
    init_share: Annotated[float, Option(RARE, at_least=0, at_most=1, needs=("init_average",))] = 0.5
    """Share of --init_average in the average."""
    epochs: Annotated[float, Option(OPTIMISATION, at_least=0)] = 50.0
    """Length of the training; an epoch draws as many pictures as the data has. 0 writes the weights it begins with."""
    minutes: Annotated[float, Option(OPTIMISATION, at_least=0)] = 0.0
    """Length by the clock instead, from the start of the command and in total over resumes; 0 takes --epochs."""
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
    """Largest norm of a phase's gradient; a longer one is shortened to it. 0 sets no limit."""
    ema: Annotated[float, Option(OPTIMISATION, at_least=0, below=1)] = 0.998
    """Decay per step of the averaged weights that are shipped; 0 keeps the raw weights."""
    accumulate: Annotated[int, Option(OPTIMISATION, at_least=1)] = 1
    """Parts that a batch is computed in, one after the other, to save memory."""
    name: Annotated[str, Option(RUNTIME)] = ""
    """Run name; without it the run is numbered, and the same command again goes on with it."""
    results_dir: Annotated[Path, Option(RUNTIME)] = Path("results")
    """Where the run's folder is made."""
    seed: Annotated[int, Option(RUNTIME, at_least=0, below=2**63, must_be="from 0 to 2^63 - 1")] = 0
    """Seed of everything random."""
    precision: Annotated[Literal["auto", "fp32", "bf16"], Option(RUNTIME)] = "auto"
    """auto takes bf16 where the processor computes it natively."""
    compile: Annotated[bool, Option(RUNTIME)] = True
    """Compile the networks with torch.compile on a processor (some minutes, once); use own kernels on a GPU."""
    save_every: Annotated[int, Option(RUNTIME, at_least=1)] = 500
    """Steps between two resume states."""
    snapshot_every: Annotated[int, Option(RUNTIME, at_least=1)] = 1000
    """Steps between two snapshots of the weights that are kept."""
    checkpoint: Annotated[Literal["full", "light"], Option(RUNTIME)] = "full"
    """light leaves the optimisers and the history buffers out of resume states and stores halves: small to carry."""
    monitor: Annotated[Literal["auto", "visdom", "tensorboard", "wandb", "none"], Option(LOGGING)] = "auto"
    """Where losses and samples are shown; training goes on without it. auto takes visdom where it is installed."""
    log_every: Annotated[int, Option(LOGGING, at_least=1)] = 20
    """Steps between two lines of metrics.jsonl."""
    sample_every: Annotated[int, Option(LOGGING, at_least=1)] = 200
    """Steps between two sample sheets; there is one at the end of each epoch, too."""
    feature_layers: Annotated[tuple[str, ...], Option(LOGGING)] = ("down2", "blocks.0")
    """Layers whose feature maps are shown beside the samples, where the model has them."""
    visdom_server: Annotated[str, Option(LOGGING)] = "http://127.0.0.1"
    """Address of the Visdom server."""
    visdom_port: Annotated[int, replace(PORT, group=LOGGING)] = 8097
    """Port of the Visdom server."""

    def __post_init__(self) -> None:
        check(self)

    def check_together(self) -> None:
        """Refuse sizes, groups and parts of a batch that do not fit each other."""
        require(self, "load_size", self.load_size >= self.image_size, "at least --image_size")
        divides = self.batch_size % self.accumulate == 0
        require(self, "accumulate", divides, "a divisor of --batch_size")
        apart = len(self.ends) == len(self.ages) and all(
            first <= end < after for first, end, after in zip(self.ages, self.ends, (*self.ages[1:], 1000), strict=True)
        )
        require(self, "ends", not self.ends or apart, "one for each of --ages, below the next of them")
