"""What `evaluate.py` takes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclegan_age.config.errors import UserError
from cyclegan_age.config.fields import Option, check, require
from cyclegan_age.config.values import FRAME


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What `evaluate.py` takes."""

    dataroot: Annotated[Path, Option(required="a folder of faces with one sub-folder per age group")] = Path()
    """Folder of faces of known age that no training saw, one sub-folder per age group, or shards, as of train.py."""
    shard_cache: Annotated[float, Option(above=0)] = 50.0
    """Most GB of shards fetched by http that are kept on disk."""
    weights: tuple[str, ...] = ()
    """.safetensors files or names of runs, side by side; without them the shipped weights."""
    watch: str = ""
    """A run: score each of its snapshots, also those still to come, and mark the best."""
    watch_minutes: Annotated[float, Option(at_least=0, needs=("watch",))] = 0.0
    """Minutes without a new snapshot after which watching ends; 0 waits until Ctrl-C."""
    limit: Annotated[int, Option(at_least=0)] = 300
    """Faces that are aged, evenly over their decades; which ones is fixed by their names. 0 takes all."""
    sources: tuple[int, int] = (20, 49)
    """Youngest and oldest age in years of the faces that are aged."""
    target_age: Annotated[tuple[int, ...], Option(at_least=0, at_most=100)] = (10, 20, 30, 40, 50, 60)
    """Ages in years to render; every fifth year between them is rendered, too."""
    judge: str = "age_judge"
    """Age estimator of our own that judges: a shipped name, a file or a run; it must not be in the trainings' loss."""
    fit_ages: Annotated[Path | None, Option(endings=(".safetensors",))] = None
    """Write the weights to this file, too, with ages asked for so that --judge reads every age as it should be."""
    frame: Annotated[str, FRAME] = "utkface"
    """Where the face stands in the pictures of --dataroot, as of train.py; the weights' own must be the same."""
    image_size: Annotated[int, Option(at_least=32)] = 128
    """Side in pixels at which all pictures are compared."""
    workers: Annotated[int, Option(at_least=-1)] = -1
    """Processes that render and judge; -1 takes one per core, 0 works in this one."""
    results_dir: Path = Path("results")
    """Where the output folder is made and runs are looked for."""
    name: str = ""
    """Output folder; without it `evaluate-NNN`."""

    def __post_init__(self) -> None:
        check(self)

    def check_together(self) -> None:
        """Refuse ages without a range, and outputs that exclude each other."""
        youngest, oldest = self.sources
        require(self, "sources", 0 <= youngest <= oldest, "the youngest and the oldest age")
        require(self, "target_age", len(set(self.target_age)) > 1, "two or more ages")
        if self.watch and self.weights:
            raise UserError("--watch and --weights: must not both be given")
        plain = Path(self.name).name == self.name and not self.name.startswith(".")
        require(self, "name", plain, "a plain folder name of letters, digits, - and _")
        single = not self.fit_ages or (len(self.weights) < 2 and not self.watch)
        require(self, "fit_ages", single, "used with at most one of --weights, and without --watch")
