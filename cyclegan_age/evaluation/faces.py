"""The faces of an evaluation, and the rows of its table."""

import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cyclegan_age.ages import AgeCode
from cyclegan_age.attributes import FaceAttributes
from cyclegan_age.config import EvaluateConfig, UserError
from cyclegan_age.data.folders import scan

REACH_YEARS = 5.0  # half width of the group of real faces around a target
_CODE = AgeCode((10, 20, 30, 40, 50, 60, 70))  # real faces of 5 to 79 years are used
_FEWEST_EXACT = 100  # minimum number of faces of recorded age to calibrate on these alone
_SEXES = ("male", "female")
_RACES = ("White", "Black", "Asian", "Indian", "other")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the table: a source of renderings.

    Attributes:
        name: as in the table.
        key: changes whenever its pictures may change.
        weights: file for `Ager.load`; None for the rows without a model.
    """

    name: str
    key: str
    weights: Path | None = None


REAL = Row(name="real faces", key="real")
COPY = Row(name="copy input", key="copy")
BLEND = Row(name="group mean blend", key="blend")


@dataclass(frozen=True, eq=False)
class Faces:
    """The faces of an evaluation.

    Attributes:
        root: the data folder.
        paths: N files with an age in their name or folder.
        age_years: (N,).
        sex: N names, empty if unknown.
        race: as `sex`.
        rank: (N,) rank of each by the hash of its name: a fixed shuffling.
        sources: indices of the faces to age.
        left_out: number of excluded pictures, by reason.
        exact: indices of the faces with a recorded age; all faces if there are fewer than 100.
    """

    root: Path
    paths: Sequence[Path]
    age_years: NDArray[np.float32]
    sex: list[str]
    race: list[str]
    rank: NDArray[np.int64]
    sources: list[int]
    left_out: dict[str, int]
    exact: frozenset[int]

    @classmethod
    def find(cls, config: EvaluateConfig) -> "Faces":
        """Scan the data folder and choose the sources.

        Raises:
            UserError: no folder, no age folders, or no face of the sources' ages.
        """
        folder = scan(config.dataroot, _CODE, every_group=False, cache_gb=config.shard_cache)
        marks = [hashlib.sha256(os.fsencode(path.name)).digest() for path in folder.paths]
        order = sorted(range(len(marks)), key=lambda i: marks[i])
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        attributes = folder.attributes
        youngest, oldest = config.sources
        of_ages = [i for i in order if youngest <= folder.age_years[i] < oldest + 1]
        if not of_ages:
            raise UserError(f"--sources {youngest} {oldest}: must include the age of a face in {config.dataroot}")
        exact = frozenset(i for i, one in enumerate(attributes) if one.exact)
        return cls(
            root=folder.root,
            paths=folder.paths,
            age_years=folder.age_years,
            sex=["" if math.isnan(one.sex) else _SEXES[int(one.sex)] for one in attributes],
            race=["" if math.isnan(one.race) else _RACES[int(one.race)] for one in attributes],
            rank=rank,
            sources=sorted(evenly(of_ages, folder.age_years, config.limit)),
            left_out=folder.left_out,
            exact=exact if len(exact) >= _FEWEST_EXACT else frozenset(range(len(attributes))),
        )

    def attributes(self, i: int) -> FaceAttributes:
        """The labels of face i that a model may use."""
        sex = float(_SEXES.index(self.sex[i])) if self.sex[i] else math.nan
        return FaceAttributes(float(self.age_years[i]), sex)


def evenly(order: Sequence[int], age_years: NDArray[np.float32], limit: int) -> list[int]:
    """The first `limit` faces of an order, balanced over the decades; all of them with limit 0."""
    decades: dict[int, list[int]] = {}
    for i in order:
        decades.setdefault(int(age_years[i] // 10), []).append(i)
    rounds = [group[k : k + 1] for k in range(len(order)) for group in decades.values()]
    chosen = [i for part in rounds for i in part]
    return chosen[: limit or None]
