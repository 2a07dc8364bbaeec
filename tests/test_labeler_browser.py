"""The labeler's page in a real Chromium, by keyboard: every answer is on disk, and after a kill it goes on."""

import csv
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason="gradio is not installed: requirements-web.txt")

import httpx
from visdom_tools import chromium, free_port, wait_for
from web_tools import PATIENCE

PROJECT = Path(__file__).resolve().parent.parent
SHOTS = os.environ.get("CYCLEGAN_AGE_SCREENSHOTS")  # a folder, where somebody wants to look at them
ODD = "<b>&amp;'\"it%20#.jpg"


@pytest.fixture
def numbered(tmp_path: Path, tiny_faces: Path) -> Path:
    """Six drawn faces in one folder, one with a name that is HTML."""
    folder = tmp_path / "numbered"
    folder.mkdir()
    for i, file in enumerate(sorted(tiny_faces.rglob("*.jpg"))[::8]):
        (folder / (f"{i}.jpg" if i else ODD)).write_bytes(file.read_bytes())
    return folder


class Labeler:
    """`python prepare.py label FOLDER --page` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        words = ["prepare.py", "label", str(folder), "--page", "--port", str(self.port), "--workers", "0"]
        self.process = subprocess.Popen([sys.executable, *words], cwd=PROJECT, stdout=subprocess.DEVNULL)
        try:
            wait_for(self._answers, bool, PATIENCE)
        except BaseException:
            self.kill()
            raise

    def _answers(self) -> bool:
        assert self.process.poll() is None
        try:
            return httpx.get(self.url, timeout=PATIENCE).status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """As `kill -9`."""
        self.process.kill()
        self.process.wait()


@contextmanager
def opened(folder: Path) -> Iterator[tuple[Any, Labeler]]:
    """The page, with a face on it. An error on the console, or a request to another server, fails the test."""
    with chromium() as page:
        server = Labeler(folder)
        try:
            wrong: list[str] = []
            page.set_default_timeout(1000.0 * PATIENCE)
            page.set_viewport_size({"width": 1100, "height": 700})
            page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
            own = (f"{server.url}/", "data:", "blob:")
            page.on("request", lambda asked: None if asked.url.startswith(own) else wrong.append(asked.url))
            page.goto(f"{server.url}/")
            page.wait_for_selector(".labeler .line:not(:empty)")
            yield page, server
            assert wrong == []
        finally:
            server.kill()


def lines(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as f:
        return {line["file"]: line for line in csv.DictReader(f)}


def shown(page: Any) -> str:
    """The name of the face on the page."""
    return str(page.locator(".labeler figcaption").inner_text())


def press(page: Any, *keys: str) -> str:
    """Press keys, the last of which brings another face; its name."""
    before = shown(page)
    for key in keys:
        page.keyboard.press(key)
    return wait_for(lambda: shown(page), lambda name: name != before, PATIENCE)


def test_labels_are_confirmed_and_corrected_by_keyboard_and_a_kill_loses_none(numbered: Path) -> None:
    with opened(numbered) as (page, server):
        assert page.title() == "Labels of faces"
        estimates = lines(numbered)
        assert {line["state"] for line in estimates.values()} == {"estimated"}
        names = [shown(page)]
        assert page.evaluate("document.querySelector('.labeler img').naturalWidth") == 40
        years = int(estimates[names[0]]["age"])
        assert page.locator(".labeler .label").inner_text().startswith(f"{years} years")
        pressed = page.locator(".labeler .groups [aria-pressed=true]")
        assert pressed.get_attribute("data-key") == str(years // 10)

        names.append(press(page, "Enter"))
        told = lines(numbered)[names[0]]
        assert (told["state"], told["age"]) == ("confirmed", str(years))

        other = 7 if int(estimates[names[1]]["age"]) // 10 != 7 else 6
        for key in (str(other), "f", "ArrowUp"):
            page.keyboard.press(key)
        assert pressed.get_attribute("data-key") == str(other)
        assert page.locator(".labeler .label").inner_text() == f"{other}6 years, female"
        if SHOTS:
            page.screenshot(path=str(Path(SHOTS) / "labeler.png"))
        names.append(press(page, "Enter"))
        told = lines(numbered)[names[1]]
        assert (told["state"], told["age"], told["sex"], told["group"]) == (
            *("corrected", f"{other}6", "1"),
            f"{other}0-{other}9",
        )

        assert press(page, "b") == names[1], "back"
        assert press(page, "m", "Enter") == names[2], "and on with the first that is not done"
        assert lines(numbered)[names[1]]["sex"] == "0"
        names.append(press(page, "s"))
        assert lines(numbered)[names[2]]["state"] == "estimated", "skipped"
        names.append(press(page, "x"))
        assert names[3] not in lines(numbered)
        with (numbered / "left_out.csv").open(encoding="utf-8", newline="") as f:
            assert names[3] in [line["file"] for line in csv.DictReader(f)]
        assert page.locator(".labeler .line").inner_text().startswith("3 of 6 done")

        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.2:{server.port}/")  # it would answer if it listened on all addresses
        body = {"do": "bad", "file": names[4]}
        for headers in ({"origin": "http://example.org"}, {"host": f"example.org:{server.port}"}):
            refused = httpx.post(f"{server.url}/api/answer", json=body, headers=headers, timeout=PATIENCE)
            assert refused.status_code == 403, "a page of another site"
        assert names[4] in lines(numbered)

    with opened(numbered) as (page, server):  # the first server was killed
        rest = [shown(page)]
        assert rest[0] == names[2], "the least confident of those that are not done: the one that was skipped"
        rest += [press(page, "Enter"), press(page, "Enter")]
        assert sorted([*names[:4], *rest[1:]]) == sorted(estimates), "each once"
        page.keyboard.press("Enter")
        page.locator(".labeler .line", has_text="All 6 faces are done").wait_for()
        states = {name: line["state"] for name, line in lines(numbered).items()}
        assert set(states.values()) == {"confirmed", "corrected"} and names[3] not in states
        assert page.locator(".labeler figcaption b").count() == 0, "names are text, not HTML"
        for _ in range(len(estimates)):
            if shown(page) == ODD:
                break
            press(page, "b")
        assert shown(page) == ODD
