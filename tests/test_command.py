"""What all commands have in common: the exit status and what stands on stderr."""

import sys
from collections.abc import Sequence

import pytest

from cyclegan_age.config import UserError
from options.command import command


def parse(argv: Sequence[str]) -> str:
    """One word."""
    if len(argv) != 1:
        raise UserError("WORD: required; expected a word")
    return argv[0]


def run(word: str) -> int | None:
    """Do what the word says."""
    if word == "wrong":
        raise UserError("WORD wrong: must be right")
    if word == "stop":
        raise KeyboardInterrupt
    return 1 if word == "found" else None


@pytest.mark.parametrize(
    ("argv", "status", "error"),
    [
        (["done"], 0, ""),
        (["found"], 1, ""),
        ([], 2, "WORD: required; expected a word\n"),
        (["wrong"], 2, "WORD wrong: must be right\n"),
        (["stop"], 130, "interrupted; the same command goes on\n"),
    ],
)
def test_a_command_gives_its_exit_status_and_one_line(
    argv: list[str], status: int, error: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main = command(parse, interrupted="interrupted; the same command goes on")(run)
    assert main(argv) == status
    assert capsys.readouterr().err == error
    monkeypatch.setattr(sys, "argv", ["command.py", *argv])
    assert main() == status
    assert main.__doc__ == run.__doc__


def test_an_interrupted_command_need_not_print_and_other_errors_are_raised(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(parse)(run)(["stop"]) == 130
    assert capsys.readouterr().err == ""
    with pytest.raises(ZeroDivisionError):
        command(parse)(lambda word: 1 // 0)(["done"])
