"""The REST service on a real server: right answers, held limits, nothing kept and nothing told of the machine."""

import asyncio
import base64
import io
import re
import shlex
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="gradio is not installed: requirements-web.txt")

import httpx
import uvicorn
from visdom_tools import free_port, wait_for
from web_tools import MEGABYTES, PATIENCE, WAITING, WebServer, bomb, encoded, faceless, photo, two_faces

import demo as demo_command
from benchmarks import mutations
from benchmarks import web as bench
from cyclegan_age import web as web_package
from cyclegan_age.config import DemoConfig, UserError
from cyclegan_age.faces.detection import detector
from cyclegan_age.faces.files import Photo
from cyclegan_age.images import reads_heif
from cyclegan_age.inference import Ager, demo_portrait
from cyclegan_age.provenance import marked
from cyclegan_age.web.gate import Gate
from cyclegan_age.web.limits import Refused, Worker
from options.bench import parse_web_bench

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def ager() -> Ager:
    return Ager.load()


def aged(ager: Ager, data: bytes, years: float) -> bytes:
    """What the service is to answer."""
    before = Photo.read(data)
    places = [face.place(ager.frame) for face in detector().find(before.upright)]  # type: ignore[arg-type]
    return marked(before.with_upright(ager.age_places(before.upright, places, years)).encoded(), ager.mark.at(years))


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """Status and text of a refusal, which is one line and names no place of the machine."""
    text = answer.json()["error"]
    assert "\n" not in text
    assert not re.search(r"/\w+/|me <b>|\.py|Traceback", answer.text)
    return answer.status_code, text


def test_age_is_what_the_package_gives_and_no_file_is_left(web: WebServer, ager: Ager) -> None:
    answer = web.post("/api/age", photo(), target_age="60")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.content == aged(ager, photo(), 60)
    noise = np.random.default_rng(0).integers(0, 256, (1100, 512, 3), dtype=np.uint8)
    noise[:512] = np.asarray(Image.open(io.BytesIO(photo())))
    large = encoded(noise)
    assert 1_000_000 < len(large) < MEGABYTES * 1e6, "too large for the memory that form parsers use by default"
    assert web.post("/api/age", large, target_age="20").headers["content-type"] == "image/png"
    assert web.files() == []


def test_face_chooses_one_and_aligned_takes_the_picture_as_it_is(web: WebServer, ager: Ager) -> None:
    before = np.asarray(Image.open(io.BytesIO(two_faces()))).astype(int)
    answer = web.post("/api/age", encoded(Image.open(io.BytesIO(two_faces()))), target_age="60", face="2")
    change = abs(np.asarray(Image.open(io.BytesIO(answer.content))).astype(int) - before).sum(axis=(0, 2))
    assert change[:300].max() == 0
    assert change[300:].max() > 0
    answer = web.post("/api/age", encoded(demo_portrait()), target_age="20", aligned="true")
    assert answer.headers["content-type"] == "image/png"
    expected = np.asarray(ager.age(demo_portrait(), 20))
    assert (np.asarray(Image.open(io.BytesIO(answer.content))) == expected).all()


def test_turned_faces_and_ages_that_are_not_reliable_are_said_in_a_header(web: WebServer) -> None:
    whole = Image.open(io.BytesIO(photo()))
    assert "x-note" not in web.post("/api/age", encoded(whole), target_age="60").headers
    turned = encoded(whole.transpose(Image.Transpose.ROTATE_180))
    for path, fields in (("/api/age", {"target_age": "60"}), ("/api/strip", {})):
        note = web.post(path, turned, **fields).headers["x-note"]
        assert note == "the face is rotated clockwise by 180 degrees; the picture is not rotated"
    note = web.post("/api/age", turned, target_age="90").headers["x-note"]
    beyond = "age 90: beyond the 10 to 70 of the weights, rendered as the nearest of them"
    assert note == f"{beyond}; the face is rotated clockwise by 180 degrees; the picture is not rotated"
    described = httpx.get(f"{web.url}/openapi.json", timeout=PATIENCE).json()["paths"]["/api/life"]["post"]
    assert "X-Note" in described["responses"]["200"]["headers"]


def test_strip_and_life(web: WebServer, ager: Ager) -> None:
    portrait = encoded(demo_portrait().resize((64, 64)))
    strip = web.post("/api/strip", photo(), model="cyclegan")
    assert strip.headers["content-type"] == "image/png"
    sheet = Image.open(io.BytesIO(strip.content))
    assert sheet.width > 7 * 120, "the face and six ages"
    assert (np.asarray(sheet) == (255, 140, 0)).all(axis=2).sum() > 100, "its own age is framed"
    life = web.post("/api/life", portrait, model="cyclegan", aligned="true", format="gif")
    assert life.headers["content-type"] == "image/gif"
    assert Image.open(io.BytesIO(life.content)).n_frames == 61  # type: ignore[attr-defined]
    life = web.post("/api/life", portrait, model="cyclegan", aligned="true")
    assert life.headers["content-type"] == "video/mp4"
    with av.open(io.BytesIO(life.content)) as film:
        assert sum(1 for _ in film.decode(video=0)) == 61
    assert web.files() == []


def test_bomb_is_refused_at_once_and_without_memory(web: WebServer) -> None:
    data = bomb()
    web.post("/api/age", bomb(200), target_age="60")  # so that all is loaded
    before, begin = web.memory(), time.monotonic()
    assert refusal(web.post("/api/age", data, target_age="60"))[0] == 413
    assert time.monotonic() - begin < 5
    assert web.memory() - before < 30e6
    status, text = refusal(web.post("/api/age", bomb(8000), target_age="60"))
    assert (status, text) == (413, "8000 x 8000 pixels, more than 4 million; send a smaller picture")


@pytest.mark.parametrize(
    ("make", "fields", "status", "said"),
    [
        (lambda: bytes(round(MEGABYTES * 1e6) + 1), {}, 413, "larger than 2 MB"),
        (lambda: bytes(9_000_000), {}, 413, "larger than 2 MB"),
        pytest.param(
            lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
            *(
                {},
                422,
                "a HEIC picture; expected a JPEG, PNG, WebP, AVIF, GIF, TIFF, BMP or PPM file (reading it needs the ",
            ),
            marks=pytest.mark.skipif(reads_heif(), reason="pillow-heif is installed"),
        ),
        (lambda: b"hello\n" * 50, {}, 422, "not a picture"),
        (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", {}, 422, "not a picture"),
        (lambda: b"", {}, 422, "an empty file; expected a JPEG"),
        (lambda: photo()[:2000], {}, 422, "broken picture"),
        (faceless, {}, 422, "no face found; send a photograph that shows"),
        (photo, {"face": "2"}, 422, "face: must be at most 1, the number of faces found"),
        (photo, {"face": "../2"}, 422, "face: must be all, largest or a number from 1 on"),
        (photo, {"target_age": "nan"}, 422, "target_age: must be a number from 0 to 120"),
        (photo, {"target_age": "120.5"}, 422, "target_age: must be a number from 0 to 120"),
        (photo, {"target_age": "-1"}, 422, "target_age: must be a number from 0 to 120"),
        (photo, {"target_age": "<b>"}, 422, "target_age: must be a number from 0 to 120"),
        (photo, {"model": "/etc/passwd"}, 422, "model: must be one of cyclegan_heads, cyclegan, caae"),
        (lambda: None, {}, 422, "image: required"),
    ],
)
def test_refused(
    web: WebServer, make: Callable[[], bytes | None], fields: dict[str, str], status: int, said: str
) -> None:
    got = refusal(web.post("/api/age", make(), **({"target_age": "60"} | fields)))
    assert got[0] == status
    assert got[1].startswith(said)


def test_full_queue_is_told_and_every_other_answer_is_right(web: WebServer, ager: Ager) -> None:
    expected = aged(ager, photo(), 60)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: web.post("/api/age", photo(), target_age="60"), range(16)))
    done = [one for one in answers if one.status_code == 200]
    assert len(done) >= WAITING + 1
    assert all(one.content == expected for one in done)
    refused = [one for one in answers if one.status_code != 200]
    assert refused
    for one in refused:
        assert refusal(one)[0] == 503
        assert 0 < one.json()["waiting"] <= WAITING
        assert int(one.headers["retry-after"]) >= 1


def test_description_of_the_service(web: WebServer) -> None:
    paths = httpx.get(f"{web.url}/openapi.json", timeout=PATIENCE).json()["paths"]
    assert set(paths) == {"/api/age", "/api/life", "/api/strip"}
    assert {"200", "413", "415", "422", "503", "504"} <= set(paths["/api/age"]["post"]["responses"])


def test_other_requests_are_told(web: WebServer) -> None:
    for method in ("GET", "PUT", "HEAD"):
        answer = httpx.request(method, f"{web.url}/api/age", timeout=PATIENCE)
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        assert method == "HEAD" or answer.json() == {"error": "must be sent by POST"}
    answer = httpx.post(f"{web.url}/api/young", timeout=PATIENCE)
    assert answer.status_code == 404
    assert answer.json() == {"error": "no such request; expected one of /api/age, /api/life, /api/strip"}
    answer = httpx.post(f"{web.url}/api/strip", data={"image": "photo.jpg"}, timeout=PATIENCE)
    assert answer.status_code == 422
    assert answer.json() == {"error": "image: must be a file, as curl -F image=@photo.jpg sends it"}
    answer = httpx.post(f"{web.url}/api/strip", json={"image": "photo.jpg"}, timeout=PATIENCE)
    assert answer.status_code == 415
    told = "application/json: expected multipart/form-data, as curl -F image=@photo.jpg sends it"
    assert answer.json() == {"error": told}
    answer = httpx.post(f"{web.url}/api/strip", content=b"{", headers={"content-type": "<b>/x"}, timeout=PATIENCE)
    assert (answer.status_code, answer.json()["error"][:14]) == (415, "b/x: expected ")
    answer = httpx.post(f"{web.url}/api/strip", files={"image": photo()}, data={"age": "60"}, timeout=PATIENCE)
    assert answer.status_code == 422
    assert answer.json() == {"error": "age: unknown field; expected image, face, aligned, model"}
    answer = web.post("/api/strip", photo(), face="all")
    assert (answer.status_code, answer.json()["error"][:18]) == (422, "face: must be larg")
    answer = httpx.post(f"{web.url}/openapi.json", timeout=PATIENCE)
    assert (answer.status_code, answer.json()) == (405, {"error": "must be read by GET"})


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/gradio_api/upload"),
        ("GET", "/gradio_api/file=/etc/passwd"),
        ("GET", "/gradio_api/file/etc/passwd"),
        ("GET", "/gradio_api/proxy=http://127.0.0.1/"),
        ("POST", "/gradio_api/component_server"),
        ("GET", "/monitoring"),
        ("GET", "/docs"),
        ("GET", "/static/../../pyproject.toml"),
    ],
)
def test_routes_that_nothing_needs_are_closed(web: WebServer, method: str, path: str) -> None:
    assert httpx.request(method, f"{web.url}{path}", timeout=PATIENCE).status_code == 404


def test_page_tells_nothing_of_the_machine(web: WebServer) -> None:
    for path in ("/", "/config", "/gradio_api/info", "/openapi.json", "/theme.css"):
        answer = httpx.get(f"{web.url}{path}", timeout=PATIENCE)
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"].split("; ")
        assert {"default-src 'self'", "object-src 'none'", "base-uri 'self'", "form-action 'self'"} <= set(policy)
        for place in (str(PROJECT), str(web.temporary), str(Path.home()), "site-packages"):
            assert place not in answer.text, path
        assert "server" not in answer.headers


def test_gradio_client(web: WebServer, ager: Ager) -> None:
    from gradio_client import Client
    from gradio_client.exceptions import AppError

    client = Client(web.url, verbose=False, analytics_enabled=False)
    try:
        sent = base64.b64encode(photo()).decode()
        assert base64.b64decode(client.predict(sent, 60, api_name="/age")) == aged(ager, photo(), 60)
        with pytest.raises(AppError, match="no face found"):
            client.predict(base64.b64encode(faceless()).decode(), 60, api_name="/age")
        with pytest.raises(AppError, match="expected a picture in Base64"):
            client.predict("<b>", 60, api_name="/age")
        for age in ("old", 500, None):
            with pytest.raises(AppError, match="target_age: must be a number from 0 to 120"):
                client.predict(sent, age, api_name="/age")
    finally:
        client.close()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_examples_of_the_documentation(web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (PROJECT / "docs" / "web.md").read_text().replace("http://127.0.0.1:7860", web.url)
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "photo.jpg").write_bytes(photo())
    (tmp_path / "party.jpg").write_bytes(two_faces())
    lines = [line for language, block in blocks if not language for line in block.splitlines() if "curl" in line]
    assert len(lines) == 5
    for line in lines:
        subprocess.run([*shlex.split(line), "-sS", "--fail"], cwd=tmp_path, check=True, capture_output=True)
    kinds = {"photo-60.jpg": "JPEG", "party-20.jpg": "JPEG", "strip.png": "PNG", "life.gif": "GIF"}
    for name, kind in kinds.items():
        with Image.open(tmp_path / name) as image:
            assert image.format == kind
    answer = (tmp_path / "photo-60.jpg").read_bytes()
    (tmp_path / "photo-60.jpg").unlink()
    (program,) = [block for language, block in blocks if language == "python"]
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(program, "docs/web.md", "exec"), names)
    names["client"].close()
    assert (tmp_path / "photo-60.jpg").read_bytes() == answer


SESSIONS = """
import time
import gradio as gr
from fastapi import FastAPI
from cyclegan_age.web.page import Sessions
from cyclegan_age.web.server import mount

with gr.Blocks(analytics_enabled=False) as blocks:
    box, held = gr.HTML(), gr.State(None, time_to_live=600)
page = mount(FastAPI(), blocks, "127.0.0.1", 7860)
assert isinstance(page.state_holder, Sessions)
assert page.get_blocks().state_holder is page.state_holder
session = page.state_holder["a page"]
session._update_value_in_config(box._id, "a picture")
session[held._id] = "faces"
page.state_holder.delete_all_expired_state()
assert page.state_holder["a page"] is session
assert session[held._id] == "faces"
assert "a picture" not in repr(session.config_values)
session.is_closed = True
time.sleep(0.01)
page.state_holder.delete_all_expired_state()
assert session[held._id] is None
"""


def test_sessions_hold_the_faces_and_no_value_that_a_page_sent() -> None:
    """Gradio would keep the pictures, for every page that was opened. In a process of its own, as it leaves loops."""
    done = subprocess.run([sys.executable, "-c", SESSIONS], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_worker_refuses_what_is_too_much_or_too_late() -> None:
    async def story() -> None:
        worker = Worker(most=1, seconds=0.5)
        go, ran = threading.Event(), []
        first = asyncio.create_task(worker.run(go.wait))
        await asyncio.sleep(0.02)
        second = asyncio.create_task(worker.run(lambda: ran.append("second")))
        await asyncio.sleep(0.02)
        with pytest.raises(Refused) as full:
            await worker.run(lambda: ran.append("third"))
        assert (full.value.status, full.value.waiting) == (503, 1)
        assert full.value.retry_after is not None
        for late in (first, second):
            with pytest.raises(Refused) as no:
                await late
            assert no.value.status == 504
        assert worker.waiting == 0, "what was given up does not wait any more"
        go.set()
        assert await worker.run(lambda: 7) == 7
        assert ran == []
        with pytest.raises(ZeroDivisionError):
            await worker.run(lambda: 1 // 0)
        assert await worker.run(lambda: 8) == 8
        worker.close()

    asyncio.run(story())


def test_a_job_that_waits_is_not_done_once_its_sender_has_gone() -> None:
    worker, begun, go, done = Worker(most=5, seconds=60), threading.Event(), threading.Event(), []

    def slow() -> None:
        begun.set()
        assert go.wait(60)
        done.append("slow")

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"].rpartition("/")[2]
        await worker.run(slow if path == "slow" else lambda: done.append(path))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(Gate(answer, 1000, 10_000, 60), port=port, lifespan="off", log_level="error")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: server.started, bool)

        def asks(path: str) -> socket.socket:
            line = socket.create_connection(("127.0.0.1", port))
            line.sendall(f"POST /api/{path} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody".encode())
            return line

        first = asks("slow")
        assert begun.wait(60)
        lines = {name: asks(name) for name in ("leaves", "stays", "breaks")}
        wait_for(lambda: worker.waiting, lambda count: count == 3)
        lines["leaves"].close()
        lines["breaks"].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # by a reset
        lines["breaks"].close()
        wait_for(lambda: worker.waiting, lambda count: count == 1)
        go.set()
        for line in (first, lines["stays"]):
            assert line.recv(100).startswith(b"HTTP/1.1 200")
            line.close()
    finally:
        go.set()
        server.should_exit = True
        thread.join()
        worker.close()
    assert done == ["slow", "stays"]


async def _messages(parts: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
    """A body in parts, as a server gives it whose client stays."""
    async for part in parts:
        yield {"type": "http.request", "body": part, "more_body": True}
    yield {"type": "http.request", "body": b"", "more_body": False}
    await asyncio.Event().wait()


async def _no_parts() -> AsyncIterator[bytes]:
    for part in ():
        yield part


async def _through(gate: Gate, parts: AsyncIterator[bytes], path: str = "/api/age") -> int:
    """The status of the answer to a request whose length is not told."""
    said: list[Any] = []
    messages = _messages(parts)

    async def receive() -> Any:
        return await anext(messages)

    async def send(message: Any) -> None:
        said.append(message)

    await gate({"type": "http", "path": path, "headers": []}, receive, send)
    status: int = said[0]["status"]
    return status


def test_gate_reads_no_more_than_it_may() -> None:
    got: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        got.append(len((await receive())["body"]))
        await asyncio.sleep(0.05)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def parts(count: int, size: int = 100_000, seconds: float = 0.0) -> AsyncIterator[bytes]:
        for _ in range(count):
            await asyncio.sleep(seconds)
            yield bytes(size)

    async def story() -> None:
        gate = Gate(app, most=1_000_000, held=1_500_000, seconds=0.5)
        assert await _through(gate, parts(10)) == 200
        assert got == [1_000_000]
        assert await _through(gate, parts(12)) == 413
        assert await _through(gate, parts(10_000_000)) == 413, "and it does not read on for ever"
        assert await _through(gate, parts(100, 1, 0.1)) == 408
        slow = [asyncio.create_task(_through(gate, parts(9, 100_000, 0.02))) for _ in range(20)]
        most = 0
        while not all(task.done() for task in slow):
            most = max(most, gate.now)
            await asyncio.sleep(0.01)
        assert 1_000_000 < most <= 1_500_000, "bodies count while they arrive"
        assert {task.result() for task in slow} == {200, 503} and gate.now == 0
        both = await asyncio.gather(_through(gate, parts(10)), _through(gate, parts(10)))
        assert sorted(both) == [200, 503]
        assert await _through(gate, parts(10)) == 200
        assert await _through(gate, parts(0), "/gradio_api/upload") == 404

    asyncio.run(story())


async def _asked(gate: Gate, method: str, path: str, **headers: str) -> tuple[int, dict[str, str]]:
    """Status and header lines of an answer, the names of those sent having _ for -."""
    said: list[Any] = []
    messages = _messages(_no_parts())

    async def receive() -> dict[str, Any]:
        return await anext(messages)

    async def send(message: dict[str, Any]) -> None:
        said.append(message)

    told = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    await gate({"type": "http", "method": method, "path": path, "headers": told}, receive, send)  # type: ignore[arg-type]
    names = [name.decode() for name, _ in said[0]["headers"]]
    assert len(names) == len(set(names))
    return said[0]["status"], {name.decode(): value.decode() for name, value in said[0]["headers"]}


def test_preflight_and_answer_allow_the_same_origins() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        allows = [(b"access-control-allow-origin", b"*")]  # as Gradio's answers may have it
        await send({"type": "http.response.start", "status": 200, "headers": allows})
        await send({"type": "http.response.body", "body": b""})

    async def story() -> None:
        mine, other = "https://example.org", "https://example.com"
        asks = {"access_control_request_method": "POST", "access_control_request_headers": "content-type"}
        for allowed, origin, lets in (
            ((), mine, None),
            ((mine,), mine, mine),
            ((mine,), other, None),
            (("*",), other, "*"),
        ):
            gate = Gate(app, 1000, 1000, 1, allow_origin=allowed)
            status, preflight = await _asked(gate, "OPTIONS", "/api/age", origin=origin, **asks)
            assert status == (204 if lets else 403)
            assert preflight.get("access-control-allow-headers") == ("content-type" if lets else None)
            for path in ("/api/age", "/openapi.json", "/not_there"):
                _, headers = await _asked(gate, "GET", path, origin=origin)
                assert (
                    headers.get("access-control-allow-origin") == preflight.get("access-control-allow-origin") == lets
                )
                assert headers.get("vary") == ("Origin" if allowed == (mine,) else None)

    asyncio.run(story())


def test_paths_are_those_below_the_proxys() -> None:
    got: list[tuple[str, str, bytes]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        got.append((scope["root_path"], scope["path"], dict(scope["headers"])[b"host"]))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def story() -> None:
        own = {"host": "127.0.0.1:7860"}
        plain, below = Gate(app, 1000, 1000, 1), Gate(app, 1000, 1000, 1, root_path="/aging")
        for gate, path, headers, seen in (
            (plain, "/config", own, ("", "/config", b"127.0.0.1:7860")),
            (below, "/config", own, ("/aging", "/aging/config", b"127.0.0.1:7860")),
            (below, "/aging/config", own, ("/aging", "/aging/config", b"127.0.0.1:7860")),
            (plain, "/config", own | {"x_forwarded_prefix": "/a/b/"}, ("/a/b", "/a/b/config", b"127.0.0.1:7860")),
            (below, "/", own | {"x_forwarded_prefix": "/c"}, ("/c", "/c/", b"127.0.0.1:7860")),
            (plain, "/", own | {"x_forwarded_prefix": '/"><b>'}, ("", "/", b"127.0.0.1:7860")),
            (plain, "/", own | {"x_forwarded_host": "me.org"}, ("", "/", b"me.org")),
        ):
            assert (await _asked(gate, "GET", path, **headers))[0] == 200
            assert got[-1] == seen
        assert (await _asked(below, "GET", "/aging/monitoring", **own))[0] == 404

    asyncio.run(story())


def test_proxies_and_origins_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    for flags, told in (
        (["--host", ""], "--host : must be an address such as 127.0.0.1"),
        (["--root_path", "aging"], "--root_path aging: must be a path like /aging\n"),
        (["--allow_origin", "example.org"], "--allow_origin example.org: must be a scheme and a host like"),
        (["--allow_origin", "https://example.org/a"], "--allow_origin https://example.org/a: must be a scheme"),
    ):
        assert demo_command.main(flags) == 2
        assert capsys.readouterr().err.startswith(told)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Gradio leaves event loops open
def test_mutated_files_raise_nothing_but_errors_of_the_project(tmp_path: Path) -> None:
    rows, lines = mutations.run(20, 120, 1, tmp_path, lambda line: None)
    assert lines == []
    tried = {row.measure.removeprefix("mutated "): row.value for row in rows}
    assert (tried["pictures"], tried["pictures by REST"]) == (6, 4)
    for way in ("pictures by test.py", "videos by test.py", "configurations", "weights"):
        assert tried[way] == 1

    def wrong(broken: bytes) -> None:
        raise KeyError("x")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mutations, "video_try", lambda folder: wrong)
        rows, lines = mutations.run(3, 120, 1, tmp_path, lambda line: None)
    assert lines == ["videos: KeyError: 'x'"]


def test_clients_that_do_not_behave_hurt_nobody(web: WebServer, ager: Ager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "HUGE", 10)
    monkeypatch.setattr(bench, "SLOW", (4096, 0.01))
    load, right = bench.Load(), {60: aged(ager, bench.photo(), 60)}
    for do in (bench.vanishing, bench.huge_upload, bench.vanishing, bench.slow_reader):
        do(("127.0.0.1", web.port), bench.photo(), right, load)
    one = (
        "slow readers, answered 200",
        "huge uploads, answered 413",
        "vanished in the middle",
        "vanished before the answer",
    )
    assert load.rough == dict.fromkeys(one, 1)
    assert load.wrong == 0 and web.files() == []
    right[60] = aged(ager, bench.photo(), 20)
    bench.slow_reader(("127.0.0.1", web.port), bench.photo(), right, load)
    assert load.wrong == 1


def test_load_script_counts_and_compares(web: WebServer) -> None:
    config = parse_web_bench(["--url", web.url, "--pid", str(web.process.pid), "--clients", "3", "--seconds", "1"])
    load = bench.measure(config)
    assert load.statuses["200"] >= 3
    assert set(load.statuses) <= {"200", "503"}
    assert load.wrong == 0
    rows = {row.measure: row for row in bench.rows_of(load, config)}
    assert rows["lost otherwise"].goal == "at most 0, met"
    assert 100 < rows["memory, start"].value < 10_000
    assert not bench.same(photo(), two_faces())
    with pytest.raises(UserError, match="does not answer"):
        bench.measure(parse_web_bench(["--url", f"http://127.0.0.1:{free_port()}"]))


def test_command_line(web: WebServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert DemoConfig().host == "127.0.0.1"
    assert demo_command.main(["--port", str(web.port)]) == 2
    assert capsys.readouterr().err.startswith(f"--host 127.0.0.1 --port {web.port}: ")
    assert demo_command.main(["--weights", "age_loss_a"]) == 2
    assert "age_loss_a.safetensors: must be weights of a model that renders faces, not of " in capsys.readouterr().err
    assert demo_command.main(["--waiting", "0"]) == 2
    monkeypatch.setattr(web_package, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"gradio is not installed; .*requirements-web\.txt"):
        web_package.serve(DemoConfig(), print)
