"""`prepare.py audit`: find faulty pictures and labels in a folder of faces."""

import csv
import io
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cyclegan_age.audit.find import find
from cyclegan_age.audit.measurements import measure_all, recognise
from cyclegan_age.audit.moves import apply, undo
from cyclegan_age.audit.page import page
from cyclegan_age.audit.plans import kinds_of_plan, plan
from cyclegan_age.config import AuditConfig, UserError
from cyclegan_age.files import write_atomically, write_error
from cyclegan_age.images import counted, list_images
from cyclegan_age.runs import next_folder

Say = Callable[[str], None]


def audit(config: AuditConfig, say: Say) -> Path:
    """Check every picture of a folder, or move the pictures that a plan names.

    Args:
        config: folder and action.
        say: called with progress lines for the user.

    Returns:
        The page, beside which `audit.csv` lists all findings and, with `--fix`, `plan.csv` the proposed moves; or the
        folder that pictures were moved to or from.

    Raises:
        UserError: no such folder, no picture in it, the report cannot be written, or see `moves`.
    """
    if not config.folder.is_dir():
        raise UserError(f"{config.folder}: no such folder; expected a folder of faces")
    if config.apply:
        return apply(config.folder, config.apply, say)
    if config.undo:
        return undo(config.folder, config.undo, say)
    files = [file for file in list_images(config.folder) if "parsings" not in file.parts]
    if not files:
        raise UserError(f"{config.folder}: no pictures in it; expected a folder of faces")
    seen = measure_all(config, files)
    findings = find(config.folder, files, seen, partial(recognise, config.workers))
    for kind, number in Counter(one.kind for one in findings).items():
        first = next(one for one in findings if one.kind == kind)
        say(f"{kind}: {number:,}, as {first.file.relative_to(config.folder)}{first.detail and f' ({first.detail})'}")
    say(f"{counted(len(files))}, {len({one.file for one in findings}):,} with findings")
    try:
        folder = next_folder(config.results_dir, "audit")
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("finding", "file", "detail"))
        writer.writerows((one.kind, one.file.relative_to(config.folder).as_posix(), one.detail) for one in findings)
        write_atomically(folder / "audit.csv", text.getvalue().encode(errors="surrogateescape"))
        sentences = kinds_of_plan(findings) if config.fix else []
        shown = page(config.folder, len(files), findings, sentences)
        write_atomically(folder / "index.html", shown.encode(errors="replace"))
        if config.fix:
            lines, moved = plan(config.folder, findings)
            write_atomically(folder / "plan.csv", lines)
            say(f"plan: {folder / 'plan.csv'} would move {counted(moved)}; edit it, then pass it to --apply")
            for sentence in sentences:
                say(sentence)
    except OSError as e:
        raise write_error(f"--results_dir {config.results_dir}", e, "or choose another folder") from None
    say(f"page: {folder / 'index.html'}")
    return folder / "index.html"
