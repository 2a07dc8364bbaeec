"""Contact sheets: for each age group a grid of its faces with label and estimate, and a page with all of them."""

import math
from collections.abc import Sequence
from html import escape
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cyclegan_age.files import write_atomically
from cyclegan_age.html_page import html_page
from cyclegan_age.images import BadImage, Picture, grid, open_image, to_square
from cyclegan_age.labeler.estimates import GROUPS, group_of
from cyclegan_age.labeler.table import BAD, CONFIRMED, CORRECTED, ESTIMATED, Face, Labels
from cyclegan_age.rendering.pictures import save_png

SEXES = {0: "M", 1: "F", 9: "?"}
_SIDE, _LINE = 124, 15  # pixels of a face and of a line below it
_COLUMNS, _ROWS = 8, 6
_COLOURS = {ESTIMATED: "#777777", CONFIRMED: "#007a5e", CORRECTED: "#c2410c"}
_BINS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # of confidence
_LEAST = 5  # minimum number of answers in a line of the table


def write_sheets(labels: Labels, folder: Path) -> Path:
    """Write `GROUP.png` for each group with faces, and `index.html` with these and the accuracy of the estimates.

    A larger group shows a selection, evenly spaced from the least to the most confident.

    Raises:
        OSError: they cannot be written.
    """
    faces = [face for face in labels.faces.values() if face.state != BAD]
    style = "img { max-width: 100%; } td, th { padding: .1rem .8rem .1rem 0; text-align: left; }"
    title = f"Labels of {labels.folder.resolve().name}"
    out = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{len(faces):,} faces, {labels.waiting:,} of them not confirmed. Below each: its label, then the estimate "
        "with its confidence. Frames: grey estimated, green confirmed, orange corrected.</p>",
        *_measured(faces),
    ]
    for group in GROUPS:
        some = sorted((face for face in faces if group_of(face.age) == group), key=lambda face: face.confidence)
        if not some:
            continue
        shown = [some[i] for i in np.linspace(0, len(some) - 1, min(len(some), _COLUMNS * _ROWS)).astype(int)]
        tiles = [_tile(labels.folder, face) for face in shown]
        rows = [tiles[i : i + _COLUMNS] for i in range(0, len(tiles), _COLUMNS)]
        save_png(grid(rows, gap=6), folder / f"{group}.png")
        number = f"{len(some):,}" + (f", {len(shown)} of them shown" if len(shown) < len(some) else "")
        out.append(f'<h2>{group} years: {number}</h2><img src="{group}.png" alt="Faces of {group} years">')
    page = folder / "index.html"
    write_atomically(page, html_page(title, "\n".join(out), style).encode(errors="replace"))
    return page


def _tile(folder: Path, face: Face) -> Picture:
    """A face with a border of its state's colour, label and estimate below it."""
    tile = Image.new("RGB", (_SIDE, _SIDE + 2 * _LINE), "white")
    try:
        picture = Image.fromarray(to_square(open_image(folder / face.file), _SIDE - 6))
        ImageDraw.Draw(tile).rectangle((0, 0, _SIDE - 1, _SIDE - 1), fill=_COLOURS[face.state])
        tile.paste(picture, (3, 3))
    except (BadImage, OSError):  # deleted meanwhile
        pass
    draw, font = ImageDraw.Draw(tile), ImageFont.load_default(11)
    one = face.estimate
    draw.text((2, _SIDE + 1), f"{face.age} {SEXES[face.sex]}", _COLOURS[face.state], font)
    draw.text((_SIDE - 2, _SIDE + 1), Path(face.file).stem[-10:], "#777777", font, anchor="ra")
    sex = "" if math.isnan(one.sex_confidence) else f",  {SEXES[one.sex]} {one.sex_confidence:.0%}"
    draw.text((2, _SIDE + _LINE), f"est. {one.age}  {one.age_confidence:.0%}{sex}", "#444444", font)
    return np.asarray(tile)


def _measured(faces: Sequence[Face]) -> list[str]:
    """Accuracy of the estimates on the confirmed or corrected faces: HTML."""
    known = [face for face in faces if face.state != ESTIMATED]
    if len(known) < _LEAST:
        return []
    ages = [(face.estimate.age_confidence, group_of(face.age) == group_of(face.estimate.age)) for face in known]
    sexes = [
        (face.estimate.sex_confidence, face.sex == face.estimate.sex)
        for face in known
        if face.sex in (0, 1) and face.estimate.sex in (0, 1)
    ]
    out = [
        f"<p>Accuracy of the estimates on the {len(known):,} confirmed or corrected faces:</p>",
        "<table><tr><th>confidence</th><th>faces</th><th>group right</th><th>faces</th><th>sex right</th></tr>",
    ]
    for low, high in [*pairwise(_BINS), (0.0, 1.0)]:
        cells = []
        for some in (ages, sexes):
            right = [ok for confidence, ok in some if low <= confidence < high or confidence == high == 1]
            cells += [f"{len(right):,}", f"{np.mean(right):.0%}" if len(right) >= _LEAST else "-"]
        span = "all" if (low, high) == (0, 1) else f"{low:.0%} to {high:.0%}"
        out.append(f"<tr><td>{span}</td><td>{'</td><td>'.join(cells)}</td></tr>")
    return [*out, "</table>"]
