"""Types of values shared by several configurations."""

import re
from collections.abc import Mapping
from pathlib import Path

from cyclegan_age.config.errors import UserError
from cyclegan_age.config.fields import MODEL, Option

OLDEST = 120  # years that can be asked for
CHANGE_PARTS = ("hair", "skin", "shape")
FRAME_NAMES = ("utkface", "ffhq")  # faces.frames.FRAMES has their points
_FRAME_WORDS = (
    f"{', '.join(FRAME_NAMES)}, or x and y of five points, as ten shares of the side with commas between them"
)


def check_strengths(strengths: Mapping[str, float]) -> None:
    """Check the strengths of the parts of a change.

    Raises:
        UserError: an unknown part, or a number outside 0 to 2.
    """
    for part, strength in strengths.items():
        if part not in CHANGE_PARTS:
            raise UserError(f"--change {part}: must be a part, one of {', '.join(CHANGE_PARTS)}")
        if not 0 <= strength <= 2:
            raise UserError(f"--change {part}={strength:g}: must be from 0 to 2")


def frame_numbers(text: str) -> tuple[float, ...]:
    """The ten numbers of a frame without a name, x and y of five points, separated by commas or spaces.

    Raises:
        UserError: not ten numbers from 0 to 1, or the eyes are not side by side.
    """
    try:
        numbers = tuple(float(word) for word in text.replace(",", " ").split())
    except ValueError:
        numbers = ()
    if not (len(numbers) == 10 and all(0 <= n <= 1 for n in numbers) and numbers[0] < numbers[2]):
        raise UserError(f"--frame {text}: must be {_FRAME_WORDS}")
    return numbers


def _is_frame(text: str) -> bool:
    try:
        return text in FRAME_NAMES or bool(frame_numbers(text))
    except UserError:
        return False


def is_face(text: str) -> bool:
    """Whether a text chooses faces: `all`, `largest` or a number from 1 to 9999."""
    return re.fullmatch(r"all|largest|[1-9]\d{0,3}", text, re.ASCII) is not None


def _is_window(window: tuple[float, ...]) -> bool:
    return not window or (len(window) == 3 and min(window) >= 0 and window[2] > 0 and max(window[:2]) + window[2] <= 1)


def _is_plain_name(name: str) -> bool:
    return Path(name).name == name and not name.startswith(".") and len(name) <= 100


FOLDER_NAME = Option(valid=_is_plain_name, must_be="a plain folder name, at most 100 letters, digits, - and _")
FRAME = Option(valid=_is_frame, must_be=_FRAME_WORDS)
FACE = Option(valid=is_face, must_be="all, largest or a number from 1 to 9999")
WINDOW = Option(MODEL, valid=_is_window, must_be="left, top and side of a square inside the picture, as shares")
PORT = Option(at_least=1, at_most=65535)
