"""Pictures with segmentation masks of heads, for face parsers.

A data folder has `images/`, pictures in FFHQ's frame, and `masks/`, a label map for each with the same name. Its values
are the 19 classes of CelebAMask-HQ (Lee et al., "MaskGAN: Towards Diverse and Interactive Facial Image Manipulation",
CVPR 2020).
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from cyclegan_age.config import UserError
from cyclegan_age.data.shards import refuse_shards
from cyclegan_age.data.workers import processors
from cyclegan_age.images import BadImage, decoding, list_images
from cyclegan_age.networks.parsers import PARTS

Mask = NDArray[np.uint8]

# Glasses belong to the face, since the face is visible through them.
_PART_OF = {
    "background": "background",
    **dict.fromkeys(("skin", "nose", "glasses", "left eye", "right eye", "left brow", "right brow"), "face"),
    **dict.fromkeys(("left ear", "right ear", "mouth", "upper lip", "lower lip"), "face"),
    "hair": "hair",
    **dict.fromkeys(("hat", "earring", "necklace"), "other"),
    "neck": "neck",
    "cloth": "other",
}  # in the order of their class indices
_PARTS = np.array([PARTS.index(part) for part in _PART_OF.values()], np.uint8)


@dataclass(frozen=True, eq=False)
class MaskFolder:
    """The pictures of a data folder that have a mask.

    Attributes:
        root: the data folder.
        pictures: N files, sorted.
        masks: N files, in the same order.
        left_out: number of pictures without a mask.
    """

    root: Path
    pictures: list[Path]
    masks: list[Path]
    left_out: int


def scan_masks(dataroot: Path) -> MaskFolder:
    """Find the pictures and masks of a data folder, without opening the files.

    Raises:
        UserError: no such folders, or fewer than two pictures with a mask.
    """
    refuse_shards(dataroot, "a face_parser")
    images, masks = dataroot / "images", dataroot / "masks"
    for folder in (images, masks):
        if not folder.is_dir():
            raise UserError(
                f"--dataroot {dataroot}: no folder {folder.name}/ found; "
                "expected images/ and masks/ (see datasets/README.md)"
            )
    found = list_images(images)
    by_name = {path.relative_to(masks).with_suffix(""): path for path in list_images(masks)}
    pairs = [(path, by_name.get(path.relative_to(images).with_suffix(""))) for path in found]
    both = [(path, mask) for path, mask in pairs if mask]
    if len(both) < 2:
        raise UserError(
            f"--dataroot {dataroot}: {len(both)} pictures in images/ have a mask of the same name in masks/, "
            "at least 2 are needed; give them the same names"
        )
    return MaskFolder(dataroot, [path for path, _ in both], [mask for _, mask in both], len(found) - len(both))


def read_masks(paths: Sequence[Path], size: int) -> Mask:
    """Masks with indices of `PARTS`, uint8 (N, size, size): the majority part of each pixel.

    Masks that are not square are centre-cropped, as pictures are.

    Raises:
        UserError: a file cannot be read, or is no label map of those classes.
    """
    with ThreadPoolExecutor(processors(), "masks") as threads:
        masks = list(threads.map(lambda path: _read(path, size), paths))
    return np.stack(masks)


def _read(path: Path, size: int) -> Mask:
    try:
        with decoding(), Image.open(path) as picture:
            picture.load()
    except (BadImage, OSError) as e:
        cause = (e.strerror or type(e).__name__) if isinstance(e, OSError) else str(e)
        raise UserError(f"{path}: not a valid mask: {cause}; replace it") from None
    classes = np.asarray(picture)
    if picture.mode not in ("L", "P") or classes.max() >= len(_PARTS):
        of = f"mode {picture.mode}" if picture.mode not in ("L", "P") else f"value {classes.max()}"
        raise UserError(
            f"{path}: not a valid mask: {of}; expected one channel with classes from 0 to {len(_PARTS) - 1}"
        )
    parts = _PARTS[classes]
    areas = [
        ImageOps.fit(Image.fromarray((parts == k).astype(np.uint8) * 255), (size, size), Image.Resampling.BOX)
        for k in range(len(PARTS))
    ]
    most: Mask = np.stack([np.asarray(area) for area in areas]).argmax(axis=0).astype(np.uint8)
    return most
