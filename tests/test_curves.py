"""Curves of a training: read and judged."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import train as train_command
from cyclegan_age.curves import Curves, loss_curves, read_metrics, smooth
from cyclegan_age.watchdog import Watchdog

ORANGE, BLUE = (217, 115, 13), (31, 111, 180)


def _has(picture: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], colour: tuple[int, int, int]) -> bool:
    return bool((abs(picture.astype(int) - colour).max(axis=-1) < 12).any())


def _warned(curves: Curves, progress: float = 1.0) -> list[str]:
    return Watchdog(patience=1).curves(curves, progress)


def _curve(*corners: float, points: int = 40, last: int = 4000) -> tuple[list[int], list[float]]:
    """Straight lines through evenly spaced corners, with a little noise."""
    steps = np.linspace(last / points, last, points)
    values = np.interp(steps, np.linspace(0, last, len(corners)), corners)
    noise = 0.01 * np.random.default_rng(0).standard_normal(points)
    return steps.astype(int).tolist(), (values * (1 + noise)).tolist()


# Reading


def test_losses_and_their_values_on_faces_held_out_are_the_curves() -> None:
    rows = [
        {"step": 20, "loss/age": 3.0, "loss/d_real": float("nan"), "lr/lr": 0.1, "measure/held_out_age": 4.0},
        {"step": 40, "loss/age": 2.0, "loss/d_real": 1, "measure/auc": 0.5},
    ]
    assert loss_curves(rows) == {"age": ([20, 40], [3.0, 2.0]), "held_out_age": ([20], [4.0]), "d_real": ([40], [1.0])}


def test_the_running_mean_is_that_of_the_neighbours() -> None:
    assert smooth([1, 2, 6, 3, 3], share=0.6).tolist() == pytest.approx([1.5, 3, 11 / 3, 4, 3])
    assert smooth([5.0]).tolist() == [5.0]


# Warnings


def test_a_healthy_training_is_not_warned_of() -> None:
    healthy = {
        "age": _curve(3, 1.2, 0.8, 0.7),
        "held_out_age": _curve(3, 1.3, 1.0, 0.95, points=20),
        "cycle": _curve(0.01, 0.3, 0.32, 0.3),  # rises while the generator leaves the copy
        "g_adversarial": _curve(1, 0.4, 0.3, 0.33),
        "d_real": _curve(0.5, 0.1, 0.13, 0.14),
        "d_fake": _curve(0.5, 0.1, 0.13, 0.16),
    }
    assert _warned(healthy) == []


def test_over_fitting_is_a_rise_on_faces_held_out_while_the_loss_falls() -> None:
    curves = {"age": _curve(3, 1, 0.7, 0.5, 0.3), "held_out_age": _curve(3, 1, 1.2, 1.4, 1.6, points=20)}
    (warning,) = _warned(curves)
    assert warning.startswith("over-fitting: age on held-out faces has risen by ")
    step = int(warning.split("since step ")[1].split(",")[0])
    assert 800 <= step <= 1200  # the snapshot to take
    assert 30 <= int(warning.split("risen by ")[1].split("%")[0]) <= 65
    both_rise = curves | {"age": _curve(3, 1, 1.2, 1.4, 1.6)}
    assert not any("over-fitting" in w for w in _warned(both_rise))
    assert _warned({"age": curves["age"], "held_out_age": _curve(3, 1, 0.9, points=20)}) == []
    by_heart = {"d_real": curves["age"], "d_fake": _curve(1, 1), "held_out_d_real": curves["held_out_age"]}
    assert [w.split(" has risen")[0] for w in _warned(by_heart)] == ["over-fitting: d_real on held-out faces"]


def test_under_fitting_is_a_loss_that_stays_where_it_began() -> None:
    stuck = {"age": _curve(3, 2.9, 2.95), "held_out_age": _curve(3, 3, points=20)}
    (warning,) = _warned(stuck, 0.3)
    assert warning.startswith("under-fitting: age is at its initial value (") and "try another --lr" in warning
    assert _warned(stuck, 0.2) == []  # it may still come
    assert _warned({"g_adversarial": stuck["age"]}, 0.3) == []  # two networks that keep each other in balance
    even = {"d_real": stuck["age"], "d_fake": stuck["age"], "held_out_d_real": stuck["held_out_age"]}
    assert _warned(even, 0.3) == []  # so does a discriminator, faces held out or not


def test_drift_is_a_climb_over_the_whole_second_half() -> None:
    climbing = {"cycle": _curve(0.5, 0.3, 0.3, 0.5, 0.7)}
    (warning,) = _warned(climbing)
    assert warning.startswith("drift: cycle has risen by ") and "or a lower --lr" in warning
    assert _warned(climbing, 0.4) == []
    assert _warned({"cycle": _curve(0.5, 0.3, 0.3, 0.5, 0.4)}) == []  # it came down again


@pytest.mark.parametrize(
    ("real", "fake", "won"),
    [
        (0.01, 0.005, True),  # least squares
        (0.33, 0.01, True),  # cross-entropy with a goal of 0.9 for real pictures, which cannot cost less
        (0.6, 0.005, False),  # it says "fake" to all
        (0.1, 0.1, False),
    ],
)
def test_a_discriminator_that_errs_no_more_has_won(real: float, fake: float, won: bool) -> None:
    for name, end in (("critic0", ""), ("d", "_b")):  # as of each domain
        curves = {f"{name}_real{end}": _curve(0.5, real, real), f"{name}_fake{end}": _curve(0.5, fake, fake)}
        warnings = _warned(curves)
        assert [w.split(" has won")[0] for w in warnings] == [f"discriminator {name}{end}"] * won
    if won:
        assert all(flag in warnings[0] for flag in ("--d_rate", "--d_pause", "--d_reset", "--head_start"))


def test_a_warning_comes_once_after_three_looks() -> None:
    dog, curves = Watchdog(), {"cycle": _curve(0.5, 0.3, 0.3, 0.5, 0.7)}
    assert [len(dog.curves(curves, 0.8)) for _ in range(5)] == [0, 0, 1, 0, 0]


def test_few_points_give_no_warning() -> None:
    assert _warned({"cycle": _curve(0.5, 0.3, 0.3, 0.5, 0.7, points=8)}) == []


# The real training


def _flags(dataroot: Path, results: Path, *more: str) -> list[str]:
    flags = ["--model", "age_estimator", "--dataroot", str(dataroot), "--results_dir", str(results), "--name", "run"]
    flags += ["--image_size", "32", "--load_size", "36", "--batch_size", "6", "--width", "4", "--depth", "1", "1"]
    flags += ["--input_size", "16", "--no_compile", "--precision", "fp32", "--monitor", "none", "--log_every", "1"]
    return [*flags, *more]


def test_a_training_draws_its_curves_and_knows_faces_held_out(
    tiny_faces: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flags = _flags(tiny_faces, tmp_path, "--epochs", "4", "--sample_every", "3", "--lr", "1e-9")
    with caplog.at_level(logging.WARNING, "cyclegan_age"):
        assert train_command.main(flags) == 0
    picture = Image.open(tmp_path / "run" / "curves.png")
    assert picture.width == 1080
    assert _has(np.asarray(picture.convert("RGB")), ORANGE)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert len(loss_curves(rows)["held_out_age"][0]) == rows[-1]["step"] // 3 + (rows[-1]["step"] % 3 > 0)
    assert len([m for m in caplog.messages if "under-fitting: age is at its initial value" in m]) == 1
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert rows[-1]["step"] < config["train"]["epochs"] * 44 / 6  # the faces held out are not in the epochs


def test_an_epoch_that_took_a_while_ends_with_a_sheet(
    tiny_faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cyclegan_age.training.samples.EPOCH_SECONDS", 0.0)
    assert train_command.main(_flags(tiny_faces, tmp_path, "--epochs", "3", "--sample_every", "1000")) == 0
    sheets = {int(file.stem.split("-")[-1]) for file in (tmp_path / "run" / "samples").iterdir()}
    assert sheets == {7, 13, 19}  # of 38 faces, 6 in a step
