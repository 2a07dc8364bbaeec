"""Decoded pictures on disk, so that each file is decoded once however many epochs and runs there are.

A cache folder belongs to one data folder and one size. It holds `pixels-*`, one row of size x size x 3 bytes per
picture; `marks-*`, one checksum per row, written after the row; and `index.json`, the row, byte count and time of
change of each file. Rows are only ever added: a changed file gets a new row, so that several trainings, also with
different lists of files, may share the folder.
"""

import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
import sys
import uuid
import weakref
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from cyclegan_age.config import UserError
from cyclegan_age.images import BadImage, Picture, open_image, to_square

VARIABLE = "CYCLEGAN_AGE_CACHE"
_FORMAT = 1  # goes up when rows of before are to be decoded anew
_MARK = 4  # bytes

log = logging.getLogger("cyclegan_age")


class PictureCache:
    """Pictures by number, decoded and squared at first use.

    Args:
        paths: the files; `get(i)` is the i-th.
        root: the data folder, which all of them lie in.
        size: side in pixels of the pictures kept.
        cache_dir: where caches are; by default `$CYCLEGAN_AGE_CACHE`, else `$XDG_CACHE_HOME`, else `~/.cache`.

    Attributes:
        bad: files that could not be used so far, and why.

    Raises:
        UserError: the cache cannot be written, or the disk is too full.
    """

    def __init__(self, paths: Sequence[Path], root: Path, size: int, cache_dir: Path | None = None) -> None:
        self.paths = list(paths)
        self.size = size
        self.bad: dict[Path, str] = {}
        self._row_bytes = size * size * 3
        with explained():
            self.folder = cache_folder(root, f"{size}|{_FORMAT}", cache_dir)
            with locked(self.folder / "lock"):
                self._rows, self._pixels, self._marks = self._open(root)
            weakref.finalize(self, _close, self._pixels, self._marks)
            self._check_room()

    def __len__(self) -> int:
        return len(self.paths)

    def get(self, i: int) -> Picture | None:
        """Picture i, uint8 (size, size, 3), or None where the file cannot be used (see `bad`).

        Raises:
            UserError: the disk is full.
        """
        path, row = self.paths[i], self._rows[i]
        if path in self.bad:
            return None
        mark = os.pread(self._marks, _MARK, row * _MARK)
        if any(mark):
            pixels = os.pread(self._pixels, self._row_bytes, row * self._row_bytes)
            if _mark(pixels) == mark:
                return np.frombuffer(bytearray(pixels), np.uint8).reshape(self.size, self.size, 3)
        try:
            picture = to_square(open_image(path), self.size)
        except (BadImage, OSError) as e:
            cause = (e.strerror or type(e).__name__) if isinstance(e, OSError) else str(e)
            self.bad[path] = cause
            log.warning("%s: left out: %s", os.fsencode(path).decode(errors="replace"), cause)
            return None
        with explained():  # not through a memory map, where a full disk kills the process
            pixels = picture.tobytes()
            _write(self._pixels, pixels, row * self._row_bytes)
            _write(self._marks, _mark(pixels), row * _MARK)
        return picture

    def _open(self, root: Path) -> tuple[list[int], int, int]:
        """Bring the index up to date with the files; row of each picture, and pixels and marks opened."""
        index_file = self.folder / "index.json"
        keys = [os.path.relpath(path, root) for path in self.paths]
        index = generation, end, before = _read_index(index_file)
        stamps = {key: stamp(root / key) for key in {*before, *keys}}
        files = {key: entry for key, entry in before.items() if tuple(entry[1:]) == stamps[key]}
        if not generation or end > 2 * len(files):  # most rows are of files that changed or went
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
        pixels, marks = (os.open(file, os.O_RDWR | os.O_CREAT, 0o666) for file in current)
        return [files[key][0] for key in keys], pixels, marks

    def _check_room(self) -> None:
        marks = np.frombuffer(os.pread(self._marks, os.fstat(self._marks).st_size // _MARK * _MARK, 0), np.uint32)
        rows = np.array(self._rows, dtype=np.int64)
        ready = int(np.count_nonzero(marks[rows[rows < len(marks)]]))
        needed, free = (len(rows) - ready) * self._row_bytes, shutil.disk_usage(self.folder).free
        if needed > free:
            raise OSError(errno.ENOSPC, f"{needed / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free", str(self.folder))


def cache_folder(root: Path, what: str, cache_dir: Path | None = None) -> Path:
    """Folder, made if need be, for one thing that is kept of a data folder; `PictureCache` says below what."""
    base = cache_dir or os.environ.get(VARIABLE) or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    where = os.fsencode(root.resolve()) + f"|{what}".encode()
    folder = Path(base) / "cyclegan_age" / hashlib.sha256(where).hexdigest()[:20]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def stamp(path: Path) -> tuple[int, int]:
    """Byte count and time of change of a file; -1 where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return -1, -1
    return stat.st_size, stat.st_mtime_ns


def _read_index(file: Path) -> tuple[str, int, dict[str, list[int]]]:
    """Generation, number of rows and [row, bytes, time] of each file; empty where there is no usable index."""
    try:
        index = json.loads(file.read_text())
        return index["generation"], index["end"], index["files"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return "", 0, {}


def _mark(pixels: bytes) -> bytes:
    """Checksum of a row, never 0, which stands for a row not there yet."""
    return max(zlib.crc32(pixels), 1).to_bytes(_MARK, sys.byteorder)


def _write(file: int, data: bytes, offset: int) -> None:
    while data:
        count = os.pwrite(file, data, offset)
        data, offset = data[count:], offset + count


def _close(*files: int) -> None:
    for file in files:
        os.close(file)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


@contextmanager
def explained() -> Iterator[None]:
    """Turn what goes wrong with the cache's own files into a UserError."""
    try:
        yield
    except (OSError, RuntimeError) as e:  # RuntimeError: no home folder
        cause = f"{e.filename or 'disk'}: {e.strerror}" if isinstance(e, OSError) else str(e)
        raise UserError(f"{VARIABLE}: cannot cache pictures: {cause}; set it to a writable folder with room") from None
