"""Faces on disk -> the same ones at other ages, and a page that shows them: sources, faces, ages, outputs.

An aligned crop is a photograph whose face is where the frame says. Reading, rendering and writing overlap, and only
some inputs are in memory at a time. Every file is written whole, so that an interrupted run leaves valid pictures and
the same command again replaces them.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cyclegan_age.config import InferConfig, UserError, WrongWeights
from cyclegan_age.faces import video
from cyclegan_age.faces.detection import NoFace, detector
from cyclegan_age.faces.files import Photo
from cyclegan_age.features import find_layers
from cyclegan_age.files import remove_partial_files, write_error
from cyclegan_age.images import BadImage, counted
from cyclegan_age.inference import Ager
from cyclegan_age.rendering import pictures
from cyclegan_age.rendering.crops import Crop, rendered, warned
from cyclegan_age.rendering.games import play, samples
from cyclegan_age.rendering.outputs import Output, notes_on
from cyclegan_age.rendering.page import Section, write_made, write_pages
from cyclegan_age.rendering.photos import AgedPhoto
from cyclegan_age.rendering.reliability import beyond_text
from cyclegan_age.rendering.sources import Source, ahead, clean_name, sources
from cyclegan_age.rendering.videos import AgedVideo
from cyclegan_age.runs import CROP_WEIGHTS, GAME_WEIGHTS, PHOTO_WEIGHTS, SAMPLE_WEIGHTS, find_weights, next_folder

_NAMED_SKIPS = 20  # skipped files that are named; the others are only counted
_PER_AGE = 1.5  # bytes of the output for each byte of an input and each age, about


def render_all(config: InferConfig, say: Callable[[str], None]) -> Path:
    """Render every input at every target age into a new output folder and write its gallery page.

    Args:
        config: what to render and where to.
        say: takes lines for the user.

    Returns:
        The page; the results folder where the layers were only listed.

    Raises:
        UserError: no input, no usable one, no such weights or layer, a missing package, or no place to write to.
    """
    ager = Ager.load(find_weights(config.weights, config.results_dir, _shipped(config)))
    if "list" in config.features:
        say("layers: " + " ".join(ager.layers()))
        return config.results_dir
    try:
        return (_render_game if config.sample or config.game else _render_inputs)(config, ager, say)
    except WrongWeights as e:
        raise UserError(f"--weights {config.weights}: {e.text}") from None


def _render_inputs(config: InferConfig, ager: Ager, say: Callable[[str], None]) -> Path:
    aligned = config.aligned or not config.input or bool(ager.domains)  # without ages, pictures of any kind
    find_layers(ager.generator, config.features, "--features: ")
    ages = wanted_ages(config, ager, say)
    inputs = sources(config, ager.code, say, videos=not aligned)
    if not aligned:
        detector()
        ager.photo_faces.check(config.strengths)
    try:
        folder = output_folder(config)
        return _Run(config=config, ager=ager, ages=ages, say=say, aligned=aligned, folder=folder)(inputs)
    except WrongWeights:
        with suppress(OSError):  # files of an earlier run stay
            folder.rmdir()
        raise
    except OSError as e:
        raise _write_error(config, inputs, len(ages), e) from e


def _shipped(config: InferConfig) -> str:
    """The shipped weights that suit a configuration best."""
    if config.sample or config.game[:1] in (("morph",), ("kids",)):
        return SAMPLE_WEIGHTS if config.sample else GAME_WEIGHTS
    return CROP_WEIGHTS if config.aligned or config.dataroot else PHOTO_WEIGHTS


def _write_error(config: InferConfig, inputs: Sequence[Source], ages: int, error: OSError) -> UserError:
    """Why nothing can be written; for a full disk, with the free space and an estimate of the needed one."""
    files = [one.file for one in inputs if isinstance(one.file, Path) and one.file.exists()]
    needed = _PER_AGE * ages * sum(file.stat().st_size for file in files)
    place = f"--results_dir {config.results_dir}"
    return write_error(place, error, "or choose another folder", folder=config.results_dir, needed=needed)


def wanted_ages(config: InferConfig, ager: Ager, say: Callable[[str], None]) -> list[float]:
    """The ages to render; says which of them the weights do not know.

    Raises:
        UserError: flags for weights of another kind: of ages, or of domains.
    """
    if ager.domains or config.target_domain:
        return _wanted_domains(config, ager)
    ages = list(dict.fromkeys(config.target_age or map(float, ager.code.anchors)))
    for line in filter(None, (beyond_text(ager, years) for years in ages)):
        say(line)
    return ages


def _wanted_domains(config: InferConfig, ager: Ager) -> list[float]:
    """The numbers of the domains to translate to, which stand for years."""
    if not ager.domains:
        raise UserError(f"--target_domain {config.target_domain[0]}: needs weights with domains; use --target_age")
    for flag, given, remedy in (
        ("--target_age", config.target_age, "leave it out, or give --target_domain"),
        ("--dataroot", config.dataroot, "give the folder as --input"),
        ("--life", config.life, "leave it out"),
        ("--change", config.change, "leave it out"),
        ("--face", config.face != "all", "leave it out"),
    ):
        if given:
            raise UserError(f"{flag}: needs weights with ages; {remedy}")
    for name in config.target_domain:
        if name not in ager.domains:
            raise UserError(f"--target_domain {name}: unknown to the weights; they have {', '.join(ager.domains)}")
    return [float(k) for k, name in enumerate(ager.domains) if name in (config.target_domain or ager.domains)]


def _render_game(config: InferConfig, ager: Ager, say: Callable[[str], None]) -> Path:
    """Faces from noise, or a game: what needs no inputs of a folder."""
    if ager.domains:
        raise UserError(f"{'--game' if config.game else '--sample'}: needs weights with ages")
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
        raise _write_error(config, [], 0, e) from e
    say(counted(len(made.pictures)))
    say(f"gallery: {page}")
    return page


def _facts(config: InferConfig) -> list[str]:
    weights = clean_name("/".join(Path(config.weights).parts[-2:])) or "shipped"
    return [f"Weights: {weights}", f"{datetime.now().astimezone():%Y-%m-%d %H:%M}"]


def output_folder(config: InferConfig) -> Path:
    """A new folder for the results, or the one that --name says."""
    if not config.name:
        return next_folder(config.results_dir, "test")
    folder = config.results_dir / config.name
    folder.mkdir(parents=True, exist_ok=True)
    remove_partial_files(folder)
    return folder


_Read = tuple[Source, Crop | Photo | Exception | None]  # None for a video, which is read frame by frame


@dataclass(kw_only=True)
class _Run:
    """Inputs on their way to the page.

    Attributes:
        aligned: whether they are aligned crops; otherwise faces are looked for.
        folder: where the files go.
        faults: of the inputs that were skipped.
    """

    config: InferConfig
    ager: Ager
    ages: list[float]
    say: Callable[[str], None]
    aligned: bool
    folder: Path
    sections: list[Section] = field(default_factory=list)
    measures: dict[str, Mapping[str, float]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    files: int = 0
    faces: int = 0
    only: Path | None = None  # the only input

    def __call__(self, inputs: Sequence[Source]) -> Path:
        """Render the inputs; gives the page."""
        named = self.config.input is not None and self.config.input.is_file()
        if isinstance(inputs[0].file, Path) and (named or (len(inputs) == 1 and not self.aligned)):
            self.only = inputs[0].file
        begin = time.perf_counter()
        with (
            ThreadPoolExecutor(1) as reader,
            ThreadPoolExecutor(1) as writer,
            tqdm(total=len(inputs) * len(self.ages), unit="img", disable=None) as bar,
        ):
            if self.aligned:
                found = ahead(reader, self._read, inputs, 8)
                crops = rendered(self.ager, self._crops(found, bar), self.ages, self.config, bar.update)
                done = ahead(writer, self._write, warned(self.ager, crops), 4)
            else:
                done = self._photos(ahead(reader, self._read, inputs, 2), bar)
            for output, sections in done:
                self._add(output, sections)
        return self._page(time.perf_counter() - begin)

    def _read(self, source: Source) -> _Read:
        try:
            if self.aligned:
                return source, Crop.read(source, self.ager)
            assert isinstance(source.file, Path)
            return source, None if source.file.suffix.lower() in video.SUFFIXES else Photo.read(source.file)
        except (BadImage, OSError) as e:
            return source, e

    def _crops(self, found: Iterable[_Read], bar: Any) -> Iterator[Crop]:
        for source, one in found:
            if isinstance(one, Crop):
                yield one
            elif isinstance(one, Exception):
                self._skip(source, one)
                bar.update(len(self.ages))

    def _photos(self, found: Iterable[_Read], bar: Any) -> Iterator[tuple[Output, list[Section]]]:
        for source, one in found:
            try:
                yield self._write(self._aged(source, one))
            except (BadImage, NoFace, FileNotFoundError, PermissionError) as e:
                if isinstance(e, OSError) and (e.filename is None or Path(e.filename) != source.file):
                    raise
                self._skip(source, e)
            bar.update(len(self.ages))

    def _aged(self, source: Source, one: Crop | Photo | Exception | None) -> Output:
        if isinstance(one, Exception):
            raise one
        if isinstance(one, Photo):
            return AgedPhoto(source, one, self.ager, self.ages, self.config)
        assert isinstance(source.file, Path)
        return AgedVideo(source, source.file, self.config, self.say)

    def _write(self, output: Output) -> tuple[Output, list[Section]]:
        mark = self.ager.mark if self.config.provenance else None
        return output, output.write(self.folder, self.ager, self.ages, mark)

    def _skip(self, source: Source, error: Exception) -> None:
        self.faults.append(str((error.strerror or error) if isinstance(error, OSError) else error))
        if len(self.faults) <= _NAMED_SKIPS and not self.only:
            self.say(f"skipped {source.title}: {self.faults[-1]}")

    def _add(self, output: Output, sections: Sequence[Section]) -> None:
        self.sections += sections
        self.files += 1
        self.faces += output.count
        lines = [f"{output.source.title}: {line}" for line in output.warnings]
        self.warnings += lines
        for line in () if self.aligned else lines:  # of crops there may be very many
            self.say(line)
        if output.measures:
            self.measures[output.source.title] = output.measures

    def _page(self, seconds: float) -> Path:
        """Write the page, and say what there is."""
        skipped = f"{counted(len(self.faults), 'file')} skipped"
        if not self.sections:
            with suppress(OSError):  # files of an earlier run stay
                self.folder.rmdir()
            if self.only:
                fault = self.faults[0] if ";" in self.faults[0] else f"{self.faults[0]}; expected a picture of a face"
                raise UserError(f"--input {self.only}: {fault}")
            place = f"--input {self.config.input}" if self.config.input else f"--dataroot {self.config.dataroot}"
            raise UserError(f"{place}: no usable {'picture' if self.aligned else 'face'}; {skipped}; expected faces")
        result = self._result(seconds) + (f"; {skipped}" if self.faults else "")
        if self.measures:
            pictures.save_text(json.dumps(self.measures, indent=1), self.folder / "measures.json")
            each = self.measures.values()
            means = {name: sum(values[name] for values in each) / len(each) for name in next(iter(each))}
            result = "; ".join([result, *notes_on(means)])
        if self.aligned and self.warnings:
            many = f"{len(self.warnings)} such faces; the page says which, the first is "
            self.say((many if len(self.warnings) > 1 else "") + self.warnings[0])
        page = write_pages(self.folder, self.sections, [*_facts(self.config), result])
        self.say(result)
        self.say(f"gallery: {page}")
        return page

    def _result(self, seconds: float) -> str:
        ages = len(self.ages)
        if not self.aligned:
            of = f"{counted(self.faces, 'face')} in {counted(self.files, 'file')}, at {counted(ages, 'age')}"
            return f"{of} in {seconds:.1f} s"
        of, count = counted(self.files, "input" if self.ager.domains else "face"), self.files * ages
        return f"{counted(count)} of {of} in {seconds:.1f} s, {count / seconds:.1f} images/s"
