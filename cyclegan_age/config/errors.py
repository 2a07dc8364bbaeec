"""User errors, and the commands that install missing packages."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

_FLAG = re.compile(r"--(no_)?([a-z]\w*)")
_COMMAND = re.compile(r"\.py | install ")  # its flags stay


class UserError(Exception):
    """An error that the user can correct. Its text is one line: the argument or file, the cause, the remedy.

    It is raised with the names of flags. Its text shows these in a command, else the arguments of the same names:
    `weights` for `--weights`, `flip=False` for `--no_flip`.
    """

    in_command: ClassVar[bool] = False  # set by the root scripts

    def __str__(self) -> str:
        if UserError.in_command:
            return self.text
        return ";".join(part if _COMMAND.search(part) else _FLAG.sub(_argument, part) for part in self.text.split(";"))

    @property
    def text(self) -> str:
        """The text with flags, for an error that continues it."""
        return super().__str__()


class WrongWeights(UserError):
    """The weights are of a model that cannot do what is asked. The text does not name the weights; callers add them."""


def _argument(flag: re.Match[str]) -> str:
    return f"{flag[2]}=False" if flag[1] else flag[2]


INSTALLED = (Path(__file__).parent.parent / "verbs").is_dir()
"""Whether this is an installed wheel, which contains the root scripts, and not a checkout."""


def install_extra(name: str) -> str:
    """The command that installs the packages of requirements-NAME.txt."""
    return "python -m pip install " + (f'"cyclegan-age[{name}]"' if INSTALLED else f"-r requirements-{name}.txt")


# Its setup.py needs pkg_resources, which setuptools 81 removed. The ranges are those of requirements-visdom.txt.
INSTALL_VISDOM = (
    'python -m pip install "setuptools<81" wheel && '
    'python -m pip install --no-build-isolation "visdom<0.3" "tornado<6.6"'
)


@contextmanager
def needs(package: str, version: str = "", install: str = "") -> Iterator[None]:
    """Context for the import of a package that not every command needs.

    Args:
        package: its name for pip.
        version: version constraint for pip, such as `<5`.
        install: the command that installs it, where plain pip does not.

    Raises:
        UserError: it is not installed.
    """
    try:
        yield
    except ModuleNotFoundError:
        wanted = f'"{package}{version}"' if version else package
        raise UserError(f"{package}: not installed; run {install or f'python -m pip install {wanted}'}") from None
