"""Configuration of `evaluate.py`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclegan_age.config.errors import UserError
from cyclegan_age.config.fields import Option, check, require
from cyclegan_age.config.values import FOLDER_NAME, FRAME


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Configuration of `evaluate.py`."""

    dataroot: Annotated[Path, Option(required="a folder of faces with one sub-folder per age group")] = Path()
    """Folder of faces of known age outside all training sets, one sub-folder per age group, or shards, as of
    train.py."""
    shard_cache: Annotated[float, Option(above=0)] = 50.0
    """Size limit in GB of the local cache of shards fetched by http."""
    weights: tuple[str, ...] = ()
    """.safetensors files or names of runs, compared side by side; default: the shipped ones for the frame."""
    watch: str = ""
    """A run: score each of its snapshots, including future ones, and mark the best."""
    watch_minutes: Annotated[float, Option(at_least=0, needs=("watch",))] = 0.0
    """Minutes without a new snapshot after which watching ends; 0 waits until Ctrl-C."""
    limit: Annotated[int, Option(at_least=0)] = 300
    """Number of faces to age, evenly over their decades; the choice depends only on their names. 0 takes all."""
    sources: tuple[int, int] = (20, 49)
    """Youngest and oldest age in years of the faces to age."""
    target_age: Annotated[tuple[int, ...], Option(at_least=0, at_most=100)] = (10, 20, 30, 40, 50, 60)
    """Ages in years to render; every fifth year between them is rendered, too."""
    judge: str = "age_judge"
    """The project's own age estimator of the evaluation: a shipped name, a file or a run; it must not be in a
    training's loss."""
    fit_ages: Annotated[Path | None, Option(endings=(".safetensors",))] = None
    """Also write the weights to this file, with the age input calibrated so that --judge estimates each target age."""
    frame: Annotated[str, FRAME] = "utkface"
    """Positions of the face in the pictures of --dataroot, as of train.py; must equal the frame of the weights."""
    image_size: Annotated[int, Option(at_least=32)] = 128
    """Side in pixels at which all pictures are compared."""
    workers: Annotated[int, Option(at_least=-1)] = -1
    """Processes that render and evaluate; -1 takes one per core, 0 uses the main process."""
    results_dir: Path = Path("results")
    """Folder of the runs and of the output folder."""
    name: Annotated[str, FOLDER_NAME] = ""
    """Output folder; default `evaluate-NNN`."""

    def __post_init__(self) -> None:
        check(self)

    def check_together(self) -> None:
        """Refuse ages without a range, and outputs that exclude each other."""
        youngest, oldest = self.sources
        require(self, "sources", 0 <= youngest <= oldest, "the youngest and the oldest age")
        require(self, "target_age", len(set(self.target_age)) > 1, "two or more ages")
        if self.watch and self.weights:
            raise UserError("--watch and --weights: must not both be given")
        single = not self.fit_ages or (len(self.weights) < 2 and not self.watch)
        require(self, "fit_ages", single, "used with at most one of --weights, and without --watch")
