"""Flags to dataclasses, by tyro, with errors of one line."""

import contextlib
import io
import os
import re
import sys
from collections.abc import Sequence
from typing import TypeVar

import tyro

from cyclegan_age.config import INSTALLED, UserError

T = TypeVar("T")

_IN_WORDS = {"INT": "a whole number", "FLOAT": "a number", "INT ...": "whole numbers", "FLOAT ...": "numbers"}


def parse(kind: type[T], argv: Sequence[str], *, prog: str, description: str, default: T) -> T:
    """Read flags into a dataclass; both `--target_age` and `--target-age` are understood.

    Raises:
        UserError: an unknown flag or a value that does not fit.
        SystemExit: `--help` was asked for.
    """
    if INSTALLED:
        prog = f"cyclegan-age {prog.replace('.py', '')}"
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
    except BrokenPipeError:  # --help | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is not written at the end either
        raise SystemExit(0) from None
    except SystemExit as e:
        if e.code == 0:
            raise
        text = re.sub(r"\x1b\[[0-9;]*m|[╭╮╰╯─│]|-{5,}", " ", said.getvalue())
        raise UserError(_short(re.sub(r"\s+", " ", text).strip(), prog)) from None


def _short(said: str, prog: str) -> str:
    """What tyro says of wrong flags, in the form of this package's errors; as it is where it is of no known kind."""
    if m := re.search(r"Unrecognized options: ([^\s,]+)", said):
        meant = re.search(r"Perhaps you meant: (--\w+)", said)
        if not m[1].startswith("-"):
            return f"{m[1]}: belongs to no flag; put it directly behind the flag that it is for (see {prog} --help)"
        return f"{m[1]}: unknown; " + (f"is {meant[1]} meant?" if meant else f"{prog} --help lists the flags")
    if m := re.search(r"Error parsing (--\w+): (.+?) (?:Argument helptext|For full)", said):
        wanted = re.search(r"Argument helptext: --\w+ (\S.*?) [A-Z][a-z]", said)
        given = re.search(r": \[?'(.*)'\]?$", m[2].replace("', '", " "))
        fault = f" {given[1]}: not understood" if given else f": {m[2].rstrip('.')}"
        takes = re.sub(r"\[(\w+) \[\1 \.\.\.\]\]", r"\1 ...", wanted[1]) if wanted else f"what {prog} --help says"
        return f"{m[1]}{fault}; give {_IN_WORDS.get(takes, takes)}"
    if m := re.search(r"invalid choice ('.*?') for argument '(--\w+)'. Expected one of \((.*?)\)", said):
        return f"{m[2]} {m[1].strip(chr(39))}: unknown; give one of {m[3].replace(chr(39), '')}"
    if m := re.search(r"Missing value for argument '(--\w+)'", said):
        return f"{m[1]}: a value of it is missing; {prog} --help says what it takes"
    return said


def value_of(flag: str, argv: Sequence[str], default: str) -> str:
    """Value of one flag, read before the others because it decides what these are."""
    for i, word in enumerate(argv):
        if word == flag and i + 1 < len(argv):
            return argv[i + 1]
        if word.startswith(flag + "="):
            return word.split("=", 1)[1]
    return default
