"""Tensors and pictures -> sheets and animations.

Every file is written whole: it appears under its name only when it is complete.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from cyclegan_age.config import needs
from cyclegan_age.images import Picture, grid
from cyclegan_age.provenance import Mark, mark_file

_VIRIDIS = (
    (68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141), (39, 173, 129), (92, 200, 99),
    (170, 220, 50), (253, 231, 37),
)  # fmt: skip
_BLUE_WHITE_RED = ((33, 102, 172), (103, 169, 207), (209, 229, 240), (247, 247, 247),
                   (253, 219, 199), (239, 138, 98), (178, 24, 43))  # fmt: skip
_TILE = 64, 128  # least and greatest side in pixels of one channel on a sheet


def _table(anchors: Sequence[tuple[int, int, int]]) -> Picture:
    at = np.linspace(0, len(anchors) - 1, 256)
    columns = [np.interp(at, np.arange(len(anchors)), [a[c] for a in anchors]) for c in range(3)]
    return np.stack(columns, axis=1).round().astype(np.uint8)  # (256, 3)


_HEAT, _SIGNED = _table(_VIRIDIS), _table(_BLUE_WHITE_RED)


def _heat(values: NDArray[np.float32], low: float, high: float) -> Picture:
    """Values (H, W) -> dark blue at `low` to yellow at `high`, as large as a sheet's tile."""
    span = high - low
    unit = (values - low) / span if span > 0 else np.zeros_like(values)
    factor = max(1, -(-_TILE[0] // max(values.shape)))
    index = (unit.clip(0, 1) * 255).round().astype(np.uint8)
    picture: Picture = _HEAT[index].repeat(factor, axis=0).repeat(factor, axis=1)
    return picture


def _channels(feature_map: Tensor) -> NDArray[np.float32]:
    """(C, H, W), any type and device -> finite float32 array, large maps averaged down to a tile."""
    x = feature_map.detach().float().cpu().nan_to_num()
    factor = -(-max(x.shape[1:]) // _TILE[1])
    if factor > 1:
        x = F.avg_pool2d(x[None], factor, ceil_mode=True)[0]
    array: NDArray[np.float32] = x.numpy()
    return array


def feature_grid(feature_map: Tensor, columns: int = 8, most: int = 64) -> Picture:
    """The channels of one feature map, each over its own range, dark blue (least) to yellow (greatest).

    Args:
        feature_map: (C, H, W).
        columns: channels in a row.
        most: channels shown, from the first on.
    """
    tiles = [_heat(c, float(c.min()), float(c.max())) for c in _channels(feature_map[:most])]
    return grid([tiles[i : i + columns] for i in range(0, len(tiles), columns)])


def feature_strip(feature_maps: Sequence[Tensor], names: Sequence[str], most: int = 8) -> Picture:
    """The same layer over the ages: a column per age, a row per channel, one scale along each row.

    Args:
        feature_maps: one (C, H, W) per age.
        names: of the columns.
        most: rows; the channels that change most between the ages are shown, the strongest change first.
    """
    maps = np.stack([_channels(m) for m in feature_maps])  # (ages, C, H, W)
    change = maps.var(axis=0).mean(axis=(1, 2))
    order = np.argsort(-change, kind="stable")[:most]
    rows = [[_heat(m[c], float(maps[:, c].min()), float(maps[:, c].max())) for m in maps] for c in order]
    return grid(rows, columns=names, row_names=[str(c) for c in order])


def difference_map(a: Picture, b: Picture, reach: int = 64) -> Picture:
    """Where `b` is lighter (red) or darker (blue) than `a`, white where they agree; full colour at `reach` levels.

    Args:
        a: uint8 (H, W, 3).
        b: of the same shape.
        reach: mean difference of the three colours, in levels of 255, that takes the end of the scale.
    """
    if a.shape != b.shape:
        raise ValueError(f"pictures of shapes {a.shape} and {b.shape} have no difference map")
    difference = (b.astype(np.float32) - a.astype(np.float32)).mean(axis=2)
    index = ((difference / reach).clip(-1, 1) * 127.5 + 127.5).round().astype(np.uint8)
    picture: Picture = _SIGNED[index]
    return picture


def thumbnail(image: Image.Image, side: int) -> Picture:
    """A picture, made smaller where a side of it is longer than so many pixels."""
    small = image.copy()
    small.thumbnail((side, side))
    return np.asarray(small)


def strip(pictures: Sequence[Picture], names: Sequence[str]) -> Picture:
    """Pictures of one size side by side with a name over each."""
    return grid([pictures], columns=names)


@contextmanager
def _whole(path: Path, mark: Mark | None = None) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name at the end, marked, or is removed after an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{os.getpid()}-{threading.get_ident()}.part")
    try:
        yield part
        mark_file(part, mark)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def save_png(picture: Picture | Image.Image, path: Path, level: int = 1, mark: Mark | None = None) -> None:
    """Write a PNG; `level` 1 (fast) to 9 (small)."""
    with _whole(path, mark) as part:
        _pil(picture).save(part, format="PNG", compress_level=level)


def save_jpg(picture: Picture | Image.Image, path: Path, quality: int = 92, mark: Mark | None = None) -> None:
    """Write a JPEG; `quality` 1 to 95."""
    with _whole(path, mark) as part:
        _pil(picture).save(part, format="JPEG", quality=quality)


def save_text(text: str, path: Path) -> None:
    """Write UTF-8 text."""
    with _whole(path) as part:
        part.write_text(text, encoding="utf-8")


def _pil(picture: Picture | Image.Image) -> Image.Image:
    return picture if isinstance(picture, Image.Image) else Image.fromarray(picture)


def save_gif(frames: Sequence[Image.Image], path: Path, fps: int = 12, mark: Mark | None = None) -> None:
    """Write an endless GIF with one palette for all frames; delays are rounded to its hundredths of a second."""
    shared = frames[:: max(1, len(frames) // 8)]
    width, height = frames[0].size
    sheet = Image.new("RGB", (width, height * len(shared)))
    for i, frame in enumerate(shared):
        sheet.paste(frame, (0, i * height))
    palette = sheet.quantize(
        256, Image.Quantize.MAXCOVERAGE, kmeans=3
    )  # small things, lips or eyes, keep their colours
    indexed = [f.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for f in frames]
    with _whole(path, mark) as part:
        indexed[0].save(
            part, format="GIF", save_all=True, append_images=indexed[1:], duration=round(100 / fps) * 10, loop=0
        )


def save_mp4(frames: Sequence[Image.Image], path: Path, fps: int = 12, mark: Mark | None = None) -> None:
    """Write an H.264 video that browsers play; odd sides are repeated by one pixel, since the codec needs even ones.

    Raises:
        UserError: the package av is not installed.
    """
    with needs("av"):
        import av

    width, height = frames[0].size
    options = {"movflags": "faststart"}
    with _whole(path, mark) as part, av.open(str(part), "w", format="mp4", options=options) as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        for frame in frames:
            array = np.pad(np.asarray(frame), ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode())
