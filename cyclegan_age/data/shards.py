"""WebDataset shards: labelled pictures in tar files, local or on a web server, with random access by their indices.

A shard contains a picture and its labels under one name, such as `000000042.webp` and `000000042.json` (Aizman et al.,
"High Performance I/O For Large Scale Deep Learning", IEEE Big Data 2019). Its index is the .csv file beside it, with
the position and labels of each picture. A shard without an index is read once to make it.
"""

import csv
import io
import json
import logging
import math
import os
import re
import tarfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from cyclegan_age.config import UserError
from cyclegan_age.data.cache import PictureCache, Pictures, cache_base, cache_folder, explained, stamp
from cyclegan_age.data.fetching import Absent, Fetched
from cyclegan_age.data.names import OLDEST, Known, form_of, labels_in_name, stem_of
from cyclegan_age.data.workers import in_processes, processors
from cyclegan_age.files import write_atomically
from cyclegan_age.images import SUFFIXES, BadImage, Picture, open_image, to_square

COLUMNS = ("file", "offset", "size", "age", "sex", "race", "person", "exact")  # of an index; offset and size in bytes
CACHE_GB = 50.0
_BLOCK = 512  # bytes of the header before each member of a tar file
_MOST = 100_000  # maximum number of shards of a training
_MANY = 200  # minimum number of pictures to decode with processes
_CHUNK = 64  # pictures per task of a process
_AT_ONCE = 8  # indices fetched in parallel
_SEXES = {"0": 0.0, "male": 0.0, "m": 0.0, "man": 0.0, "1": 1.0, "female": 1.0, "f": 1.0, "woman": 1.0}

log = logging.getLogger("cyclegan_age")


def is_shards(dataroot: Path) -> bool:
    """Whether `--dataroot` is a pattern of shards and not a folder."""
    return _is_url(shown(dataroot)) or (dataroot.suffix == ".tar" and not dataroot.is_dir())


def refuse_shards(dataroot: Path, what: str) -> None:
    """Refuse shards where only folders are supported.

    Raises:
        UserError: `--dataroot` is a pattern of shards.
    """
    if is_shards(dataroot):
        raise UserError(f"--dataroot {shown(dataroot)}: {what} does not read shards; expected a folder of pictures")


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


@dataclass(frozen=True, eq=False)
class Shards(Sequence[Path]):
    """The pictures of shards; as a sequence, paths for them: `root`/SHARD/PICTURE.

    Attributes:
        root: `--dataroot`.
        files: the S shards, paths or addresses.
        fetched: the local copies of those of a web server.
        shard: (N,) int32, index of the shard of each picture.
        names: (N,) UTF-8, its name in the shard.
        offset: (N,) int64, its first byte.
        size: (N,) int64, its bytes.
        age_years: (N,) float32.
        sex: (N,) float32, 0 male, 1 female, NaN unknown.
        race: (N,) float32, as in UTKFace, NaN unknown.
        person: (N,) int32, index into `persons`.
        persons: names, the first of them empty for unknown persons.
        exact: (N,) bool, whether the age is recorded, and not estimated or the middle of a group.
        total: approximate bytes of all shards.
        largest: approximate bytes of the largest of them.
    """

    root: Path
    files: Sequence[str]
    fetched: Fetched
    shard: NDArray[np.int32]
    names: NDArray[np.bytes_]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    age_years: NDArray[np.float32]
    sex: NDArray[np.float32]
    race: NDArray[np.float32]
    person: NDArray[np.int32]
    persons: Sequence[str]
    exact: NDArray[np.bool_]
    total: int
    largest: int

    def __len__(self) -> int:
        return len(self.shard)

    @overload
    def __getitem__(self, i: int) -> Path: ...
    @overload
    def __getitem__(self, i: slice) -> list[Path]: ...
    def __getitem__(self, i: int | slice) -> Path | list[Path]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        file, name = self.files[self.shard[i]], bytes(self.names[i]).decode(errors="replace")
        shown: Path = self.root / file.partition("?")[0].rsplit("/", 1)[-1] / name
        return shown

    def take(self, chosen: NDArray[np.int64] | NDArray[np.bool_]) -> "Shards":
        """Some of the pictures, by index."""
        columns = ("shard", "names", "offset", "size", "age_years", "sex", "race", "person", "exact")
        return replace(self, **{name: getattr(self, name)[chosen] for name in columns})

    @property
    def parts(self) -> int:
        """Number of parts that have to be fetched one after the other; 1 if all are available at once.

        Raises:
            UserError: not even two shards are.
        """
        if not any(map(_is_url, self.files)) or self.total <= self.fetched.limit:
            return 1
        together = int(self.fetched.limit // 2 // self.largest)  # as many are fetched meanwhile
        if not together:
            raise UserError(
                f"--shard_cache {self.fetched.limit / 1e9:g}: a shard has {self.largest / 1e9:.2f} GB, and two must "
                f"fit; raise it to at least {2 * self.largest / 1e9 + 0.01:.2f}"
            )
        return -(-len(self.files) // together)

    def local(self, shard: int, stopped: Callable[[], bool] = lambda: False) -> Path:
        """A shard's file, fetched if needed; errors as of `Fetched.path`."""
        name = self.files[shard]
        return self.fetched.path(name, stopped) if _is_url(name) else Path(name)

    def read(self, i: int) -> bytes:
        """The file of picture i.

        Raises:
            BadImage: it is not at the position in the index.
            UserError: its shard cannot be fetched.
            OSError: the shard cannot be read.
        """
        file = self.local(int(self.shard[i]))
        try:
            opened = os.open(file, os.O_RDONLY)
        except FileNotFoundError:  # another process has just deleted it to free space
            opened = os.open(self.local(int(self.shard[i])), os.O_RDONLY)
        try:
            data = os.pread(opened, _BLOCK + int(self.size[i]), int(self.offset[i]) - _BLOCK)
        finally:
            os.close(opened)
        own, there = self.names[i], data[:100].rstrip(b"\0")  # the header has the beginning or the end of a long name
        if not there or not (own.startswith(there) or own.endswith(there)):
            raise BadImage("not at its position in the shard's index; delete the index to rebuild it")
        if len(data) < _BLOCK + self.size[i]:
            raise BadImage("truncated: the shard ends before it")
        return data[_BLOCK:]


@dataclass(frozen=True, eq=False)
class KnownOf(Sequence[Known]):
    """The labels of each picture in the indices."""

    shards: Shards

    def __len__(self) -> int:
        return len(self.shards)

    @overload
    def __getitem__(self, i: int) -> Known: ...
    @overload
    def __getitem__(self, i: slice) -> list[Known]: ...
    def __getitem__(self, i: int | slice) -> Known | list[Known]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        s = self.shards
        person, exact = s.persons[s.person[i]], bool(s.exact[i])
        return Known(float(s.age_years[i]), float(s.sex[i]), float(s.race[i]), person, exact)


def open_shards(dataroot: Path, cache_gb: float = CACHE_GB) -> Shards:
    """Read the indices of shards; makes missing ones.

    Args:
        dataroot: path or address of shards, with number ranges in braces.
        cache_gb: size limit in GB of the local copies of a web server's shards.

    Raises:
        UserError: a shard or index is missing, corrupt, or cannot be fetched.
    """
    files = expanded(shown(dataroot))
    fetched = Fetched(cache_base() / "shards", int(cache_gb * 1e9))
    with ThreadPoolExecutor(_AT_ONCE, "indices") as threads:
        read = threads.map(lambda name: _rows_of(name, fetched), files)
        whole = tqdm(read, total=len(files), unit="shard", desc="indices", disable=None if len(files) > 99 else True)
        lines = list(whole)
    people: dict[str, int] = {"": 0}
    columns = [_columns(rows, file, people) for rows, file in zip(lines, files, strict=True)]
    joined = {name: np.concatenate([one[name] for one in columns]) for name in columns[0]}
    ends = [int((one["offset"] + one["size"]).max(initial=0)) for one in columns]
    return Shards(
        root=dataroot,
        files=files,
        fetched=fetched,
        shard=np.repeat(np.arange(len(files), dtype=np.int32), [len(rows) for rows in lines]),
        persons=tuple(people),
        total=sum(ends),
        largest=max(ends),
        **joined,
    )


class ShardPictures:
    """Pictures of shards by index, decoded and cropped to squares at each use: for sets too large to cache decoded.

    Args:
        paths: the pictures.
        size: their side in pixels after resizing.

    Attributes:
        bad: unreadable pictures so far, and why.
    """

    def __init__(self, paths: Shards, size: int) -> None:
        self.paths = paths
        self.size = size
        self.bad: dict[Path, str] = {}
        self.parts = paths.parts
        self.part_of = paths.shard

    def __len__(self) -> int:
        return len(self.paths)

    def get(self, i: int) -> Picture | None:
        """Picture i, uint8 (size, size, 3), or None if it cannot be read (see `bad`).

        Raises:
            UserError: its shard cannot be fetched.
        """
        if self.bad and self.paths[i] in self.bad:
            return None
        try:
            return to_square(open_image(self.paths.read(i)), self.size)
        except (BadImage, OSError) as e:
            self.leave_out({self.paths[i]: (e.strerror or type(e).__name__) if isinstance(e, OSError) else str(e)})
            return None

    def pieces(
        self, indices: NDArray[np.int64], *, progress: bool = False
    ) -> Iterator[tuple[NDArray[np.int64], Picture]]:
        """As of `PictureCache`, shard after shard."""
        indices = indices[np.lexsort((self.paths.offset[indices], self.paths.shard[indices]))]
        chunks = np.split(indices, range(_CHUNK, len(indices), _CHUNK))
        many = len(indices) >= _MANY
        decoded = in_processes(self._decoded, chunks, processors()) if many else map(self._decoded, chunks)
        bar = tqdm(
            total=len(indices), unit="img", desc="decoding", dynamic_ncols=True, disable=None if progress else True
        )
        with bar:
            for chunk, (readable, pixels, bad) in zip(chunks, decoded, strict=True):
                self.leave_out(bad)
                yield readable, pixels.numpy()
                bar.update(len(chunk))

    def fetch(self, parts: NDArray[np.int64], stopped: Callable[[], bool]) -> None:
        """Fetch shards; errors as of `Fetched.path`."""
        for part in parts:
            if not stopped():
                self.paths.local(int(part), stopped)

    def leave_out(self, causes: Mapping[Path, str]) -> None:
        """Mark pictures as bad, and log those that are new."""
        for path, cause in causes.items():
            if path not in self.bad:
                self.bad[path] = cause
                log.warning("%s: left out: %s", path.relative_to(self.paths.root), cause)

    def _decoded(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], Tensor, dict[Path, str]]:
        """Indices (k,) of the readable pictures, uint8 (k, size, size, 3), and the bad ones."""
        pictures = {int(i): picture for i in indices if (picture := self.get(int(i))) is not None}
        bad = {self.paths[i]: self.bad[self.paths[i]] for i in map(int, indices) if i not in pictures}
        pixels = np.stack(list(pictures.values())) if pictures else np.zeros((0, self.size, self.size, 3), np.uint8)
        return np.array(list(pictures), np.int64), torch.from_numpy(pixels), bad


def open_pictures(paths: Sequence[Path], root: Path, size: int) -> Pictures:
    """Files of a folder, or the pictures of shards, as `size` x `size` x 3 by index; errors as of `PictureCache`."""
    return ShardPictures(paths, size) if isinstance(paths, Shards) else PictureCache(paths, root, size)


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
    return as_index((*place, known_of(labels.get(key, {}), place[0])) for key, place in pictures.items())


def as_index(pictures: Iterator[tuple[str, int, int, Known]]) -> bytes:
    """An index of name, offset, size in bytes and labels of each picture of a shard."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, offset, size, known in pictures:
        age, sex, race = ("" if math.isnan(n) else f"{n:g}" for n in (known.age_years, known.sex, known.race))
        writer.writerow((name, offset, size, age, sex or "9", race or "9", known.person, int(known.exact)))
    return text.getvalue().encode(errors="surrogateescape")


def known_of(labels: Mapping[str, Any], name: str) -> Known:
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
        return (labels_in_name(form, stem) if form else None) or Known()
    sex = _SEXES.get(str(labels.get("sex", labels.get("gender", ""))).lower().removesuffix(".0"), math.nan)
    exact = number("exact", 1) != 0
    return Known(age, sex, number("race", 4), str(labels.get("person") or ""), exact)


def _members(tar: tarfile.TarFile, shard: Path) -> Iterator[tarfile.TarInfo]:
    """The members of a shard, up to the first corrupt one."""
    count = 0
    try:
        for member in tar:
            vars(tar)["members"].clear()  # which would keep one for each file
            if member.isfile():
                count += 1
                yield member
    except tarfile.ReadError as e:
        log.warning("%s: corrupt after %d files, the rest is left out: %s", shard, count, e)


def _json(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _rows_of(name: str, fetched: Fetched) -> list[list[str]]:
    """The lines of a shard's index."""
    if not _is_url(name):
        shard = Path(name)
        if not shard.is_file():
            raise UserError(f"--dataroot {name}: no such shard; check the name, and quote the braces")
        own = shard.with_suffix(".csv")
        if own.is_file():
            return _parsed(own, shard.stat().st_size)
        with explained():
            made = cache_folder(shard, f"index of {len(COLUMNS)}|{stamp(shard)}") / "index.csv"
            if not made.is_file():
                log.info("%s: has no index; it is read once to make one", shard)
                write_atomically(made, index_of(shard))
        return _parsed(made)
    address, mark, query = name.partition("?")
    url = address.removesuffix(".tar") + ".csv" + mark + query
    if not (index := fetched.place(url)).is_file():
        try:
            fetched.path(url)
        except Absent:
            log.info("%s: has no index; it is fetched to make one", name)
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
        fits = bool(rows) and (former or tuple(rows[0]) == COLUMNS) and all(len(row) == len(COLUMNS) for row in rows)
        whole = fits and (most is None or all(int(row[1]) + int(row[2]) <= most for row in rows[1:]))
    except OSError as e:
        raise UserError(f"{index}: cannot be read: {e.strerror}; grant permission, or remove it") from None
    except (ValueError, csv.Error):
        whole = False
    if not whole:
        remedy = "copy the shard again, or remove the index: it is rebuilt"
        raise UserError(f"{index}: not the index of its shard, or the shard is truncated; {remedy}")
    return rows[1:]


def _columns(rows: Sequence[Sequence[str]], file: str, people: dict[str, int]) -> dict[str, NDArray[Any]]:
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


def shown(dataroot: Path) -> str:
    """The original spelling: a Path collapses double slashes."""
    return re.sub(r"^(https?:)/(?=[^/])", r"\1//", str(dataroot))


def _is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))
