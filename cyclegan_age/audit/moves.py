"""Moves of faulty pictures out of a folder of faces by a plan, and back.

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
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from cyclegan_age.audit.plans import Move, digest, printable, read_plan
from cyclegan_age.config import UserError
from cyclegan_age.data.labels import NAME
from cyclegan_age.files import exclusive, json_lines, write_atomically, write_error
from cyclegan_age.images import SUFFIXES, counted

Say = Callable[[str], None]


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
    content, moves = read_plan(plan_file, "--apply")
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
    content, moves = read_plan(plan_file, "--undo")
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


def _check(root: Path, aside: Path, move: Move, plan_file: Path, *, moved: bool, flag: str = "--apply") -> None:
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
        return UserError(f"{flag} {plan_file}: {printable(move.file)}: {cause}; nothing was moved; {remedy}")

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
    if digest(file) != move.sha256:
        raise refuse("has changed since", "put it back" if back else "run the audit again, or delete the line")


def _labels(root: Path, moves: Sequence[Move]) -> dict[str, Any]:
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


def _failed(flag: str, plan_file: Path, e: OSError) -> UserError:
    what = f"{flag} {plan_file}: {printable(str(e.filename or 'a file'))}"
    return write_error(what, e, "then repeat the same command")
