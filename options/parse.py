"""Flags to dataclasses, by tyro, with errors of one line.

tyro reports a wrong value by printing it. So every field gets a custom constructor, which takes any number of words
and raises the error itself; unknown flags are returned as a list.
"""

import ast
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, make_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from textwrap import dedent
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, cast, get_args, get_origin

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from cyclegan_age.config import INSTALLED, UserError
from cyclegan_age.config.fields import GROUPS, RARE, flag_of, option_of

T = TypeVar("T")

_WORDS = {int: "whole number", float: "number", str: "word", Path: "path"}


@dataclass(frozen=True)
class Parsed:
    """The content of a command line.

    Attributes:
        configs: one for each of the defaults, in their order.
        given: names of the fields with a value on the command line.
        rest: remaining words.
    """

    configs: list[Any]
    given: set[str]
    rest: list[str]


def make_parser(kind: type[T], prog: str, description: str) -> Callable[[Sequence[str]], T]:
    """A function that parses argv into a configuration; arguments and errors as of `parse`."""
    return lambda argv: parse(kind, argv, prog=prog, description=description)


def parse(kind: type[T], argv: Sequence[str], *, prog: str, description: str) -> T:
    """Parse flags into a dataclass with defaults; accepts both `--target_age` and `--target-age`.

    Args:
        kind: the dataclass.
        argv: the command line.
        prog: the command, for help and errors.
        description: for the help.

    Raises:
        UserError: an unknown flag, an invalid value, or a missing required flag.
        SystemExit: after `--help`.
    """
    return cast("T", parse_all([kind()], argv, prog=prog, description=description).configs[0])


def parse_all(
    defaults: Sequence[Any],
    argv: Sequence[str],
    *,
    prog: str,
    description: str,
    choices: Mapping[str, Sequence[str]] | None = None,
) -> Parsed:
    """Like `parse`, but returns all of the command line.

    Args:
        defaults: instances of dataclasses without a name in common.
        argv: the command line.
        prog: the command, for help and errors.
        description: for the help.
        choices: allowed values of fields, by name.

    Raises:
        UserError: as of `parse`.
        SystemExit: as of `parse`.
    """
    prog = f"cyclegan-age {prog.replace('.py', '')}" if INSTALLED else prog
    parsed = parse_known(defaults, argv, prog=prog, description=description, choices=choices)
    declared = {one.name: one for config in defaults for one in fields(config)}
    if parsed.rest:
        word = parsed.rest[0].partition("=")[0]
        if not word.startswith("-"):
            raise UserError(f"{word}: belongs to no flag; put it directly after its flag")
        names = [*declared, *(f"no_{name}" for name, one in declared.items() if isinstance(one.default, bool))]
        meant = get_close_matches(word.lstrip("-").replace("-", "_"), names, n=1)
        remedy = f"did you mean --{meant[0]}?" if meant else f"{prog} --help lists the flags"
        raise UserError(f"{word}: unknown; {remedy}")
    for name, one in declared.items():
        if (what := option_of(one).required) and name not in parsed.given:
            raise UserError(f"{flag_of(one)}: required; expected {what}")
    return parsed


def parse_known(
    defaults: Sequence[Any],
    argv: Sequence[str],
    *,
    prog: str,
    description: str,
    choices: Mapping[str, Sequence[str]] | None = None,
    add_help: bool = True,
) -> Parsed:
    """Like `parse_all`, but unknown words are returned, and required flags may be missing.

    Raises:
        UserError: an invalid value.
        SystemExit: as of `parse`.
    """
    given: set[str] = set()
    members: dict[str, list[tuple[str, Any, Any]]] = {}
    for config in defaults:
        texts = _texts(type(config))
        for one in fields(config):
            annotation = _argument(one, texts.get(one.name, ""), (choices or {}).get(one.name, ()), given)
            default = field(default=getattr(config, one.name))
            members.setdefault(option_of(one).group, []).append((one.name, annotation, default))
    root = members.pop("", [])
    for group in GROUPS:
        if group in members:
            part = make_dataclass(group, members[group])
            part.__doc__ = "Flags that only some presets use." if group == RARE else ""
            root.append((group, part, field(default_factory=part)))
    kind: Any = make_dataclass("Flags", root)
    try:
        found, rest = tyro.cli(
            kind,
            prog=prog,
            description=description,
            args=list(argv),
            use_underscores=True,
            return_unknown_args=True,
            add_help=add_help,
            config=(tyro.conf.OmitArgPrefixes,),
        )
    except BrokenPipeError:  # --help | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the rest is not written at exit either
        raise SystemExit(0) from None
    values = vars(found)
    for group in members:
        values |= vars(values[group])
    return Parsed([type(c)(**{one.name: values[one.name] for one in fields(c)}) for c in defaults], given, rest)


def _argument(declared: "Field[Any]", text: str, choices: Sequence[str], given: set[str]) -> Any:
    """The type of a field for tyro: its own, with the help and a constructor that raises one-line errors."""
    option, flag = option_of(declared), flag_of(declared)
    hint: Any = get_args(declared.type)[0] if get_origin(declared.type) is Annotated else declared.type
    hint = Literal[tuple(choices)] if choices else hint
    about = tyro.conf.arg(help=text, help_behavior_hint="(required)" if option.required else None)
    if hint is bool:
        return Annotated[hint, about]
    usual = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(hint, set()))
    assert isinstance(usual, PrimitiveConstructorSpec)

    def construct(words: list[str]) -> Any:
        given.add(declared.name)
        shown = " ".join([flag, *words])
        if isinstance(usual.nargs, int) and len(words) != usual.nargs:
            raise UserError(f"{shown}: must be {'' if words else 'followed by '}{_wanted(hint)}")
        if usual.choices and words[0] not in usual.choices:
            raise UserError(f"{shown}: must be {_wanted(hint)}")
        try:
            return usual.instance_from_str(words)
        except ValueError:
            raise UserError(f"{shown}: must be {_wanted(hint)}") from None

    spec = replace(usual, nargs="*", instance_from_str=construct, choices=None)
    if option.positional:
        return Annotated[hint, replace(spec, metavar=flag), about, tyro.conf.Positional]
    return Annotated[hint, spec, about]


def _wanted(hint: Any) -> str:
    """The values of a type, in words."""
    kinds = get_args(hint)
    if get_origin(hint) is Literal:
        return f"one of {', '.join(kinds)}"
    if isinstance(hint, UnionType):
        return _wanted(kinds[0])
    if get_origin(hint) is tuple:
        return f"{_WORDS[kinds[0]]}s" if Ellipsis in kinds else f"{len(kinds)} {_WORDS[kinds[0]]}s"
    return f"one {_WORDS[hint]}"


def _texts(kind: type) -> dict[str, str]:
    """Docstrings of the fields of a dataclass and of its bases."""
    texts = {}
    for base in kind.__mro__[-2::-1]:
        (tree,) = ast.parse(dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for one, after in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and isinstance(after, ast.Expr):
                assert isinstance(after.value, ast.Constant)
                texts[one.target.id] = " ".join(str(after.value.value).split())
    return texts
