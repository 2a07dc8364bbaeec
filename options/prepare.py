"""The flags of prepare.py."""

from collections.abc import Sequence

from cyclegan_age.config import PREPARE_SETS, AuditConfig, LabelConfig, PrepareConfig, ShardsConfig, UserError
from options.parse import parse, value_of


def parse_prepare(argv: Sequence[str]) -> PrepareConfig | AuditConfig | LabelConfig | ShardsConfig:
    """argv -> configuration; the first word is the set, `audit`, `label` or `shards`.

    Raises:
        UserError: an unknown set or flag, a value that does not fit, or no `--source` or `--output`.
    """
    if argv and argv[0] == "audit":
        words = ["--folder", *argv[1:]] if argv[1:] and not argv[1].startswith("-") else argv[1:]
        description = "Look for what may be wrong with a folder of faces: prepare.py audit FOLDER"
        audit = parse(AuditConfig, words, prog="prepare.py audit", description=description, default=AuditConfig())
        if not value_of("--folder", words, ""):
            raise UserError("FOLDER: not given; name a folder of faces after audit")
        return audit
    if argv and argv[0] == "label":
        words = ["--folder", *argv[1:]] if argv[1:] and not argv[1].startswith("-") else argv[1:]
        description = "Label faces: estimate ages and sexes, then confirm them on a page: prepare.py label FOLDER"
        labels = parse(LabelConfig, words, prog="prepare.py label", description=description, default=LabelConfig())
        if not value_of("--folder", words, ""):
            raise UserError("FOLDER: not given; name a folder of faces after label")
        return labels
    if argv and argv[0] == "shards":
        words = ["--folder", *argv[1:]] if argv[1:] and not argv[1].startswith("-") else argv[1:]
        description = "Pack a folder of faces into WebDataset shards: prepare.py shards FOLDER --output SHARDS"
        shards = parse(ShardsConfig, words, prog="prepare.py shards", description=description, default=ShardsConfig())
        for flag, name in (("--folder", "FOLDER"), ("--output", "--output")):
            if not value_of(flag, words, ""):
                raise UserError(f"{name}: not given; prepare.py shards FOLDER --output SHARDS")
        return shards
    if argv and not argv[0].startswith("-"):
        argv = ["--set", *argv]
    description = (
        "Turn a public face-age set, as downloaded, into age folders with labels: "
        "prepare.py SET --source DOWNLOAD --output FOLDER; look for faults: prepare.py audit FOLDER; "
        "label faces that have no labels: prepare.py label FOLDER; "
        "or pack: prepare.py shards FOLDER --output SHARDS"
    )
    config = parse(PrepareConfig, argv, prog="prepare.py", description=description, default=PrepareConfig())
    if not config.set:
        raise UserError(f"SET: not given; give one as the first word: {', '.join(PREPARE_SETS)}")
    for flag, use in (("--source", "the folder as downloaded"), ("--output", "the folder to make")):
        if not value_of(flag, argv, ""):
            raise UserError(f"{flag}: not given; name {use}")
    return config
