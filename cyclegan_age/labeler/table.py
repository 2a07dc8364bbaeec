"""Labels of the faces of a folder: `labels.csv` and `left_out.csv`, written after every answer."""

import csv
import io
import logging
import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cyclegan_age.attributes import OLDEST
from cyclegan_age.config import UserError
from cyclegan_age.data.labels import COLUMNS, NAME, STATE, as_csv
from cyclegan_age.data.prepare.rows import UNKNOWN
from cyclegan_age.files import write_atomically
from cyclegan_age.labeler.estimates import Estimate, group_of

logger = logging.getLogger("cyclegan_age")

LEFT_OUT = "left_out.csv"
BAD = "bad picture, by hand"
ESTIMATED, CONFIRMED, CORRECTED = "estimated", "confirmed", "corrected"
_MORE = ("group", "estimated_age", "estimated_sex", "age_confidence", "sex_confidence", STATE)
_ALL = (*COLUMNS, *_MORE)
_HEADER = as_csv((), _ALL)
_SEXES = (0, 1, UNKNOWN)


@dataclass(frozen=True)
class Face:
    """A face, its estimate and its label.

    Attributes:
        file: its picture, below the folder.
        estimate: its estimated labels.
        age: of the label, in whole years.
        sex: of the label: 0 male, 1 female, 9 unknown.
        state: `estimated`, not reviewed; `confirmed`; `corrected`; or `BAD`, which excludes it.
    """

    file: str
    estimate: Estimate
    age: int
    sex: int
    state: str = ESTIMATED

    @property
    def confidence(self) -> float:
        """Estimated probability that group and sex are both right."""
        sex = self.estimate.sex_confidence
        return self.estimate.age_confidence * (1.0 if math.isnan(sex) else sex)


class Labels:
    """The labels of a folder, owned by one process; thread-safe.

    Args:
        folder: folder of the faces and tables.
        estimates: of every face, by file.
        left_out: excluded pictures, and why.

    Raises:
        UserError: a `labels.csv` that is not the labeler's, or that cannot be read.
    """

    def __init__(self, folder: Path, estimates: Mapping[str, Estimate], left_out: Mapping[str, str]) -> None:
        self.folder, self._left_out = folder, left_out
        self._lock = threading.Lock()
        self.faces = {file: Face(file, one, one.age, one.sex) for file, one in sorted(estimates.items())}
        lines = own_lines(folder)
        if gone := [line["file"] for line in lines if line["file"] not in self.faces]:
            text = "%s: %d lines have no matching face, such as %s; they are left out"
            logger.warning(text, folder / NAME, len(gone), ascii(gone[0]))
        for line in lines:
            face = self.faces.get(line["file"])
            if face and line[STATE] in (CONFIRMED, CORRECTED):
                try:
                    self.faces[face.file] = _answered(face, round(float(line["age"])), int(line["sex"]))
                except (TypeError, ValueError):
                    raise UserError(f"{folder / NAME}: {face.file} has no age or sex; correct it") from None
        for file, reason in _pairs(folder / LEFT_OUT):
            if reason == BAD and file in self.faces:
                self.faces[file] = replace(self.faces[file], state=BAD)
        answered = [face for face in self.faces.values() if face.state != ESTIMATED]
        waiting = [face for face in self.faces.values() if face.state == ESTIMATED]
        self._texts = {file: _text(face) for file, face in self.faces.items()}  # the line of each
        # Answered faces come first, so that going back from the first open one leads to them.
        order = [*answered, *sorted(waiting, key=lambda face: face.confidence)]
        self.order = [face.file for face in order]
        self._place = {file: i for i, file in enumerate(self.order)}

    @property
    def waiting(self) -> int:
        """Number of faces not reviewed."""
        return sum(face.state == ESTIMATED for face in self.faces.values())

    def next(self, file: str = "") -> Face | None:
        """The next face to review after a given one, the least confident first; None without any.

        After the last one it restarts with the skipped ones.
        """
        begin = self._place.get(file, -1) + 1
        there = (self.faces[name] for name in (*self.order[begin:], *self.order[:begin]))
        return next((face for face in there if face.state == ESTIMATED), None)

    def before(self, file: str) -> Face:
        """The face before a given one, in any state; the last one if that is unknown."""
        return self.faces[self.order[max(self._place.get(file, len(self.order)) - 1, 0)]]

    def answer(self, file: str, age: int, sex: int) -> None:
        """Confirm or correct a label, and write it.

        Raises:
            KeyError: no such face.
            ValueError: not an age in years or a sex.
            OSError: it cannot be written; then nothing has changed.
        """
        if not 0 <= age <= OLDEST or sex not in _SEXES:
            raise ValueError(f"age {age}, sex {sex}")
        self._change(_answered(self.faces[file], age, sex))

    def leave_out(self, file: str) -> None:
        """Mark a picture as bad, and write that; errors as `answer`."""
        self._change(replace(self.faces[file], state=BAD))

    def _change(self, face: Face) -> None:
        with self._lock:
            before = self.faces[face.file]
            self._set(face)
            try:
                self._write(left_out=BAD in (before.state, face.state))
            except OSError:
                self._set(before)
                raise

    def _set(self, face: Face) -> None:
        self.faces[face.file] = face
        self._texts[face.file] = _text(face)

    def write(self) -> None:
        """Write both tables.

        Raises:
            OSError: they cannot be written.
        """
        with self._lock:
            self._write(left_out=True)

    def _write(self, *, left_out: bool) -> None:
        if left_out:  # first: if killed between the two, the face counts as not reviewed
            bad = {face.file: BAD for face in self.faces.values() if face.state == BAD}
            write_atomically(self.folder / LEFT_OUT, _two_columns(sorted({**self._left_out, **bad}.items())))
        write_atomically(self.folder / NAME, b"".join((_HEADER, *self._texts.values())))


def _text(face: Face) -> bytes:
    """The line of a face; empty for an excluded one."""
    if face.state == BAD:
        return b""
    one = face.estimate
    line = {
        **{"file": face.file, "age": face.age, "sex": face.sex, "race": UNKNOWN, "person": "", "split": ""},
        **{"source": "label", "fold": "", "exact": 0, "group": group_of(face.age)},
        **{"estimated_age": one.age, "estimated_sex": one.sex, "age_confidence": f"{one.age_confidence:.3f}"},
        "sex_confidence": "" if math.isnan(one.sex_confidence) else f"{one.sex_confidence:.3f}",
        STATE: face.state,
    }
    return as_csv([line], _ALL).removeprefix(_HEADER)


def _answered(face: Face, age: int, sex: int) -> Face:
    same = (age, sex) == (face.estimate.age, face.estimate.sex)
    return replace(face, age=age, sex=sex, state=CONFIRMED if same else CORRECTED)


def own_lines(folder: Path) -> list[dict[str, str]]:
    """Lines of a folder's `labels.csv`, none without the file.

    Raises:
        UserError: it is not the labeler's, or cannot be read.
    """
    file = folder / NAME
    try:
        with file.open(encoding="utf-8", newline="") as f:
            reader = csv.DictReader(f)
            if not {*COLUMNS, STATE} <= set(reader.fieldnames or ()):
                raise UserError(f"{file}: not written by prepare.py label; remove it, or choose another --output")
            return list(reader)
    except FileNotFoundError:
        return []
    except (OSError, ValueError, csv.Error) as e:
        cause = e.strerror if isinstance(e, OSError) else "no table"
        raise UserError(f"{file}: cannot be read: {cause}; correct it, or remove it") from None


def _pairs(file: Path) -> Sequence[tuple[str, str]]:
    try:
        with file.open(encoding="utf-8", newline="") as f:
            return [(line[0], line[1]) for line in csv.reader(f) if len(line) == 2]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, csv.Error):
        raise UserError(f"{file}: cannot be read; correct it, or remove it") from None


def _two_columns(lines: Iterable[tuple[str, str]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("file", "reason"))
    writer.writerows(lines)
    return text.getvalue().encode(errors="backslashreplace")
