"""Age many pictures, on this machine or on a cluster. A repeated command resumes an earlier run (see --help)."""

import sys

from cyclegan_age.config import BatchConfig
from options.batch import parse_batch
from options.command import command


@command(
    parse_batch,
    interrupted="interrupted; the pictures written so far are complete, the same command resumes",
)
def main(config: BatchConfig) -> None:
    """Render the pictures."""
    from cyclegan_age.batch.run import run  # after parsing, since it imports torch

    run(config, print)


if __name__ == "__main__":
    sys.exit(main())
