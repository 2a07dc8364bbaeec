"""The wheel: what lies in it, what it asks for, and that its command runs outside the checkout."""

import email
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePath

import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image

from cyclegan_age.__main__ import USAGE, VERBS, main
from cyclegan_age.config import INSTALL_VISDOM
from cyclegan_age.inference import demo_portrait

PROJECT = Path(__file__).resolve().parent.parent


def requirements(name: str) -> set[str]:
    lines = (line.split("#")[0].strip() for line in (PROJECT / name).read_text(encoding="utf-8").splitlines())
    return {str(Requirement(line)) for line in lines if line and not line.startswith("-r ")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built from a copy of what git tracks, so that nothing is written here and nothing stale is in it."""
    pytest.importorskip("setuptools", reason="requirements-visdom.txt is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=PROJECT, capture_output=True
    )
    if listed.returncode:
        pytest.skip("not a git work tree")
    for name in listed.stdout.decode().split("\0"):
        if name and (PROJECT / name).is_file() and not name.startswith(("docs/", "tests/", "benchmarks/")):
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(PROJECT / name, folder / "source" / name)
    build = "import sys; from setuptools.build_meta import build_wheel; print(build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(folder)], cwd=folder / "source", capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(folder / done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def site(wheel: zipfile.ZipFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as pip unpacks it."""
    folder = tmp_path_factory.mktemp("site")
    wheel.extractall(folder)
    return folder


def run(site: Path, folder: Path, code: str, *argv: str) -> "subprocess.CompletedProcess[str]":
    code = f"import sys; sys.path.insert(0, {str(site)!r}); {code}"
    return subprocess.run([sys.executable, "-c", code, *argv], cwd=folder, capture_output=True, text=True, timeout=600)


COMMAND = "from cyclegan_age.__main__ import main; sys.exit(main())"  # as pip writes it into bin/


def test_the_wheel_has_every_module_and_weight_and_no_other_top_level_name(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    here = {
        p.relative_to(PROJECT).as_posix()
        for p in (PROJECT / "cyclegan_age").rglob("*")
        if p.suffix in (".py", ".safetensors", ".js", ".css", ".html", ".typed") and p.is_file()
    }
    here |= {f"cyclegan_age/verbs/{p.name}" for p in PROJECT.glob("*.py") if p.name != "setup.py"}
    here |= {f"cyclegan_age/verbs/options/{p.name}" for p in (PROJECT / "options").glob("*.py")}
    assert {name for name in names if ".dist-info/" not in name} == here
    assert sum(one.compress_size for one in wheel.infolist()) < 100e6  # PyPI's limit for a file


def test_the_wheel_asks_for_what_the_requirements_files_say(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
    asked: dict[str, set[str]] = {}
    for one in map(Requirement, email.message_from_bytes(wheel.read(name)).get_all("Requires-Dist", [])):
        found = re.search(r'extra == "([\w-]+)"', str(one.marker or ""))
        one.marker = None
        asked.setdefault(found[1] if found else "", set()).add(str(one))
    assert asked.pop("") == requirements("requirements.txt")
    assert {"web", "eval", "export", "heif", "ray", "wandb", "visdom"} <= set(asked)
    for extra, packages in asked.items():
        assert packages == requirements(f"requirements-{extra}.txt")
    needs_no_build = {Requirement(one).name for one in requirements("requirements.txt")}
    assert "visdom" not in needs_no_build and "setuptools" not in needs_no_build
    in_one_line = {str(Requirement(one)) for one in re.findall(r'"([^"]+)"', INSTALL_VISDOM)}
    visdom = {one.name: one for one in map(Requirement, requirements("requirements-visdom.txt"))}
    for needed in map(Requirement, in_one_line):
        assert set(needed.specifier) <= set(visdom[needed.name].specifier)


def test_every_verb_has_its_script_and_every_script_its_verb() -> None:
    assert {f"{verb}.py" for verb in VERBS} == {p.name for p in PROJECT.glob("*.py")} - {"setup.py"}


def test_the_command_names_its_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert capsys.readouterr().out.strip() == USAGE
    assert main(["trian"]) == 2
    assert capsys.readouterr().err.startswith("trian: no verb; must be one of train, test, ")
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("VERB: missing; must be one of train, test, ")


def test_the_installed_command_renders_with_the_weights_inside_and_writes_nothing_there(
    site: Path, tmp_path: Path
) -> None:
    before = {p: p.stat().st_mtime_ns for p in site.rglob("*") if p.is_file() and p.suffix != ".pyc"}
    demo_portrait().resize((128, 128)).save(tmp_path / "face.png")
    done = run(
        *(site, tmp_path, COMMAND, "test", "--input", "face.png", "--aligned", "--target_age", "60", "--name", "aged")
    )
    assert done.returncode == 0, done.stderr
    aged = next(iter((tmp_path / "results" / "aged").rglob("*60*.*g")))
    assert np.asarray(Image.open(aged)).std() > 20
    assert {p: p.stat().st_mtime_ns for p in site.rglob("*") if p.is_file() and p.suffix != ".pyc"} == before
    assert {p.name for p in tmp_path.iterdir()} == {"face.png", "results"}


def test_the_installed_command_names_itself_and_its_extras(site: Path, tmp_path: Path) -> None:
    wrong = run(site, tmp_path, COMMAND, "train", "--lrr", "1")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("--lrr: unknown;") and "Traceback" not in wrong.stderr
    assert run(site, tmp_path, COMMAND, "evaluate", "--help").stdout.startswith("usage: cyclegan-age evaluate ")
    assert run(site, tmp_path, "import importlib.util as u; print(u.find_spec('options'))").stdout == "None\n"
    extra = "from cyclegan_age.config import install_extra; print(install_extra('web'))"
    assert run(site, tmp_path, extra).stdout == 'python -m pip install "cyclegan-age[web]"\n'


def test_the_image_copies_what_is_there_and_starts_what_it_has() -> None:
    """What a look without Docker shows: paths, extras, verbs, modules and flags that the two files name."""
    yaml = pytest.importorskip("yaml", reason="accelerate brings it")
    lines = (PROJECT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    sent = [line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copies = (line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--from" not in line)
    for pattern in (pattern for patterns in copies for pattern in patterns):
        assert list(PROJECT.glob(pattern)), f"COPY {pattern}"
        assert any(pattern == one or PurePath(pattern).match(one) for one in sent), f"{pattern}: not in .dockerignore"
    (extras,) = re.findall(r"\.whl\)\[([\w,]+)\]", "\n".join(lines))
    assert all((PROJECT / f"requirements-{extra}.txt").is_file() for extra in extras.split(","))
    (entry,) = (json.loads(line.partition(" ")[2]) for line in lines if line.startswith("ENTRYPOINT"))
    services = yaml.safe_load((PROJECT / "compose.yaml").read_text())["services"]
    assert services.keys() == {"web", "visdom", "train"}
    for service in services.values():
        program, *flags = [*service.get("entrypoint", entry), *service["command"]]
        if program == "python":
            assert flags[0] == "-m" and importlib.util.find_spec(flags[1]) is not None
        else:
            assert program == "cyclegan-age" and flags[0] in VERBS
            done = subprocess.run(
                [sys.executable, f"{flags[0]}.py", *flags[1:], "--help"], cwd=PROJECT, capture_output=True, timeout=120
            )
            assert done.returncode == 0, done.stderr
            said = done.stdout.decode()
            assert all(flag in said for flag in flags if flag.startswith("--"))
