"""Files with random faults, for benchmarks.mutations."""

import io
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image
from skimage import data


def mutated(whole: bytes, random: np.random.Generator) -> bytes:
    """A file with one to eight faults, most of them near its beginning, in the header."""
    broken = bytearray(whole)
    for _ in range(int(random.integers(1, 9))):
        if not broken:
            break
        at = int(len(broken) * random.uniform() ** int(random.choice([1, 4])))
        kind = random.choice(["flip", "byte", "cut", "drop", "put"], p=[0.4, 0.3, 0.06, 0.12, 0.12])
        if kind == "flip":
            broken[at] ^= 1 << int(random.integers(8))
        elif kind == "byte":
            broken[at] = int(random.choice([0, 1, 127, 128, 255, int(random.integers(256))]))
        elif kind == "cut":
            del broken[at:]
        elif kind == "drop":
            del broken[at : at + int(random.integers(1, 64))]
        else:
            broken[at:at] = random.bytes(int(random.integers(1, 16)))
    return bytes(broken)


def mutated_settings(text: str, random: np.random.Generator) -> str:
    """A JSON configuration with one value changed or left out; still valid JSON."""
    plain = json.loads(text)
    part = plain[str(random.choice(["train", "net"]))] if random.uniform() < 0.9 else plain
    name = str(random.choice(list(part)))
    values: list[object] = [None, -1, 0, 10**12, 1e308, "", "x", [], [1], {}, True, [[]], "\0", float("nan")]
    if random.uniform() < 0.2:
        del part[name]
    else:
        part[name] = values[int(random.integers(len(values)))]
    return json.dumps(plain)


def pictures() -> list[bytes]:
    """Small photographs with a face, in every format that is written here."""
    face = Image.fromarray(data.astronaut()).crop((100, 0, 356, 256))
    exif = Image.Exif()
    exif[274], exif[271] = 6, "maker"
    kinds: list[tuple[Image.Image, str, dict[str, object]]] = [
        (face, "JPEG", {"exif": exif.tobytes()}),
        (face, "JPEG", {"progressive": True}),
        (face, "PNG", {"exif": exif.tobytes()}),
        (face.convert("P"), "PNG", {}),
        (face, "WEBP", {}),
        (face, "AVIF", {}),
        (face, "JPEG2000", {}),
        (face, "GIF", {}),
        (face, "TIFF", {"compression": "tiff_lzw"}),
        (face.convert("CMYK"), "TIFF", {}),
        (face, "BMP", {}),
        (face, "PPM", {}),
    ]
    files = []
    for image, kind, how in kinds:
        out = io.BytesIO()
        image.save(out, format=kind, **how)
        files.append(out.getvalue())
    return files


def clips(folder: Path) -> list[bytes]:
    """Short videos."""
    files = []
    for name, codec in (("a.mp4", "libx264"), ("a.webm", "libvpx-vp9"), ("a.avi", "mpeg4"), ("a.mpg", "mpeg1video")):
        with av.open(str(folder / name), "w") as container:
            stream: Any = container.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
            for i in range(8):
                picture = np.ascontiguousarray(np.roll(data.astronaut()[:96, 180:308], i, axis=1))
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        files.append((folder / name).read_bytes())
    return files
