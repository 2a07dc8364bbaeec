"""Serve the page on which faces are aged in the browser, and the REST service behind it (see --help)."""

import sys
from collections.abc import Sequence

from cyclegan_age.config import UserError
from options.demo import parse_demo


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit status."""
    try:
        config = parse_demo(sys.argv[1:] if argv is None else argv)
        # After parsing, since it imports torch and --help should not.
        from cyclegan_age.web import serve

        serve(config, print)
    except UserError as e:
        print(e, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
