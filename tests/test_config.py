"""Configurations: what their fields declare, how the command line reads them, and how files keep them."""

import json
import logging
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

from cyclegan_age.config import (
    MODEL_CONFIGS,
    CAAEConfig,
    CGANConfig,
    CycleGANConfig,
    CycleGANHeadsConfig,
    InferConfig,
    TrainConfig,
    UserError,
)
from cyclegan_age.config.fields import GROUPS, Option, option_of
from cyclegan_age.faces.detection import NoFace
from cyclegan_age.runs import SHIPPED
from cyclegan_age.weight_files import from_settings, load_weights, settings
from options.test import parse_test
from options.train import parse_train


@pytest.mark.parametrize(
    ("option", "right", "wrong", "words"),
    [
        (Option(at_least=1), (1, 2), (0,), "at least 1"),
        (Option(above=0), (0.1,), (0, float("nan")), "above 0"),
        (Option(at_least=0, at_most=1), (0, 1), (-0.1, 1.1), "from 0 to 1"),
        (Option(at_least=0, below=0.5), (0, 0.4), (-1, 0.5), "at least 0 and below 0.5"),
        (Option(multiple_of=4, at_least=32), (32, 36), (28, 33), "a multiple of 4, at least 32"),
        (Option(choices=(3, 4, 5)), (3, 5), (6,), "one of 3, 4, 5"),
        (
            Option(endings=(".a", ".b")),
            (Path("x.a"), Path("b.b")),
            (Path("a"),),
            "a file name that ends in .a, .b",
        ),
        (Option(min_length=1, at_least=1), ((1,), (1, 2)), ((), (0,), (1, 0)), "1 or more numbers, each at least 1"),
        (Option(min_length=2, rising=True), ((1, 2),), ((1,), (2, 1), (1, 1)), "2 or more numbers, rising"),
        (Option(length=3, at_least=0), ((0, 1, 0),), ((0, 1), (0, 1, -1)), "3 numbers, each at least 0"),
        (Option(valid=bool, must_be="a name"), ("a",), ("",), "a name"),
    ],
)
def test_a_field_says_what_its_value_must_be(option: Option, right: Any, wrong: Any, words: str) -> None:
    many = isinstance(wrong[0], tuple)
    assert all(option.holds(value, many) for value in right)
    assert not any(option.holds(value, many) for value in wrong)
    assert option.words(many) == words


@pytest.mark.parametrize(
    ("kind", "values", "error"),
    [
        (TrainConfig, {"ends": (5, 6)}, "--ends 5 6: must be used with --age_vector onehot"),
        (TrainConfig, {"load_size": 64}, "--load_size 64: must be at least --image_size"),
        (TrainConfig, {"lr": 0.0}, "--lr 0: must be above 0"),
        (TrainConfig, {"visdom_port": 0}, "--visdom_port 0: must be from 1 to 65535"),
        (TrainConfig, {"visdom_port": 65536}, "--visdom_port 65536: must be from 1 to 65535"),
        (TrainConfig, {"ages": (20, 121)}, "--ages 20 121: must be 2 or more numbers, rising, each from 0 to 120"),
        (InferConfig, {"target_age": (30.0, 120.5)}, "--target_age 30 120.5: must be numbers, each from 0 to 120"),
        (InferConfig, {"target_age": (float("nan"),)}, "--target_age nan: must be numbers, each from 0 to 120"),
        (TrainConfig, {"lr": float("inf")}, "--lr inf: must be finite"),
        (TrainConfig, {"betas": (0.5, 1.5)}, "--betas 0.5 1.5: must be numbers, each at least 0 and below 1"),
        (TrainConfig, {"seed": 10**19}, "--seed 10000000000000000000: must be from 0 to 2^63 - 1"),
        (CycleGANConfig, {"residual": False, "symmetric": True}, "--symmetric: must be used with --residual"),
        (CycleGANConfig, {"estimators": ()}, "--estimators: must be at least one, where --lambda_age is above 0"),
        (CGANConfig, {"label_at": 5}, "--label_at 5: must be at most the number of --d_channels"),  # of LabelFields
        (CGANConfig, {"d_reset": 1.0, "head_start": 1.0}, "--head_start 1: must be below --d_reset"),  # of its base
        (CAAEConfig, {"decoder": (1,)}, "--decoder 1: must be at least as many numbers as --encoder has"),
    ],
)
def test_a_wrong_value_is_one_line(kind: Any, values: dict[str, Any], error: str) -> None:
    with pytest.raises(UserError) as raised:
        kind(**values)
    assert str(raised.value) == error


def test_errors_name_flags_in_a_command_and_arguments_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "--weights x: none; use --no_flip or --lr 1; run train.py --name x; python -m pip install --no-deps y"
    error = UserError(text)
    assert str(error) == error.text == text
    monkeypatch.setattr(UserError, "in_command", False)
    python = "weights x: none; use flip=False or lr 1; run train.py --name x; python -m pip install --no-deps y"
    assert str(error) == python
    assert str(NoFace("no face; use --aligned")) == "no face; use aligned"


def test_models_inherit_two_levels_at_most() -> None:
    for kind in MODEL_CONFIGS.values():
        assert all(base.__bases__ == (object,) for base in kind.__bases__ if base is not object), kind


@pytest.mark.parametrize("model", MODEL_CONFIGS)
def test_every_flag_of_a_training_has_a_group(model: str) -> None:
    ungrouped = [
        one.name
        for kind in (TrainConfig, MODEL_CONFIGS[model])
        for one in fields(kind)
        if option_of(one).group not in GROUPS
    ]
    assert ungrouped == []


def test_help_has_groups_choices_and_what_is_required(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as done:
        parse_train(["--model", "cyclegan", "--help"])
    assert done.value.code == 0
    said = capsys.readouterr().out
    places = [said.index(f" {group} options ") for group in GROUPS]
    assert places == sorted(places)
    assert said.index("--dataroot PATH") < said.index("--image_size INT")
    assert "(required)" in said.split("--image_size")[0]
    assert "--model {cyclegan,cyclegan_pair," in said and "--preset {default,detail,shift,liu,zhu}" in said
    assert "Pictures per step and process. (default: 6)" in said  # of the preset
    for flag in ("--symmetric", "--init_share", "--lambda_shift"):
        assert said.index(flag) > places[-1]


def test_model_and_preset_are_read_wherever_they_stand() -> None:
    for words in (["--model", "caae", "--preset", "kim"], ["--preset=kim", "--model=caae"]):
        train, net = parse_train([*words, "--dataroot", "faces", "--lr", "1"])
        assert (train.model, train.preset, train.lr) == ("caae", "kim", 1.0)
        assert isinstance(net, CAAEConfig) and net.kernel == 4
    train, _ = parse_train(["--dataroot", "faces", "--ages", "1", "2", "--model", "cgan"])
    assert (train.model, train.ages) == ("cgan", (1, 2))


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--no_residul"], "--no_residul: unknown; did you mean --no_residual?"),
        (["--betas", "1"], "--betas 1: must be 2 numbers"),
        (["--lr", "--seed", "1"], "--lr: must be followed by one number"),
        (["--age-vector", "on"], "--age_vector on: must be one of linear, onehot"),
    ],
)
def test_wrong_words_are_named(words: list[str], error: str) -> None:
    with pytest.raises(UserError) as raised:
        parse_train(["--dataroot", "faces", *words])
    assert str(raised.value) == error


@pytest.mark.parametrize("flag", ["--features", "--target-age", "--game"])
def test_a_flag_without_the_values_that_it_is_for_is_refused(flag: str) -> None:
    with pytest.raises(UserError, match=f"^{flag.replace('-a', '_a')}: must be followed by"):
        parse_test([flag])


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.safetensors")), ids=lambda path: path.stem)
def test_settings_of_shipped_weights_are_all_known(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    weights = load_weights(path)
    assert type(weights.net) is MODEL_CONFIGS[weights.train.model]
    assert caplog.messages == []


def test_a_setting_that_is_gone_is_read_where_it_was_off() -> None:
    plain = json.loads(json.dumps(settings(TrainConfig(), CycleGANConfig())))
    plain["net"]["most_darkening"] = []
    assert from_settings(plain)[1] == CycleGANConfig()
    plain["net"]["most_darkening"] = [0.2]
    with pytest.raises(UserError, match="setting most_darkening: unknown to this version; use the version that wrote"):
        from_settings(plain)


def test_one_number_of_a_setting_that_now_has_several_is_read() -> None:
    plain = json.loads(json.dumps(settings(TrainConfig(model="cyclegan_heads"), CycleGANHeadsConfig())))
    plain["net"]["strength"] = 1.3
    assert from_settings(plain)[1] == CycleGANHeadsConfig(strength=(1.3,))


def test_no_setting_of_a_file_is_left_out_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    train, net = TrainConfig(results_dir=Path("r")), CycleGANConfig(lambda_cycle=3.0)
    plain = json.loads(json.dumps(settings(train, net)))
    assert from_settings(plain) == (train, net)
    assert plain["net"] == json.loads(json.dumps(asdict(net)))
    with pytest.raises(UserError, match=r"^config\.json: setting lambda_new: unknown to this version"):
        from_settings(plain | {"net": plain["net"] | {"lambda_new": 1.0}}, "config.json")
    with pytest.raises(UserError, match=r"setting lambda_cycle: unknown"):  # of the model, and no setting of a training
        from_settings(plain | {"train": plain["train"] | {"lambda_cycle": 1.0}})
    with pytest.raises(UserError, match=r"^settings: --lambda_cycle -1: must be at least 0$"):
        from_settings(plain | {"net": plain["net"] | {"lambda_cycle": -1.0}})
    with caplog.at_level(logging.WARNING, logger="cyclegan_age"):
        assert from_settings(plain | {"net": plain["net"] | {"age_warmup": 1.0}}) == (train, net)
    assert "setting age_warmup: has no effect" in caplog.text
