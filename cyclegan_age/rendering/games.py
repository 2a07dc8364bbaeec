"""The games of AgeProgression (Serry): aging, morph and kids, and faces from noise.

They take aligned face crops, as `Ager.age` does, and work with the models that encode faces; kids only with latent
vectors. For models of pictures, such as the CycleGANs, a morph interpolates the features of a middle layer, the
pictures and the age vectors, and decodes from there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from cyclegan_age.attributes import FaceAttributes, attributes_by_name
from cyclegan_age.config import UserError
from cyclegan_age.faces.alignment import crop
from cyclegan_age.faces.detection import NoFace, chosen, detector
from cyclegan_age.faces.frames import Frame
from cyclegan_age.images import BadImage, Picture, grid, open_image, to_rgb
from cyclegan_age.inference import Ager, Letterboxed
from cyclegan_age.rendering.pictures import thumbnail
from cyclegan_age.rendering.reliability import estimated_age

BORDER = (255, 140, 0)  # of the own age group
_SHEET_SIDE = 192  # greatest side in pixels of a picture on a sheet
_CROP_SIDE = 256  # of a face out of a photograph
_SHEET_ROWS = 64  # faces from noise on a sheet


@dataclass(frozen=True, eq=False, kw_only=True)
class Made:
    """What a game made.

    Attributes:
        pictures: in order, each with a name that is one of its own.
        sheet: all of them on one picture.
        caption: what the sheet shows.
        notes: further lines for the user.
        frames: the same as an animation; empty if there is none.
        own: the picture of the face's own age group, by name; empty if there is none.
    """

    pictures: list[tuple[str, Image.Image]]
    sheet: Picture
    caption: str
    notes: list[str] = field(default_factory=list)
    frames: list[Image.Image] = field(default_factory=list)
    own: str = ""


def aging(ager: Ager, image: Image.Image, attributes: FaceAttributes | None = None) -> Made:
    """A face at every age of the weights, or in every domain; a border marks the face and its own age group.

    Args:
        ager: any that encodes faces, or translates pictures.
        image: an aligned face crop.
        attributes: its own age, estimated if unknown, and sex.
    """
    rgb = to_rgb(image)
    if ager.domains:
        return _translations(ager, rgb)
    attributes, note = _with_age(rgb, attributes, ager.frame)
    boxed, years = ager.letterbox(rgb), list(ager.code.nominal_years)
    aged = ager.age_many(boxed.square[None].repeat(len(years), axis=0), years, attributes=[attributes] * len(years))
    own = int(ager.code.encode([attributes.age_years]).argmax())
    faces = [boxed.restore(square, rgb) for square in aged]
    names = [f"{one:g}" for one in years]
    tiles = [_bordered(rgb), *(_bordered(face) if k == own else _small(face) for k, face in enumerate(faces))]
    return Made(
        pictures=[(f"age{name}", face) for name, face in zip(names, faces, strict=True)],
        sheet=grid([tiles], columns=["input", *names]),
        caption="the face, then at every age; with a border: its own",
        notes=[note],
        own=f"age{names[own]}",
    )


def _translations(ager: Ager, image: Image.Image) -> Made:
    """A picture in every domain of weights that know no ages."""
    boxed, numbers = ager.letterbox(image), [float(k) for k in range(len(ager.domains))]
    squares = ager.age_many(boxed.square[None].repeat(len(numbers), axis=0), numbers)
    names = [ager.caption(k) for k in numbers]
    made = [boxed.restore(square, image) for square in squares]
    return Made(
        pictures=list(zip(names, made, strict=True)),
        sheet=grid([[_small(image), *map(_small, made)]], columns=["input", *names]),
        caption="the picture, then what it is translated to",
    )


def morph(
    ager: Ager,
    first: Image.Image,
    second: Image.Image,
    steps: int = 8,
    attributes: tuple[FaceAttributes | None, FaceAttributes | None] = (None, None),
    layer: str = "",
) -> Made:
    """From one face and age to another in so many steps.

    Step i of N is at (N - i)/N of the first and i/N of the second, in latent vector, age and sex.

    Args:
        ager: any that encodes faces.
        first: an aligned face crop.
        second: another.
        steps: N; there are N + 1 pictures, of the weights' own size.
        attributes: their own ages, estimated if unknown, and sexes.
        layer: where features are blended, for models of pictures; by default `Ager.middle_layer`.

    Raises:
        UserError: the weights know no ages, or a layer that the generator lacks.
    """
    latents, vectors, notes = _pair(ager, (first, second), attributes)
    weights = torch.linspace(0, 1, steps + 1)
    blended = torch.stack([torch.lerp(vectors[0], vectors[1], float(w)) for w in weights])
    if ager.encoder.latent_size:
        between = torch.stack([torch.lerp(latents[0], latents[1], float(w)) for w in weights])
        squares = ager.engine.render_vectors(between, blended)
    else:
        squares = ager.engine.render_blends(latents, blended, weights, layer or ager.middle_layer)
    faces = [Image.fromarray(square) for square in squares]
    names = [f"{i}" for i in range(steps + 1)]
    return Made(
        pictures=[(f"step{name}", face) for name, face in zip(names, faces, strict=True)],
        sheet=grid([list(squares)], columns=names),
        caption="from the first face to the second",
        notes=notes,
        frames=[*faces, *faces[-2:0:-1]],
    )


def kids(
    ager: Ager,
    first: Image.Image,
    second: Image.Image,
    count: int = 8,
    seed: int = 0,
    attributes: tuple[FaceAttributes | None, FaceAttributes | None] = (None, None),
) -> Made:
    """Children of two faces: each number of a latent vector is one parent's, the youngest group, a random sex.

    Each child has a random share of its numbers, a quarter to three quarters, from the first face.

    Args:
        ager: one with latent vectors.
        first: an aligned face crop.
        second: another.
        count: how many.
        seed: seed of shares, numbers and sexes.
        attributes: the parents' own ages and sexes.

    Raises:
        UserError: the weights have no latent vectors.
    """
    if not ager.encoder.latent_size:
        raise UserError("--game kids: needs weights of a caae, age_cgan or encoder_cdcgan")
    latents, _, notes = _pair(ager, (first, second), attributes)
    random = torch.Generator().manual_seed(seed)
    share = 0.25 + 0.5 * torch.rand(count, 1, generator=random)
    from_first = (torch.rand(count, ager.encoder.latent_size, generator=random) < share).to(latents.device)
    z_first, z_second = latents[:, : ager.encoder.latent_size]
    children = torch.where(from_first, z_first, z_second)
    if latents.shape[1] > ager.encoder.latent_size:  # columns of male and female
        sex = torch.randint(2, (count,), generator=random)
        children = torch.cat([children, torch.eye(2)[sex].to(latents.device)], dim=1)
    youngest = torch.eye(len(ager.code))[:1].expand(count, -1)
    squares = ager.engine.render_vectors(children, youngest)
    rows = [list(squares[i : i + 8]) for i in range(0, count, 8)]
    return Made(
        pictures=[(f"kid{i + 1}", Image.fromarray(square)) for i, square in enumerate(squares)],
        sheet=grid(rows),
        caption=f"children of {ager.code.nominal_years[0]:g} years",
        notes=notes,
    )


def samples(ager: Ager, count: int, years: Sequence[float] = (), seed: int = 0) -> Made:
    """Faces that nobody has, from noise; each at every age of the weights, if these know ages.

    Args:
        ager: one whose model makes faces from noise.
        count: how many.
        years: ages instead of those of the weights.
        seed: seed of the noise.

    Raises:
        UserError: the weights make no faces from noise.
    """
    ages = list(years or ager.code.nominal_years) if ager.conditional else [ager.code.nominal_years[0]]
    latents = ager.sample(count, seed)
    columns = [ager.render(latents, [one] * count) for one in ages]
    names = [f"_age{one:g}" for one in ages] if ager.conditional else [""]
    pictures = [
        (f"sample-{i + 1:03d}{name}", Image.fromarray(column[i]))
        for i in range(count)
        for name, column in zip(names, columns, strict=True)
    ]
    if ager.conditional:
        rows = [[column[i] for column in columns] for i in range(min(count, _SHEET_ROWS))]
        sheet = grid(rows, columns=[f"{one:g}" for one in ages])
        return Made(pictures=pictures, sheet=sheet, caption="a row for each noise, a column for each age in years")
    shown = [column[i] for column in columns for i in range(min(count, 8 * _SHEET_ROWS))]
    return Made(
        pictures=pictures, sheet=grid([shown[i : i + 8] for i in range(0, len(shown), 8)]), caption="faces from noise"
    )


def play(words: Sequence[str], ager: Ager, *, steps: int = 8, seed: int = 0, aligned: bool = False) -> Made:
    """Play the game of a command line: its name, then one or two files, whose names may contain ages and sexes.

    Args:
        words: the game and its files.
        ager: plays it.
        steps: of a morph, or how many kids.
        seed: of the kids.
        aligned: the files are aligned face crops; otherwise the largest face of each photograph is taken.

    Raises:
        UserError: no such game, another number of files than it takes, or a file without a face.
    """
    takes = {"aging": 1, "morph": 2, "kids": 2}
    game, files = words[0], [Path(word) for word in words[1:]]
    if takes.get(game) != len(files):
        raise UserError(
            f"--game {' '.join(words)}: must be aging A, morph A B or kids A B, where A and B are photographs"
        )
    images, attributes = (
        [_face(game, file, aligned, ager.frame) for file in files],
        [attributes_by_name(file.name) for file in files],
    )
    if game == "aging":
        return aging(ager, images[0], attributes[0])
    both = (attributes[0], attributes[1])
    if game == "morph":
        return morph(ager, images[0], images[1], steps, both)
    return kids(ager, images[0], images[1], steps, seed, both)


def _face(game: str, file: Path, aligned: bool, frame: Frame) -> Image.Image:
    try:
        image = open_image(file)
        if aligned:
            return image
        photo = np.asarray(image)
        place = chosen(detector().find(photo), "largest")[0].place(frame)
        return Image.fromarray(crop(photo, place, _CROP_SIDE))
    except NoFace as e:
        raise UserError(f"--game {game} {file}: {e}") from None
    except (BadImage, OSError) as e:
        cause = (e.strerror or type(e).__name__) if isinstance(e, OSError) else str(e)
        raise UserError(f"--game {game} {file}: {cause}; expected a picture of a face") from None


def _with_age(image: Image.Image, attributes: FaceAttributes | None, frame: Frame) -> tuple[FaceAttributes, str]:
    """Attributes of a face, its age estimated if unknown, and a note on that."""
    attributes = attributes or FaceAttributes()
    if not math.isnan(attributes.age_years):
        return attributes, f"{attributes.age_years:g} years old by its name"
    years = estimated_age(image, frame)
    return FaceAttributes(years, attributes.sex), f"about {years:.0f} years old, as estimated"


def _pair(
    ager: Ager, images: tuple[Image.Image, Image.Image], attributes: tuple[FaceAttributes | None, FaceAttributes | None]
) -> tuple[Tensor, Tensor, list[str]]:
    """The latents of two faces (2, ...), their age vectors (2, K), and a line on each."""
    ager.engine.check_ages("a game of two faces")
    aged = [_with_age(image, one, ager.frame) for image, one in zip(images, attributes, strict=True)]
    squares = np.stack([Letterboxed.of(to_rgb(image), ager.image_size).square for image in images])
    latents = ager.engine.encode(squares, [one for one, _ in aged]).latent
    vectors = ager.code.encode([one.age_years for one, _ in aged])
    return latents, vectors, [f"{name} face: {line}" for name, (_, line) in zip(("first", "second"), aged, strict=True)]


def _small(image: Image.Image) -> Picture:
    return thumbnail(image, _SHEET_SIDE)


def _bordered(image: Image.Image) -> Picture:
    small = Image.fromarray(_small(image))
    width = max(2, min(small.size) // 24)
    ImageDraw.Draw(small).rectangle((0, 0, small.width - 1, small.height - 1), outline=BORDER, width=width)
    return np.asarray(small)
