"""A folder of pictures -> `labels.csv` with estimates, and contact sheets; an interrupted run resumes."""

import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cyclegan_age.config import LabelConfig, UserError
from cyclegan_age.data.labels import NAME
from cyclegan_age.data.prepare.rows import UNKNOWN
from cyclegan_age.data.workers import in_processes, processors
from cyclegan_age.files import json_lines, lock, remove_partial_files, unlock, write_atomically, write_error
from cyclegan_age.images import counted, list_images
from cyclegan_age.labeler.estimates import GROUPS, Estimate, group_of, look, misplaced, sex_missing
from cyclegan_age.labeler.sheets import write_sheets
from cyclegan_age.labeler.table import BAD, Labels, own_lines
from cyclegan_age.runs import next_folder

JOURNAL = ".label.jsonl"  # the settings, then a line for each finished picture
_LOOKED_AT = 20  # number of pictures checked for alignment
_PAUSE_SECONDS = 20.0  # between two lines of the progress bar in a file

Say = Callable[[str], None]
Line = dict[str, Any]


def label(config: LabelConfig, say: Say) -> Path:
    """Estimate the missing labels of all faces, and write the labels and contact sheets.

    Args:
        config: folder and settings.
        say: called with progress lines for the user.

    Returns:
        The page with the contact sheets.

    Raises:
        UserError: no such folder, no picture or face in it, or a folder that cannot be written.
    """
    with held(config):
        labels = labelled(config, say)
        try:
            page = write_sheets(labels, next_folder(config.results_dir, "label"))
        except OSError as e:
            raise write_error(f"--results_dir {config.results_dir}", e, "or choose another folder") from None
    say(f"sheets: {page}")
    if labels.waiting:
        say("confirm them in the browser: the same command with --page")
    return page


@contextmanager
def held(config: LabelConfig) -> Iterator[None]:
    """Lock the labelled folder for this process.

    Raises:
        UserError: no such folder, or another process holds the lock.
    """
    folder, home = config.folder, config.output or config.folder
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected a folder of pictures")
    if config.output and home.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"--output {home}: must be outside of {folder}")
    if config.output and home.is_dir() and any(home.iterdir()) and not (home / JOURNAL).is_file():
        raise UserError(f"--output {home}: must be a new or empty folder, or one made by prepare.py label")
    own_lines(home)  # before anything is written there
    try:
        home.mkdir(parents=True, exist_ok=True)
        file = lock(home, activity="is labelling it", remedy="")
        remove_partial_files(home)
    except OSError as e:
        raise write_error(str(home), e, "or choose another --output") from None
    try:
        yield
    finally:
        unlock(home, file)


def labelled(config: LabelConfig, say: Say) -> Labels:
    """The labels of a locked folder; estimates and writes missing ones.

    Raises:
        UserError: no picture or face in it, photographs instead of aligned crops, or a folder that cannot be written.
    """
    home = config.output or config.folder
    files = [file for file in list_images(config.folder) if "parsings" not in file.relative_to(config.folder).parts]
    names, left_out = [], {}
    for file in files:
        name = file.relative_to(config.folder).as_posix()
        if name.isprintable():
            names.append(name)
        else:
            left_out[ascii(name)] = "the file name is not printable; rename it"
    if not names:
        raise UserError(f"{config.folder}: no pictures in it; expected a folder of faces")
    if not config.output and not (home / JOURNAL).is_file():
        some = [config.folder / name for name in names[:: math.ceil(len(names) / _LOOKED_AT)]]
        off = misplaced(some, config.frame)
        if 2 * off > len(some):
            raise UserError(
                f"{config.folder}: no aligned crops in the frame {config.frame}, by {off} of {len(some)} pictures; "
                "use --output FOLDER to crop the faces, or pass their --frame"
            )
    missing = sex_missing()
    seen = _looked_at(config, home, names, again=not missing)
    left_out |= {name: line["reason"] for name, line in seen.items() if line["reason"]}
    estimates = {face.pop("file"): Estimate(**face) for line in seen.values() for face in line["faces"]}
    for reason, number in Counter(left_out.values()).items():
        first = next(name for name, why in left_out.items() if why == reason)
        say(f"left out: {counted(number)}: {reason}, such as {first}")
    if not estimates:
        raise UserError(f"{config.folder}: no face found in {len(names)} pictures; expected pictures of faces")
    labels = Labels(home, estimates, left_out)
    try:
        labels.write()
    except OSError as e:
        raise write_error(str(home / NAME), e, "or choose another --output") from None
    if missing:
        say(f"sex: not estimated: {missing}")
    states = Counter(face.state for face in labels.faces.values())
    counts = ", ".join(f"{states[state]:,} {state}" for state in (*sorted({*states} - {BAD}), BAD) if states[state])
    say(f"{home / NAME}: {len(labels.faces):,} faces: {counts}")
    groups = Counter(group_of(face.age) for face in labels.faces.values() if face.state != BAD)
    say("by age group: " + ", ".join(f"{group}: {groups[group]:,}" for group in GROUPS if groups[group]))
    return labels


def _looked_at(config: LabelConfig, home: Path, names: list[str], *, again: bool) -> dict[str, Line]:
    """Results of `look` for each picture, by its name; computes missing ones.

    Args:
        config: the settings.
        home: the labelled folder, with the journal.
        names: of the pictures.
        again: whether to repeat pictures whose sex was not estimated.
    """
    settings = {"folder": str(config.folder.resolve()), "frame": config.frame, "size": config.size}
    if not config.output:
        settings = {"frame": config.frame}  # the folder may move with its labels
    journal = home / JOURNAL
    done: dict[str, Line] = {}
    try:
        if journal.is_file():
            lines = list(json_lines(journal))
            before = lines[0] if lines else settings
            if other := [name for name in settings if before.get(name) != settings[name]]:
                flag = "FOLDER" if other[0] == "folder" else f"--{other[0]}"
                raise UserError(f"{home}: was made with another {flag}; use that, or another --output")
            done = {line.pop("name"): line for line in lines[1:]}
        wanted = set(names)
        done = {name: line for name, line in done.items() if name in wanted and _holds(config, line, again)}
        kept = ({"name": name, **line} for name, line in done.items())
        text = "".join(json.dumps(line) + "\n" for line in (settings, *kept))
        write_atomically(journal, text.encode())  # without an incomplete last line
        missing = [name for name in names if name not in done]
        stems = _stems(names)
        work = partial(look, config.folder, config.output, config.frame, config.size)
        items = [(name, stems[name]) for name in missing]
        processes = min(processors() if config.workers < 0 else config.workers, len(items))
        looks = in_processes(work, items, processes) if processes else map(work, items)
        pause = 0.1 if sys.stderr.isatty() else _PAUSE_SECONDS
        with (
            journal.open("a") as log,
            tqdm(
                total=len(names), initial=len(done), unit="img", desc="label", mininterval=pause, maxinterval=pause
            ) as bar,
        ):
            for name, line in zip(missing, looks, strict=True):
                done[name] = line
                log.write(json.dumps({"name": name, **line}) + "\n")
                log.flush()
                bar.update()
    except OSError as e:
        raise write_error(str(home), e, "or choose another --output") from None
    return {name: done[name] for name in names}


def _holds(config: LabelConfig, line: Line, again: bool) -> bool:
    """Whether the earlier result of a picture is still valid."""
    if again and any(face["sex"] == UNKNOWN for face in line["faces"]):
        return False
    return not config.output or all((config.output / face["file"]).is_file() for face in line["faces"])


def _stems(names: list[str]) -> dict[str, str]:
    """Paths without suffixes; with them for those that would collide."""
    stems = {name: name[: -len(Path(name).suffix)] for name in names}
    counts = Counter(stem.lower() for stem in stems.values())
    return {name: stem if counts[stem.lower()] == 1 else name for name, stem in stems.items()}
