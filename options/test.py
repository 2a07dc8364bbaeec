"""The flags of test.py."""

from collections.abc import Sequence

from cyclegan_age.config import InferConfig, UserError
from options.parse import parse_all


def parse_test(argv: Sequence[str]) -> InferConfig:
    """argv -> configuration.

    Raises:
        UserError: an unknown flag or an invalid value.
    """
    description = "Render faces at any age, and a page that shows them."
    parsed = parse_all([InferConfig()], argv, prog="test.py", description=description)
    (config,) = parsed.configs
    assert isinstance(config, InferConfig)
    for flag, values, words in (
        ("features", config.features, "layers (--features list names them)"),
        ("target_age", config.target_age, "ages in years, or be left out for every decade"),
        ("game", config.game, "aging A, morph A B or kids A B, A and B being photographs"),
    ):
        if flag in parsed.given and not values:
            raise UserError(f"--{flag}: must be followed by {words}")
    return config
