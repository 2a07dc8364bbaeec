"""Sample sheets of a training: their columns, and that they show what inference renders with the same weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import train as train_command
from cyclegan_age.attributes import FaceAttributes
from cyclegan_age.config import MODEL_CONFIGS, FaceEmbedderConfig, ModelConfig, TrainConfig
from cyclegan_age.images import to_float, to_uint8
from cyclegan_age.inference import Ager
from cyclegan_age.models import SYSTEMS
from cyclegan_age.models.base import Model
from cyclegan_age.models.face_embedder import build_embedder
from cyclegan_age.training.sheets import feature_maps, life, sample_columns
from cyclegan_age.weight_files import save_weights

AGES = ("20", "40", "60")
PAIR: dict[str, Any] = {"ngf": 4, "ndf": 4, "blocks": 3}
NOISE: dict[str, Any] = {"z": 8, "g_channels": (8, 8, 4), "d_channels": (4, 8, 8)}
STAGES: dict[str, Any] = {**NOISE, "e_channels": (4, 8), "gan_share": 0.5}
CODED: dict[str, Any] = {"z": 8, "encoder": (4, 8), "decoder": (8, 8, 4), "critic": (4, 8), "hidden": 16}
# What builds a model, its columns at a share of its training, and a layer whose features it shows.
CASES: dict[str, tuple[str, dict[str, Any], float, tuple[str, ...], str]] = {
    "cyclegan": ("cyclegan", {**PAIR, "lambda_age": 0.0}, 0.0, (*AGES, "cycle"), "blocks.0"),
    "cyclegan_pair": ("cyclegan_pair", PAIR, 0.0, ("to B", "cycle", "to A"), "blocks.0"),
    "cyclegan_pair, unet": (
        "cyclegan_pair",
        {"generator": "unet", "blocks": 5, "ngf": 4, "ndf": 4},
        *(0.0, ("to B", "cycle", "to A"), "downs.1"),
    ),
    "pfa_gan": (
        "pfa_gan",
        {**PAIR, "lambda_age": 0.0, "embedder": "", "alpha_feature": 0.0},
        0.0,
        AGES,
        "steps.0.blocks.0",
    ),
    "caae": ("caae", CODED, 0.0, ("rebuilt", *AGES), "stages.1"),
    "gan": ("gan", NOISE, 0.0, ("sample 1", "sample 2"), "stages.1"),
    "cgan": ("cgan", NOISE, 0.0, AGES, "stages.1"),
    "encoder_cdcgan": ("encoder_cdcgan", STAGES, 0.0, AGES, "stages.1"),
    "encoder_cdcgan, encoder": ("encoder_cdcgan", STAGES, 0.6, ("rebuilt", *AGES), "stages.1"),
    "age_cgan": ("age_cgan", STAGES, 0.0, AGES, "stages.1"),
    "age_cgan, encoder": ("age_cgan", {**STAGES, "latent_steps": 0}, 0.6, ("rebuilt", *AGES), "stages.1"),
}


def built(case: str, folder: Path) -> tuple[Model, TrainConfig, ModelConfig]:
    """A small model of a case, in the state of its share of the training; no weight is zero."""
    name, flags, progress, _, _ = CASES[case]
    torch.manual_seed(0)
    config = TrainConfig(model=name, image_size=32, load_size=32, ages=(20, 40, 60))
    if name == "age_cgan":
        net = FaceEmbedderConfig(width=4, depth=(1, 1), input_size=16)
        flags = {**flags, "embedder": str(folder / "embedder.safetensors")}
        tensors = {f"embedder.{k}": v for k, v in build_embedder(net).state_dict().items()}
        save_weights(folder / "embedder.safetensors", TrainConfig(model="face_embedder"), net, 0, tensors)
    of_model = MODEL_CONFIGS[name](**flags)
    model = SYSTEMS[name].build(config, of_model)
    for network in model.networks.values():
        network.eval()
        for weight in network.parameters():
            if not weight.any():
                nn.init.normal_(weight, 0, 0.05)
    model.paused(progress)
    return model, config, of_model


@pytest.mark.parametrize("case", CASES)
def test_a_sheet_shows_what_inference_renders(case: str, tmp_path: Path) -> None:
    model, config, net = built(case, tmp_path)
    _, _, progress, names, layer = CASES[case]
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    networks = {name: model.networks[name] for name in model.shipped}
    ages = torch.tensor([28.0, 20.0])
    with torch.inference_mode():
        columns = sample_columns(model, networks, to_float(pictures), ages)
        maps = feature_maps(model, networks, to_float(pictures[:1]), [layer])
    assert tuple(columns) == ("source", *names)
    assert torch.equal(columns["source"], to_float(pictures))
    assert list(maps[layer]) == [name for name in names if name not in ("cycle", "rebuilt", "sample 2")]

    tensors = {f"{name}.{k}": v for name, one in networks.items() for k, v in one.state_dict().items()}
    save_weights(tmp_path / "weights.safetensors", config, net, 0, tensors, model.pretrained)
    ager = Ager.load(tmp_path / "weights.safetensors")
    attributes = [FaceAttributes(age_years=28.0), FaceAttributes(age_years=20.0)]
    for name in set(names) & {*AGES, "to A", "to B"}:
        years = {"to A": 25.0, "to B": 55.0}[name] if name.startswith("to ") else float(name)
        if ager.encoder.encodes and progress == 0 and "cgan" in case:
            continue  # faces from noise, before there is an encoder
        if ager.encoder.encodes:
            rendered = ager.age_many(pictures, [years] * 2, attributes=attributes)
        else:
            random = torch.Generator().manual_seed(0)
            rendered = ager.render(ager.encoder.sample(2, random), [years] * 2)
        difference = np.abs(rendered.astype(int) - to_uint8(columns[name]).astype(int))
        assert difference.max() <= 1


def test_a_life_is_shown_of_a_model_that_says_so(tmp_path: Path) -> None:
    x = torch.zeros(1, 3, 32, 32)
    with torch.inference_mode():
        for case, count in (("cyclegan", 13), ("pfa_gan", None)):  # three in ten years, and the last
            model, _, _ = built(case, tmp_path)
            frames = life(model, model.networks, x)
            assert (None if frames is None else len(frames)) == count


def test_sheets_disturb_no_training(tiny_faces: Path, tmp_path: Path) -> None:
    flags = ["--model", "age_estimator", "--dataroot", str(tiny_faces), "--results_dir", str(tmp_path)]
    flags += ["--backbone", "resnet", "--width", "4", "--depth", "1", "1", "--input_size", "32", "--image_size", "32"]
    flags += ["--load_size", "36", "--batch_size", "4", "--no_compile", "--precision", "fp32", "--monitor", "none"]
    for name, every in (("many", "1"), ("few", "1000")):
        assert train_command.main([*flags, "--epochs", "0.3", "--name", name, "--sample_every", every]) == 0
    count = [len(list((tmp_path / name / "samples").glob("samples-*.jpg"))) for name in ("many", "few")]
    assert count == [3, 1]
    many, few = (load_file(tmp_path / name / "weights.safetensors") for name in ("many", "few"))
    assert many.keys() == few.keys()
    assert all(torch.equal(many[k], few[k]) for k in many)


def test_the_table_has_a_row_for_each_configuration() -> None:
    assert {name: system.config for name, system in SYSTEMS.items()} == MODEL_CONFIGS
