"""Pictures of age folders with their ages in years, from `labels.csv`, file names or the folders."""

import logging
import math
import os
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from cyclegan_age.ages import parse_group, parse_groups
from cyclegan_age.attributes import FaceAttributes, attributes_by_name, form_of, labels_in_name, stem_of
from cyclegan_age.config import UserError
from cyclegan_age.data.labels import names_all, read_labels
from cyclegan_age.data.shards import refuse_shards
from cyclegan_age.images import counted, list_images, unread

NO_FOLDER = "not in an age folder"
FOR_TESTING = "in folders for testing"
NOT_LISTED = "not in labels.csv"

_LEADING = re.compile(r"(\d{1,3})[_-]")
_ADIENCE = re.compile(r"(coarse_tilt|landmark)_aligned_face\.\d+\.")  # names of its pictures, without ages
_MASKS = "parsings"
_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test"})

Years = tuple[int, int]

logger = logging.getLogger("cyclegan_age")


def attributes_by_path(path: Path) -> FaceAttributes:
    """Like `attributes_by_name`; for a file in an age folder also its age in a training."""
    attributes = attributes_by_name(path.name)
    span = parse_groups([path.parent.name]).get(path.parent.name)
    return FaceAttributes(label(path.name, span)) if math.isnan(attributes.age_years) and span else attributes


def labelled(dataroot: Path) -> list[tuple[Path, float]]:
    """Every picture of the age folders with its age in years, sorted; errors as of `scan`."""
    return [(path, years) for path, years, _ in labelled_files(dataroot, read_labels(dataroot))[0]]


def labelled_files(
    dataroot: Path, labels: Mapping[Path, FaceAttributes]
) -> tuple[list[tuple[Path, float, int | None]], Counter[str]]:
    """Every picture of the age folders with its age in years, sorted, and the counts of the others by reason.

    In open folders, such as `60+`, each picture also has the first year. If `labels.csv` lists every picture to use, no
    age folders are needed.
    """
    if names_all(dataroot):
        files = _faces(dataroot)
        listed: list[tuple[Path, float, int | None]] = [(f, labels[f].age_years, None) for f in files if f in labels]
        if not listed:
            raise UserError(f"--dataroot {dataroot}: none of its pictures is in labels.csv; run prepare.py label again")
        return listed, Counter({NOT_LISTED: len(files) - len(listed)})
    folders = _age_folders(dataroot)
    found: list[tuple[Path, float, int | None]] = []
    named, wrong = 0, []
    homes: dict[tuple[int, int], Path] = {}
    for folder, years in folders.items():
        opens = years[0] if folder.name.strip().endswith("+") else None
        faces = _faces(folder)
        for home in dict.fromkeys(path.parent for path in faces):
            there = home.stat()
            first = homes.setdefault((there.st_dev, there.st_ino), home)
            if first != home:
                both = " and ".join(one.relative_to(dataroot).as_posix() for one in (first, home))
                raise UserError(f"--dataroot {dataroot}: {both} are one folder, whose faces count twice; remove a link")
        for path in faces:
            own = labels[path].age_years if path in labels else label(path.name, years)
            found.append((path, own, opens))
            if path not in labels and form_of(stem_of(path)):
                named += 1
                if not years[0] - 1 <= own < years[1] + 2 and opens is None:
                    wrong.append((path, own))
    if 2 * len(wrong) > named:
        path, own = wrong[0]
        raise UserError(
            f"--dataroot {dataroot}: the folders mean no ages: {path.relative_to(dataroot)} is of {own:g} years by its "
            f"name; {_remedy(dataroot, [path for path, _ in wrong])}"
        )
    line = unread(dataroot)
    if not found:
        why = f"; {line}" if line else " (see datasets/README.md)"
        raise UserError(f"--dataroot {dataroot}: no pictures in its age folders{why}")
    if line:
        logger.warning("%s: %s", dataroot, line)
    if wrong:
        path, own = wrong[0]
        logger.warning(
            "%s: %s in folders of other ages than in their names, such as %s; the names take precedence",
            *(dataroot, counted(len(wrong)), path.relative_to(dataroot)),
        )
    strays = set(_faces(dataroot)).difference(path for path, *_ in found)
    left_out = Counter(FOR_TESTING if _for_testing(path.parent) else NO_FOLDER for path in strays)
    return sorted(found, key=lambda one: one[0]), left_out


def _faces(folder: Path) -> list[Path]:
    """Pictures below a folder, without the masks that LATS keeps beside its faces."""
    depth = len(folder.parts)
    return [path for path in list_images(folder) if _MASKS not in path.parts[depth:]]


def _remedy(dataroot: Path, paths: Sequence[Path]) -> str:
    """How to make age folders of pictures, by the form of their names."""
    forms = Counter(form_of(stem_of(path)) for path in paths)
    source = shlex.quote(str(dataroot))
    if 2 * sum(map(bool, map(_ADIENCE.match, (path.name for path in paths)))) > len(paths):
        rest = "with its fold_0_data.txt to fold_4_data.txt in it"
        return f"make age folders of them: python prepare.py adience --source {source} --output FOLDER, {rest}"
    form, number = max(forms.items(), key=lambda one: (bool(one[0]), one[1]), default=("", 0))
    if form and 2 * number > len(paths):
        return f"make age folders of them: python prepare.py {form} --source {source} --output FOLDER"
    if shard := next(dataroot.glob("*.tar"), None):
        first = shard.stem.rstrip("0123456789")
        return f"pass its shards, such as --dataroot {shlex.quote(f'{dataroot / first}{{000..009}}.tar')}"
    tables = {"fairface_label_*.csv": "fairface", "fold_*_data.txt": "adience", "gt_avg_*.csv": "appa_real"}
    tables |= {"ffhq_aging_labels.csv": "ffhq_aging", "imdb.mat": "imdb_wiki", "wiki.mat": "imdb_wiki"}
    for pattern, name in tables.items():
        if next(dataroot.glob(pattern), None):
            return f"make age folders of them: python prepare.py {name} --source {source} --output FOLDER"
    expected = "expected names like 20, 20s, 20-29 or 60+ (see datasets/README.md)"
    if not paths:
        return expected
    return (
        f"{expected}; prepare.py csv makes them from a table of ages, prepare.py pattern from ages in file names; "
        f"for faces of unknown age: python prepare.py label {source}"
    )


def label(name: str, years: Years) -> float:
    """Age in years of a file, from its name if possible, else the middle of its folder's years.

    The forms of the public sets, such as `age_sex_race_...`, always contain it. Another leading number is an age if it
    is within the folder's years.
    """
    stem = stem_of(Path(name))
    if (form := form_of(stem)) and (own := labels_in_name(form, stem)) and not math.isnan(own.age_years):
        return own.age_years
    if (m := _LEADING.match(name)) and years[0] <= int(m[1]) <= years[1]:
        return float(m[1])
    return (years[0] + years[1]) / 2


def _age_folders(dataroot: Path) -> dict[Path, Years]:
    """Age folders with their years, one level down or, failing that, two."""
    refuse_shards(dataroot, "this command")
    if not dataroot.exists():
        raise UserError(f"--dataroot {dataroot}: no such folder; expected the folder that contains the age folders")
    if not dataroot.is_dir():
        raise UserError(f"--dataroot {dataroot}: not a folder; expected the folder that contains the age folders")
    level = _subfolders(dataroot)
    for depth in (1, 2):
        years = parse_groups(sorted({folder.name for folder in level}))
        folders = {folder: years[folder.name] for folder in level if folder.name in years}
        if folders:
            parts = sorted({f.parent.name for f in folders if f.parent.name.lower() in _SPLITS})
            if depth == 2 and parts:  # never train on faces held out for evaluation
                either = " or ".join(str(dataroot / part) for part in parts)
                raise UserError(f"--dataroot {dataroot}: no age folders directly in it; expected {either}")
            return _for_training(folders)
        level = [below for folder in level for below in _subfolders(folder)]
    raise UserError(
        f"--dataroot {dataroot}{os.sep}: no age folders found; {_remedy(dataroot, _faces(dataroot)[:1000])}"
    )


def _for_training(folders: dict[Path, Years]) -> dict[Path, Years]:
    """Without LATS's folders for testing, such as `test30-39`, if some for training exist."""
    if any(folder.name.lower().startswith("train") for folder in folders):
        return {folder: years for folder, years in folders.items() if not _for_testing(folder)}
    return folders


def _for_testing(folder: Path) -> bool:
    return folder.name.lower().startswith("test") and parse_group(folder.name) is not None


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as e:
        raise UserError(
            f"--dataroot {folder}: cannot be read: {e.strerror}; grant permission or choose another folder"
        ) from None
