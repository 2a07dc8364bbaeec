"""One picture of a public set: checked, aligned and written."""

import io
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from cyclegan_age.data.prepare.copies import perceptual_hash
from cyclegan_age.data.prepare.plan import Item
from cyclegan_age.data.prepare.rows import NO_FACE, TWO_FACES
from cyclegan_age.faces.alignment import Place, crop, opencv
from cyclegan_age.faces.detection import detector
from cyclegan_age.faces.frames import Frame
from cyclegan_age.files import write_atomically, write_error
from cyclegan_age.images import BadImage, Picture, open_image

_BESIDE = 0.5  # relative size from which a second face makes the label ambiguous
_QUALITY = 90  # of WebP
_ALIGNED = 0.12  # largest distance between corners of the crop and of a picture that is aligned already, in sides


@lru_cache(maxsize=1)
def _cv2() -> Any:
    cv2 = opencv()
    cv2.setNumThreads(1)  # there is one process per core
    return cv2


def make(output: Path, frame: str, size: int, item: Item) -> dict[str, Any]:
    """Make one picture.

    Args:
        output: the folder.
        frame: of the crop; empty to keep the picture unchanged.
        size: largest side of the crop in pixels.
        item: the picture.

    Returns:
        `reason` for its exclusion, or empty; the shorter `side` in pixels, `sharpness` (variance of the Laplacian) and
        the perceptual `hash` of the output, in hexadecimal; whether the picture was `kept` whole and upright, and the
        share of the crop that lies `beyond` it.

    Raises:
        UserError: it cannot be written.
    """
    cv2 = _cv2()
    kept, beyond = not frame, 0.0
    try:
        data = item.row.file.read_bytes()
        picture: Picture = np.asarray(open_image(data))
    except BadImage as e:
        return {"reason": str(e)}
    except OSError as e:
        return {"reason": f"cannot be read: {e.strerror}"}
    if frame:
        faces = sorted(detector().find(picture), key=lambda face: -face.size)
        if not faces:
            return {"reason": NO_FACE}
        if len(faces) > 1 and faces[1].size >= _BESIDE * faces[0].size:
            return {"reason": TWO_FACES}
        place = faces[0].place(Frame.of(frame))
        height, width = picture.shape[:2]
        kept = height == width and place.off(picture.shape) <= _ALIGNED
        if kept:
            place = Place(0j, complex(width))
        beyond = place.beyond(picture.shape)
        if not kept or width > size:
            picture = crop(picture, place, min(size, max(32, round(place.side))))
        data = webp(picture)
    try:
        write_atomically(output / item.file, data, sync=False)
    except OSError as e:
        raise write_error(f"--output {output}", e, "or choose another folder") from None
    grey = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY)
    spread = float(cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))[1][0, 0])
    return {
        "reason": "",
        "side": min(picture.shape[:2]),
        "sharpness": round(spread**2, 1),
        "hash": perceptual_hash(grey),
        "kept": kept,
        "beyond": round(beyond, 3),
    }


def webp(picture: Picture) -> bytes:
    """A crop, encoded as WebP."""
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(picture).save(data, "WEBP", quality=_QUALITY, method=2)
    return data.getvalue()
