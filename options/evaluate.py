"""The flags of evaluate.py."""

from collections.abc import Sequence

from cyclegan_age.config import EvaluateConfig, UserError
from options.parse import parse, value_of


def parse_evaluate(argv: Sequence[str]) -> EvaluateConfig:
    """argv -> configuration.

    Raises:
        UserError: an unknown flag, a value that does not fit, or no `--dataroot`.
    """
    description = "Score weights on faces of known age: age, order, identity, realism, keeping, fairness."
    config = parse(EvaluateConfig, argv, prog="evaluate.py", description=description, default=EvaluateConfig())
    if not value_of("--dataroot", argv, ""):
        raise UserError("--dataroot: not given; name a folder of faces with one sub-folder per age group")
    return config
