"""The initial weights of a training: `--init`, or its average with `--init_average`."""

import logging
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from cyclegan_age.config import TrainConfig, UserError
from cyclegan_age.runs import find_weights
from cyclegan_age.training.trainer import Trainer
from cyclegan_age.weight_files import Weights, load_weights

logger = logging.getLogger("cyclegan_age")


def load_initial_weights(config: TrainConfig, trainer: Trainer) -> int:
    """Load the weights of `--init` into the shipped networks and their EMA.

    Returns:
        Number of images that they were trained on.

    Raises:
        UserError: they cannot be read or do not fit.
    """
    model = trainer.model
    trained = {name for names in model.phases.values() for name in names}
    names = [name for name in model.shipped if name in trained]
    weights = _load(config, "init")
    given = {name: model.initial(name, weights) for name in names}
    if config.init_average:
        other = _load(config, "init_average")
        given = {name: _interpolated(config, name, given[name], model.initial(name, other)) for name in names}
    for name in names:
        network = model.networks[name]
        if not given[name] and any(given.values()):  # of an earlier stage
            logger.info("--init %s: keeps its initial weights: %s", config.init, name)
            continue
        try:
            missing, unexpected = network.load_state_dict(given[name], strict=False)
        except RuntimeError as e:
            cause = str(e).splitlines()[-1].strip(" \t.")
            raise UserError(f"--init {config.init}: {cause}; use the same settings, such as --ngf") from None
        if unexpected or len(missing) == len(network.state_dict()):
            raise UserError(
                f"--init {config.init}: its {name} has another architecture, for {weights.train.image_size} px; "
                "use its settings, such as --preset"
            )
        if missing:
            random = _modules(missing, network.state_dict())
            logger.info("--init %s: starts from random weights: %s", config.init, ", ".join(random))
        trainer.ema_networks[name].load_state_dict(network.state_dict())
    return weights.images_seen


def _interpolated(
    config: TrainConfig, name: str, tensors: Mapping[str, Tensor], others: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Weights of a network of `--init` and `--init_average`, linearly interpolated by `--init_share`."""
    sizes, of_others = ({k: list(v.shape) for k, v in one.items()} for one in (tensors, others))
    if wrong := next((k for k in sizes | of_others if sizes.get(k) != of_others.get(k)), None):
        raise UserError(
            f"--init_average {config.init_average}: its {name} has another architecture than that of --init: "
            f"{wrong} is {of_others.get(wrong, 'missing')} and not {sizes.get(wrong, 'there')}; "
            "expected weights with the same settings"
        )
    return {k: torch.lerp(v.float(), others[k].float(), config.init_share) for k, v in tensors.items()}


def _modules(missing: Collection[str], names: Collection[str]) -> list[str]:
    """The largest modules of which all weights are missing, and other missing weights, by their names."""
    prefixes = [[name.rsplit(".", n)[0] for n in range(name.count("."), -1, -1)] for name in names]
    partly = {p for of_name in prefixes if of_name[-1] not in missing for p in of_name}
    found = [next(p for p in of_name if p not in partly) for of_name in prefixes if of_name[-1] in missing]
    return list(dict.fromkeys(found))


def _load(config: TrainConfig, flag: str) -> Weights:
    """The weights of a flag."""
    path = find_weights(getattr(config, flag), config.results_dir, config.model, flag=f"--{flag}")
    return load_weights(path, flag=f"--{flag}")
