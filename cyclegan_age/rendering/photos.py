"""Photographs -> the same ones with their faces at other ages, each where it is and at its own resolution."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from cyclegan_age.attributes import FaceAttributes
from cyclegan_age.config import InferConfig
from cyclegan_age.faces.alignment import Place, crop
from cyclegan_age.faces.blending import CENTRE, SEMI_AXES, Pixels, blend
from cyclegan_age.faces.detection import Face, chosen, detector, turned_text
from cyclegan_age.faces.files import Photo, as_rgb
from cyclegan_age.faces.frames import FRAMES, Points
from cyclegan_age.files import write_atomically
from cyclegan_age.images import Picture
from cyclegan_age.inference import Ager
from cyclegan_age.provenance import Mark, marked, packet
from cyclegan_age.rendering import pictures
from cyclegan_age.rendering.outputs import LIFE_SIDE, STRIP_SIDE, Details, PictureOutput, sentence
from cyclegan_age.rendering.reliability import age_warning, estimated_age
from cyclegan_age.rendering.sources import Source

_PREVIEW = 1024  # greatest side in pixels of a photograph on the page
_SHOWN = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})  # what browsers show
NEAR = FRAMES["utkface"]


class AgedPhoto(PictureOutput):
    """A photograph whose faces are aged.

    Raises:
        NoFace: no face is found, or not the one wanted.
    """

    quality = 90

    def __init__(
        self,
        source: Source,  # its attributes apply only to a photograph of one face
        photo: Photo,
        ager: Ager,
        ages: Sequence[float],
        config: InferConfig,  # selection of faces, strengths, batch size, sheets
    ) -> None:
        self.source, self._photo, self._ager, self._ages, self._config = source, photo, ager, ages, config
        self._rgb = as_rgb(photo.upright)
        self._found = detector().find(self._rgb)  # from left to right
        self._wanted = chosen(self._found, config.face)
        self._attributes = source.attributes if len(self._found) == 1 else FaceAttributes()
        self._places = [face.place(ager.frame) for face in self._wanted]
        self._squares = ager.photo_faces.squares(self._rgb, self._places)
        self._changes = ager.photo_faces.changes(
            self._squares,
            ager.photo_faces.heads(self._rgb, self._places),
            ages,
            attributes=[self._attributes] * len(self._wanted),
            strengths=config.strengths,
            batch_size=config.batch_size,
        )
        self.count = len(self._wanted)

    def aged(self) -> Iterator[Pixels]:
        others = [face.place(self._ager.frame) for face in self._found if face not in self._wanted]
        for changes in self._changes:
            yield blend(self._photo.upright, list(zip(self._places, changes, strict=True)), others=others)

    def before(self) -> Image.Image:
        return preview(self._rgb, self._found if len(self._found) > 1 else [])

    def notes(self) -> list[str]:
        self.warnings = warnings_of(self._rgb, self._wanted, self._attributes)
        several = f"{len(self._found)} faces, numbered from left to right; --face chooses one of them."
        return [*([several] if len(self._found) > 1 else []), *map(sentence, self.warnings)]

    def save(self, aged: Pixels, base: Path, mark: Mark | None) -> str:
        file = base.with_name(f"{base.name}{self._photo.suffix}")
        file.parent.mkdir(parents=True, exist_ok=True)
        data = self._photo.with_upright(aged).encoded()
        done = marked(data, mark)
        write_atomically(file, done)
        if mark and done is data:  # BMP and PPM hold nothing but pixels
            write_atomically(file.with_name(f"{file.name}.xmp"), packet(mark))
        if file.suffix.lower() in _SHOWN:
            return self._photo.suffix
        small = preview(as_rgb(aged), [])
        pictures.save_jpg(small, base.with_name(f"{base.name}_preview.jpg"), quality=self.quality, mark=mark)
        return "_preview.jpg"

    def faces(self, aged: Pixels | None = None) -> list[Picture]:
        rgb = self._rgb if aged is None else as_rgb(aged)
        return [crop(rgb, place, STRIP_SIDE) for place in self._places]

    def details(self) -> Iterator[Details]:
        ager, attributes, layers = self._ager, self._attributes, self._config.features
        for face, place, square in zip(self._wanted, self._places, self._squares, strict=True):
            number = next(i for i, other in enumerate(self._found, start=1) if other is face)
            alone = len(self._found) == 1
            side = min(LIFE_SIDE, max(ager.image_size, round(place.side)))
            life = Image.fromarray(crop(self._rgb, place, side)) if self._config.life else None
            yield Details(
                title=self.source.title if alone else f"{self.source.title}, face {number}",
                stem=self.source.stem if alone else f"{self.source.stem}_face{number}",
                measures=ager.engine.encode(square[None], [attributes]).measures,
                maps=ager.features(square, self._ages, layers, attributes) if layers else {},
                life=ager.life(life, attributes=attributes) if life else [],
            )


def warnings_of(rgb: Picture, faces: Sequence[Face], attributes: FaceAttributes | None = None) -> list[str]:
    """Warnings of turned faces and of unreliable ages.

    Args:
        rgb: the photograph, uint8 (H, W, 3).
        faces: of it.
        attributes: of its only face; unknown ages are estimated.
    """
    if attributes and not math.isnan(attributes.age_years):
        ages = [attributes.age_years]
    else:
        ages = [estimated_at(rgb, face.place(NEAR)) for face in faces]
    return [line for line in (turned_text(faces), age_warning(ages)) if line]


def estimated_at(rgb: Picture, place: Place) -> float:
    """The estimated age of the face at a place in UTKFace's frame."""
    return estimated_age(Image.fromarray(crop(rgb, place, STRIP_SIDE)), NEAR)


def preview(rgb: Picture, faces: Sequence[Face]) -> Image.Image:
    """A photograph in the size of a page, with the ellipses and numbers of faces."""
    scale = min(1.0, _PREVIEW / max(rgb.shape[:2]))
    size = max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale))
    image = Image.fromarray(rgb).resize(size, Image.Resampling.BOX if scale < 0.5 else Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(image)
    turn = np.linspace(0, 2 * np.pi, 60)
    unit: Points = np.stack([CENTRE[0] + SEMI_AXES[0] * np.cos(turn), CENTRE[1] + SEMI_AXES[1] * np.sin(turn)], axis=1)
    for number, face in enumerate(faces, start=1):
        points = face.place(NEAR).to_photo(unit) * scale
        line = [(float(x), float(y)) for x, y in points]
        draw.line(line, fill="white", width=3)
        draw.line(line, fill="black", width=1)
        top = line[int(np.argmin(points[:, 1]))]
        height = max(
            18, min(max(size) // 18, int(np.ptp(points[:, 1])) // 2)
        )  # legible on a page that shows it smaller
        draw.text(top, str(number), "white", font_size=height, anchor="mb", stroke_width=2, stroke_fill="black")
    return image
