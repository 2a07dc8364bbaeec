"""Videos: read frames, and rewrite a video with other frames and its own sound."""

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cyclegan_age.config import needs
from cyclegan_age.faces.blending import Pixels
from cyclegan_age.images import BadImage, Picture
from cyclegan_age.provenance import Mark, mark_file

if TYPE_CHECKING:
    from av.container import InputContainer

SUFFIXES = frozenset(
    {
        *(
            ".mp4",
            ".mov",
            ".qt",
            ".m4v",
            ".f4v",
            ".mkv",
            ".webm",
            ".avi",
            ".divx",
            ".mpg",
            ".mpeg",
            ".mpe",
            ".3gp",
            ".3g2",
        ),
        *(".wmv", ".asf", ".flv", ".ogv", ".vob", ".ts", ".mts", ".m2ts", ".mxf"),
    }
)
# Suffix of the input -> suffix and codec of the output; all others become MKV, which supports every audio codec.
_KEPT = {".mp4": "libx264", ".mov": "libx264", ".m4v": "libx264", ".mkv": "libx264", ".webm": "libvpx-vp9"}
_QUALITY = {
    "libx264": {"crf": "16", "preset": "medium"},
    "libvpx-vp9": {"crf": "20", "b:v": "0", "cpu-used": "4", "row-mt": "1"},
}
_OF_THE_FILE = {
    "major_brand",
    "minor_version",
    "compatible_brands",
    "encoder",
}  # metadata that the new file sets itself
_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG}  # errors of the output disk
_CUT = 28  # minimum mean difference of two frames' thumbnails at a cut, in levels of 255

Edit = Callable[[int, Picture], Sequence[Pixels]]


def ending(source: Path) -> str:
    """Suffix of the output files of a video."""
    return source.suffix.lower() if source.suffix.lower() in _KEPT else ".mkv"


@contextmanager
def _opened(source: Path) -> Iterator["InputContainer"]:
    """A video file with a video stream.

    Raises:
        BadImage: it cannot be read, also during later reading.
        OSError: an output file cannot be written.
        UserError: the package av is not installed.
    """
    with needs("av"):
        import av

    try:
        with av.open(str(source), metadata_errors="replace") as container:
            if not container.streams.video:
                raise BadImage("no video stream in it")
            container.streams.video[0].thread_type = "AUTO"
            yield container
    except av.FFmpegError as e:
        if e.errno in _OF_THE_DISK and e.filename != str(source):
            raise OSError(e.errno, e.strerror) from None
        raise BadImage(f"broken video: {e.strerror}") from None
    except UnicodeError:
        raise BadImage("broken video: its metadata is not UTF-8") from None


def rate(source: Path) -> tuple[float, int]:
    """Frames per second and, if the file contains it, their number (or 0)."""
    with _opened(source) as container:
        stream = container.streams.video[0]
        fps = float(stream.average_rate or stream.guessed_rate or 25)
        count = stream.frames or round(float((stream.duration or 0) * (stream.time_base or 0)) * fps)
        return fps, int(count)


def frames(source: Path) -> Iterator[Picture]:
    """Every frame, upright: uint8 (H, W, 3)."""
    with _opened(source) as container:
        for frame in container.decode(video=0):
            yield _upright(frame)


def begins_scene(before: Picture, after: Picture) -> bool:
    """Whether two successive frames belong to different scenes."""
    a, b = (frame[:: max(1, len(frame) // 32), :: max(1, frame.shape[1] // 32)] for frame in (before, after))
    return a.shape != b.shape or float(abs(a.astype(np.float32) - b).mean()) > _CUT


def rewrite(source: Path, targets: Sequence[Path], edit: Edit, marks: Sequence[Mark] = ()) -> int:
    """Rewrite a video, once for each target, with other pictures at the same times and with the same sound.

    Args:
        source: the video.
        targets: output files; their suffixes, see `ending`, determine the format.
        edit: index of a frame from 0 on, and the frame, upright -> a picture of the same size for each target.
        marks: provenance of each target; without them none is written.

    Returns:
        Number of frames.

    Raises:
        BadImage: the video cannot be read, or its content cannot be written in such files.
        OSError: the targets cannot be written, for example on a full disk.
    """
    count: int = 0
    with _opened(source) as container, ExitStack() as stack:
        import av

        video, sounds = container.streams.video[0], container.streams.audio
        outs = [stack.enter_context(av.open(str(target), "w")) for target in targets]
        for out in outs:
            out.metadata.update({k: v for k, v in container.metadata.items() if k.lower() not in _OF_THE_FILE})
        for out, mark in zip(outs, marks, strict=False):
            key = next((k for k in out.metadata if k.lower() == "comment"), "COMMENT")
            said = [out.metadata.get(key, ""), mark.tags["COMMENT"]]
            out.metadata.update(mark.tags | {key: "; ".join(filter(None, said))})
        copies = [{sound.index: out.add_stream_from_template(sound) for sound in sounds} for out in outs]
        writers: list[Any] = []
        waiting: list[Any] = []  # sound that comes before the first frame
        for packet in container.demux(video, *sounds):
            if packet.stream.type == "audio":
                if packet.dts is not None:
                    waiting.append(packet)
            else:
                for frame in packet.decode():
                    picture = _upright(frame)
                    if not writers:
                        codecs = [_KEPT[ending(target)] for target in targets]
                        pixel = video.sample_aspect_ratio or Fraction(1)
                        pixel = 1 / pixel if _turns(frame) % 2 else pixel
                        writers = [_writer(o, c, video, picture, pixel) for o, c in zip(outs, codecs, strict=True)]
                    for out, writer, made in zip(outs, writers, edit(count, picture), strict=True):
                        out.mux(writer.encode(_frame(made, picture, frame)))
                    count += 1
            if writers:
                for sound in waiting:
                    index = sound.stream.index
                    for out, copied in zip(outs, copies, strict=True):
                        sound.stream = copied[index]
                        out.mux(sound)
                waiting = []
        if not count:
            raise BadImage("no frame in it")
        for out, writer in zip(outs, writers, strict=True):
            out.mux(writer.encode())
    for target, mark in zip(targets, marks, strict=False):
        mark_file(target, mark)
    return count


def _upright(frame: Any) -> Picture:
    """A frame in upright orientation, uint8 (H, W, 3); phones store it rotated by multiples of 90 degrees."""
    array: Picture = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(array, _turns(frame)))


def _turns(frame: Any) -> int:
    """Counterclockwise quarter turns that make a frame upright."""
    return round(int(frame.rotation) / 90) % 4


def _writer(out: Any, codec: str, video: Any, picture: Picture, pixel: Fraction) -> Any:
    """A video stream like `video`, for such pictures, whose pixels are `pixel` times as wide as high."""
    rate = Fraction(video.average_rate or video.guessed_rate or 25)
    stream = out.add_stream(codec, rate=rate, options=_QUALITY[codec])
    height, width = picture.shape[:2]
    stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
    stream.codec_context.time_base = video.time_base
    stream.codec_context.sample_aspect_ratio = pixel
    for name in ("color_range", "color_primaries", "color_trc", "colorspace"):
        value = getattr(video.codec_context, name)
        if name != "color_range" and value not in (None, 2):  # 2: unspecified
            setattr(stream.codec_context, name, value)
    return stream


def _frame(picture: Pixels, before: Picture, like: Any) -> Any:
    """A picture in the codec's format, at the time of the frame `like`, whose picture was `before`.

    Only the difference is added to that frame's own values, so that unchanged pixels keep their decoded values. If the
    frame is stored differently (rotated, or in more than 8 bits), the whole picture is converted. Odd sides are
    extended by one pixel.
    """
    import av

    frame = _yuv(picture, like)
    same_size = (like.width, like.height) == (frame.width, frame.height) == (picture.shape[1], picture.shape[0])
    if like.format.name == frame.format.name and same_size and not _turns(like):
        values = [one.to_ndarray().astype(np.int16) for one in (like, frame, _yuv(before, like))]
        mixed = (values[0] + values[1] - values[2]).clip(0, 255)
        frame = av.VideoFrame.from_ndarray(mixed.astype(np.uint8), format="yuv420p")
    frame.pts, frame.time_base = like.pts, like.time_base
    return frame


def _yuv(picture: Pixels, like: Any) -> Any:
    """A picture as 8-bit YUV by the matrix of the frame `like`."""
    import av

    height, width = picture.shape[:2]
    padded = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge").astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(padded), format="rgb24")
    return frame.reformat(format="yuv420p", dst_colorspace=None if like.colorspace == 2 else like.colorspace)
