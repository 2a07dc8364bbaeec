"""The flags of test.py."""

from collections.abc import Sequence

from cyclegan_age.config import InferConfig, UserError
from options.parse import parse


def parse_test(argv: Sequence[str]) -> InferConfig:
    """argv -> configuration.

    Raises:
        UserError: an unknown flag or a value that does not fit.
    """
    description = "Age faces to any year, on a page you can open."
    config = parse(InferConfig, argv, prog="test.py", description=description, default=InferConfig())
    for flag, values, remedy in (
        ("--features", config.features, "name layers (--features list tells them)"),
        ("--target_age", config.target_age, "give ages in years, or leave the flag out for every decade"),
    ):
        if not values and flag in argv:
            raise UserError(f"{flag}: no value given; {remedy}")
    if not config.game and "--game" in argv:
        raise UserError("--game: no value given; give aging A, morph A B or kids A B, A and B being photographs")
    return config
