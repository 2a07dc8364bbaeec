"""What goes wrong around a training: two of them in one run, foreign files, changed settings, full disks, links."""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections import OrderedDict
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch
from PIL import Image

import test as test_command
import train as train_command
from benchmarks import reliability_kills
from cyclegan_age import visdom_server
from cyclegan_age.ages import AgeCode
from cyclegan_age.config import CycleGANConfig, CycleGANPairConfig, TrainConfig, UserError
from cyclegan_age.faces.files import Photo
from cyclegan_age.files import describe_foreign_file, lock, unlock
from cyclegan_age.images import BadImage, list_images, open_image
from cyclegan_age.inference import Ager, demo_portrait
from cyclegan_age.models import SYSTEMS
from cyclegan_age.models.base import Renderer
from cyclegan_age.models.cyclegan import build_generator
from cyclegan_age.runs import load_checkpoint, open_run
from cyclegan_age.training import checkpoints, log, progress_bar
from cyclegan_age.weight_files import load_weights
from options.train import parse_train

PROJECT = Path(__file__).resolve().parent.parent
TINY = [
    *("--ngf", "4", "--ndf", "4", "--blocks", "1", "--image_size", "32", "--load_size", "36", "--batch_size", "4"),
    *("--lambda_age", "0", "--no_compile", "--precision", "fp32", "--monitor", "none", "--log_every", "2"),
    *("--sample_every", "1000", "--save_every", "5", "--snapshot_every", "1000"),
]


def _flags(faces: Path, results: Path, steps: float, *more: str) -> list[str]:
    """Flags of a tiny training of so many steps of four pictures (44 are in the data)."""
    return ["--dataroot", str(faces), "--results_dir", str(results), "--epochs", str(steps * 4 / 44), *TINY, *more]


def _wait_for(path: Path, process: "subprocess.Popen[bytes]") -> None:
    last = time.monotonic() + 120
    while not path.exists() and process.poll() is None and time.monotonic() < last:
        time.sleep(0.01)
    assert path.exists() and process.poll() is None


def test_a_training_that_runs_is_not_joined_and_one_that_was_killed_is(
    tiny_faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both with a name and without one; of several processes of a training one takes the lock."""
    flags = _flags(tiny_faces, tmp_path, 100_000)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--"]
    for launcher, named in (([], []), (launch, ["--name", "run"])):
        command = [sys.executable, *launcher, "train.py", *flags, *named]
        process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        run = tmp_path / (named[1] if named else "001-cyclegan-default")
        try:
            _wait_for(run / "state.pt", process)
            capsys.readouterr()
            assert train_command.main([*flags, *named]) == 2
            error = capsys.readouterr().err
            owner = json.loads((run / ".lock").read_text())["pid"]
            assert error.startswith(f"{run}: process {owner}, since ") and error.count("\n") == 1
            assert owner == process.pid or launcher
            assert (tmp_path / run.name).is_dir() and not (tmp_path / "002-cyclegan-default").exists()
        finally:
            process.send_signal(signal.SIGTERM if launcher else signal.SIGKILL)  # torchrun stops what it started
            process.wait(60)
        state = load_checkpoint(run / "state.pt")
        assert state is not None
        if not launcher:
            assert train_command.main([*flags, "--name", run.name, "--epochs", str((state["step"] + 10) * 4 / 44)]) == 0


def test_a_run_without_a_checkpoint_begins_anew_and_says_so(
    tiny_faces: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flags = [*_flags(tiny_faces, tmp_path, 0.1), "--name", "run"]
    with caplog.at_level("INFO", "cyclegan_age"):
        assert train_command.main(flags) == 0
        assert "begins anew" not in caplog.text
        (tmp_path / "run" / "state.pt").unlink()  # as after a kill before the first one
        assert train_command.main(flags) == 0
    assert f"{tmp_path / 'run'}: the run has no checkpoint; its training begins anew" in caplog.messages


def test_a_generator_that_is_larger_inside_than_its_pictures_is_refused(
    tiny_faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_command.main(_flags(tiny_faces, tmp_path, 2, "--inner_size", "36")) == 2
    assert capsys.readouterr().err == "--inner_size 36: must be at most --image_size, 32\n"
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="--inner_size 36: must be at most --image_size, 32"):
        SYSTEMS["cyclegan_pair"].build(TrainConfig(image_size=32), CycleGANPairConfig(inner_size=36))


@pytest.mark.parametrize("flag", ["--estimators", "--embedder"])
def test_weights_that_are_not_there_are_named_by_their_own_flag(
    flag: str, tiny_faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    for value, said in (("nosuch", "neither a file nor a run"), (str(tmp_path / "torn.safetensors"), "not a readable")):
        needed = ["--lambda_age", "1", "--lambda_embedding", "1", flag, value]
        assert train_command.main(_flags(tiny_faces, tmp_path / "out", 2, *needed)) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"{flag} {value}: {said}") and error.count("\n") == 1 and "--weights" not in error


def test_two_that_start_at_once_do_not_get_one_folder(tiny_faces: Path, tmp_path: Path) -> None:
    config, net = parse_train(_flags(tiny_faces, tmp_path, 2))
    code = (
        "import sys\nfrom contextlib import ExitStack\nfrom cyclegan_age.runs import open_run\n"
        "from options.train import parse_train\n"
        "with ExitStack() as held:\n    print(open_run(*parse_train(sys.argv[1:]), held), flush=True)\n    input()\n"
    )
    command = [sys.executable, "-c", code, *_flags(tiny_faces, tmp_path, 2)]
    with subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        folder = Path(other.stdout.readline().strip())
        with (
            pytest.raises(UserError, match=f"{folder}: process {other.pid}, since .* is training it"),
            ExitStack() as held,
        ):
            open_run(config, net, held)
        with ExitStack() as held:  # another one has its own
            assert open_run(replace(config, seed=1), net, held) != folder
        other.kill()
    with ExitStack() as held:
        assert open_run(config, net, held) == folder


def test_a_lock_ends_with_its_file(tmp_path: Path) -> None:
    code = f"from pathlib import Path\nfrom cyclegan_age.files import lock\nlock(Path({str(tmp_path)!r}))"
    (tmp_path / ".lock").write_text("no owner")  # of a process that was killed
    with lock(tmp_path):
        other = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False)
        assert f"process {os.getpid()}" in other.stderr
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True)


def test_a_lock_that_another_process_removed_is_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = fcntl.lockf, []

    def late(file: BinaryIO, how: int) -> None:
        calls.append(how)
        if len(calls) == 1:  # between opening the file and locking it
            (tmp_path / ".lock").unlink()
        real(file, how)

    monkeypatch.setattr(fcntl, "lockf", late)
    with lock(tmp_path) as file:
        assert len(calls) == 2 and os.fstat(file.fileno()).st_ino == (tmp_path / ".lock").stat().st_ino
        unlock(tmp_path, file)
    assert not (tmp_path / ".lock").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not readable as JSON"),
        ("{}", "holds no settings of a training; restore it"),
        ('{"train": 1, "net": {}}', "holds no settings of a training; restore it"),
        ('{"train": {"model": "cyclegan", "lr": "fast"}, "net": {}}', "a setting is not as train.py wrote it"),
    ],
)
def test_a_config_that_was_broken_is_one_line_and_another_run_begins(
    text: str, said: str, tiny_faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, net = parse_train(_flags(tiny_faces, tmp_path, 2))
    (tmp_path / "001-cyclegan-default").mkdir()
    (tmp_path / "001-cyclegan-default" / "config.json").write_text(text)
    with ExitStack() as held:
        assert open_run(config, net, held).name == "002-cyclegan-default"
    assert train_command.main(_flags(tiny_faces, tmp_path, 2, "--name", "001-cyclegan-default")) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"{tmp_path / '001-cyclegan-default' / 'config.json'}: {said}") and error.count("\n") == 1


@pytest.mark.parametrize("data", [b"x", b"PK\x03\x04torn", b"\x80\x02}q\x00."])
def test_a_state_that_is_broken_is_one_short_line(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(data)
    with pytest.raises(UserError) as raised:
        load_checkpoint(tmp_path / "state.pt")
    remedy = "restore it, or delete it to restart the run"
    assert str(raised.value) == f"{tmp_path}/state.pt: cannot be read (corrupt, or not written by train.py); {remedy}"


def test_a_foreign_file_is_recognised(
    tiny_faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train_command.main(_flags(tiny_faces, tmp_path, 2, "--name", "run")) == 0
    run, state = tmp_path / "run", OrderedDict(weight=torch.zeros(2))
    torch.save(state, tmp_path / "latest_net_G.pth")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "cut.pth").write_bytes((tmp_path / "latest_net_G.pth").read_bytes()[:300])
    with zipfile.ZipFile(tmp_path / "faces.zip", "w") as archive:
        archive.writestr("face.txt", "face")
    for name, begin in {
        "empty.safetensors": b"",
        "pointer.safetensors": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "page.safetensors": b"\n<!DOCTYPE html><html></html>",
        "keras.h5": b"\x89HDF\r\n\x1a\n",
        "face.jpg": b"\xff\xd8\xff\xe0",
        "net.onnx": b"\x08\x07",
        "noise.bin": b"\x01\x02\x03\x04",
    }.items():
        (tmp_path / name).write_bytes(begin)

    def refused(*args: object, **more: object) -> None:
        raise AssertionError("a file was unpickled to find out what it is")

    monkeypatch.setattr(torch, "load", refused)
    capsys.readouterr()
    for name, said in {
        "run/state.pt": f"the checkpoint of a run, not its weights; use {run}/weights.safetensors",
        "run/state-0-2.pt": "the checkpoint of a run",
        "latest_net_G.pth": "a pickle of PyTorch (.pth), as other projects write, which could run code",
        "old.pth": "a pickle, as PyTorch wrote .pth files before 1.6",
        "cut.pth": "a corrupt zip archive",
        "faces.zip": "a zip archive and no weights",
        "empty.safetensors": "an empty file",
        "pointer.safetensors": "a pointer of Git LFS and not the file itself; run git lfs pull",
        "page.safetensors": "a web page",
        "keras.h5": "an HDF5 file",
        "face.jpg": "a picture and no weights",
        "net.onnx": "an ONNX file",
        "noise.bin": "not a readable safetensors file",
    }.items():
        assert test_command.main(["--weights", str(tmp_path / name), "--results_dir", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"--weights {tmp_path / name}: {said}") and error.count("\n") == 1
    more = ["--init", str(tmp_path / "latest_net_G.pth"), "--name", "begun"]
    assert train_command.main(_flags(tiny_faces, tmp_path, 2, *more)) == 2
    assert f"--init {tmp_path / 'latest_net_G.pth'}: a pickle of PyTorch" in capsys.readouterr().err
    assert describe_foreign_file(run / "weights.safetensors") == ""


def test_a_named_run_resumes_with_another_learning_rate(
    tiny_faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """As well with other settings of the steps still to come; with others it does not, and --init is named."""
    assert train_command.main(_flags(tiny_faces, tmp_path, 4, "--name", "run", "--lr_constant", "1")) == 0
    tuned = ["--lr", "0.0001", "--lr_constant", "0.9", "--clip", "5", "--accumulate", "2", "--lambda_cycle", "2"]
    (tmp_path / "moved").symlink_to(tiny_faces)
    assert train_command.main(_flags(tmp_path / "moved", tmp_path, 40, "--name", "run", *tuned)) == 0
    assert "run: resumes with --lr 0.0001, previously 0.0002" in caplog.text
    assert f"run: resumes with --dataroot {tmp_path / 'moved'}, previously {tiny_faces}" in caplog.text
    assert "run: resumes with --epochs " in caplog.text
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["lr/lr"] for line in lines if line["step"] in (4, 6)] == [pytest.approx(2e-4), pytest.approx(1e-4)]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["train"]["lr"] == 1e-4
    state = load_checkpoint(tmp_path / "run" / "state.pt")
    assert state is not None and state["step"] == 40
    capsys.readouterr()
    for flag, value, before in (("ngf", "8", "4"), ("image_size", "36", "32"), ("batch_size", "8", "4")):
        assert train_command.main(_flags(tiny_faces, tmp_path, 44, "--name", "run", *tuned, f"--{flag}", value)) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"--{flag} {value}: the run {tmp_path / 'run'} was started with {before};")
        assert "another --name with --init run" in error
    both = _flags(tiny_faces, tmp_path, 44, "--name", "run", *tuned, "--ngf", "8", "--batch_size", "8")
    assert train_command.main(both) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"--batch_size 8, --ngf 8: the run {tmp_path / 'run'} was started with 4, 4;")
    # A weight of 0 may be of a network that is not there.
    assert train_command.main(_flags(tiny_faces, tmp_path, 44, "--name", "run", *tuned, "--lambda_age", "1")) == 2
    assert "--lambda_age 1.0" in capsys.readouterr().err
    # Without a name another learning rate is another run.
    assert train_command.main(_flags(tiny_faces, tmp_path, 1)) == 0
    assert train_command.main(_flags(tiny_faces, tmp_path, 1, "--lr", "0.1")) == 0
    assert (tmp_path / "002-cyclegan-default").is_dir()


LIMITED = """
import resource, sys
import train
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))  # of a file; the state is larger
sys.exit(train.main(sys.argv[1:]))
"""


def test_a_state_that_finds_no_room_ends_the_training_and_the_last_one_is_kept(
    tiny_faces: Path, tmp_path: Path
) -> None:
    blocks = ["--name", "run", "--blocks", "3", "--pool_size", "4"]
    assert train_command.main(_flags(tiny_faces, tmp_path, 3, *blocks)) == 0
    run = tmp_path / "run"
    kept = {name: (run / name).read_bytes() for name in ("state.pt", "state-0-3.pt", "weights.safetensors")}
    assert len(kept["state.pt"]) > 400_000 > len(kept["state-0-3.pt"])
    (run / ".state.pt.1.part").write_bytes(b"of a process that was killed")
    (run / "state-0-2.pt").write_bytes(b"of a save that was killed")
    command = [sys.executable, "-c", LIMITED, *_flags(tiny_faces, tmp_path, 9, *blocks)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"{run}: disk full, ") and " MB needed and " in last
    assert last.endswith("the last checkpoint is kept") and "Traceback" not in done.stderr
    del kept["weights.safetensors"]  # the last ones are written before the state
    assert {name: (run / name).read_bytes() for name in kept} == kept
    assert not list(run.rglob(".*.part")) and [p.name for p in run.glob("state-*")] == ["state-0-3.pt"]
    assert train_command.main(_flags(tiny_faces, tmp_path, 9, *blocks)) == 0
    state = load_checkpoint(run / "state.pt")
    assert state is not None and state["step"] == 9


def test_a_disk_that_is_full_before_the_first_save_leaves_whole_lines_and_says_that_nothing_was_saved(
    tiny_faces: Path, tmp_path: Path
) -> None:
    flags = _flags(tiny_faces, tmp_path, 40, "--name", "run", "--log_every", "1", "--save_every", "1000")
    assert train_command.main(_flags(tiny_faces, tmp_path, 1, "--name", "other")) == 0  # the pictures are cached
    limited = LIMITED.replace("400_000", "6_000")
    command = [sys.executable, "-c", limited, *flags]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    run, last = tmp_path / "run", done.stderr.splitlines()[-1]
    assert done.returncode == 2 and "Traceback" not in done.stderr
    needed = re.match(rf"{run}: disk full, ([\d.]+) MB needed and ", last)
    assert needed and float(needed[1]) > 1
    assert last.endswith("another --results_dir; there is no checkpoint yet") and "is kept" not in last
    metrics = run / "metrics.jsonl"
    lines = metrics.read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, len(lines) + 1)) and len(lines) > 3
    assert metrics.read_text().endswith("\n")
    with metrics.open("ab") as f:  # as a crash of the machine may leave it
        f.write(b'{"step": 9, "lo\xff\x00')
    assert train_command.main(flags) == 0
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == list(range(1, 41))


def test_a_disk_that_is_full_when_the_run_begins_names_what_a_training_needs(tiny_faces: Path, tmp_path: Path) -> None:
    assert train_command.main(_flags(tiny_faces, tmp_path / "other", 1)) == 0  # the pictures are cached
    limited = LIMITED.replace("400_000", "100")  # config.json is larger
    command = [sys.executable, "-c", limited, *_flags(tiny_faces, tmp_path, 40, "--name", "run")]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    needed = re.fullmatch(rf"{tmp_path}: disk full, ([\d.]+) MB needed and .*", done.stderr.splitlines()[-1])
    assert needed and float(needed[1]) > 1
    assert not (tmp_path / "run").exists()


def test_a_training_that_is_not_finite_before_its_first_save_names_no_state(
    tiny_faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(log, "MAX_BAD_STEPS", 2)
    assert (
        train_command.main(_flags(tiny_faces, tmp_path, 8, "--name", "new", "--lr", "1e38", "--save_every", "9")) == 2
    )
    error = capsys.readouterr().err.splitlines()[-1]
    assert "; there is no earlier checkpoint: start again with a lower --lr" in error and "--init" not in error


def test_room_and_a_folder_that_can_be_written_are_looked_for_before_the_first_step(
    tiny_faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = shutil.disk_usage
    free = real(tmp_path)._replace(free=1_000_000)
    with monkeypatch.context() as patch:
        patch.setattr(
            shutil, "disk_usage", lambda path: free if str(path).startswith(str(tmp_path / "out")) else real(path)
        )
        assert train_command.main(_flags(tiny_faces, tmp_path / "out", 3, "--name", "run")) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"{tmp_path / 'out' / 'run'}: disk full, ") and error.count("\n") == 1
    assert "and 1.0 MB free; free space, or choose another --results_dir" in error
    assert not (tmp_path / "out" / "run").exists()
    (tmp_path / "file").touch()
    assert train_command.main(_flags(tiny_faces, tmp_path / "file" / "out", 3)) == 2
    error = capsys.readouterr().err
    assert (
        error.startswith(f"{tmp_path / 'file' / 'out'}: cannot be written (Not a directory)") and error.count("\n") == 1
    )


def test_without_a_terminal_there_is_a_line_now_and_then(
    tiny_faces: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train_command.main(_flags(tiny_faces, tmp_path, 4, "--name", "quiet")) == 0
    assert "step 2 of 4" not in caplog.text
    monkeypatch.setattr(progress_bar, "LINE_SECONDS", 0.0)
    assert train_command.main(_flags(tiny_faces, tmp_path, 4, "--name", "lines")) == 0
    assert re.search(r"step 3 of 4 steps: \d+\.\d images/s generator=[\d.]+ discriminator=[\d.]+\n", caplog.text)
    assert "\r" not in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert train_command.main(_flags(tiny_faces, tmp_path, 4, "--name", "bar")) == 0
    assert "img/s" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [(["detail"], True), (["shift"], True), (["detail", "--init", "shipped"], False), (["default"], False)],
)
def test_a_later_stage_without_weights_to_begin_from_is_reported(
    flags: list[str], said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    parse_train(["--dataroot", "x", "--preset", *flags])
    assert [r.message for r in caplog.records if "without --init it starts from random weights" in r.message] == (
        [caplog.messages[0]] if said else []
    )


def test_links_to_folders_are_followed_once_and_without_end(tmp_path: Path) -> None:
    faces, other = tmp_path / "faces", tmp_path / "other"
    for folder in (faces / "20s", other / "below"):
        folder.mkdir(parents=True)
    for path in (
        faces / "20s" / "a.jpg",
        other / "b.jpg",
        other / "below" / "c.PNG",
        other / "d.txt",
        other / ".e.jpg",
    ):
        path.touch()
    (faces / "20s" / "linked").symlink_to(other, target_is_directory=True)
    (faces / "20s" / "up").symlink_to(faces, target_is_directory=True)
    (other / "below" / "round").symlink_to(other, target_is_directory=True)
    (faces / "again").symlink_to(other, target_is_directory=True)
    (faces / "gone").symlink_to(tmp_path / "nowhere", target_is_directory=True)
    found = [path.relative_to(faces).as_posix() for path in list_images(faces)]
    assert found == ["20s/a.jpg", "again/b.jpg", "again/below/c.PNG"]
    assert len(list_images(faces / "20s")) == 3


def test_a_linked_folder_below_an_age_folder_or_an_input_counts(tiny_faces: Path, tmp_path: Path) -> None:
    faces = tmp_path / "faces"
    (faces / "20-24").mkdir(parents=True)
    for folder in tiny_faces.iterdir():
        (faces / "20-24" / "more" if folder.name == "20-24" else faces / folder.name).symlink_to(folder)
    assert train_command.main(_flags(faces, tmp_path, 1, "--name", "run")) == 0
    seen = json.loads((tmp_path / "run" / "config.json").read_text())
    assert seen["train"]["dataroot"] == str(faces)
    out = ["--weights", "run", "--results_dir", str(tmp_path), "--name", "page", "--target_age", "50"]
    assert test_command.main(["--input", str(faces / "20-24"), "--aligned", *out]) == 0
    assert len(list((tmp_path / "page").rglob("*age50.*"))) == 4


def test_ages_pictures_and_paths_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    generator = build_generator(TrainConfig(image_size=32, load_size=36), CycleGANConfig(ngf=4, blocks=1))
    ager = Ager(Renderer(generator=generator, code=AgeCode((10, 20, 30, 40, 50, 60))), image_size=32)
    face = demo_portrait()
    face.save(tmp_path / "face.png")
    (tmp_path / "text.png").write_text("no picture")
    for source in (tmp_path / "face.png", str(tmp_path / "face.png")):
        assert ager.age(source, 50).tobytes() == ager.age(face, 50).tobytes()
    assert len(ager.life(tmp_path / "face.png", 1)) == len(ager.life(face, 1))
    with pytest.raises(FileNotFoundError):
        ager.age("nowhere.png", 50)
    with pytest.raises(BadImage, match="not a picture"):
        ager.age(tmp_path / "text.png", 50)
    with pytest.raises(TypeError, match="ndarray: neither a picture of Pillow nor a path"):
        ager.age(np.zeros((8, 8, 3), np.uint8), 50)  # type: ignore[arg-type]
    for years in (-1, -0.5, 120.5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=rf"^years {years:g}: must be from 0 to 120$"):
            ager.age(face, years)
    ager.age(face, 0), ager.age(face, 120)
    for odd in ("50", None, [50]):
        with pytest.raises(ValueError, match="must be a number from 0 to 120"):
            ager.age(face, odd)  # type: ignore[arg-type]
    for size in ((1, 1), (3, 300)):
        Image.new("RGB", size).save(tmp_path / "small.png")
        for picture in (Image.new("RGB", size), tmp_path / "small.png"):
            with pytest.raises(ValueError, match=f"{size[0]}x{size[1]} pixels, too small for a face; each side must"):
                ager.age(picture, 50)
    for read in (open_image, Photo.read):
        with pytest.raises(BadImage, match="too small for a face"):
            read(tmp_path / "small.png")


def test_a_training_that_is_killed_often_ends_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CYCLEGAN_AGE_CACHE", str(tmp_path / "cache"))
    code = (
        "import random, sys\nfrom pathlib import Path\nfrom benchmarks.reliability_kills import kills\n"
        f"found = kills(Path({str(tmp_path)!r}), 3, float('inf'), random.Random(1), Path({str(tmp_path / 'kept')!r}))\n"
        "assert found['kills'] == 3 and not found['broken'] and not found['different'], found"
    )
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True)
    run = tmp_path / "runs" / "whole"
    assert reliability_kills.invalid(run) == [] and not (tmp_path / "kept").exists()
    assert reliability_kills.differences(reliability_kills.outcome(run), reliability_kills.outcome(run)) == []
    for name in ("state.pt", "weights.safetensors", "config.json"):  # the check sees
        whole = (run / name).read_bytes()
        (run / name).write_bytes(whole[: len(whole) // 2])
        assert [fault.startswith(name) or name in fault for fault in reliability_kills.invalid(run)] == [True]
        (run / name).write_bytes(whole)
    next(run.glob("state-0-*.pt")).unlink()
    assert "without state-0-" in reliability_kills.invalid(run)[0]
    state = load_checkpoint(run / "state.pt")
    other = load_checkpoint(run / "state.pt")
    assert state is not None and other is not None and reliability_kills.differences(state, other) == []
    name, tensor = next(iter(other["networks"]["generator"].items()))
    tensor.add_(1e-5)
    assert reliability_kills.differences(state, other) == [f"all/networks/generator/{name}"]


def test_a_visdom_server_that_is_killed_has_every_point_later(tmp_path: Path) -> None:
    if visdom_server.missing_assets():
        pytest.skip("the scripts of Visdom's page are not fetched: make visdom")
    code = (
        "import random\nfrom pathlib import Path\nfrom benchmarks.reliability_visdom import visdom\n"
        f"found = visdom(Path({str(tmp_path)!r}), 1, float('inf'), random.Random(1))\n"
        "assert found['kills'] == 1 and found['points'] > 10 and not found['lost'] and not found['doubled'], found"
    )
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True)


def test_a_training_that_is_killed_at_its_last_weights_writes_them_later(
    tiny_faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path, *args: Any) -> None:
        if path.name == "weights.safetensors":
            raise KeyboardInterrupt

    flags = _flags(tiny_faces, tmp_path, 3, "--name", "run")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_weights", killed)
        assert train_command.main(flags) == 130
    assert train_command.main(flags) == 0
    assert load_weights(tmp_path / "run" / "weights.safetensors").images_seen == 12
