"""Sets that bring a table of labels as text."""

import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cyclegan_age.config import UserError
from cyclegan_age.data.labels import is_exact, within
from cyclegan_age.data.prepare.rows import (
    MISSING,
    NO_AGE,
    OUTSIDE,
    UNLISTED,
    WRONG_AGE,
    Index,
    Row,
    below,
    judged,
    listed,
    once,
    only,
    race_of,
    sex_of,
    split_of,
    table,
    years_of,
)
from cyclegan_age.images import list_images

_TEST_FROM = 69_000  # FFHQ-Aging: the last thousand pictures are for testing


def read_adience(source: Path) -> list[Row]:
    """`fold_*_data.txt` with `faces/` or `aligned/`; a person is one album (`user_id`), which the folds keep whole."""
    files = list(below(source, r"fold_\d+_data\.txt")) or list(below(source, r"fold_frontal_\d+_data\.txt"))
    only(files, source, "fold_0_data.txt")
    pictures = Index(source)
    rows: dict[Path, Row] = {}
    for file in files:
        fold = re.findall(r"\d+", file.name)[0]
        for line in table(file, ("user_id", "original_image", "face_id", "age", "gender"), delimiter="\t"):
            name = f"{line['face_id']}.{line['original_image']}"
            kinds = ("coarse_tilt_aligned_face", "landmark_aligned_face")
            names = [f"{line['user_id']}/{kind}.{name}" for kind in kinds]
            names += [f"{kind}.{name}" for kind in kinds]  # all in one folder
            found = next((path for one in names if (path := pictures.find(one))), None)
            age, group = years_of(line["age"])
            row = Row(
                found or source / names[0],
                age=age,
                group=group,
                sex=sex_of(line["gender"]),
                person=line["user_id"],
                fold=fold,
                reason="" if found else MISSING,
            )
            rows[row.file] = judged(row)
    return listed(source, rows, pictures.files)


def read_fairface(source: Path) -> list[Row]:
    """`fairface_label_train.csv` and `_val.csv`; only groups of age are known, and no persons."""
    files = list(below(source, r"fairface_label_(train|val)\.csv"))
    only(files, source, "fairface_label_train.csv")
    pictures = Index(source)
    rows: dict[Path, Row] = {}
    for file in files:
        for line in table(file, ("file", "age", "gender", "race")):
            found = pictures.find(line["file"])
            age, group = years_of(line["age"])
            row = Row(
                found or source / line["file"],
                age=age,
                group=group,
                sex=sex_of(line["gender"]),
                race=race_of(line["race"]),
                split=split_of(Path(line["file"]).parts[0]) or split_of(file.stem.rpartition("_")[2]),
                reason="" if found else MISSING,
            )
            rows[row.file] = judged(row)
    return listed(source, rows, pictures.files)


def _size(file: Path) -> int:
    """Larger pictures of FFHQ first, those in the wild, where others may stand beside, last."""
    folders = " ".join(part.lower() for part in file.parts)
    return 2 if "in-the-wild" in folders else 1 if "thumbnails" in folders else 0


def read_ffhq_aging(source: Path) -> list[Row]:
    """`ffhq_aging_labels.csv`, groups of age; or estimates in years in `json/00000.json` of FFHQ-Features."""
    labels: dict[int, tuple[str, str]] = {}
    estimated = False
    if files := list(below(source, r"ffhq_aging_labels\.csv")):
        for line in table(files[0], ("image_number", "age_group", "gender")):
            if line["image_number"].strip().isdecimal():
                labels[int(line["image_number"])] = line["age_group"], line["gender"]
    else:
        estimated = True
        for file in below(source, r"\d{5}\.json"):
            faces = _json(file)
            known = faces[0].get("faceAttributes", {}) if isinstance(faces, list) and len(faces) == 1 else {}
            labels[int(file.stem)] = str(known.get("age", "")), str(known.get("gender", ""))
        if not labels:
            only([], source, "ffhq_aging_labels.csv or json/00000.json")
    usable = [path for path in list_images(source) if path.stem.isdecimal() and "parsings" not in path.parts]
    rows, numbers = [], set()
    for row in once(usable, lambda path: str(int(path.stem)), _size):
        number = int(row.file.stem)
        numbers.add(number)
        if number not in labels:
            rows.append(row if row.reason else replace(row, reason=UNLISTED))
            continue
        age, group = years_of(labels[number][0])
        split = "test" if number >= _TEST_FROM else "train"
        row = replace(row, age=age, group=group, sex=sex_of(labels[number][1]), split=split, estimated=estimated)
        rows.append(judged(row))
    rows += [Row(source / f"{number:05d}.png", reason=MISSING) for number in labels if number not in numbers]
    return rows


def _json(file: Path) -> object:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []


def read_appa_real(source: Path) -> list[Row]:
    """Real ages of `gt_avg_*.csv`; the crop `X.jpg_face.jpg` is preferred to X, as it says which face is meant."""
    files = list(below(source, r"gt_avg_(train|valid|test)\.csv"))
    only(files, source, "gt_avg_train.csv")
    pictures = Index(source)
    people: dict[str, tuple[int, int]] = {}
    for file in below(source, r"allcategories_(train|valid|test)\.csv"):
        for line in table(file, ("file", "gender", "race")):
            people[Path(line["file"]).name.lower()] = sex_of(line["gender"]), race_of(line["race"])
    rows: dict[Path, Row] = {}
    for file in files:
        part = file.stem.rpartition("_")[2]
        for line in table(file, ("file_name", "real_age")):
            name = line["file_name"]
            found = pictures.find(f"{part}/{name}_face.jpg") or pictures.find(f"{part}/{name}")
            age, _ = years_of(line["real_age"])
            sex, race = people.get(name.lower(), (9, 9))
            row = Row(found or source / part / name, age=age, sex=sex, race=race, split=split_of(part))
            rows[row.file] = judged(replace(row, reason="" if found else MISSING))
    used = {path.name.removesuffix("_face.jpg") for path in rows}
    return listed(source, rows, [path for path in pictures.files if path.name not in used])


_TWO_AGES = "two ages for one file"
ROLES = ("file", "age", "sex", "race", "person", "split")


def read_csv(source: Path, file: Path, columns: Sequence[str]) -> list[Row]:
    """Any set with a table of one's own.

    Args:
        source: the folder that the names of files in the table begin from.
        file: the table, with a header.
        columns: its columns for file, age, sex, race, person and split, in this order; `-` leaves one out.
    """
    named = {role: name for role, name in zip(ROLES, columns, strict=False) if name != "-"}
    if "file" not in named or "age" not in named or len(columns) > len(ROLES):
        raise UserError(f"--columns {' '.join(columns)}: must be names of {', '.join(ROLES)}, in this order")
    rows: dict[Path, Row] = {}
    index: Index | None = None
    for line in table(file, named.values(), "--csv"):
        told = {role: line[name.lower()].strip() for role, name in named.items()}
        path, reason = within(source, told["file"]), ""
        if not path:
            path, reason = source / told["file"], OUTSIDE
        elif not os.path.isfile(path):  # noqa: PTH113 - which holds for names that are too long, too
            index = index or Index(source)
            found = index.find(told["file"])
            path, reason = found or path, "" if found else MISSING
        age, group = years_of(told["age"])
        row = Row(
            path,
            age=age,
            group=group,
            sex=sex_of(told.get("sex", "")),
            race=race_of(told.get("race", "")),
            person=told.get("person", ""),
            split=split_of(told.get("split", "")),
            estimated=not is_exact(line.get("exact", "")),  # as `labels.csv` has it
            reason=reason,
        )
        row, before = judged(row), rows.get(path)
        if before and (before.reason == _TWO_AGES or (not before.reason and row.reason in (NO_AGE, WRONG_AGE))):
            continue
        if before and not (before.reason or math.isclose(before.age, age)):
            row = replace(row, reason=_TWO_AGES)
        rows[path] = row
    return list(rows.values())
