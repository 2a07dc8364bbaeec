"""Saves the weights of a training for inference, and its checkpoint."""

import time
from pathlib import Path

from torch import nn

from cyclegan_age.config import TrainConfig
from cyclegan_age.models.base import Model
from cyclegan_age.training.state import Training
from cyclegan_age.weight_files import save_weights

_PICTURES_BYTES = 1_000_000  # approximate size of sheets, curves and metrics


class Checkpoints:
    """Callback after each step."""

    def __init__(self, training: Training) -> None:
        self._training = training
        self._due = False  # whether a checkpoint is due as soon as the steps are finite

    def __call__(self, *, last: bool) -> None:
        """Save if it is due after this step.

        Args:
            last: whether the process ends after this step.
        """
        training, config, step = self._training, self._training.config, self._training.schedule.step
        if training.is_main and (step % config.snapshot_every == 0 or training.ended):
            self._save_weights(training.run / "snapshots" / f"step-{step:07d}.safetensors")
        self._due |= step % config.save_every == 0
        if last or (self._due and not training.trainer.counts.bad_in_a_row):
            self._due, started = False, time.monotonic()
            self.save()
            training.schedule.reserve("files", time.monotonic() - started)

    def save(self) -> None:
        """Save weights and checkpoint."""
        if self._training.is_main:  # first: the checkpoint of the last step marks the training as complete
            self._save_weights(self._training.run / "weights.safetensors")
        self._training.save()

    def _save_weights(self, path: Path) -> None:
        training = self._training
        networks = training.trainer.ema_networks.items()
        tensors = {f"{name}.{k}": v for name, network in networks for k, v in network.state_dict().items()}
        save_weights(path, training.config, training.net, training.images_seen, tensors, training.model.pretrained)


def room_needed(config: TrainConfig, model: Model) -> int:
    """Bytes written by a save, including some pictures."""
    shipped = (model.networks[name] for name in model.shipped)
    ema, state = (sum(map(_bytes, networks)) for networks in (shipped, model.networks.values()))
    state += ema
    if config.checkpoint == "light":
        state //= 2
    else:
        trained = (w for names in model.phases.values() for name in names for w in model.networks[name].parameters())
        parameters = sum(w.numel() * w.element_size() for w in trained)
        state += 2 * parameters if config.optimizer == "adam" else 0
        one = 4 * (3 * config.image_size**2 + 2 * len(config.ages) + 1)  # a picture in a history buffer, and its row
        state += sum(pool.size * one for pool in model.pools.values())
    return state + 2 * ema + _PICTURES_BYTES


def _bytes(network: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in network.state_dict().values())
