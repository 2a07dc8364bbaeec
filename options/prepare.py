"""The flags of prepare.py."""

from collections.abc import Sequence

from cyclegan_age.config import PREPARE_SETS, PrepareConfig, UserError
from options.parse import parse, value_of


def parse_prepare(argv: Sequence[str]) -> PrepareConfig:
    """argv -> configuration; the first word is the set.

    Raises:
        UserError: an unknown set or flag, a value that does not fit, or no `--source` or `--output`.
    """
    if argv and not argv[0].startswith("-"):
        argv = ["--set", *argv]
    description = (
        "Turn a public face-age set, as downloaded, into age folders with labels: "
        "prepare.py SET --source DOWNLOAD --output FOLDER"
    )
    config = parse(PrepareConfig, argv, prog="prepare.py", description=description, default=PrepareConfig())
    if not config.set:
        raise UserError(f"SET: not given; give one as the first word: {', '.join(PREPARE_SETS)}")
    for flag, use in (("--source", "the folder as downloaded"), ("--output", "the folder to make")):
        if not value_of(flag, argv, ""):
            raise UserError(f"{flag}: not given; name {use}")
    return config
