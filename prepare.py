"""Turn a public face-age set, as downloaded, into age folders with labels; see docs/data.md."""

import sys
from collections.abc import Sequence

from cyclegan_age.config import AuditConfig, UserError
from options.prepare import parse_prepare


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit status."""
    try:
        config = parse_prepare(sys.argv[1:] if argv is None else argv)
        # after parsing, since they import torch
        from cyclegan_age.audit.run import audit
        from cyclegan_age.data.prepare.run import prepare

        audit(config, print) if isinstance(config, AuditConfig) else prepare(config, print)
    except UserError as e:
        print(e, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
