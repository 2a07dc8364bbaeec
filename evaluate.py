"""Score weights on faces of known age: age, order, identity, realism, keeping, fairness (see --help)."""

import sys

from cyclegan_age.config import EvaluateConfig
from options.command import command
from options.evaluate import parse_evaluate


@command(parse_evaluate, interrupted="interrupted; the same command goes on from here")
def main(config: EvaluateConfig) -> None:
    """Score the weights, or the snapshots of a run as they come."""
    from cyclegan_age.evaluation.run import evaluate, watch  # after parsing, since they import torch

    (watch if config.watch else evaluate)(config, print)


if __name__ == "__main__":
    sys.exit(main())
