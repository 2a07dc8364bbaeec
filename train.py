"""Train a model on a folder of faces sorted by age; the same command again goes on where it was."""

import logging
import os
import sys
import time
from collections.abc import Sequence

from cyclegan_age.config import UserError
from options.train import parse_train


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    begun = time.monotonic()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    first = os.environ.get("RANK", "0") == "0"  # of the processes of a launcher, which would all say the same
    logging.getLogger("cyclegan_age").setLevel(logging.INFO if first else logging.WARNING)
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns where there is no GPU
    try:
        train_config, net_config = parse_train(sys.argv[1:] if argv is None else argv)
        from cyclegan_age.training.loop import train  # torch is imported only once the flags are known to be right

        run = train(train_config, net_config, begun=begun)
        if first:
            print(f"weights, samples and metrics: {run}")
    except UserError as e:
        print(e, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
