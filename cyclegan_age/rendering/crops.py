"""Aligned crops -> the same ones at other ages, in batches across faces and ages."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from cyclegan_age.config import InferConfig
from cyclegan_age.faces.blending import Change, Pixels
from cyclegan_age.faces.frames import Frame
from cyclegan_age.images import Picture, open_image
from cyclegan_age.inference import Ager, Letterboxed, demo_portrait
from cyclegan_age.provenance import Mark
from cyclegan_age.rendering import pictures
from cyclegan_age.rendering.outputs import LIFE_SIDE, STRIP_SIDE, Details, PictureOutput
from cyclegan_age.rendering.reliability import age_warning, estimated_age
from cyclegan_age.rendering.sources import Source

_KEPT_PIXELS = 4_000_000  # larger pictures are decoded a second time instead of being kept in memory


@dataclass(kw_only=True)
class Crop(PictureOutput):
    """One aligned crop and its renderings."""

    source: Source
    image: Image.Image | None  # None if it is too large to stay in memory
    boxed: Letterboxed
    frame: Frame  # of the weights
    changed: list[Picture | Change] = field(default_factory=list)  # at each age, for `boxed.restore`
    measures: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    maps: dict[str, Tensor] = field(default_factory=dict)
    life: list[Image.Image] = field(default_factory=list)
    quality = 95

    @classmethod
    def read(cls, source: Source, ager: Ager) -> "Crop":
        """Decode an aligned crop and letterbox it to the generator's square.

        Raises:
            BadImage: see `images.open_image`.
            OSError: the file cannot be read.
        """
        image = _open(source.file, ager.frame)
        small = image if image.width * image.height <= _KEPT_PIXELS else None
        return cls(source=source, image=small, boxed=ager.letterbox(image), frame=ager.frame)

    def picture(self) -> Image.Image:
        """The crop as it was read."""
        return _open(self.source.file, self.frame) if self.image is None else self.image

    def before(self) -> Image.Image:
        self.image = self.picture()  # in memory from now on
        return self.image

    def aged(self) -> Iterator[Picture]:
        image = self.picture()
        return (np.asarray(self.boxed.restore(one, image)) for one in self.changed)

    def save(self, aged: Pixels, base: Path, mark: Mark | None) -> str:
        pictures.save_png(Image.fromarray(aged), base.with_name(f"{base.name}.png"), mark=mark)
        return ".png"

    def faces(self, aged: Pixels | None = None) -> list[Picture]:
        return [pictures.thumbnail(self.picture() if aged is None else Image.fromarray(aged), STRIP_SIDE)]

    def details(self) -> Iterator[Details]:
        title, stem = self.source.title, self.source.stem
        yield Details(title=title, stem=stem, measures=self.measures, maps=self.maps, life=self.life)


def _open(file: Path | bytes | None, frame: Frame) -> Image.Image:
    return demo_portrait(frame) if file is None else open_image(file)


def rendered(
    ager: Ager, crops: Iterable[Crop], ages: Sequence[float], config: InferConfig, advance: Callable[[int], object]
) -> Iterator[Crop]:
    """Render each crop at all ages, in batches of one size across crops and ages."""
    pairs = ((crop, years) for crop in crops for years in ages)
    while batch := list(islice(pairs, config.batch_size)):
        boxed, attributes = [crop.boxed for crop, _ in batch], [crop.source.attributes for crop, _ in batch]
        made = ager.engine.age_letterboxed(boxed, [years for _, years in batch], config.batch_size, attributes)
        advance(len(batch))
        for (crop, _), change in zip(batch, made, strict=True):
            crop.changed.append(change)
            if len(crop.changed) == len(ages):
                measures = ager.engine.encode(crop.boxed.square[None], [crop.source.attributes]).measures
                crop.measures = {name: float(values[0]) for name, values in measures.items()}
                if config.features:
                    crop.maps = ager.features(crop.boxed.square, ages, config.features, crop.source.attributes)
                if config.life:
                    small = Image.fromarray(pictures.thumbnail(crop.picture(), LIFE_SIDE))
                    crop.life = ager.life(small, attributes=crop.source.attributes)
                yield crop


def warned(ager: Ager, crops: Iterable[Crop]) -> Iterator[Crop]:
    """Add warnings of unreliable ages, estimated if unknown; none for the built-in portrait."""
    for crop in crops:
        if crop.source.file is not None and not ager.domains:
            own = crop.source.attributes.age_years
            line = age_warning([estimated_age(crop.picture(), ager.frame) if math.isnan(own) else own])
            crop.warnings = [line] if line else []
        yield crop
