"""Kinds of values that several configurations have."""

from collections.abc import Mapping

from cyclegan_age.config.errors import UserError
from cyclegan_age.config.fields import MODEL, Option

OLDEST = 120  # years that can be asked for
CHANGE_PARTS = ("hair", "skin", "shape")
FRAME_NAMES = ("utkface", "ffhq")  # faces.frames.FRAMES has their points
_FRAME_WORDS = (
    f"{', '.join(FRAME_NAMES)}, or x and y of five points, as ten shares of the side with commas between them"
)


def check_strengths(strengths: Mapping[str, float]) -> None:
    """Check how strongly parts of a change are to be done.

    Raises:
        UserError: an unknown part, or a number that is not from 0 to 2.
    """
    for part, strength in strengths.items():
        if part not in CHANGE_PARTS:
            raise UserError(f"--change {part}: must be a part, one of {', '.join(CHANGE_PARTS)}")
        if not 0 <= strength <= 2:
            raise UserError(f"--change {part}={strength:g}: must be from 0 to 2")


def frame_numbers(text: str) -> tuple[float, ...]:
    """The ten numbers of a frame that has no name, x and y of five points; commas or spaces stand between them.

    Raises:
        UserError: not ten numbers from 0 to 1, or the eyes are not beside each other.
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


def _is_face(text: str) -> bool:
    return text in ("all", "largest") or (text.isdecimal() and int(text) > 0)


def _is_window(window: tuple[float, ...]) -> bool:
    return not window or (len(window) == 3 and min(window) >= 0 and window[2] > 0 and max(window[:2]) + window[2] <= 1)


FRAME = Option(valid=_is_frame, must_be=_FRAME_WORDS)
FACE = Option(valid=_is_face, must_be="all, largest or a number from 1 on")
WINDOW = Option(MODEL, valid=_is_window, must_be="left, top and side of a square inside, as shares")
PORT = Option(at_least=1, at_most=65535)
