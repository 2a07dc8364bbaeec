"""The exported graph gives what the generator gives, for any number of faces; weights in half precision."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

import export as export_command
from cyclegan_age.config import AgeEstimatorConfig, CycleGANConfig, ExportConfig, GANConfig, TrainConfig, UserError
from cyclegan_age.export import export
from cyclegan_age.inference import Ager
from cyclegan_age.models import cyclegan, gan
from cyclegan_age.models.age_estimator import build_estimator
from cyclegan_age.networks.estimators import AgeCorrection
from cyclegan_age.runs import SHIPPED, in_half, load_snapshot, save_snapshot

PROJECT = Path(__file__).resolve().parent.parent
MIB = 2**20
REASON = "make test installs requirements-export.txt"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small generator with all that the shipped one has."""
    train = TrainConfig(image_size=32, load_size=32, ages=(10, 20, 40))
    net = CycleGANConfig(ngf=4, blocks=1, inner_size=16, deform=0.1, chroma=0.3, symmetric=True)
    torch.manual_seed(0)
    generator = cyclegan.build_generator(train, net)
    for p in generator.parameters():
        nn.init.normal_(p, 0, 0.3)
    tensors = {f"generator.{k}": v for k, v in generator.state_dict().items()}
    of_estimator = AgeEstimatorConfig(width=4, depth=(1,), input_size=24)
    correction = AgeCorrection(estimator=build_estimator(of_estimator), anchors=train.ages)
    correction.asked = torch.tensor([[10.0, 30.0, 40.0], [10.0, 12.0, 30.0]])
    tensors |= {f"correction.{k}": v for k, v in correction.state_dict().items()}
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_snapshot(path, train, net, 0, tensors, {"correction": of_estimator})
    return path


def test_the_graph_gives_what_the_generator_gives(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason=REASON)
    onnxruntime = pytest.importorskip("onnxruntime", reason=REASON)
    file = tmp_path / "new" / "age.onnx"
    assert export_command.main(["--weights", str(weights), "--output", str(file)]) == 0
    assert f"written: {file}" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(file)
    assert [one.name for one in session.get_inputs()] == ["picture", "age"]
    facts = session.get_modelmeta().custom_metadata_map
    assert {name: json.loads(text) for name, text in facts.items()} == {
        "frame": "utkface",
        "anchors": [10, 20, 40],
        "age_vector": "linear",
        "ends": [],
        "image_size": 32,
    }
    assert str(PROJECT).encode() not in file.read_bytes()

    ager = Ager.load(weights)
    for count in (1, 3):  # the graph was traced with two
        x = torch.rand(count, 3, 32, 32) * 2 - 1
        age = ager.code.encode([12.0, 20.0, 33.0][:count])
        with torch.inference_mode():
            expected = ager.generator(x, age).numpy()
        (aged,) = session.run(["aged"], {"picture": x.numpy(), "age": age.numpy()})
        assert np.abs(aged - expected).max() < 1e-3
        assert np.abs(aged - x.numpy()).max() > 0.1


def test_weights_that_take_no_pictures_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    train = TrainConfig(model="gan", image_size=32, load_size=32, ages=(10, 20))
    net = GANConfig(z=4, g_channels=(4, 4, 4), d_channels=(4, 4, 4))
    generator = gan.build_generator(train, net)
    path = tmp_path / "gan.safetensors"
    save_snapshot(path, train, net, 0, {f"generator.{k}": v for k, v in generator.state_dict().items()})
    with pytest.raises(UserError, match=r"^--weights .*gan\.safetensors: no network from picture to picture; give"):
        export(ExportConfig(weights=str(path), output=tmp_path / "a.onnx"))


def test_missing_packages_and_wrong_names_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert export_command.main(["--output", str(tmp_path / "age.onnx")]) == 2
    assert capsys.readouterr().err.startswith("onnx: not installed; run python -m pip install -r requirements-exp")
    assert export_command.main(["--output", "age.pt"]) == 2
    assert (
        capsys.readouterr().err
        == "--output age.pt: not usable; give a file name that ends in .onnx, .html, .pt2, .safetensors\n"
    )


def test_weights_in_half_precision_are_loaded_as_they_were_but_for_rounding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Small and tiny numbers, counters and those beyond fp16's range are the same, the others to a thousandth."""
    torch.manual_seed(0)
    large = torch.randn(64, 8, 3, 3)
    tensors = {
        "generator.large": large,
        "generator.bias": torch.randn(64),
        "generator.steps": torch.tensor(7),
        "generator.tiny": large * 1e-7,
        "generator.huge": large * 1e5,
    }
    train, of_estimator = TrainConfig(image_size=32, ages=(10, 20, 40)), AgeEstimatorConfig(width=4)
    source, file = tmp_path / "whole.safetensors", tmp_path / "new" / "half.safetensors"
    save_snapshot(source, train, CycleGANConfig(ngf=4), 5, tensors, {"correction": of_estimator})
    assert export_command.main(["--weights", str(source), "--output", str(file)]) == 0
    assert f"written: {file}" in capsys.readouterr().out
    with safe_open(source, framework="pt") as a, safe_open(file, framework="pt") as b:
        assert a.metadata() == b.metadata()
        kinds = {name: b.get_tensor(f"generator.{name}").dtype for name in ("large", "bias", "tiny", "huge", "steps")}
    assert kinds == {"large": torch.float16, "steps": torch.int64} | dict.fromkeys(
        ("bias", "tiny", "huge"), torch.float32
    )
    whole, half = load_snapshot(source), load_snapshot(file)
    assert (whole.train, whole.net, whole.images_seen, whole.parts) == (
        *(half.train, half.net, half.images_seen, half.parts),
    )
    for name, tensor in half.tensors.items():
        assert tensor.dtype == tensors[name].dtype
        assert torch.equal(tensor, tensors[name]) == (name != "generator.large")
        assert torch.allclose(tensor.float(), tensors[name].float(), rtol=1e-3, atol=1e-7)
    assert in_half(file) == file.read_bytes()


def test_in_half_precision_a_generator_makes_the_same_pictures(tmp_path: Path) -> None:
    large = CycleGANConfig(ngf=16, blocks=1)
    train = TrainConfig(image_size=32, load_size=32)
    torch.manual_seed(0)
    generator = cyclegan.build_generator(train, large)
    for p in generator.parameters():
        nn.init.normal_(p, 0, 0.1)
    source, file = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    save_snapshot(source, train, large, 0, {f"generator.{k}": v for k, v in generator.state_dict().items()})
    file.write_bytes(in_half(source))
    assert file.stat().st_size < 0.6 * source.stat().st_size
    faces = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    whole, half = (Ager.load(path).age_many(faces, [10, 20, 40, 60]).astype(int) for path in (source, file))
    assert np.abs(whole - half).mean() < 0.1
    assert np.abs(whole - faces).mean() > 5


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.safetensors")), ids=lambda path: path.stem)
def test_shipped_weights_are_in_half_precision(path: Path) -> None:
    with safe_open(path, framework="pt") as f:
        stored = [f.get_tensor(k) for k in f.keys()]  # noqa: SIM118 - not a dict
    halves = sum(t.numel() for t in stored if t.dtype == torch.float16)
    assert halves > 0.9 * sum(t.numel() for t in stored)
    snapshot = load_snapshot(path)
    assert {t.dtype for t in snapshot.tensors.values()} <= {torch.float32, torch.int64}
    assert all(torch.isfinite(t).all() for t in snapshot.tensors.values())


def test_the_checkout_stays_small() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 49 * MIB
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True)
    if listed.returncode:
        pytest.skip("not a git work tree")
    files = [p for name in listed.stdout.decode().split("\0") if name and (p := PROJECT / name).is_file()]
    assert PROJECT / "pyproject.toml" in files
    assert sum(path.stat().st_size for path in files) < 51 * MIB
