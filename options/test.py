"""The flags of test.py."""

from collections.abc import Sequence

from cyclegan_age.config import InferConfig
from options.parse import parse


def parse_test(argv: Sequence[str]) -> InferConfig:
    """argv -> configuration.

    Raises:
        UserError: an unknown flag or a value that does not fit.
    """
    description = "Age faces to any year, on a page you can open."
    return parse(InferConfig, argv, prog="test.py", description=description, default=InferConfig())
