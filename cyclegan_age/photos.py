"""Photographs and videos on disk -> the same ones with their faces at other ages, and a page that shows them."""

import errno
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from cyclegan_age import render
from cyclegan_age.config import InferConfig, UserError
from cyclegan_age.data.names import Known, known_by_name
from cyclegan_age.faces import video
from cyclegan_age.faces.alignment import Place, crop
from cyclegan_age.faces.blending import CENTRE, SEMI_AXES, Change, Pixels, blend
from cyclegan_age.faces.detection import Face, NoFace, chosen, detector, turned_text
from cyclegan_age.faces.files import Photo, as_rgb
from cyclegan_age.faces.frames import FRAMES, Points
from cyclegan_age.faces.heads import Head, Steady
from cyclegan_age.faces.tracking import Track, chosen_tracks, follow
from cyclegan_age.features import find_layers
from cyclegan_age.gallery import (
    ahead,
    clean_name,
    notes_on,
    output_folder,
    output_stems,
    render_all,
    sentence,
    wanted_ages,
    write_pages,
    write_sheets,
)
from cyclegan_age.games import age_warning, estimated_age
from cyclegan_age.images import BadImage, Picture, absent, counted, list_files, list_images, unread
from cyclegan_age.inference import Ager
from cyclegan_age.page import Section
from cyclegan_age.provenance import marked, packet
from cyclegan_age.runs import find_weights, write_atomically

_PREVIEW = 1024  # greatest side in pixels of the input on the page
_STRIP_SIDE = 256  # of one face in a strip
_LIFE_SIDE = 512  # and in an animation
_SHOWN = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})  # what browsers show
_STEADY_S = 0.1  # seconds before and after a frame whose masks its own is averaged with
_PER_AGE = 1.5  # bytes of the output for each byte of an input and each age, about
_NAMED_SKIPS = 20  # skipped files that are named; the others are only counted
_NEAR = FRAMES["utkface"]
_UNKNOWN = Known()


@dataclass(frozen=True)
class _Input:
    path: Path
    title: str
    stem: str  # of its output files, relative to the output folder


def render_photos(config: InferConfig, say: Callable[[str], None]) -> Path:
    """Render the faces of every photograph and video of the input at every target age.

    Args:
        config: what to render and where to.
        say: takes lines for the user.

    Returns:
        The page in the new output folder.

    Raises:
        UserError: no input, no usable one, no such weights or layer, a missing package, or no place to write to.
    """
    ager = Ager.load(find_weights(config.weights, config.results_dir))
    if ager.domains:  # pictures of any kind, which are translated as a whole
        return render_all(config, say, ager)
    inputs = _inputs(config, say)
    find_layers(ager.generator, config.features, "--features: ")
    detector()
    check_change(config, ager)
    ages = wanted_ages(config, ager, say)
    try:
        return _render_into(output_folder(config), config, ager, inputs, ages, say)
    except OSError as e:
        raise UserError(_no_room(config, inputs, len(ages), e)) from e


def _no_room(config: InferConfig, inputs: list[_Input], ages: int, error: OSError) -> str:
    """A line on why nothing can be written; of a full disk with what there is room for and what is needed, about."""
    place = f"--results_dir {config.results_dir}"
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return f"{place}: cannot be written ({error.strerror or error})"
    need = _PER_AGE * ages * sum(one.path.stat().st_size for one in inputs if one.path.exists()) / 1e6
    room = 0.0
    with suppress(OSError):
        room = shutil.disk_usage(config.results_dir).free / 1e6
    return f"{place}: disk full, {room:.3g} MB free and about {need:.3g} MB needed; make room or name another folder"


def check_change(config: InferConfig, ager: Ager) -> None:
    """Errors of --change, and of a face parser that is missing, before the work."""
    heads = ager.heads(np.zeros((64, 64, 3), np.uint8), [Place(0j, 64 + 0j)])
    change = Change(np.zeros((1, 1, 3), np.float32), replaces=bool(ager.encoder.latent_size))
    ager.blended([change], heads, config.strengths)


def _inputs(config: InferConfig, say: Callable[[str], None]) -> list[_Input]:
    source, line = config.input, ""
    if source is None or not source.exists():
        raise UserError(f"--input {source}: {absent(source or Path())}")
    if source.is_dir():
        root, paths = source, sorted([*list_images(source), *list_files(source, video.SUFFIXES)])
        line = unread(source)
    else:
        root, paths = source.parent, [source]
    if not paths:
        raise UserError(
            f"--input {source}: no pictures in it; {line or 'give a folder with .jpg, .png or video files'}"
        )
    if line:
        say(line)
    paths = paths[: config.limit or None]
    relative = [path.relative_to(root) for path in paths]
    stems = output_stems(relative)
    return [_Input(p, clean_name(r.as_posix()), s) for p, r, s in zip(paths, relative, stems, strict=True)]


def _render_into(
    folder: Path, config: InferConfig, ager: Ager, inputs: list[_Input], ages: list[float], say: Callable[[str], None]
) -> Path:
    sections: list[Section] = []
    skipped: list[str] = []
    fault = ""  # of the last one skipped
    faces = done = 0

    def read(one: _Input) -> tuple[_Input, Photo | Exception | None]:
        if one.path.suffix.lower() in video.SUFFIXES:
            return one, None
        try:
            return one, Photo.read(one.path)
        except (BadImage, OSError) as e:
            return one, e

    begin = time.perf_counter()
    with ThreadPoolExecutor(1) as reader, tqdm(total=len(inputs), unit="file", disable=None) as bar:
        for one, photo in ahead(reader, read, inputs, 2):
            try:
                if isinstance(photo, Exception):
                    raise photo
                if photo is None:
                    made, count = _write_video(folder, one, ager, ages, config, say)
                else:
                    made, count = _write_photo(folder, one, photo, ager, ages, config, say)
                sections += made
                faces += count
                done += 1
            except (BadImage, NoFace, FileNotFoundError, PermissionError) as e:
                if isinstance(e, OSError) and (e.filename is None or Path(e.filename) != one.path):
                    raise
                fault = str(e.strerror if isinstance(e, OSError) else e)
                skipped.append(f"skipped {one.title}: {fault}")
                if len(skipped) <= _NAMED_SKIPS and len(inputs) > 1:
                    say(skipped[-1])
            bar.update()
    seconds = time.perf_counter() - begin
    if not sections:
        with suppress(OSError):  # what a run of before left stays
            folder.rmdir()
        if len(inputs) == 1:
            raise UserError(f"--input {inputs[0].path}: {fault if ';' in fault else f'{fault}; give another file'}")
        raise UserError(f"--input {config.input}: no usable face; {counted(len(skipped), 'file')} skipped")
    result = f"{counted(faces, 'face')} in {counted(done, 'file')}, at {counted(len(ages), 'age')} in {seconds:.1f} s"
    if skipped:
        result += f"; {counted(len(skipped), 'file')} skipped"
    page = write_pages(folder, config, sections, result)
    say(result)
    say(f"gallery: {page}")
    return page


def warnings_of(rgb: Picture, faces: Sequence[Face], known: Known = _UNKNOWN) -> list[str]:
    """Lines on faces of a photograph that are turned, or of an age that is not reliable.

    Args:
        rgb: the photograph, uint8 (H, W, 3).
        faces: of it.
        known: of its one face; ages that are not known are estimated.
    """
    if not math.isnan(known.age_years):
        ages = [known.age_years]
    else:
        ages = [_estimated(rgb, face.place(_NEAR)) for face in faces]
    return [line for line in (turned_text(faces), age_warning(ages)) if line]


def _estimated(rgb: Picture, place: Place) -> float:
    return estimated_age(Image.fromarray(crop(rgb, place, _STRIP_SIDE)), _NEAR)


@dataclass(frozen=True)
class AgedFaces:
    """What `age_faces` made of a photograph."""

    rgb: Picture  # upright
    found: list[Face]  # from left to right
    wanted: list[Face]  # those of them that are aged
    places: list[Place]  # of these
    squares: Picture  # uint8 (N, S, S, 3), the generator's pictures of these
    known: Known
    pictures: Iterator[Pixels]  # the upright photograph at each age, made as they are taken


def age_faces(ager: Ager, photo: Photo, name: str, ages: Sequence[float], config: InferConfig) -> AgedFaces:
    """Find the faces of a photograph and render them at each age.

    Args:
        ager: renders.
        photo: where the faces are.
        name: of its file, which may tell the age of the one face in it.
        ages: in years.
        config: which faces, how strongly, and how many at once.

    Raises:
        NoFace: no face is found, or not the one wanted.
    """
    pixels = photo.upright
    rgb = as_rgb(pixels)
    found = detector().find(rgb)
    wanted = chosen(found, config.face)
    places = [face.place(ager.frame) for face in wanted]
    others = [face.place(ager.frame) for face in found if face not in wanted]
    squares = ager.squares(rgb, places)
    count = len(places)
    known = known_by_name(name) if len(found) == 1 else Known()  # a name tells of one face
    many = np.concatenate([squares] * len(ages))
    changes = ager.changes(many, [years for years in ages for _ in places], config.batch_size, [known] * len(many))
    changes = ager.blended(changes, ager.heads(rgb, places), config.strengths)
    pictures = (
        blend(pixels, list(zip(places, changes[i * count : (i + 1) * count], strict=True)), others=others)
        for i in range(len(ages))
    )
    return AgedFaces(rgb, found, wanted, places, squares, known, pictures)


def _write_photo(
    folder: Path,
    one: _Input,
    photo: Photo,
    ager: Ager,
    ages: list[float],
    config: InferConfig,
    say: Callable[[str], None],
) -> tuple[list[Section], int]:
    """Write what is made of a photograph; gives its sections of the page and how many faces were aged."""
    mark = ager.mark if config.provenance else None
    made = age_faces(ager, photo, one.path.name, ages, config)
    rgb, found, wanted, places, known = made.rgb, made.found, made.wanted, made.places, made.known

    section = Section(title=one.title, input=f"{one.stem}_input.jpg")
    render.save_jpg(preview(rgb, found if len(found) > 1 else []), folder / section.input, quality=90)
    if len(found) > 1:
        section.notes.append(f"{len(found)} faces, numbered from left to right; --face chooses one of them.")
    for line in warnings_of(rgb, wanted, known):
        section.notes.append(sentence(line))
        say(f"{one.title}: {line}")
    rows = [[crop(rgb, place, _STRIP_SIDE)] for place in places]
    for years, aged in zip(ages, made.pictures, strict=True):
        file = folder / f"{one.stem}_age{years:g}{photo.suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        data, said = photo.with_upright(aged).encoded(), mark and mark.at(years)
        done = marked(data, said)
        write_atomically(file, done)
        if said and done is data:  # BMP and PPM hold nothing but pixels
            write_atomically(file.with_name(f"{file.name}.xmp"), packet(said))
        aged = as_rgb(aged)
        shown = f"{one.stem}_age{years:g}{photo.suffix}"
        if file.suffix.lower() not in _SHOWN:
            shown = f"{one.stem}_age{years:g}_preview.jpg"
            render.save_jpg(preview(aged, []), folder / shown, quality=90, mark=said)
        section.ages.append((ager.caption(years), shown))
        for row, place in zip(rows, places, strict=True):
            row.append(crop(aged, place, _STRIP_SIDE))

    sections = [section]
    names = [f"{years:g}" for years in ages]
    for face, place, square, row in zip(wanted, places, made.squares, rows, strict=True):
        part, number = section, next(i for i, other in enumerate(found, start=1) if other is face)
        if len(found) > 1:
            part = Section(title=f"{one.title}, face {number}")
            sections.append(part)
        part.notes += notes_on(ager.read(square[None], [known]).measures)
        stem = one.stem if len(found) == 1 else f"{one.stem}_face{number}"
        side = min(_LIFE_SIDE, max(ager.image_size, round(place.side)))
        maps = ager.features(square, ages, config.features, known) if config.features else {}
        life = ager.life(Image.fromarray(crop(rgb, place, side)), known=known) if config.life else []
        write_sheets(folder, stem, part, row, names, maps, life, mark)
    return sections, len(places)


def preview(rgb: Picture, faces: Sequence[Face]) -> Image.Image:
    """A photograph in the size of a page, with the ellipses and numbers of faces."""
    scale = min(1.0, _PREVIEW / max(rgb.shape[:2]))
    size = max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale))
    image = Image.fromarray(rgb).resize(size, Image.Resampling.BOX if scale < 0.5 else Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(image)
    turn = np.linspace(0, 2 * np.pi, 60)
    unit: Points = np.stack([CENTRE[0] + SEMI_AXES[0] * np.cos(turn), CENTRE[1] + SEMI_AXES[1] * np.sin(turn)], axis=1)
    for number, face in enumerate(faces, start=1):
        points = face.place(FRAMES["utkface"]).to_photo(unit) * scale
        line = [(float(x), float(y)) for x, y in points]
        draw.line(line, fill="white", width=3)
        draw.line(line, fill="black", width=1)
        top = line[int(np.argmin(points[:, 1]))]
        height = max(18, min(max(size) // 18, int(np.ptp(points[:, 1])) // 2))  # read on a page that shows it smaller
        draw.text(top, str(number), "white", font_size=height, anchor="mb", stroke_width=2, stroke_fill="black")
    return image


def _write_video(
    folder: Path, one: _Input, ager: Ager, ages: list[float], config: InferConfig, say: Callable[[str], None]
) -> tuple[list[Section], int]:
    """Write a video once for each age; gives its sections of the page and how many faces were aged."""
    if config.life or config.features:
        say(f"{one.title}: --life and --features are made of photographs only")
    fps, total = video.rate(one.path)
    found: list[list[Face]] = []
    cuts: set[int] = set()
    before: Picture | None = None
    with tqdm(total=total or None, unit="frame", desc="faces", leave=False, disable=None) as bar:
        for frame in video.frames(one.path):
            if before is not None and video.begins_scene(before, frame):
                cuts.add(len(found))
            found.append(detector().find(frame, (320, 1280), (320,)))
            before = frame
            bar.update()
    everyone = follow(found, cuts, fps)
    tracks = chosen_tracks(everyone, config.face)
    others = [track for track in everyone if track not in tracks]
    parsed = _heads(ager, one.path, tracks) if ager.frame != FRAMES["utkface"] else iter(())
    steady = Steady(parsed, max(1, round(_STEADY_S * fps)))
    ending = video.ending(one.path)
    names = [f"{one.stem}_age{years:g}{ending}" for years in ages]
    parts = [folder / Path(name).parent / f".{Path(name).stem}.part{ending}" for name in names]
    parts[0].parent.mkdir(parents=True, exist_ok=True)
    estimated: list[float] = []
    with tqdm(total=len(found), unit="frame", desc="ages", leave=False, disable=None) as bar:

        def edit(number: int, frame: Picture) -> list[Pixels]:
            bar.update()
            estimated.extend(
                _estimated(frame, place)
                for track in tracks
                if number == track.first + len(track.strength) // 2 and (place := track.place(number, _NEAR))
            )
            here = _here(ager, frame, number, tracks)
            if not here:
                return [frame] * len(ages)
            heads = steady.at(number)
            faces = [(place, float(tracks[k].strength[number - tracks[k].first]), heads.get(k)) for k, place in here]
            away = [place for _, place in _here(ager, frame, number, others)]
            return _aged_frame(ager, frame, faces, away, ages, config)

        try:
            marks = [ager.mark.at(years) for years in ages] if config.provenance else []
            video.rewrite(one.path, parts, edit, marks)
            for part, name in zip(parts, names, strict=True):
                part.replace(folder / name)
        finally:
            for part in parts:
                part.unlink(missing_ok=True)
    sections = [
        Section(title=f"{one.title} at {years:g} years", mp4=name) for years, name in zip(ages, names, strict=True)
    ]
    middles = [Face(track.landmarks[len(track.landmarks) // 2], (0, 0, 0, 0), 1) for track in tracks]
    for line in filter(None, [turned_text(middles), age_warning(estimated)]):
        sections[0].notes.append(sentence(line))
        say(f"{one.title}: {line}")
    return sections, len(tracks)


def _here(ager: Ager, frame: Picture, number: int, tracks: Sequence[Track]) -> list[tuple[int, Place]]:
    """The faces that are in a frame of a video: their numbers among the tracks, and their places."""
    places = [track.place(number, ager.frame) for track in tracks]
    return [(k, place) for k, place in enumerate(places) if place is not None and place.touches(frame.shape)]


def _heads(ager: Ager, source: Path, tracks: Sequence[Track]) -> Iterator[dict[int, Head]]:
    """The heads of each frame of a video, by the numbers of their tracks."""
    for number, frame in enumerate(video.frames(source)):
        here = _here(ager, frame, number, tracks)
        heads = ager.heads(frame, [place for _, place in here])
        yield {k: head for (k, _), head in zip(here, heads, strict=True) if head}


def _aged_frame(
    ager: Ager,
    frame: Picture,
    faces: Sequence[tuple[Place, float, Head | None]],
    others: Sequence[Place],
    ages: Sequence[float],
    config: InferConfig,
) -> list[Pixels]:
    """A frame of a video at each age; of each face its place, how much of the change is done, and its head."""
    places = [place for place, _, _ in faces]
    squares = ager.squares(frame, places)
    many = np.concatenate([squares] * len(ages))
    changes = ager.changes(many, [years for years in ages for _ in places], config.batch_size)
    changes = ager.blended(changes, [head for _, _, head in faces], config.strengths)
    count = len(places)
    changes = [_weaker(change, faces[i % count][1]) for i, change in enumerate(changes)]
    return [
        blend(frame, list(zip(places, changes[i * count : (i + 1) * count], strict=True)), others=others)
        for i in range(len(ages))
    ]


def _weaker(change: Change, share: float) -> Change:
    """A share of a change."""
    if share >= 1:
        return change
    shift = None if change.shift is None else change.shift * np.float32(share)
    if change.replaces:
        return replace(change, share=share * change.share)
    return replace(change, colour=change.colour * np.float32(share), shift=shift)
