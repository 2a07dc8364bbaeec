"""The flags of train.py."""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

from cyclegan_age.config import MODEL_CONFIGS, CycleGANPairConfig, ModelConfig, TrainConfig
from options.parse import parse_all, parse_known
from options.presets import LATER_STAGES, PRESETS

logger = logging.getLogger("cyclegan_age")


@dataclasses.dataclass(frozen=True)
class _Model:
    """The flag that determines the others."""

    model: str = TrainConfig.model


@dataclasses.dataclass(frozen=True)
class _Preset:
    """The flag that determines the defaults of the others."""

    preset: str = TrainConfig.preset


def parse_train(argv: Sequence[str]) -> tuple[TrainConfig, ModelConfig]:
    """argv -> configuration of the training and of the model; `--model` and `--preset` set the defaults of the rest.

    Raises:
        UserError: an unknown name or flag, an invalid value, or no `--dataroot`.
    """
    # Each pass removes its flags from the words, and the next one reads the rest.
    known: dict[str, Any] = {"model": tuple(MODEL_CONFIGS)}
    first = parse_known([_Model()], argv, prog="train.py", description="", choices=known, add_help=False)
    model = first.configs[0].model
    known["preset"] = tuple(PRESETS[model])
    second = parse_known([_Preset()], first.rest, prog="train.py", description="", choices=known, add_help=False)
    preset = second.configs[0].preset
    train_defaults, net_defaults = PRESETS[model][preset]
    defaults = (
        TrainConfig(model=model, preset=preset, **train_defaults),
        MODEL_CONFIGS[model](**net_defaults),
    )
    description = f"Train {model} on a folder of age groups."
    parsed = parse_all(defaults, second.rest, prog="train.py", description=description, choices=known)
    train, net = parsed.configs
    if isinstance(net, CycleGANPairConfig) and all((train.dataroot / name).is_dir() for name in ("trainA", "trainB")):
        names: dict[str, Any] = {"group_a": "A", "group_b": "B"}  # of any pictures
        names = {flag: name for flag, name in names.items() if flag not in parsed.given}
        net = dataclasses.replace(net, **names)
    if preset in LATER_STAGES.get(model, ()) and not train.init:
        logger.warning(
            "--preset %s: a later stage, but without --init it starts from random weights; "
            "use --init RUN or --init shipped to start from an earlier one",
            preset,
        )
    return train, net
