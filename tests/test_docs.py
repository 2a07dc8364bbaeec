"""Runs what the pages say, as they say it.

The rule by which a page's code is run:

- ```python blocks run in order, in one namespace a page.
- ```sh blocks hold commands `python VERB.py ...` alone, which run in order.
- Blocks without a language are not run: they install or serve something, or need the network, a GPU or hours. Of the
  commands `python VERB.py ...` and `cyclegan-age VERB ...` in them the flags are read, so that none is wrong.

All of it happens in a folder that has the files the pages name: photographs of the built-in portrait, a video, drawn
faces in age folders and weights of a tiny run. The commands run in this process by each verb's `main`.
"""

import json
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from skimage.data import astronaut

import batch as batch_command
import convert as convert_command
import demo as demo_command
import evaluate as evaluate_command
import export as export_command
import prepare as prepare_command
import test as test_command
import train as train_command
from cyclegan_age.config import CycleGANConfig, TrainConfig
from cyclegan_age.inference import Ager, demo_portrait
from cyclegan_age.models import cyclegan
from cyclegan_age.runs import SHIPPED
from cyclegan_age.training import setup as training
from cyclegan_age.weight_files import save_weights
from options.batch import parse_batch
from options.convert import parse_convert
from options.demo import parse_demo
from options.evaluate import parse_evaluate
from options.export import parse_export
from options.prepare import parse_prepare
from options.test import parse_test
from options.train import parse_train

PROJECT = Path(__file__).resolve().parent.parent
DOCS = sorted(p.relative_to(PROJECT).as_posix() for p in (PROJECT / "docs").glob("*.md"))
ALL = ["README.md", "datasets/README.md", *DOCS]
# The service's page needs the running service; its own test has one.
RUN = [page for page in ALL if page != "docs/web.md"]
VERBS: dict[str, tuple[Callable[[list[str]], object], Callable[[list[str]], int]]] = {
    "train.py": (parse_train, train_command.main),
    "test.py": (parse_test, test_command.main),
    "evaluate.py": (parse_evaluate, evaluate_command.main),
    "export.py": (parse_export, export_command.main),
    "convert.py": (parse_convert, convert_command.main),
    "demo.py": (parse_demo, demo_command.main),
    "batch.py": (parse_batch, batch_command.main),
    "prepare.py": (parse_prepare, prepare_command.main),
}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s#:]+)\)")
CELL = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def blocks(page: str) -> list[tuple[str, str, int]]:
    """Language, text and first line of every fenced block of a page."""
    text = (PROJECT / page).read_text(encoding="utf-8")
    return [(m[1], m[2], text.count("\n", 0, m.start()) + 2) for m in FENCE.finditer(text)]


def commands(text: str) -> Iterator[list[str]]:
    """The words of every command of a shell block; comments are left out and continued lines joined."""
    for line in text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, tiny_faces: Path) -> Path:
    """A folder with every file that the pages name."""
    root = tmp_path_factory.mktemp("docs")
    for path in sorted(tiny_faces.rglob("*.jpg")):  # as UTKFace is downloaded
        (root / "UTKFace").mkdir(exist_ok=True)
        (root / "UTKFace" / f"{path.name}.chip.jpg").write_bytes(path.read_bytes())
    photo = Image.fromarray(astronaut()).resize((384, 384))
    for name in ("photo.jpg", "me.jpg", "ann.jpg", "holiday/one.jpg"):
        (root / name).parent.mkdir(exist_ok=True)
        photo.save(root / name)
    mirrored = ImageOps.mirror(photo)
    mirrored.save(root / "bob.jpg")
    party = Image.new("RGB", (768, 384))
    party.paste(photo, (0, 0))
    party.paste(mirrored, (384, 0))
    party.save(root / "party.jpg")
    demo_portrait().save(root / "face.jpg")
    with av.open(str(root / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=12)
        stream.width = stream.height = 256
        for _ in range(4):
            frame = av.VideoFrame.from_ndarray(np.asarray(photo.resize((256, 256))), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    for name in ("faces", "FOLDER"):
        (root / name).symlink_to(tiny_faces, target_is_directory=True)
    train, net = TrainConfig(image_size=32, load_size=36), CycleGANConfig(ngf=4, blocks=3)
    generator = cyclegan.build_generator(train, net)
    tensors = {f"generator.{k}": v for k, v in generator.state_dict().items()}
    save_weights(root / "results" / "RUN" / "weights.safetensors", train, net, 0, tensors)
    return root


@pytest.mark.parametrize("page", [page for page in RUN if any(b[0] in ("python", "sh") for b in blocks(page))])
def test_the_code_of_a_page_runs_as_written(page: str, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page == "docs/export.md":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package, reason="make test installs requirements-export.txt")
    monkeypatch.chdir(files)
    monkeypatch.setattr(training, "trackers", lambda *args, **more: [])  # no test draws on the user's Visdom
    namespace: dict[str, Any] = {}
    for language, text, line in blocks(page):
        if language == "python":
            exec(compile("\n" * (line - 1) + text, page, "exec"), namespace)
        elif language == "sh":
            for words in commands(text):
                assert words[0] == "python" and words[1] in VERBS, f"{page}:{line}: {words} is no command to run"
                _, main = VERBS[words[1]]
                assert main(words[2:]) == 0, f"{page}:{line}: {shlex.join(words)}"
    if page == "README.md":
        assert namespace["taps"].outputs["blocks.3"].shape == (1, 192, 16, 16)  # as its comment says
        assert np.asarray(Image.open("me-at-50.png")).shape == np.asarray(Image.open("me.jpg")).shape
    if page == "docs/export.md":
        by_torch = Ager.load(SHIPPED / "cyclegan.safetensors").age(Image.open("face.jpg").resize((128, 128)), 57)
        assert np.abs(np.asarray(by_torch, int) - np.asarray(Image.open("face-57.png"), int)).mean() < 3


@pytest.mark.parametrize("page", ALL)
def test_the_flags_of_commands_that_are_not_run_are_right(page: str, files: Path) -> None:
    for language, text, line in blocks(page):
        for words in commands(text) if not language else ():
            verb = f"{words[1]}.py" if words[0] == "cyclegan-age" else words[1] if words[0] == "python" else ""
            if (verb in VERBS or words[0] == "cyclegan-age") and "--help" not in words:
                try:
                    VERBS[verb][0](words[2:])
                except Exception as e:
                    raise AssertionError(f"{page}:{line}: {shlex.join(words)}: {e}") from e


@pytest.mark.parametrize("page", ALL)
def test_links_lead_to_files(page: str) -> None:
    folder = (PROJECT / page).parent
    text = (PROJECT / page).read_text(encoding="utf-8")
    assert [link for link in LINK.findall(text) if not (folder / link).exists()] == []


def test_every_page_is_in_the_menu_of_the_site_once() -> None:
    """`make docs` checks all links of the site."""
    pages = {p.name for p in (PROJECT / "docs").iterdir() if p.suffix in (".md", ".ipynb")} | {
        "index.md",
        "datasets.md",
    }
    in_menu = re.findall(r": ([\w-]+\.(?:md|ipynb))$", (PROJECT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(in_menu) == sorted({*pages, "index.md", "datasets.md"})


def test_the_check_of_the_site_sees_what_is_wrong(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hooks = runpy.run_path(str(PROJECT / "docs" / "hooks.py"))
    (tmp_path / "a.html").write_text(
        '<h2 id="one"></h2><a href="b.html#two"></a><a href="#one"></a><a href="https://example.org"></a>'
        '<a href="b.html#three"></a><a href="c.html"></a><script src="https://example.org/x.js"></script>'
    )
    (tmp_path / "b.html").write_text('<h2 id="two"></h2><img src="d.png"><img src="data:image/png;base64,AA==">')
    hooks["on_post_build"](SimpleNamespace(site_dir=str(tmp_path)))
    assert sorted(r.getMessage() for r in caplog.records) == [
        "a.html links to b.html#three, which has no such heading",
        "a.html links to c.html, which is not there",
        "a.html loads https://example.org/x.js from another server",
        "b.html links to d.png, which is not there",
    ]
    moved = hooks["_moved"](
        "[a](../README.md) [b](web.md#rest) ![c](strip.jpg) [d](../datasets/README.md)", "docs", hooks["OUTSIDE"]
    )
    assert moved == "[a](index.md) [b](web.md#rest) ![c](strip.jpg) [d](datasets.md)"


def test_the_notebook_is_of_its_format_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nbformat 4.5: cells of a kind, a unique id, metadata and source; code cells have outputs and a count, too."""
    path = PROJECT / "docs" / "quickstart.ipynb"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert set(notebook) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    cells = notebook["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells)
    for cell in cells:
        own = {"outputs", "execution_count"} if cell["cell_type"] == "code" else set()
        assert cell["cell_type"] in ("code", "markdown")
        assert set(cell) == {"cell_type", "id", "metadata", "source"} | own
        assert CELL.fullmatch(cell["id"]) and isinstance(cell["metadata"], dict)
        assert all(isinstance(line, str) for line in cell["source"])
        assert not cell.get("outputs") and cell.get("execution_count") is None  # nothing that was run is kept

    (tmp_path / "docs").mkdir()
    monkeypatch.chdir(tmp_path / "docs")  # Jupyter starts in the notebook's folder; results/ lies beside it
    monkeypatch.setattr(sys, "path", [*sys.path])  # what the notebook adds is taken away again
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{path.name}:{cell['id']}", "exec"), namespace)
    assert len(namespace["frames"]) == 37
    with Image.open(tmp_path / "results" / "life.gif") as life:
        assert getattr(life, "n_frames", 1) == 37
    assert namespace["maps"][0].shape == (1, 192, 16, 16)
    assert not torch.equal(namespace["maps"][0], namespace["maps"][-1])
