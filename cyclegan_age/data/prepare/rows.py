"""The readers' output, a row for every picture, and the vocabulary of the sets' tables."""

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cyclegan_age.ages import parse_group
from cyclegan_age.attributes import OLDEST
from cyclegan_age.config import UserError
from cyclegan_age.images import list_images

# Reasons for the exclusion of a picture.
NO_AGE = "no age known"
WRONG_AGE = "an impossible age"
MISSING = "file missing"
OUTSIDE = "outside of --source"
COPY = "another copy of the same picture"
TWO_FACES = "several faces"
NO_FACE = "no face found"
FOREIGN = "a file name of another form"
UNLISTED = "not in the set's own table"

UNKNOWN = 9  # sex or race

_SEXES = {"m": 0, "male": 0, "man": 0, "0": 0, "f": 1, "female": 1, "woman": 1, "1": 1}
_RACES = {
    **{"white": 0, "caucasian": 0, "w": 0, "0": 0},
    **{"black": 1, "afroamerican": 1, "b": 1, "1": 1},
    **{"asian": 2, "east asian": 2, "southeast asian": 2, "a": 2, "2": 2},
    **{"indian": 3, "3": 3},  # not MORPH's i, which is American Indian
    **{"latino_hispanic": 4, "hispanic": 4, "middle eastern": 4, "other": 4, "h": 4, "o": 4, "i": 4, "4": 4},
}
_MONTHS = {"jan": 1, "feb": 2, "mar": 3, "apr": 4, "may": 5, "jun": 6}
_MONTHS |= {"jul": 7, "aug": 8, "sep": 9, "oct": 10, "nov": 11, "dec": 12}


@dataclass(frozen=True)
class Row:
    """A picture of a set and its labels in the set.

    Attributes:
        file: the picture.
        age: years; the middle of `group` if only that is known, NaN if unknown.
        sex: 0 male, 1 female, 9 unknown.
        race: 0 White, 1 Black, 2 Asian, 3 Indian, 4 other, 9 unknown.
        person: its person, unique in the set; empty if unknown.
        split: `train`, `val` or `test` if the set has splits.
        fold: name of its fold if the set has folds.
        group: the age group, in the form of a folder name, if the exact age is unknown.
        estimated: whether the age is an estimate, and not recorded.
        reason: why it is excluded; empty if it is used.
    """

    file: Path
    age: float = math.nan
    sex: int = UNKNOWN
    race: int = UNKNOWN
    person: str = ""
    split: str = ""
    fold: str = ""
    group: str = ""
    estimated: bool = False
    reason: str = ""


def checked(row: Row, youngest: float = 0) -> Row:
    """The row, with a reason for exclusion if its age is invalid."""
    if row.reason:
        return row
    if math.isnan(row.age):
        return replace(row, reason=NO_AGE)
    return row if youngest <= row.age <= OLDEST else replace(row, reason=WRONG_AGE)


def code(value: float) -> int:
    """A sex or race in the coding of rows."""
    return UNKNOWN if math.isnan(value) else int(value)


def sex_of(word: str) -> int:
    """0 male, 1 female, 9 for every other word."""
    return _SEXES.get(word.strip().lower(), UNKNOWN)


def race_of(word: str) -> int:
    """UTKFace's code of a race, 9 for other words."""
    return _RACES.get(word.strip().lower(), UNKNOWN)


def split_of(word: str) -> str:
    """`train`, `val`, `test` or empty, from their spellings."""
    names = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
    return names.get(word.strip().lower(), "")


def years_of(word: str) -> tuple[float, str]:
    """An age in a table's spelling -> years and, for a group, its folder name.

    Accepted: `25`, `25.0`, `20-29`, `(25, 32)`, `60+`, `more than 70`, `70-120`, and groups that a spreadsheet has
        turned into dates: `03-Sep` for 3-9, `Oct-19` for 10-19. NaN for everything else, -1 and 120 unchanged.
    """
    word = word.strip().strip("()[]").replace(", ", "-").replace(",", "-").lower()
    try:
        return float(word), ""
    except ValueError:
        pass
    if m := re.fullmatch(r"(?:more than|over|>=?)\s*(\d+)", word):
        word = f"{m[1]}+"
    if m := re.fullmatch(r"(\d{1,2})-([a-z]{3})", word):
        word = f"{int(m[1])}-{_MONTHS.get(m[2], '')}"
    elif m := re.fullmatch(r"([a-z]{3})-(\d{1,2})", word):
        word = f"{_MONTHS.get(m[1], '')}-{int(m[2])}"
    if m := re.fullmatch(r"(\d+)-(1\d\d)", word):  # in effect an open group
        word = f"{m[1]}+"
    group = parse_group(word)
    return ((group[0] + group[1]) / 2, word) if group else (math.nan, "")


def table(file: Path, columns: Iterable[str], flag: str = "--source", delimiter: str = ",") -> list[dict[str, str]]:
    """Lines of a table with a header; names of columns are case-insensitive.

    Raises:
        UserError: it cannot be read, or a column is missing.
    """
    own = flag == "--csv"  # not of a public set
    try:
        text = file.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as e:
        remedy = "expected your own table" if own else "expected the set's own table"
        raise UserError(f"{flag} {file}: cannot be read: {e.strerror}; {remedy}") from None
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=delimiter == ",")
    names = [(name or "").strip().lower() for name in reader.fieldnames or []]
    if missing := [column for column in columns if column.lower() not in names]:
        has = ", ".join(names[:12]) or "nothing"
        remedy = (
            "name those for file, age and sex, such as --columns path age sex"
            if own
            else "expected the set's own table"
        )
        raise UserError(f"{flag} {file}: has no column {missing[0]}, but {has}; {remedy}")
    reader.fieldnames = names
    return [{k: v or "" for k, v in line.items() if isinstance(k, str) and not isinstance(v, list)} for line in reader]


def only(found: Iterable[Path], source: Path, what: str) -> Path:
    """The first of the files found.

    Raises:
        UserError: there is none.
    """
    files = sorted(found)
    if not files:
        raise UserError(f"--source {source}: no {what} in it; expected the folder as downloaded and unpacked")
    return files[0]


def below(source: Path, *patterns: str) -> Iterator[Path]:
    """Files in a folder, at any depth, whose names match one of the patterns, case-insensitive."""
    wanted = [re.compile(pattern, re.IGNORECASE) for pattern in patterns]
    for file in sorted(source.rglob("*")):
        if not file.name.startswith(".") and any(one.fullmatch(file.name) for one in wanted) and file.is_file():
            yield file


def once(files: Iterable[Path], key: Callable[[Path], str], last: Callable[[Path], int]) -> Iterator[Row]:
    """A row for each file; of those with the same key the one with the smallest `last` is kept, the others are
    copies."""
    kept: dict[str, Path] = {}
    for file in sorted(files, key=lambda one: (last(one), one)):
        first = kept.setdefault(key(file), file)
        yield Row(file, reason="" if first == file else COPY)


class Index:
    """Finds the pictures of a folder by their names in a table, ignoring case and parent folders."""

    def __init__(self, source: Path, files: Iterable[Path] | None = None) -> None:
        self.source = source
        self.files = list_images(source) if files is None else list(files)
        self._by_name: dict[str, list[Path]] = {}
        for file in self.files:
            self._by_name.setdefault(file.name.lower(), []).append(file)

    def find(self, name: str) -> Path | None:
        """The file whose path ends with this name."""
        parts = [part.lower() for part in Path(name.replace("\\", "/")).parts]
        for file in self._by_name.get(parts[-1], []) if parts else []:
            if [part.lower() for part in file.parts[-len(parts) :]] == parts:
                return file
        return None


def listed(source: Path, found: Mapping[Path, Row], files: Iterable[Path]) -> list[Row]:
    """The rows, and one for each file that no table lists."""
    return [*found.values(), *(Row(file, reason=UNLISTED) for file in files if file not in found)]
