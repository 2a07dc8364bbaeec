"""The flags of demo.py."""

from collections.abc import Sequence

from cyclegan_age.config import DemoConfig
from options.parse import parse


def parse_demo(argv: Sequence[str]) -> DemoConfig:
    """argv -> configuration.

    Raises:
        UserError: an unknown flag or an invalid value.
    """
    description = "Age faces in the browser, and by REST, on this machine."
    return parse(DemoConfig, argv, prog="demo.py", description=description, default=DemoConfig())
