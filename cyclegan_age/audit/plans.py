"""Plans: tables of faulty pictures that the user edits, written and read."""

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cyclegan_age.audit.find import Finding
from cyclegan_age.config import UserError

MOVE, KEEP = "move", "keep"
COLUMNS = ("action", "file", "findings", "sha256")


# Kinds that a plan moves by default; the user decides on the others.
_MOVED = {
    *("broken file", "same bytes", "near copy", "near copy by its face", "copy in another split"),
    *("no face", "several faces", "turned", "blurred", "pixelated"),
}


@dataclass(frozen=True)
class Move:
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
        writer.writerow((action, file.relative_to(root).as_posix(), "; ".join(kinds[file]), digest(file)))
    return text.getvalue().encode(errors="surrogateescape"), len(moved)


def kinds_of_plan(findings: Sequence[Finding]) -> list[str]:
    """Sentences: the kinds of findings whose pictures a plan moves, and those that it leaves to the user."""
    gone = {one.file for one in findings if one.kind in _MOVED}
    moved = Counter(one.kind for one in findings if one.kind in _MOVED)
    left = Counter(one.kind for one in findings if one.file not in gone)

    def listed(kinds: Counter[str]) -> str:
        return ", ".join(f"{kind} ({kinds[kind]:,})" for kind in sorted(kinds)) or "none"

    return [f"The plan moves pictures with: {listed(moved)}.", f"It leaves to you those with only: {listed(left)}."]


def read_plan(plan_file: Path, flag: str) -> tuple[bytes, list[Move]]:
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
    moves: dict[str, Move] = {}
    for number, line in enumerate(lines, 2):
        action, file = (line["action"] or "").strip().lower(), line["file"] or ""
        if action not in (MOVE, KEEP):
            raise UserError(f"{flag} {plan_file}: line {number}: action {printable(action)}; must be {MOVE} or {KEEP}")
        if action == MOVE:
            if file in moves:
                raise UserError(
                    f"{flag} {plan_file}: line {number}: {printable(file)} is listed twice; delete one of the lines"
                )
            moves[file] = Move(file, line["sha256"] or "")
    return content, list(moves.values())


def printable(text: str) -> str:
    """A name, safe to print in one line of an error."""
    return text if text.isprintable() else ascii(text)


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
