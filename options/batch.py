"""The flags of batch.py."""

from collections.abc import Sequence

from cyclegan_age.config import BatchConfig
from options.parse import parse


def parse_batch(argv: Sequence[str]) -> BatchConfig:
    """argv -> configuration.

    Raises:
        UserError: an unknown flag, an invalid value, or no `--input` or `--output`.
    """
    description = "Age many pictures, on this machine or on the Ray cluster at RAY_ADDRESS."
    return parse(BatchConfig, argv, prog="batch.py", description=description, default=BatchConfig())
