"""Sets with labels in MATLAB files."""

import datetime
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cyclegan_age.attributes import labels_in_name, taken_at
from cyclegan_age.config import UserError, needs
from cyclegan_age.data.prepare.rows import (
    FOREIGN,
    MISSING,
    NO_AGE,
    NO_FACE,
    TWO_FACES,
    UNLISTED,
    WRONG_AGE,
    Index,
    Row,
    below,
    checked,
    code,
    once,
)
from cyclegan_age.images import list_images

_BEFORE_YEAR_1 = 366  # MATLAB counts days from the year 0, Python from the year 1


def struct(file: Path, name: str) -> dict[str, Any]:
    """The fields of a structure in a mat file of version 5, each an array (N,).

    Raises:
        UserError: of another version, or without that structure.
    """
    with needs("scipy"):
        from scipy.io import loadmat

    try:
        found = loadmat(str(file), variable_names=[name])
    except NotImplementedError:
        raise UserError(f"--source {file}: a mat file of version 7.3; save it as version 5, or remove it") from None
    except Exception as e:  # it raises many types on corrupt data
        raise UserError(f"--source {file}: not a readable mat file ({e}); download it again") from None
    if name not in found:
        raise UserError(f"--source {file}: has no {name}; expected the set's own file")
    record = found[name].reshape(-1)[0]
    return {field: np.asarray(record[field]).reshape(-1) for field in record.dtype.names}


def _text(value: Any) -> str:
    """A cell's string."""
    while isinstance(value, np.ndarray):
        if not value.size:
            return ""
        value = value.reshape(-1)[0]
    return str(value)


def _numbers(values: Any) -> list[float]:
    return [float(np.asarray(value).reshape(-1)[0]) if np.size(value) else math.nan for value in values]


def born(days: float) -> tuple[int, int]:
    """Year and month of MATLAB's date number; 0 if it is invalid."""
    try:
        date = datetime.date.fromordinal(int(days) - _BEFORE_YEAR_1)
    except (ValueError, OverflowError):
        return 0, 0
    return date.year, date.month


def read_imdb_wiki(source: Path) -> list[Row]:
    """Folders 00 to 99 with `imdb.mat` or `wiki.mat`; without these the names contain the ages.

    Ages below 1 and above 100 come from wrong dates. The set's own detector marks pictures with no or several faces.
    """
    rows: list[Row] = []
    seen: set[Path] = set()
    for file in below(source, r"(imdb|wiki)\.mat"):
        fields = struct(file, file.stem.lower())
        pictures = Index(file.parent)
        columns = (fields[name] for name in ("dob", "photo_taken", "gender", "face_score", "second_face_score"))
        names = [_text(name) for name in fields["full_path"]]
        for name, dob, taken, gender, score, second in zip(names, *map(_numbers, columns), strict=True):
            found = pictures.find(name)
            year, month = born(dob)
            valid = year > 0 and not math.isnan(taken)
            row = Row(
                found or file.parent / name,
                age=float(taken_at(year, month, int(taken))) if valid else math.nan,
                sex=9 if math.isnan(gender) else 1 - int(gender),  # 0 is female here
                person=_person(Path(name).stem),
            )
            seen.add(row.file)
            if not found:
                row = replace(row, reason=MISSING)
            elif not math.isfinite(score):
                row = replace(row, reason=NO_FACE)
            elif not math.isnan(second):
                row = replace(row, reason=TWO_FACES)
            elif row.age > 100:
                row = replace(row, reason=WRONG_AGE)
            rows.append(checked(row, youngest=1))
    tabled = bool(rows)
    for path in list_images(source):
        if path in seen:
            continue
        known = labels_in_name("imdb_wiki", path.stem)
        if tabled or known is None:
            rows.append(Row(path, reason=UNLISTED if tabled else FOREIGN))
        else:
            age = known.age_years
            reason = "" if 1 <= age <= 100 else WRONG_AGE
            rows.append(Row(path, age=age, person=known.person, reason=reason))
    return rows


def _person(stem: str) -> str:
    known = labels_in_name("imdb_wiki", stem)
    return known.person if known else ""


def read_cacd(source: Path) -> list[Row]:
    """`age_Name_0001.jpg`, flat or not; `celebrity2000*.mat`, if present, lists the ages and the missing files.

    CACD-VS, `0000_0.jpg`, has no ages.
    """
    ages: dict[str, float] = {}
    small = list(below(source, r"celebrity2000_meta\.mat"))  # the other one also has features, and has version 7.3
    for file in small or below(source, r"celebrity2000\.mat"):
        fields = struct(file, "celebrityImageData")
        ages |= dict(zip(map(_text, fields["name"]), _numbers(fields["age"]), strict=True))
    rows = []
    for row in once(list_images(source), lambda file: file.name.lower(), lambda file: 0):
        known = labels_in_name("cacd", row.file.stem)
        if row.reason:
            pass
        elif known is None:
            pair = row.file.stem.replace("_", "").isdecimal()
            row = replace(row, reason=NO_AGE if pair else FOREIGN)
        else:
            age = ages.get(row.file.name, known.age_years)
            row = replace(row, age=age, sex=code(known.sex), person=known.person)
            row = replace(row, reason=WRONG_AGE) if math.isnan(age) else checked(row, youngest=1)
        rows.append(row)
    there = {row.file.name for row in rows}
    rows += [Row(source / name, reason=MISSING) for name in ages if name not in there]
    return rows
