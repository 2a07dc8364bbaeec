"""Labelled files of a folder of faces.

A data folder has one sub-folder per age group, or folders such as male/ and female/ that contain these. Shards contain
their labels, see `Shards`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cyclegan_age.ages import AgeCode, parse_groups
from cyclegan_age.attributes import FaceAttributes, attributes_by_name
from cyclegan_age.config import UserError
from cyclegan_age.data.age_folders import labelled_files
from cyclegan_age.data.labels import read_labels
from cyclegan_age.data.shards import CACHE_GB, ShardAttributes, is_shards, open_shards, refuse_shards, shown
from cyclegan_age.images import counted, list_images

NO_AGE = "no age known"
NO_GROUP = "younger or older than the groups"

_FEW = 12  # data with at most so many distinct ages is taken as sorted by group


@dataclass(frozen=True, eq=False)
class FaceFolder:
    """The pictures of a data folder with a known age.

    Attributes:
        root: the data folder.
        paths: N files, sorted, or the pictures of shards.
        age_years: (N,) float32, ages in years.
        group: (N,) int64, index of the age group of the `AgeCode`.
        attributes: N, the labels of each from `labels.csv`, its name or the shard.
        left_out: number of excluded pictures, by reason.
    """

    root: Path
    paths: Sequence[Path]
    age_years: NDArray[np.float32]
    group: NDArray[np.int64]
    attributes: Sequence[FaceAttributes]
    left_out: dict[str, int]


def scan(dataroot: Path, code: AgeCode, *, every_group: bool = True, cache_gb: float = CACHE_GB) -> FaceFolder:
    """Find and label the pictures of a data folder, or of shards, without opening the pictures.

    Args:
        dataroot: folder with one sub-folder per age group, or shards.
        code: the groups that ages are sorted into.
        every_group: whether an empty group is an error.
        cache_gb: as of `open_shards`.

    Raises:
        UserError: no folder, no age folders, no pictures, or an empty group; see `open_shards`.
    """
    if is_shards(dataroot):
        return _scan_shards(dataroot, code, every_group, cache_gb)
    labels = read_labels(dataroot)
    found, left_out = labelled_files(dataroot, labels)
    outside = _outside(code)
    kept: list[tuple[Path, float, int]] = []
    last = len(code) - 1
    for path, years, opens in found:
        group = code.group(years)
        if group is None and opens is not None and code.group(opens) == last:
            group = last  # all pictures of a folder like 60+
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
        attributes=[labels.get(path) or attributes_by_name(path.name) for path, _, _ in kept],
        left_out={reason: count for reason, count in left_out.items() if count},
    )


def _scan_shards(dataroot: Path, code: AgeCode, every_group: bool, cache_gb: float) -> FaceFolder:
    shards = open_shards(dataroot, cache_gb)
    years, where = np.unique(shards.age_years, return_inverse=True)
    groups = [None if np.isnan(one) else code.group(float(one)) for one in years]
    group = np.array([-1 if one is None else one for one in groups], np.int64)[where]
    none = np.isnan(shards.age_years)
    if none.all():
        what = "their pictures have no ages" if len(none) else "no pictures in them"
        remedy = "expected NAME.jpg beside NAME.json with an age, as prepare.py shards writes them"
        raise UserError(f"--dataroot {shown(dataroot)}: {what}; {remedy}")
    left_out = {NO_AGE: int(none.sum()), _outside(code): int((~none & (group < 0)).sum())}
    kept = shards.take(group >= 0)
    group = group[group >= 0]
    _check_groups(dataroot, code, Counter(group.tolist()), years[~np.isnan(years)].tolist(), every_group)
    return FaceFolder(
        root=dataroot,
        paths=kept,
        age_years=kept.age_years,
        group=group,
        attributes=ShardAttributes(kept),
        left_out={reason: count for reason, count in left_out.items() if count},
    )


def _outside(code: AgeCode) -> str:
    return f"{NO_GROUP} ({_span(code.spans[0][0], code.spans[-1][1])} years)"


def _check_groups(
    dataroot: Path, code: AgeCode, counts: Mapping[int, int], age_years: Sequence[float], every_group: bool
) -> None:
    """Check that no group is empty or, without `every_group`, that one has pictures."""
    empty = [k for k in range(len(code)) if not counts.get(k)]
    if empty and (every_group or not counts):
        edges = code.edges
        names = ", ".join(f"{code.anchors[k]} ({_span(edges[k], edges[k + 1])})" for k in empty)
        ages, other = " ".join(map(str, code.anchors)), " ".join(map(str, _other_ages(code, age_years)))
        remedy = f"choose other --ages{other and f', such as --ages {other}'}"
        raise UserError(f"--ages {ages}: {shown(dataroot)} has no picture for the age {names}; {remedy}")


def _other_ages(code: AgeCode, age_years: Sequence[float]) -> tuple[int, ...]:
    """Ages whose groups all have pictures: the distinct ages, if they are few, or some of the code's anchors."""
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
        dataroot: a folder with trainA/ and trainB/, whose pictures are used unchanged, or one with age folders.
        group_a: age group of the first domain, such as `20-29` or `50s`; unused with trainA/ and trainB/.
        group_b: age group of the second domain.

    Raises:
        UserError: no folder, a name that is not an age group, or a domain without pictures.
    """
    refuse_shards(dataroot, "--model cyclegan_pair")
    folders = dataroot / "trainA", dataroot / "trainB"
    if all(folder.is_dir() for folder in folders):
        domains = list_images(folders[0]), list_images(folders[1])
        for folder, paths in zip(folders, domains, strict=True):
            if not paths:
                raise UserError(f"--dataroot {dataroot}: no pictures in {folder.name}/; copy some there")
        return domains
    spans = []
    for flag, name in (("--group_a", group_a), ("--group_b", group_b)):
        span = parse_groups([name]).get(name)
        if span is None:
            raise UserError(f"{flag} {name}: not an age group; expected a name such as 20-29 or 50s")
        spans.append((flag, name, span))
    pictures, _ = labelled_files(dataroot, read_labels(dataroot))
    found = []
    for flag, name, (low, high) in spans:
        found.append([path for path, years, opens in pictures if low <= years < high + 1 or opens == low])
        if not found[-1]:
            raise UserError(f"{flag} {name}: must be an age group with pictures in {dataroot}")
    return found[0], found[1]


def describe(faces: FaceFolder, code: AgeCode) -> list[str]:
    """A summary of the data: for each group its years, its number of pictures, and one of them with its age."""
    lines = []
    for k, (low, high) in enumerate(code.spans):
        chosen = np.flatnonzero(faces.group == k)
        years = f"group {code.anchors[k]}, {max(low, 0):g} to below {high:g} years: {counted(len(chosen))}"
        if len(chosen):
            i = int(chosen[len(chosen) // 2])
            age = f"{faces.age_years[i]:g}"
            years += f", as {faces.paths[i].relative_to(faces.root)} of {age} year{'' if age == '1' else 's'}"
        lines.append(years)
    return lines
