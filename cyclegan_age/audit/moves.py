"""Plans that move faulty pictures out of a folder of faces, and back.

`faces-aside/`, beside the folder `faces`, holds the moved pictures, at the same paths, and a journal of each plan. The
journal is written before the first move and contains the original `labels.csv`. So the same command resumes after an
interruption at any moment, and `undo` restores the same bytes.
"""

import csv
import hashlib
import io
import json
import os
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cyclegan_age.audit.find import Finding
from cyclegan_age.config import UserError
from cyclegan_age.data.labels import NAME
from cyclegan_age.files import exclusive, json_lines, write_atomically, write_error
from cyclegan_age.images import SUFFIXES, counted

MOVE, KEEP = "move", "keep"
COLUMNS = ("action", "file", "findings", "sha256")

# Kinds that a plan moves by default; the user decides on the others.
_MOVED = {
    *("broken file", "same bytes", "near copy", "near copy by its face", "copy in another split"),
    *("no face", "several faces", "turned", "blurred", "pixelated"),
}

Say = Callable[[str], None]


@dataclass(frozen=True)
class _Move:
    """A picture below the folder, and the SHA-256 of its content."""

    file: str
    sha256: str


def plan(root: Path, findings: Sequence[Finding]) -> tuple[bytes, int]:
    """A table of the pictures with findings, one a line, for the user to edit; and how many it moves unedited.

    Raises:
        OSError: a picture cannot be read.
    """
    kinds: dict[Path, list[str]] = {}
    for one in findings:
        kinds.setdefault(one.file, []).append(f"{one.kind} ({one.detail})" if one.detail else one.kind)
    moved = {one.file for one in findings if one.kind in _MOVED}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for file in sorted(kinds, key=lambda file: (file not in moved, file)):
        action = MOVE if file in moved else KEEP
        writer.writerow((action, file.relative_to(root).as_posix(), "; ".join(kinds[file]), _digest(file)))
    return text.getvalue().encode(errors="surrogateescape"), len(moved)


def kinds_of_plan(findings: Sequence[Finding]) -> list[str]:
    """Sentences: the kinds of findings whose pictures a plan moves, and those that it leaves to the user."""
    gone = {one.file for one in findings if one.kind in _MOVED}
    moved = Counter(one.kind for one in findings if one.kind in _MOVED)
    left = Counter(one.kind for one in findings if one.file not in gone)

    def listed(kinds: Counter[str]) -> str:
        return ", ".join(f"{kind} ({kinds[kind]:,})" for kind in sorted(kinds)) or "none"

    return [f"The plan moves pictures with: {listed(moved)}.", f"It leaves to you those with only: {listed(left)}."]


def apply(root: Path, plan_file: Path, say: Say) -> Path:
    """Move the pictures whose action is `move` out of the folder, and their lines out of its `labels.csv`.

    Nothing is moved unless everything can be. After an interruption the same command resumes.

    Returns:
        The folder of the moved pictures.

    Raises:
        UserError: the plan cannot be read or names an unsafe path; a picture or `labels.csv` has changed; the plan was
            applied before; or a disk cannot be written.
    """
    aside = _aside(root)
    content, moves = _read(plan_file, "--apply")
    journal = aside / f".{hashlib.sha256(content).hexdigest()[:16]}.json"
    try:
        with exclusive(aside):
            record = _record(journal)
            if record and record["state"] != "applying":
                remedy = "run --undo to finish" if record["state"] == "undoing" else "nothing is left to do"
                raise UserError(f"--apply {plan_file}: {_SAID[record['state']]}; {remedy}")
            for move in moves:
                _check(root, aside, move, plan_file, moved=bool(record))
            if not record:
                record = {"state": "applying", **_labels(root, moves)}
                write_atomically(journal, json.dumps(record).encode())
            for move in moves:
                _move(root / move.file, aside / move.file)
            _relabel(record, "before", "after")
            write_atomically(journal, json.dumps({**record, "state": "applied"}).encode())
    except OSError as e:
        raise _failed("--apply", plan_file, e) from None
    say(f"moved {counted(len(moves))} to {aside}; to move them back: --undo {shlex.quote(str(plan_file))}")
    return aside


def undo(root: Path, plan_file: Path, say: Say) -> Path:
    """Move back the pictures of an applied plan, and restore `labels.csv`. Resumes after an interruption.

    Returns:
        The folder.

    Raises:
        UserError: the plan cannot be read, has changed or was not applied; a picture or `labels.csv` has changed; or a
            disk cannot be written.
    """
    aside = _aside(root)
    content, moves = _read(plan_file, "--undo")
    journal = aside / f".{hashlib.sha256(content).hexdigest()[:16]}.json"
    try:
        if not aside.is_dir():
            raise UserError(
                f"--undo {plan_file}: not applied, or undone already: there is no {aside}; expected an applied plan"
            )
        with exclusive(aside):
            record = _record(journal)
            if not record:
                raise UserError(
                    f"--undo {plan_file}: not applied in its present form, or undone already; expected an applied plan"
                )
            for move in moves:
                _check(root, aside, move, plan_file, moved=True, flag="--undo")
            _check_labels(record, plan_file)
            write_atomically(journal, json.dumps({**record, "state": "undoing"}).encode())
            _relabel(record, "after", "before")
            for move in moves:
                _move(aside / move.file, root / move.file)
            _clear(aside)
            journal.unlink()
            with suppress(OSError):  # another plan's pictures are in it
                aside.rmdir()
    except OSError as e:
        raise _failed("--undo", plan_file, e) from None
    say(f"moved {counted(len(moves))} back to {root}")
    return root


_SAID = {"applied": "is applied already", "undoing": "its undoing was interrupted"}


def _aside(root: Path) -> Path:
    whole = root.resolve()
    return whole.with_name(f"{whole.name}-aside")


def _read(plan_file: Path, flag: str) -> tuple[bytes, list[_Move]]:
    """The plan's content, and its moves; the flag is for errors."""
    try:
        content = plan_file.read_bytes()
        text = content.decode("utf-8-sig", errors="surrogateescape")
        first = text.partition("\n")[0]
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=";" if ";" in first else ",")
        lines = list(reader)
    except OSError as e:
        raise UserError(f"{flag} {plan_file}: cannot be read ({e.strerror}); expected the plan.csv of --fix") from None
    except csv.Error:
        raise UserError(f"{flag} {plan_file}: not a table; expected the plan.csv of --fix") from None
    if not {"action", "file", "sha256"} <= set(reader.fieldnames or ()):
        raise UserError(f"{flag} {plan_file}: no columns action, file and sha256; expected the plan.csv of --fix")
    moves: dict[str, _Move] = {}
    for number, line in enumerate(lines, 2):
        action, file = (line["action"] or "").strip().lower(), line["file"] or ""
        if action not in (MOVE, KEEP):
            raise UserError(f"{flag} {plan_file}: line {number}: action {_printable(action)}; must be {MOVE} or {KEEP}")
        if action == MOVE:
            if file in moves:
                raise UserError(
                    f"{flag} {plan_file}: line {number}: {_printable(file)} is listed twice; delete one of the lines"
                )
            moves[file] = _Move(file, line["sha256"] or "")
    return content, list(moves.values())


def _check(root: Path, aside: Path, move: _Move, plan_file: Path, *, moved: bool, flag: str = "--apply") -> None:
    """Refuse an unsafe move.

    Args:
        root: the folder.
        aside: the folder beside it.
        move: the picture.
        plan_file: for the error.
        moved: whether the picture may have been moved already.
        flag: for the error.
    """

    def refuse(cause: str, remedy: str) -> UserError:
        return UserError(f"{flag} {plan_file}: {_printable(move.file)}: {cause}; nothing was moved; {remedy}")

    path = PurePosixPath(move.file)
    if path.is_absolute() or ".." in path.parts or "\0" in move.file or "\\" in move.file or not path.parts:
        raise refuse("leaves the folder", "delete the line")
    if path.suffix.lower() not in SUFFIXES | {".heic", ".heif", ".hif"} or any(
        part.startswith(".") for part in path.parts
    ):
        raise refuse("has no picture's file name", "delete the line")
    for base in (root.resolve(), aside.resolve()):
        if (base / path).parent.resolve() != (base / path).parent or (base / path).is_symlink():
            raise refuse("is a link, or in a linked folder", "delete the line")
    here, there = root / path, aside / path
    back = flag == "--undo"
    if here.exists() and there.exists():
        raise refuse(f"is also in {aside}", "move one of them elsewhere")
    file = there if moved and there.exists() else here
    if not file.is_file():
        raise refuse("is missing", "put it back" if back else "run the audit again, or delete the line")
    if not move.sha256:
        raise refuse("has no sha256 in the plan", "run the audit again, or delete the line")
    if _digest(file) != move.sha256:
        raise refuse("has changed since", "put it back" if back else "run the audit again, or delete the line")


def _labels(root: Path, moves: Sequence[_Move]) -> dict[str, Any]:
    """`labels.csv` of the folder, or of the one above it, before and after removal of the pictures' lines.

    Raises:
        UserError: it is no table of files.
    """
    whole = root.resolve()
    for folder, prefix in ((whole, ""), (whole.parent, f"{whole.name}/")):
        file = folder / NAME
        if not file.is_file():
            continue
        before = file.read_bytes()
        text = before.decode(errors="surrogateescape")
        gone = {prefix + move.file for move in moves}
        kept, start = [], 0
        lines = list(io.StringIO(text, newline=""))
        reader = csv.reader(lines)
        column = -1
        for row in reader:
            part = "".join(lines[start : reader.line_num])
            start = reader.line_num
            if column < 0:
                names = [name.removeprefix("\ufeff") for name in row]
                if "file" not in names:
                    return {"labels": ""}
                column = names.index("file")
            elif len(row) > column and row[column] in gone:
                continue
            kept.append(part)
        after = "".join(kept)
        return {"labels": str(file), "before": text, "after": after} if after != text else {"labels": ""}
    return {"labels": ""}


def _check_labels(record: dict[str, Any], plan_file: Path) -> None:
    if record["labels"] and _text(Path(record["labels"])) not in (record["before"], record["after"]):
        raise UserError(
            f"--undo {plan_file}: {record['labels']} has changed since; undo later plans first, or revert the change"
        )


def _relabel(record: dict[str, Any], old: str, new: str) -> None:
    """Write the new `labels.csv`; its content must be the old or the new one.

    Raises:
        UserError: it is neither.
    """
    if not record["labels"]:
        return
    file = Path(record["labels"])
    text = _text(file)
    if text not in (record[old], record[new]):
        raise UserError(f"{file}: has changed since; revert the change, then repeat the same command")
    if text != record[new]:
        write_atomically(file, record[new].encode(errors="surrogateescape"))


def _text(file: Path) -> str:
    return file.read_bytes().decode(errors="surrogateescape") if file.is_file() else ""


def _record(journal: Path) -> dict[str, Any] | None:
    if not journal.is_file():
        return None
    record = next(json_lines(journal), None)
    if not record:
        raise UserError(f"{journal}: corrupt; restore it from a backup, or move the pictures back by hand")
    return record


def _move(source: Path, target: Path) -> None:
    """Rename a file; an existing target stays."""
    if source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(source, target)  # noqa: PTH104 - never over a link or a file, see `_check`


def _clear(aside: Path) -> None:
    """Remove empty folders in it."""
    for where, _, _ in sorted(os.walk(aside), reverse=True):
        with suppress(OSError):
            Path(where).rmdir()


def _printable(text: str) -> str:
    """A name, safe to print in one line of an error."""
    return text if text.isprintable() else ascii(text)


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _failed(flag: str, plan_file: Path, e: OSError) -> UserError:
    what = f"{flag} {plan_file}: {_printable(str(e.filename or 'a file'))}"
    return write_error(what, e, "then repeat the same command")
