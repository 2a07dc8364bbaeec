"""Faces sorted by person, for networks that learn to recognise people.

A person is a folder of pictures, as in LFW (`Ann_Example/1.jpg`), or is named in the file names, as in data sets with
people at several ages, or in `labels.csv`. A folder whose name means an age is no person.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cyclegan_age.ages import parse_group
from cyclegan_age.attributes import FaceAttributes, form_of, labels_in_name, stem_of
from cyclegan_age.config import UserError
from cyclegan_age.data.folders import FaceFolder
from cyclegan_age.data.labels import read_labels
from cyclegan_age.data.shards import refuse_shards
from cyclegan_age.images import list_images

MIN_PERSONS = 4  # two for training and two for testing

NO_PERSON = "of unknown persons"
ALONE = "the only one of their person"

_GENERAL = frozenset(
    {"train", "training", "val", "valid", "validation", "test", "traina", "trainb", "male", "female", "men", "women"}
)


@dataclass(frozen=True, eq=False)
class People:
    """The pictures of persons with at least two pictures in a data folder.

    Attributes:
        root: the data folder.
        paths: N files, sorted.
        person: (N,) int64, index of the person, from 0 without gaps.
        age_years: (N,) float32, NaN if the file name does not contain it.
        left_out: number of excluded pictures, by reason.
    """

    root: Path
    paths: list[Path]
    person: NDArray[np.int64]
    age_years: NDArray[np.float32]
    left_out: dict[str, int]


def scan_people(dataroot: Path) -> People:
    """Find the pictures of a data folder and their persons, without opening the files.

    Raises:
        UserError: no folder, or fewer than `MIN_PERSONS` persons with two pictures.
    """
    refuse_shards(dataroot, "--model face_embedder")
    if not dataroot.is_dir():
        raise UserError(f"--dataroot {dataroot}: no such folder; expected a folder with one sub-folder per person")
    labels = read_labels(dataroot)
    found = [(path, *_who(path, dataroot, labels.get(path))) for path in list_images(dataroot)]
    counts = Counter(who for _, who, _ in found if who)
    names = sorted(who for who, count in counts.items() if count > 1)
    if len(names) < MIN_PERSONS:
        raise UserError(
            f"--dataroot {dataroot}: {len(names)} persons have two pictures, at least {MIN_PERSONS} are needed; "
            "make a folder for each person, or use --preset distil, which needs no names"
        )
    number = {who: i for i, who in enumerate(names)}
    kept = [(path, number[who], age) for path, who, age in found if who in number]
    left_out = {NO_PERSON: sum(not who for _, who, _ in found), ALONE: sum(c == 1 for c in counts.values())}
    return People(
        root=dataroot,
        paths=[path for path, _, _ in kept],
        person=np.array([person for _, person, _ in kept], dtype=np.int64),
        age_years=np.array([age for _, _, age in kept], dtype=np.float32),
        left_out={reason: count for reason, count in left_out.items() if count},
    )


def _who(path: Path, root: Path, attributes: FaceAttributes | None) -> tuple[str, float]:
    """Name of the person on a picture, empty if unknown, and the age in years or NaN.

    Args:
        path: the picture.
        root: the data folder.
        attributes: its labels in `labels.csv`.
    """
    form = form_of(stem_of(path))
    attributes = attributes or (labels_in_name(form, stem_of(path)) if form else None)
    if attributes and attributes.person:
        return attributes.person, attributes.age_years
    folder = path.parent
    if folder == root or folder.name.lower() in _GENERAL or parse_group(folder.name):
        return "", np.nan
    return folder.relative_to(root).as_posix(), np.nan


@dataclass(frozen=True, eq=False)
class Labelled:
    """Pictures to train an embedder on, and others to test it on.

    Attributes:
        root: the data folder.
        paths: N files.
        age_years: (N,) float32, NaN if unknown.
        labels: (N, L) float32, the index of the person (L = 1) or a teacher's embedding.
        pools: indices of the training pictures: for each person, or for each age group.
        held_out: indices of the test pictures.
    """

    root: Path
    paths: Sequence[Path]
    age_years: NDArray[np.float32]
    labels: NDArray[np.float32]
    pools: list[NDArray[np.int64]]
    held_out: NDArray[np.int64]


def by_person(people: People) -> Labelled:
    """A pool for each person; every tenth person is held out: at most 100, with at most 5 pictures of each."""
    order = np.argsort(people.person, kind="stable")
    pools = np.split(order, np.flatnonzero(np.diff(people.person[order])) + 1)
    held = sorted({0, 1, *range(0, len(pools), 10)})[:100]
    return Labelled(
        root=people.root,
        paths=people.paths,
        age_years=people.age_years,
        labels=people.person[:, None].astype(np.float32),
        pools=[pool for k, pool in enumerate(pools) if k not in held],
        held_out=np.concatenate([pools[k][:5] for k in held]),
    )


def by_teacher(faces: FaceFolder, embeddings: NDArray[np.float32]) -> Labelled:
    """A pool for each age group; faces without an embedding (NaN) are excluded, every 20th is held out, at most 500.

    Raises:
        UserError: hardly any face has an embedding.
    """
    readable = np.flatnonzero(~np.isnan(embeddings[:, 0]))
    if len(readable) < MIN_PERSONS:
        raise UserError(
            f"--dataroot {faces.root}: the teacher finds {len(readable)} faces; expected upright, cropped ones"
        )
    held = readable[:: max(20, len(readable) // 500)] if len(readable) >= 40 else readable[:2]
    learnt = np.setdiff1d(readable, held)
    pools = [learnt[faces.group[learnt] == k] for k in np.unique(faces.group[learnt])]
    return Labelled(
        root=faces.root,
        paths=faces.paths,
        age_years=faces.age_years,
        labels=embeddings,
        pools=pools,
        held_out=held,
    )
