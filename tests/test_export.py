"""The exported graph gives what the generator gives, for any number of faces; weights in fewer bits."""

import cmath
import io
import json
import math
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import export as export_command
from cyclegan_age.config import (
    AgeEstimatorConfig,
    CycleGANConfig,
    CycleGANHeadsConfig,
    ExportConfig,
    GANConfig,
    TrainConfig,
    UserError,
)
from cyclegan_age.export import export, graph, metadata, stored_as
from cyclegan_age.export_page import check_runtime, page
from cyclegan_age.inference import Ager, demo_portrait
from cyclegan_age.models import cyclegan, cyclegan_heads, gan
from cyclegan_age.models.age_estimator import build_estimator
from cyclegan_age.networks.estimators import AgeCalibration
from cyclegan_age.provenance import Mark
from cyclegan_age.runs import SHIPPED
from cyclegan_age.weight_files import load_weights, repacked, save_weights

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
    calibration = AgeCalibration(estimator=build_estimator(of_estimator), anchors=train.ages)
    calibration.asked = torch.tensor([[10.0, 30.0, 40.0], [10.0, 12.0, 30.0]])
    tensors |= {f"correction.{k}": v for k, v in calibration.state_dict().items()}
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(path, train, net, 0, tensors, {"correction": of_estimator})
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
            expected = ager.engine.network(x, age).numpy()
        (aged,) = session.run(["aged"], {"picture": x.numpy(), "age": age.numpy()})
        assert np.abs(aged - expected).max() < 1e-3
        assert np.abs(aged - x.numpy()).max() > 0.1


def head_weights(path: Path, **more: Any) -> Path:
    """A small generator of whole heads, with the branch at the picture's whole size."""
    train = TrainConfig(model="cyclegan_heads", image_size=64, load_size=64, frame="ffhq")
    net = CycleGANHeadsConfig(ngf=8, blocks=2, detail=4, most_chroma=0.06, **more)
    torch.manual_seed(0)
    generator = cyclegan_heads.build_generator(train, net)
    for layer in (generator.head, generator.fine_head, generator.bend):
        for weight in layer.parameters():
            nn.init.normal_(weight, 0, 0.02)
    save_weights(path, train, net, 0, {f"generator.{k}": v for k, v in generator.state_dict().items()})
    return path


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    strength = (1.25, 1.0, 0.75, 1.0, 1.5, 1.25)
    path = tmp_path_factory.mktemp("heads") / "heads.safetensors"
    return head_weights(path, most_shade=0.09, head_alone=True, smooth_eyes=True, strength=strength)


@pytest.fixture(scope="module")
def heads_onnx(heads: Path) -> bytes:
    """Its graph."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=REASON)
    return graph(Ager.load(heads))


def at_ten_ages(ager: Ager) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Ten pictures, age vectors below, between and beyond the anchors, and what the generator makes of them."""
    size = ager.image_size
    x = torch.rand(10, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    x[1] = x[1].mean()  # grey: without chroma
    age = ager.code.encode(np.linspace(8, 68, 10).tolist())
    with torch.inference_mode():
        made = ager.engine.network(x, age).numpy()
    assert np.abs(made - x.numpy()).max() > 0.1 and np.abs(made[0] - made[-1]).max() > 0.1
    return x, age, made


def test_whole_heads_are_the_same_at_ten_ages(heads: Path, heads_onnx: bytes) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason=REASON)
    ager = Ager.load(heads)
    x, age, expected = at_ten_ages(ager)
    sizes = {}
    for precision, most, mean in (("fp32", 1e-4, 1e-5), ("fp16", 0.02, 0.001), ("int8", 0.5, 0.1)):
        data = stored_as(heads_onnx, precision)
        sizes[precision] = len(data)
        (aged,) = onnxruntime.InferenceSession(data).run(["aged"], {"picture": x.numpy(), "age": age.numpy()})
        difference = np.abs(aged - expected)
        assert difference.max() < most and difference.mean() < mean, precision
        assert precision == "fp32" or difference.max() > 1e-6
    assert sizes["int8"] < sizes["fp16"] < sizes["fp32"]
    facts = metadata(data)
    assert facts["frame"] == "ffhq" and facts["anchors"] == [10, 20, 30, 40, 50, 60]


@pytest.mark.parametrize("correction", [{"most_shade": 0.01}, {"head_alone": True}, {"smooth_eyes": True}])
def test_weights_say_how_their_results_are_corrected(correction: dict[str, Any], tmp_path: Path) -> None:
    plain, corrected = (head_weights(tmp_path / f"{len(one)}.safetensors", **one) for one in ({}, correction))
    results = [at_ten_ages(Ager.load(weights))[2] for weights in (plain, corrected)]
    assert np.abs(results[0] - results[1]).max() > 0.01


def test_two_steps_are_in_the_graph(tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason=REASON)
    onnxruntime = pytest.importorskip("onnxruntime", reason=REASON)
    ager = Ager.load(head_weights(tmp_path / "heads.safetensors", two_steps=True))
    x, age, expected = at_ten_ages(ager)
    (aged,) = onnxruntime.InferenceSession(graph(ager)).run(["aged"], {"picture": x.numpy(), "age": age.numpy()})
    assert np.abs(aged - expected).max() < 1e-4
    in_one_step = at_ten_ages(Ager.load(head_weights(tmp_path / "one.safetensors")))[2]
    changed = np.abs(expected - in_one_step).max(axis=(1, 2, 3)) > 0.01
    assert changed.tolist() == [years < 30 for years in np.linspace(8, 68, 10)]


def test_weights_alone_are_stored_smaller(heads_onnx: bytes) -> None:
    """A grid of coordinates in int8 would move pixels."""
    onnx = pytest.importorskip("onnx", reason=REASON)
    large = {one.name: one for one in onnx.load_model_from_string(heads_onnx).graph.initializer if len(one.dims) > 1}
    grids = {name for name, one in large.items() if not name.endswith("weight") and math.prod(one.dims) >= 4096}
    assert grids and len(grids) < len(large)
    for precision in ("fp16", "int8"):
        smaller = onnx.load_model_from_string(stored_as(heads_onnx, precision))
        after = {one.name: one for one in smaller.graph.initializer}
        assert [name for name in grids if after[name] != large[name]] == []
        assert "generator.blocks.0.conv1.weight" in large.keys() - after.keys()


def test_programs_of_torch_export_give_the_same(heads: Path, tmp_path: Path) -> None:
    file = tmp_path / "heads.pt2"
    assert export_command.main(["--weights", str(heads), "--output", str(file)]) == 0
    x, age, expected = at_ten_ages(Ager.load(heads))
    module = torch.export.load(file).module()
    with torch.inference_mode():
        assert np.abs(module(x, age).numpy() - expected).max() < 1e-4
        assert module(x[:1], age[:1]).shape == x[:1].shape
    with pytest.raises(UserError, match=r"^--precision fp16: must be fp16 or int8 with"):
        ExportConfig(output=file, precision="fp16")


def web_runtime() -> Path:
    """The npm package onnxruntime-web; skips where there is none."""
    folder = Path(os.environ.get("ONNXRUNTIME_WEB", PROJECT / "node_modules" / "onnxruntime-web"))
    if not folder.is_dir():
        pytest.skip("no onnxruntime-web; npm install onnxruntime-web, or set ONNXRUNTIME_WEB to its folder")
    return folder


def test_the_page_ages_faces_in_a_browser(heads: Path, heads_onnx: bytes, tmp_path: Path) -> None:
    """From a file, without a request to anywhere: as PyTorch at ten ages; what it saves says what it is."""
    from visdom_tools import chromium

    ager, file = Ager.load(heads), tmp_path / "age.html"
    file.write_bytes(page(heads_onnx, metadata(heads_onnx), ager.mark, check_runtime(web_runtime())))
    face = demo_portrait(ager.frame)
    photo = Image.new("RGB", (400, 300), (90, 90, 90))
    photo.paste(face.rotate(30, Image.Resampling.BICUBIC), (50, 20))
    photo.save(tmp_path / "photo.png")
    x, _, expected = at_ten_ages(ager)

    with chromium() as tab:
        wrong: list[str] = []
        tab.set_default_timeout(600_000)
        tab.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        tab.on("request", lambda asked: None if asked.url.startswith(("file:", "blob:")) else wrong.append(asked.url))
        inside = tab.context.new_cdp_session(tab)

        def value(expression: str) -> np.ndarray:
            asked = {"expression": expression, "awaitPromise": True, "returnByValue": True}
            return np.array(inside.send("Runtime.evaluate", asked)["result"]["value"])

        def pixels(name: str) -> np.ndarray:
            data = value(f"Array.from(at('{name}').getContext('2d').getImageData(0, 0, S, S).data)")
            return data.reshape(64, 64, 4)[..., :3]

        tab.goto(file.as_uri())
        tab.wait_for_selector("#save:enabled")
        by_hand = pixels("given")
        for k, years in enumerate(np.linspace(8, 68, 10).tolist()):
            made = value(f"run(Float32Array.from({x[k].flatten().tolist()}), {years}).then(y => Array.from(y))")
            assert np.abs(made - expected[k].flatten()).max() < 1e-4
        tab.set_input_files("#file", tmp_path / "photo.png")
        for x_eye, y_eye in ager.frame.points[:2]:
            turned = 256 * complex(x_eye - 0.5, y_eye - 0.5) * cmath.exp(-1j * math.pi / 6) + complex(178, 148)
            tab.click("#photo", position={"x": turned.real, "y": turned.imag})
        tab.press("#age", "ArrowLeft")
        tab.wait_for_selector("#aged[data-years='59']")
        by_eyes, aged = pixels("given"), pixels("aged")
        with tab.expect_download() as saving:
            tab.click("#save")
        saving.value.save_as(tmp_path / "saved.png")
        assert wrong == []
    middle = slice(16, 48)
    by_hand, found = by_hand[middle, middle], by_eyes[middle, middle]
    assert np.abs(by_hand - found).mean() < 6 < np.abs(by_hand[:, ::-1] - found).mean()
    (again,) = ager.age_many(by_eyes.astype(np.uint8)[None], [59])
    assert np.abs(again - aged).max() <= 1
    data = (tmp_path / "saved.png").read_bytes()
    assert b"compositeWithTrainedAlgorithmicMedia" in data and b"age 59" in data
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), aged)


def test_pages_need_their_runtime_and_ages(heads: Path, heads_onnx: bytes, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--web_runtime .*: no onnxruntime-web; run npm install onnxruntime-web, or"):
        export(ExportConfig(weights=str(heads), output=tmp_path / "a.html", web_runtime=tmp_path))
    for name in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"):
        (tmp_path / name).write_bytes(b"</script>")
    facts, mark = metadata(heads_onnx), Mark("<b>")
    text = page(heads_onnx, facts, mark, check_runtime(tmp_path)).decode()
    assert text.count("</script>") == 4 and "<b>" not in text and "Weights: &lt;b&gt;." in text
    assert not re.search("@[A-Z]+@", text.replace("@AGE@", ""))
    with pytest.raises(UserError, match=r"^--output: must be an .onnx file for weights without ages"):
        page(heads_onnx, {"image_size": 64}, mark, tmp_path)


def test_weights_that_take_no_pictures_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    train = TrainConfig(model="gan", image_size=32, load_size=32, ages=(10, 20))
    net = GANConfig(z=4, g_channels=(4, 4, 4), d_channels=(4, 4, 4))
    generator = gan.build_generator(train, net)
    path = tmp_path / "gan.safetensors"
    save_weights(path, train, net, 0, {f"generator.{k}": v for k, v in generator.state_dict().items()})
    with pytest.raises(UserError, match=r"^--weights .*gan\.safetensors: no image-to-image network; expected"):
        export(ExportConfig(weights=str(path), output=tmp_path / "a.onnx"))


def test_a_graph_has_no_padding_that_onnxruntime_fuses_into_a_pool(heads_onnx: bytes) -> None:
    """Versions up to 1.23 then average the last rows and columns wrongly."""
    import onnx

    nodes = onnx.load_model_from_string(heads_onnx).graph.node
    assert "GridSample" in {node.op_type for node in nodes}  # it warps
    pools = [node for node in nodes if node.op_type == "AveragePool"]
    assert "Pad" not in {node.op_type for node in nodes}
    assert not any(any(a.ints) for node in pools for a in node.attribute if a.name == "pads")


def test_missing_packages_and_wrong_names_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert export_command.main(["--output", str(tmp_path / "age.onnx")]) == 2
    assert capsys.readouterr().err.startswith("onnx: not installed; run python -m pip install -r requirements-exp")
    assert export_command.main(["--output", "age.pt"]) == 2
    assert (
        capsys.readouterr().err
        == "--output age.pt: must be a file name that ends in .onnx, .html, .pt2, .safetensors\n"
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
    save_weights(source, train, CycleGANConfig(ngf=4), 5, tensors, {"correction": of_estimator})
    assert export_command.main(["--weights", str(source), "--output", str(file)]) == 0
    assert f"written: {file}" in capsys.readouterr().out
    with safe_open(source, framework="pt") as a, safe_open(file, framework="pt") as b:
        assert a.metadata() == b.metadata()
        kinds = {name: b.get_tensor(f"generator.{name}").dtype for name in ("large", "bias", "tiny", "huge", "steps")}
    assert kinds == {"large": torch.float16, "steps": torch.int64} | dict.fromkeys(
        ("bias", "tiny", "huge"), torch.float32
    )
    whole, half = load_weights(source), load_weights(file)
    assert (whole.train, whole.net, whole.images_seen, whole.parts) == (
        *(half.train, half.net, half.images_seen, half.parts),
    )
    for name, tensor in half.tensors.items():
        assert tensor.dtype == tensors[name].dtype
        assert torch.equal(tensor, tensors[name]) == (name != "generator.large")
        assert torch.allclose(tensor.float(), tensors[name].float(), rtol=1e-3, atol=1e-7)
    assert repacked(file, "fp16") == file.read_bytes()


@pytest.mark.parametrize(("precision", "size", "mean"), [("fp16", 0.6, 0.1), ("int8", 0.35, 3.0)])
def test_in_fewer_bits_a_generator_makes_the_same_pictures(
    tmp_path: Path, precision: str, size: float, mean: float
) -> None:
    large = CycleGANConfig(ngf=16, blocks=1)
    train = TrainConfig(image_size=32, load_size=32)
    torch.manual_seed(0)
    generator = cyclegan.build_generator(train, large)
    for p in generator.parameters():
        nn.init.normal_(p, 0, 0.1)
    source, file = tmp_path / "whole.safetensors", tmp_path / "small.safetensors"
    save_weights(source, train, large, 0, {f"generator.{k}": v for k, v in generator.state_dict().items()})
    assert export_command.main(["--weights", str(source), "--output", str(file), "--precision", precision]) == 0
    assert file.stat().st_size < size * source.stat().st_size
    faces = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    whole, small = (Ager.load(path).age_many(faces, [10, 20, 40, 60]).astype(int) for path in (source, file))
    assert np.abs(whole - small).mean() < mean
    assert np.abs(whole - faces).mean() > 5


def test_int8_has_a_scale_for_each_output_channel_and_keeps_what_it_would_spoil(tmp_path: Path) -> None:
    torch.manual_seed(0)
    channels = torch.randn(64, 8, 3, 3) * torch.logspace(-6, 6, 64).reshape(-1, 1, 1, 1)
    spiky = torch.randn(2, 4096)
    spiky[:, 0] = 1e3
    tensors = {"generator.channels": channels, "generator.spiky": spiky, "generator.bias": torch.randn(64)}
    source, file = tmp_path / "whole.safetensors", tmp_path / "small.safetensors"
    save_weights(source, TrainConfig(), CycleGANConfig(), 5, tensors)
    file.write_bytes(repacked(source, "int8"))
    with safe_open(file, framework="pt") as f:
        stored = {name: f.get_tensor(f"generator.{name}").dtype for name in ("channels", "spiky", "bias")}
    assert stored == {"channels": torch.int8, "spiky": torch.float16, "bias": torch.float32}
    loaded = load_weights(file).tensors
    assert loaded.keys() == tensors.keys()
    for row, expected in zip(loaded["generator.channels"], channels, strict=True):
        assert (row - expected).abs().max() <= expected.abs().max() / 127 / 2 * 1.001
    assert torch.equal(loaded["generator.bias"], tensors["generator.bias"])
    broken = load_file(file) | {"generator.channels#scale": torch.ones(5, 1, 1, 1)}
    with safe_open(file, framework="pt") as f:
        save_file(broken, file, f.metadata())
    with pytest.raises(UserError, match=r"^--weights .*not a readable safetensors file"):
        load_weights(file)


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.safetensors")), ids=lambda path: path.stem)
def test_shipped_weights_are_small(path: Path) -> None:
    with safe_open(path, framework="pt") as f:
        stored = [f.get_tensor(k) for k in f.keys()]  # noqa: SIM118 - not a dict
    few = sum(t.numel() for t in stored if t.dtype in (torch.float16, torch.int8))
    assert few > 0.9 * sum(t.numel() for t in stored)
    snapshot = load_weights(path)
    assert {t.dtype for t in snapshot.tensors.values()} <= {torch.float32, torch.int64}
    assert all(torch.isfinite(t).all() for t in snapshot.tensors.values())


def test_the_checkout_stays_small() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 46 * MIB
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True)
    if listed.returncode:
        pytest.skip("not a git work tree")
    files = [p for name in listed.stdout.decode().split("\0") if name and (p := PROJECT / name).is_file()]
    assert PROJECT / "pyproject.toml" in files
    assert sum(path.stat().st_size for path in files) < 48 * MIB
