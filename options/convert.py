"""The flags of convert.py."""

from collections.abc import Sequence

from cyclegan_age.config import ConvertConfig, UserError
from options.parse import parse


def parse_convert(argv: Sequence[str]) -> ConvertConfig:
    """argv -> configuration.

    Raises:
        UserError: an unknown flag, a value that does not fit, or no `--cg`.
    """
    description = "Read a generator of CycleGAN, pix2pix or CUT, and write it as weights for the other commands."
    config = parse(ConvertConfig, argv, prog="convert.py", description=description, default=ConvertConfig())
    if not config.cg:
        raise UserError("--cg: not given; name a generator's file, such as latest_net_G.pth")
    return config
