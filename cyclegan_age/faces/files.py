"""Photographs as files: read with all metadata, and written with only the pixels changed."""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, JpegImagePlugin

from cyclegan_age.faces.alignment import opencv
from cyclegan_age.faces.blending import Pixels
from cyclegan_age.images import BadImage, Picture, check_kind, check_size, decoding, to_rgb

# Pillow's format -> suffix of the written files; other formats become PNG.
_ENDINGS = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "TIFF": ".tif", "BMP": ".bmp", "PPM": ".ppm"}
_PLAIN = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}  # Pillow's supported modes, and their channels
_TIFF_CODINGS = {"raw", "packbits", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate"}
_PNG_BEGINS = b"\x89PNG\r\n\x1a\n"
_PNG_NOT_KEPT = {b"IHDR", b"PLTE", b"tRNS", b"bKGD", b"hIST", b"sBIT", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT"}
_UNSEEN = 95  # quality without visible loss
_ABOUT = (270, 271, 272, 305, 306, 315, 33432)  # TIFF tags on the content, not on the storage
_ORIENTATION = 274  # the tag of EXIF and TIFF
# EXIF orientation -> whether to transpose, then to flip rows, then columns.
_TURNS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


@dataclass(frozen=True, eq=False)
class Photo:
    """The stored pixels of a photograph, and everything needed to replace them."""

    stored: Pixels  # uint8 or uint16 (H, W, C): grey, grey and alpha, RGB, or RGBA; not rotated
    orientation: int = 1  # EXIF's, 1 to 8
    format: str = "PNG"  # Pillow's name
    info: dict[str, Any] = field(default_factory=dict)  # other arguments of Pillow's `save`
    chunks: bytes = b""  # of a PNG, except the picture
    suffix: str = ".png"  # of its file name

    @classmethod
    def of(cls, image: Image.Image) -> "Photo":
        """The pixels of a picture in memory. Modes that are not grey or RGB, with or without alpha, become RGB."""
        return cls(_pixels(image), image.getexif().get(_ORIENTATION, 1))

    @classmethod
    def read(cls, source: Path | bytes, suffix: str = "") -> "Photo":
        """A file or its bytes, with the suffix of its name.

        Raises:
            BadImage: empty, truncated, not a picture, or see `images.check_size`.
            FileNotFoundError: no such file.
        """
        data = source if isinstance(source, bytes) else source.read_bytes()
        suffix = source.suffix if isinstance(source, Path) else suffix
        check_kind(data)
        with decoding():
            return cls._decoded(data, suffix)

    @classmethod
    def _decoded(cls, data: bytes, suffix: str) -> "Photo":
        image = Image.open(io.BytesIO(data))
        check_size(image)
        kind = image.format or ""
        info: dict[str, Any] = {}
        if kind in ("JPEG", "MPO") and isinstance(image, JpegImagePlugin.JpegImageFile) and image.mode in _PLAIN:
            info |= {"qtables": image.quantization, "subsampling": JpegImagePlugin.get_sampling(image)}
            info["progressive"] = bool(image.info.get("progressive"))
        elif kind in ("JPEG", "MPO"):
            info |= {"quality": _UNSEEN, "subsampling": 0}
        deep = _is_deep(image, data)
        orientation = image.getexif().get(_ORIENTATION, 1)
        if kind == "TIFF" and not deep:
            orientation = 1  # Pillow rotates these itself
        stored = _deep_pixels(data) if deep else _pixels(image)
        same_colours = deep or image.mode in (*_PLAIN, "P", "1")  # a profile of CMYK does not apply to RGB
        for name in ("icc_profile", "exif", "xmp", "comment", "dpi"):
            if image.info.get(name) and (name != "icc_profile" or same_colours):
                info[name] = image.info[name]
        if kind == "TIFF" and not deep and (about := _about(image.getexif())):
            info["exif"] = about
        if "exif" in info:
            info["exif"] = without_thumbnail(info["exif"])
        if kind == "WEBP":
            # A lossless file stays lossless, any other is written at a quality without visible loss.
            info |= {"lossless": True, "exact": True} if _is_lossless(data) else {"quality": _UNSEEN}
        if kind == "TIFF":
            info["compression"] = image.info.get("compression", "raw")
            if info["compression"] not in _TIFF_CODINGS:  # JPEG is lossy, and fax codings support only black and white
                info["compression"] = "tiff_lzw"
        ending = _ENDINGS.get(kind, ".png")
        same = suffix.lower() in Image.registered_extensions() and kind in _ENDINGS
        return cls(
            stored,
            orientation if orientation in _TURNS else 1,
            {"MPO": "JPEG"}.get(kind, kind) if kind in _ENDINGS else "PNG",
            info,
            _kept_chunks(data) if kind == "PNG" else b"",
            suffix if same else ending,
        )

    @property
    def upright(self) -> Pixels:
        """A view (H, W, 1 or 3) of the stored colours in upright orientation."""
        channels = self.stored.shape[2]
        view = self.stored[..., : 1 if channels < 3 else 3]
        swap, rows, columns = _TURNS.get(self.orientation, _TURNS[1])
        view = view.swapaxes(0, 1) if swap else view
        return view[:: -1 if rows else 1, :: -1 if columns else 1]

    def with_upright(self, pixels: Pixels) -> "Photo":
        """The same photograph with other colours (H, W, 1 or 3), given in upright orientation."""
        other = replace(self, stored=self.stored.copy())
        other.upright[...] = pixels
        return other

    def image(self) -> Image.Image:
        """The upright photograph, including alpha; 16-bit colours, unsupported by Pillow, in 8 bits."""
        swap, rows, columns = _TURNS.get(self.orientation, _TURNS[1])
        stored = self.stored.swapaxes(0, 1) if swap else self.stored
        stored = stored[:: -1 if rows else 1, :: -1 if columns else 1]
        if stored.dtype == np.uint16 and stored.shape[2] > 1:
            stored = in_8_bits(stored)
        return Image.fromarray(np.ascontiguousarray(stored[..., 0] if stored.shape[2] == 1 else stored))

    def encoded(self) -> bytes:
        """The bytes of a file of the same format, with the same metadata.

        A JPEG is encoded with its own tables, so that quality and size stay the same. All other chunks of a PNG are
        kept unchanged. The EXIF thumbnail is dropped, since it shows the original face.
        """
        deep = self.stored.dtype == np.uint16
        if self.format == "PNG":
            return _png(self.stored, self.chunks, self.info)
        if deep and self.format == "TIFF":
            return _deep_tiff(self.stored, self.orientation, self.info)
        out = io.BytesIO()
        stored = in_8_bits(self.stored)
        image = Image.fromarray(np.ascontiguousarray(stored[..., 0] if stored.shape[2] == 1 else stored))
        if self.format == "WEBP" and image.mode in ("L", "LA"):
            image = image.convert("RGB" if image.mode == "L" else "RGBA")
        image.save(out, format=self.format, **self.info)
        return out.getvalue()


def in_8_bits(pixels: Pixels) -> Picture:
    """uint16 -> uint8, rounded; uint8 unchanged."""
    if pixels.dtype == np.uint8:
        return pixels  # type: ignore[return-value]
    picture: Picture = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return picture


def as_rgb(pixels: Pixels) -> Picture:
    """uint8 or uint16 (H, W, 1 or 3) -> uint8 (H, W, 3), contiguous."""
    return np.ascontiguousarray(np.broadcast_to(in_8_bits(pixels), (*pixels.shape[:2], 3)))


def _pixels(image: Image.Image) -> Pixels:
    """The decoded pixels (H, W, C)."""
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)[..., None]
    if "transparency" in image.info and image.mode in ("P", "RGB", "L"):
        image = image.convert("RGBA")
    elif image.mode in ("PA", "RGBa", "La"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    elif image.mode not in _PLAIN:
        image = image.convert("L") if image.mode == "1" else to_rgb(image)
    array: Picture = np.array(image)
    return array[..., None] if array.ndim == 2 else array


def _is_lossless(webp: bytes) -> bool:
    """Whether a WebP file is lossless, by its first picture chunk."""
    at = 12
    while at + 8 <= len(webp):
        kind, size = webp[at : at + 4], int.from_bytes(webp[at + 4 : at + 8], "little")
        if kind in (b"VP8L", b"VP8 "):
            return kind == b"VP8L"
        at += 8 + size + size % 2
    return False


def _about(tags: Image.Exif) -> bytes:
    """The TIFF tags that Pillow writes again, as EXIF; empty without any."""
    kept = Image.Exif()
    kept.update({tag: tags[tag] for tag in _ABOUT if tag in tags})
    return kept.tobytes() if len(kept) else b""


def _is_deep(image: Image.Image, data: bytes) -> bool:
    """Whether channels have 16 bits, in a form that OpenCV reads completely."""
    if image.format == "PNG":
        return data[24] == 16
    if image.format == "TIFF":
        bits = getattr(image, "tag_v2", {}).get(258, ())
        formats = getattr(image, "tag_v2", {}).get(339, (1,))
        return set(bits) == {16} and set(formats) == {1} and image.mode != "CMYK"
    return False


def _deep_pixels(data: bytes) -> Pixels:
    cv2 = opencv()
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None or array.dtype != np.uint16:
        raise BadImage("broken picture: its 16-bit pixels cannot be read")
    if array.ndim == 2:
        return array[..., None]  # type: ignore[no-any-return]
    order = (2, 1, 0, 3)[: array.shape[2]]
    return np.ascontiguousarray(array[..., order])


def _png(stored: Pixels, chunks: bytes, info: dict[str, Any]) -> bytes:
    """A PNG of such pixels, with the kept chunks, or otherwise the profile and EXIF of `info`."""
    if stored.dtype == np.uint16:
        cv2 = opencv()
        order = [(0,), (0,), (2, 1, 0), (2, 1, 0, 3)][stored.shape[2] - 1]
        flags = (cv2.IMWRITE_PNG_COMPRESSION, 1)
        data: bytes = cv2.imencode(".png", np.ascontiguousarray(stored[..., order]), flags)[1].tobytes()
    else:
        out = io.BytesIO()
        image = Image.fromarray(np.ascontiguousarray(stored[..., 0] if stored.shape[2] == 1 else stored))
        kept = {} if chunks else {name: info[name] for name in ("icc_profile", "exif", "dpi") if name in info}
        image.save(out, format="PNG", compress_level=1, **kept)
        data = out.getvalue()
    begin = len(_PNG_BEGINS) + 25  # the first chunk, IHDR, is 25 bytes long
    return data[:begin] + chunks + data[begin:]


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of each chunk of a PNG."""
    at = len(_PNG_BEGINS)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        at += 12 + length


def _kept_chunks(data: bytes) -> bytes:
    """The other chunks of a PNG: profile, gamma, EXIF, texts, resolution, time."""
    kept = b""
    for kind, content in _png_chunks(data):
        if kind not in _PNG_NOT_KEPT:
            body = kind + (without_thumbnail(content) if kind == b"eXIf" else content)
            kept += struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return kept


def _deep_tiff(stored: Pixels, orientation: int, info: dict[str, Any]) -> bytes:
    import tifffile  # a dependency of scikit-image

    channels = stored.shape[2]
    out = io.BytesIO()
    tifffile.imwrite(
        out,
        stored[..., 0] if channels == 1 else stored,
        photometric="rgb" if channels > 2 else "minisblack",
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        extratags=[(_ORIENTATION, 3, 1, orientation, True)],
        iccprofile=info.get("icc_profile"),
        metadata=None,
    )
    return out.getvalue()


def without_thumbnail(exif: bytes) -> bytes:
    """EXIF without the pointer to its second directory, the thumbnail's; all other bytes are unchanged."""
    begin = 6 if exif.startswith(b"Exif\0\0") else 0
    order = {b"II": "<", b"MM": ">"}.get(exif[begin : begin + 2])
    try:
        if order is None:
            return exif
        (first,) = struct.unpack_from(order + "I", exif, begin + 4)
        (entries,) = struct.unpack_from(order + "H", exif, begin + first)
        pointer = begin + first + 2 + 12 * entries
        struct.unpack_from(order + "I", exif, pointer)
    except struct.error:  # truncated
        return exif
    return exif[:pointer] + bytes(4) + exif[pointer + 4 :]
