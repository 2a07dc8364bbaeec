"""Face crops on disk -> their pictures at other ages and a page that shows them; `photos` does it for photographs.

Reading, rendering and writing overlap, and only some faces are in memory at a time. Every file is written whole, so
that an interrupted run leaves valid pictures and the same command again replaces them.
"""

import json
import math
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from cyclegan_age import render
from cyclegan_age.config import InferConfig, UserError
from cyclegan_age.data.folders import known_by_path, scan
from cyclegan_age.data.names import Known, known_by_name
from cyclegan_age.data.shards import refuse_shards
from cyclegan_age.faces.blending import Change
from cyclegan_age.faces.frames import Frame
from cyclegan_age.features import find_layers
from cyclegan_age.games import play, samples, write_made
from cyclegan_age.images import BadImage, Picture, list_images, open_image, unread
from cyclegan_age.inference import Ager, Fitted, demo_portrait
from cyclegan_age.page import Section, gallery_page
from cyclegan_age.runs import find_weights, next_folder

FACES_PER_PAGE = 100
_STRIP_SIDE = 256  # greatest side in pixels of one picture in a strip
_LIFE_SIDE = 512  # and of an animation
_KEPT_PIXELS = 4_000_000  # larger pictures are decoded a second time instead of being kept in memory
_NAMED_SKIPS = 20  # skipped files that are named; the others are only counted
_NAME_BYTES = 200  # longest output name before the ending

A = TypeVar("A")
B = TypeVar("B")


@dataclass(kw_only=True)
class _Face:
    """One face on its way from its file to its section of the page."""

    title: str
    stem: str  # of its output files, relative to the output folder
    path: Path | None  # None for the built-in portrait
    image: Image.Image | None  # None where it is too large to be kept
    fitted: Fitted
    frame: Frame  # of the weights
    known: Known = field(default_factory=Known)
    aged: list[Picture | Change] = field(default_factory=list)  # for `fitted.unfit`
    measures: dict[str, float] = field(default_factory=dict)
    maps: dict[str, Tensor] = field(default_factory=dict)
    life: list[Image.Image] = field(default_factory=list)

    def picture(self) -> Image.Image:
        if self.image is not None:
            return self.image
        return _open(self.path, self.frame)


def render_all(config: InferConfig, say: Callable[[str], None]) -> Path:
    """Render every input at every target age into a new output folder and write its gallery page.

    Args:
        config: what to render and where to.
        say: takes lines for the user.

    Returns:
        The page; the results folder where the layers were only listed.

    Raises:
        UserError: no input, no usable picture, no such weights or layer, or the output cannot be written.
    """
    ager = Ager.load(find_weights(config.weights, config.results_dir))
    if "list" in config.features:
        say("layers: " + " ".join(ager.layers()))
        return config.results_dir
    if config.sample or config.game:
        return _render_game(config, ager, say)
    find_layers(ager.generator, config.features, "--features: ")
    ages = wanted_ages(config, ager, say)
    inputs = _inputs(config, ager, say)
    try:
        return _render_into(output_folder(config), config, ager, inputs, ages, say)
    except OSError as e:
        raise UserError(f"--results_dir {config.results_dir}: cannot be written ({e.strerror or e})") from e


def wanted_ages(config: InferConfig, ager: Ager, say: Callable[[str], None]) -> list[float]:
    """The ages to render; says which of them the weights do not know."""
    first, last = ager.code.anchors[0], ager.code.anchors[-1]
    ages = list(dict.fromkeys(config.target_age or map(float, ager.code.anchors)))
    for years in ages:
        if not first <= years <= last:
            say(f"age {years:g}: beyond the {first} to {last} of the weights, rendered as the nearest of them")
    return ages


def _render_game(config: InferConfig, ager: Ager, say: Callable[[str], None]) -> Path:
    """Faces from noise, or a game: what needs no inputs of a folder."""
    if config.game:
        made = play(config.game, ager, steps=config.steps, seed=config.seed, aligned=config.aligned)
        title = f"{config.game[0].capitalize()} game"
    else:
        made = samples(ager, config.sample, config.target_age, seed=config.seed)
        title = "Faces from noise"
    try:
        page = write_made(output_folder(config), made, title=title, facts=_facts(config))
    except OSError as e:
        raise UserError(f"--results_dir {config.results_dir}: cannot be written ({e.strerror or e})") from e
    say(f"{len(made.pictures)} pictures")
    say(f"gallery: {page}")
    return page


def _facts(config: InferConfig) -> list[str]:
    weights = clean_name("/".join(Path(config.weights).parts[-2:])) or "shipped"
    return [f"Weights: {weights}", f"{datetime.now().astimezone():%Y-%m-%d %H:%M}"]


def _inputs(config: InferConfig, ager: Ager, say: Callable[[str], None]) -> list[tuple[Path | None, str, str]]:
    """Path, title and output stem of every input."""
    line = ""  # on files that are not read
    if config.dataroot:
        refuse_shards(config.dataroot, "test.py")
        found = scan(config.dataroot, ager.code, every_group=False)
        root, paths = config.dataroot, found.paths
        for reason, count in found.left_out.items():
            say(f"{root}: {count} pictures left out: {reason}")
    elif not config.input:
        return [(None, "portrait", "portrait")]
    elif config.input.is_dir():
        root, paths, line = config.input, list_images(config.input), unread(config.input)
    elif config.input.exists():
        root, paths = config.input.parent, [config.input]
    else:
        raise UserError(f"--input {config.input}: no such file or folder; check the name")
    if not paths:
        raise UserError(f"--input {config.input}: no pictures in it; {line or 'give a folder with .jpg or .png files'}")
    if line:
        say(line)
    paths = paths[: config.limit or None]
    relative = [p.relative_to(root) for p in paths]
    return list(zip(paths, [clean_name(p.as_posix()) for p in relative], output_stems(relative), strict=True))


def clean_name(name: str) -> str:
    """A name without what HTML or a file system cannot hold."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\\]", "_", name.encode("utf-8", "replace").decode())


def counted(number: int, what: str) -> str:
    """`1 file`, `2 files`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def output_stems(paths: Sequence[Path]) -> list[str]:
    """A stem of output names for each path: its own without the ending, numbered where another one has it already.

    Names that differ in case alone count as one, since some file systems take them so.
    """
    taken: set[str] = set()
    stems = []
    for path in paths:
        name = clean_name(path.stem).encode()[:_NAME_BYTES].decode(errors="ignore")
        base = "/".join([*(clean_name(part) for part in path.parent.parts), name])
        stem, number = base, 2
        while stem.casefold() in taken:
            stem, number = f"{base}-{number}", number + 1
        taken.add(stem.casefold())
        stems.append(stem)
    return stems


def output_folder(config: InferConfig) -> Path:
    """A new folder for the results, or the one that --name says."""
    if not config.name:
        return next_folder(config.results_dir, "test")
    if Path(config.name).name != config.name or config.name.startswith("."):
        raise UserError(f"--name {config.name}: not a plain folder name; use letters, digits, - and _")
    folder = config.results_dir / config.name
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.rglob(".*.part"):  # of a run that was killed
        left.unlink(missing_ok=True)
    return folder


def _render_into(
    folder: Path,
    config: InferConfig,
    ager: Ager,
    inputs: list[tuple[Path | None, str, str]],
    ages: list[float],
    say: Callable[[str], None],
) -> Path:
    single = config.input is not None and config.input.is_file()
    skipped: list[str] = []
    measures: dict[str, dict[str, float]] = {}

    def read(item: tuple[Path | None, str, str]) -> _Face | str:
        path, title, stem = item
        try:
            image = _open(path, ager.frame)
        except (BadImage, OSError) as e:
            return f"skipped {title}: {e.strerror if isinstance(e, OSError) else e}"
        kept = image if image.width * image.height <= _KEPT_PIXELS else None
        tells = known_by_path if config.dataroot else lambda file: known_by_name(file.name)
        fitted, known = ager.fit(image), tells(path) if path else Known()
        return _Face(title=title, stem=stem, path=path, image=kept, fitted=fitted, frame=ager.frame, known=known)

    def usable(found: Iterable[_Face | str]) -> Iterator[_Face]:
        for face in found:
            if isinstance(face, _Face):
                yield face
            else:
                skipped.append(face)
                bar.update(len(ages))
                if len(skipped) <= _NAMED_SKIPS and not single:
                    say(face)

    def write(face: _Face) -> Section:
        if face.measures:
            measures[face.title] = face.measures
        return _write(folder, face, ages)

    begin = time.perf_counter()
    with (
        ThreadPoolExecutor(1) as reader,
        ThreadPoolExecutor(1) as writer,
        tqdm(total=len(inputs) * len(ages), unit="img", disable=None) as bar,
    ):
        faces = usable(ahead(reader, read, inputs, 8))
        rendered = _rendered(ager, faces, ages, config, bar.update)
        sections = list(ahead(writer, write, rendered, 4))
    seconds = time.perf_counter() - begin
    if not sections:
        with suppress(OSError):  # what a run of before left stays
            folder.rmdir()
        place = f"--input {config.input}" if config.input else f"--dataroot {config.dataroot}"
        if single:
            fault = skipped[0].removeprefix(f"skipped {inputs[0][1]}: ")
            raise UserError(f"{place}: {fault}; give another file")
        raise UserError(f"{place}: no usable picture; {counted(len(skipped), 'file')} skipped, give others")
    count = len(sections) * len(ages)
    result = f"{counted(count, 'picture')} of {counted(len(sections), 'face')} in {seconds:.1f} s"
    result += f", {count / seconds:.1f} images/s"
    if skipped:
        result += f"; {counted(len(skipped), 'file')} skipped"
    if measures:
        render.save_text(json.dumps(measures, indent=1), folder / "measures.json")
        for name in next(iter(measures.values())):
            mean = sum(values[name] for values in measures.values()) / len(measures)
            result += "; " + "".join(notes_on({name: mean}))
    page = write_pages(folder, config, sections, result)
    say(result)
    say(f"gallery: {page}")
    return page


def _open(path: Path | None, frame: Frame) -> Image.Image:
    return open_image(path) if path else demo_portrait(frame)


def ahead(pool: ThreadPoolExecutor, do: Callable[[A], B], items: Iterable[A], most: int) -> Iterator[B]:
    """`map(do, items)` in a thread, at most `most` items ahead of what was taken."""
    waiting: deque[Future[B]] = deque()
    for item in items:
        waiting.append(pool.submit(do, item))
        if len(waiting) >= most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _rendered(
    ager: Ager, faces: Iterable[_Face], ages: list[float], config: InferConfig, advance: Callable[[int], object]
) -> Iterator[_Face]:
    """Fill in what the generator makes of each face, in batches of one size across faces and ages."""
    pairs = ((face, years) for face in faces for years in ages)
    while batch := list(islice(pairs, config.batch_size)):
        fits, known = [face.fitted for face, _ in batch], [face.known for face, _ in batch]
        pictures = ager.age_fitted(fits, [years for _, years in batch], config.batch_size, known)
        advance(len(batch))
        for (face, _), picture in zip(batch, pictures, strict=True):
            face.aged.append(picture)
            if len(face.aged) == len(ages):
                measures = ager.read(face.fitted.square[None], [face.known]).measures
                face.measures = {name: float(values[0]) for name, values in measures.items()}
                if config.features:
                    face.maps = ager.features(face.fitted.square, ages, config.features, face.known)
                if config.life:
                    small = face.picture().copy()
                    small.thumbnail((_LIFE_SIDE, _LIFE_SIDE))
                    face.life = ager.life(small, known=face.known)
                yield face


def _write(folder: Path, face: _Face, ages: list[float]) -> Section:
    """Write the files of one face; gives its section of the page."""
    image = face.picture()
    section = Section(title=face.title, input=f"{face.stem}_input.jpg")
    section.notes = notes_on(face.measures)
    render.save_jpg(image, folder / section.input, quality=95)
    names = [f"{years:g}" for years in ages]
    row = [_small(image)]
    for years, name, square in zip(ages, names, face.aged, strict=True):
        aged = face.fitted.unfit(square, image)
        section.ages.append((years, f"{face.stem}_age{name}.png"))
        render.save_png(aged, folder / section.ages[-1][1])
        row.append(_small(aged))
    write_sheets(folder, face.stem, section, row, names, face.maps, face.life)
    return section


def notes_on(measures: Mapping[str, float | Tensor]) -> list[str]:
    """What a model measured on one face, as lines of text."""
    return [f"{name.replace('_', ' ')} {float(value):.3f}" for name, value in measures.items()]


def write_sheets(
    folder: Path,
    stem: str,
    section: Section,
    row: list[Picture],
    names: list[str],
    maps: dict[str, Tensor],
    life: list[Image.Image],
) -> None:
    """Write the strip of a face, its feature maps and its life, and add them to its section.

    Args:
        folder: the output folder.
        stem: of the files, relative to it.
        section: where they are entered.
        row: the input and, for each name, the aged face, all of one size.
        names: of the ages.
        maps: layer -> (N, C, H, W), a map for each name; may be empty.
        life: frames; may be empty.
    """

    def sheet(caption: str, ending: str, picture: Picture) -> None:
        section.sheets.append((caption, f"{stem}_{ending}.png"))
        render.save_png(picture, folder / section.sheets[-1][1])

    sheet("strip", "strip", render.strip(row, ["input", *names]))
    if maps:
        changes = [render.difference_map(row[0], aged) for aged in row[1:]]
        sheet("change: red is lighter, blue is darker than the input", "change", render.strip(changes, names))
    for layer, channels_by_age in maps.items():
        channels = render.feature_grid(channels_by_age[-1])
        sheet(f"{layer}: channels at {names[-1]} years, each on its own scale", f"features-{layer}", channels)
        by_age = render.feature_strip(channels_by_age.unbind(), names)
        sheet(f"{layer}: the channels that change most, by age", f"ages-{layer}", by_age)
    if life:
        section.gif, section.mp4 = f"{stem}_life.gif", f"{stem}_life.mp4"
        render.save_gif(life, folder / section.gif)
        render.save_mp4(life, folder / section.mp4)


def _small(image: Image.Image) -> Picture:
    small = image.copy()
    small.thumbnail((_STRIP_SIDE, _STRIP_SIDE))
    return np.asarray(small)


def write_pages(folder: Path, config: InferConfig, sections: list[Section], result: str) -> Path:
    """Write the gallery, `FACES_PER_PAGE` sections to a page; gives its first page."""
    count = math.ceil(len(sections) / FACES_PER_PAGE)
    names = ["index.html", *(f"page-{i}.html" for i in range(2, count + 1))]
    for old in folder.glob("page-*.html"):
        if old.name not in names:
            old.unlink()
    facts = [*_facts(config), result]
    for i, name in reversed(list(enumerate(names))):
        part = sections[i * FACES_PER_PAGE : (i + 1) * FACES_PER_PAGE]
        text = gallery_page(title="Faces by age", facts=facts, sections=part, pages=names, current=i)
        render.save_text(text, folder / name)
    return folder / "index.html"
