"""Sheets, animations and the page, read back."""

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from cyclegan_age.images import Picture
from cyclegan_age.inference import demo_portrait
from cyclegan_age.rendering.page import Section, gallery_page
from cyclegan_age.rendering.pictures import (
    difference_map,
    feature_grid,
    feature_strip,
    save_gif,
    save_jpg,
    save_mp4,
    save_png,
    strip,
)

DARK, YELLOW = (68, 1, 84), (253, 231, 37)  # ends of the scale


class Reader(HTMLParser):
    """Collects a page's tags, links and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.alts: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        self.alts += [value or "" for name, value in attrs if name == "alt"]

    def handle_data(self, data: str) -> None:
        self.text += data


def colours(picture: Picture) -> set[tuple[int, ...]]:
    return {tuple(int(v) for v in c) for c in picture.reshape(-1, 3)}


def test_each_channel_is_shown_on_its_own_range() -> None:
    ramp = torch.linspace(0, 1, 64).reshape(8, 8)
    one, same = feature_grid(ramp[None]), feature_grid(ramp[None] * 1000 - 7)
    assert np.array_equal(one, same)
    assert one.shape == (64, 64, 3)  # made large enough to be seen
    assert tuple(one[0, 0]) == DARK
    assert tuple(one[-1, -1]) == YELLOW
    luminance = (one[::8, ::8] @ np.array([0.3, 0.59, 0.11])).ravel()
    assert (np.diff(luminance) > 0).all()  # lighter is more, all along the scale


def test_a_sheet_shows_at_most_the_channels_asked_for() -> None:
    sheet = feature_grid(torch.rand(20, 64, 64), columns=4, most=10)
    assert sheet.shape == (3 * 66 - 2, 4 * 66 - 2, 3)
    assert feature_grid(torch.rand(2, 300, 200)).shape[0] <= 128  # large maps are brought down


@pytest.mark.parametrize("value", [0.0, 5.0, float("nan"), float("inf")])
def test_flat_and_broken_channels_are_drawn(value: float) -> None:
    assert colours(feature_grid(torch.full((1, 4, 4), value))) == {DARK}
    feature_grid(torch.tensor([[[0.0, value], [1.0, 2.0]]]))


def test_the_strip_has_one_scale_along_the_ages() -> None:
    calm, lively = torch.ones(8, 8), torch.linspace(0, 1, 64).reshape(8, 8)
    ages = [torch.stack([calm, lively * k]) for k in (0, 1, 2)]
    sheet = feature_strip(ages, ["10", "20", "30"], most=1)
    width = 64 + 2
    tiles = [sheet[-64:, sheet.shape[1] - (3 - i) * width + 2 :][:, :64] for i in range(3)]
    assert colours(tiles[0]) == {DARK}  # the channel that changes was chosen
    assert tuple(tiles[2][-1, -1]) == YELLOW
    assert tuple(tiles[1][-1, -1]) not in (DARK, YELLOW)  # half of the scale all ages share
    assert feature_strip(ages, ["10", "20", "30"]).shape[0] > sheet.shape[0]


def test_differences_are_signed() -> None:
    grey = np.full((4, 4, 3), 100, np.uint8)
    assert (difference_map(grey, grey).astype(int).std(axis=2) < 2).all()  # no colour where nothing changes
    lighter, darker = difference_map(grey, grey + 64), difference_map(grey, grey - 64)
    assert lighter[0, 0, 0] > lighter[0, 0, 2] + 100
    assert darker[0, 0, 2] > darker[0, 0, 0] + 100
    with pytest.raises(ValueError, match="no difference map"):
        difference_map(grey, grey[:2])


def test_strip_holds_every_picture() -> None:
    pictures = [np.full((32, 32, 3), v, np.uint8) for v in (10, 90, 170)]
    sheet = strip(pictures, ["input", "20", "30"])
    for i, picture in enumerate(pictures):
        left = sheet.shape[1] - (3 - i) * 34 + 2
        assert np.array_equal(sheet[-32:, left : left + 32], picture)


def frames(count: int, size: tuple[int, int]) -> list[Image.Image]:
    return [Image.new("RGB", size, (0, 255 - 8 * i, 8 * i)) for i in range(count)]


def test_gif_plays_every_frame(tmp_path: Path) -> None:
    save_gif(frames(13, (20, 15)), tmp_path / "a.gif", fps=10)
    with Image.open(tmp_path / "a.gif") as gif:
        assert (gif.n_frames, gif.size, gif.info["loop"]) == (13, (20, 15), 0)
        milliseconds = 0
        for i in range(gif.n_frames):
            gif.seek(i)
            milliseconds += gif.info["duration"]
            shown = np.asarray(gif.convert("RGB")).astype(int)
            assert abs(shown - (0, 255 - 8 * i, 8 * i)).max() < 24
    assert milliseconds == 1300


def test_gif_keeps_the_colours_of_small_things(tmp_path: Path) -> None:
    face = demo_portrait()
    save_gif([face], tmp_path / "a.gif")
    blur = ImageFilter.GaussianBlur(2)  # what dithering mixes
    with Image.open(tmp_path / "a.gif") as gif:
        shown, meant = (np.asarray(x.convert("RGB").filter(blur)).astype(int) for x in (gif, face))
    assert abs(shown - meant).max() < 20, "lips turn grey"


@pytest.mark.parametrize("size", [(32, 32), (33, 17)])
def test_mp4_plays_every_frame(tmp_path: Path, size: tuple[int, int]) -> None:
    save_mp4(frames(13, size), tmp_path / "a.mp4", fps=10)
    with av.open(str(tmp_path / "a.mp4")) as video:
        stream = video.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height) == (size[0] + size[0] % 2, size[1] + size[1] % 2)
        assert float(stream.duration * stream.time_base) == pytest.approx(1.3)
        read = [frame.to_ndarray(format="rgb24") for frame in video.decode(stream)]
    assert len(read) == 13
    assert abs(read[12][0, 0].astype(int) - (0, 159, 96)).max() < 16


def test_files_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    save_png(picture, tmp_path / "sub" / "a.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "sub" / "a.png")), picture)
    save_jpg(picture, tmp_path / "sub" / "b.jpg")
    with Image.open(tmp_path / "sub" / "b.jpg") as jpg:
        assert (jpg.format, jpg.size) == ("JPEG", (16, 16))
    before = (tmp_path / "sub" / "a.png").read_bytes()
    with pytest.raises(OSError, match="RGBA"):
        save_jpg(Image.new("RGBA", (4, 4)), tmp_path / "sub" / "a.png")  # an encoder that fails
    assert (tmp_path / "sub" / "a.png").read_bytes() == before
    assert sorted(p.name for p in (tmp_path / "sub").iterdir()) == ["a.png", "b.jpg"]


NASTY = "a <script>alert(1)</script> \"q\" 'x' & #50%25 é 顔?.jpg"


def test_page_escapes_names_and_quotes_links() -> None:
    section = Section(
        title=NASTY, input=f"{NASTY}_input.jpg", ages=[("27.5 years", f"sub/{NASTY}_age27.5.png")],
        sheets=[("strip", f"{NASTY}_strip.png")], gif=f"{NASTY}.gif", mp4=f"{NASTY}.mp4",
    )  # fmt: skip
    text = gallery_page(title="Faces", facts=["Weights: <b>", "10 images/s"], sections=[section])
    page = Reader(text)
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert NASTY in page.text
    assert "Weights: <b>" in page.text
    assert "synthetic renderings, not predictions of anybody's future looks" in page.text
    assert "27.5 years" in page.text
    assert f"{NASTY} at 27.5 years" in page.alts
    assert page.tags.count("img") == len(page.alts) == 3
    assert {"video", "style", "meta"} <= set(page.tags)
    assert "prefers-color-scheme: dark" in text
    assert {unquote(link) for link in page.links} == {
        f"{NASTY}_input.jpg", f"sub/{NASTY}_age27.5.png", f"{NASTY}_strip.png", f"{NASTY}.gif", f"{NASTY}.mp4",
    }  # fmt: skip
    assert not any(c in link for link in page.links for c in "<>\"'#? ")
    assert "http" not in text  # nothing is loaded from elsewhere


def test_pages_link_to_each_other() -> None:
    page = Reader(gallery_page(title="t", facts=[], sections=[], pages=["index.html", "page-2.html"], current=0))
    assert set(page.links) == {"page-2.html"}
