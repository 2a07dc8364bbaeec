"""Render faces at other ages with trained weights: pictures, strips and a gallery page (see --help)."""

import sys

from cyclegan_age.config import InferConfig
from options.command import command
from options.test import parse_test


@command(parse_test, interrupted="interrupted; the pictures written so far are complete")
def main(config: InferConfig) -> None:
    """Render the faces."""
    # After parsing, since these import torch and --help should not.
    if config.input and not config.aligned and "list" not in config.features:
        from cyclegan_age.photos import render_photos

        render_photos(config, print)
    else:
        from cyclegan_age.gallery import render_all

        render_all(config, print)


if __name__ == "__main__":
    sys.exit(main())
