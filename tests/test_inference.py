"""The facade: sizes, modes, batches, weights and errors, on tiny generators."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save
from scipy.ndimage import gaussian_filter, map_coordinates
from skimage.transform import resize
from torch import nn

from cyclegan_age.ages import AgeCode
from cyclegan_age.config import AgeEstimatorConfig, CycleGANConfig, CycleGANPairConfig, TrainConfig, UserError
from cyclegan_age.images import Picture, to_float, to_uint8
from cyclegan_age.inference import Ager, Letterboxed, demo_portrait
from cyclegan_age.models import cyclegan, cyclegan_pair
from cyclegan_age.models.base import Renderer
from cyclegan_age.networks.generators import ResnetGenerator
from cyclegan_age.runs import SHIPPED
from cyclegan_age.weight_files import save_weights

TRAIN = TrainConfig(image_size=32, load_size=32, ages=(10, 20, 40))
NET = CycleGANConfig(ngf=4, blocks=3)


@pytest.fixture(scope="module")
def generator() -> nn.Module:
    torch.manual_seed(0)
    generator = cyclegan.build_generator(TRAIN, NET)
    for p in generator.parameters():
        nn.init.normal_(p, 0, 0.1)
    return generator


@pytest.fixture(scope="module")
def weights(generator: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(path, TRAIN, NET, 0, {f"generator.{k}": v for k, v in generator.state_dict().items()})
    return path


@pytest.fixture(scope="module")
def ager(weights: Path) -> Ager:
    return Ager.load(weights)


def noise(*shape: int) -> Picture:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


class Brighter(nn.Module):
    """Adds a tenth of the range to the whole picture, whatever the age."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Parameter(torch.tensor(0.2))

    def forward(self, x: torch.Tensor, age: torch.Tensor) -> torch.Tensor:
        return (x + self.step).clamp(-1, 1)


def test_loaded_weights_render_what_the_generator_does(ager: Ager, generator: nn.Module) -> None:
    picture = noise(32, 32, 3)
    generator.eval()
    with torch.no_grad():
        plain = to_uint8(generator(to_float(picture), AgeCode((10, 20, 40)).encode([27])))[0]
    threads = torch.get_num_threads()
    aged = np.asarray(ager.age(Image.fromarray(picture), 27))
    assert abs(aged.astype(int) - plain).max() <= 1
    assert abs(aged.astype(int) - picture).max() > 3
    assert (ager.image_size, ager.code) == (32, AgeCode((10, 20, 40)))
    assert torch.get_num_threads() == threads
    assert not ager.generator.training


@pytest.mark.parametrize("size", [(16, 16), (4, 4), (7, 5), (40, 40), (33, 90), (300, 4), (16, 9)])
def test_the_output_has_the_size_of_the_input(ager: Ager, size: tuple[int, int]) -> None:
    image = Image.fromarray(noise(size[1], size[0], 3))
    for out in (ager.age(image, 40), ager.life(image, frames_per_decade=1)[0]):
        assert (out.size, out.mode) == (size, "RGB")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "I;16"])
def test_every_mode_is_taken(ager: Ager, mode: str) -> None:
    grey = Image.fromarray(noise(20, 20))
    image = grey.convert(mode) if mode != "LAB" else Image.new("LAB", (20, 20), (120, 130, 140))
    assert ager.age(image, 20).mode == "RGB"
    assert image.mode == mode


def test_detail_of_large_pictures_is_kept() -> None:
    ager = Ager(Renderer(generator=Brighter(), code=AgeCode((10, 20))), image_size=16)
    fine = np.indices((96, 64)).sum(axis=0) % 2 * 100 + 50  # a checkerboard that 16 pixels cannot hold
    image = Image.fromarray(np.repeat(fine[..., None], 3, axis=2).astype(np.uint8))
    change = np.asarray(ager.age(image, 10)).astype(int) - np.asarray(image)
    assert abs(change - 25.5).max() <= 1.5


def test_a_large_picture_is_bent_itself() -> None:
    generator = ResnetGenerator(ages=2, ngf=4, blocks=1, residual=True, deform=0.25)
    with torch.no_grad():
        for weight in (*generator.head.parameters(), *generator.bend.parameters()):
            weight.zero_()
        generator.bend.get_parameter("conv.bias")[0] = 20.0  # a quarter of the side to the right
    picture = noise(128, 128, 3)
    ager = Ager(Renderer(generator=generator, code=AgeCode((10, 20))), image_size=32)
    aged = np.asarray(ager.age(Image.fromarray(picture), 10))
    inner = slice(57, 71)  # away from the edges, where the field's average sees zeros
    assert abs(aged[inner, inner].astype(int) - picture[inner, 89:103]).max() <= 1


def test_the_fit_keeps_proportions_and_undoes_itself() -> None:
    image = Image.fromarray(noise(8, 16, 3))
    boxed = Letterboxed.of(image, 16)
    assert boxed.box == (0, 4, 16, 12)
    assert np.array_equal(boxed.square[4:12], np.asarray(image))
    assert (boxed.square[:4] == boxed.square[4]).all()  # the edge repeated
    assert np.array_equal(np.asarray(boxed.restore(boxed.square, image)), np.asarray(image))
    large = Image.fromarray(noise(50, 99, 3))
    boxed = Letterboxed.of(large, 16)
    assert np.array_equal(np.asarray(boxed.restore(boxed.square, large)), np.asarray(large))


def test_a_batch_equals_single_pictures(ager: Ager) -> None:
    pictures, years = noise(7, 32, 32, 3), [10, 12.5, 20, 33, 40, 5, 99]
    many = ager.age_many(pictures, years, batch_size=3)
    assert (many.shape, many.dtype) == ((7, 32, 32, 3), np.uint8)
    for picture, age, out in zip(pictures, years, many, strict=True):
        single = np.asarray(ager.age(Image.fromarray(picture), age))
        assert abs(single.astype(int) - out).max() <= 1
    young, old = ager.age_many(pictures[:1].repeat(2, axis=0), [10, 40])
    assert abs(young.astype(int) - old).max() > 3
    assert ager.age_many(noise(0, 32, 32, 3), []).shape == (0, 32, 32, 3)


@pytest.mark.parametrize("years", [math.nan, math.inf, -math.inf])
def test_years_are_finite(ager: Ager, years: float) -> None:
    with pytest.raises(ValueError, match="must be from 0 to 120"):
        ager.age(Image.new("RGB", (16, 16)), years)


def test_wrong_arrays_are_refused(ager: Ager) -> None:
    for pictures, years in ((noise(1, 8, 8, 3), [10]), (noise(2, 32, 32, 3), [10]), (np.zeros((1, 32, 32, 3)), [10])):
        with pytest.raises(ValueError, match="pictures"):
            ager.age_many(pictures, years)  # type: ignore[arg-type]


def test_life_goes_from_the_first_to_the_last_anchor(ager: Ager) -> None:
    image = Image.fromarray(noise(32, 32, 3))
    frames = ager.life(image, frames_per_decade=2)
    assert len(frames) == 2 + 4 + 1
    for index, years in ((0, 10), (2, 20), (6, 40)):
        plain = np.asarray(ager.age(image, years)).astype(int)
        assert abs(plain - np.asarray(frames[index])).max() <= 1
    with pytest.raises(UserError, match="nowhere"):
        ager.life(image, layer="nowhere")


def test_features_are_those_of_each_age(ager: Ager) -> None:
    maps = ager.features(noise(32, 32, 3), [10, 20, 40], ["stem", "blocks.1"])
    assert {k: tuple(v.shape) for k, v in maps.items()} == {"stem": (3, 4, 32, 32), "blocks.1": (3, 16, 8, 8)}
    assert not torch.equal(maps["stem"][0], maps["stem"][2])
    assert ager.layers()[:2] == ["stem", "down1"]


def test_a_pair_renders_its_two_ages(tmp_path: Path) -> None:
    for a, b, anchors, first in (
        ("20-29", "50s", (25, 55), "generator_ba"),
        ("50s", "20-29", (25, 55), "generator_ab"),
    ):
        net = CycleGANPairConfig(ngf=4, blocks=1, group_a=a, group_b=b)
        networks = {name: cyclegan_pair.build_generator(TRAIN, net) for name in ("generator_ab", "generator_ba")}
        for network in networks.values():
            for p in network.parameters():
                nn.init.normal_(p, 0, 0.1)
        tensors = {f"{n}.{k}": v for n, network in networks.items() for k, v in network.state_dict().items()}
        train = replace(TRAIN, model="cyclegan_pair")
        save_weights(tmp_path / "pair.safetensors", train, net, 0, tensors)
        ager = Ager.load(tmp_path / "pair.safetensors")
        assert ager.code.anchors == anchors
        picture = noise(1, 32, 32, 3)
        with torch.no_grad():
            plain = to_uint8(networks[first].eval()(to_float(picture)))
        assert abs(ager.age_many(picture, [25]).astype(int) - plain).max() <= 1


def test_unusable_weights_are_told(tmp_path: Path, generator: nn.Module) -> None:
    with pytest.raises(UserError, match="neither a file nor a run"):
        Ager.load(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("not weights at all")
    with pytest.raises(UserError, match=r"text\.safetensors.*not a readable"):
        Ager.load(tmp_path / "text.safetensors")
    tensors = {f"generator.{k}": v for k, v in generator.state_dict().items()}
    save_weights(tmp_path / "other.safetensors", TRAIN, CycleGANConfig(ngf=8, blocks=3), 0, tensors)
    with pytest.raises(UserError, match="do not fit"):
        Ager.load(tmp_path / "other.safetensors")
    train = TrainConfig(model="age_estimator", image_size=32, load_size=32)
    save_weights(tmp_path / "est.safetensors", train, AgeEstimatorConfig(), 0, tensors)
    with pytest.raises(UserError, match="age_estimator"):
        Ager.load(tmp_path / "est.safetensors")


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("train", "ages", None),
        ("train", "image_size", [1]),
        ("train", "model", {}),
        ("net", "blocks", 10**12),
        ("net", "ngf", "x"),
        ("net", "blocks", None),
    ],
)
def test_a_broken_configuration_is_told(weights: Path, tmp_path: Path, part: str, name: str, value: object) -> None:
    with safe_open(weights, framework="pt") as f:
        ((key, text),) = f.metadata().items()
        tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 - not a dict
    plain = json.loads(text)
    plain[part][name] = value
    (tmp_path / "broken.safetensors").write_bytes(save(tensors, {key: json.dumps(plain)}))
    cause = r"(do not fit their own configuration|a setting is not as train\.py wrote it \(.*\)); "
    with pytest.raises(UserError, match=rf"^--weights .*broken\.safetensors: {cause}"):
        Ager.load(tmp_path / "broken.safetensors")


def test_the_portrait_is_a_face_in_the_training_frame() -> None:
    portrait = demo_portrait()
    assert (portrait.size, portrait.mode) == ((256, 256), "RGB")
    dark = 255 - np.asarray(portrait.convert("L")).astype(float)
    for x, y in ((0.30, 0.29), (0.68, 0.32)):  # the irises are the darkest of their surroundings
        patch = dark[int(y * 256) - 16 : int(y * 256) + 16, int(x * 256) - 22 : int(x * 256) + 22]
        rows, columns = np.nonzero(patch > np.quantile(patch, 0.94))
        assert abs(rows.mean() - 16) < 6
        assert abs(columns.mean() - 22) < 6


@pytest.mark.parametrize("blur", [0, 1])  # of the grain: none, and as a lens gives it
def test_a_face_of_1000_pixels_keeps_its_detail(blur: int) -> None:
    big = np.asarray(demo_portrait().resize((1000, 1000), Image.Resampling.BICUBIC), np.float32)
    grain = gaussian_filter(np.random.default_rng(0).normal(0, 1, (1000, 1000, 1)), (blur, blur, 0))
    face = Image.fromarray((big + 12 * grain / grain.std()).clip(0, 255).astype(np.uint8))

    def finest(grey: np.ndarray) -> np.ndarray:
        return (grey[1:-1, 1:-1] - (grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]) / 4)[
            250:800, 250:800
        ]

    ager = Ager.load(SHIPPED / "cyclegan.safetensors")  # it warps more than the other weights
    aged = ager.age(face, 60)
    grey, grey_aged = (np.asarray(one, np.float32).mean(axis=2) for one in (face, aged))
    (change,) = ager.engine.changes(ager.letterbox(face).square[None], [60])
    assert change.shift is not None
    right, down = 1000 * resize(change.shift, (1000, 1000), order=3, mode="edge").transpose(2, 0, 1)
    rows, columns = np.mgrid[:1000, :1000].astype(np.float32)
    bent = map_coordinates(grey, [rows + down, columns + right], order=5, mode="nearest")
    assert np.abs(right).max() > 1, "bent by more than a pixel"
    # White noise loses a sixth by any warp, a spline's too; the noise of a lens keeps its strength.
    assert 0.95 < finest(grey_aged).std() / finest(grey if blur else bent).std() < 1.05
    assert np.corrcoef(finest(bent).ravel(), finest(grey_aged).ravel())[0, 1] > 0.99, "bent, but not smoothed"
    assert np.abs(np.asarray(aged, np.float32) - np.asarray(face)).mean() > 1
