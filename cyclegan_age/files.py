"""Files of any content: atomic writes, locks of folders, and recognition of foreign files."""

import errno
import fcntl
import json
import os
import shutil
import socket
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from cyclegan_age.config import UserError

_LOCK = ".lock"
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_BUSY = {errno.EACCES, errno.EAGAIN}
_MB = 1e6
_OTHER_RESULTS = "or choose another --results_dir"
_MOST_READ = 1 << 24  # bytes of a pickle that are scanned
_CONVERT = "convert.py reads generators of CycleGAN and CUT"


def write_atomically(path: Path, data: bytes | memoryview, *, sync: bool = True) -> None:
    """Write a file so that at any moment either the old or the new one is complete; an error leaves no partial file.

    Args:
        path: its folder is created if needed.
        data: the content.
        sync: wait for the disk; without it a crash of the machine may lose the file.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as f:
            f.write(data)
            if sync:
                f.flush()
                os.fsync(f.fileno())
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def append_line(path: Path, line: str) -> None:
    """Append a line to a file, as a whole; where it cannot be written the file stays as it was.

    Raises:
        OSError: it cannot be written.
    """
    data = line.encode() + b"\n"
    with path.open("ab", buffering=0) as f:
        before = f.seek(0, os.SEEK_END)
        try:
            while data:
                data = data[f.write(data) :]
        except OSError:
            f.truncate(before)
            raise


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file, up to the first corrupt line.

    Raises:
        OSError: it cannot be read.
    """
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            return
        if not isinstance(found, dict):
            return
        yield found


@contextmanager
def writing(folder: Path, needed: int, *, kept: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Context for writing into a folder of `--results_dir`.

    Args:
        folder: its path, for the error.
        needed: bytes that must be free.
        kept: returns the end of the error, which says what is saved.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    try:
        yield
    except OSError as e:
        raise write_error(str(folder), e, _OTHER_RESULTS + kept(), folder=folder, needed=needed) from None


def write_error(
    what: str, error: OSError, remedy: str, *, folder: Path | None = None, needed: float = 0.0
) -> UserError:
    """The error of a failed write: a full disk, or the cause given by the system.

    Args:
        what: the flag and its folder, or a file.
        error: the original error.
        remedy: text after "free space" or "grant permission".
        folder: on the full disk, to say how much space is free.
        needed: bytes that must be free, if `folder` is given.

    Raises:
        BrokenPipeError: it is the error, so what failed was the output to a closed pipe.
    """
    if isinstance(error, BrokenPipeError):  # | head
        raise error
    cause = error.strerror or type(error).__name__
    if error.errno in _NO_ROOM:
        if folder is not None:
            return _no_room(what, remedy, folder, needed)
        return UserError(f"{what}: disk full ({cause}); free space, {remedy}")
    return UserError(f"{what}: cannot be written ({cause}); grant permission, {remedy}")


def check_room(folder: Path, needed: int) -> None:
    """Check that a folder's disk has enough free space.

    Raises:
        UserError: less than `needed` bytes are free.
    """
    if shutil.disk_usage(folder).free < needed:
        raise _no_room(str(folder), _OTHER_RESULTS, folder, needed)


def _no_room(what: str, remedy: str, folder: Path, needed: float) -> UserError:
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(there).free
    room = f"{needed / _MB:.1f} MB needed and {free / _MB:.1f} MB free"
    return UserError(f"{what}: disk full, {room}; free space, {remedy}")


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Context that only one process at a time holds, for each folder."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def lock(folder: Path, *, activity: str = "is training it", remedy: str = ", or choose another --name") -> BinaryIO:
    """Lock a folder for this process until the returned file is closed or the process ends.

    File systems without locks are not protected.

    Args:
        folder: the folder.
        activity: what the other process does, for the error.
        remedy: a further remedy, for the error.

    Raises:
        UserError: another process has it.
    """
    file = (folder / _LOCK).open("a+b")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        if e.errno not in _BUSY:
            return file
        file.seek(0)
        said = file.read()
        file.close()
        raise UserError(f"{folder}: {_owner(said)} {activity}; wait for its end or stop it{remedy}") from None
    if not os.fstat(file.fileno()).st_nlink:  # `unlock` removed it meanwhile
        file.close()
        return lock(folder, activity=activity, remedy=remedy)
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now():%Y-%m-%d %H:%M}"}
    file.truncate(0)
    file.write(json.dumps(owner).encode())
    file.flush()
    return file


def unlock(folder: Path, file: BinaryIO) -> None:
    """Release the lock of a folder, and remove its file."""
    with suppress(OSError):
        (folder / _LOCK).unlink()
    file.close()


def _owner(said: bytes) -> str:
    try:
        owner = json.loads(said)
        host = "" if owner["host"] == socket.gethostname() else f" on {owner['host']}"
        return f"process {owner['pid']}{host}, since {owner['since']},"
    except (ValueError, KeyError, TypeError):  # not written yet
        return "another process"


def remove_partial_files(folder: Path) -> None:
    """Remove temporary files of killed writers in a folder that is locked by this process."""
    for part in folder.rglob(".*.part"):
        part.unlink(missing_ok=True)


def describe_foreign_file(
    path: Path, remedy: str = "expected a .safetensors file that train.py wrote, or the name of a run"
) -> str:
    """What kind of file this is instead of weights of this package, and the remedy; empty if unknown.

    It looks at the first bytes and the names in an archive. Nothing is unpickled.
    """
    with path.open("rb") as f:
        begin = f.read(512)
    if not begin:
        return "an empty file; copy it again; " + remedy
    if begin.startswith(b"PK\x03\x04"):
        return _of_archive(path, remedy)
    if begin[:1] == b"\x80" and begin[1:2] in b"\x02\x03\x04\x05":
        kind = "a pickle, as PyTorch wrote .pth files before 1.6, which could run code and is not opened"
        return f"{kind}; {_CONVERT}; {remedy}"
    if begin.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS and not the file itself; run git lfs pull"
    if begin.lstrip()[:5].lower() in (b"<!doc", b"<html", b"<?xml"):
        return "a web page instead of the file; download the file itself"
    if begin.startswith(b"\x89HDF\r\n\x1a\n"):
        return f"an HDF5 file, as Keras writes weights; {remedy}"
    if begin.startswith((b"\x93NUMPY", b"\x1f\x8b", b"\xff\xd8\xff", b"\x89PNG")):
        kinds = {0x93: "an array of NumPy", 0x1F: "a gzip archive", 0xFF: "a picture", 0x89: "a picture"}
        return f"{kinds[begin[0]]} and no weights; {remedy}"
    if path.suffix.lower() == ".onnx":
        return f"an ONNX file, which other programs run; {remedy}"
    return ""


def _of_archive(path: Path, remedy: str) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            pickled = next((name for name in names if name.endswith("/data.pkl")), None)
            said = b""
            if pickled:
                with archive.open(pickled) as f:
                    said = f.read(_MOST_READ)
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError):
        return "a corrupt zip archive, perhaps truncated; copy it again"
    if not pickled:
        return f"a zip archive and no weights; unpack it; {remedy}"
    if any("/code/" in name for name in names):
        return f"a program of TorchScript; {remedy}"
    if all(key in said for key in (b"networks", b"ema", b"skipped")) or all(
        key in said for key in (b"random", b"pools")
    ):
        return f"the checkpoint of a run, not its weights; use {path.parent / 'weights.safetensors'}"
    kind = "a pickle of PyTorch (.pth), as other projects write, which could run code and is not opened"
    return f"{kind}; {_CONVERT}; {remedy}"
