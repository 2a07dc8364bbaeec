"""Configuration of `batch.py`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclegan_age.config.fields import Option, check
from cyclegan_age.config.test import InferConfig


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """Configuration of `batch.py`."""

    input: Annotated[str, Option(required="the pictures")] = ""
    """A folder of pictures, a .txt file with a path on each line, a .parquet file with a column of paths, or one of
    these in an object store, such as s3://bucket/folder."""
    output: Annotated[str, Option(required="the folder of the results")] = ""
    """The folder of the results, or one in an object store; existing results are not rendered again."""
    target_age: tuple[float, ...] = ()
    """Ages in years to render; without it every anchor age of the weights."""
    aligned: bool = False
    """The pictures are aligned face crops, as for training; no face detection."""
    face: str = "all"
    """Which face of a photograph: `all`, `largest`, or a number, counted from 1 from left to right."""
    change: tuple[str, ...] = ()
    """Strength of the change per part of a photograph's faces: `hair=0.5 skin=1 shape=0`, each from 0 to 2, default
    1."""
    provenance: bool = True
    """Mark the files as aged by a network; --no_provenance omits the mark."""
    weights: str = ""
    """A .safetensors file, the name of a run, or of shipped weights; default: cyclegan_heads, and cyclegan for aligned
    crops."""
    results_dir: Path = Path("results")
    """Folder of the runs."""
    column: str = "path"
    """The column of a .parquet file that holds the paths."""
    batch_size: int = 16
    """Pictures per forward pass."""
    workers: Annotated[int, Option(at_least=0)] = 0
    """Processes; 0 takes one per GPU, or one per core without a GPU."""
    limit: int = 0
    """Use at most this many pictures; 0 takes all."""

    def __post_init__(self) -> None:
        check(self)

    def check_together(self) -> None:
        """Refuse the same values as `test.py`."""
        _ = self.rendering

    @property
    def rendering(self) -> InferConfig:
        """The part shared with `test.py`."""
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
