"""Configurations of the actions of `prepare.py`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclegan_age.config.errors import UserError
from cyclegan_age.config.fields import Option, check, require
from cyclegan_age.config.values import FRAME, PORT

PREPARE_SETS = (  # data.prepare.SETS has their readers
    *("utkface", "agfw", "cacd", "morph2", "fgnet", "adience", "imdb_wiki", "agedb", "fairface", "ffhq_aging"),
    *("all_age_faces", "appa_real", "lats", "csv", "pattern"),
)


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Configuration of `prepare.py`."""

    set: Annotated[
        str,
        Option(
            positional=True,
            required=f"one of {', '.join(PREPARE_SETS)}, or audit, label or shards",
            choices=("", *PREPARE_SETS),
        ),
    ] = ""
    """The public set, as the first word: utkface, agfw, cacd, morph2, fgnet, adience, imdb_wiki, agedb, fairface,
    ffhq_aging, all_age_faces, appa_real, lats; csv and pattern for others."""
    source: Annotated[Path, Option(required="the folder as downloaded")] = Path()
    """Its folder, as downloaded and unpacked."""
    output: Annotated[Path, Option(required="the folder to make")] = Path()
    """Output folder: train, val and test with age folders, labels.csv and a data card."""
    frame: Annotated[str, FRAME] = "utkface"
    """Positions of faces in the crops: utkface (tight faces), ffhq (whole heads), or ten shares, as of train.py."""
    align: bool = True
    """Detect and align the faces; --no_align keeps the pictures unchanged."""
    size: Annotated[int, Option(at_least=32)] = 256
    """Largest side in pixels of the crops; crops are never upsampled."""
    val: Annotated[float, Option(at_least=0)] = 0.05
    """Share of the pictures for validation, where the set has no splits; a person is never in two splits."""
    test: Annotated[float, Option(at_least=0)] = 0.1
    """Share of the pictures for testing, as --val."""
    fold: str = ""
    """The fold for testing: a person of fgnet, a number of adience."""
    seed: int = 0
    """Seed of the splits."""
    csv: Path | None = None
    """Set csv: your table of labels, with a header."""
    columns: tuple[str, ...] = ("file", "age", "sex", "race", "person", "split")
    """Set csv: its columns for file, age, sex, race, person and split, in this order; `-` for a missing one."""
    pattern: str = ""
    """Set pattern: the form of file names with labels, such as '{person}A{age}'; with a slash, of paths below
    --source."""
    shards: Annotated[int, Option(at_least=0)] = 0
    """Also pack the pictures into WebDataset shards of this many, in OUTPUT/shards."""
    parquet: bool = False
    """Write labels.parquet beside labels.csv (needs pyarrow)."""
    workers: Annotated[int, Option(at_least=-1)] = -1
    """Processes; -1 takes one per core, 0 uses the main process."""

    def __post_init__(self) -> None:
        check(self)

    def check_together(self) -> None:
        """Refuse shares that leave no training set, and flags of another set."""
        require(self, "val", self.val + self.test < 1, "below 1 together with --test")
        for name, given in (("csv", self.csv is not None), ("pattern", bool(self.pattern))):
            if self.set and given != (self.set == name):
                must = f"be used with the set {name}" if given else f"be given with the set {name}"
                raise UserError(f"--{name}: must {must}")


@dataclass(frozen=True, kw_only=True)
class ShardsConfig:
    """Configuration of `prepare.py shards`."""

    folder: Annotated[Path, Option(positional=True, required="a folder of faces")] = Path()
    """A prepared folder, or one with age folders, as the word after `shards`."""
    output: Annotated[Path, Option(required="the folder to make")] = Path()
    """Output folder."""
    per_shard: Annotated[int, Option(at_least=1)] = 10_000
    """Maximum number of pictures in a shard."""
    seed: int = 0
    """Seed of the order."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """Configuration of `prepare.py audit`."""

    folder: Annotated[Path, Option(positional=True, required="a folder of faces")] = Path()
    """A folder of faces, as the word after `audit`; without --apply and --undo it is not changed."""
    fix: bool = False
    """Also write plan.csv: which pictures --apply would move out of the folder. Read and edit it."""
    apply: Path | None = None
    """A plan: move its pictures, and their lines of labels.csv, out of FOLDER to FOLDER-aside beside it."""
    undo: Path | None = None
    """An applied plan: move its pictures and lines back."""
    workers: Annotated[int, Option(at_least=-1)] = -1
    """Processes; -1 takes one per core, 0 uses the main process."""
    results_dir: Path = Path("results")
    """Folder for the report."""

    def __post_init__(self) -> None:
        check(self)

    def check_together(self) -> None:
        """Refuse more than one action."""
        given = [f for f, value in (("fix", self.fix), ("apply", self.apply), ("undo", self.undo)) if value]
        if len(given) > 1:
            raise UserError(f"--{given[0]} and --{given[1]}: must not both be given")


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """Configuration of `prepare.py label`."""

    folder: Annotated[Path, Option(positional=True, required="a folder of faces")] = Path()
    """A folder of faces without labels, as the word after `label`; labels.csv is written into it."""
    output: Path | None = None
    """The pictures are photographs: crop their faces into this folder, and label them there."""
    frame: Annotated[str, FRAME] = "utkface"
    """Positions of faces in the crops: utkface (tight faces), ffhq (whole heads), or ten shares, as of train.py."""
    size: Annotated[int, Option(at_least=32)] = 256
    """Largest side in pixels of crops from photographs; crops are never upsampled."""
    page: bool = False
    """Then serve a local page to confirm and correct the labels, until Ctrl-C."""
    port: Annotated[int, PORT] = 7861
    """Port of the page."""
    workers: Annotated[int, Option(at_least=-1)] = -1
    """Processes for the estimation; -1 takes one per core, 0 uses the main process."""
    results_dir: Path = Path("results")
    """Folder for the contact sheets."""

    def __post_init__(self) -> None:
        check(self)
