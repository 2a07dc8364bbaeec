"""Score weights on faces of known age: age, order, identity, realism, keeping, fairness (see --help)."""

import sys
from collections.abc import Sequence

from cyclegan_age.config import UserError
from options.evaluate import parse_evaluate


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit status."""
    try:
        config = parse_evaluate(sys.argv[1:] if argv is None else argv)
        from cyclegan_age.evaluation.run import evaluate, watch  # after parsing, since they import torch

        (watch if config.watch else evaluate)(config, print)
    except UserError as e:
        print(e, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
