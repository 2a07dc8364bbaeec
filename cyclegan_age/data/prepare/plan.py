"""The output of `prepare.py`: splits and file names of the pictures."""

import contextlib
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path

from cyclegan_age.attributes import stem_of
from cyclegan_age.config import PrepareConfig, UserError
from cyclegan_age.data.prepare.rows import Row


@dataclass(frozen=True)
class Item:
    """An output picture.

    Attributes:
        row: its labels, with the split.
        file: path below the output folder.
    """

    row: Row
    file: str


def plan(rows: Sequence[Row], config: PrepareConfig) -> list[Item]:
    """The valid rows with their splits and output file names, sorted by these."""
    valid = [row for row in rows if not row.reason]
    if config.fold:
        folds = sorted({row.fold for row in valid if row.fold})
        if config.fold not in folds:
            has = (
                f"its folds are {', '.join(folds[:10])}{', ..' if len(folds) > 10 else ''}" if folds else "it has none"
            )
            raise UserError(f"--fold {config.fold}: {config.set} has no such fold; {has}")
        valid = [replace(row, split="test" if row.fold == config.fold else "") for row in valid]
    test = 0.0 if config.fold else config.test
    valid = split(valid, config.seed, config.val, test, identical(row.file for row in valid if not row.person))
    names = Counter(row.file.stem.lower() for row in valid)
    items = []
    for row in valid:
        own = stem_of(row.file)
        own = own.split("_", 3)[-1] if config.set == "utkface" else own  # the labels are before it
        if names[own.lower()] > 1:  # such as train/1.jpg and val/1.jpg
            own = "-".join(row.file.relative_to(config.source).with_suffix("").parts)
        who = f"{_plain(row.person)}+" if row.person else ""
        low = int(row.age) // 5 * 5
        folder = f"{row.split}/{row.group or f'{low:02d}-{low + 4:02d}'}"
        suffix = ".webp" if config.align else row.file.suffix.lower()
        name = f"{int(row.age)}_{row.sex}_{row.race}_{config.set}+{who}{_plain(own)}"
        items.append(Item(row, f"{folder}/{name}{suffix}"))
    return _unique(sorted(items, key=lambda item: item.file))


def _unique(items: Iterable[Item]) -> list[Item]:
    """Add a number to names that have become equal."""
    taken: set[str] = set()
    out = []
    for item in items:
        name = next(name for name in chain([item.file], _numbered(Path(item.file))) if name.lower() not in taken)
        taken.add(name.lower())
        out.append(replace(item, file=name))
    return out


def _numbered(path: Path) -> Iterator[str]:
    return (f"{path.parent.as_posix()}/{path.stem}-{i}{path.suffix}" for i in count(2))


def _plain(text: str) -> str:
    """A part of a file name: letters, digits, dots and hyphens, at most 80 bytes."""
    plain = re.sub(r"[^\w.-]+", "-", text).replace("_", "-").strip("-.")
    return plain.encode()[:80].decode(errors="ignore") or "x"


def split(rows: Sequence[Row], seed: int, val: float, test: float, same: Mapping[Path, str] | None = None) -> list[Row]:
    """Rows with their split: the set's own, else by person, in an order that depends on the seed.

    A picture of an unknown person counts as a separate person. A person in one of the set's own splits stays there.

    Args:
        rows: of one set.
        seed: of the order.
        val: share of the pictures without a given split.
        test: as `val`.
        same: a digest of the content of files with identical copies: they belong to one person.
    """
    same = same or {}
    above = Path(os.path.commonpath([row.file.parent for row in rows])) if rows else Path()

    def unit_of(row: Row) -> str:
        return row.person or same.get(row.file) or row.file.relative_to(above).as_posix()

    given = {row.person: row.split for row in rows if row.person and row.split}
    rows = [replace(row, split=row.split or given.get(row.person, "")) for row in rows]
    sizes = Counter(unit_of(row) for row in rows if not row.split)
    total = sizes.total()
    order = sorted(sizes, key=lambda unit: hashlib.sha256(os.fsencode(f"{seed}/{unit}")).digest())
    chosen: dict[str, str] = {}
    for name, share in (("test", test), ("val", val)):
        filled = 0
        for unit in order:
            if unit not in chosen and filled < share * total - 0.5 and len(chosen) < len(order) - 1:
                chosen[unit] = name
                filled += sizes[unit]
    return [replace(row, split=row.split or chosen.get(unit_of(row), "train")) for row in rows]


def identical(files: Iterable[Path]) -> dict[Path, str]:
    """Digests of the files with identical copies; only files of equal size are read."""
    sizes: dict[int, list[Path]] = {}
    for file in files:
        try:
            sizes.setdefault(file.stat().st_size, []).append(file)
        except OSError:  # the error is reported when the picture is made
            continue
    marks: dict[Path, str] = {}
    for some in sizes.values():
        for file in some if len(some) > 1 else ():
            with contextlib.suppress(OSError):
                marks[file] = hashlib.sha256(file.read_bytes()).hexdigest()
    counts = Counter(marks.values())
    return {file: mark for file, mark in marks.items() if counts[mark] > 1}
