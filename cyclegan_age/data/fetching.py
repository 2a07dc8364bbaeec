"""Large files from a web server, each fetched once into a folder of bounded size, shared by processes."""

import hashlib
import json
import os
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from cyclegan_age.config import UserError
from cyclegan_age.data.cache_files import VARIABLE, explained, locked

_TRIES = 4  # each resumes where the one before ended
_PAUSE_SECONDS = 1.0  # after the first try, then doubled each time
_TIMEOUT_SECONDS = 30.0
_ABANDONED_SECONDS = 3600.0  # age of an incomplete file that counts as abandoned
_CHUNK = 1 << 20  # bytes
_RETRIED = frozenset({408, 429, 500, 502, 503, 504})  # of HTTP's statuses


class Absent(UserError):
    """The server has no such file."""


@dataclass(frozen=True)
class Fetched:
    """A folder of fetched files.

    Attributes:
        folder: its path.
        limit: maximum size in bytes; the least recently used files are deleted first.
    """

    folder: Path
    limit: int

    def place(self, url: str) -> Path:
        """The path of a file after it is fetched."""
        name = url.partition("?")[0].rsplit("/", 1)[-1]
        return self.folder / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{name}"

    def path(self, url: str, stopped: Callable[[], bool] = lambda: False) -> Path:
        """The file, fetched if it is missing; waits for another process that fetches it.

        Args:
            url: http or https.
            stopped: polled; once it returns true, the partial file is kept and an error raised.

        Raises:
            Absent: the server has no such file.
            UserError: it cannot be fetched, or the folder cannot be written.
        """
        place = self.place(url)
        if not place.is_file():
            with explained():
                self.folder.mkdir(parents=True, exist_ok=True)
                with locked(place.with_name(f"{place.name}.lock")):
                    if not place.is_file():
                        self._fetch(url, place, stopped)
        with suppress(OSError):
            os.utime(place)
        return place

    def _fetch(self, url: str, place: Path, stopped: Callable[[], bool]) -> None:
        cause = ""
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(_PAUSE_SECONDS * 2 ** (attempt - 1))
            try:
                if self._received(url, place, stopped):
                    return
                cause = "the connection ended too early"
            except urllib.error.HTTPError as e:
                e.close()
                if e.code in (404, 410):
                    raise Absent(f"--dataroot {url}: no such file on the server; check the address") from None
                if e.code == 416:  # the partial file is not a prefix of that file
                    _part(place).unlink(missing_ok=True)
                elif e.code not in _RETRIED:
                    remedy = "check the address, and whether it needs a key"
                    raise UserError(f"--dataroot {url}: refused with HTTP {e.code}; {remedy}") from None
                cause = f"HTTP {e.code}"
            except (urllib.error.URLError, TimeoutError, ConnectionError, ssl.SSLError, HTTPException) as e:
                cause = str(getattr(e, "reason", "") or e) or type(e).__name__
            if stopped():
                break
        raise UserError(
            f"--dataroot {url}: cannot be fetched: {cause}; check address and network; the same command resumes "
            "the download"
        )

    def _received(self, url: str, place: Path, stopped: Callable[[], bool]) -> bool:
        """Fetch the missing bytes; returns whether the file is complete."""
        part, about = _part(place), place.with_name(f"{place.name}.json")
        start, mark = _begun(part, about)
        # Uncompressed, and only the rest of the same version of the file.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-", "If-Range": mark} if start else {})
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_SECONDS) as answer:
            if answer.status != 206 or not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                start = 0
            total = _total(answer, start)
            weak = answer.headers.get("ETag", "").startswith("W/")
            mark = (not weak and answer.headers.get("ETag")) or answer.headers.get("Last-Modified") or ""
            self._make_room(total, start, part)
            about.write_text(json.dumps({"bytes": total, "mark": mark}))
            with part.open("r+b" if start else "wb") as file:
                file.seek(start)
                file.truncate()
                while not stopped() and (data := answer.read(_CHUNK)):
                    file.write(data)
                    start += len(data)
        if start < total or stopped():
            return False
        part.replace(place)
        about.unlink(missing_ok=True)
        return True

    def _make_room(self, total: int, there: int, own: Path) -> None:
        """Delete the least recently used files until `total` bytes fit, some of which exist already."""
        with locked(self.folder / "lock"):
            found = []
            for file in self.folder.iterdir():
                if file.suffix in (".tar", ".part") and file != own:
                    with suppress(FileNotFoundError):
                        stat = file.stat()
                        found.append((stat.st_mtime, max(stat.st_size, _wanted(file)), file))
            held = sum(size for _, size, _ in found)
            for used_at, size, file in sorted(found):
                if held + total <= self.limit:
                    break
                if file.suffix == ".tar" or time.time() - used_at > _ABANDONED_SECONDS:
                    file.unlink(missing_ok=True)
                    held -= size
            free = shutil.disk_usage(self.folder).free
        if total - there > free:
            raise UserError(
                f"--shard_cache {self.limit / 1e9:g}: {self.folder} has {free / 1e9:.2f} GB free, "
                f"{(total - there) / 1e9:.2f} GB are needed; lower it, or set {VARIABLE} to a folder with free space"
            )


def _part(place: Path) -> Path:
    return place.with_name(f"{place.name}.part")


def _wanted(part: Path) -> int:
    """Final size in bytes of a file that is being fetched; 0 for others."""
    try:
        return int(json.loads(part.with_suffix(".json").read_text())["bytes"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _begun(part: Path, about: Path) -> tuple[int, str]:
    """Bytes of a partial file, and the server's entity tag of it; 0 if it has none."""
    try:
        mark = str(json.loads(about.read_text())["mark"])
        return (part.stat().st_size, mark) if mark else (0, "")
    except (OSError, ValueError, KeyError, TypeError):
        return 0, ""


def _total(answer: HTTPResponse, start: int) -> int:
    """Bytes of the complete file."""
    length = answer.headers.get("Content-Length")
    if length is None:
        raise HTTPException("the server does not report the file's size")
    return start + int(length)
