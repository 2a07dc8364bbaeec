"""Write trained weights as an ONNX file, a page for the browser, a program, or in half precision (see --help)."""

import sys
from collections.abc import Sequence

from cyclegan_age.config import UserError
from options.export import parse_export


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit status."""
    try:
        config = parse_export(sys.argv[1:] if argv is None else argv)
        from cyclegan_age.export import export  # after parsing, since it imports torch

        print(f"written: {export(config)}")
    except UserError as e:
        print(e, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
