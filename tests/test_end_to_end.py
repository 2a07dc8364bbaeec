"""The real commands on tiny data: training, resuming, several processes, errors."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import test as test_command
import train as train_command
from cyclegan_age.config import CycleGANConfig
from cyclegan_age.models.cyclegan import CycleGAN
from cyclegan_age.runs import load_checkpoint
from cyclegan_age.training import log
from cyclegan_age.training.report import Report
from cyclegan_age.weight_files import from_settings, load_weights

PROJECT = Path(__file__).resolve().parent.parent
TINY = [
    *("--ngf", "4", "--ndf", "4", "--blocks", "3", "--image_size", "32", "--load_size", "36", "--batch_size", "4"),
    *("--lambda_age", "0", "--no_compile", "--precision", "fp32", "--monitor", "none", "--log_every", "2"),
    *("--sample_every", "1000", "--save_every", "5", "--snapshot_every", "1000"),
]

SMOOTH = ["--optimizer", "sgd", "--lr", "0.01"]  # Adam's first steps make large differences of rounding errors
WHOLE = [
    "--cycle_share",
    "1",
    "--identity_share",
    "1",
]  # so that the parts of a batch take the same pictures as the whole


def _flags(faces: Path, results: Path, steps: float, *more: str) -> list[str]:
    """Flags of a tiny training of so many steps of four pictures (44 are in the data)."""
    return ["--dataroot", str(faces), "--results_dir", str(results), "--epochs", str(steps * 4 / 44), *TINY, *more]


def _start(command: Sequence[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, *command], cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _equal(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    return a == b


def _distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return sum(float((a[k] - b[k]).square().sum()) for k in a) ** 0.5


def _lines(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_training_killed_at_any_moment_ends_as_if_it_had_not_been(tiny_faces: Path, tmp_path: Path) -> None:
    steps = 120
    assert train_command.main(_flags(tiny_faces, tmp_path, steps, "--name", "whole")) == 0
    flags = _flags(tiny_faces, tmp_path, steps, "--name", "killed")
    process, run, kills = _start(["train.py", *flags]), tmp_path / "killed", 0
    last = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < last:
        metrics = run / "metrics.jsonl"
        if (run / "state.pt").is_file() and metrics.is_file() and metrics.read_text().count("\n") >= 8:
            process.send_signal(signal.SIGKILL)
            kills += 1
            break
        time.sleep(0.002)
    process.communicate()
    assert kills == 1 and process.returncode == -signal.SIGKILL
    at = load_checkpoint(run / "state.pt")
    assert at is not None and 0 < at["step"] < steps

    assert train_command.main(flags) == 0
    states = [load_checkpoint(tmp_path / name / "state.pt") for name in ("whole", "killed")]
    assert _equal(*states)
    ranks = [load_checkpoint(tmp_path / name / f"state-0-{steps}.pt") for name in ("whole", "killed")]
    assert ranks[0] is not None and len(ranks[0]["pools"]["fakes"]["pictures"]) == 50
    assert _equal(*ranks)
    assert [line["step"] for line in _lines(run)] == list(range(2, steps + 1, 2))


def test_resuming_from_a_corner_of_the_schedule_keeps_every_number(tiny_faces: Path, tmp_path: Path) -> None:
    """Ends a training by SIGTERM, which saves, and compares the metrics of both halves with an uninterrupted run."""
    assert train_command.main(_flags(tiny_faces, tmp_path, 60, "--name", "whole", "--save_every", "1000")) == 0
    flags = _flags(tiny_faces, tmp_path, 60, "--name", "halves", "--save_every", "1000")
    process = _start(["train.py", *flags])
    last = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < last:
        metrics = tmp_path / "halves" / "metrics.jsonl"
        if metrics.is_file() and metrics.read_text().count("\n") >= 3:
            process.send_signal(signal.SIGTERM)
            break
        time.sleep(0.002)
    output, _ = process.communicate()
    assert process.returncode == 130, output
    assert "the same command resumes" in output
    assert train_command.main(flags) == 0
    whole, halves = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "halves"))
    assert _equal(whole, halves)
    kept = {line["step"]: line["loss/d_real"] for line in _lines(tmp_path / "halves")}
    expected = {line["step"]: line["loss/d_real"] for line in _lines(tmp_path / "whole")}
    assert kept.keys() == expected.keys()
    assert sum(kept[s] != expected[s] for s in kept) <= 1  # an interval that was cut in two is averaged over its rest


def test_two_processes_equal_one_with_twice_the_batch(
    tiny_faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = _flags(tiny_faces, tmp_path, 6, "--pool_size", "0", "--save_every", "3", *SMOOTH, *WHOLE)
    assert train_command.main([*flags, "--batch_size", "8", "--name", "one"]) == 0
    # torchrun takes a lone --monitor for an abbreviation of a flag of its own; after -- all is the script's.
    process = _start(
        [
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node",
            "2",
            "--",
            "train.py",
            *flags,
            "--name",
            "two",
        ]
    )
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert output.count("2 processes, each with batches of 4\n") == output.count("weights, samples and metrics: ") == 1
    assert load_checkpoint(tmp_path / "two" / "state-1-3.pt") is not None
    assert train_command.main([*flags, "--name", "two", "--epochs", "9"]) == 2
    assert "two: 2 processes trained it, now there are 1; start as many" in capsys.readouterr().err
    assert train_command.main([*flags, "--name", "half"]) == 0
    one, two, half = (load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two", "half"))
    assert _distance(one, two) < 0.02 * _distance(one, half)


def test_accumulating_parts_equals_the_whole_batch(tiny_faces: Path, tmp_path: Path) -> None:
    flags = _flags(tiny_faces, tmp_path, 1, "--pool_size", "0", "--save_every", "1", *SMOOTH, *WHOLE)
    assert train_command.main([*flags, "--name", "whole"]) == 0
    assert train_command.main([*flags, "--accumulate", "2", "--name", "parts"]) == 0
    assert train_command.main([*flags, "--batch_size", "2", "--name", "half"]) == 0
    whole, parts, half = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "parts", "half"))
    assert _distance(whole, parts) < 1e-3 * _distance(whole, half)


def test_the_losses_of_a_short_training_stay_what_they_were(tiny_faces: Path, tmp_path: Path) -> None:
    assert train_command.main(_flags(tiny_faces, tmp_path, 20, "--name", "curve", "--log_every", "10")) == 0
    last = _lines(tmp_path / "curve")[-1]
    pinned = {
        "loss/g_adversarial": 0.433,
        "loss/cycle": 0.209,  # half of the batch, and half of the weight
        "loss/identity": 0.137,
        "loss/d_real": 0.209,
        "loss/d_fake": 0.0593,
        "loss/d_wrong_age": 0.029,
    }
    assert {k: last[k] for k in pinned} == pytest.approx(pinned, rel=0.03)
    assert last["lr/lr"] == pytest.approx(2e-4 * (1 - 19 / 20) / 0.5)


@pytest.mark.parametrize("preset", ["liu", "zhu"])
def test_published_recipes_train_and_their_weights_render(preset: str, tiny_faces: Path, tmp_path: Path) -> None:
    flags = [*_flags(tiny_faces, tmp_path, 2), "--preset", preset, "--name", preset]
    assert train_command.main(flags) == 0
    weights = load_weights(tmp_path / preset / "weights.safetensors")
    assert weights.train.optimizer == {"liu": "sgd", "zhu": "adam"}[preset]
    face = next(tiny_faces.rglob("*.jpg"))
    page = ["--aligned", "--input", str(face), "--weights", preset, "--results_dir", str(tmp_path), "--name", "page"]
    assert test_command.main([*page, "--target_age", "50"]) == 0
    assert list((tmp_path / "page").rglob("*age50.*"))


def test_two_domains_train_from_groups_and_from_cyclegan_folders(tiny_faces: Path, tmp_path: Path) -> None:
    flags = ["--model", "cyclegan_pair", *_flags(tiny_faces, tmp_path, 3)]
    flags = [f for i, f in enumerate(flags) if f != "--lambda_age" and flags[i - 1] != "--lambda_age"]
    assert train_command.main([*flags, "--group_a", "20-29", "--group_b", "50-59", "--name", "groups"]) == 0
    sheets = {p.name.rsplit("-", 1)[0] for p in (tmp_path / "groups" / "samples").iterdir()}
    assert {"samples", "features-down2", "channels-down2", "change"} <= sheets
    with Image.open(tmp_path / "groups" / "samples" / "change-0000001.jpg") as change:
        assert change.width > 2 * 32 and change.height < 2 * 32  # to B and to A, of one face
    with Image.open(tmp_path / "groups" / "samples" / "samples-0000001.jpg") as sheet:
        assert sheet.width > 4 * 32 and 2 * 32 < sheet.height < 3 * 32  # a face of each domain
    domains = tmp_path / "domains"
    domains.mkdir()
    (domains / "trainA").symlink_to(tiny_faces / "20-24")
    (domains / "trainB").symlink_to(tiny_faces / "60-64")
    assert train_command.main([*flags, "--dataroot", str(domains), "--name", "domains"]) == 0
    assert "generator_ab.stem.conv.conv.weight" in load_file(tmp_path / "domains" / "weights.safetensors")


def test_an_age_estimator_trains_and_can_stand_in_the_loss(tiny_faces: Path, tmp_path: Path) -> None:
    common = ["--dataroot", str(tiny_faces), "--results_dir", str(tmp_path), "--monitor", "none", "--no_compile"]
    sizes = ["--image_size", "32", "--load_size", "36", "--batch_size", "4", "--epochs", "0.4", "--log_every", "2"]
    net = ["--width", "4", "--depth", "1", "1", "--input_size", "16", "--sample_every", "4"]
    assert train_command.main(["--model", "age_estimator", *common, *sizes, *net, "--name", "judge"]) == 0
    assert any("measure/mean_absolute_error_years" in line for line in _lines(tmp_path / "judge"))
    gan = ["--ngf", "4", "--ndf", "4", "--blocks", "3", "--estimators", "judge", "--name", "gan"]
    assert train_command.main([*common, *sizes, *gan]) == 0
    terms = {"loss/g_age", "loss/critic0_fooled", "loss/g_critic", "loss/critic0_real"}
    assert terms <= _lines(tmp_path / "gan")[0].keys()
    ended = load_checkpoint(tmp_path / "gan" / "state.pt")
    assert ended is not None
    begun = load_file(tmp_path / "judge" / "weights.safetensors")["estimator.head.weight"]
    assert not torch.equal(ended["networks"]["critic0"]["estimator.head.weight"], begun)


def test_statistics_of_the_data_are_collected_before_the_first_step_alone(
    tiny_faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    monkeypatch.setattr(CycleGAN, "prepare", lambda self, data, device, progress: calls.append(data))
    command = ["--dataroot", str(tiny_faces), "--results_dir", str(tmp_path), "--monitor", "none", "--no_compile"]
    command += ["--image_size", "32", "--load_size", "36", "--lambda_age", "0", "--blocks", "1", "--ndf", "4"]
    command += ["--ngf", "4", "--batch_size", "4", "--name", "run", "--epochs"]
    for epochs, expected in (("0", 0), ("0.05", 1), ("0.1", 1)):
        assert train_command.main([*command, epochs]) == 0
        assert len(calls) == expected


def test_a_training_begins_from_given_weights(
    tiny_faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--dataroot", str(tiny_faces), "--results_dir", str(tmp_path), "--monitor", "none", "--no_compile"]
    common += ["--image_size", "32", "--load_size", "36", "--lambda_age", "0", "--blocks", "1", "--ndf", "4"]
    common += ["--batch_size", "4"]
    assert train_command.main([*common, "--ngf", "4", "--deform", "0", "--epochs", "0.05", "--name", "first"]) == 0
    begin = ["--init", "first", "--epochs", "0"]
    assert train_command.main([*common, *begin, "--ngf", "4", "--deform", "0.1", "--name", "second"]) == 0
    first, second = (load_file(tmp_path / run / "weights.safetensors") for run in ("first", "second"))
    assert second.keys() - first.keys() == {"generator.bend.conv.weight", "generator.bend.conv.bias"}
    for name, weight in first.items():
        assert torch.equal(second[name], weight)
    longer = ["--init", "second", "--ngf", "4", "--deform", "0.1", "--epochs", "0.05", "--name", "more"]
    for _ in range(2):  # the second time it is finished
        assert train_command.main([*common, *longer]) == 0
    seen = [load_weights(tmp_path / run / "weights.safetensors").images_seen for run in ("first", "second", "more")]
    assert seen == [4, 4, 8]
    assert train_command.main([*common, *begin, "--ngf", "8", "--name", "third"]) == 2
    assert "--init first" in capsys.readouterr().err
    assert not (tmp_path / "third").exists()  # the name is free for the command put right
    assert train_command.main([*common, "--init", "nobody", "--name", "third"]) == 2
    assert capsys.readouterr().err.startswith("--init nobody: neither a file nor a run")

    average = ["--init", "second", "--init_average", "more", "--init_share", "0.25", "--epochs", "0", "--ngf", "4"]
    assert train_command.main([*common, *average, "--deform", "0.1", "--name", "average"]) == 0
    more, mean = (load_file(tmp_path / run / "weights.safetensors") for run in ("more", "average"))
    for name, weight in second.items():
        torch.testing.assert_close(mean[name], 0.75 * weight + 0.25 * more[name])
    assert not all(torch.equal(weight, more[name]) for name, weight in second.items())
    average[3] = "first"  # has no flow
    assert train_command.main([*common, *average, "--deform", "0.1", "--name", "other"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        "--init_average first: its generator has another architecture than that of --init: bend.conv."
    )
    assert not (tmp_path / "other").exists()
    assert train_command.main([*common, "--init", "first", "--init_share", "0.3", "--name", "other"]) == 2
    assert "must be used with --init_average" in capsys.readouterr().err


def test_the_progress_bar_sums_each_phase() -> None:
    terms = {"g_age": 0.25, "d_real": 1.0, "cycle": 0.5}
    phases = {"g_age": "generator", "cycle": "generator", "d_real": "discriminator"}
    report = Report(terms, phases, skipped=0, bad_in_a_row=0, longest_bad_run=0)
    assert log._by_phase(report) == "generator=0.75 discriminator=1"


def test_the_same_command_resumes_and_another_gets_the_next_number(
    tiny_faces: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flags = _flags(tiny_faces, tmp_path, 2)
    assert train_command.main(flags) == 0
    assert train_command.main(flags) == 0
    assert "finished" in caplog.text
    assert train_command.main([*flags, "--lr", "1e-3"]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["001-cyclegan-default", "002-cyclegan-default"]


def test_a_run_of_terms_in_every_kth_step_resumes_with_their_shares_of_a_batch(
    tiny_faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*_flags(tiny_faces, tmp_path, 2, "--name", "run"), "--identity_share", "0.125"]
    assert train_command.main([*flags, "--cycle_share", "0.5"]) == 0
    path = tmp_path / "run" / "config.json"
    old = json.loads(path.read_text())
    for name, every in (("cycle", 2), ("identity", 8)):
        del old["net"][f"{name}_share"]
        old["net"][f"{name}_every"] = every
    path.write_text(json.dumps(old))
    assert train_command.main([*flags, "--cycle_share", "0.25"]) == 2
    assert "--cycle_share 0.25: the run" in capsys.readouterr().err
    assert train_command.main([*flags, "--cycle_share", "0.5", "--epochs", "0.4"]) == 0
    (net,) = {from_settings(json.loads(path.read_text()))[1], from_settings(old)[1]}
    assert isinstance(net, CycleGANConfig)
    assert (net.cycle_share, net.identity_share) == (0.5, 0.125)


def test_a_broken_file_is_named_counted_and_replaced(
    tiny_faces: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    faces = tmp_path / "faces"
    shutil.copytree(tiny_faces, faces)
    (faces / "20-24" / "20_0_0_empty.jpg").touch()
    (faces / "3-4").mkdir()
    shutil.copy(next(tiny_faces.rglob("10_*.jpg")), faces / "3-4" / "3_0_0_child.jpg")
    assert train_command.main(_flags(faces, tmp_path, 12, "--name", "run")) == 0
    assert "20_0_0_empty.jpg: left out: empty file" in caplog.text
    assert "1 files could not be read" in caplog.text
    assert (
        "1 picture left out: younger or older than the groups "
        "(from 5 to below 70 years); choose other --ages than 10 20 30 40 50 60 to use them" in caplog.text
    )


@pytest.mark.parametrize("bad", [2, 5])  # in the middle, and the last one
def test_a_step_that_is_not_finite_is_skipped_and_counted(
    bad: int, tiny_faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    losses = CycleGAN.losses

    def poisoned(self: CycleGAN, batch: object, progress: torch.Tensor, paused: frozenset[str]) -> object:
        for phase, terms in losses(self, batch, progress, paused):  # type: ignore[arg-type]
            if round(6 * float(progress)) == bad:
                terms["g_adversarial" if phase == "generator" else "d_real"] *= float("nan")
            yield phase, terms

    monkeypatch.setattr(CycleGAN, "losses", poisoned)
    assert train_command.main(_flags(tiny_faces, tmp_path, 6, "--name", "nan")) == 0
    assert "not finite; the steps are skipped" in caplog.text
    state = load_checkpoint(tmp_path / "nan" / "state.pt")
    assert state is not None and (state["step"], state["skipped"]) == (6, 1)
    assert all(torch.isfinite(v).all() for v in load_file(tmp_path / "nan" / "weights.safetensors").values())


def test_a_training_that_diverges_stops_with_the_last_good_state(
    tiny_faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "diverged"
    flags = _flags(tiny_faces, tmp_path, 6, "--name", "diverged", "--save_every", "3")
    assert train_command.main(flags) == 0
    state = load_checkpoint(run / "state.pt")
    assert state is not None
    for weight in state["networks"]["discriminator"].values():
        weight.fill_(float("nan"))
    torch.save(state, run / "state.pt")
    before = (run / "state.pt").read_bytes()
    capsys.readouterr()
    more = _flags(tiny_faces, tmp_path, 60, "--name", "diverged", "--save_every", "3")
    assert train_command.main(more) == 2
    assert f"{log.MAX_BAD_STEPS} consecutive steps were not finite" in capsys.readouterr().err
    assert (run / "state.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "--dataroot: required; expected the folder with one sub-folder per age group"),
        (["--dataroot", "/nowhere"], "--dataroot /nowhere"),
        (["--dataroot", ".", "--model", "nothing"], "--model nothing: must be one of cyclegan, cyclegan_pair"),
        (["--dataroot", ".", "--preset", "nothing"], "--preset nothing: must be one of default, detail, shift"),
        (["--dataroot", ".", "--batch_size", "0"], "--batch_size 0: must be at least 1"),
        (["--dataroot", ".", "--batch_size", "many"], "--batch_size many: must be one whole number"),
        (["--dataroot", ".", "--ages", "20", "old"], "--ages 20 old: must be whole numbers"),
        (["--dataroot", ".", "--batch_size"], "--batch_size: must be followed by one whole number"),
        (["--dataroot", ".", "--bogus", "1"], "--bogus: unknown; "),
        (["--dataroot", ".", "faces"], "--dataroot . faces: must be one path"),
        (
            ["--dataroot", ".", "--flip", "faces"],
            "faces: belongs to no flag; put it directly after its flag",
        ),
        (["--dataroot", ".", "--batch_sise", "1"], "--batch_sise: unknown; did you mean --batch_size?"),
        (["--dataroot", ".", "--monitor", "foo"], "--monitor foo: must be one of auto, visdom, tensorboard, "),
        (["--dataroot", ".", "--ages", "20", "10"], "--ages 20 10: must be 2 or more numbers, rising"),
        (["--dataroot", ".", "--lambda_age", "0", "--monitor", "none"], "no age folders found"),
        (["--dataroot", ".", "--lambda_age", "-1"], "--lambda_age -1: must be at least 0"),
        (["--dataroot", ".", "--name", "../out", "--lambda_age", "0"], "--"),
    ],
)
def test_mistakes_are_reported_in_one_line_with_exit_status_2(
    flags: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train_command.main(flags) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error
    assert not (tmp_path / "results").exists()


def test_an_estimator_that_is_not_there_is_reported_in_one_line(
    tiny_faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = _flags(tiny_faces, tmp_path, 2, "--name", "run", "--lambda_age", "0.1", "--estimators", "nobody")
    assert train_command.main(flags) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "nobody" in error
    assert not (tmp_path / "run").exists()


def test_a_layer_that_is_not_there_is_reported_before_the_first_step(
    tiny_faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = _flags(tiny_faces, tmp_path, 2, "--name", "run", "--feature_layers", "blocks.9")
    assert train_command.main(flags) == 2
    assert "layer 'blocks.9': not in this network; it has stem, down1" in capsys.readouterr().err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_help_lists_the_flags_of_the_chosen_model_at_once() -> None:
    start = time.monotonic()
    out = subprocess.run(
        [sys.executable, "train.py", "--model", "cyclegan_pair", "--help"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": "100"},
    ).stdout
    assert "--group_a" in out and "--lambda_wrong_age" not in out
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("command", ["train.py", "test.py", "evaluate.py", "export.py", "demo.py", "-m benchmarks"])
def test_a_python_without_the_packages_is_reported_in_one_line(command: str) -> None:
    words = [sys.executable, "-S", *command.split()]
    out = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert out.returncode == 2
    assert "the packages of requirements.txt are not installed; make demo installs them" in out.stderr
    assert out.stderr.count("\n") == 1
