"""Age the built-in portrait to every decade with the shipped weights: the first thing to try."""

import sys

from test import main

if __name__ == "__main__":
    sys.exit(main(["--name", "demo", "--life", "--features", "down2", "blocks.2"]))
