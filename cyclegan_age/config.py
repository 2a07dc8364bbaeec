"""What can be set: one frozen dataclass each for a training, a rendering and each model, with their checks.

Nothing here imports torch, so that `--help` answers at once. The field docstrings are the command line's help.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


class UserError(Exception):
    """A mistake that the user can mend. Its text is one line: the flag or file, the cause, the remedy."""


def _require(flag: str, value: object, good: bool, remedy: str) -> None:
    if not good:
        raise UserError(f"--{flag} {value}: not usable; {remedy}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What every training has, whatever the model."""

    dataroot: Path = Path()
    """Folder with one sub-folder per age group (see datasets/README.md)."""
    model: str = "cyclegan"
    """System to train."""
    preset: str = "default"
    """Recipe that sets the defaults of all other flags."""
    name: str = ""
    """Run name; without it the run is numbered, and the same command again goes on with it."""
    results_dir: Path = Path("results")
    """Where the run's folder is made."""

    image_size: int = 128
    """Side in pixels of the pictures the networks see; a multiple of 4."""
    load_size: int = 144
    """Side in pixels that pictures are cached at; random crops of image_size are taken from it."""
    flip: bool = True
    """Mirror half of the pictures."""
    ages: tuple[int, ...] = (10, 20, 30, 40, 50, 60)
    """Anchor ages in years, rising."""
    age_vector: Literal["linear", "onehot"] = "linear"
    """Interpolate between anchors, or one unit vector per group."""

    epochs: float = 50.0
    """Length of the training; an epoch draws as many pictures as the data has."""
    batch_size: int = 8
    """Pictures per step and process."""
    accumulate: int = 1
    """Parts that a batch is computed in, one after the other, to save memory."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """Optimiser of every network."""
    lr: float = 2e-4
    """Learning rate."""
    betas: tuple[float, float] = (0.5, 0.999)
    """Adam's decay rates."""
    lr_constant: float = 0.5
    """Share of the training at the full learning rate; it then falls linearly to 0."""
    ema: float = 0.998
    """Decay per step of the averaged weights that are shipped; 0 keeps the raw weights."""
    seed: int = 0
    """Seed of everything random."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto takes bf16 where the processor computes it natively."""
    compile: bool = True
    """Compile the networks with torch.compile (about a minute, once) where a compiler is found."""
    monitor: Literal["visdom", "tensorboard", "wandb", "none"] = "visdom"
    """Where losses and samples are shown; training goes on without it."""
    visdom_server: str = "http://127.0.0.1"
    """Address of the Visdom server."""
    visdom_port: int = 8097
    """Port of the Visdom server."""
    log_every: int = 20
    """Steps between two lines of metrics.jsonl."""
    sample_every: int = 200
    """Steps between two sample sheets."""
    feature_layers: tuple[str, ...] = ("down2", "blocks.0")
    """Layers whose feature maps are shown beside the samples, where the model has them."""
    save_every: int = 500
    """Steps between two resume states."""
    snapshot_every: int = 1000
    """Steps between two snapshots of the weights that are kept."""

    def __post_init__(self) -> None:
        size = self.image_size
        _require("image_size", size, size >= 32 and size % 4 == 0, "give a multiple of 4, at least 32")
        _require("load_size", self.load_size, self.load_size >= size, "give at least --image_size")
        rising = len(self.ages) > 1 and sorted(set(self.ages)) == list(self.ages)
        _require("ages", self.ages, rising, "give two or more, rising")
        _require("epochs", self.epochs, self.epochs > 0, "give a number above 0")
        _require("batch_size", self.batch_size, self.batch_size > 0, "give at least 1")
        divides = self.accumulate > 0 and self.batch_size % self.accumulate == 0
        _require("accumulate", self.accumulate, divides, "give a divisor of --batch_size")
        _require("lr", self.lr, self.lr > 0, "give a number above 0")
        _require("lr_constant", self.lr_constant, 0 <= self.lr_constant <= 1, "give a number from 0 to 1")
        _require("ema", self.ema, 0 <= self.ema < 1, "give a number from 0 to below 1")
        _require("log_every", self.log_every, self.log_every > 0, "give at least 1")
        _require("sample_every", self.sample_every, self.sample_every > 0, "give at least 1")
        _require("save_every", self.save_every, self.save_every > 0, "give at least 1")
        _require("snapshot_every", self.snapshot_every, self.snapshot_every > 0, "give at least 1")


@dataclass(frozen=True, kw_only=True)
class InferConfig:
    """What `test.py` takes."""

    input: Path | None = None
    """A picture or a folder of pictures of aligned faces; without it the built-in portrait."""
    dataroot: Path | None = None
    """A folder with one sub-folder per age group, instead of --input."""
    weights: str = ""
    """A .safetensors file or the name of a run; without it the shipped weights."""
    target_age: tuple[float, ...] = ()
    """Ages in years to render; without it every anchor age of the weights."""
    features: tuple[str, ...] = ()
    """Layers whose feature maps are rendered; `list` names those that there are."""
    life: bool = False
    """Render the life from the first to the last anchor age as GIF and MP4."""
    results_dir: Path = Path("results")
    """Where the output folder is made."""
    name: str = ""
    """Output folder; without it `test-NNN`."""
    batch_size: int = 16
    """Pictures per forward pass."""
    limit: int = 0
    """Use at most this many pictures; 0 takes all."""

    def __post_init__(self) -> None:
        if self.input and self.dataroot:
            raise UserError("--input and --dataroot: both given; give one of them")
        if self.batch_size < 1:
            raise UserError(f"--batch_size {self.batch_size}: not usable; give at least 1")
        if self.limit < 0:
            raise UserError(f"--limit {self.limit}: not usable; give 0 or more")
        for age in self.target_age:
            if not 0 <= age <= 120:
                raise UserError(f"--target_age {age:g}: not an age in years; give a number from 0 to 120")


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """The ResNet generator and the PatchGAN, for the age-conditional and the two-domain CycleGAN alike."""

    ngf: int = 32
    """Channels after the generator's first layer."""
    blocks: int = 0
    """Residual blocks; 0 takes 6 below 256 px and 9 from there."""
    residual: bool = True
    """The output is the input plus a masked change, instead of a picture of its own."""
    resize: bool = True
    """Resize-convolutions in the decoder instead of fractionally-strided ones."""
    reflect: bool = False
    """Reflection padding instead of zeros."""
    ndf: int = 64
    """Channels after the discriminator's first layer."""
    pool_size: int = 50
    """Generated pictures that the history buffer keeps; 0 turns it off."""
    lambda_cycle: float = 5.0
    """Weight of the cycle consistency (L1)."""
    lambda_identity: float = 10.0
    """Weight of the identity term (L1): a face at its own age stays as it is."""
    identity_every: int = 4
    """Steps between two uses of the identity term."""

    def __post_init__(self) -> None:
        _require("ngf", self.ngf, self.ngf > 0, "give at least 1")
        _require("ndf", self.ndf, self.ndf > 0, "give at least 1")
        _require("blocks", self.blocks, self.blocks >= 0, "give 0 or more")
        _require("pool_size", self.pool_size, self.pool_size >= 0, "give 0 or more")
        _require("lambda_cycle", self.lambda_cycle, self.lambda_cycle >= 0, "give 0 or more")
        _require("lambda_identity", self.lambda_identity, self.lambda_identity >= 0, "give 0 or more")
        _require("identity_every", self.identity_every, self.identity_every > 0, "give at least 1")

    def block_count(self, image_size: int) -> int:
        """Residual blocks for pictures of this size (Zhu et al. 2017, section 4)."""
        return self.blocks or (6 if image_size < 256 else 9)


@dataclass(frozen=True, kw_only=True)
class CycleGANConfig(GeneratorConfig):
    """Age-conditional CycleGAN: one generator for every age."""

    lambda_wrong_age: float = 0.5
    """Weight of the term that shows the discriminator real faces at wrong ages."""
    estimators: tuple[str, ...] = ("age_loss_a", "age_loss_b")
    """Age estimators in the loss: shipped names, files or runs."""
    lambda_age: float = 0.1
    """Weight per year of the age estimators' error beyond age_tolerance; 0 needs no estimators."""
    age_tolerance: float = 3.0
    """Years of estimated error that cost nothing."""
    lambda_fooled: float = 0.2
    """Weight of fakes, as of their source's age, in the estimators' training; 0 leaves the estimators as they are."""
    fooled_warmup: float = 0.3
    """Share of the training over which lambda_fooled rises from 0 to its whole."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require("lambda_age", self.lambda_age, self.lambda_age >= 0, "give 0 or more")
        _require("lambda_fooled", self.lambda_fooled, self.lambda_fooled >= 0, "give 0 or more")
        _require("lambda_wrong_age", self.lambda_wrong_age, self.lambda_wrong_age >= 0, "give 0 or more")
        named = bool(self.estimators) or not self.lambda_age
        _require("estimators", self.estimators, named, "name at least one, or give --lambda_age 0")


@dataclass(frozen=True, kw_only=True)
class CycleGANPairConfig(GeneratorConfig):
    """Plain CycleGAN between two domains: two generators, two discriminators."""

    group_a: str = "20-29"
    """Age group of domain A; not used where the dataroot holds trainA and trainB."""
    group_b: str = "50-59"
    """Age group of domain B; not used where the dataroot holds trainA and trainB."""


@dataclass(frozen=True, kw_only=True)
class AgeEstimatorConfig:
    """Age estimator: a small residual network that gives a distribution over years."""

    width: int = 24
    """Channels of the first stage."""
    depth: tuple[int, ...] = (1, 2, 2, 2)
    """Residual blocks per stage."""
    input_size: int = 128
    """Side in pixels that faces are resized to inside the network."""
    sigma: float = 2.5
    """Standard deviation in years of the label distribution."""


ModelConfig = CycleGANConfig | CycleGANPairConfig | AgeEstimatorConfig

MODEL_CONFIGS: dict[str, type[ModelConfig]] = {
    "cyclegan": CycleGANConfig,
    "cyclegan_pair": CycleGANPairConfig,
    "age_estimator": AgeEstimatorConfig,
}
