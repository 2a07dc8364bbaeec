"""`labels.csv` of a prepared folder, or `labels.parquet`: the exact labels of its pictures."""

import csv
import io
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from cyclegan_age.attributes import FaceAttributes
from cyclegan_age.config import UserError, needs

NAME = "labels.csv"
PARQUET = "labels.parquet"
COLUMNS = ("file", "age", "sex", "race", "person", "split", "source", "fold", "exact")
STATE = "state"  # an additional column in tables of `prepare.py label`, which list every picture to use

logger = logging.getLogger("cyclegan_age")


def as_csv(lines: Iterable[dict[str, object]], columns: Sequence[str] = COLUMNS) -> bytes:
    """The file's content, from lines with these columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue().encode()


def names_all(dataroot: Path) -> bool:
    """Whether the `labels.csv` in a folder lists every picture to use: a table of `prepare.py label`."""
    try:
        with (dataroot / NAME).open(encoding="utf-8-sig", newline="") as f:
            return STATE in next(csv.reader(f), [])
    except (OSError, ValueError, csv.Error):  # `read_labels` reports it
        return False


def as_parquet(lines: Iterable[Mapping[str, object]]) -> bytes:
    """The same lines as Parquet: the age a float, sex, race and exact integers, the rest strings.

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


def read_labels(dataroot: Path) -> dict[Path, FaceAttributes]:
    """Labels of the pictures of a folder by their paths, from the `labels.csv` in it or in the folder above.

    If it is missing, `labels.parquet` is read. Files with other columns are ignored, with a warning. Other warnings are
    of lines that name no file, and of files with several ages, whose last counts.

    Raises:
        UserError: it cannot be read, or a line of it has no age.
    """
    for folder in (dataroot, dataroot.parent, dataroot / ".."):
        if (folder / NAME).is_file() or (folder / PARQUET).is_file():
            break
    else:
        return {}
    labels: dict[Path, FaceAttributes] = {}
    twice: list[Path] = []
    for line in read_lines(folder):
        race, sex = (_code(line[column]) for column in ("race", "sex"))
        path, age = _below(dataroot, folder, line["file"]), float(line["age"])
        if path in labels and labels[path].age_years != age:
            twice.append(path)
        labels[path] = FaceAttributes(age, sex, race, line["person"], is_exact(line["exact"]))
    file = folder / (NAME if (folder / NAME).is_file() else PARQUET)
    here = [path for path in labels if path.is_relative_to(dataroot)]
    gone = [path for path in here or labels if path not in here or not path.is_file()]
    if gone:
        logger.warning("%s: %d of its files are not in %s, such as %s", file, len(gone), dataroot, gone[0])
    if twice:
        logger.warning("%s: the last of several ages counts for %d files, such as %s", file, len(twice), twice[0])
    return labels


def is_exact(word: str) -> bool:
    """Whether the column `exact` marks an age as recorded; only 0 means that it is not."""
    try:
        return float(word) != 0
    except ValueError:
        return True


def within(folder: Path, name: str) -> Path | None:
    """The path of a table's entry, relative to its folder or absolute; None if it lies outside of the folder."""
    whole = os.path.abspath(folder)  # noqa: PTH100 - links stay as they are
    path = Path(os.path.abspath(os.path.join(whole, name)))  # noqa: PTH100, PTH118
    return folder / path.relative_to(whole) if path.is_relative_to(whole) else None


def read_lines(folder: Path) -> Iterator[dict[str, str]]:
    """The lines of a folder's `labels.csv`, or `labels.parquet`, with `COLUMNS`; missing columns are empty.

    None without such a file, or without the columns `file` and `age`.

    Raises:
        UserError: it cannot be read, or a line has no age, or a sex or race that is no number.
    """
    file, number = folder / NAME, 1
    if not file.is_file():
        file = folder / PARQUET
    if not file.is_file():
        return
    try:
        columns, lines = _read_csv(file) if file.name == NAME else _read_parquet(file)
        if not {"file", "age"} <= columns:
            logger.warning("%s: ignored, as it has no columns file and age (separated by commas)", file)
        for line in lines if {"file", "age"} <= columns else ():
            number += 1
            texts = {name: "" if line.get(name) is None else str(line[name]) for name in COLUMNS}
            if fault := _fault(texts):
                raise UserError(f"{file}: line {number}: {fault}; correct it, or remove the file")
            yield texts
    except OSError as e:
        raise UserError(f"{file}: cannot be read: {e.strerror or e}; grant permission, or remove it") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: not in UTF-8; save it so, or remove the file") from None
    except (ValueError, csv.Error):  # pyarrow's are ValueErrors, too
        raise UserError(f"{file}: not a valid table; correct it, or remove the file") from None


def _fault(line: Mapping[str, str]) -> str:
    """The error in a line's age, sex or race; empty for none."""
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
    """The path of a file in the form that a scan of the data folder yields."""
    if folder == dataroot:
        inside = within(dataroot, name) if ".." in name else None
        return inside or dataroot / name
    first, _, rest = name.partition("/")
    return dataroot / rest if first == (dataroot.name or dataroot.resolve().name) else folder / name


def _code(word: str | None) -> float:
    return math.nan if word in (None, "", "9") else float(word or "")
