"""Train a model on a folder of faces sorted by age; a repeated command resumes."""

import logging
import os
import sys
import time
from collections.abc import Sequence

from cyclegan_age.config import ModelConfig, TrainConfig
from options.command import command
from options.train import parse_train


def parse(argv: Sequence[str]) -> tuple[TrainConfig, ModelConfig, float]:
    """Set up logging and parse the flags; also returns the start time for `--minutes`."""
    begun = time.monotonic()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("cyclegan_age").setLevel(logging.INFO if first_process() else logging.WARNING)
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns where there is no GPU
    return *parse_train(argv), begun


def first_process() -> bool:
    """Whether this is the first of a launcher's processes, to avoid repeated logs."""
    return os.environ.get("RANK", "0") == "0"


@command(parse)
def main(given: tuple[TrainConfig, ModelConfig, float]) -> None:
    """Train, or resume a training."""
    from cyclegan_age.training.loop import train  # torch is imported only after the flags are valid

    config, net, begun = given
    run = train(config, net, begun=begun)
    if first_process():
        print(f"weights, samples and metrics: {run}")


if __name__ == "__main__":
    sys.exit(main())
