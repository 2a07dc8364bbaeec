"""Pictures: files to arrays to tensors and back. The only module that knows the value ranges.

Outside the networks a picture is uint8, HWC, RGB, 0..255; inside it is float, NCHW, -1..1.
"""

import io
import os
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError
from torch import Tensor

from cyclegan_age.config import install_extra

Picture = NDArray[np.uint8]

MAX_PIXELS = 120_000_000  # larger files are refused before decoding; those of phones have up to 108 million
MAX_SIDE = 32_766  # limit of OpenCV's warping
MIN_SIDE = 4  # pixels; minimum to show a face
SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".avif"),
        *(".ppm", ".pgm", ".jp2", ".j2k", ".jpx"),
    }
)
_HEIF = frozenset({".heic", ".heif", ".hif"})  # read where pillow-heif is installed
_UNREAD = frozenset({".jxl", ".psd", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"})
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # from byte 8 on
_GET_HEIF = install_extra("heif")
_DEAD, _LOOP = "to a missing file or folder", "to a folder above"
_NAMED = 3  # maximum number of links to name; the others are counted


class BadImage(ValueError):
    """A file that cannot be read as a picture; the text is a short cause."""


def open_image(source: Path | bytes) -> Image.Image:
    """Decode a file or its bytes to an upright 8-bit RGB picture.

    EXIF rotation is applied, transparency is composited on white, CMYK, palette, grey and 16-bit pictures are
    converted, and only the first frame of an animation is used.

    Raises:
        BadImage: empty, truncated, not a picture, or see `check_size`.
        FileNotFoundError: no such file.
    """
    data = source if isinstance(source, bytes) else source.read_bytes()
    check_kind(data)
    with decoding():
        picture = Image.open(io.BytesIO(data))
        check_size(picture)
        picture.load()
        return to_rgb(ImageOps.exif_transpose(picture))


def opened(source: Image.Image | Path | str) -> Image.Image:
    """A picture unchanged, or that of a file, upright and in its own mode.

    Raises:
        BadImage: the file is empty, truncated, not a picture, or see `check_size`; the text begins with its path.
        FileNotFoundError: no such file.
        TypeError: neither a picture nor a path.
    """
    if isinstance(source, Image.Image):
        return source
    if not isinstance(source, Path | str):
        raise TypeError(f"{type(source).__name__}: neither a picture of Pillow nor a path; give one of them")
    try:
        data = Path(source).read_bytes()
        check_kind(data)
        with decoding():
            picture = Image.open(io.BytesIO(data))
            check_size(picture)
            picture.load()
            return ImageOps.exif_transpose(picture)
    except BadImage as e:
        remedy = "" if ";" in str(e) else "; give a JPEG, a PNG or another picture that Pillow opens"
        raise BadImage(f"{source}: {e}{remedy}") from None


@contextmanager
def decoding() -> Iterator[None]:
    """Convert Pillow's errors on corrupt files to a BadImage."""
    reads_heif()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata; serious faults raise
            yield
    except BadImage:
        raise
    except Image.DecompressionBombError:
        raise BadImage(f"more than {MAX_PIXELS:,} pixels; scale it down") from None
    except UnidentifiedImageError:
        raise BadImage("not a picture") from None
    except Exception as e:  # Pillow's decoders raise many types on corrupt data
        raise BadImage(f"broken picture: {str(e).splitlines()[0] if str(e) else type(e).__name__}") from None


def check_kind(data: bytes) -> None:
    """Check the bytes of a file before decoding.

    Raises:
        BadImage: it is empty, or HEIC or HEIF without the package pillow-heif.
    """
    if not data:
        raise BadImage("empty file")
    if is_heif(data) and not reads_heif():
        raise BadImage(f"a HEIC picture, which needs pillow-heif; {_GET_HEIF}, or save it as JPEG")


def is_heif(data: bytes) -> bool:
    """Whether the bytes of a file begin as those of HEIC and HEIF do."""
    return data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS and b"avif" not in data[:64]


def check_size(picture: Image.Image) -> None:
    """Check the size of a picture before decoding.

    Raises:
        BadImage: more than `MAX_PIXELS` pixels, or a side of more than `MAX_SIDE` or less than `MIN_SIDE`.
    """
    size = f"{picture.width}x{picture.height} pixels"
    if picture.width * picture.height > MAX_PIXELS:
        raise BadImage(f"{size}, more than {MAX_PIXELS:,}; scale it down")
    if max(picture.size) > MAX_SIDE:
        raise BadImage(f"{size}, a side of more than {MAX_SIDE:,}; crop it or scale it down")
    if min(picture.size) < MIN_SIDE:
        raise BadImage(f"{size}, too small for a face; each side must be at least {MIN_SIDE}")


@cache
def reads_heif() -> bool:
    """Whether HEIC and HEIF can be read; the first call registers pillow-heif with Pillow, if installed."""
    if find_spec("pillow_heif") is None:
        return False
    import_module("pillow_heif").register_heif_opener()
    return True


def to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.asarray(picture, dtype=np.float64)
        top = 1.0 if picture.mode == "F" and values.max() <= 1 else 255.0 if values.max() <= 255 else 65535.0
        return Image.fromarray((values.clip(0, top) * (255 / top)).round().astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return picture.convert("RGB")


def to_square(picture: Image.Image, size: int) -> Picture:
    """A picture as `size` x `size` x 3 uint8; other shapes are centre-cropped."""
    return np.array(ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS))  # a writable copy, required by torch


def list_files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """Files below a folder with one of the suffixes, case-insensitive, sorted; hidden files and folders are skipped.

    Links to folders are followed, except to one that contains the link. A folder reachable in several ways is listed
    once.
    """
    return sorted(_walk(folder, suffixes)[0])


def _walk(folder: Path, suffixes: Collection[str]) -> tuple[list[Path], dict[str, list[Path]]]:
    """The files of `list_files`, in any order, and the links and folders that it skips, by cause."""
    found: list[Path] = []
    skipped: dict[str, list[Path]] = {}
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        links: list[Path] = []
        stack = waiting[::-1]
        while stack:
            here = stack.pop()
            try:
                there = here.stat()
                with os.scandir(here) as listed:
                    entries = sorted((e for e in listed if not e.name.startswith(".")), key=lambda e: e.name)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as e:
                skipped.setdefault(f"that cannot be opened ({e.strerror})", []).append(here)
                continue
            if (there.st_dev, there.st_ino) in seen:
                continue
            seen.add((there.st_dev, there.st_ino))
            below: list[Path] = []
            for entry in entries:
                path = here / entry.name
                if entry.is_symlink():
                    if path.is_dir():
                        real = here.resolve()
                        loop = path.resolve() in (real, *real.parents)
                        (skipped.setdefault(_LOOP, []) if loop else links).append(path)
                    elif not path.exists():
                        skipped.setdefault(_DEAD, []).append(path)
                    elif path.suffix.lower() in suffixes and path.is_file():
                        found.append(path)
                elif entry.is_dir():
                    below.append(path)
                elif path.suffix.lower() in suffixes and entry.is_file():
                    found.append(path)
            stack += below[::-1]
        waiting = links
    return found, skipped


def counted(number: int, what: str = "picture") -> str:
    """`1 picture`, `2 pictures`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def list_images(folder: Path) -> list[Path]:
    """Files below a folder with the suffix of a picture; see `list_files`."""
    return list_files(folder, SUFFIXES | (_HEIF if reads_heif() else set()))


def unread(folder: Path) -> str:
    """A line on skipped entries below a folder; empty without any.

    It counts the pictures in unsupported formats, by suffix. It names dead links, links to a folder that contains them,
    and folders that cannot be opened.
    """
    files, skipped = _walk(folder, _UNREAD if reads_heif() else _UNREAD | _HEIF)
    counts = Counter(path.suffix.lower() for path in files)
    parts = []
    if counts:
        parts.append("not read: " + ", ".join(f"{count} {ending}" for ending, count in sorted(counts.items())))
        heif = not _HEIF.isdisjoint(counts)
        parts.append(f"{_GET_HEIF} enables .heic and .heif" if heif else "save them as JPEG or PNG")
    for cause, paths in skipped.items():
        kind = "link" if cause in (_DEAD, _LOOP) else "folder"
        names = ", ".join(path.relative_to(folder).as_posix() for path in paths[:_NAMED])
        more = ", ..." if len(paths) > _NAMED else ""
        parts.append(f"skipped {counted(len(paths), kind)} {cause}: {names}{more}")
    return "; ".join(parts)


def absent(path: Path) -> str:
    """Cause and remedy for a missing file or folder of the user."""
    if path.is_symlink():
        return f"a link to {path.readlink()}, which does not exist; correct it"
    return "no such file or folder; check the name"


def to_float(pictures: Picture | Tensor) -> Tensor:
    """uint8 (N, H, W, 3) or (H, W, 3), 0..255 -> float32 (N, 3, H, W) in [-1, 1]."""
    x = pictures if isinstance(pictures, Tensor) else torch.from_numpy(np.array(pictures))  # may be read-only
    x = x[None] if x.ndim == 3 else x
    return x.permute(0, 3, 1, 2).float().div(127.5).sub(1)


def to_uint8(x: Tensor) -> Picture:
    """float (N, 3, H, W) in [-1, 1] (clipped) -> uint8 (N, H, W, 3)."""
    levels = x.detach().float().add(1).mul(127.5).round().clamp(0, 255)
    array: Picture = levels.permute(0, 2, 3, 1).to(torch.uint8).cpu().numpy()
    return array


def grid(
    rows: Sequence[Sequence[Picture]], *, columns: Sequence[str] = (), row_names: Sequence[str] = (), gap: int = 2
) -> Picture:
    """Pictures of one size in rows, on white, with an optional name above each column and before each row.

    Args:
        rows: uint8 (H, W, 3) each, all of one size; rows may differ in length.
        columns: names above the columns.
        row_names: names before the rows.
        gap: pixels between pictures.
    """
    height, width = rows[0][0].shape[:2]
    font = ImageFont.load_default(max(10, height // 9))
    top = (height // 6 + 4) if columns else 0
    left = max((int(font.getlength(n)) for n in row_names), default=-8) + 8
    count = max(len(r) for r in rows)
    sheet = Image.new("RGB", (left + count * (width + gap) - gap, top + len(rows) * (height + gap) - gap), "white")
    draw = ImageDraw.Draw(sheet)
    for j, name in enumerate(columns):
        draw.text((left + j * (width + gap) + width / 2, top / 2), name, "black", font, anchor="mm")
    for i, row in enumerate(rows):
        y = top + i * (height + gap)
        if i < len(row_names):
            draw.text((4, y + height / 2), row_names[i], "black", font, anchor="lm")
        for j, picture in enumerate(row):
            sheet.paste(Image.fromarray(picture), (left + j * (width + gap), y))
    return np.asarray(sheet)
