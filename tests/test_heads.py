"""Whole heads: masks from a parser, blending by them, strengths of their parts, weights of FFHQ's frame."""

import io
import runpy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import binary_dilation
from skimage.data import astronaut
from torch import Tensor, nn

from cyclegan_age import runs, weight_files
from cyclegan_age.ages import AgeCode
from cyclegan_age.config import AgeEstimatorConfig, CycleGANConfig, InferConfig, TrainConfig, UserError
from cyclegan_age.faces.alignment import Place, crop, reframed
from cyclegan_age.faces.blending import Change, blend
from cyclegan_age.faces.detection import detector
from cyclegan_age.faces.frames import FRAMES, Frame
from cyclegan_age.faces.heads import GROWN, MARGIN, SIZE, HeadMask, Steady, with_strengths
from cyclegan_age.images import to_float
from cyclegan_age.inference import Ager, demo_portrait, photo_faces
from cyclegan_age.models import cyclegan, load_embedder, load_estimator
from cyclegan_age.models.age_estimator import build_estimator
from cyclegan_age.models.base import Renderer
from cyclegan_age.networks.adain import AdaINGenerator
from cyclegan_age.networks.parsers import PARTS

PROJECT = Path(__file__).resolve().parent.parent
PORTRAIT = Image.fromarray(astronaut())
FFHQ, NEAR = FRAMES["ffhq"], FRAMES["utkface"]
GREY = np.full((SIZE, SIZE, 3), 128, np.uint8)


def disc(x: float, y: float, r: float) -> np.ndarray:
    """A disc of a widened crop; x, y and r in pixels."""
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    return np.hypot(columns - x, rows - y) < r


def shares(**parts: np.ndarray) -> np.ndarray:
    """Shares (5, 320, 320) of a parser that is sure; later parts lie over earlier ones."""
    label = np.zeros((SIZE, SIZE), int)
    for name, where in parts.items():
        label[where] = PARTS.index(name)
    return np.eye(len(PARTS), dtype=np.float32)[label].transpose(2, 0, 1).copy()


def head(**more: np.ndarray) -> np.ndarray:
    """A head in the middle: hair around a face."""
    return shares(**{"hair": disc(160, 150, 90), "face": disc(160, 180, 60)} | more)


class Stub(nn.Module):
    """A parser that always sees the same head."""

    input_size = 128

    def probabilities(self, x: Tensor, size: int) -> Tensor:
        assert x.shape[2:] == (SIZE, SIZE) and size == SIZE
        return torch.from_numpy(head())[None].expand(len(x), -1, -1, -1)


class Redder(nn.Module):
    """Adds a fifth of the range to red, whatever the age."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Parameter(torch.tensor([0.4, 0.0, 0.0]).view(1, 3, 1, 1))

    def forward(self, x: Tensor, age: Tensor) -> Tensor:
        return x + self.step


@pytest.fixture(scope="module")
def ager() -> Ager:
    return Ager(Renderer(generator=Redder(), code=AgeCode((10, 60))), image_size=64, frame=FFHQ, parser=Stub())  # type: ignore[arg-type]


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tiny ones of FFHQ's frame, and a parser for them."""
    monkeypatch.setattr(photo_faces, "load_parser", lambda name, config: Stub())
    return tiny(tmp_path / "tiny.safetensors", "ffhq")


def tiny(path: Path, frame: str) -> Path:
    torch.manual_seed(0)
    train = TrainConfig(image_size=32, load_size=32, ages=(10, 40), frame=frame)
    net = CycleGANConfig(ngf=4, blocks=1, deform=0.05)
    generator = cyclegan.build_generator(train, net)
    for p in generator.parameters():
        nn.init.normal_(p, 0, 0.1)
    weight_files.save_weights(path, train, net, 0, {f"generator.{k}": v for k, v in generator.state_dict().items()})
    return path


def mean_in(mask: np.ndarray, where: np.ndarray) -> float:
    return float(mask[where].mean())


# Masks


def test_a_mask_is_the_head_in_the_middle_and_nothing_beside_it() -> None:
    beside, hat = disc(290, 150, 25), disc(160, 60, 45)
    one = HeadMask.of(GREY, head(neck=disc(160, 255, 20), face=disc(160, 180, 60) | beside, other=hat))
    assert one.hair is not None
    assert one.mask[disc(160, 180, 50) | disc(160, 255, 8)].min() > 0.99  # face and neck
    assert one.mask[disc(90, 170, 8)].min() > 0.9 and one.hair[disc(90, 170, 8)].min() > 0.9
    assert one.hair[disc(160, 180, 50)].max() < 0.01
    assert one.mask[beside].max() == 0  # another head
    assert one.mask[disc(160, 60, 38)].max() < 0.02
    own = (disc(160, 150, 90) | disc(160, 255, 20)) & ~hat
    assert one.mask[~binary_dilation(own, disc(9.5, 9.5, GROWN + 1)[:19, :19])].max() == 0
    assert max(one.mask[0].max(), one.mask[-1].max(), one.mask[:, 0].max(), one.mask[:, -1].max()) == 0
    assert HeadMask.of(GREY, shares()).mask.max() == 0  # nobody


def test_beyond_the_crop_hair_resumes_and_a_neck_does_not() -> None:
    long, neck = np.zeros((2, SIZE, SIZE), bool)
    long[150:, 60:110], neck[220:, 130:190] = True, True
    mask = HeadMask.of(GREY, head(hair=disc(160, 150, 90) | long, neck=neck)).mask
    edge = round(SIZE * MARGIN / (1 + 2 * MARGIN))
    assert mask[-edge:, 140:180].max() < 0.02 and mask[-edge - 40 : -edge - 30, 140:180].min() > 0.95
    assert mask[-edge + 2 : -edge + 8, 75:95].min() > 0.3  # it fades towards the mask's own border alone
    assert (np.diff(mask[-edge - 30 :, 160]) <= 1e-6).all()  # without a step at the crop's border


def test_a_mask_ends_where_the_picture_has_an_edge() -> None:
    """A parser's edge is off by a few pixels; hair is darker than what is behind it."""
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    r = np.hypot(columns - 160, rows - 150)
    picture = np.where(r < 93, 30, 200).astype(np.uint8)[..., None].repeat(3, axis=2)
    mask = HeadMask.of(picture, head()).mask  # its edge is at 90
    assert mean_in(mask, (r > 89) & (r < 92)) > 0.6
    assert mean_in(mask, (r > 94) & (r < 96)) < 0.1
    flat = HeadMask.of(GREY, head()).mask
    assert mean_in(flat, (r > 94) & (r < 96)) > mean_in(mask, (r > 94) & (r < 96))


@pytest.mark.parametrize(("scale", "turn"), [(0.2, 0.4), (0.7, 0.0), (3.0, -0.3)])
def test_no_pixel_changes_beyond_the_grown_head(scale: float, turn: float) -> None:
    """8 px of the crop's 256, whatever the size in the photograph; the middle is changed in full."""
    side = 256 * scale
    photo = np.random.default_rng(0).integers(0, 200, (round(1.6 * side), round(1.6 * side), 3)).astype(np.uint8)
    place = Place(complex(0.25 * side, 0.25 * side), side * np.exp(1j * turn))
    change = Change(np.full((64, 64, 3), 40, np.float32), np.full((16, 16, 2), 0.02, np.float32))
    out = blend(photo, [(place, HeadMask.of(GREY, head()).restrict(change, {}))])
    y, x = np.mgrid[: len(photo), : len(photo)] + 0.5
    z = ((x + 1j * y - place.corner) / place.edge + MARGIN * (1 + 1j)) * 256  # in pixels of the widened crop
    r = abs(z - (160 + 150j))
    far = r > 90.7 + GROWN
    assert (out[far] == photo[far]).all()
    changed = (out != photo).any(axis=2)
    assert changed[r < 80].mean() > 0.99
    assert changed[(r > 92) & ~far].any()  # the edge is soft


def test_what_is_beyond_the_crop_is_changed_as_its_border() -> None:
    photo = np.full((200, 200, 3), 100, np.uint8)
    place = Place(50 + 50j, 100 + 0j)
    mask = np.zeros((125, 125), np.float32)
    mask[3:-3, 3:-3] = 1
    out = blend(photo, [(place, Change(np.full((20, 20, 3), 50, np.float32), mask=mask, margin=0.125))])
    assert (out[42:158, 42:158] == 150).all()
    assert (out[:37] == 100).all() and (out[:, 163:] == 100).all()


def test_beyond_the_crop_what_is_as_light_as_aged_hair_stays() -> None:
    """Dark hair turns grey, also above the crop; the wall between its strands does not turn white."""
    photo = np.full((200, 200, 3), 40, np.uint8)
    photo[36:50, ::2] = 180
    mask = np.zeros((125, 125), np.float32)
    mask[3:-3, 3:-3] = 1
    before = np.full((20, 20, 3), 40, np.float32)
    change = Change(np.full((20, 20, 3), 100, np.float32), mask=mask, margin=0.125, before=before)
    out = blend(photo, [(Place(50 + 50j, 100 + 0j), change)])
    assert (out[42:50, 61:140:2] == 140).all() and (out[42:50, 60:140:2] == 180).all()
    assert (out[60:140, 60:140] == 140).all()
    lighter = blend(photo, [(Place(50 + 50j, 100 + 0j), replace(change, colour=before / 20))])  # tells nothing
    assert (lighter[42:50, 60:140] == photo[42:50, 60:140] + 2).all()


def test_faces_that_are_not_chosen_are_kept() -> None:
    photo = np.full((100, 200, 3), 100, np.uint8)
    place, other = Place(20 + 10j, 80 + 0j), Place(70 + 10j, 80 + 0j)
    change = Change(np.full((8, 8, 3), 50, np.float32))
    alone, beside = blend(photo, [(place, change)]), blend(photo, [(place, change)], others=[other])
    assert (alone[50, 92] != 100).any() and (beside[50, 92] == 100).all()
    assert (beside[50, 40] == 150).all()


# Strengths of parts


def test_parts_are_changed_as_strongly_as_asked_for() -> None:
    one = HeadMask.of(GREY, head())
    change = Change(np.full((SIZE, SIZE, 3), 10, np.float32), np.full((4, 4, 2), 0.1, np.float32))
    assert one.restrict(change, {}).colour is change.colour
    done = one.restrict(change, {"hair": 0.5, "skin": 2, "shape": 0})
    assert done.mask is one.mask and done.margin == MARGIN and done.shift is not None
    edge = SIZE * MARGIN / (1 + 2 * MARGIN)
    y, x = np.mgrid[:SIZE, :SIZE] * (256 / SIZE) + edge  # where each pixel of the crop is in the widened one
    face, hair = np.hypot(x - 160, y - 180) < 50, (np.hypot(x - 160, y - 150) < 85) & (np.hypot(x - 160, y - 180) > 70)
    np.testing.assert_allclose(done.colour[face], 20, atol=0.1)
    np.testing.assert_allclose(done.colour[hair], 5, atol=0.5)
    assert (done.shift == 0).all()
    plain = with_strengths(change, {"skin": 0.5, "shape": 2})  # without a parser all colour is skin
    assert (plain.colour == 5).all() and plain.shift is not None
    np.testing.assert_allclose(plain.shift, 0.2)


def test_strengths_that_cannot_be_given(ager: Ager, tmp_path: Path) -> None:
    change = Change(np.zeros((4, 4, 3), np.float32))
    with pytest.raises(UserError, match=r"^--change hair: only weights with --frame ffhq distinguish hair"):
        with_strengths(change, {"hair": 1})
    with pytest.raises(UserError, match=r"^--change: these weights generate whole faces"):
        with_strengths(replace(change, replaces=True), {"shape": 1})
    with pytest.raises(UserError, match=r"^--change nose: must be a part, one of hair, skin, shape$"):
        ager.age_photo(PORTRAIT, 60, change={"nose": 1})
    with pytest.raises(UserError, match=r"^--change skin=3: must be from 0 to 2$"):
        ager.age_photo(PORTRAIT, 60, change={"skin": 3})
    assert InferConfig(input=tmp_path, change=("hair=.5", "shape=2")).strengths == {"hair": 0.5, "shape": 2}
    for words, said in (
        (("hair",), r"--change hair: must be a part and a number, such as hair=0.5"),
        (("beard=1",), r"--change beard: must be a part"),
        (("hair=nan",), r"--change hair=nan: must be from 0 to 2"),
    ):
        with pytest.raises(UserError, match=said):
            InferConfig(input=tmp_path, change=words)
    with pytest.raises(UserError, match=r"^--change hair=1: must be used with photographs"):
        InferConfig(change=("hair=1",))


# Photographs and videos


def test_a_photograph_is_changed_within_the_head_alone(ager: Ager) -> None:
    aged = np.asarray(ager.age_photo(PORTRAIT, 60)).astype(int)
    change = aged - np.asarray(PORTRAIT)
    (face,) = detector().find(np.asarray(PORTRAIT))
    place = face.place(FFHQ)
    y, x = np.mgrid[:512, :512] + 0.5
    z = ((x + 1j * y - place.corner) / place.edge + MARGIN * (1 + 1j)) * 256
    r = abs(z - (160 + 150j))
    assert (change[r > 90.7 + GROWN] == 0).all()
    assert np.median(change[r < 80][:, 0]) == pytest.approx(51, abs=2)
    less = np.asarray(ager.age_photo(PORTRAIT, 60, change={"hair": 0, "skin": 1})).astype(int) - np.asarray(PORTRAIT)
    assert (less[(r < 80) & (abs(z - (160 + 180j)) > 70)] == 0).mean() > 0.99
    face = abs(z - (160 + 180j)) < 50
    assert (less[face] == change[face]).mean() > 0.99


def test_the_shipped_parser_finds_the_head_of_the_portrait() -> None:
    one = Ager(Renderer(generator=Redder(), code=AgeCode((10, 60))), image_size=64, frame=FFHQ)
    photo = np.asarray(PORTRAIT)
    (face,) = detector().find(photo)
    (found,) = one.photo_faces.heads(photo, [face.place(FFHQ)])
    assert found and found.hair is not None
    aged = blend(photo, [(face.place(FFHQ), found.restrict(Change(np.full((8, 8, 3), 30, np.float32)), {}))])
    changed = (aged != photo).any(axis=2)
    assert changed[30:60, 210:270].mean() > 0.99 and changed[90:150, 200:250].mean() > 0.97  # hair, face
    assert not changed[:, :130].any() and not changed[230:].any()  # flag, suit
    left, top, side = (round(v * SIZE / (1 + 2 * MARGIN)) for v in (0.5 + MARGIN, 0.15 + MARGIN, 0.05))
    assert found.hair[top : top + side, left : left + side].min() > 0.9


def test_crops_of_heads_are_mirrored_beyond_the_photograph() -> None:
    photo = np.asarray(PORTRAIT)
    mirrored = np.pad(photo, ((60, 0), (0, 0), (0, 0)), mode="symmetric")
    there = crop(mirrored, Place(100 + 0j, 256 + 0j), 64)
    here = crop(photo, Place(100 - 60j, 256 + 0j, mirrored=True), 64)
    assert abs(here.astype(int) - there)[1:].max() <= 3
    assert Place.fit(300 * FFHQ.template, FFHQ).mirrored and not Place.fit(300 * NEAR.template, NEAR).mirrored


def test_one_frame_is_cut_out_of_another() -> None:
    head_crop, near = np.asarray(demo_portrait(FFHQ)), np.asarray(demo_portrait())
    cut = reframed(head_crop, FFHQ, NEAR, 256)
    middle = slice(64, 192)
    assert abs(cut.astype(int) - near)[middle, middle].mean() < 6  # the same, but for the resolution
    assert reframed(near, NEAR, NEAR) is near
    assert reframed(near, NEAR, FFHQ).shape[0] == pytest.approx(256 * 1.55, abs=2)


def test_any_other_frame_blends_by_the_ellipse_of_the_face() -> None:
    frame = Frame(tuple((0.5 + (x - 0.5) / 2, 0.5 + (y - 0.5) / 2) for x, y in NEAR.points))  # faces half as large
    one = Ager(Renderer(generator=Redder(), code=AgeCode((10, 60))), image_size=64, frame=frame)
    near = Ager(Renderer(generator=Redder(), code=AgeCode((10, 60))), image_size=64)
    a, b = (np.asarray(each.age_photo(PORTRAIT, 60)).astype(int) - np.asarray(PORTRAIT) for each in (one, near))
    assert abs(a - b).max() <= 6 and b.max() > 45


def test_masks_of_a_video_are_steady() -> None:
    rng = np.random.default_rng(0)
    found = [HeadMask.of(GREY, shares(face=disc(160, 160, 80 + rng.normal(0, 3)))) for _ in range(12)]
    steady = Steady(iter([{} if i == 5 else {7: one} for i, one in enumerate(found)]), 3)
    got = [steady.at(i) for i in range(12)]
    assert got[5] == {} and steady.at(12) == {}
    masks = [one[7].mask for one in got if one]
    raw = [one.mask for i, one in enumerate(found) if i != 5]

    def flicker(these: list[np.ndarray]) -> float:
        return float(np.mean([abs(a - b).mean() for a, b in pairwise(these)]))

    assert flicker(masks) < 0.5 * flicker(raw)
    # By hand: the first frame counts four times, the next ones thrice, twice and once.
    np.testing.assert_allclose(masks[0], np.tensordot([0.4, 0.3, 0.2, 0.1], np.stack(raw[:4]), 1), atol=1e-5)


def test_photographs_and_videos_by_weights_of_heads(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    PORTRAIT.save(tmp_path / "in" / "me.png")
    with av.open(str(tmp_path / "in" / "clip.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=12, options={"crf": "4"})
        stream.width = stream.height = 256
        stream.pix_fmt = "yuv420p"
        for i in range(4):
            frame = av.VideoFrame.from_image(PORTRAIT.crop((80 + i, 0, 336 + i, 256)))
            frame.pts = i
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    main = runpy.run_path(str(PROJECT / "test.py"))["main"]
    place = ["--weights", str(weights), "--results_dir", str(tmp_path / "out"), "--target_age", "40"]
    again = ["--change", "hair=0", "skin=0", "shape=0"]
    assert main([*place, "--input", str(tmp_path / "in"), "--name", "a"]) == 0
    assert main([*place, "--input", str(tmp_path / "in" / "me.png"), "--name", "b", *again]) == 0
    before = np.asarray(PORTRAIT)
    aged, same = (np.asarray(Image.open(tmp_path / "out" / run / "me_age40.png")) for run in "ab")
    assert (aged != before).any() and (aged[300:] == before[300:]).all()
    assert (same == before).all()
    assert (tmp_path / "out" / "a" / "clip_age40.mp4").is_file()
    capsys.readouterr()
    near = tiny(tmp_path / "near.safetensors", "utkface")
    for more, said in (
        (
            ["--weights", str(near), "--change", "hair=0.5"],
            "--change hair: only weights with --frame ffhq distinguish hair",
        ),
        (["--change", "ears=1"], "--change ears: must be a part, one of hair, skin, shape"),
    ):
        assert main([*place, "--input", str(tmp_path / "in"), *more]) == 2
        assert said in capsys.readouterr().err


def test_a_parser_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "SHIPPED", tmp_path)
    one = Ager.load(tiny(tmp_path / "tiny.safetensors", "ffhq"))
    assert one.frame == FFHQ
    with pytest.raises(UserError, match=r"^--parser face_parser: .*train one by --model face_parser"):
        one.age_photo(PORTRAIT, 40)
    assert one.age(demo_portrait(FFHQ), 40).size == (256, 256)  # needs none


def test_the_page_has_each_face_in_the_frame_of_each_model(ager: Ager) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed: requirements-web.txt")
    from cyclegan_age.config import DemoConfig
    from cyclegan_age.web.files import png
    from cyclegan_age.web.work import Studio

    near = Ager(Renderer(generator=Redder(), code=AgeCode((10, 60))), image_size=64)
    studio = Studio({"heads": ager, "faces": near}, DemoConfig())
    seen = studio.look(png(PORTRAIT))
    (face,) = seen.faces
    (found,) = detector().find(np.asarray(PORTRAIT))
    for frame, size in ((FFHQ, found.place(FFHQ).side), (NEAR, found.place(NEAR).side)):
        assert face[frame].width == round(size)
    # What is given as a crop already is one of the model that was chosen.
    (given,) = studio.look(png(demo_portrait(FFHQ)), True, "heads").faces
    assert given[FFHQ].size == (256, 256) and given[NEAR].width == pytest.approx(256 / 1.55, abs=2)
    assert studio.face(png(PORTRAIT), model="heads")[0].width > studio.face(png(PORTRAIT), model="faces")[0].width
    aged, kind, _ = studio.age(png(PORTRAIT), 60, model="heads")
    assert kind == "image/png"
    assert (np.asarray(Image.open(io.BytesIO(aged))) == np.asarray(ager.age_photo(PORTRAIT, 60))).all()


# Networks of another frame


def test_networks_of_tight_faces_look_at_their_part_of_a_head() -> None:
    config, x = TrainConfig(), to_float(np.asarray(demo_portrait(FFHQ))[None])
    for load in (load_estimator, load_embedder):
        name = "age_loss_a" if load is load_estimator else "face_embedder"
        own, of_heads = load(name, config).eval(), load(name, config, "ffhq").eval()
        with torch.inference_mode():
            part = own(x[:, :, 71:236, 47:212])
            torch.testing.assert_close(of_heads(x), part, atol=1e-4, rtol=1e-4)
            assert not torch.allclose(own(x), part, atol=1e-2)


def test_networks_of_heads_cannot_look_at_tight_faces(tmp_path: Path) -> None:
    net = AgeEstimatorConfig(width=4, depth=(1,), input_size=32)
    tensors = {f"estimator.{k}": v for k, v in build_estimator(net).state_dict().items()}
    file = tmp_path / "own.safetensors"
    weight_files.save_weights(file, TrainConfig(model="age_estimator", frame="ffhq"), net, 0, tensors)
    assert load_estimator(str(file), TrainConfig(), "ffhq").window == ()
    with pytest.raises(UserError, match=r"^--estimators .*: looks at more \(ffhq\) than the frame utkface shows"):
        load_estimator(str(file), TrainConfig(), "utkface")
    with pytest.raises(UserError, match=r"^--window 0.5 0.5 0.6: must be left, top and side"):
        AgeEstimatorConfig(window=(0.5, 0.5, 0.6))


def test_every_generator_that_bends_is_asked_how() -> None:
    generator = AdaINGenerator(ages=2, ngf=4, blocks=2, detail=0)
    nn.init.constant_(generator.bend.bias, 0.5)
    one = Ager(Renderer(generator=generator, code=AgeCode((10, 60))), image_size=32, frame=FFHQ)
    (change,) = one.engine.changes(np.asarray(PORTRAIT.resize((32, 32)))[None], [60])
    assert change.shift is not None
    inner = change.shift[3:-3, 3:-3] if len(change.shift) > 6 else change.shift[2:-2, 2:-2]
    np.testing.assert_allclose(inner, 0.06 * np.tanh(0.5), atol=1e-5)
    assert abs(change.colour).max() < 1e-3  # the colours are those of the bent picture
