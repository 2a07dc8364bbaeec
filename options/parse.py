"""Flags to dataclasses, by tyro, with errors of one line."""

import contextlib
import io
import re
from collections.abc import Sequence
from typing import TypeVar

import tyro

from cyclegan_age.config import UserError

T = TypeVar("T")


def parse(kind: type[T], argv: Sequence[str], *, prog: str, description: str, default: T) -> T:
    """Read flags into a dataclass; both `--target_age` and `--target-age` are understood.

    Raises:
        UserError: an unknown flag or a value that does not fit.
        SystemExit: `--help` was asked for.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                kind,
                prog=prog,
                description=description,
                args=list(argv),
                default=default,
                use_underscores=True,
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as e:
        if e.code == 0:
            raise
        text = re.sub(r"\x1b\[[0-9;]*m|[╭╮╰╯─│]", " ", said.getvalue())
        raise UserError(re.sub(r"\s+", " ", text).strip()) from None


def value_of(flag: str, argv: Sequence[str], default: str) -> str:
    """Value of one flag, read before the others because it decides what these are."""
    for i, word in enumerate(argv):
        if word == flag and i + 1 < len(argv):
            return argv[i + 1]
        if word.startswith(flag + "="):
            return word.split("=", 1)[1]
    return default
