"""The work list: input pictures, output names, existing outputs and failures."""

import csv
import hashlib
import io
import os
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from cyclegan_age.batch.storage import below, is_file, is_remote, joined, read, write
from cyclegan_age.config import BatchConfig, UserError, needs
from cyclegan_age.images import SUFFIXES, absent, counted, list_images, unread
from cyclegan_age.rendering.sources import clean_name

FAILURES = "failures.csv"
_NAME_BYTES = 200  # longest name of a file or folder, before a suffix is added
_PATH_BYTES = 1000  # longest path below the output folder
_OUTPUT = re.compile(r"(?P<stem>.+)_age(?P<years>[0-9.]+)\.\w+", re.DOTALL)


@dataclass(frozen=True)
class Item:
    """A picture to age."""

    source: str  # its address
    stem: str  # of its output files, relative to the output folder


@dataclass
class Failures:
    """Failed pictures, in a CSV file with the columns `file` and `cause`."""

    address: str
    rows: list[tuple[str, str]] = field(default_factory=list)

    def save(self) -> None:
        """Write the file atomically.

        Raises:
            OSError: it cannot be written.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([("file", "cause"), *self.rows])
        write(self.address, text.getvalue().encode("utf-8", "surrogateescape"))


def all_items(config: BatchConfig, say: Callable[[str], None]) -> list[Item]:
    """Every picture of the input, without duplicates.

    Raises:
        UserError: no such input, an unreadable one, or no pictures in it.
    """
    source = config.input
    try:
        ending = posixpath.splitext(source.partition("?")[0])[1].lower()
        if ending in (".txt", ".parquet") and is_file(source):
            data = read(source)
            listed = _lines(data, f"--input {source}") if ending == ".txt" else _column(data, config, say)
            root = posixpath.dirname(source)
            names = list(dict.fromkeys(name if is_remote(name) else str(PurePosixPath(name)) for name in listed))
            sources = [name if is_remote(name) else joined(root, name) for name in names]
        elif is_remote(source):
            names = sorted(name for name in below(source) if posixpath.splitext(name)[1].lower() in SUFFIXES)
            sources = [joined(source, name) for name in names]
        elif Path(source).is_dir():
            paths = list_images(Path(source))
            results = [folder for folder in {path.parent for path in paths} if _is_inside(folder, config.output)]
            paths = [path for path in paths if path.parent not in results]  # reached through a link
            names = [path.relative_to(source).as_posix() for path in paths]
            sources = list(map(str, paths))
            if line := unread(Path(source)):
                say(line)
        elif Path(source).is_file():
            names, sources = [Path(source).name], [source]
        else:
            raise UserError(f"--input {source}: {absent(Path(source))}")
    except OSError as e:
        raise UserError(
            f"--input {source}: cannot be read ({e.strerror or e}); check the name and the permissions"
        ) from e
    if not names:
        raise UserError(f"--input {source}: no pictures in it; expected a folder or a list of .jpg or .png files")
    items = [Item(*both) for both in zip(sources, output_stems(names), strict=True)]
    return items[: config.limit or None]


def _is_inside(folder: Path, output: str) -> bool:
    if is_remote(output):
        return False
    inside, outside = (os.path.join(os.path.realpath(one), "") for one in (folder, output))  # noqa: PTH118
    return inside.startswith(outside)


def _lines(text: bytes, place: str) -> list[str]:
    if b"\0" in text:
        raise UserError(f"{place}: expected a list in UTF-8, a path on each line")
    lines = re.split(r"[\r\n]+", text.decode("utf-8", "surrogateescape").lstrip("\ufeff"))
    return [line.strip() for line in lines if line.strip()]


def _column(data: bytes, config: BatchConfig, say: Callable[[str], None]) -> list[str]:
    with needs("pyarrow"):
        import pyarrow as pa
        from pyarrow import parquet
    try:
        table = parquet.ParquetFile(pa.BufferReader(data))
        names = table.schema_arrow.names
        if config.column not in names:
            has = ", ".join(map(str, names))
            raise UserError(f"--column {config.column}: not in {config.input}; its columns are {has}")
        values = table.read([config.column])[config.column].to_pylist()
    except pa.ArrowException as e:
        cause = str(e).splitlines()[0]
        raise UserError(f"--input {config.input}: not read as Parquet ({cause}); write it again") from None
    if not all(isinstance(value, str) for value in values if value is not None):
        raise UserError(f"--column {config.column}: holds no paths; expected a column of strings")
    paths = [value for value in values if value]
    if len(paths) < len(values):
        say(f"{counted(len(values) - len(paths), 'line')} without a path left out")
    return paths


def output_stems(names: Sequence[str]) -> list[str]:
    """A stem of output names for each path or address, by the path alone, so that a later run gives the same.

    Folders stay. A hash is added to names that differ only in suffix or case, that are too long, or that contain
    characters which a file system cannot hold.
    """
    bases = [_base(name) for name in names]
    counts = Counter(base.casefold() for base, _ in bases)
    return [
        base if plain and counts[base.casefold()] == 1 else f"{base}-{_hash(name)}"
        for name, (base, plain) in zip(names, bases, strict=True)
    ]


def _base(name: str) -> tuple[str, bool]:
    """A valid name below the output folder, and whether it is unchanged."""
    path = re.sub(r"^[a-z][a-z0-9+.-]*://", "", name).partition("?")[0] if is_remote(name) else name
    path = posixpath.splitext(path.replace("\ufffd", "_"))[0] or path
    parts = [part for part in path.split("/") if part not in ("", ".")]
    cleaned = [_cut("__" if part == ".." else clean_name(part)) for part in parts]
    base = "/".join(cleaned)
    if len(base.encode()) > _PATH_BYTES:
        return cleaned[-1], False
    return base, cleaned == parts


def _cut(name: str) -> str:
    return name.encode()[:_NAME_BYTES].decode(errors="ignore")


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def output_name(item: Item, years: float, suffix: str) -> str:
    """The name of a picture, relative to the output folder."""
    return f"{item.stem}_age{years:g}{suffix}"


def to_do(items: Iterable[Item], ages: Sequence[float], there: Iterable[str]) -> list[Item]:
    """The items that lack a picture at one of the ages, given the names of existing files."""
    bits = {f"{years:g}": 1 << i for i, years in enumerate(ages)}
    done: Counter[str] = Counter()
    for name in there:
        if (m := _OUTPUT.fullmatch(name)) and m["years"] in bits:
            done[m["stem"]] |= bits[m["years"]]
    return [item for item in items if done[item.stem] != (1 << len(bits)) - 1]


def check_output(config: BatchConfig) -> None:
    """Check that the results cannot become inputs of the next run.

    Raises:
        UserError: they can.
    """
    places = [config.input, config.output]
    if not any(map(is_remote, places)):
        places = list(map(os.path.realpath, places))
    inside, outside = (place.partition("?")[0].rstrip("/") + "/" for place in reversed(places))
    if inside.startswith(outside):
        raise UserError(f"--output {config.output}: must be outside the folder of --input")
