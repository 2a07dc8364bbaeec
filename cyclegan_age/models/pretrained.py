"""Networks that were trained before, as models of their own, and that other models' losses use."""

from dataclasses import replace
from typing import TypeVar

from torch import nn

from cyclegan_age.config import AgeEstimatorConfig, FaceEmbedderConfig, FaceParserConfig, TrainConfig, UserError
from cyclegan_age.data.teacher import sface_layers
from cyclegan_age.faces.frames import Frame, window
from cyclegan_age.models.age_estimator import build_estimator
from cyclegan_age.models.face_embedder import build_embedder
from cyclegan_age.models.face_parser import build_parser
from cyclegan_age.networks.embedders import FaceEmbedder
from cyclegan_age.networks.estimators import AgeEstimator
from cyclegan_age.networks.parsers import FaceParser
from cyclegan_age.networks.sface import LANDMARKS, SIZE, SFace
from cyclegan_age.runs import find_weights
from cyclegan_age.weight_files import Weights, load_weights

Net = TypeVar("Net", AgeEstimatorConfig, FaceEmbedderConfig)


def load_estimator(weights: str, config: TrainConfig, frame: str = "") -> AgeEstimator:
    """A trained age estimator by file, run name or the name of a shipped one.

    Args:
        weights: which.
        config: its `results_dir` is where runs are.
        frame: of the pictures that it is shown, by default its own; of larger ones it looks at its part.

    Raises:
        UserError: no such weights, those of another model, or of a frame that these pictures do not show.
    """
    return trained_estimator(weights, config, frame)[0]


def trained_estimator(weights: str, config: TrainConfig, frame: str = "") -> tuple[AgeEstimator, AgeEstimatorConfig]:
    """As `load_estimator`, and the network's configuration."""
    loaded = _load(weights, config, "--estimators", "age_estimator")
    assert isinstance(loaded.net, AgeEstimatorConfig)
    net = _of_frame(loaded.net, loaded.train.frame, frame, f"--estimators {weights}")
    return loaded.load_into(build_estimator(net), "estimator"), net


def load_embedder(weights: str, config: TrainConfig, frame: str = "") -> FaceEmbedder:
    """A trained face embedder in eval mode; arguments and errors as of `load_estimator`."""
    return trained_embedder(weights, config, frame)[0]


def load_loss_embedder(weights: str, config: TrainConfig) -> nn.Module:
    """An embedder that only a loss needs, for pictures of `config.frame`: as `load_embedder`, or `SFace` for `sface`.

    Raises:
        UserError: see there; or a package is missing.
    """
    if weights == "sface":
        points = tuple((x / SIZE, y / SIZE) for x, y in LANDMARKS)
        return SFace(sface_layers(), window(Frame(points), Frame.of(config.frame)))
    return load_embedder(weights, config, config.frame)


def trained_embedder(weights: str, config: TrainConfig, frame: str = "") -> tuple[FaceEmbedder, FaceEmbedderConfig]:
    """As `load_embedder`, and the network's configuration."""
    if weights == "sface":
        raise UserError("--embedder sface: only for cyclegan, caae and encoder_cdcgan; name a face_embedder")
    loaded = _load(weights, config, "--embedder", "face_embedder")
    assert isinstance(loaded.net, FaceEmbedderConfig)
    net = _of_frame(loaded.net, loaded.train.frame, frame, f"--embedder {weights}")
    return loaded.load_into(build_embedder(net), "embedder").eval(), net


def load_parser(weights: str, config: TrainConfig) -> FaceParser:
    """A trained face parser in eval mode, batch norms fused; arguments and errors as of `load_estimator`."""
    loaded = _load(weights, config, "--parser", "face_parser")
    assert isinstance(loaded.net, FaceParserConfig)
    network = loaded.load_into(build_parser(loaded.net), "parser").eval()
    network.fuse()
    return network


def _load(weights: str, config: TrainConfig, flag: str, model: str) -> Weights:
    """Weights that a flag names, which must be of a model."""
    try:
        path = find_weights("", config.results_dir, weights)
        path = path if path.is_file() else find_weights(weights, config.results_dir, flag=flag)
        loaded = load_weights(path, flag=flag)
    except UserError as e:
        raise UserError(f"{e.text}, or train one by --model {model}") from None
    if loaded.train.model != model:
        raise UserError(f"{flag} {weights}: must be weights of a model {model}, not {loaded.train.model}")
    return loaded


def _of_frame(net: Net, own: str, frame: str, flag: str) -> Net:
    """The configuration of a network of faces in its own frame that is shown pictures of another one.

    Raises:
        UserError: these do not show all that it looks at.
    """
    if not frame or frame == own:
        return net
    left, top, side = window(Frame.of(own), Frame.of(frame))
    if net.window:
        left, top, side = left + side * net.window[0], top + side * net.window[1], side * net.window[2]
    try:
        return replace(net, window=(left, top, side))
    except UserError:
        remedy = f"give weights trained with --frame {frame}"
        raise UserError(f"{flag}: looks at more ({own}) than the frame {frame} shows; {remedy}") from None
