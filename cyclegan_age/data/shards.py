"""WebDataset shards: labelled pictures in tar files, local or on a web server, with random access by their indices.

A shard contains a picture and its labels under one name, such as `000000042.webp` and `000000042.json` (Aizman et al.,
"High Performance I/O For Large Scale Deep Learning", IEEE Big Data 2019). Its index is the .csv file beside it, with
the position and labels of each picture. A shard without an index is read once to make it.
"""

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from cyclegan_age.attributes import FaceAttributes
from cyclegan_age.config import UserError
from cyclegan_age.data.cache import PictureCache, Pictures
from cyclegan_age.data.cache_files import cache_base
from cyclegan_age.data.fetching import Fetched
from cyclegan_age.data.shard_index import columns_of, expanded, is_url, rows_of
from cyclegan_age.data.workers import in_processes, processors
from cyclegan_age.images import BadImage, Picture, open_image, to_square

CACHE_GB = 50.0
_BLOCK = 512  # bytes of the header before each member of a tar file
_MANY = 200  # minimum number of pictures to decode with processes
_CHUNK = 64  # pictures per task of a process
_AT_ONCE = 8  # indices fetched in parallel

logger = logging.getLogger("cyclegan_age")


def is_shards(dataroot: Path) -> bool:
    """Whether `--dataroot` is a pattern of shards and not a folder."""
    return is_url(shown(dataroot)) or (dataroot.suffix == ".tar" and not dataroot.is_dir())


def refuse_shards(dataroot: Path, what: str) -> None:
    """Refuse shards where only folders are supported.

    Raises:
        UserError: `--dataroot` is a pattern of shards.
    """
    if is_shards(dataroot):
        raise UserError(f"--dataroot {shown(dataroot)}: {what} does not read shards; expected a folder of pictures")


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
        if not any(map(is_url, self.files)) or self.total <= self.fetched.limit:
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
        return self.fetched.path(name, stopped) if is_url(name) else Path(name)

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
        own, there = bytes(self.names[i]), data[:100].rstrip(b"\0")  # the beginning or the end of a long name
        ascii_name = own.decode(errors="surrogateescape").encode("ascii", "replace")  # as pax headers have it
        if not there or not any(name.startswith(there) or name.endswith(there) for name in (own, ascii_name)):
            raise BadImage("not at its position in the shard's index; delete the index to rebuild it")
        if len(data) < _BLOCK + self.size[i]:
            raise BadImage("truncated: the shard ends before it")
        return data[_BLOCK:]


@dataclass(frozen=True, eq=False)
class ShardAttributes(Sequence[FaceAttributes]):
    """The labels of each picture in the indices."""

    shards: Shards

    def __len__(self) -> int:
        return len(self.shards)

    @overload
    def __getitem__(self, i: int) -> FaceAttributes: ...
    @overload
    def __getitem__(self, i: slice) -> list[FaceAttributes]: ...
    def __getitem__(self, i: int | slice) -> FaceAttributes | list[FaceAttributes]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        s = self.shards
        person, exact = s.persons[s.person[i]], bool(s.exact[i])
        return FaceAttributes(float(s.age_years[i]), float(s.sex[i]), float(s.race[i]), person, exact)


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
        read = threads.map(lambda name: rows_of(name, fetched), files)
        whole = tqdm(read, total=len(files), unit="shard", desc="indices", disable=None if len(files) > 99 else True)
        lines = list(whole)
    people: dict[str, int] = {"": 0}
    columns = [columns_of(rows, file, people) for rows, file in zip(lines, files, strict=True)]
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
                logger.warning("%s: left out: %s", path.relative_to(self.paths.root), cause)

    def _decoded(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], Tensor, dict[Path, str]]:
        """Indices (k,) of the readable pictures, uint8 (k, size, size, 3), and the bad ones."""
        pictures = {int(i): picture for i in indices if (picture := self.get(int(i))) is not None}
        bad = {self.paths[i]: self.bad[self.paths[i]] for i in map(int, indices) if i not in pictures}
        pixels = np.stack(list(pictures.values())) if pictures else np.zeros((0, self.size, self.size, 3), np.uint8)
        return np.array(list(pictures), np.int64), torch.from_numpy(pixels), bad


def open_pictures(paths: Sequence[Path], root: Path, size: int) -> Pictures:
    """Files of a folder, or the pictures of shards, as `size` x `size` x 3 by index; errors as of `PictureCache`."""
    return ShardPictures(paths, size) if isinstance(paths, Shards) else PictureCache(paths, root, size)


def shown(dataroot: Path) -> str:
    """The original spelling: a Path collapses double slashes."""
    return re.sub(r"^(https?:)/(?=[^/])", r"\1//", str(dataroot))
