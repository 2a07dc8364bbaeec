"""The flags of train.py."""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

from cyclegan_age.config import MODEL_CONFIGS, CycleGANPairConfig, ModelConfig, TrainConfig, UserError
from options.parse import parse, value_of
from options.presets import LATER_STAGES, PRESETS

logger = logging.getLogger("cyclegan_age")


def parse_train(argv: Sequence[str]) -> tuple[TrainConfig, ModelConfig]:
    """argv -> configuration of the training and of the model; `--model` and `--preset` set the defaults of the rest.

    Raises:
        UserError: an unknown name or flag, a value that does not fit, or no `--dataroot`.
    """
    model = value_of("--model", argv, TrainConfig.model)
    if model not in MODEL_CONFIGS:
        raise UserError(f"--model {model}: unknown; the models are {', '.join(MODEL_CONFIGS)}")
    preset = value_of("--preset", argv, TrainConfig.preset)
    if preset not in PRESETS[model]:
        raise UserError(f"--preset {preset}: unknown for {model}; the presets are {', '.join(PRESETS[model])}")
    train_defaults, net_defaults = PRESETS[model][preset]
    kind = MODEL_CONFIGS[model]
    both: Any = dataclasses.make_dataclass("Both", [("train", TrainConfig), ("net", kind)])
    default = both(TrainConfig(model=model, preset=preset, **train_defaults), kind(**net_defaults))
    out = parse(both, argv, prog="train.py", description=f"Train {model} on a folder of age groups.", default=default)
    train, net = out.train, out.net
    if not value_of("--dataroot", argv, ""):
        raise UserError("--dataroot: not given; name the folder that holds one sub-folder per age group")
    if isinstance(net, CycleGANPairConfig) and all((train.dataroot / name).is_dir() for name in ("trainA", "trainB")):
        given = {word.partition("=")[0].lstrip("-").replace("-", "_") for word in argv}
        names: dict[str, Any] = {"group_a": "A", "group_b": "B"}  # of pictures of any kind
        names = {flag: name for flag, name in names.items() if flag not in given}
        net = dataclasses.replace(net, **names)
    if preset in LATER_STAGES.get(model, ()) and not train.init:
        logger.warning(
            "--preset %s: a later stage, but without --init it begins from random weights; "
            "give --init RUN or --init shipped to go on from an earlier one",
            preset,
        )
    return train, net
