"""One input whose faces are aged -> its files, and its section of the page."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from PIL import Image
from torch import Tensor

from cyclegan_age.faces.blending import Pixels
from cyclegan_age.images import Picture
from cyclegan_age.inference import Ager
from cyclegan_age.provenance import Mark
from cyclegan_age.rendering import pictures
from cyclegan_age.rendering.page import Section
from cyclegan_age.rendering.sources import Source

STRIP_SIDE = 256  # greatest side in pixels of one face in a strip
LIFE_SIDE = 512  # and of an animation


@dataclass(kw_only=True)
class Details:
    """What is shown of one face beside its pictures; `maps` are (K, C, H, W) each, a map for each age."""

    title: str  # of the section
    stem: str  # of the files, relative to the output folder
    measures: Mapping[str, float | Tensor] = field(default_factory=dict)
    maps: dict[str, Tensor] = field(default_factory=dict)
    life: list[Image.Image] = field(default_factory=list)


class Output(ABC):
    """What is to be written of one input.

    Attributes:
        source: the input.
        count: faces in it that are aged.
        warnings: lines on these faces, complete when it is written.
        measures: what the model measured, for programs.
    """

    source: Source
    count: int = 1
    warnings: list[str]
    measures: Mapping[str, float] = MappingProxyType({})

    @abstractmethod
    def write(self, folder: Path, ager: Ager, ages: Sequence[float], mark: Mark | None) -> list[Section]:
        """Write its files into the output folder, marked; gives its sections of the page."""


class PictureOutput(Output):
    """That of a picture: an aligned crop, or a photograph. Pictures are uint8 or uint16 (H, W, 1 or 3), upright."""

    quality: int  # of the JPEG that shows the input

    @abstractmethod
    def before(self) -> Image.Image:
        """The input, as the page shows it."""

    @abstractmethod
    def aged(self) -> Iterator[Pixels]:
        """The input at each age, in their order."""

    @abstractmethod
    def save(self, aged: Pixels, base: Path, mark: Mark | None) -> str:
        """Write the input at an age to a file whose path begins so; gives the ending of the one that the page shows."""

    @abstractmethod
    def faces(self, aged: Pixels | None = None) -> list[Picture]:
        """The faces as strips show them, at an age or as they were."""

    @abstractmethod
    def details(self) -> Iterator[Details]:
        """What else is shown of each face."""

    def notes(self) -> list[str]:
        """Sentences on the input."""
        return [sentence(line) for line in self.warnings]

    def write(self, folder: Path, ager: Ager, ages: Sequence[float], mark: Mark | None) -> list[Section]:
        section = Section(title=self.source.title, input=f"{self.source.stem}_input.jpg")
        section.notes = self.notes()
        pictures.save_jpg(self.before(), folder / section.input, quality=self.quality)
        captions = [ager.caption(years) for years in ages]
        names = [caption.removesuffix(" years") for caption in captions]
        rows = [[face] for face in self.faces()]
        for caption, name, aged in zip(captions, names, self.aged(), strict=True):
            ending = re.sub(r"[^\w.-]+", "_", caption) if caption.startswith("to ") else f"age{name}"
            base = f"{self.source.stem}_{ending}"
            section.ages.append((caption, base + self.save(aged, folder / base, _said(mark, name))))
            for row, face in zip(rows, self.faces(aged), strict=True):
                row.append(face)
        sections = [section]
        for row, details in zip(rows, self.details(), strict=True):
            if details.title != self.source.title:
                sections.append(Section(title=details.title))
            sections[-1].notes += notes_on(details.measures)
            _write_sheets(folder, sections[-1], details, row, names, mark)
        return sections


def notes_on(measures: Mapping[str, float | Tensor]) -> list[str]:
    """What a model measured on one face, as lines of text."""
    return [f"{name.replace('_', ' ')} {float(value):.3f}" for name, value in measures.items()]


def sentence(line: str) -> str:
    """A line as a sentence of the page."""
    return f"{line[0].upper()}{line[1:]}."


def _write_sheets(
    folder: Path, section: Section, details: Details, row: list[Picture], names: list[str], mark: Mark | None
) -> None:
    """Write the strip of a face, its feature maps and its life, and enter them in its section.

    `row` is the input and, for each of the `names`, the aged face, all of one size.
    """

    def sheet(caption: str, ending: str, picture: Picture, said: Mark | None = None) -> None:
        section.sheets.append((caption, f"{details.stem}_{ending}.png"))
        pictures.save_png(picture, folder / section.sheets[-1][1], mark=said)

    sheet("strip", "strip", pictures.strip(row, ["input", *names]), _said(mark, *names))
    if details.maps:
        changes = [pictures.difference_map(row[0], aged) for aged in row[1:]]
        sheet("change: red is lighter, blue is darker than the input", "change", pictures.strip(changes, names))
    for layer, channels_by_age in details.maps.items():
        channels = pictures.feature_grid(channels_by_age[-1])
        domain = names[-1].startswith("to ")
        last = names[-1] if domain else f"at {names[-1]} years"
        sheet(f"{layer}: channels {last}, each on its own scale", f"features-{layer}", channels)
        if not domain:
            by_age = pictures.feature_strip(channels_by_age.unbind(), names)
            sheet(f"{layer}: the channels that change most, by age", f"ages-{layer}", by_age)
    if details.life:
        section.gif, section.mp4 = f"{details.stem}_life.gif", f"{details.stem}_life.mp4"
        of_life = mark and mark.of("life")
        pictures.save_gif(details.life, folder / section.gif, mark=of_life)
        pictures.save_mp4(details.life, folder / section.mp4, mark=of_life)


def _said(mark: Mark | None, *names: str) -> Mark | None:
    """What a picture says of itself that shows these ages, in years, or `to B`."""
    if mark is None:
        return None
    return mark.of(", ".join(names)) if names[0].startswith("to ") else mark.at(*map(float, names))
