"""A real server of the browser application in a process of its own, and pictures to send to it."""

import io
import os
import shutil
import socket
import struct
import subprocess
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from skimage import data
from visdom_tools import free_port, wait_for

PROJECT = Path(__file__).resolve().parent.parent
MEGABYTES, WAITING = 2, 3  # limits of the server
PATIENCE = 900  # seconds; all takes long where a training has the processor


@dataclass
class WebServer:
    """`python demo.py` with small limits.

    Attributes:
        temporary: the folder in which it may make temporary files.
        flags: more of the command line.
    """

    temporary: Path
    flags: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        flags = ["--port", str(self.port), "--megabytes", str(MEGABYTES), "--megapixels", "4", *self.flags]
        self.process = subprocess.Popen(
            [sys.executable, "demo.py", *flags, "--waiting", str(WAITING), "--seconds", str(PATIENCE)],
            cwd=PROJECT,
            env=os.environ | {"TMPDIR": str(self.temporary)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            wait_for(self._answers, bool, 2 * PATIENCE)
        except BaseException:
            self.stop()
            raise

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.process.stderr and self.process.stderr.read()
        try:
            return httpx.get(f"{self.url}/openapi.json", timeout=PATIENCE).status_code == 200
        except httpx.TransportError:
            return False

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    def post(self, path: str, image: bytes | None, **fields: str) -> httpx.Response:
        """Send a picture and fields as a form."""
        files = None if image is None else {"image": ("me <b>.jpg", image)}
        return httpx.post(f"{self.url}{path}", files=files, data=fields, timeout=PATIENCE)

    def files(self) -> list[Path]:
        """The temporary files that there are."""
        return [path for path in self.temporary.rglob("*") if path.is_file()]

    def memory(self) -> int:
        """Resident bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    def stop(self) -> str:
        """As Ctrl-C; what it wrote to its error stream."""
        if self.process.poll() is None:
            self.process.send_signal(2)
        return self.process.communicate(timeout=PATIENCE)[1]


@dataclass
class Nginx:
    """nginx that shows a server below `/aging/`, as docs/web.md says.

    Attributes:
        folder: for its files.
        web: the server behind it.
        location: the lines of its configuration.
    """

    folder: Path
    web: WebServer
    location: str
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
        if program is None:
            pytest.skip("no nginx; on Debian and Ubuntu: apt-get install nginx-light")
        paths = "".join(
            f"{kind}_temp_path {self.folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (self.folder / "nginx.conf").write_text(
            f"{'user root;' if os.geteuid() == 0 else ''} daemon off; events {{}}\n"
            f"pid {self.folder}/pid; error_log {self.folder}/log;\n"
            f"http {{ access_log off; {paths} server {{ listen 127.0.0.1:{self.port};\n"
            "location = /manifest.json { return 200 '{}'; }\n"  # browsers ask for both at the root
            "location = /favicon.ico { return 204; }\n"
            f"{self.location.replace('127.0.0.1:7860', f'127.0.0.1:{self.web.port}')} }} }}\n"
        )
        command = [
            program,
            "-p",
            str(self.folder),
            "-c",
            str(self.folder / "nginx.conf"),
            "-e",
            str(self.folder / "log"),
        ]
        self.process = subprocess.Popen(command)
        wait_for(self._answers, bool)

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self.folder / "log").read_text()
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", self.port)) == 0

    @property
    def url(self) -> str:
        """Address of the page behind it, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}/aging"

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


def encoded(picture: Image.Image | np.ndarray, kind: str = "PNG") -> bytes:
    """The bytes of a file."""
    out = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(out, format=kind)
    return out.getvalue()


def photo() -> bytes:
    """A JPEG of 512 x 512 px with one face, by NASA, in the public domain."""
    return encoded(data.astronaut(), "JPEG")


def two_faces() -> bytes:
    """A JPEG with that face twice, side by side."""
    one = data.astronaut()[:300, 100:400]
    return encoded(np.concatenate([one, one[:, ::-1]], axis=1), "JPEG")


def faceless() -> bytes:
    """A JPEG of a cup of coffee."""
    return encoded(data.coffee(), "JPEG")


def bomb(side: int = 60_000) -> bytes:
    """A PNG of `side` x `side` px in few bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    packer = zlib.compressobj(1)
    rows = bytes(1 + side // 8) * 100
    body = b"".join(packer.compress(rows) for _ in range(side // 100)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
