"""Common parts of all commands: flags, exit status, errors in one line."""

import errno
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from cyclegan_age.config import UserError

T = TypeVar("T")


class Main(Protocol):
    """A command."""

    def __call__(self, argv: Sequence[str] | None = None) -> int:
        """Run it with flags, by default those of the process; returns the exit status."""


def command(
    parse: Callable[[Sequence[str]], T], *, interrupted: str = ""
) -> Callable[[Callable[[T], int | None]], Main]:
    """Decorator: make a function that takes a configuration the `main` of a script.

    Exit status: the function's result (None is 0); 2 after a UserError or an OSError about a file, which is printed as
    one line; 130 after a KeyboardInterrupt. Error texts use flag names while a command runs.

    Args:
        parse: flags -> configuration. The function imports torch, so that --help does not.
        interrupted: line for stderr after a KeyboardInterrupt.
    """

    def decorate(run: Callable[[T], int | None]) -> Main:
        def main(argv: Sequence[str] | None = None) -> int:
            UserError.in_command = True
            if isinstance(sys.stdout, io.TextIOWrapper):
                sys.stdout.reconfigure(errors="backslashreplace")  # for names that are not of its encoding
            try:
                return run(parse(sys.argv[1:] if argv is None else argv)) or 0
            except UserError as e:
                return _report(str(e))
            except BrokenPipeError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more is written at exit
                return 2
            except OSError as e:
                if not e.filename and e.errno != errno.ENOSPC:
                    raise
                place = f"{e.filename}: " if e.filename else ""
                return _report(f"{place}{e.strerror}; check the name, its permissions and the free space")
            except KeyboardInterrupt:
                if interrupted:
                    print(interrupted, file=sys.stderr)
                return 130

        main.__doc__ = run.__doc__
        return main

    return decorate


def _report(text: str) -> int:
    """Write an error as one line; returns the exit status."""
    print(" ".join(text.splitlines()), file=sys.stderr)
    return 2
