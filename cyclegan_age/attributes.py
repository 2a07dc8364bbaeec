"""Attributes of a face, and those in its file name: the forms of the public sets."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

OLDEST = 116  # years; a larger number in a name is no age


@dataclass(frozen=True)
class FaceAttributes:
    """Attributes of a face; NaN, or an empty name, if unknown.

    Attributes:
        age_years: age of the face.
        sex: 0 male, 1 female.
        race: 0 White, 1 Black, 2 Asian, 3 Indian, 4 other, as in UTKFace.
        person: its person, unique in its set.
        exact: whether its age is recorded, not estimated, nor the middle of a group.
    """

    age_years: float = math.nan
    sex: float = math.nan
    race: float = math.nan
    person: str = ""
    exact: bool = True


# Name of `prepare.py` -> the form of the file names without their ending; the first match applies.
FORMS: dict[str, re.Pattern[str]] = {
    # 25_0_2_20170104, and with the person 25_0_2_fgnet+001+001A25, as prepare.py writes it
    "utkface": re.compile(
        r"(?P<age>\d{1,3})_(?P<sex>[019])_(?P<race>[0-49])_(?:\w+\+(?P<person>[^+]+)\+)?.*", re.DOTALL
    ),
    "cacd": re.compile(r"(?P<age>\d{1,3})_(?P<person>(?:\d+_?)?[^\W\d_].*)_00\d{2}", re.DOTALL),  # 53_Ann_Example_0001
    "agedb": re.compile(r"\d+_(?P<person>[^\W\d_].*)_(?P<age>\d{1,3})_(?P<sex>[mf])"),  # 17_AnnExample_53_f
    "fgnet": re.compile(r"(?P<person>\d{3})[Aa](?P<age>\d{2})[a-z]?"),  # 001A53, 001A53b
    "all_age_faces": re.compile(r"(?P<number>\d{5})[Aa](?P<age>\d{2})"),  # 00000A02
    "morph2": re.compile(r"(?P<person>\d+)_\d+(?P<sex>[MFmf])(?P<age>\d{2})"),  # 009055_1F53
    "imdb_wiki": re.compile(  # nm0000001_rm124825600_1899-5-10_1968, 10000217_1981-05-05_2009
        r"(?P<person>(?:nm)?\d+)_(?:rm\d+_)?(?P<born>\d{4})-(?P<month>\d{1,2})-\d{1,2}_(?P<taken>\d{4})"
    ),
}
_LAST_FEMALE = 7380  # All-Age-Faces counts women first


def stem_of(file: Path) -> str:
    """Name without suffixes; UTKFace's crops are called `.jpg.chip.jpg`."""
    return re.sub(r"(\.jpe?g|\.png)?\.chip$", "", file.stem, flags=re.IGNORECASE)


def form_of(stem: str) -> str:
    """The set whose form a file name, without its suffix, matches; empty for none."""
    return next((name for name, form in FORMS.items() if form.fullmatch(stem)), "")


def labels_in_name(form: str, stem: str) -> FaceAttributes | None:
    """The labels in a file name, without its suffix, of a set's form; None if it does not match.

    The age is NaN if it is invalid: below 0, or above `OLDEST`.
    """
    m = FORMS[form].fullmatch(stem)
    if not m:
        return None
    parts = m.groupdict()
    if "born" in parts:
        age = taken_at(int(parts["born"]), int(parts["month"]), int(parts["taken"]))
    else:
        age = int(parts["age"])
    sex = {"m": 0.0, "f": 1.0, "0": 0.0, "1": 1.0}.get(parts.get("sex", "").lower(), math.nan)
    if form == "all_age_faces":
        sex = float(int(parts["number"]) <= _LAST_FEMALE)
    race = parts.get("race", "9")
    return FaceAttributes(
        float(age) if 0 <= age <= OLDEST else math.nan,
        sex,
        math.nan if race == "9" else float(race),
        parts.get("person") or "",
    )


def taken_at(born: int, month: int, taken: int) -> int:
    """Whole years from a month of birth to the middle of the year of a photograph, as in IMDB-WIKI."""
    return taken - born - (month > 6)


def attributes_by_name(name: str) -> FaceAttributes:
    """The labels in a file name of the UTKFace form `age_sex_race_...`; none for any other form.

    A sex or race of 9 is unknown.
    """
    return labels_in_name("utkface", stem_of(Path(name))) or FaceAttributes()
