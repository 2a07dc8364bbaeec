"""The flags of batch.py."""

from collections.abc import Sequence

from cyclegan_age.config import BatchConfig, UserError
from options.parse import parse, value_of


def parse_batch(argv: Sequence[str]) -> BatchConfig:
    """argv -> configuration.

    Raises:
        UserError: an unknown flag, a value that does not fit, or no `--input` or `--output`.
    """
    description = "Age many pictures, on this machine or on the Ray cluster that RAY_ADDRESS names."
    config = parse(BatchConfig, argv, prog="batch.py", description=description, default=BatchConfig())
    for flag, use in (("--input", "the pictures"), ("--output", "the folder of the results")):
        if not value_of(flag, argv, ""):
            raise UserError(f"{flag}: not given; name {use}")
    return config
