"""Render faces at other ages with trained weights: pictures, strips and a gallery page (see --help)."""

import sys
from collections.abc import Sequence

from cyclegan_age.config import UserError
from options.test import parse_test


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit status."""
    try:
        config = parse_test(sys.argv[1:] if argv is None else argv)
        # After parsing, since these import torch and --help should not.
        if config.input and not config.aligned and "list" not in config.features:
            from cyclegan_age.photos import render_photos

            render_photos(config, print)
        else:
            from cyclegan_age.gallery import render_all

            render_all(config, print)
    except UserError as e:
        print(e, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the pictures written so far are whole", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
