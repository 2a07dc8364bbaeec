"""Indices of WebDataset shards: the position and labels of each picture; patterns of shard names.

See `cyclegan_age.data.shards` for the format.
"""

import csv
import io
import json
import logging
import math
import re
import tarfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclegan_age.attributes import OLDEST, FaceAttributes, form_of, labels_in_name, stem_of
from cyclegan_age.config import UserError
from cyclegan_age.data.cache_files import cache_folder, explained, stamp
from cyclegan_age.data.fetching import Absent, Fetched
from cyclegan_age.files import write_atomically
from cyclegan_age.images import SUFFIXES

COLUMNS = ("file", "offset", "size", "age", "sex", "race", "person", "exact")  # of an index; offset and size in bytes
_MOST = 100_000  # maximum number of shards of a training
_SEXES = {"0": 0.0, "male": 0.0, "m": 0.0, "man": 0.0, "1": 1.0, "female": 1.0, "f": 1.0, "woman": 1.0}

logger = logging.getLogger("cyclegan_age")


def expanded(text: str) -> list[str]:
    """The names of a pattern with number ranges in braces: `a-{08..10}` is a-08, a-09, a-10.

    Raises:
        UserError: a descending range, or too many names.
    """
    found = re.search(r"\{(\d+)\.\.(\d+)\}", text)
    if not found:
        return [text]
    first, last = int(found[1]), int(found[2])
    if first > last:
        raise UserError(f"--dataroot {text}: {found[0]} is descending; put the smaller number first")
    if last - first >= _MOST:
        raise UserError(f"--dataroot {text}: more than {_MOST:,} shards; make fewer and larger ones")
    names = [f"{text[: found.start()]}{i:0{len(found[1])}}{text[found.end() :]}" for i in range(first, last + 1)]
    return [name for one in names for name in expanded(one)]


def is_url(text: str) -> bool:
    """Whether a shard is on a web server."""
    return text.startswith(("http://", "https://"))


def index_of(shard: Path) -> bytes:
    """The index of a shard, as the content of its file.

    Raises:
        UserError: it is no uncompressed tar file, or cannot be read.
    """
    pictures: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, dict[str, Any]] = {}
    try:
        with warnings.catch_warnings(), tarfile.open(shard, "r:") as tar:
            warnings.simplefilter("ignore")
            for member in _members(tar, shard):
                folder, _, name = member.name.rpartition("/")
                key, _, ending = name.partition(".")
                key = f"{folder}/{key}"
                if f".{ending.rpartition('.')[2].lower()}" in SUFFIXES:
                    pictures.setdefault(key, (member.name, member.offset_data, member.size))
                elif ending.lower() == "json" and (file := tar.extractfile(member)):
                    labels[key] = _json(file.read())
    except tarfile.ReadError:
        raise UserError(f"--dataroot {shard}: not an uncompressed tar file; decompress it, or make it again") from None
    except OSError as e:
        raise UserError(
            f"--dataroot {shard}: cannot be read: {e.strerror}; grant permission or choose another"
        ) from None
    return as_index((*place, attributes_of(labels.get(key, {}), place[0])) for key, place in pictures.items())


def as_index(pictures: Iterator[tuple[str, int, int, FaceAttributes]]) -> bytes:
    """An index of name, offset, size in bytes and labels of each picture of a shard."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, offset, size, attributes in pictures:
        age, sex, race = (
            "" if math.isnan(n) else f"{n:g}" for n in (attributes.age_years, attributes.sex, attributes.race)
        )
        writer.writerow((name, offset, size, age, sex or "9", race or "9", attributes.person, int(attributes.exact)))
    return text.getvalue().encode(errors="surrogateescape")


def attributes_of(labels: Mapping[str, Any], name: str) -> FaceAttributes:
    """The labels of a picture; without an age in them, those in its name in a public set's form."""

    def number(key: str, most: float) -> float:
        try:
            value = float(labels.get(key, math.nan))
        except (TypeError, ValueError):
            return math.nan
        return value if 0 <= value <= most else math.nan

    age = number("age", OLDEST)
    if math.isnan(age):
        stem = stem_of(Path(name))
        form = form_of(stem)
        return (labels_in_name(form, stem) if form else None) or FaceAttributes()
    sex = _SEXES.get(str(labels.get("sex", labels.get("gender", ""))).lower().removesuffix(".0"), math.nan)
    exact = number("exact", 1) != 0
    return FaceAttributes(age, sex, number("race", 4), str(labels.get("person") or ""), exact)


def _members(tar: tarfile.TarFile, shard: Path) -> Iterator[tarfile.TarInfo]:
    """The members of a shard, up to the first corrupt one; a header of zeros ends a shard, as it ends a tar file."""
    count, rest = 0, ""
    try:
        for member in tar:
            vars(tar)["members"].clear()  # which would keep one for each file
            if member.isfile():
                count += 1
                yield member
        with shard.open("rb") as f:
            f.seek(tar.offset)
            rest = "zeros" if any(part.strip(b"\0") for part in iter(lambda: f.read(1 << 20), b"")) else ""
    except tarfile.ReadError as e:
        rest = str(e)
    if rest:
        logger.warning("%s: corrupt after %d files, the rest is left out: %s", shard, count, rest)


def _json(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def rows_of(name: str, fetched: Fetched) -> list[list[str]]:
    """The lines of a shard's index."""
    if not is_url(name):
        shard = Path(name)
        if not shard.is_file():
            raise UserError(f"--dataroot {name}: no such shard; check the name, and quote the braces")
        own = shard.with_suffix(".csv")
        if own.is_file():
            return _parsed(own, shard.stat().st_size)
        with explained():
            made = cache_folder(shard, f"index of {len(COLUMNS)}|{stamp(shard)}") / "index.csv"
            if not made.is_file():
                logger.info("%s: has no index; it is read once to make one", shard)
                write_atomically(made, index_of(shard))
        return _parsed(made)
    address, mark, query = name.partition("?")
    url = address.removesuffix(".tar") + ".csv" + mark + query
    if not (index := fetched.place(url)).is_file():
        try:
            fetched.path(url)
        except Absent:
            logger.info("%s: has no index; it is fetched to make one", name)
            content = index_of(fetched.path(name))
            with explained():
                write_atomically(index, content)
    return _parsed(index)


def _parsed(index: Path, most: int | None = None) -> list[list[str]]:
    """The lines of an index; `most` is the size in bytes of its shard, to check the positions.

    Indices of former versions have no column `exact`: all their ages count as recorded.
    """
    try:
        with index.open(encoding="utf-8", errors="surrogateescape", newline="") as f:
            rows = list(csv.reader(f))
        former = bool(rows) and tuple(rows[0]) == COLUMNS[:-1]
        rows = [[*row, "1"] for row in rows] if former else rows
        formed = bool(rows) and (former or tuple(rows[0]) == COLUMNS) and all(len(row) == len(COLUMNS) for row in rows)
        whole = formed and (most is None or all(int(row[1]) + int(row[2]) <= most for row in rows[1:]))
    except OSError as e:
        raise UserError(f"{index}: cannot be read: {e.strerror}; grant permission, or remove it") from None
    except (ValueError, csv.Error):
        whole = False
    if not whole:
        remedy = "copy the shard again, or remove the index: it is rebuilt"
        raise UserError(f"{index}: not the index of its shard, or the shard is truncated; {remedy}")
    return rows[1:]


def columns_of(rows: Sequence[Sequence[str]], file: str, people: dict[str, int]) -> dict[str, NDArray[Any]]:
    """Lines of an index as the columns of `Shards`; persons get an index."""
    try:
        numbers = [[float(row[k] or "nan") for row in rows] for k in (3, 4, 5)]
        age, sex, race = (np.array(column, np.float32) for column in numbers)
        return {
            "names": np.array([row[0].encode(errors="surrogateescape") for row in rows], np.bytes_),
            "offset": np.array([int(row[1]) for row in rows], np.int64),
            "size": np.array([int(row[2]) for row in rows], np.int64),
            "age_years": age,
            "sex": np.where(sex == 9, np.float32("nan"), sex),
            "race": np.where(race == 9, np.float32("nan"), race),
            "person": np.array([people.setdefault(row[6], len(people)) for row in rows], np.int32),
            "exact": np.array([row[7] != "0" for row in rows], np.bool_),
        }
    except ValueError:
        raise UserError(f"--dataroot {file}: its index has invalid numbers; delete it to rebuild it") from None
