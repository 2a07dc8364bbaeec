"""Configuration of `test.py`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclegan_age.config.errors import UserError
from cyclegan_age.config.fields import Option, check, require
from cyclegan_age.config.values import FACE, FOLDER_NAME, OLDEST, check_strengths


@dataclass(frozen=True, kw_only=True)
class InferConfig:
    """Configuration of `test.py`."""

    input: Path | None = None
    """A photograph, a video or a folder of them; default: the built-in portrait."""
    face: Annotated[str, FACE] = "all"
    """Which face of a photograph: `all`, `largest`, or a number, counted from 1 from left to right."""
    aligned: bool = False
    """The pictures are aligned face crops, as for training; no face detection. --dataroot implies it."""
    dataroot: Path | None = None
    """A folder with one sub-folder per age group, instead of --input."""
    weights: str = ""
    """A .safetensors file, the name of a run, or of shipped weights (caae); default: cyclegan_heads, cyclegan for
    aligned crops, caae for morph and kids, cgan for faces from noise."""
    target_age: Annotated[tuple[float, ...], Option(at_least=0, at_most=OLDEST)] = ()
    """Ages in years to render; without it every anchor age of the weights."""
    target_domain: tuple[str, ...] = ()
    """Domains to translate to, for weights of two domains without ages; default: both."""
    change: tuple[str, ...] = ()
    """Strength of the change per part of a photograph's faces: `hair=0.5 skin=1 shape=0`, each from 0 to 2, default
    1."""
    features: tuple[str, ...] = ()
    """Layers whose feature maps are rendered; `list` prints their names."""
    sample: Annotated[int, Option(at_least=0, at_most=10_000)] = 0
    """Generate this many faces from noise instead, with weights of a model that can."""
    game: tuple[str, ...] = ()
    """Play a game with faces instead: `aging A`, `morph A B` or `kids A B`, A and B being photographs."""
    steps: Annotated[int, Option(at_least=1, at_most=1000)] = 8
    """Steps of a morph, or number of kids."""
    seed: Annotated[int, Option(at_least=0, below=2**63, must_be="from 0 to 2^63 - 1")] = 0
    """Seed of --sample and of the kids."""
    life: bool = False
    """Render the life from the first to the last anchor age as GIF and MP4."""
    provenance: bool = True
    """Mark the files as aged by a network; --no_provenance omits the mark."""
    results_dir: Path = Path("results")
    """Folder for the output folder."""
    name: Annotated[str, FOLDER_NAME] = ""
    """Output folder; default `test-NNN`."""
    batch_size: Annotated[int, Option(at_least=1)] = 16
    """Pictures per forward pass."""
    limit: Annotated[int, Option(at_least=0)] = 0
    """Use at most this many pictures; 0 takes all."""

    def __post_init__(self) -> None:
        check(self)

    def check_together(self) -> None:
        """Refuse inputs and outputs that exclude each other."""
        if self.input and self.dataroot:
            raise UserError("--input and --dataroot: must not both be given")
        alone = self.face == "all" or not (self.aligned or self.dataroot)
        require(self, "face", alone, "all for aligned pictures, which show one face each")
        if self.sample and self.game:
            raise UserError("--sample and --game: must not both be given")
        if (self.input or self.dataroot) and (self.sample or self.game):
            raise UserError("--input and --dataroot: must be left out with --sample and --game")
        if self.sample or self.game:
            unused = {"features": self.features, "life": self.life, "face": self.face != "all", "limit": self.limit}
            unused |= {"target_age": self.game and self.target_age, "aligned": self.sample and self.aligned}
            for name in (name for name, given in unused.items() if given and "list" not in self.features):
                raise UserError(f"--{name}: must be left out with --{'game' if self.game else 'sample'}")
        photographs = not self.change or (self.input and not self.aligned)
        require(self, "change", photographs, "used with photographs, by --input without --aligned")
        check_strengths(self.strengths)

    @property
    def strengths(self) -> dict[str, float]:
        """The strengths in `change`, by part.

        Raises:
            UserError: a word that is not of the form part=number.
        """
        strengths = {}
        for word in self.change:
            part, _, number = word.partition("=")
            try:
                strengths[part] = float(number)
            except ValueError:
                raise UserError(f"--change {word}: must be a part and a number, such as hair=0.5") from None
        return strengths
