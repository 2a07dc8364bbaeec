"""What `batch.py` takes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclegan_age.config.fields import Option, check
from cyclegan_age.config.test import InferConfig


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """What `batch.py` takes."""

    input: Annotated[str, Option(required="the pictures")] = ""
    """A folder of pictures, a .txt file with a path on each line, a .parquet file with a column of paths, or one of
    these in an object store, as s3://bucket/folder."""
    output: Annotated[str, Option(required="the folder of the results")] = ""
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
    workers: Annotated[int, Option(at_least=0)] = 0
    """Processes; 0 takes one per GPU, or one per core where there is none."""
    limit: int = 0
    """Use at most this many pictures; 0 takes all."""

    def __post_init__(self) -> None:
        check(self)

    def check_together(self) -> None:
        """Refuse what `test.py` refuses."""
        _ = self.rendering

    @property
    def rendering(self) -> InferConfig:
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
