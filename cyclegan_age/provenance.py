"""Metadata of aged pictures and videos: the fact that a network changed them, its weights, and the target age.

They contain IPTC's `DigitalSourceType` and `xmp:CreatorTool` as XMP, and `Software` and `UserComment` as EXIF, where
the format supports these. Picture data and other metadata stay unchanged to the byte.
"""

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

TOOL = "cyclegan-age 0.1.0"
_SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/"
_SOFTWARE, _XMP, _EXIF, _VERSION, _COMMENT = 305, 700, 34665, 36864, 37510  # tags of TIFF and EXIF
_EMPTY = b"II*\0\x08\0\0\0" + bytes(6)  # EXIF without tags
_SEGMENT = 65533  # maximum bytes in a segment of a JPEG
_OLD_TEXT = 1 << 22  # maximum bytes of a decompressed text
_IN_JPEG = (b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0")
_IN_PNG = b"XML:com.adobe.xmp\0"
_IN_MP4 = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
_REPLACED = r"[\w.-]+:(?:DigitalSourceType|CreatorTool)"


@dataclass(frozen=True)
class Mark:
    """Provenance of a picture or video.

    Attributes:
        weights: name of the weights.
        made: the requested output, such as `age 60`.
        whole: whether the network generated all of it, from noise.
    """

    weights: str
    made: str = ""
    whole: bool = False

    def at(self, *years: float) -> "Mark":
        """The mark of a picture at given ages."""
        return replace(self, made=f"{'age' if len(years) == 1 else 'ages'} {', '.join(f'{one:g}' for one in years)}")

    def of(self, made: str) -> "Mark":
        """The mark of another output: the name or the caption of a picture."""
        return replace(self, made=re.sub(r"(?<=[a-z])(?=\d)", " ", made))

    @property
    def source(self) -> str:
        """The URI of IPTC's digital source type."""
        return _SOURCE + ("trainedAlgorithmicMedia" if self.whole else "compositeWithTrainedAlgorithmicMedia")

    @property
    def text(self) -> str:
        """One line."""
        return "; ".join(filter(None, [TOOL, f"weights {self.weights}" if self.weights else "", self.made]))

    @property
    def tags(self) -> dict[str, str]:
        """The same for formats with key-value metadata, such as Matroska and WebM."""
        return {"DIGITAL_SOURCE_TYPE": self.source, "COMMENT": self.text}


def marked(data: bytes, mark: Mark | None) -> bytes:
    """A JPEG, PNG, WebP, TIFF, GIF or MP4 (also MOV, M4V) file with the mark; other files, or without a mark,
    unchanged.

    Previous software and source are replaced; a user's comment stays, before the new one. Corrupt metadata, or metadata
    too long for a JPEG with the mark, stay unchanged.
    """
    if mark is None:
        return data
    writers: tuple[tuple[bytes, int, Callable[[bytes, Mark], bytes]], ...] = (
        (b"\xff\xd8\xff", 0, _jpeg),
        (b"\x89PNG\r\n\x1a\n", 0, _png),
        (b"WEBP", 8, _webp),
        (b"II*\0", 0, _tagged),
        (b"MM\0*", 0, _tagged),
        (b"GIF8", 0, _gif),
        (b"ftyp", 4, _mp4),
    )
    for begins, at, write in writers:
        if data[at : at + len(begins)] == begins:
            return write(data, mark)
    return data


def mark_file(path: Path, mark: Mark | None) -> None:
    """Like `marked`, in place; videos are only appended to."""
    if mark is None:
        return
    with path.open("r+b") as f:
        begin = f.read(12)
        if begin[4:8] == b"ftyp":
            f.seek(0, 2)
            f.write(_mp4(b"", mark))
        else:
            data = marked(begin + f.read(), mark)
            f.seek(0)
            f.write(data)


def packet(mark: Mark, old: bytes = b"", *, comment: bool = True) -> bytes:
    """XMP, UTF-8.

    Args:
        mark: its content.
        old: XMP to extend.
        comment: also include the text, if there is no EXIF for it.
    """
    text = old.decode("utf-8", "ignore")
    end = list(re.finditer(r"</[\w.-]+:RDF\s*>", text))
    about = re.search(r"""\w:about\s*=\s*("[^"]*"|'[^']*')""", text)
    added = (
        f"<rdf:Description rdf:about={about[1] if about else chr(34) * 2}"
        ' xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
        ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
        ' xmlns:exif="http://ns.adobe.com/exif/1.0/"'
        f" Iptc4xmpExt:DigitalSourceType={quoteattr(mark.source)} xmp:CreatorTool={quoteattr(TOOL)}>"
    )
    if comment:
        said = f'<rdf:li xml:lang="x-default">{escape(mark.text)}</rdf:li>'
        added += f"<exif:UserComment><rdf:Alt>{said}</rdf:Alt></exif:UserComment>"
    added += "</rdf:Description>"
    if not end:
        return (
            '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
            f'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">{added}</rdf:RDF></x:xmpmeta>'
            '<?xpacket end="w"?>'
        ).encode()
    before, after = text[: end[-1].start()], text[end[-1].start() :]
    before = re.sub(rf"<({_REPLACED})\b[^>]*(?:/>|>[^<]*</\1\s*>)", "", before)
    before = re.sub(rf"""\s{_REPLACED}\s*=\s*(?:"[^"]*"|'[^']*')""", "", before)
    return f"{before}{added}{after}".encode()


def _tagged(tiff: bytes, mark: Mark, *, xmp: bool = True) -> bytes:
    """A TIFF, or EXIF (a TIFF without a picture), with new first directories at its end; unchanged if corrupt."""
    order = "<" if tiff[:2] == b"II" else ">"
    data = bytearray(tiff + bytes(len(tiff) % 2))

    def directory(at: int) -> tuple[dict[int, bytes], bytes]:
        (count,) = struct.unpack_from(order + "H", tiff, at)
        rows = [tiff[at + 2 + 12 * i : at + 14 + 12 * i] for i in range(count)]
        after = tiff[at + 2 + 12 * count : at + 6 + 12 * count]
        if len(after) != 4:
            raise struct.error("truncated")
        return {struct.unpack_from(order + "H", row)[0]: row for row in rows}, after

    def stored(content: bytes) -> int:
        at = len(data)
        data.extend(content + bytes(len(content) % 2))
        return at

    def row(tag: int, kind: int, content: bytes) -> bytes:
        value = content.ljust(4, b"\0") if len(content) <= 4 else struct.pack(order + "I", stored(content))
        return struct.pack(order + "HHI", tag, kind, len(content)) + value

    def written(rows: dict[int, bytes], after: bytes) -> int:
        return stored(struct.pack(order + "H", len(rows)) + b"".join(rows[tag] for tag in sorted(rows)) + after)

    def content(row: bytes) -> bytes:
        (size,) = struct.unpack_from(order + "I", row, 4)
        (at,) = struct.unpack_from(order + "I", row, 8)
        return tiff[at : at + size] if size > 4 else row[8 : 8 + size]

    try:
        first, after = directory(struct.unpack_from(order + "I", tiff, 4)[0])
        inner: dict[int, bytes] = {}
        end = bytes(4)
        if _EXIF in first:
            inner, end = directory(struct.unpack_from(order + "I", first[_EXIF], 8)[0])
    except struct.error:
        return tiff
    old = _comment_text(content(inner[_COMMENT]), order) if _COMMENT in inner else ""
    text = f"{old}; {mark.text}" if old else mark.text
    if text.isascii():
        coded = b"ASCII\0\0\0" + text.encode()
    else:
        coded = b"UNICODE\0" + text.encode("utf-16-le" if order == "<" else "utf-16-be")
    inner[_COMMENT] = row(_COMMENT, 7, coded)
    inner.setdefault(_VERSION, row(_VERSION, 7, b"0232"))
    first[_SOFTWARE] = row(_SOFTWARE, 2, TOOL.encode() + b"\0")
    if xmp:
        first[_XMP] = row(_XMP, 1, packet(mark, content(first[_XMP]) if _XMP in first else b"", comment=False))
    first[_EXIF] = struct.pack(order + "HHII", _EXIF, 4, 1, written(inner, end))
    struct.pack_into(order + "I", data, 4, written(first, after))
    return bytes(data)


def _comment_text(coded: bytes, order: str) -> str:
    """The text of EXIF's UserComment."""
    kind, body = coded[:8], coded[8:]
    coding = {b"UNICODE\0": "utf-16-le" if order == "<" else "utf-16-be"}.get(kind, "ascii")
    return body.decode(coding, "ignore").strip("\0 \t\r\n")


def _exif(mark: Mark, old: bytes) -> bytes:
    """EXIF without its header, extended by the mark."""
    return _tagged(old.removeprefix(_IN_JPEG[0]) or _EMPTY, mark, xmp=False)


def _jpeg(data: bytes, mark: Mark) -> bytes:
    at, first, rest, old = 2, b"", b"", dict.fromkeys(_IN_JPEG, b"")
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] not in (b"\xda", b"\xd9", b""):
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        segment, at = data[at:end], end
        name = next((n for n in _IN_JPEG if segment[:2] == b"\xff\xe1" and segment[4:].startswith(n)), None)
        if name is not None and not old[name]:
            old[name] = segment[4 + len(name) :]
        elif segment[:2] == b"\xff\xe0" and not rest:
            first += segment
        else:
            rest += segment
    exif, xmp = _IN_JPEG
    both = []
    for name, new, before in (
        (exif, _exif(mark, old[exif]), old[exif]),
        (xmp, packet(mark, old[xmp], comment=False), packet(mark, comment=False)),
    ):
        body = name + (new if len(name) + len(new) <= _SEGMENT else before)
        both.append(b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body)
    return data[:2] + first + b"".join(both) + rest + data[at:]


def _png(data: bytes, mark: Mark) -> bytes:
    at, kept, exif, xmp = 8, [], b"", b""
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        if kind == b"eXIf":
            exif = body
        elif kind == b"iTXt" and body.startswith(_IN_PNG):
            xmp = _png_text(body[len(_IN_PNG) :])
        else:
            kept.append(data[at : at + 12 + length])
        at += 12 + length
    said = _IN_PNG + bytes(4) + packet(mark, xmp, comment=False)
    new = b""
    for kind, body in ((b"eXIf", _exif(mark, exif)), (b"iTXt", said)):
        new += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return data[:8] + kept[0] + new + b"".join(kept[1:]) + data[at:]


def _png_text(body: bytes) -> bytes:
    """The text of a PNG's international text chunk, after its name."""
    packed, parts = body[:1] == b"\1", body[2:].split(b"\0", 2)
    text = parts[-1] if len(parts) == 3 else b""
    try:
        return zlib.decompressobj().decompress(text, _OLD_TEXT) if packed else text
    except zlib.error:
        return b""


def _webp(data: bytes, mark: Mark) -> bytes:
    chunks = list(_riff(data))
    said = {b"EXIF": b"", b"XMP ": b""} | {kind: body for kind, body in chunks if kind in (b"EXIF", b"XMP ")}
    chunks = [(kind, body) for kind, body in chunks if kind not in said]
    kind, body = chunks[0]
    if kind == b"VP8X":
        header = bytes([body[0] | 0x0C]) + body[1:]
        chunks = chunks[1:]
    else:
        if kind == b"VP8L":
            bits = int.from_bytes(body[1:5], "little")
            alpha, width, height = bits >> 28 & 1, bits & 0x3FFF, bits >> 14 & 0x3FFF
        else:
            alpha, width, height = 0, *((side & 0x3FFF) - 1 for side in struct.unpack_from("<HH", body, 6))
        sides = width.to_bytes(3, "little") + height.to_bytes(3, "little")
        header = bytes([0x0C | alpha << 4, 0, 0, 0]) + sides
    chunks = [
        *((b"VP8X", header), *chunks),
        *((b"EXIF", _exif(mark, said[b"EXIF"])), (b"XMP ", packet(mark, said[b"XMP "], comment=False))),
    ]
    body = b"".join(k + struct.pack("<I", len(b)) + b + bytes(len(b) % 2) for k, b in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _riff(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        yield data[at : at + 4], data[at + 8 : at + 8 + size]
        at += 8 + size + size % 2


def _gif(data: bytes, mark: Mark) -> bytes:
    end = data.rindex(b";")
    ends = bytes([1, *range(255, -1, -1), 0])  # with these any reader finds the end of the text
    return b"GIF89a" + data[6:end] + b"!\xff\x0bXMP DataXMP" + packet(mark) + ends + data[end:]


def _mp4(data: bytes, mark: Mark) -> bytes:
    body = b"uuid" + _IN_MP4 + packet(mark)
    return data + struct.pack(">I", len(body) + 4) + body
