"""Read generators that other programs trained, and write them as weights of this package (see --help)."""

import sys
from collections.abc import Sequence

from cyclegan_age.config import UserError
from options.convert import parse_convert


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit status."""
    try:
        config = parse_convert(sys.argv[1:] if argv is None else argv)
        from cyclegan_age.convert import convert  # after parsing, since it imports torch

        print(f"written: {convert(config)}")
    except UserError as e:
        print(e, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
