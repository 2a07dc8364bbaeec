"""The flags of prepare.py."""

from collections.abc import Sequence

from cyclegan_age.config import AuditConfig, LabelConfig, PrepareConfig, ShardsConfig
from options.parse import parse


def parse_prepare(argv: Sequence[str]) -> PrepareConfig | AuditConfig | LabelConfig | ShardsConfig:
    """argv -> configuration; the first word is the set, `audit`, `label` or `shards`.

    Raises:
        UserError: an unknown set or flag, an invalid value, or a missing required one.
    """
    action, words = (argv[0] if argv else ""), argv[1:]
    if action == "audit":
        about = "Find faulty pictures and labels in a folder of faces: prepare.py audit FOLDER"
        return parse(AuditConfig, words, prog="prepare.py audit", description=about)
    if action == "label":
        about = "Label faces: estimate ages and sexes, then confirm them on a page: prepare.py label FOLDER"
        return parse(LabelConfig, words, prog="prepare.py label", description=about)
    if action == "shards":
        about = "Pack a folder of faces into WebDataset shards: prepare.py shards FOLDER --output SHARDS"
        return parse(ShardsConfig, words, prog="prepare.py shards", description=about)
    description = (
        "Turn a public face-age set, as downloaded, into age folders with labels: "
        "prepare.py SET --source DOWNLOAD --output FOLDER; find faults: prepare.py audit FOLDER; "
        "label faces that have no labels: prepare.py label FOLDER; "
        "or pack: prepare.py shards FOLDER --output SHARDS"
    )
    return parse(PrepareConfig, argv, prog="prepare.py", description=description)
