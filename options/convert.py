"""The flags of convert.py."""

from collections.abc import Sequence

from cyclegan_age.config import ConvertConfig
from options.parse import parse


def parse_convert(argv: Sequence[str]) -> ConvertConfig:
    """argv -> configuration.

    Raises:
        UserError: an unknown flag, an invalid value, or no `--cg`.
    """
    description = "Read a generator of CycleGAN, pix2pix or CUT, and write it as weights for the other commands."
    return parse(ConvertConfig, argv, prog="convert.py", description=description, default=ConvertConfig())
