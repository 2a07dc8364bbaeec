"""Fields of configurations: each declares its constraints, and one function checks them all."""

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, Field, dataclass, fields
from itertools import pairwise
from typing import Any

from cyclegan_age.config.errors import UserError

# Groups of flags in the help, in its order.
GROUPS = ("data", "model", "loss", "optimisation", "runtime", "logging", "rare")
DATA, MODEL, LOSS, OPTIMISATION, RUNTIME, LOGGING, RARE = GROUPS


@dataclass(frozen=True)
class Option:
    """Constraints of a field, such as `lr: Annotated[float, Option(above=0)]`; bounds apply to each number of a tuple.

    Attributes:
        group: of the flag in the help, one of `GROUPS`.
        required: description of the value, for a flag that must be given.
        positional: on the command line it is a word without a flag.
        length: length of a tuple.
        min_length: minimum length of a tuple.
        max_length: maximum length of a tuple.
        rising: each number of a tuple is above the one before.
        choices: the allowed values.
        endings: suffixes of a file name.
        valid: a predicate for other constraints; requires `must_be`.
        must_be: the text for the error, where the text of the bounds is too short.
        needs: (flag, *values): this field may differ from its default only if that flag has one of the values; without
            values, if that flag is set, neither empty nor 0.
    """

    group: str = ""
    _: KW_ONLY
    required: str = ""
    positional: bool = False
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    multiple_of: int = 1
    length: int | None = None
    min_length: int = 0
    max_length: int | None = None
    rising: bool = False
    choices: tuple[Any, ...] = ()
    endings: tuple[str, ...] = ()
    valid: Callable[[Any], bool] | None = None
    must_be: str = ""
    needs: tuple[str, ...] = ()

    def holds(self, value: Any, many: bool) -> bool:
        """Whether a value satisfies the constraints.

        Args:
            value: of the field.
            many: it is a tuple.

        Raises:
            TypeError: the value has the wrong type.
        """
        return (
            (self.length is None or len(value) == self.length)
            and (not self.min_length or len(value) >= self.min_length)
            and (self.max_length is None or len(value) <= self.max_length)
            and (not self.rising or all(a < b for a, b in pairwise(value)))
            and (not self.choices or value in self.choices)
            and (not self.endings or value.suffix in self.endings)
            and (self.valid is None or self.valid(value))
            and all(self._within(one) for one in (value if many else (value,)))
        )

    def _within(self, value: Any) -> bool:
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
            and (self.multiple_of == 1 or value % self.multiple_of == 0)
        )

    def words(self, many: bool) -> str:
        """The constraint as a text after "must be".

        Args:
            many: it is a tuple.
        """
        if self.must_be:
            return self.must_be
        if self.choices or self.endings:
            given = ", ".join(filter(None, map(str, self.choices or self.endings)))
            return f"one of {given}" if self.choices else f"a file name that ends in {given}"
        low = f"at least {self.at_least:g}" if self.at_least is not None else ""
        low = f"above {self.above:g}" if self.above is not None else low
        high = f"at most {self.at_most:g}" if self.at_most is not None else ""
        high = f"below {self.below:g}" if self.below is not None else high
        bounds = " and ".join(filter(None, (low, high)))
        if self.at_least is not None and self.at_most is not None:
            bounds = f"from {self.at_least:g} to {self.at_most:g}"
        multiple = f"a multiple of {self.multiple_of}" if self.multiple_of > 1 else ""
        bounds = ", ".join(filter(None, (multiple, bounds)))
        if not many:
            return bounds
        count = f"{self.length} numbers" if self.length else "numbers"
        count = f"{self.min_length} or more numbers" if self.min_length else count
        return ", ".join(filter(None, (count, "rising" if self.rising else "", bounds and f"each {bounds}")))


def option_of(declared: "Field[Any]") -> Option:
    """The constraints of a field."""
    return next((one for one in getattr(declared.type, "__metadata__", ()) if isinstance(one, Option)), Option())


def flag_of(declared: "Field[Any]") -> str:
    """The command-line flag of a field."""
    return declared.name.upper() if option_of(declared).positional else f"--{declared.name}"


def _given(declared: "Field[Any]", value: Any) -> str:
    """A flag with its value, as typed on the command line."""
    if isinstance(value, bool):
        return f"--{declared.name}" if value else f"--no_{declared.name}"
    many = value if isinstance(value, tuple) else (value,)
    return " ".join([flag_of(declared), *(f"{v:.12g}" if isinstance(v, float) else str(v) for v in many)])


def check(config: Any) -> None:
    """Check every field, then the fields together, by `check_together` of each class.

    Raises:
        UserError: a check fails.
    """
    for declared in fields(config):
        option, value = option_of(declared), getattr(config, declared.name)
        if value is None and declared.default is None:
            continue
        many = isinstance(declared.default, tuple)
        numbers = [one for one in (value if isinstance(value, tuple) else (value,)) if isinstance(one, float)]
        require(config, declared.name, option.holds(value, many), option.words(many))
        require(config, declared.name, value == declared.default or all(map(math.isfinite, numbers)), "finite")
    for declared in fields(config):
        if (needs := option_of(declared).needs) and getattr(config, declared.name) != declared.default:
            found, values = getattr(config, needs[0]), needs[1:]
            words = f"used with --{needs[0]} {' or '.join(values)}".strip()
            require(config, declared.name, found in values if values else found, words)
    for kind in type(config).__mro__:
        if together := vars(kind).get("check_together"):
            together(config)


def require(config: Any, name: str, good: object, must_be: str) -> None:
    """Refuse a field of a configuration if `good` is false.

    Args:
        config: the configuration.
        name: of the field.
        good: whether it is valid.
        must_be: text after "must be" in the error.

    Raises:
        UserError: it is not valid.
    """
    if not good:
        (declared,) = (one for one in fields(config) if one.name == name)
        raise UserError(f"{_given(declared, getattr(config, name))}: must be {must_be}")
