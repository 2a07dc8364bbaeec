"""Holds the architecture: which way imports point, and what may be used where."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
PACKAGE = "cyclegan_age"

# Lowest first. A unit is a module or a folder of the package; it may import its own layer and those above it here.
LAYERS = (
    {"config"},
    {"ages", "attributes", "files", "html_page", "images", "provenance"},
    {"networks"},
    {"losses"},
    {"models", "data", "faces", "runs", "weight_files", "features", "watchdog", "curves", "plots", "devices"},
    {"hub"},
    {"inference", "rendering", "labeler", "export", "export_page", "convert", "monitor", "visdom_tracker"}
    | {"visdom_server", "evaluation"},
    {"training", "batch", "audit"},
    {"web"},
    {"__main__"},
)
RANK = {unit: rank for rank, layer in enumerate(LAYERS) for unit in layer}
PICKLES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
COMMAND_LINE = {"argparse", "click", "getopt", "optparse", "tyro"}
MACHINE_PATH = re.compile(rb"(?<![\w.~-])/(?:work|root)/")


def sources(*folders: str) -> dict[str, str]:
    """Project-relative path -> text of the Python files in folders, `.` being the root's own files alone."""
    found = [p for f in folders for p in ((PROJECT / f).glob("*.py") if f == "." else (PROJECT / f).rglob("*.py"))]
    return {p.relative_to(PROJECT).as_posix(): p.read_text(encoding="utf-8") for p in sorted(found)}


def imports(path: str, source: str) -> Iterator[str]:
    """Absolute dotted names that a file imports, wherever in it, `from x import y` as `x.y`."""
    parts = path.removesuffix(".py").split("/")[:-1]
    for node in ast.walk(ast.parse(source, path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = parts[: len(parts) - node.level + 1] if node.level else []
            base = [*base, *(node.module or "").split(".")] if node.module else base
            yield from (".".join([*base, alias.name]) for alias in node.names)


def unit_of(path: str) -> str:
    """`cyclegan_age/data/cache.py` -> `data`; empty for the package's own `__init__.py`."""
    unit = path.split("/")[1].removesuffix(".py")
    return "" if unit == "__init__" else unit


def package_imports(path: str, source: str) -> Iterator[str]:
    """Units of the package that a file imports, its own aside; empty for the package as such."""
    for name in imports(path, source):
        if name.split(".")[0] == PACKAGE:
            unit = name.partition(".")[2].partition(".")[0]
            if unit != unit_of(path):
                yield unit


def upward_imports(files: dict[str, str]) -> list[str]:
    """What breaks the direction of imports in files of the package."""
    wrong = []
    graph: dict[str, set[str]] = {}
    for path, source in files.items():
        unit = unit_of(path)
        if unit and unit not in RANK:
            wrong.append(f"{path}: {unit} has no layer; give it one in LAYERS")
            continue
        for other in package_imports(path, source):
            if other not in RANK:
                wrong.append(f"{path}: imports {PACKAGE}.{other}, which has no layer")
            elif not unit or RANK[other] > RANK[unit]:
                wrong.append(f"{path}: imports {other}, which lies above it")
            graph.setdefault(unit, set()).add(other)
        for name in imports(path, source):
            if name.split(".")[0] in {p.stem for p in PROJECT.glob("*.py")} | {"options", "benchmarks", "tests"}:
                wrong.append(f"{path}: imports {name}, which lies above the package")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as e:
        wrong.append(f"import cycle: {' -> '.join(e.args[1])}")
    return wrong


def command_line_imports(files: dict[str, str]) -> list[str]:
    """Files outside options/ that read the command line by themselves."""
    return [
        f"{path}: imports {name}; the command line is read in options/ alone"
        for path, source in files.items()
        for name in imports(path, source)
        if name.split(".")[0] in COMMAND_LINE and not path.startswith("options/")
    ]


def unsafe_loads(path: str, source: str) -> list[str]:
    """Lines that could run code out of a file: pickles, and loaders that read them."""
    wrong = [f"{path}: imports {name}" for name in imports(path, source) if name.split(".")[0] in PICKLES]
    wrong += [f"{path}: imports {name}; call torch.load" for name in imports(path, source) if name == "torch.load"]
    for node in ast.walk(ast.parse(source, path)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        given = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
        module = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
        if node.func.attr == "load" and module == "torch" and given.get("weights_only") is not True:
            wrong.append(f"{path}:{node.lineno}: torch.load without weights_only=True")
        if any(k.arg == "allow_pickle" for k in node.keywords) and given.get("allow_pickle") is not False:
            wrong.append(f"{path}:{node.lineno}: allow_pickle")
    return wrong


def test_imports_point_one_way() -> None:
    files = sources(PACKAGE)
    assert len(files) > 3
    assert upward_imports(files) == []


def test_command_line_is_read_in_options_alone() -> None:
    assert command_line_imports(sources(PACKAGE, ".", "benchmarks", "datasets")) == []


def test_nothing_loads_pickles() -> None:
    files = sources(PACKAGE, ".", "options", "benchmarks", "datasets")
    assert [line for path, source in files.items() for line in unsafe_loads(path, source)] == []


VERBS = [p for p, text in sources(".").items() if any(name.startswith("options.") for name in imports(p, text))]
LIGHT = [p.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for p in sources("options")]


@pytest.mark.parametrize("module", [f"{PACKAGE}.config", *LIGHT])
def test_command_line_needs_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, timeout=60).returncode == 0


@pytest.mark.parametrize("verb", VERBS)
def test_help_needs_no_torch(verb: str) -> None:
    code = (
        "import runpy, sys\n"
        f"sys.argv = [{verb!r}, '--help']\n"
        f"try: runpy.run_path({verb!r}, run_name='__main__')\n"
        "except SystemExit as e: sys.exit(e.code or 'torch' in sys.modules)\n"
        "sys.exit('--help went on')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, timeout=60, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--" in done.stdout


def test_rendering_loads_no_compiler() -> None:  # it takes as long as the rest of torch
    code = "import sys, cyclegan_age.rendering.gallery; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, timeout=60).returncode == 0


def test_no_file_names_a_path_of_one_machine() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=PROJECT, capture_output=True
    )
    if listed.returncode:
        pytest.skip("not a git work tree")
    files = [p for name in listed.stdout.decode().split("\0") if name and (p := PROJECT / name).is_file()]
    assert PROJECT / "pyproject.toml" in files
    assert [p.relative_to(PROJECT).as_posix() for p in files if MACHINE_PATH.search(p.read_bytes())] == []


@pytest.mark.parametrize(
    ("path", "source", "wrong"),
    [
        ("ages.py", "from cyclegan_age.models import MODELS", "imports models, which lies above it"),
        ("ages.py", "import cyclegan_age.training", "imports training, which lies above it"),
        ("data/cache.py", "from cyclegan_age import inference", "imports inference, which lies above it"),
        ("data/cache.py", "def f():\n    from ..web import app", "imports web, which lies above it"),
        ("runs.py", "from . import monitor", "imports monitor, which lies above it"),
        ("training.py", "import options.train", "imports options.train, which lies above the package"),
        ("__init__.py", "from cyclegan_age.config import UserError", "imports config, which lies above it"),
        ("extra.py", "", "extra has no layer"),
        ("web/app.py", "from cyclegan_age import training, inference, config", None),
        ("data/cache.py", "from .folders import scan\nfrom ..config import UserError\nimport torch", None),
    ],
)
def test_direction_check_sees(path: str, source: str, wrong: str | None) -> None:
    found = upward_imports({f"{PACKAGE}/{path}": source})
    assert (len(found) == 1 and wrong in found[0]) if wrong else found == []


def test_direction_check_sees_cycles() -> None:
    files = {f"{PACKAGE}/runs.py": "from . import curves", f"{PACKAGE}/curves.py": "from . import runs"}
    assert ["import cycle" in line for line in upward_imports(files)] == [True]


def test_command_line_check_sees() -> None:
    files = {"train.py": "import argparse", "options/train.py": "import tyro", "test.py": "from options import train"}
    assert [line.split(":")[0] for line in command_line_imports(files)] == ["train.py"]
    assert len(command_line_imports({f"{PACKAGE}/web.py": "from tyro import cli"})) == 1


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("import pickle", 1),
        ("def f():\n    from pickle import loads", 1),
        ("import torch\ntorch.load(p)", 1),
        ("import torch\ntorch.load(p, weights_only=False)", 1),
        ("import torch\ntorch.load(p, weights_only=flag)", 1),
        ("from torch import load", 1),
        ("import numpy as np\nnp.load(p, allow_pickle=True)", 1),
        ("import torch\ntorch.load(p, map_location='cpu', weights_only=True)", 0),
        ("import json\njson.load(f)", 0),
    ],
)
def test_pickle_check_sees(source: str, count: int) -> None:
    assert len(unsafe_loads("made_up.py", source)) == count


def test_path_check_sees() -> None:
    slash = b"/"
    assert MACHINE_PATH.search(b"see " + slash + b"work/main")
    assert MACHINE_PATH.search(b"'" + slash + b"root/.cache'")
    assert not MACHINE_PATH.search(b"docs/work/x and https://a.b/root/x")
