"""Write trained weights as an ONNX file, a page for the browser, a program, or in half precision (see --help)."""

import sys

from cyclegan_age.config import ExportConfig
from options.command import command
from options.export import parse_export


@command(parse_export)
def main(config: ExportConfig) -> None:
    """Write the file."""
    from cyclegan_age.export import export  # after parsing, since it imports torch

    print(f"written: {export(config)}")


if __name__ == "__main__":
    sys.exit(main())
