"""What the tests share: one thread, a picture cache of their own, made-up faces, real faces where there are any."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; started processes inherit it

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, ImageDraw

from cyclegan_age.config import UserError

if TYPE_CHECKING:
    from web_tools import WebServer

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Points the cache of decoded pictures at a folder that only this test run uses."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CYCLEGAN_AGE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def flags_in_errors() -> Iterator[None]:
    """Errors name flags, as in a command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UserError, "in_command", True)
        yield


@pytest.fixture(scope="session", autouse=True)
def own_loop() -> Iterator[None]:
    """An event loop for the main thread: dominate asks for it, and would have one made that nobody closes."""
    with closing(asyncio.new_event_loop()) as loop:
        asyncio.set_event_loop(loop)
        yield
        asyncio.set_event_loop(None)


@pytest.fixture(scope="session")
def faces() -> Path:
    """Folder of real faces, with `train` and `val` in it; skips where there is none."""
    named = os.environ.get("CYCLEGAN_AGE_FACES")
    folder = Path(named) if named else PROJECT.parent / "shared" / "faces"
    if not (folder / "train").is_dir():
        pytest.skip(f"no real faces: {folder / 'train'} is not a folder; set CYCLEGAN_AGE_FACES")
    return folder


@pytest.fixture(scope="session")
def heads() -> Path:
    """Folder of real pictures of whole heads, with `val` in it; skips where there is none."""
    folder = PROJECT.parent / "shared" / "heads"
    if not (folder / "val").is_dir():
        pytest.skip(f"no real heads: {folder / 'val'} is not a folder")
    return folder


@pytest.fixture(scope="session")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator["WebServer"]:
    """The browser application, started once; skips where its packages are not installed."""
    pytest.importorskip("gradio", reason="gradio is not installed: requirements-web.txt")
    from web_tools import WebServer

    server = WebServer(tmp_path_factory.mktemp("web"))
    yield server
    said = server.stop()
    assert said == "", said


def draw_face(years: int, *, size: int, seed: int) -> Image.Image:
    """A cartoon of a face, `size` x `size` RGB: with the years the hair greys, the skin pales, the lines grow."""
    rng = np.random.default_rng([seed, years])
    share = years / 70
    ramp = np.linspace(rng.integers(40, 120), rng.integers(120, 220), size)
    ground = np.broadcast_to(ramp[None, :, None], (size, size, 3)).astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(ground))
    draw = ImageDraw.Draw(picture)
    x, y = size / 2 + rng.uniform(-0.03, 0.03, 2) * size
    grey = round(30 + 190 * share)
    draw.ellipse((x - 0.42 * size, y - 0.48 * size, x + 0.42 * size, y + 0.3 * size), fill=(grey, grey, grey))
    skin = (210, round(140 + 50 * share), round(110 + 70 * share))
    draw.ellipse((x - 0.34 * size, y - 0.36 * size, x + 0.34 * size, y + 0.46 * size), fill=skin)
    for side in (-1, 1):
        eye = x + side * 0.14 * size
        draw.ellipse((eye - 0.04 * size, y - 0.08 * size, eye + 0.04 * size, y), fill=(20, 20, 40))
    draw.line((x - 0.12 * size, y + 0.25 * size, x + 0.12 * size, y + 0.25 * size), fill=(150, 40, 50), width=2)
    for line in range(years // 12):
        level = y - 0.14 * size - line * 0.04 * size
        draw.line((x - 0.18 * size, level, x + 0.18 * size, level), fill=(120, 80, 70))
    return picture


@pytest.fixture(scope="session")
def tiny_faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Age folders `10-14` ... `60-64`, four drawn JPEG faces of 40 px each, age in the file name. Not to be changed."""
    root = tmp_path_factory.mktemp("tiny_faces")
    for first in range(10, 65, 5):
        folder = root / f"{first}-{first + 4}"
        folder.mkdir()
        for seed in range(4):
            years = first + seed
            draw_face(years, size=40, seed=seed).save(folder / f"{years}_{seed % 2}_0_drawn{seed}.jpg", quality=95)
    return root
