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
from dataclasses import dataclass, field, replace
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
from cyclegan_age.games import age_warning, estimated_age, play, samples, write_made
from cyclegan_age.images import BadImage, Picture, absent, counted, list_images, open_image, unread
from cyclegan_age.inference import Ager, Fitted, demo_portrait
from cyclegan_age.page import Section, gallery_page
from cyclegan_age.provenance import Mark
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
class Face:
    """One face on its way from its file to its pictures."""

    title: str
    stem: str  # of its output files, relative to the output folder
    source: Path | bytes | None  # a file, or what it holds; None for the built-in portrait
    image: Image.Image | None  # None where it is too large to be kept
    fitted: Fitted
    frame: Frame  # of the weights
    known: Known = field(default_factory=Known)
    aged: list[Picture | Change] = field(default_factory=list)  # for `fitted.unfit`
    measures: dict[str, float] = field(default_factory=dict)
    warning: str = ""  # of an age that is not reliable
    maps: dict[str, Tensor] = field(default_factory=dict)
    life: list[Image.Image] = field(default_factory=list)

    @classmethod
    def read(cls, source: Path | bytes | None, ager: Ager, *, title: str, stem: str, known: Known) -> "Face":
        """Decode an aligned crop and fit it into the generator's square.

        Raises:
            BadImage: see `images.open_image`.
            OSError: the file cannot be read.
        """
        image = _open(source, ager.frame)
        kept = image if image.width * image.height <= _KEPT_PIXELS else None
        fitted = ager.fit(image)
        return cls(title=title, stem=stem, source=source, image=kept, fitted=fitted, frame=ager.frame, known=known)

    def picture(self) -> Image.Image:
        """The crop as it was read."""
        return _open(self.source, self.frame) if self.image is None else self.image


def render_all(config: InferConfig, say: Callable[[str], None], ager: Ager | None = None) -> Path:
    """Render every input at every target age into a new output folder and write its gallery page.

    Args:
        config: what to render and where to.
        say: takes lines for the user.
        ager: the weights, if they are loaded already.

    Returns:
        The page; the results folder where the layers were only listed.

    Raises:
        UserError: no input, no usable picture, no such weights or layer, or the output cannot be written.
    """
    ager = ager or Ager.load(find_weights(config.weights, config.results_dir))
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
    """The ages to render; says which of them the weights do not know.

    Raises:
        UserError: flags for weights of another kind: of ages, or of domains.
    """
    if ager.domains or config.target_domain:
        return _wanted_domains(config, ager)
    first, last = ager.code.anchors[0], ager.code.anchors[-1]
    ages = list(dict.fromkeys(config.target_age or map(float, ager.code.anchors)))
    for years in ages:
        if not first <= years <= last:
            say(f"age {years:g}: beyond the {first} to {last} of the weights, rendered as the nearest of them")
    return ages


def _wanted_domains(config: InferConfig, ager: Ager) -> list[float]:
    """The numbers of the domains to translate to, which stand for years."""
    if not ager.domains:
        raise UserError(f"--target_domain {config.target_domain[0]}: weights of ages; give --target_age")
    for flag, given, remedy in (
        ("--target_age", config.target_age, "leave it out, or give --target_domain"),
        ("--dataroot", config.dataroot, "give the folder as --input"),
        ("--life", config.life, "leave it out"),
        ("--change", config.change, "leave it out"),
        ("--face", config.face != "all", "leave it out"),
    ):
        if given:
            raise UserError(f"{flag}: not with weights that know no ages; {remedy}")
    for name in config.target_domain:
        if name not in ager.domains:
            raise UserError(f"--target_domain {name}: unknown to the weights; they have {', '.join(ager.domains)}")
    return [float(k) for k, name in enumerate(ager.domains) if name in (config.target_domain or ager.domains)]


def _render_game(config: InferConfig, ager: Ager, say: Callable[[str], None]) -> Path:
    """Faces from noise, or a game: what needs no inputs of a folder."""
    if ager.domains:
        raise UserError(f"{'--game' if config.game else '--sample'}: not with weights that know no ages; give others")
    if config.game:
        made = play(config.game, ager, steps=config.steps, seed=config.seed, aligned=config.aligned)
        title = f"{config.game[0].capitalize()} game"
    else:
        made = samples(ager, config.sample, config.target_age, seed=config.seed)
        title = "Faces from noise"
    try:
        mark = replace(ager.mark, whole=bool(config.sample)) if config.provenance else None
        page = write_made(output_folder(config), made, title=title, facts=_facts(config), mark=mark)
    except OSError as e:
        raise UserError(f"--results_dir {config.results_dir}: cannot be written ({e.strerror or e})") from e
    say(f"{counted(len(made.pictures))}")
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
            say(f"{root}: {counted(count)} left out: {reason}")
    elif not config.input:
        return [(None, "portrait", "portrait")]
    elif config.input.is_dir():
        root, paths, line = config.input, list_images(config.input), unread(config.input)
    elif config.input.exists():
        root, paths = config.input.parent, [config.input]
    else:
        raise UserError(f"--input {config.input}: {absent(config.input)}")
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


def sentence(line: str) -> str:
    """A line as a sentence of the page."""
    return f"{line[0].upper()}{line[1:]}."


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
    warnings: list[str] = []

    def read(item: tuple[Path | None, str, str]) -> Face | str:
        path, title, stem = item
        tells = known_by_path if config.dataroot else lambda file: known_by_name(file.name)
        try:
            return Face.read(path, ager, title=title, stem=stem, known=tells(path) if path else Known())
        except (BadImage, OSError) as e:
            return f"skipped {title}: {e.strerror if isinstance(e, OSError) else e}"

    def usable(found: Iterable[Face | str]) -> Iterator[Face]:
        for face in found:
            if isinstance(face, Face):
                yield face
            else:
                skipped.append(face)
                bar.update(len(ages))
                if len(skipped) <= _NAMED_SKIPS and not single:
                    say(face)

    def warned(found: Iterable[Face]) -> Iterator[Face]:
        for face in found:
            if face.source is not None and not ager.domains:
                own = face.known.age_years
                face.warning = age_warning([estimated_age(face.picture(), ager.frame) if math.isnan(own) else own])
            yield face

    def write(face: Face) -> Section:
        if face.measures:
            measures[face.title] = face.measures
        if face.warning:
            warnings.append(f"{face.title}: {face.warning}")
        return _write(folder, face, [ager.caption(years) for years in ages], ager.mark if config.provenance else None)

    begin = time.perf_counter()
    with (
        ThreadPoolExecutor(1) as reader,
        ThreadPoolExecutor(1) as writer,
        tqdm(total=len(inputs) * len(ages), unit="img", disable=None) as bar,
    ):
        faces = usable(ahead(reader, read, inputs, 8))
        done = warned(rendered(ager, faces, ages, config, bar.update))
        sections = list(ahead(writer, write, done, 4))
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
    kind = "input" if ager.domains else "face"
    result = f"{counted(count, 'picture')} of {counted(len(sections), kind)} in {seconds:.1f} s"
    result += f", {count / seconds:.1f} images/s"
    if skipped:
        result += f"; {counted(len(skipped), 'file')} skipped"
    if measures:
        render.save_text(json.dumps(measures, indent=1), folder / "measures.json")
        for name in next(iter(measures.values())):
            mean = sum(values[name] for values in measures.values()) / len(measures)
            result += "; " + "".join(notes_on({name: mean}))
    if len(warnings) == 1:
        say(warnings[0])
    elif warnings:
        say(f"{len(warnings)} such faces; the page says which, the first is {warnings[0]}")
    page = write_pages(folder, config, sections, result)
    say(result)
    say(f"gallery: {page}")
    return page


def _open(source: Path | bytes | None, frame: Frame) -> Image.Image:
    return demo_portrait(frame) if source is None else open_image(source)


def ahead(pool: ThreadPoolExecutor, do: Callable[[A], B], items: Iterable[A], most: int) -> Iterator[B]:
    """`map(do, items)` in a thread, at most `most` items ahead of what was taken."""
    waiting: deque[Future[B]] = deque()
    for item in items:
        waiting.append(pool.submit(do, item))
        if len(waiting) >= most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def rendered(
    ager: Ager, faces: Iterable[Face], ages: list[float], config: InferConfig, advance: Callable[[int], object]
) -> Iterator[Face]:
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


def _write(folder: Path, face: Face, captions: list[str], mark: Mark | None) -> Section:
    """Write the files of one face, a picture for each caption; gives its section of the page."""
    image = face.picture()
    section = Section(title=face.title, input=f"{face.stem}_input.jpg")
    section.notes = [*([sentence(face.warning)] if face.warning else []), *notes_on(face.measures)]
    render.save_jpg(image, folder / section.input, quality=95)
    names = [caption.removesuffix(" years") for caption in captions]
    row = [_small(image)]
    for caption, name, square in zip(captions, names, face.aged, strict=True):
        aged = face.fitted.unfit(square, image)
        ending = re.sub(r"[^\w.-]+", "_", caption) if caption.startswith("to ") else f"age{name}"
        section.ages.append((caption, f"{face.stem}_{ending}.png"))
        render.save_png(aged, folder / section.ages[-1][1], mark=_said(mark, name))
        row.append(_small(aged))
    write_sheets(folder, face.stem, section, row, names, face.maps, face.life, mark)
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
    mark: Mark | None = None,
) -> None:
    """Write the strip of a face, its feature maps and its life, and add them to its section.

    Args:
        folder: the output folder.
        stem: of the files, relative to it.
        section: where they are entered.
        row: the input and, for each name, the aged face, all of one size.
        names: of the ages, in years, or of what else there is.
        maps: layer -> (N, C, H, W), a map for each name; may be empty.
        life: frames; may be empty.
        mark: what the strip and the life say of themselves.
    """

    def sheet(caption: str, ending: str, picture: Picture, said: Mark | None = None) -> None:
        section.sheets.append((caption, f"{stem}_{ending}.png"))
        render.save_png(picture, folder / section.sheets[-1][1], mark=said)

    sheet("strip", "strip", render.strip(row, ["input", *names]), _said(mark, *names))
    if maps:
        changes = [render.difference_map(row[0], aged) for aged in row[1:]]
        sheet("change: red is lighter, blue is darker than the input", "change", render.strip(changes, names))
    for layer, channels_by_age in maps.items():
        channels = render.feature_grid(channels_by_age[-1])
        domain = names[-1].startswith("to ")
        last = names[-1] if domain else f"at {names[-1]} years"
        sheet(f"{layer}: channels {last}, each on its own scale", f"features-{layer}", channels)
        if not domain:
            by_age = render.feature_strip(channels_by_age.unbind(), names)
            sheet(f"{layer}: the channels that change most, by age", f"ages-{layer}", by_age)
    if life:
        section.gif, section.mp4 = f"{stem}_life.gif", f"{stem}_life.mp4"
        of_life = mark and mark.of("life")
        render.save_gif(life, folder / section.gif, mark=of_life)
        render.save_mp4(life, folder / section.mp4, mark=of_life)


def _said(mark: Mark | None, *names: str) -> Mark | None:
    """What a picture says of itself that shows these ages, in years, or `to B`."""
    if mark is None:
        return None
    return mark.of(", ".join(names)) if names[0].startswith("to ") else mark.at(*map(float, names))


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
