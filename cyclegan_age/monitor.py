"""Trackers for accelerate. The training continues if the Visdom server is missing, dies or comes back.

The run's `metrics.jsonl` is authoritative. The page is a copy of it, drawn again whenever the server may have lost it.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker
from accelerate.utils import is_tensorboard_available, is_wandb_available

from cyclegan_age.config import INSTALL_VISDOM, UserError
from cyclegan_age.images import Picture
from cyclegan_age.visdom_tracker import VisdomTracker

logger = logging.getLogger("cyclegan_age")


def trackers(kind: str, *, run_dir: Path, name: str, server: str, port: int) -> list[GeneralTracker | str]:
    """The value for `Accelerator(log_with=...)`.

    Args:
        kind: visdom, tensorboard, wandb, none, or auto: visdom if installed, else none.
        run_dir: the run's folder; Visdom reads its metrics.jsonl, TensorBoard writes to its tensorboard/.
        name: the run's name.
        server: address of the Visdom server, without the port.
        port: its port.

    Raises:
        UserError: unknown kind, its package is not installed, or an invalid address.
    """
    if kind == "none":
        return []
    if kind in ("auto", "visdom"):
        try:
            return [VisdomTracker(run_dir=run_dir, name=name, server=server, port=port)]
        except ImportError:
            if kind == "auto":
                logger.info(
                    "Visdom is not installed, curves are only in %s; to watch live: %s", run_dir, INSTALL_VISDOM
                )
                return []
    elif kind == "tensorboard":
        if is_tensorboard_available():
            return [TensorBoardTracker("tensorboard", run_dir)]
    elif kind == "wandb":
        if is_wandb_available():
            return [WandBTracker("cyclegan_age", name=name, dir=str(run_dir))]
    else:
        raise UserError(f"--monitor {kind}: unknown; must be auto, visdom, tensorboard, wandb or none")
    install = INSTALL_VISDOM if kind == "visdom" else f"python -m pip install {kind}"
    raise UserError(f"--monitor {kind}: the package is not installed; run {install}, or use --monitor none")


def start(accelerator: Accelerator, config: Mapping[str, Any]) -> None:
    """Start the trackers.

    Args:
        accelerator: with the trackers in `log_with`.
        config: settings by name, shown with the run.

    Raises:
        UserError: Weights & Biases has no login, or does not answer.
    """
    try:
        accelerator.init_trackers("cyclegan-age", config=dict(config))
    except Exception as e:
        if not any(isinstance(one, WandBTracker) for one in accelerator.log_with):
            raise
        cause = str(e).strip().splitlines()[0].rstrip(".") if str(e).strip() else type(e).__name__
        raise UserError(f"--monitor wandb: {cause}; set WANDB_MODE=offline, or choose another --monitor") from None


def log_pictures(accelerator: Accelerator, pictures: Mapping[str, Picture], step: int) -> None:
    """Show pictures in every tracker of `accelerator`.

    Args:
        pictures: name -> uint8 (H, W, 3) or (N, H, W, 3), 0..255.
        step: step of the training.
    """
    batches = {name: p[None] if p.ndim == 3 else p for name, p in pictures.items()}
    for tracker in accelerator.trackers:
        if isinstance(tracker, TensorBoardTracker):
            tracker.log_images(batches, step=step, dataformats="NHWC")
        elif isinstance(tracker, VisdomTracker | WandBTracker):
            tracker.log_images(batches, step=step)
