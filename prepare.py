"""Turn a public face-age set, as downloaded, into age folders with labels; see docs/data.md."""

import sys

from cyclegan_age.config import AuditConfig, LabelConfig, PrepareConfig, ShardsConfig
from options.command import command
from options.prepare import parse_prepare


def say(line: str) -> None:
    """Print a line, escaping unprintable names of files."""
    encoding = sys.stdout.encoding or "utf-8"
    print(line.encode(encoding, errors="backslashreplace").decode(encoding), flush=True)


@command(parse_prepare, interrupted="interrupted; the same command resumes")
def main(config: PrepareConfig | LabelConfig | AuditConfig | ShardsConfig) -> None:
    """Prepare, label, audit or pack a set."""
    # After parsing, since these import torch.
    if isinstance(config, LabelConfig):
        from cyclegan_age.labeler.run import label
        from cyclegan_age.web import serve_labels

        serve_labels(config, say) if config.page else label(config, say)
        return
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
            packed = ShardsConfig(folder=folder, output=folder / "shards", per_shard=config.shards, seed=config.seed)
            write_shards(packed, say)


if __name__ == "__main__":
    sys.exit(main())
