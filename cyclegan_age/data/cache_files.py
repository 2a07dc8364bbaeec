"""Folders and files of caches on disk: where they are, locks, checksums and errors."""

import fcntl
import hashlib
import json
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cyclegan_age.config import UserError

VARIABLE = "CYCLEGAN_AGE_CACHE"
CHECKSUM_BYTES = 4


def cache_base(cache_dir: Path | None = None) -> Path:
    """The folder of all caches; it may not exist yet."""
    base = cache_dir or os.environ.get(VARIABLE) or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "cyclegan_age"


def cache_folder(root: Path, what: str, cache_dir: Path | None = None) -> Path:
    """Folder, created if needed, for one kind of cache of a data folder; `PictureCache` lists its files."""
    where = os.fsencode(root.resolve()) + f"|{what}".encode()
    folder = cache_base(cache_dir) / hashlib.sha256(where).hexdigest()[:20]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def stamp(path: Path) -> tuple[int, int]:
    """Byte count and modification time of a file; -1 if it does not exist."""
    try:
        stat = path.stat()
    except OSError:
        return -1, -1
    return stat.st_size, stat.st_mtime_ns


def read_index(file: Path) -> tuple[str, int, dict[str, list[int]]]:
    """Generation, number of rows and [row, bytes, time] of each file; empty without a valid index."""
    try:
        index = json.loads(file.read_text())
        return index["generation"], index["end"], index["files"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return "", 0, {}


def checksum(pixels: bytes | memoryview) -> bytes:
    """Checksum of a row, never 0, which marks a missing row."""
    return max(zlib.crc32(pixels), 1).to_bytes(CHECKSUM_BYTES, sys.byteorder)


def write_at(file: int, data: bytes, offset: int) -> None:
    while data:
        count = os.pwrite(file, data, offset)
        data, offset = data[count:], offset + count


def close_files(*files: int) -> None:
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
    """Convert errors of the cache's files to a UserError."""
    try:
        yield
    except (OSError, RuntimeError) as e:  # RuntimeError: no home folder
        cause = f"{e.filename or 'disk'}: {e.strerror}" if isinstance(e, OSError) else str(e)
        raise UserError(
            f"{VARIABLE}: cannot cache pictures: {cause}; set it to a writable folder with free space"
        ) from None
