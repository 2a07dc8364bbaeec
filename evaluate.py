"""Evaluate weights on faces of known age: age, order, identity, realism, preservation, fairness (see --help)."""

import sys

from cyclegan_age.config import EvaluateConfig
from options.command import command
from options.evaluate import parse_evaluate


@command(parse_evaluate, interrupted="interrupted; the same command resumes")
def main(config: EvaluateConfig) -> None:
    """Evaluate the weights, or each new snapshot of a run."""
    from cyclegan_age.evaluation.run import evaluate, watch  # after parsing, since they import torch

    (watch if config.watch else evaluate)(config, print)


if __name__ == "__main__":
    sys.exit(main())
