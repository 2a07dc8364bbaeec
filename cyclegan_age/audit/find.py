"""From the measurements of the pictures, and their labels, to findings."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cyclegan_age.ages import parse_group
from cyclegan_age.attributes import OLDEST, FaceAttributes, form_of, labels_in_name, stem_of
from cyclegan_age.audit.measurements import Measurements, embedding_of, small_of
from cyclegan_age.audit.pairs import likeness, similar
from cyclegan_age.data.age_folders import label
from cyclegan_age.data.labels import read_labels
from cyclegan_age.data.prepare.copies import near_copies
from cyclegan_age.data.prepare.rows import split_of

Recognise = Callable[[Sequence[Path]], Sequence[NDArray[np.float32] | None]]

_BLURRED = 15.0  # variance of the Laplacian at 200 px
_GREY = 3.0  # mean difference of the channels
_ROLLED = 25.0  # degrees between the eyes' line and the picture's
_BLOCKS = 0.28  # see `defects.blocks`
_FLAT, _MIRRORED, _REPEATED = 0.018, 0.94, 0.15  # see `defects`
_SAME_PICTURE = 0.9, 0.82  # cosine of the embeddings, and correlation of the aligned faces
_SAME_PERSON = 0.72, 0.68  # cosines of the embeddings, and of SFace's, which runs on these pairs alone
_FAR = 3.0  # times the estimator's own error

# Mean absolute error of `age_judge` in years, one view, by the decade of the label: 0 to 9, 10 to 19, .., 70 and more;
# on the 937 faces of 0 to 79 years of UTKFace and All-Age-Faces outside its training set (docs/data.md).
OWN_ERROR_YEARS = (2.3, 3.8, 4.3, 5.5, 6.6, 6.0, 6.4, 8.0)


@dataclass(frozen=True)
class Finding:
    """A possible fault.

    Attributes:
        kind: its name.
        file: the picture.
        detail: a few words more.
        other: the picture that it is compared with.
    """

    kind: str
    file: Path
    detail: str = ""
    other: Path | None = None


def own_error(age_years: float) -> float:
    """The estimator's mean absolute error in years on faces of that age."""
    return OWN_ERROR_YEARS[min(int(age_years) // 10, len(OWN_ERROR_YEARS) - 1)]


def find(root: Path, files: Sequence[Path], seen: Sequence[Measurements], recognise: Recognise) -> list[Finding]:
    """Possible faults, sorted by kind.

    Args:
        root: the folder.
        files: N pictures in it.
        seen: N measurements, as `measurements.measure` gives them.
        recognise: a second face embedder, as `measurements.recognise`.

    Raises:
        UserError: a `labels.csv` that cannot be read.
    """
    both = list(zip(files, seen, strict=True))
    good = [(file, one) for file, one in both if not one["broken"]]
    out = [Finding("broken file", file, one["broken"]) for file, one in both if one["broken"]]
    labels = read_labels(root)
    attributes = {file: _attributes(file, labels) for file, _ in good}
    # The first of several copies stays. Order: an exact age, then a line of labels.csv, then other labels.
    best = sorted(good, key=lambda one: _unknown(attributes[one[0]], one[0] in labels))
    out += _copies(root, best, attributes, recognise)
    splits: dict[str, set[str]] = {}
    for file, one in attributes.items():
        splits.setdefault(one.person, set()).add(_split(root, file))
    parted = {person for person, some in splits.items() if person and len(some) > 1}
    out += [
        Finding("person in two splits", file, who.person) for file, who in attributes.items() if who.person in parted
    ]
    inexact = [file for file, one in attributes.items() if file in labels and not one.exact]
    out += [Finding("age not recorded", file, "exact is 0 in labels.csv") for file in inexact]
    for file, measured in good:
        out += [
            Finding(kind, file, detail) for kind, detail in _by_itself(measured, attributes[file].age_years).items()
        ]
    return sorted(out, key=lambda one: (one.kind, one.file))


def _attributes(file: Path, labels: Mapping[Path, FaceAttributes]) -> FaceAttributes:
    """Labels of a picture; without an age its folder's."""
    form = form_of(stem_of(file))
    if attributes := labels.get(file) or (labels_in_name(form, stem_of(file)) if form else None):
        return attributes
    span = parse_group(file.parent.name)
    if not span:
        return FaceAttributes()
    age = label(file.name, span)
    return FaceAttributes(age, exact=age != sum(span) / 2)


def _unknown(attributes: FaceAttributes, listed: bool) -> tuple[bool, bool, int]:
    """Sort key: which labels of a picture are unknown."""
    unsure = not attributes.exact or math.isnan(attributes.age_years)
    return unsure, not listed, math.isnan(attributes.sex) + math.isnan(attributes.race) + (not attributes.person)


def _years(file: Path, attributes: FaceAttributes) -> tuple[float, float]:
    """First and last possible age of a picture: the bounds of its folder where only the group is known."""
    age, name = attributes.age_years, file.parent.name.strip()
    span = parse_group(name)
    if not span or not span[0] <= age <= span[1] + 1 or attributes.exact:
        return age, age
    return span[0], OLDEST if name.endswith("+") else span[1]


def _copies(
    root: Path,
    good: Sequence[tuple[Path, Measurements]],
    attributes: Mapping[Path, FaceAttributes],
    recognise: Recognise,
) -> list[Finding]:
    """Duplicate pictures, of which the first is kept, and faces of one person on both sides of a split."""
    out = []

    def twice(kind: str, first: Path, file: Path, detail: str = "") -> None:
        out.append(Finding(kind, file, f"of {first.relative_to(root)}{detail}", first))
        if _split(root, file) != _split(root, first):
            out.append(Finding("copy in another split", file, f"of {first.relative_to(root)}", first))
        one, other = _years(file, attributes[file]), _years(first, attributes[first])
        if max(one[0] - other[1], other[0] - one[1]) > 1:
            ages = f"{attributes[file].age_years:g} and {attributes[first].age_years:g} years"
            out.append(Finding("copy of another age", file, ages, first))

    named: set[int] = set()  # each copy once
    for group in near_copies([one["hash"] for _, one in good]):
        named.update(group[1:])
        for i in group[1:]:
            same = good[i][1]["bytes"] == good[group[0]][1]["bytes"]
            twice("same bytes" if same else "near copy", good[group[0]][0], good[i][0])
    faces = [i for i, (_, one) in enumerate(good) if "embedding" in one and i not in named]
    embeddings = np.array([embedding_of(good[i][1]) for i in faces] or np.zeros((0, 1)), np.float32)
    apart: list[tuple[int, int, float]] = []
    for a, b, cosine in similar(embeddings, _SAME_PERSON[0]):
        i, j = faces[a], faces[b]
        alike = likeness(small_of(good[i][1]), small_of(good[j][1])) if cosine >= _SAME_PICTURE[0] else 0.0
        if alike >= _SAME_PICTURE[1]:
            if j not in named:
                said = f", embeddings {cosine:.2f}, faces {alike:.2f}"
                twice("near copy by its face", good[i][0], good[j][0], said)
            named.add(j)
        elif _split(root, good[i][0]) != _split(root, good[j][0]):
            apart.append((i, j, cosine))
    queried = sorted({i for pair in apart for i in pair[:2]})
    seen_as = dict(zip(queried, recognise([good[i][0] for i in queried]), strict=True))
    for i, j, cosine in apart:
        first, second = seen_as[i], seen_as[j]
        if first is None or second is None or (surely := float(first @ second)) < _SAME_PERSON[1]:
            continue
        if not attributes[good[i][0]].person or attributes[good[i][0]].person != attributes[good[j][0]].person:
            detail = f"as {good[i][0].relative_to(root)}, embeddings {cosine:.2f}, SFace {surely:.2f}"
            out.append(Finding("perhaps a person in two splits", good[j][0], detail, good[i][0]))
    return out


def _by_itself(one: Measurements, age_years: float) -> dict[str, str]:
    """Possible faults of a single picture: kind -> detail."""
    kinds = {}
    if not one["faces"]:
        kinds["no face"] = ""
    if one["faces"] > 1:
        kinds["several faces"] = str(one["faces"])
    if one["turn"]:
        kinds["turned"] = f"upright once turned by {one['turn']} degrees to the left"
    elif abs(one["roll"]) > _ROLLED:
        kinds["turned"] = f"the eyes lie at {one['roll']:.0f} degrees"
    if one["sharpness"] < _BLURRED:
        kinds["blurred"] = f"sharpness {one['sharpness']:.1f}"
    if one["blocks"][0] >= _BLOCKS:
        kinds["pixelated"] = f"blocks of {one['blocks'][1]:.1f} pixels"
    if one["colour"] < _GREY:
        kinds["grey"] = ""
    if one["border"][0] >= _FLAT:
        kinds["made border"] = f"{one['border'][1]}, {one['border'][0]:.0%} of the picture"
    elif one["mirrored"] >= _MIRRORED:
        kinds["made border"] = f"mirrored, {one['mirrored']:.2f}"
    elif one["repeated"] <= _REPEATED:
        kinds["made border"] = f"edge repeated, {one['repeated']:.2f}"
    if "age" in one and not math.isnan(age_years):
        error, away = own_error(age_years), one["age"] - age_years
        if abs(away) > _FAR * error:
            kinds["age far from label"] = (
                f"label {age_years:g}, estimate {one['age']:.0f} years; the estimator's error is {error} at that age"
            )
    return kinds


def _split(root: Path, file: Path) -> str:
    return split_of(file.relative_to(root).parts[0])
