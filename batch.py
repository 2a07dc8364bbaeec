"""Age many pictures, on this machine or on a cluster, going on where an earlier run ended (see --help)."""

import sys
from collections.abc import Sequence

from cyclegan_age.config import UserError
from options.batch import parse_batch


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit status."""
    try:
        config = parse_batch(sys.argv[1:] if argv is None else argv)
        from cyclegan_age.batch.run import run  # after parsing, since it imports torch

        run(config, print)
    except UserError as e:
        print(e, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the pictures written so far are whole, the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
