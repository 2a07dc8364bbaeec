"""Convert generators of other programs to weights of this package (see --help)."""

import sys

from cyclegan_age.config import ConvertConfig
from options.command import command
from options.convert import parse_convert


@command(parse_convert)
def main(config: ConvertConfig) -> None:
    """Write the weights."""
    from cyclegan_age.convert import convert  # after parsing, since it imports torch

    print(f"written: {convert(config)}")


if __name__ == "__main__":
    sys.exit(main())
