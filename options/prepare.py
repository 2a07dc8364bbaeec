"""The flags of prepare.py."""

from collections.abc import Sequence
from typing import TypeVar

from cyclegan_age.config import PREPARE_SETS, AuditConfig, LabelConfig, PrepareConfig, ShardsConfig, UserError
from options.parse import parse, value_of

T = TypeVar("T", AuditConfig, LabelConfig, ShardsConfig)


def parse_prepare(argv: Sequence[str]) -> PrepareConfig | AuditConfig | LabelConfig | ShardsConfig:
    """argv -> configuration; the first word is the set, `audit`, `label` or `shards`.

    Raises:
        UserError: an unknown set or flag, a value that does not fit, or no `--source` or `--output`.
    """
    if argv and argv[0] == "audit":
        return _of_folder(AuditConfig, argv, "Look for what may be wrong with a folder of faces", "audit FOLDER")
    if argv and argv[0] == "label":
        does = "Label faces: estimate ages and sexes, then confirm them on a page"
        return _of_folder(LabelConfig, argv, does, "label FOLDER")
    if argv and argv[0] == "shards":
        does = "Pack a folder of faces into WebDataset shards"
        return _of_folder(ShardsConfig, argv, does, "shards FOLDER --output SHARDS", "--output")
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


def _of_folder(kind: type[T], argv: Sequence[str], does: str, usage: str, *needed: str) -> T:
    """The configuration of `prepare.py WORD FOLDER FLAGS`.

    Args:
        kind: of the configuration.
        argv: WORD and what follows.
        does: for the help.
        usage: what follows `prepare.py`.
        needed: flags that must be given.

    Raises:
        UserError: an unknown flag, a value that does not fit, or no folder or flag that is needed.
    """
    words = ["--folder", *argv[1:]] if argv[1:] and not argv[1].startswith("-") else argv[1:]
    config = parse(kind, words, prog=f"prepare.py {argv[0]}", description=f"{does}: prepare.py {usage}", default=kind())
    for flag in ("--folder", *needed):
        if not value_of(flag, words, ""):
            raise UserError(f"{'FOLDER' if flag == '--folder' else flag}: not given; prepare.py {usage}")
    return config
