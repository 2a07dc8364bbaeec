"""Sets with labels in file names."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cyclegan_age.attributes import labels_in_name, stem_of
from cyclegan_age.config import UserError
from cyclegan_age.data.prepare.rows import (
    FOREIGN,
    WRONG_AGE,
    Row,
    below,
    checked,
    code,
    once,
    race_of,
    sex_of,
    split_of,
    table,
    years_of,
)
from cyclegan_age.images import list_images

_NO_RACE = re.compile(r"(\d{1,3})_([019])_(\d{9,})")  # three pictures of UTKFace lack it


def _named(form: str, row: Row, youngest: float = 0) -> Row:
    """A row with the labels in its file name, for a given form."""
    if row.reason:
        return row
    attributes = labels_in_name(form, stem_of(row.file))
    if attributes is None:
        return replace(row, reason=FOREIGN)
    row = replace(
        row, age=attributes.age_years, sex=code(attributes.sex), race=code(attributes.race), person=attributes.person
    )
    return replace(row, reason=WRONG_AGE) if row.age != row.age else checked(row, youngest)


def _all(source: Path, last: Callable[[Path], int] = lambda file: 0) -> list[Row]:
    return list(once(list_images(source), lambda file: stem_of(file).lower(), last))


def read_utkface(source: Path) -> list[Row]:
    """Flat or in three parts; a crop is preferred to the same picture in the wild, since it identifies the face."""
    rows = []
    for row in _all(source, lambda file: ".chip." not in file.name.lower()):
        short = _NO_RACE.fullmatch(stem_of(row.file)) if not row.reason else None
        attributes = checked(replace(row, age=float(short[1]), sex=int(short[2]))) if short else _named("utkface", row)
        rows.append(attributes)
    return rows


def read_fgnet(source: Path) -> list[Row]:
    """Flat or sorted by person; each person is a fold, by convention."""
    rows = [_named("fgnet", row) for row in _all(source)]
    return [replace(row, fold=row.person) for row in rows]


def read_agedb(source: Path) -> list[Row]:
    """The first number counts pictures and is no person. Nobody is younger than 1."""
    return [_named("agedb", row, youngest=1) for row in _all(source)]


def read_all_age_faces(source: Path) -> list[Row]:
    """The number determines the sex; `image sets/train.txt` and `val.txt` are the set's own split."""
    splits = {
        line.split()[0].lower(): file.stem.lower()
        for file in below(source, r"(train|val)\.txt")
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines()
        if line.strip()
    }
    rows = [_named("all_age_faces", row) for row in _all(source, lambda file: "original" not in file.parent.name)]
    return [replace(row, split=splits.get(row.file.name.lower(), "")) for row in rows]


def read_morph2(source: Path) -> list[Row]:
    """Sex, age and person are in the names, the race in the table, if present."""
    races: dict[str, int] = {}
    for file in below(source, r"morph.*\.csv"):
        for line in table(file, ("photo", "race")):
            races[Path(line["photo"].replace("\\", "/")).name.lower()] = race_of(line["race"])
    rows = [_named("morph2", row, youngest=1) for row in _all(source)]
    return [replace(row, race=races.get(row.file.name.lower(), row.race)) for row in rows]


_FIELDS = {
    "age": r"(?P<age>\d{1,3}(?:-\d{1,3})?)",
    "sex": r"(?P<sex>male|female|[mMfF01])",
    "race": r"(?P<race>\w+?)",
    "person": r"(?P<person>[^/]+?)",
    "split": r"(?P<split>[^/]+?)",
    "any": r"[^/]*?",
}


def pattern_of(text: str) -> re.Pattern[str]:
    """The regular expression of a pattern of names.

    Raises:
        UserError: it has no age, or a repeated or unknown field.
    """
    parts = re.split(r"\{(\w*)\}", text)
    fields = parts[1::2]
    wrong = [field for field in fields if field not in _FIELDS or (field != "any" and fields.count(field) > 1)]
    if wrong or "age" not in fields:
        names = ", ".join(f"{{{field}}}" for field in _FIELDS)
        raise UserError(f"--pattern {text}: must have {{age}}, and each of {names} at most once")
    made = "".join(_FIELDS[part] if i % 2 else re.escape(part) for i, part in enumerate(parts))
    return re.compile(made)


def read_pattern(source: Path, pattern: str) -> list[Row]:
    """Any set with labels in its paths.

    Args:
        source: the folder.
        pattern: such as `{person}A{age}`; it must match the file name without its suffix, or, with a slash, the path
            below the folder.
    """
    wanted, rows = pattern_of(pattern), []
    for file in list_images(source):
        name = file.relative_to(source).with_suffix("").as_posix() if "/" in pattern else file.stem
        m = wanted.fullmatch(name)
        if not m:
            rows.append(Row(file, reason=FOREIGN))
            continue
        parts = m.groupdict()
        age, group = years_of(parts["age"])
        row = Row(
            file,
            age=age,
            group=group,
            sex=sex_of(parts.get("sex") or ""),
            race=race_of(parts.get("race") or ""),
            person=parts.get("person") or "",
            split=split_of(parts.get("split") or ""),
        )
        rows.append(checked(row))
    return rows
