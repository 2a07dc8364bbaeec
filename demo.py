"""Serve the web page that ages faces, and the REST service behind it (see --help)."""

import sys

from cyclegan_age.config import DemoConfig
from options.command import command
from options.demo import parse_demo


@command(parse_demo)
def main(config: DemoConfig) -> None:
    """Serve until the process is stopped."""
    from cyclegan_age.web import serve  # after parsing, since it imports torch

    serve(config, print)


if __name__ == "__main__":
    sys.exit(main())
