"""Uploaded files and files to save: formats, sizes, and encoding in memory."""

import io
import tempfile
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from cyclegan_age.config import install_extra
from cyclegan_age.images import is_heif, reads_heif
from cyclegan_age.provenance import Mark, marked
from cyclegan_age.rendering import pictures
from cyclegan_age.web.limits import Refused

# Pillow's names; JPEG stands for MPO, too.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", *(("HEIF",) if reads_heif() else ()))
_KINDS = f"a JPEG, PNG, WebP, AVIF, GIF, TIFF, BMP{', PPM or HEIC' if reads_heif() else ' or PPM'} file"


def picture_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a picture, which is not decoded; None where Pillow refuses it as far too large.

    Raises:
        Refused: 422, not a picture of a kind that is read.
    """
    if is_heif(data) and not reads_heif():
        extra = f"reading it needs the extra heif on the server: {install_extra('heif')}"
        raise Refused(422, f"a HEIC picture; expected {_KINDS} ({extra})")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return image.size
    except Image.DecompressionBombError:
        return None
    except Exception:  # Pillow raises many kinds on broken data
        raise Refused(422, f"{'not a picture' if data else 'an empty file'}; expected {_KINDS}") from None


def png(picture: Image.Image | np.typing.NDArray[np.uint8], mark: Mark | None = None) -> bytes:
    """The bytes of a PNG."""
    return marked(_saved(picture, "PNG", compress_level=3), mark)


def jpeg(picture: Image.Image, mark: Mark | None = None) -> bytes:
    """The bytes of a JPEG for the page."""
    return marked(_saved(picture, "JPEG", quality=90), mark)


def _saved(picture: Image.Image | np.typing.NDArray[np.uint8], kind: str, **how: int) -> bytes:
    out = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(out, format=kind, **how)
    return out.getvalue()


def animation(frames: list[Image.Image], kind: str, mark: Mark | None = None) -> bytes:
    """The bytes of a GIF or MP4."""
    with tempfile.TemporaryDirectory(prefix="cyclegan-age-") as folder:  # the video library needs a file
        path = Path(folder) / f"life.{kind}"
        {"gif": pictures.save_gif, "mp4": pictures.save_mp4}[kind](frames, path, mark=mark)
        return path.read_bytes()
