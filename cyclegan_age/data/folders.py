"""Folders of faces to labelled files: which picture is of which age.

A data folder has one sub-folder per age group, or folders such as male/ and female/ that have them. Shards have their
labels inside, see `Shards`.
"""

import logging
import math
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cyclegan_age.ages import AgeCode, parse_group, parse_groups
from cyclegan_age.config import UserError
from cyclegan_age.data.labels import names_all, read_labels
from cyclegan_age.data.names import Known, form_of, known_by_name, stem_of, told
from cyclegan_age.data.shards import CACHE_GB, KnownOf, is_shards, open_shards, refuse_shards, shown
from cyclegan_age.images import counted, list_images, unread

NO_FOLDER = "not in an age folder"
FOR_TESTING = "in folders for testing"
NOT_LISTED = "not in labels.csv"
NO_AGE = "no age known"
NO_GROUP = "younger or older than the groups"

_LEADING = re.compile(r"(\d{1,3})[_-]")
_ADIENCE = re.compile(r"(coarse_tilt|landmark)_aligned_face\.\d+\.")  # names of its pictures, without ages
_MASKS = "parsings"
_FEW = 12  # different ages in years, as the middles of groups are
_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test"})

Years = tuple[int, int]

log = logging.getLogger("cyclegan_age")


def known_by_path(path: Path) -> Known:
    """As `known_by_name`; of a file in an age folder also the age it has for a training."""
    known = known_by_name(path.name)
    span = parse_groups([path.parent.name]).get(path.parent.name)
    return Known(label(path.name, span)) if math.isnan(known.age_years) and span else known


@dataclass(frozen=True, eq=False)
class FaceFolder:
    """The usable pictures of a data folder.

    Attributes:
        root: the data folder.
        paths: N files, sorted, or the pictures of shards.
        age_years: (N,) float32, ages in years.
        group: (N,) int64, index of the age group of the `AgeCode`.
        known: N, what `labels.csv` tells of each, or its name; or the shard.
        left_out: how many pictures were left out, by reason.
    """

    root: Path
    paths: Sequence[Path]
    age_years: NDArray[np.float32]
    group: NDArray[np.int64]
    known: Sequence[Known]
    left_out: dict[str, int]


def scan(dataroot: Path, code: AgeCode, *, every_group: bool = True, cache_gb: float = CACHE_GB) -> FaceFolder:
    """Find and label the pictures of a data folder, or of shards; no file but these is opened.

    Args:
        dataroot: folder with one sub-folder per age group, or shards.
        code: the groups that ages are sorted into.
        every_group: whether a group without a picture is an error.
        cache_gb: as of `open_shards`.

    Raises:
        UserError: no folder, no age folders, no pictures, or an empty group; see `open_shards`.
    """
    if is_shards(dataroot):
        return _scan_shards(dataroot, code, every_group, cache_gb)
    known = read_labels(dataroot)
    found, left_out = _labelled(dataroot, known)
    outside = _outside(code)
    kept: list[tuple[Path, float, int]] = []
    last = len(code) - 1
    for path, years, opens in found:
        group = code.group(years)
        if group is None and opens is not None and code.group(opens) == last:
            group = last  # all of a folder like 60+
        if group is None:
            left_out[outside] += 1
        else:
            kept.append((path, years, group))
    _check_groups(dataroot, code, Counter(group for _, _, group in kept), [years for _, years, _ in found], every_group)
    return FaceFolder(
        root=dataroot,
        paths=[path for path, _, _ in kept],
        age_years=np.array([years for _, years, _ in kept], dtype=np.float32),
        group=np.array([group for _, _, group in kept], dtype=np.int64),
        known=[known.get(path) or known_by_name(path.name) for path, _, _ in kept],
        left_out={reason: count for reason, count in left_out.items() if count},
    )


def _scan_shards(dataroot: Path, code: AgeCode, every_group: bool, cache_gb: float) -> FaceFolder:
    shards = open_shards(dataroot, cache_gb)
    years, where = np.unique(shards.age_years, return_inverse=True)
    groups = [None if np.isnan(one) else code.group(float(one)) for one in years]
    group = np.array([-1 if one is None else one for one in groups], np.int64)[where]
    none = np.isnan(shards.age_years)
    left_out = {NO_AGE: int(none.sum()), _outside(code): int((~none & (group < 0)).sum())}
    kept = shards.take(group >= 0)
    group = group[group >= 0]
    _check_groups(dataroot, code, Counter(group.tolist()), years[~np.isnan(years)].tolist(), every_group)
    return FaceFolder(
        root=dataroot,
        paths=kept,
        age_years=kept.age_years,
        group=group,
        known=KnownOf(kept),
        left_out={reason: count for reason, count in left_out.items() if count},
    )


def _outside(code: AgeCode) -> str:
    end = code.ends[-1] + 1 if code.ends else code.edges[-1]
    return f"{NO_GROUP} ({_span(code.edges[0], end)} years)"


def _check_groups(
    dataroot: Path, code: AgeCode, counts: Mapping[int, int], age_years: Sequence[float], every_group: bool
) -> None:
    """See that no group is empty, or at least not all are."""
    empty = [k for k in range(len(code)) if not counts.get(k)]
    if empty and (every_group or not counts):
        edges = code.edges
        names = ", ".join(f"{code.anchors[k]} ({_span(edges[k], edges[k + 1])})" for k in empty)
        ages, other = " ".join(map(str, code.anchors)), " ".join(map(str, _other_ages(code, age_years)))
        remedy = f"give other --ages{other and f', as --ages {other}'}"
        raise UserError(f"--ages {ages}: {shown(dataroot)} has no picture for the age {names}; {remedy}")


def _other_ages(code: AgeCode, age_years: Sequence[float]) -> tuple[int, ...]:
    """Ages for all of whose groups there are pictures: those that there are, if they are few, or some of the code's."""
    there = {float(years) for years in age_years}
    some = tuple(sorted({int(years) for years in there}))
    if len(some) > _FEW:
        some = tuple(anchor for k, anchor in enumerate(code.anchors) if _any(code, k, there))
    if len(some) < 2 or code.ends:
        return ()
    other = AgeCode(some, code.form)
    return some if all(_any(other, k, there) for k in range(len(other))) else ()


def _any(code: AgeCode, k: int, age_years: Iterable[float]) -> bool:
    return any(code.group(years) == k for years in age_years)


def _span(begin: float, end: float) -> str:
    return f"from {max(begin, 0):g} to below {end:g}"


def scan_pair(dataroot: Path, group_a: str, group_b: str) -> tuple[list[Path], list[Path]]:
    """The pictures of two domains, for the CycleGAN of two generators.

    Args:
        dataroot: a folder with trainA/ and trainB/, whose pictures are taken as they are, or one with age folders.
        group_a: age group of the first domain, such as `20-29` or `50s`; unused where trainA/ and trainB/ are.
        group_b: age group of the second domain.

    Raises:
        UserError: no folder, a group name that means no age, or a domain without pictures.
    """
    refuse_shards(dataroot, "--model cyclegan_pair")
    folders = dataroot / "trainA", dataroot / "trainB"
    if all(folder.is_dir() for folder in folders):
        domains = list_images(folders[0]), list_images(folders[1])
        for folder, paths in zip(folders, domains, strict=True):
            if not paths:
                raise UserError(f"--dataroot {dataroot}: no pictures in {folder.name}/; put some there")
        return domains
    spans = []
    for flag, name in (("--group_a", group_a), ("--group_b", group_b)):
        span = parse_groups([name]).get(name)
        if span is None:
            raise UserError(f"{flag} {name}: not an age group; give one such as 20-29 or 50s")
        spans.append((flag, name, span))
    pictures, _ = _labelled(dataroot, read_labels(dataroot))
    found = []
    for flag, name, (low, high) in spans:
        found.append([path for path, years, opens in pictures if low <= years < high + 1 or opens == low])
        if not found[-1]:
            raise UserError(f"{flag} {name}: {dataroot} has no picture of that age; give another group")
    return found[0], found[1]


def describe(faces: FaceFolder, code: AgeCode) -> list[str]:
    """What was understood: for each group its years, how many pictures it has, and one of them with its age."""
    lines = []
    for k, (low, high) in enumerate(pairwise(code.edges)):
        chosen = np.flatnonzero(faces.group == k)
        years = f"group {code.anchors[k]}, {max(low, 0):g} to below {high:g} years: {counted(len(chosen))}"
        if len(chosen):
            i = int(chosen[len(chosen) // 2])
            age = f"{faces.age_years[i]:g}"
            years += f", as {faces.paths[i].relative_to(faces.root)} of {age} year{'' if age == '1' else 's'}"
        lines.append(years)
    return lines


def labelled(dataroot: Path) -> list[tuple[Path, float]]:
    """Every picture of the age folders with its age in years, sorted; errors as of `scan`."""
    return [(path, years) for path, years, _ in _labelled(dataroot, read_labels(dataroot))[0]]


def _labelled(dataroot: Path, known: Mapping[Path, Known]) -> tuple[list[tuple[Path, float, int | None]], Counter[str]]:
    """Every picture of the age folders with its age in years, sorted, and the counts of the others by reason.

    In folders that are open above, like `60+`, the first year stands beside it. Where `labels.csv` names every picture
    that is of use, no age folders are needed.
    """
    if names_all(dataroot):
        files = _faces(dataroot)
        listed: list[tuple[Path, float, int | None]] = [(f, known[f].age_years, None) for f in files if f in known]
        if not listed:
            raise UserError(f"--dataroot {dataroot}: none of its pictures is in labels.csv; run prepare.py label again")
        return listed, Counter({NOT_LISTED: len(files) - len(listed)})
    folders = _age_folders(dataroot)
    found: list[tuple[Path, float, int | None]] = []
    told_by_name, wrong = 0, []
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
            own = known[path].age_years if path in known else label(path.name, years)
            found.append((path, own, opens))
            if path not in known and form_of(stem_of(path)):
                told_by_name += 1
                if not years[0] - 1 <= own < years[1] + 2 and opens is None:
                    wrong.append((path, own))
    if 2 * len(wrong) > told_by_name:
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
        log.warning("%s: %s", dataroot, line)
    if wrong:
        path, own = wrong[0]
        log.warning(
            "%s: %s in folders of other ages than their names say, as %s; the names hold",
            *(dataroot, counted(len(wrong)), path.relative_to(dataroot)),
        )
    strays = set(_faces(dataroot)).difference(path for path, *_ in found)
    left_out = Counter(FOR_TESTING if _for_testing(path.parent) else NO_FOLDER for path in strays)
    return sorted(found, key=lambda one: one[0]), left_out


def _faces(folder: Path) -> list[Path]:
    """Pictures below a folder, but for the masks that LATS keeps beside its faces."""
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
        return f"name its shards, as --dataroot {shlex.quote(f'{dataroot / first}{{000..009}}.tar')}"
    tables = {"fairface_label_*.csv": "fairface", "fold_*_data.txt": "adience", "gt_avg_*.csv": "appa_real"}
    tables |= {"ffhq_aging_labels.csv": "ffhq_aging", "imdb.mat": "imdb_wiki", "wiki.mat": "imdb_wiki"}
    for pattern, name in tables.items():
        if next(dataroot.glob(pattern), None):
            return f"make age folders of them: python prepare.py {name} --source {source} --output FOLDER"
    expected = "expected names like 20, 20s, 20-29 or 60+ (see datasets/README.md)"
    if not paths:
        return expected
    return (
        f"{expected}; prepare.py csv makes them of a table of ages, prepare.py pattern of ages in file names; "
        f"for faces of unknown age: python prepare.py label {source}"
    )


def label(name: str, years: Years) -> float:
    """Age in years of a file, from its name where that tells it, else the middle of its folder's years.

    The forms of the public sets, as `age_sex_race_...`, always tell it. Another leading number does if it lies in the
    folder's years.
    """
    stem = stem_of(Path(name))
    if (form := form_of(stem)) and (own := told(form, stem)) and not math.isnan(own.age_years):
        return own.age_years
    if (m := _LEADING.match(name)) and years[0] <= int(m[1]) <= years[1]:
        return float(m[1])
    return (years[0] + years[1]) / 2


def _age_folders(dataroot: Path) -> dict[Path, Years]:
    """Age folders with the years they mean, one level down or, failing that, two."""
    refuse_shards(dataroot, "this command")
    if not dataroot.exists():
        raise UserError(f"--dataroot {dataroot}: no such folder; give the folder that has the age folders")
    if not dataroot.is_dir():
        raise UserError(f"--dataroot {dataroot}: not a folder; give the folder that has the age folders")
    level = _subfolders(dataroot)
    for depth in (1, 2):
        years = parse_groups(sorted({folder.name for folder in level}))
        folders = {folder: years[folder.name] for folder in level if folder.name in years}
        if folders:
            parts = sorted({f.parent.name for f in folders if f.parent.name.lower() in _SPLITS})
            if depth == 2 and parts:  # never train on the faces kept for scoring
                either = " or ".join(str(dataroot / part) for part in parts)
                raise UserError(f"--dataroot {dataroot}: no age folders of its own; give {either}")
            return _for_training(folders)
        level = [below for folder in level for below in _subfolders(folder)]
    raise UserError(
        f"--dataroot {dataroot}{os.sep}: no age folders found; {_remedy(dataroot, _faces(dataroot)[:1000])}"
    )


def _for_training(folders: dict[Path, Years]) -> dict[Path, Years]:
    """Without LATS's folders for testing, `test30-39`, where there are some for training beside."""
    if any(folder.name.lower().startswith("train") for folder in folders):
        return {folder: years for folder, years in folders.items() if not _for_testing(folder)}
    return folders


def _for_testing(folder: Path) -> bool:
    return folder.name.lower().startswith("test") and parse_group(folder.name) is not None


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as e:
        raise UserError(f"--dataroot {folder}: cannot be read: {e.strerror}; allow it or give another folder") from None
