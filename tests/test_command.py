"""What all commands have in common: the exit status and what stands on stderr."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from cyclegan_age.config import UserError
from options.command import command

PROJECT = Path(__file__).resolve().parent.parent


def parse(argv: Sequence[str]) -> str:
    """One word."""
    if len(argv) != 1:
        raise UserError("WORD: required; expected a word")
    return argv[0]


def run(word: str) -> int | None:
    """Do what the word says."""
    if word == "wrong":
        raise UserError("WORD\nwrong: must be right")
    if word == "long":
        Path("x" * 300).is_file()
    if word == "names":
        print("\udcff")
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
        (["long"], 2, f"{'x' * 300}: File name too long; check the name, its permissions and the free space\n"),
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


def test_names_of_another_encoding_are_printed_and_a_reader_may_go(tmp_path: Path) -> None:
    text = f"import sys; sys.path.insert(0, {str(PROJECT)!r}); sys.path.insert(0, {str(PROJECT / 'tests')!r})\n"
    text += "from test_command import *\nsys.exit(command(parse)(run)())"
    call = [sys.executable, "-c", text, "names"]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\\udcff\n", "")
    text = text.replace("(run)()", "(lambda word: [print(word, flush=True) for _ in range(100_000)] and None)()")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*call[:2], text, "x"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (2, "")
