"""The exported graph gives what the generator gives, for any number of faces."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import export as export_command
from cyclegan_age.config import AgeEstimatorConfig, CycleGANConfig, ExportConfig, GANConfig, TrainConfig, UserError
from cyclegan_age.export import export
from cyclegan_age.inference import Ager
from cyclegan_age.models import cyclegan, gan
from cyclegan_age.models.age_estimator import build_estimator
from cyclegan_age.networks.estimators import AgeCorrection
from cyclegan_age.runs import save_snapshot

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
        "anchors": [10, 20, 40],
        "age_vector": "linear",
        "ends": [],
        "image_size": 32,
    }
    assert str(Path(__file__).resolve().parent.parent).encode() not in file.read_bytes()

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
    assert capsys.readouterr().err == "--output age.pt: not usable; give a file name that ends in .onnx\n"
