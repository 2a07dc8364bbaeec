"""Render faces at other ages with trained weights: pictures, strips and a gallery page (see --help)."""

import sys

from cyclegan_age.config import InferConfig
from options.command import command
from options.test import parse_test


@command(parse_test, interrupted="interrupted; the pictures written so far are whole")
def main(config: InferConfig) -> None:
    """Render the faces."""
    from cyclegan_age.rendering.gallery import render_all  # after parsing: it imports torch, and --help should not

    render_all(config, print)


if __name__ == "__main__":
    sys.exit(main())
