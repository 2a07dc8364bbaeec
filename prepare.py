"""Turn a public face-age set, as downloaded, into age folders with labels; see docs/data.md."""

import sys
from collections.abc import Sequence

from cyclegan_age.config import AuditConfig, LabelConfig, ShardsConfig, UserError
from options.prepare import parse_prepare


def say(line: str) -> None:
    """Print a line, whatever the names of files in it."""
    encoding = sys.stdout.encoding or "utf-8"
    print(line.encode(encoding, errors="backslashreplace").decode(encoding), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit status."""
    try:
        config = parse_prepare(sys.argv[1:] if argv is None else argv)
        # after parsing, since they import torch
        if isinstance(config, LabelConfig):
            from cyclegan_age.labeler.run import label
            from cyclegan_age.web import serve_labels

            serve_labels(config, say) if config.page else label(config, say)
            return 0
        from cyclegan_age.audit.run import audit
        from cyclegan_age.data.prepare.run import prepare
        from cyclegan_age.data.prepare.shards import write_shards

        if isinstance(config, AuditConfig):
            audit(config, say)
        elif isinstance(config, ShardsConfig):
            write_shards(config, say)
        else:
            folder = prepare(config, say)
            if config.shards:
                packed = ShardsConfig(
                    folder=folder, output=folder / "shards", per_shard=config.shards, seed=config.seed
                )
                write_shards(packed, say)
    except UserError as e:
        print(e, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
