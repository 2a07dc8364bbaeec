"""A file of weights -> the networks that render with it."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from cyclegan_age.config import ModelConfig, TrainConfig, UserError
from cyclegan_age.devices import best_device
from cyclegan_age.faces.frames import Frame
from cyclegan_age.models import SYSTEMS
from cyclegan_age.models.base import Renderer
from cyclegan_age.weight_files import load_weights

_LARGEST = 10_000  # largest integer accepted in a model configuration
# Errors of building a network from a corrupt file.
_MISFITS = (RuntimeError, ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError)


def load_renderer(path: Path) -> tuple[Renderer, TrainConfig, Frame]:
    """A file's networks, on the GPU if there is one, their training's configuration, and their pictures' frame.

    Raises:
        UserError: no such file, not weights of this package, or weights of another kind of model.
    """
    broken = UserError(f"--weights {path}: do not fit their own configuration; train or copy them again")
    try:
        weights = load_weights(path)
    except _MISFITS:
        raise broken from None
    build = SYSTEMS[weights.train.model].renderer
    if not (_typed(weights.train) and _typed(weights.net)):
        raise broken
    if any(isinstance(value, int) and value > _LARGEST for value in vars(weights.net).values()):
        raise broken
    try:
        if build is None:
            raise UserError(f"must be weights of a model that renders faces, not of {weights.train.model}")
        renderer, device = build(weights), best_device()
        for network in (renderer.generator, renderer.encoder, renderer.calibration):
            if network is not None:
                network.to(device)
        return renderer, weights.train, Frame.of(weights.train.frame)
    except _MISFITS:
        raise broken from None
    except UserError as e:
        raise UserError(f"--weights {path}: {e}") from None


def _typed(config: TrainConfig | ModelConfig) -> bool:
    """Whether the values of a configuration have the types of its defaults; an int passes for a float."""
    pairs = [(getattr(config, one.name), one.default) for one in fields(config)]
    kinds: dict[Any, Any] = {float: (float, int)}
    return all(isinstance(value, kinds.get(type(default), type(default))) for value, default in pairs)
