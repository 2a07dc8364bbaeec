"""The flags of evaluate.py."""

from collections.abc import Sequence

from cyclegan_age.config import EvaluateConfig
from options.parse import parse


def parse_evaluate(argv: Sequence[str]) -> EvaluateConfig:
    """argv -> configuration.

    Raises:
        UserError: an unknown flag, an invalid value, or no `--dataroot`.
    """
    description = "Evaluate weights on faces of known age: age, order, identity, realism, preservation, fairness."
    return parse(EvaluateConfig, argv, prog="evaluate.py", description=description, default=EvaluateConfig())
