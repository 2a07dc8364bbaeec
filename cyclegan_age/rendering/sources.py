"""What is to be rendered: a file, a folder, a data set, or the built-in face -> its inputs, and their names."""

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cyclegan_age.ages import AgeCode
from cyclegan_age.attributes import FaceAttributes, attributes_by_name
from cyclegan_age.config import InferConfig, UserError
from cyclegan_age.data.age_folders import attributes_by_path
from cyclegan_age.data.folders import scan
from cyclegan_age.data.shards import refuse_shards
from cyclegan_age.faces import video
from cyclegan_age.images import absent, counted, list_files, list_images, unread

_NAME_BYTES = 200  # longest output name before the ending

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Source:
    """One input.

    Attributes:
        file: its path or content; None for the built-in portrait.
        title: its name on the page.
        stem: of its output files, relative to the output folder.
        attributes: of its face, from its name.
    """

    file: Path | bytes | None
    title: str
    stem: str
    attributes: FaceAttributes


def sources(config: InferConfig, code: AgeCode, say: Callable[[str], None], *, videos: bool) -> list[Source]:
    """The inputs of a configuration.

    Args:
        config: `input`, or `dataroot`, or neither for the built-in portrait; and `limit`.
        code: the ages of the weights, for the age groups of a data set.
        say: called with lines on ignored files.
        videos: whether videos are inputs, too.

    Raises:
        UserError: there are none.
    """
    line, attributes_of = "", attributes_by_path if config.dataroot else lambda path: attributes_by_name(path.name)
    if config.dataroot:
        refuse_shards(config.dataroot, "test.py")
        found = scan(config.dataroot, code, every_group=False)
        root, paths = config.dataroot, found.paths
        for reason, count in found.left_out.items():
            say(f"{root}: {counted(count)} left out: {reason}")
    elif not config.input:
        return [Source(None, "portrait", "portrait", FaceAttributes())]
    elif config.input.is_dir():
        root, paths, line = config.input, list_images(config.input), unread(config.input)
        paths = sorted([*paths, *list_files(root, video.SUFFIXES)]) if videos else paths
    elif config.input.exists():
        root, paths = config.input.parent, [config.input]
    else:
        raise UserError(f"--input {config.input}: {absent(config.input)}")
    if not paths:
        kinds = ".jpg, .png or video files" if videos else ".jpg or .png files"
        raise UserError(f"--input {config.input}: no pictures in it; {line or f'give a folder with {kinds}'}")
    if line:
        say(line)
    paths = paths[: config.limit or None]
    relative = [path.relative_to(root) for path in paths]
    each = zip(paths, relative, output_stems(relative), strict=True)
    return [Source(path, clean_name(name.as_posix()), stem, attributes_of(path)) for path, name, stem in each]


def clean_name(name: str) -> str:
    """A name without what HTML or a file system cannot hold."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\\]", "_", name.encode("utf-8", "replace").decode())


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


def ahead(pool: ThreadPoolExecutor, do: Callable[[A], B], items: Iterable[A], most: int) -> Iterator[B]:
    """`map(do, items)` in a thread, at most `most` items ahead of what was taken."""
    waiting: deque[Future[B]] = deque()
    for item in items:
        waiting.append(pool.submit(do, item))
        if len(waiting) >= most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
