"""Turn a public face-age set, as downloaded, into age folders with labels; see docs/data.md."""

import sys
from collections.abc import Sequence

from cyclegan_age.config import AuditConfig, LabelConfig, ShardsConfig, UserError
from options.prepare import parse_prepare


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit status."""
    try:
        config = parse_prepare(sys.argv[1:] if argv is None else argv)
        # after parsing, since they import torch
        if isinstance(config, LabelConfig):
            from cyclegan_age.labeler.run import label
            from cyclegan_age.web import serve_labels

            serve_labels(config, print) if config.page else label(config, print)
            return 0
        from cyclegan_age.audit.run import audit
        from cyclegan_age.data.prepare.run import prepare
        from cyclegan_age.data.prepare.shards import write_shards

        if isinstance(config, AuditConfig):
            audit(config, print)
        elif isinstance(config, ShardsConfig):
            write_shards(config, print)
        else:
            folder = prepare(config, print)
            if config.shards:
                packed = ShardsConfig(
                    folder=folder, output=folder / "shards", per_shard=config.shards, seed=config.seed
                )
                write_shards(packed, print)
    except UserError as e:
        print(e, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
