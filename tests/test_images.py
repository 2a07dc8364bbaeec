"""Files to pictures to tensors and back."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cyclegan_age.images import BadImage, grid, list_images, open_image, to_float, to_square, to_uint8


def encoded(picture: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def flat(mode: str, colour: Any) -> Image.Image:
    return Image.new(mode, (8, 6), colour)


PALETTE = flat("P", 0)
PALETTE.putpalette([255, 0, 0] * 256)


@pytest.mark.parametrize(
    ("data", "colour"),
    [
        (encoded(flat("RGB", (10, 200, 30)), "PNG"), (10, 200, 30)),
        (encoded(flat("CMYK", (0, 255, 255, 0)), "JPEG"), (255, 0, 0)),
        (encoded(flat("RGBA", (0, 0, 255, 0)), "PNG"), (255, 255, 255)),
        (encoded(flat("RGBA", (0, 0, 0, 51)), "PNG"), (204, 204, 204)),
        (encoded(flat("LA", (0, 0)), "PNG"), (255, 255, 255)),
        (encoded(flat("RGB", (0, 0, 0)), "PNG", transparency=(0, 0, 0)), (255, 255, 255)),
        (encoded(PALETTE, "PNG"), (255, 0, 0)),
        (encoded(PALETTE, "PNG", transparency=0), (255, 255, 255)),
        (encoded(PALETTE, "GIF", save_all=True, append_images=[flat("P", 1)]), (255, 0, 0)),
        (encoded(flat("L", 77), "PNG"), (77, 77, 77)),
        (encoded(flat("1", 1), "PNG"), (255, 255, 255)),
        (encoded(Image.fromarray(np.full((6, 8), 0x8080, np.uint16)), "PNG"), (128, 128, 128)),
        (encoded(Image.fromarray(np.full((6, 8), 0x8080, np.int32)), "TIFF"), (128, 128, 128)),
        (encoded(Image.fromarray(np.full((6, 8), 0.2, np.float32)), "TIFF"), (51, 51, 51)),
    ],
)
def test_every_mode_becomes_rgb(data: bytes, colour: tuple[int, int, int]) -> None:
    picture = open_image(data)
    assert (picture.mode, picture.size) == ("RGB", (8, 6))
    assert np.abs(np.array(picture.getpixel((3, 3))) - colour).max() <= 2  # JPEG


def test_exif_rotation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the picture's top is at its right
    left_red = Image.new("RGB", (16, 8), "blue")
    left_red.paste("red", (0, 0, 8, 8))
    picture = open_image(encoded(left_red, "JPEG", exif=exif, quality=95, subsampling=0))
    assert picture.size == (8, 16)
    top, bottom = picture.getpixel((4, 3)), picture.getpixel((4, 12))
    assert top[0] > 200 > 50 > top[2] and bottom[2] > 200 > 50 > bottom[0]


def test_broken_exif_does_not_cost_the_picture() -> None:
    assert open_image(encoded(flat("RGB", "red"), "JPEG", exif=b"Exif\0\0garbage")).size == (8, 6)


JPEG = encoded(Image.effect_noise((64, 64), 50).convert("RGB"), "JPEG")


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "empty file"),
        (b"hello\n", "not a picture"),
        (JPEG[: len(JPEG) // 2], "broken picture: .*truncated"),
        (encoded(Image.effect_noise((64, 64), 50), "PNG")[:900], "broken picture"),
        (encoded(Image.new("1", (12_000, 11_000)), "PNG"), "12000x11000 pixels, more than 120,000,000; scale it"),
        (encoded(Image.new("1", (20_000, 10_000)), "PNG"), "more than 120,000,000 pixels; scale it down"),
        (encoded(Image.new("1", (40_000, 64)), "PNG"), "40000x64 pixels, a side of more than 32,766; crop it"),
    ],
    ids=["empty", "text", "truncated jpeg", "truncated png", "large", "huge", "long"],
)
def test_bad_files_are_named(data: bytes, cause: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.jpg"
    file.write_bytes(data)
    for source in (data, file):
        with pytest.raises(BadImage, match=cause):
            open_image(source)


def test_a_missing_file_is_not_a_bad_picture(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_image(tmp_path / "none.jpg")


def test_to_square_takes_the_middle() -> None:
    wide = Image.new("RGB", (40, 20), "blue")
    wide.paste("red", (10, 0, 30, 20))
    picture = to_square(wide, 16)
    assert picture.shape == (16, 16, 3) and picture.dtype == np.uint8
    assert (picture[:, 1:-1] == [255, 0, 0]).all() and (picture[..., 0] > 220).all()
    assert to_square(Image.new("RGB", (1, 9999)), 16).shape == (16, 16, 3)


def test_list_images_is_sorted_and_leaves_hidden_ones_aside(tmp_path: Path) -> None:
    for name in ("b/2.JPG", "a.png", "b/1.webp", ".hidden.png", ".cache/c.png", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [p.relative_to(tmp_path).as_posix() for p in list_images(tmp_path)] == ["a.png", "b/1.webp", "b/2.JPG"]


def test_list_images_works_inside_a_hidden_folder(tmp_path: Path) -> None:
    (tmp_path / ".data").mkdir()
    (tmp_path / ".data" / "a.png").touch()
    assert len(list_images(tmp_path / ".data")) == 1


def test_values_survive_the_way_to_tensors_and_back() -> None:
    values = np.arange(256 * 3, dtype=np.uint8).reshape(1, 16, 16, 3)
    x = to_float(values)
    assert x.shape == (1, 3, 16, 16) and x.dtype == torch.float32
    assert x.min() == -1 and x.max() == 1
    assert (to_uint8(x) == values).all()
    assert torch.equal(to_float(values[0]), x)
    assert to_uint8(torch.tensor([-3.0, 0.0, 3.0]).view(1, 3, 1, 1)).ravel().tolist() == [0, 128, 255]


def test_a_decoded_picture_becomes_a_tensor() -> None:
    assert to_float(to_square(flat("RGB", "white"), 4)).eq(1).all()


def test_grid_places_pictures_and_names() -> None:
    red, blue = (to_square(flat("RGB", colour), 20) for colour in ("red", "blue"))
    sheet = grid([[red, blue], [blue]], gap=2)
    assert sheet.shape == (42, 42, 3)
    assert (sheet[:20, :20] == red).all() and (sheet[:20, 22:] == blue).all() and (sheet[22:, :20] == blue).all()
    assert (sheet[22:, 22:] == 255).all() and (sheet[:, 20:22] == 255).all()
    named = grid([[red, blue]], columns=["20", "30"], row_names=["me"])
    assert named.shape[0] > 20 and named.shape[1] > 42
    assert (named[-20:, -20:] == blue).all()
    assert named[:-20].min() < 128 and named[-20:, :-42].min() < 128  # something is written
