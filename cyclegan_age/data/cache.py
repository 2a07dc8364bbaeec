"""Decoded pictures on disk, so that each file is decoded only once over all epochs and runs.

A cache folder belongs to one data folder and one size. It holds `pixels-*`, one row of size x size x 3 bytes per
picture; `marks-*`, one checksum per row, written after the row; and `index.json`, the row, byte count and modification
time of each file. Rows are only appended: a changed file gets a new row. So several trainings, also with different
lists of files, may share the folder.
"""

import errno
import json
import logging
import os
import shutil
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cyclegan_age.data.cache_files import (
    CHECKSUM_BYTES,
    cache_folder,
    checksum,
    close_files,
    explained,
    locked,
    read_index,
    stamp,
    write_at,
)
from cyclegan_age.data.workers import in_processes, processors
from cyclegan_age.images import BadImage, Picture, open_image, to_square

_FORMAT = 1  # increased to invalidate earlier rows
_PIECE = 64_000_000  # bytes read at once
_MANY = 200  # minimum number of pictures to decode with processes
_CHUNK = 16  # pictures per task of a process or thread

logger = logging.getLogger("cyclegan_age")


class Pictures(Protocol):
    """Pictures by index: the interface of `PictureCache` and `ShardPictures`.

    Attributes:
        size: side in pixels.
        bad: unreadable ones so far, and why.
        parts: number of parts that have to be fetched one after the other; 1 if all are available at once.
    """

    size: int
    bad: dict[Path, str]
    parts: int

    @property
    def paths(self) -> Sequence[Path]:
        """Their names."""

    @property
    def part_of(self) -> NDArray[np.int32]:
        """(N,) index of the fetched file of each picture."""

    def __len__(self) -> int: ...

    def get(self, i: int) -> Picture | None:
        """See `PictureCache.get`."""

    def pieces(
        self, indices: NDArray[np.int64], *, progress: bool = False
    ) -> Iterator[tuple[NDArray[np.int64], Picture]]:
        """See `PictureCache.pieces`."""

    def fetch(self, parts: NDArray[np.int64], stopped: Callable[[], bool]) -> None:
        """Fetch such files."""

    def leave_out(self, causes: Mapping[Path, str]) -> None:
        """Mark pictures as bad, and log those that are new."""


class PictureCache:
    """Pictures by index, decoded and cropped to squares at first use.

    Args:
        paths: the files; `get(i)` is the i-th.
        root: the data folder that contains all of them.
        size: side in pixels of the cached pictures.
        cache_dir: folder of the caches; by default `$CYCLEGAN_AGE_CACHE`, else `$XDG_CACHE_HOME`, else `~/.cache`.

    Attributes:
        bad: unreadable files so far, and why.

    Raises:
        UserError: the cache cannot be written, or the disk is too full.
    """

    def __init__(self, paths: Sequence[Path], root: Path, size: int, cache_dir: Path | None = None) -> None:
        self.paths = list(paths)
        self.size = size
        self.bad: dict[Path, str] = {}
        self.parts = 1
        self._row_bytes = size * size * 3
        with explained():
            self.folder = cache_folder(root, f"{size}|{_FORMAT}", cache_dir)
            with locked(self.folder / "lock"):
                self._generation, self._rows = self._update(root)
                self._open()
            self._check_room()

    def __len__(self) -> int:
        return len(self.paths)

    def get(self, i: int) -> Picture | None:
        """Picture i, uint8 (size, size, 3), or None if the file cannot be read (see `bad`).

        Raises:
            UserError: the disk is full.
        """
        path, row = self.paths[i], int(self._rows[i])
        if path in self.bad:
            return None
        mark = os.pread(self._marks, CHECKSUM_BYTES, row * CHECKSUM_BYTES)
        if any(mark):
            pixels = os.pread(self._pixels, self._row_bytes, row * self._row_bytes)
            if checksum(pixels) == mark:
                return np.frombuffer(bytearray(pixels), np.uint8).reshape(self.size, self.size, 3)
        try:
            picture = to_square(open_image(path), self.size)
        except (BadImage, OSError) as e:
            self.leave_out({path: (e.strerror or type(e).__name__) if isinstance(e, OSError) else str(e)})
            return None
        with explained():  # not through a memory map, where a full disk kills the process
            pixels = picture.tobytes()
            write_at(self._pixels, pixels, row * self._row_bytes)
            write_at(self._marks, checksum(pixels), row * CHECKSUM_BYTES)
        return picture

    def pieces(
        self, indices: NDArray[np.int64], *, progress: bool = False
    ) -> Iterator[tuple[NDArray[np.int64], Picture]]:
        """Pictures in large pieces; missing ones are decoded first, by all cores.

        Args:
            indices: of the requested pictures.
            progress: whether to show progress bars.

        Yields:
            The indices (k,) of the readable ones of a piece, in the order on disk, and uint8 (k, size, size, 3).

        Raises:
            UserError: the disk is full.
        """
        self._decode(indices, progress)
        indices = indices[np.argsort(self._rows[indices], kind="stable")]
        breaks = np.flatnonzero(np.diff(self._rows[indices]) != 1) + 1
        most = max(1, _PIECE // self._row_bytes)
        bar = tqdm(
            total=len(indices), unit="img", desc="loading", dynamic_ncols=True, disable=None if progress else True
        )
        with ThreadPoolExecutor(min(processors(), 8), "reading") as threads, bar:
            for run in np.split(indices, breaks):
                for piece in (run[k : k + most] for k in range(0, len(run), most)):
                    readable, pixels = self._read(piece, threads)
                    yield piece[readable], pixels[readable] if not readable.all() else pixels
                    bar.update(len(piece))

    @property
    def part_of(self) -> NDArray[np.int32]:
        """All are available."""
        return np.zeros(len(self), np.int32)

    def fetch(self, parts: NDArray[np.int64], stopped: Callable[[], bool]) -> None:
        """All are available."""

    def leave_out(self, causes: Mapping[Path, str]) -> None:
        """Mark files as bad, and log those that are new."""
        for path, cause in causes.items():
            if path not in self.bad:
                self.bad[path] = cause
                logger.warning("%s: left out: %s", os.fsencode(path).decode(errors="replace"), cause)

    def __getstate__(self) -> dict[str, Any]:
        """State to open the cache in another process."""
        return {k: v for k, v in self.__dict__.items() if k not in ("_pixels", "_marks")}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        with explained():
            self._open()

    def _open(self) -> None:
        """Open pixels and marks; creates new ones if another training has recreated the cache."""
        files = self.folder / f"pixels-{self._generation}", self.folder / f"marks-{self._generation}"
        self._pixels, self._marks = (os.open(file, os.O_RDWR | os.O_CREAT, 0o666) for file in files)
        weakref.finalize(self, close_files, self._pixels, self._marks)

    def _decode(self, indices: NDArray[np.int64], progress: bool) -> None:
        """Decode the missing pictures, if they are many; `get` decodes the rest.

        If several trainings start at once, one decodes and the others wait.
        """
        with ExitStack() as held:
            with explained():
                held.enter_context(locked(self.folder / "decoding"))
            missing = indices[~self._there(indices)]
            if len(missing) < _MANY:
                return
            if progress:
                logger.info("decoding %d pictures, once", len(missing))
            chunks = np.split(missing, range(_CHUNK, len(missing), _CHUNK))
            bar = tqdm(
                total=len(missing), unit="img", desc="decoding", dynamic_ncols=True, disable=None if progress else True
            )
            with bar:
                for chunk, bad in zip(chunks, in_processes(self._bad_of, chunks, processors()), strict=True):
                    self.leave_out(bad)
                    bar.update(len(chunk))

    def _bad_of(self, indices: NDArray[np.int64]) -> dict[Path, str]:
        """Decode pictures; returns the unreadable ones."""
        paths = [self.paths[i] for i in indices if self.get(int(i)) is None]
        return {path: self.bad[path] for path in paths}

    def _read(self, indices: NDArray[np.int64], threads: Executor) -> tuple[NDArray[np.bool_], Picture]:
        """Pictures in consecutive rows; whether each is readable, and uint8 (k, size, size, 3)."""
        first = int(self._rows[indices[0]])
        pixels = np.zeros((len(indices), self._row_bytes), np.uint8)
        marks = np.zeros(len(indices), np.uint32)
        os.preadv(self._marks, [marks.data], first * CHECKSUM_BYTES)

        def read(k: int) -> bytes:
            part = pixels[k : k + _CHUNK]
            os.preadv(self._pixels, [part.data], (first + k) * self._row_bytes)
            return b"".join(checksum(row.data) for row in part)

        found = np.frombuffer(b"".join(threads.map(read, range(0, len(indices), _CHUNK))), np.uint32)
        readable = np.array([self.paths[i] not in self.bad for i in indices])
        for k in np.flatnonzero(readable & (found != marks)):
            picture = self.get(int(indices[k]))
            readable[k] = picture is not None
            pixels[k] = 0 if picture is None else picture.reshape(-1)
        return readable, pixels.reshape(-1, self.size, self.size, 3)

    def _update(self, root: Path) -> tuple[str, NDArray[np.int64]]:
        """Update the index for the files; returns its generation and the row of each picture."""
        index_file = self.folder / "index.json"
        keys = [os.path.relpath(path, root) for path in self.paths]
        index = generation, end, before = read_index(index_file)
        stamps = {key: stamp(root / key) for key in {*before, *keys}}
        files = {key: entry for key, entry in before.items() if tuple(entry[1:]) == stamps[key]}
        if not generation or end > 2 * len(files):  # most rows are of files that were changed or deleted
            generation, end, files = uuid.uuid4().hex[:8], 0, {}
        for key in keys:
            if key not in files:
                files[key] = [end, *stamps[key]]
                end += 1
        if (generation, end, files) != index:
            draft = index_file.with_suffix(".tmp")
            draft.write_text(json.dumps({"generation": generation, "end": end, "files": files}))
            draft.replace(index_file)
        current = self.folder / f"pixels-{generation}", self.folder / f"marks-{generation}"
        for old in {*self.folder.glob("pixels-*"), *self.folder.glob("marks-*")}.difference(current):
            old.unlink()
        return generation, np.array([files[key][0] for key in keys], dtype=np.int64)

    def _there(self, indices: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each of the pictures is in the cache."""
        marks = np.frombuffer(
            os.pread(self._marks, os.fstat(self._marks).st_size // CHECKSUM_BYTES * CHECKSUM_BYTES, 0), np.uint32
        )
        rows = self._rows[indices]
        there = rows < len(marks)
        there[there] = marks[rows[there]] != 0
        return there

    def _check_room(self) -> None:
        missing = np.count_nonzero(~self._there(np.arange(len(self))))
        needed, free = missing * self._row_bytes, shutil.disk_usage(self.folder).free
        if needed > free:
            raise OSError(errno.ENOSPC, f"{needed / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free", str(self.folder))
