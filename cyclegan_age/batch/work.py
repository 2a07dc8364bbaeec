"""The work of one process: age pictures, write the results, and report on each."""

import io
import os
import posixpath
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from cyclegan_age.attributes import attributes_by_name
from cyclegan_age.batch.items import Item, output_name
from cyclegan_age.batch.storage import joined, read, write
from cyclegan_age.config import InferConfig, UserError
from cyclegan_age.faces.detection import NoFace
from cyclegan_age.faces.files import Photo
from cyclegan_age.images import BadImage
from cyclegan_age.inference import Ager
from cyclegan_age.provenance import marked
from cyclegan_age.rendering.crops import Crop, rendered
from cyclegan_age.rendering.photos import AgedPhoto
from cyclegan_age.rendering.sources import Source, ahead, clean_name

_AHEAD = 2  # queued pictures per thread, before and after the network


class Unwritable(Exception):
    """The output folder is not writable, so that the run must end."""


@dataclass(frozen=True)
class Report:
    """The outcome of an item: the number of pictures written, or the cause of the failure."""

    stem: str  # the item's
    pictures: int = 0
    cause: str = ""


class Renderer:
    """Renders items with one network; see `rendering.crops` and `rendering.photos`."""

    def __init__(
        self,
        *,
        weights: Path,
        config: InferConfig,  # how to render
        ages: Sequence[float],  # in years
        output: str,  # address of the output folder
        threads: int = 1,  # for reading and decoding, and as many for encoding and writing
    ) -> None:
        self._ager = Ager.load(weights)
        self._config, self._ages, self.output, self._threads = config, list(ages), output, threads

    def __call__(self, items: Sequence[Item]) -> list[Report]:
        """Render items; if one of them breaks the batch, render them one by one.

        Raises:
            Unwritable: the output cannot be written.
        """
        work = self._crops if self._config.aligned else self._photos
        try:
            return list(work(items))
        except Unwritable:
            raise
        except Exception as e:
            if len(items) == 1:
                return [Report(items[0].stem, cause=f"{type(e).__name__}: {_line(e)}")]
            return [report for item in items for report in self([item])]

    def _crops(self, items: Sequence[Item]) -> Iterator[Report]:
        by_stem = {item.stem: item for item in items}
        failed: list[Report] = []

        def start(item: Item) -> Crop | Report:
            try:
                attributes = attributes_by_name(_file_name(item))
                return Crop.read(Source(read(item.source), item.source, item.stem, attributes), self._ager)
            except (BadImage, OSError) as e:
                return Report(item.stem, cause=_line(e))

        def readable(found: Iterator[Crop | Report]) -> Iterator[Crop]:
            for one in found:
                if isinstance(one, Crop):
                    yield one
                else:
                    failed.append(one)

        def finish(face: Crop) -> Report:
            image = face.picture()
            for years, square in zip(self._ages, face.changed, strict=True):
                self._write(by_stem[face.source.stem], years, ".png", partial(_png, face.boxed.restore(square, image)))
            return Report(face.source.stem, len(self._ages))

        with ThreadPoolExecutor(self._threads) as readers, ThreadPoolExecutor(self._threads) as writers:
            faces = readable(ahead(readers, start, items, self._config.batch_size + _AHEAD * self._threads))
            done = rendered(self._ager, faces, self._ages, self._config, lambda _: None)
            yield from ahead(writers, finish, done, self._config.batch_size + _AHEAD * self._threads)
        yield from failed

    def _photos(self, items: Sequence[Item]) -> Iterator[Report]:
        def start(item: Item) -> tuple[Item, Photo | Exception]:
            try:
                data = read(item.source)
                return item, Photo.read(data, suffix=posixpath.splitext(_file_name(item))[1])
            except (BadImage, OSError) as e:
                return item, e

        def finish(one: tuple[Item, Photo, list[Photo]]) -> Report:
            item, photo, aged = one
            for years, picture in zip(self._ages, aged, strict=True):
                self._write(item, years, photo.suffix, picture.encoded)
            return Report(item.stem, len(aged))

        failed: list[Report] = []

        def render(found: Iterator[tuple[Item, Photo | Exception]]) -> Iterator[tuple[Item, Photo, list[Photo]]]:
            for item, photo in found:
                try:
                    if isinstance(photo, Exception):
                        raise photo
                    source = Source(None, item.source, item.stem, attributes_by_name(_file_name(item)))
                    done = AgedPhoto(source, photo, self._ager, self._ages, self._config)
                    yield item, photo, [photo.with_upright(pixels) for pixels in done.aged()]
                except (BadImage, NoFace, OSError) as e:
                    failed.append(Report(item.stem, cause=_line(e)))

        with ThreadPoolExecutor(self._threads) as readers, ThreadPoolExecutor(self._threads) as writers:
            yield from ahead(
                writers, finish, render(ahead(readers, start, items, self._threads + 1)), self._threads + 1
            )
        yield from failed

    def _write(self, item: Item, years: float, suffix: str, encode: Callable[[], bytes]) -> None:
        data = marked(encode(), self._ager.mark.at(years) if self._config.provenance else None)
        try:
            write(joined(self.output, output_name(item, years, suffix)), data)
        except OSError as e:
            raise Unwritable(e.strerror or _line(e)) from None


def _file_name(item: Item) -> str:
    return item.source.partition("?")[0].rpartition("/")[2]


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, format="PNG", compress_level=1)
    return out.getvalue()


def _line(error: Exception) -> str:
    """An error as one line of a table."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return clean_name((text.splitlines() or [""])[0])


class Worker:
    """A `Renderer` in Ray Data's interface: columns of a block of items in, columns of reports out."""

    def __init__(self, weights: Path, config: InferConfig, ages: Sequence[float], output: str, threads: int) -> None:
        self._fault = ""
        try:
            self._renderer = Renderer(weights=weights, config=config, ages=ages, output=output, threads=threads)
        except UserError as e:
            self._fault = str(e)

    def __call__(self, block: dict[str, list[bytes]]) -> dict[str, list[bytes] | list[int]]:
        """Columns `source` and `stem` -> `stem`, `pictures`, `cause` and `fault`; texts are bytes as of `os.fsencode`.

        A fault ends the run.
        """
        stems = [os.fsdecode(stem) for stem in block["stem"]]
        reports: list[Report] = []
        if not self._fault:
            try:
                reports = self._renderer(
                    [Item(os.fsdecode(s), stem) for s, stem in zip(block["source"], stems, strict=True)]
                )
            except Unwritable as e:
                self._fault = (
                    f"--output {self._renderer.output}: cannot be written ({e}); free space or grant permission"
                )
        if self._fault:
            reports = [Report(stem) for stem in stems]
        return {
            "stem": [os.fsencode(report.stem) for report in reports],
            "pictures": [report.pictures for report in reports],
            "cause": [report.cause.encode() for report in reports],
            "fault": [self._fault.encode()] * len(reports),
        }
