"""`labels.csv` of a prepared folder, or `labels.parquet`: the exact labels of its pictures."""

import csv
import io
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from cyclegan_age.config import UserError, needs
from cyclegan_age.data.names import Known

NAME = "labels.csv"
PARQUET = "labels.parquet"
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


def as_parquet(lines: Iterable[Mapping[str, object]]) -> bytes:
    """The same lines as Parquet: the age a float, sex, race and exact whole numbers, the rest texts.

    Raises:
        UserError: pyarrow is not installed.
    """
    with needs("pyarrow"):
        import pyarrow as arrow
        from pyarrow import parquet
    kinds = {"age": arrow.float32(), "sex": arrow.int8(), "race": arrow.int8(), "exact": arrow.int8()}
    rows = list(lines)
    columns = {
        name: arrow.array([float(str(row[name])) if name in kinds else str(row[name]) for row in rows]).cast(
            kinds.get(name, arrow.string())
        )
        for name in COLUMNS
    }
    data = io.BytesIO()
    parquet.write_table(arrow.table(columns), data)
    return data.getvalue()


def read_labels(dataroot: Path) -> dict[Path, Known]:
    """Labels of the pictures of a folder by their paths, from the `labels.csv` in it or in the folder above.

    Where there is none, `labels.parquet` is read. Of a file with other columns nothing is taken.

    Raises:
        UserError: it cannot be read, or a line of it has no age.
    """
    for folder in (dataroot, dataroot.parent, dataroot / ".."):
        if (folder / NAME).is_file() or (folder / PARQUET).is_file():
            break
    else:
        return {}
    known: dict[Path, Known] = {}
    for line in read_lines(folder):
        race, sex = (_code(line[column]) for column in ("race", "sex"))
        exact = is_exact(line["exact"])
        known[_below(dataroot, folder, line["file"])] = Known(float(line["age"]), sex, race, line["person"], exact)
    return known


def is_exact(word: str) -> bool:
    """Whether the column `exact` says that an age is recorded; it does unless it is 0."""
    try:
        return float(word) != 0
    except ValueError:
        return True


def within(folder: Path, name: str) -> Path | None:
    """The path of what a table names, relative to its folder or not; None where that lies outside of the folder."""
    whole = os.path.abspath(folder)  # noqa: PTH100 - links stay as they are
    path = Path(os.path.abspath(os.path.join(whole, name)))  # noqa: PTH100, PTH118
    return folder / path.relative_to(whole) if path.is_relative_to(whole) else None


def read_lines(folder: Path) -> Iterator[dict[str, str]]:
    """The lines of a folder's `labels.csv`, or `labels.parquet`, with `COLUMNS`, those that it has not empty.

    None where there is neither, or no column `file` and `age`.

    Raises:
        UserError: it cannot be read, or a line of it has no age, or a sex or race that is no number.
    """
    file, number = folder / NAME, 1
    if not file.is_file():
        file = folder / PARQUET
    if not file.is_file():
        return
    try:
        columns, lines = _read_csv(file) if file.name == NAME else _read_parquet(file)
        for line in lines if {"file", "age"} <= columns else ():
            number += 1
            texts = {name: "" if line.get(name) is None else str(line[name]) for name in COLUMNS}
            if fault := _fault(texts):
                raise UserError(f"{file}: line {number}: {fault}; mend it, or take the file away")
            yield texts
    except OSError as e:
        raise UserError(f"{file}: cannot be read: {e.strerror or e}; allow it, or take it away") from None
    except (ValueError, csv.Error):  # pyarrow's are ValueErrors, too
        raise UserError(f"{file}: not a usable table; mend it, or take the file away") from None


def _fault(line: Mapping[str, str]) -> str:
    """What is wrong with a line's age, sex or race; empty for nothing."""
    try:
        age = float(line["age"])
    except ValueError:
        age = math.nan
    if not math.isfinite(age):
        return "no age in years"
    for column, codes in (("sex", "0 male, 1 female, 9 unknown"), ("race", "0 to 4, 9 unknown")):
        try:
            number = float(line[column] or "9")
        except ValueError:
            number = math.inf
        if math.isinf(number):
            return f"{column} {line[column]!a}, which is no number ({codes})"
    return ""


def _read_csv(file: Path) -> tuple[set[str], Iterable[Mapping[str, object]]]:
    reader = csv.DictReader(io.StringIO(file.read_text(encoding="utf-8-sig"), newline=""))
    return set(reader.fieldnames or ()), reader


def _read_parquet(file: Path) -> tuple[set[str], Iterable[Mapping[str, object]]]:
    with needs("pyarrow"):
        from pyarrow import parquet
    table = parquet.read_table(file)
    return set(table.column_names), table.to_pylist()


def _below(dataroot: Path, folder: Path, name: str) -> Path:
    """The path of a file as a scan of the data folder gives it."""
    if folder == dataroot:
        return dataroot / name
    first, _, rest = name.partition("/")
    return dataroot / rest if first == (dataroot.name or dataroot.resolve().name) else folder / name


def _code(word: str | None) -> float:
    return math.nan if word in (None, "", "9") else float(word or "")
