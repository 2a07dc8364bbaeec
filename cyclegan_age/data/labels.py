"""`labels.csv` of a prepared folder: the exact labels of its pictures."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from cyclegan_age.config import UserError
from cyclegan_age.data.names import Known

NAME = "labels.csv"
COLUMNS = ("file", "age", "sex", "race", "person", "split", "source", "fold", "exact")
STATE = "state"  # a column that tables of `prepare.py label` have besides: they name every picture that is of use


def as_csv(lines: Iterable[dict[str, object]], columns: Sequence[str] = COLUMNS) -> bytes:
    """The file's content, of lines with these columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue().encode()


def names_all(dataroot: Path) -> bool:
    """Whether the `labels.csv` in a folder names every picture of it that is of use: one of `prepare.py label`."""
    try:
        with (dataroot / NAME).open(encoding="utf-8-sig", newline="") as f:
            return STATE in next(csv.reader(f), [])
    except (OSError, ValueError, csv.Error):  # `read_labels` says so
        return False


def read_labels(dataroot: Path) -> dict[Path, Known]:
    """Labels of the pictures of a folder by their paths, from the `labels.csv` in it or in the folder above.

    Of a file with other columns nothing is taken.

    Raises:
        UserError: it cannot be read, or a line of it has no age.
    """
    for folder in (dataroot, dataroot.parent, dataroot / ".."):
        file = folder / NAME
        if file.is_file():
            break
    else:
        return {}
    known: dict[Path, Known] = {}
    try:
        with file.open(encoding="utf-8-sig", newline="") as f:
            reader = csv.DictReader(f)
            if not {"file", "age"} <= set(reader.fieldnames or ()):
                return {}
            for line in reader:
                race, sex = (_code(line.get(column)) for column in ("race", "sex"))
                age, person = float(line["age"]), line.get("person") or ""
                exact = line.get("exact") != "0"
                known[_below(dataroot, folder, line["file"])] = Known(age, sex, race, person, exact)
    except OSError as e:
        raise UserError(f"{file}: cannot be read: {e.strerror}; allow it, or take it away") from None
    except (TypeError, ValueError, csv.Error):
        raise UserError(f"{file}: line {reader.line_num}: no age in years; mend it, or take the file away") from None
    return known


def _below(dataroot: Path, folder: Path, name: str) -> Path:
    """The path of a file as a scan of the data folder gives it."""
    if folder == dataroot:
        return dataroot / name
    first, _, rest = name.partition("/")
    return dataroot / rest if first == (dataroot.name or dataroot.resolve().name) else folder / name


def _code(word: str | None) -> float:
    return math.nan if word in (None, "", "9") else float(word or "")
