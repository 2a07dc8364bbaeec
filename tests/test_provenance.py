"""Aged files say so, as exiftool reads it where it is installed; their pixels and what else stands in them stay."""

import io
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image, ImageSequence
from skimage.data import astronaut

import test as test_command
from cyclegan_age.config import CycleGANConfig, DemoConfig, TrainConfig
from cyclegan_age.faces.files import Photo
from cyclegan_age.inference import Ager
from cyclegan_age.models import cyclegan
from cyclegan_age.provenance import TOOL, Mark, mark_file, marked, packet
from cyclegan_age.rendering.pictures import save_gif, save_mp4
from cyclegan_age.weight_files import save_weights

SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
MARK = Mark("tiny 0123456789ab").at(60)
TEXT = f"{TOOL}; weights tiny 0123456789ab; age 60"
NOISE = np.random.default_rng(0).integers(0, 256, (40, 61, 4), np.uint8)
OLD_XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="uuid:7" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:CreatorTool="Camera 3"'
    b' xmp:Rating="5" xmlns:i="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"><i:DigitalSourceType>http://x/digitalCapture'
    b"</i:DigitalSourceType></rdf:Description></rdf:RDF></x:xmpmeta>"
)


def source_of(data: bytes) -> str:
    """The digital source type in a file that holds its XMP or tags as plain text; empty without."""
    found = re.findall(rb'DigitalSourceType="([^"]*)"', data) or re.findall(
        rb"digitalsourcetype/(?:compositeWithT|t)rainedAlgorithmicMedia", data
    )
    assert len(found) <= 1
    return "http://cv.iptc.org/newscodes/" * (b"http" not in b"".join(found)) + found[0].decode() if found else ""


def read(file: Path) -> dict[str, str]:
    """Tags of a file by exiftool, which must not warn; empty where it is not installed."""
    if shutil.which("exiftool") is None:
        return {}
    done = subprocess.run(["exiftool", "-j", "-n", file], capture_output=True, text=True, timeout=60)
    tags: dict[str, str] = json.loads(done.stdout)[0]
    assert "Warning" not in tags and "Error" not in tags, tags
    return tags


def says(file: Path, text: str = TEXT, source: str = SOURCE) -> None:
    data = file.read_bytes()
    assert source_of(data) == source
    wide = data.replace(b"\0", b"")  # EXIF's other coding
    assert text.encode() in data or text.encode() in wide
    if tags := read(file):
        assert tags["DigitalSourceType"] == source
        assert tags.get("UserComment", tags.get("Comment")) == text
        assert file.suffix in (".gif", ".mp4", ".mov", ".mkv", ".webm", ".xmp") or tags["Software"] == TOOL


def opened(file: Path | bytes) -> Image.Image:
    return Image.open(io.BytesIO(file if isinstance(file, bytes) else file.read_bytes()))


def encoded(kind: str, channels: int = 3, **how: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(NOISE[..., :channels]).save(out, kind, **how)
    return out.getvalue()


@pytest.mark.parametrize(
    ("kind", "channels", "how"),
    [
        ("JPEG", 3, {}),
        ("PNG", 3, {}),
        ("WEBP", 3, {}),
        ("WEBP", 3, {"lossless": True}),
        ("WEBP", 4, {"lossless": True}),
        ("WEBP", 4, {}),
        ("TIFF", 3, {}),
        ("GIF", 3, {}),
    ],
)
def test_every_format_says_it_and_keeps_its_pixels(
    kind: str, channels: int, how: dict[str, Any], tmp_path: Path
) -> None:
    before = encoded(kind, channels, **how)
    file = tmp_path / f"a.{kind.lower()}"
    file.write_bytes(marked(before, MARK))
    a, b = opened(before), opened(file)
    assert (a.mode, a.size) == (b.mode, b.size) and np.array_equal(np.asarray(a), np.asarray(b))
    says(file)
    assert marked(before, None) is before
    file.write_bytes(before)
    mark_file(file, MARK)
    assert file.read_bytes() == marked(before, MARK)


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_pictures_of_16_bits_say_it(kind: str, tmp_path: Path) -> None:
    deep = NOISE[..., :3].astype(np.uint16) * 257 + 3
    file = tmp_path / f"deep.{kind}"
    file.write_bytes(marked(Photo(deep, format={"png": "PNG", "tif": "TIFF"}[kind]).encoded(), MARK))
    assert np.array_equal(Photo.read(file).stored, deep)
    says(file)


def test_animations_say_it_and_still_move(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.roll(NOISE[..., :3], k, axis=1)) for k in range(5)]
    gif, mp4 = tmp_path / "a.gif", tmp_path / "a.mp4"
    save_gif(frames, gif, mark=MARK)
    save_mp4(frames, mp4, mark=MARK)
    assert len(list(ImageSequence.Iterator(opened(gif)))) == 5
    with av.open(str(mp4)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 5
    for file in (gif, mp4):
        says(file)


def camera_exif() -> bytes:
    """As a camera writes it, most significant byte first: turned, with a place, a comment and its own note."""
    exif = Image.Exif()
    exif.endian = ">"
    exif[271], exif[305], exif[274] = "Maker", "Camera 3", 6
    exif.get_ifd(34665).update({37510: b"ASCII\0\0\0my aunt ", 37500: b"note" * 30})
    exif.get_ifd(34853).update({1: "N", 2: (52.0, 31.0, 12.0)})
    return exif.tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_what_stood_in_a_photograph_stays(kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"a.{kind.lower()}"
    xmp: dict[str, Any] = {} if kind in ("PNG", "TIFF") else {"xmp": OLD_XMP}
    file.write_bytes(marked(encoded(kind, exif=camera_exif(), **xmp), MARK))
    exif = opened(file).getexif()
    inner = exif.get_ifd(34665)
    assert (exif[271], exif[305]) == ("Maker", TOOL)
    assert inner[37510] == f"ASCII\0\0\0my aunt; {TEXT}".encode()
    assert inner[37500] == b"note" * 30
    assert exif.get_ifd(34853)[2] == (52.0, 31.0, 12.0)
    if kind != "TIFF":
        assert exif[274] == 6
    says(file, f"my aunt; {TEXT}")


@pytest.mark.parametrize("form", ["attribute", "element"])
def test_xmp_of_before_is_added_to(form: str) -> None:
    old = OLD_XMP
    if form == "attribute":
        old = re.sub(rb"><i:DigitalSourceType>(.*?)</i:DigitalSourceType>", rb" i:DigitalSourceType='\1'>", old)
    new = packet(MARK, packet(MARK, old, comment=False), comment=False)  # twice
    root = ET.fromstring(new)
    rdf, iptc = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}", "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
    parts = root.findall(f".//{rdf}Description")
    assert [part.get(f"{rdf}about") for part in parts] == ["uuid:7"] * len(parts)
    assert [part.get(f"{iptc}DigitalSourceType") for part in parts if len(part.attrib) > 1][-1] == SOURCE
    assert new.count(b"DigitalSourceType") == 1 and b"digitalCapture" not in new and b"Camera 3" not in new
    assert b'xmp:Rating="5"' in new


def test_broken_and_long_metadata_stay_as_they_are() -> None:
    cut = b"II*\0\x08\0\0\0\x09\0\x0f\x01"
    long = camera_exif()
    long = long + bytes(65_500 - len(long))
    for exif in (b"Exif\0\0" + cut, long):
        done = marked(encoded("JPEG", exif=exif), MARK)
        assert exif in done and source_of(done) == SOURCE
    assert source_of(marked(encoded("JPEG", xmp=b"\xff\xfe<no packet"), MARK)) == SOURCE


def test_faces_from_noise_are_no_composites() -> None:
    data = marked(encoded("PNG"), Mark("gan", whole=True).of("sample-001_age20"))
    assert source_of(data).endswith("/trainedAlgorithmicMedia") and b"sample-001_age 20" in data


def test_words_that_are_not_ascii_are_read_again() -> None:
    twice = marked(marked(encoded("JPEG"), Mark("Großmutter").at(20)), MARK)
    comment = opened(twice).getexif().get_ifd(34665)[37510]
    assert comment[8:].decode("utf-16-le") == f"{TOOL}; weights Großmutter; age 20; {TEXT}"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    train, net = TrainConfig(image_size=32, load_size=36), CycleGANConfig(ngf=4, blocks=1)
    generator = cyclegan.build_generator(train, net)
    folder = tmp_path_factory.mktemp("private") / "tiny"
    tensors = {f"generator.{k}": v for k, v in generator.state_dict().items()}
    save_weights(folder / "weights.safetensors", train, net, 0, tensors)
    return folder


@pytest.mark.parametrize("asked", [True, False])
def test_what_test_py_writes_says_it(asked: bool, run: Path, tmp_path: Path) -> None:
    weights, inputs = run / "weights.safetensors", tmp_path / "in"
    inputs.mkdir()
    photo = Image.fromarray(astronaut()[:256, 100:356])
    exif = camera_exif()
    photo.save(inputs / "a.jpg", exif=exif, xmp=OLD_XMP)
    photo.save(inputs / "b.bmp")
    photo.resize((40, 40)).save(tmp_path / "crop.png", exif=exif)
    for name, codec in (("c.mp4", "libx264"), ("d.webm", "libvpx-vp9")):
        with av.open(str(inputs / name), "w") as container:
            container.metadata["comment"] = "mine"
            stream: Any = container.add_stream(codec, rate=12)
            stream.width = stream.height = 256
            stream.pix_fmt = "yuv420p"
            for _ in range(3):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(photo), format="rgb24")))
            container.mux(stream.encode())
    name = Ager.load(weights).mark.weights
    assert re.fullmatch("tiny [0-9a-f]{12}", name)
    flags = ["--weights", str(weights), "--target_age", "60", "--results_dir", str(tmp_path)]
    flags += [] if asked else ["--no_provenance"]
    assert test_command.main(["--input", str(inputs), "--name", "out", *flags]) == 0
    assert (
        test_command.main(["--input", str(tmp_path / "crop.png"), "--aligned", "--life", "--name", "crop", *flags]) == 0
    )
    out, crop = tmp_path / "out", tmp_path / "crop"
    text = f"{TOOL}; weights {name}; "
    if not asked:
        for file in [*out.iterdir(), *crop.iterdir()]:
            assert TOOL.encode() not in file.read_bytes() and file.suffix != ".xmp"
        return
    says(out / "a_age60.jpg", f"{TOOL}; weights {name}; age 60".join(("my aunt; ", "")))
    says(out / "b_age60.bmp.xmp", f"{text}age 60")
    says(out / "d_age60.webm", f"mine; {text}age 60")
    if tags := read(out / "c_age60.mp4"):
        assert (tags["DigitalSourceType"], tags["UserComment"]) == (SOURCE, f"{text}age 60")
    says(crop / "crop_age60.png", f"{text}age 60")
    says(crop / "crop_strip.png", f"{text}age 60")
    for ending in ("gif", "mp4"):
        says(crop / f"crop_life.{ending}", f"{text}life")
    assert source_of((crop / "crop_input.jpg").read_bytes()) == ""
    assert opened(out / "a_age60.jpg").getexif().get_ifd(34853)  # the photograph's own, as it stands there
    for file in crop.iterdir():
        assert str(run.parent).encode() not in file.read_bytes()
        if file.suffix in (".png", ".jpg"):
            assert not opened(file).getexif().get_ifd(34853)


def test_answers_of_the_service_say_it(run: Path) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed: requirements-web.txt")
    from fastapi.testclient import TestClient

    from cyclegan_age.web.limits import Worker
    from cyclegan_age.web.server import service
    from cyclegan_age.web.work import Studio, load

    out, small = io.BytesIO(), io.BytesIO()
    photo = Image.fromarray(astronaut()[:256, 100:356])
    photo.save(out, "JPEG")
    photo.resize((40, 40)).save(small, "PNG")
    for asked in (True, False):
        config = DemoConfig(weights=(str(run / "weights.safetensors"),), provenance=asked, seconds=600)
        app = service(Studio(load(config), config), Worker(config.waiting, config.seconds), config)
        client = TestClient(app)
        for path, fields in (
            ("age", {"target_age": "60"}),
            ("age", {"target_age": "60", "aligned": "true"}),
            ("strip", {"aligned": "true"}),
            ("life", {"aligned": "true", "format": "gif"}),
            ("life", {"aligned": "true", "format": "mp4"}),
        ):
            answer = client.post(
                f"/api/{path}", files={"image": (small if "aligned" in fields else out).getvalue()}, data=fields
            )
            assert answer.status_code == 200, answer.text
            assert source_of(answer.content) == (SOURCE if asked else "")
            assert (answer.headers.get("Link") == f'<{SOURCE}>; rel="type"') == asked
            assert (TOOL.encode() in answer.content) == asked
