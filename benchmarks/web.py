"""Load on the REST service: answers counted and checked, waiting times, memory: `python -m benchmarks.web`.

Without `--url` it starts its own server. It sends photographs made of `skimage.data.astronaut()`, which is in the
public domain, as fast as they are answered. A client that must retry waits as long as the server says. `--rough` adds
three misbehaving clients.
"""

import http.client
import io
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image
from skimage import data

from benchmarks.plan import Row, table
from benchmarks.processes import PROJECT
from cyclegan_age.config import UserError
from options.bench import WebBenchConfig, parse_web_bench
from options.command import command

AGES = (10, 25, 60)
START_SECONDS = 900
SAMPLES_EVERY = 0.5  # seconds
HUGE = 400  # MB of an upload that is too large
SLOW = 64, 0.01  # bytes per read of a slow client, and its pause in seconds


@dataclass
class Load:
    """Measurements of the clients."""

    statuses: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)  # of answers with a picture
    refused_seconds: list[float] = field(default_factory=list)
    wrong: int = 0
    rough: Counter[str] = field(default_factory=Counter)  # of misbehaving clients
    left: int | None = None  # temporary files of the server at the end; None if unknown
    memory: list[tuple[float, int]] = field(default_factory=list)  # seconds since the start, resident bytes


def photo() -> bytes:
    """A JPEG of 512 x 512 px with one face."""
    out = io.BytesIO()
    Image.fromarray(data.astronaut()).save(out, format="JPEG", quality=92)
    return out.getvalue()


def start_server(temporary: str) -> tuple[subprocess.Popen[bytes], str]:
    """Start a server of the shipped weights on a free port, with a folder for temporary files; it may not answer
    yet."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [sys.executable, "demo.py", "--port", str(port)]
    process = subprocess.Popen(command, cwd=PROJECT, env=os.environ | {"TMPDIR": temporary}, stdout=subprocess.DEVNULL)
    return process, f"http://127.0.0.1:{port}"


def resident(pid: int) -> int:
    """Resident bytes of a process; 0 if the system does not report them."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024 if "VmRSS:" in status else 0


def expected(image: bytes) -> dict[int, bytes]:
    """The correct answers, computed in this process."""
    from cyclegan_age.faces.detection import detector
    from cyclegan_age.faces.files import Photo, as_rgb
    from cyclegan_age.inference import Ager

    ager = Ager.load()
    before = Photo.read(image)
    places = [face.place(ager.frame) for face in detector().find(as_rgb(before.upright))]
    return {years: before.with_upright(ager.age_places(before.upright, places, years)).encoded() for years in AGES}


def client(url: str, number: int, image: bytes, right: dict[int, bytes], end: float, load: Load) -> None:
    """Request one age after the other until the time is over."""
    import httpx

    turn = number
    with httpx.Client(timeout=120) as http:
        while time.monotonic() < end:
            years = AGES[turn % len(AGES)]
            turn += 1
            begin = time.monotonic()
            try:
                answer = http.post(f"{url}/api/age", files={"image": image}, data={"target_age": str(years)})
            except httpx.HTTPError as e:
                load.statuses[type(e).__name__] += 1
                continue
            load.statuses[str(answer.status_code)] += 1
            if answer.status_code == 200:
                load.seconds.append(time.monotonic() - begin)
                load.wrong += not same(answer.content, right[years])
            elif answer.status_code == 503:
                load.refused_seconds.append(time.monotonic() - begin)
                time.sleep(min(float(answer.headers.get("retry-after", 1)), max(0.0, end - time.monotonic())))


def form(image: bytes) -> tuple[bytes, dict[str, str]]:
    """The body of a request for the last of the ages, and its headers."""
    line = b"--cut\r\nContent-Disposition: form-data; name="
    body = line + b'"target_age"\r\n\r\n%d\r\n' % AGES[-1] + line + b'"image"; filename="a.jpg"\r\n\r\n' + image
    body += b"\r\n--cut--\r\n"
    return body, {"Content-Type": "multipart/form-data; boundary=cut", "Content-Length": str(len(body))}


def slow_reader(place: tuple[str, int], image: bytes, right: dict[int, bytes], load: Load) -> None:
    """Read an answer in small pieces."""
    connection = http.client.HTTPConnection(*place, timeout=300)
    connection.connect()
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    body, headers = form(image)
    connection.request("POST", "/api/age", body, headers)
    answer = connection.getresponse()
    got = b""
    while piece := answer.read(SLOW[0]):
        got += piece
        time.sleep(SLOW[1])
    connection.close()
    load.rough[f"slow readers, answered {answer.status}"] += 1
    if answer.status == 200:
        load.wrong += not same(got, right[AGES[-1]])
    else:
        time.sleep(1)


def huge_upload(place: tuple[str, int], image: bytes, right: dict[int, bytes], load: Load) -> None:
    """Upload too much."""
    connection = http.client.HTTPConnection(*place, timeout=300)
    kind = form(image)[1]["Content-Type"]
    try:
        pieces = (bytes(1_000_000) for _ in range(HUGE))
        headers = {"Content-Type": kind, "Content-Length": str(HUGE * 1_000_000)}
        connection.request("POST", "/api/age", pieces, headers)
        load.rough[f"huge uploads, answered {connection.getresponse().status}"] += 1
    except OSError:  # it was not read to its end
        load.rough["huge uploads, cut off"] += 1
    connection.close()
    time.sleep(1)


def vanishing(place: tuple[str, int], image: bytes, right: dict[int, bytes], load: Load) -> None:
    """Disconnect in the middle of an upload or, every second time, right after it."""
    body, headers = form(image)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    whole = load.rough["vanished in the middle"] > load.rough["vanished before the answer"]
    with socket.create_connection(place) as to:
        to.sendall(f"POST /api/age HTTP/1.1\r\nHost: here\r\n{lines}\r\n".encode())
        to.sendall(body if whole else body[: len(body) // 2])
    load.rough["vanished before the answer" if whole else "vanished in the middle"] += 1
    time.sleep(0.5)


def same(one: bytes, other: bytes) -> bool:
    """Whether two files hold the same picture; rounding may differ by a level or two between threads."""
    if one == other:
        return True
    a, b = (np.asarray(Image.open(io.BytesIO(x))).astype(int) for x in (one, other))
    return a.shape == b.shape and int(abs(a - b).max()) <= 8 and float(abs(a - b).mean()) < 0.05


def measure(config: WebBenchConfig) -> Load:
    """Run the clients.

    Raises:
        UserError: no server answers.
    """
    load, image = Load(), photo()
    with tempfile.TemporaryDirectory(prefix="cyclegan-age-web-") as temporary:
        process, url = (None, config.url.rstrip("/")) if config.url else start_server(temporary)
        _measure(config, process, url, image, load)
        if process:
            load.left = sum(1 for path in Path(temporary).rglob("*") if path.is_file())
    return load


def _measure(
    config: WebBenchConfig, process: "subprocess.Popen[bytes] | None", url: str, image: bytes, load: Load
) -> None:
    import httpx

    pid = process.pid if process else config.pid
    try:
        right = expected(image)
        begin = time.monotonic()
        while True:
            try:
                httpx.post(f"{url}/api/age", files={"image": image}, data={"target_age": "30"}, timeout=START_SECONDS)
                break
            except httpx.TransportError as e:
                if config.url or time.monotonic() - begin > START_SECONDS or (process and process.poll() is not None):
                    raise UserError(f"--url {url}: does not answer ({type(e).__name__}); start demo.py first") from None
                time.sleep(0.2)
        begin = time.monotonic()
        end = begin + config.seconds
        threads = [
            threading.Thread(target=client, args=(url, number, image, right, end, load))
            for number in range(config.clients)
        ]
        if config.rough:
            address = urlsplit(url)
            place = address.hostname or "", address.port or 80

            def again(do: Callable[[tuple[str, int], bytes, dict[int, bytes], Load], None]) -> None:
                while time.monotonic() < end:
                    do(place, image, right, load)

            threads += [threading.Thread(target=again, args=(do,)) for do in (slow_reader, huge_upload, vanishing)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            load.memory.append((time.monotonic() - begin, resident(pid) if pid else 0))
            time.sleep(SAMPLES_EVERY)
    finally:
        if process:
            process.terminate()
            process.wait()


def rows_of(load: Load, config: WebBenchConfig) -> list[Row]:
    """The lines of the table."""
    rows = [
        Row(measure=f"answers {status}", value=count, unit="requests")
        for status, count in sorted(load.statuses.items())
    ]
    lost = sum(count for status, count in load.statuses.items() if status not in ("200", "503"))
    rows.append(Row(measure="lost otherwise", value=lost, unit="requests", at_most=0))
    rows.append(Row(measure="wrong pictures", value=load.wrong, unit="requests", at_most=0))
    rows += [Row(measure=name, value=count, unit="requests") for name, count in sorted(load.rough.items())]
    if load.left is not None:
        rows.append(Row(measure="temporary files left", value=load.left, unit="files", at_most=0))
    for name, values in (("a picture", load.seconds), ("a refusal", load.refused_seconds)):
        if values:
            rows += [
                Row(measure=f"{name} after, {part} %", value=float(np.percentile(values, part)), unit="s")
                for part in (50, 95, 99)
            ]
    if load.memory and load.memory[0][1]:
        thirds = [[b for t, b in load.memory if k <= 3 * t / config.seconds < k + 1] for k in range(3)]
        for name, part in zip(("start", "middle", "end"), thirds, strict=True):
            if part:
                rows.append(Row(measure=f"memory, {name}", value=max(part) / 2**20, unit="MiB"))
    return rows


@command(parse_web_bench)
def main(config: WebBenchConfig) -> int:
    """Measure and print the table; returns 1 if an answer was wrong or a bound is exceeded."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # CPU only
    load = measure(config)
    from benchmarks.inside import machine

    rows = rows_of(load, config)
    print(f"{machine()}; shipped weights; {config.clients} clients, {config.seconds:g} s\n\n{table(rows)}")
    return 0 if not load.wrong and all(row.at_most is None or row.value <= row.at_most for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
