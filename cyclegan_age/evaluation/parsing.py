"""Metrics of face parsers: pictures with masks -> intersection over union."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from cyclegan_age.config import EvaluateConfig, TrainConfig, UserError
from cyclegan_age.data.masks import MaskFolder, read_masks, scan_masks
from cyclegan_age.images import BadImage, Picture, open_image, to_float, to_square
from cyclegan_age.models import load_parser
from cyclegan_age.models.face_parser import confusion, intersection_over_union
from cyclegan_age.networks.parsers import PARTS, FaceParser
from cyclegan_age.rendering.pictures import save_text

_BATCH = 16


def evaluate_parsers(
    config: EvaluateConfig, weights: Mapping[str, Path], folder: Path, say: Callable[[str], None]
) -> None:
    """Score face parsers side by side and write the table (text and JSON).

    Args:
        config: `dataroot` holds images/ and masks/, `image_size` is the size of the masks compared, `limit` as there.
        weights: files by name.
        folder: the output folder.
        say: called with progress lines for the user.

    Raises:
        UserError: no such data, a picture or mask that cannot be read, or weights of another model.
    """
    data = scan_masks(config.dataroot)
    count = min(config.limit or len(data.pictures), len(data.pictures))
    rows = {
        name: parts_found(load_parser(str(path), TrainConfig()), data, config.image_size, count)
        for name, path in weights.items()
    }
    wide = max(map(len, rows))
    lines = [f"intersection over union on {count} heads, masks of {config.image_size} px", ""]
    lines.append(" ".join([" " * wide, *(f"{part:>10}" for part in PARTS)]))
    lines += [" ".join([f"{name:{wide}}", *(f"{v:10.3f}" for v in values)]) for name, values in rows.items()]
    table = {
        name: {part: None if math.isnan(v) else round(v, 6) for part, v in zip(PARTS, values, strict=True)}
        for name, values in rows.items()
    }
    save_text("\n".join(lines) + "\n", folder / "table.txt")
    save_text(json.dumps({"heads": count, "rows": table}, indent=1) + "\n", folder / "table.json")
    say("\n".join(lines))


def parts_found(parser: FaceParser, data: MaskFolder, size: int, count: int) -> list[float]:
    """Intersection over union of each of `PARTS` on the first pictures, over all their pixels together.

    Args:
        parser: in eval mode.
        data: the pictures and masks.
        size: side in pixels at which they are compared.
        count: number of pictures.
    """
    total = torch.zeros(len(PARTS), len(PARTS), dtype=torch.int64)
    for first in range(0, count, _BATCH):
        some = slice(first, min(first + _BATCH, count))
        pictures = np.stack([_picture(path, size) for path in data.pictures[some]])
        masks = torch.from_numpy(read_masks(data.masks[some], size))
        with torch.inference_mode():
            total += confusion(parser.probabilities(to_float(pictures), size).argmax(dim=1), masks)
    return intersection_over_union(total)


def _picture(path: Path, size: int) -> Picture:
    try:
        return to_square(open_image(path), size)
    except (BadImage, OSError) as e:
        raise UserError(f"{path}: not a readable picture: {e}; replace it") from None
