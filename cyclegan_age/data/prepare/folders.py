"""Sets with labels in folder names."""

import re
from pathlib import Path

from cyclegan_age.ages import parse_group
from cyclegan_age.data.prepare.rows import NO_AGE, Row, once, sex_of
from cyclegan_age.images import list_images

_MASKS = "parsings"
_LATS = re.compile(r"(train|test)(\d{1,3}-\d{1,3})")


def _sex(path: Path) -> int:
    """By the nearest folder whose name is a sex: `male`, `females`, `men`."""
    words = {"males": "male", "females": "female", "men": "male", "women": "female"}
    for part in reversed(path.parts[:-1]):
        if (sex := sex_of(words.get(part.lower(), part) if len(part) > 2 else "")) != 9:
            return sex
    return 9


def read_agfw(source: Path) -> list[Row]:
    """AGFW and AGFW-v2: `male/age_15_19`, or `20-24` with both sexes; a copy in another size is excluded."""
    rows = []
    for row in once(list_images(source), lambda file: "/".join(file.parts[-3:]).lower(), lambda file: 0):
        span = parse_group(row.file.parent.name)
        if row.reason or not span:
            rows.append(row if row.reason else Row(row.file, reason=NO_AGE))
            continue
        opens = row.file.parent.name.strip().endswith("+")
        group = f"{span[0]}+" if opens else f"{span[0]:02d}-{span[1]:02d}"
        rows.append(Row(row.file, age=(span[0] + span[1]) / 2, group=group, sex=_sex(row.file)))
    return rows


def read_lats(source: Path) -> list[Row]:
    """Lifespan Age Transformation Synthesis: `males/train30-39/`, `test30-39/`; masks in `parsings/` are ignored."""
    rows = []
    for file in list_images(source):
        if _MASKS in file.relative_to(source).parts:
            continue
        m = _LATS.fullmatch(file.parent.name)
        span = parse_group(m[2]) if m else None
        if m and span:
            middle = (span[0] + span[1]) / 2
            rows.append(Row(file, age=middle, group=f"{span[0]:02d}-{span[1]:02d}", sex=_sex(file), split=m[1]))
        else:
            rows.append(Row(file, reason=NO_AGE))
    return rows
