"""`prepare.py`: a public set, as downloaded, to `train`, `val` and `test` with age folders and labels."""

import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cyclegan_age import plots
from cyclegan_age.config import PrepareConfig, UserError
from cyclegan_age.data.labels import NAME, PARQUET, as_csv, as_parquet
from cyclegan_age.data.prepare import SETS
from cyclegan_age.data.prepare.card import as_markdown, as_page
from cyclegan_age.data.prepare.copies import near_copies
from cyclegan_age.data.prepare.names import read_pattern
from cyclegan_age.data.prepare.pictures import make
from cyclegan_age.data.prepare.plan import Item, plan
from cyclegan_age.data.prepare.rows import Row
from cyclegan_age.data.prepare.tables import read_csv
from cyclegan_age.data.workers import in_processes, processors
from cyclegan_age.faces.frames import Frame
from cyclegan_age.files import json_lines, write_atomically, write_error
from cyclegan_age.images import counted

JOURNAL = ".prepare.jsonl"  # the settings, then a line for each finished picture
_MADE = 0.02  # minimum share of a crop outside its picture that is counted
_PAUSE_SECONDS = 20.0  # between two lines of the progress bar in a file

Say = Callable[[str], None]


def prepare(config: PrepareConfig, say: Say) -> Path:
    """Prepare a set, or resume an interrupted run.

    Args:
        config: set and settings.
        say: called with progress lines for the user.

    Returns:
        The output folder.

    Raises:
        UserError: no such set or folder, no readable picture, an output folder with other settings, one that cannot be
            written, or a package is not installed.
    """
    _check_folders(config)
    plots.require()  # a missing package is reported before the work
    if config.parquet:
        as_parquet(())
    rows = read_rows(config)
    items = plan(rows, config)
    for reason, some in _by_reason(rows).items():
        say(f"left out: {counted(len(some))}: {reason}, such as {some[0].file.name}")
    if not items:
        raise UserError(f"--source {config.source}: no valid picture of {config.set} in it; see the reasons above")
    made = _made(config, items)
    refused = {item.file: made[item.file]["reason"] for item in items if made[item.file]["reason"]}
    kept = [item for item in items if item.file not in refused]
    for reason, number in Counter(refused.values()).items():
        first = next(item.row.file for item in items if refused.get(item.file) == reason)
        say(f"left out: {counted(number)}: {reason}, such as {first.name}")
    if not kept:
        remedy = "; use --no_align if they are aligned" if config.align else ""
        raise UserError(f"--source {config.source}: none of {len(items)} pictures are valid{remedy}")
    labels = [_label(config, item) for item in kept]
    try:
        copies = _copies(labels, [made[item.file]["hash"] for item in kept], config.output)
    except OSError as e:
        raise write_error(f"--output {config.output}", e, "or choose another folder") from None
    for sentence in copies:
        say(sentence)
    lost = [(row.file, row.reason) for row in rows if row.reason]
    lost += [(item.row.file, refused[item.file]) for item in items if item.file in refused]
    given = {row.file for row in rows if row.split}
    lines = [
        {**label, **made[item.file], "given": item.row.file in given} for label, item in zip(labels, kept, strict=True)
    ]
    edges = _edges(config, lines)
    for sentence in edges:
        say(sentence)
    card = as_markdown(config, lines, lost, copies, edges)
    try:
        write_atomically(config.output / NAME, as_csv(labels), sync=False)
        if config.parquet:
            write_atomically(config.output / PARQUET, as_parquet(labels), sync=False)
        write_atomically(config.output / "left_out.csv", _table(("file", "reason"), lost), sync=False)
        write_atomically(config.output / "README.md", card.encode(errors="replace"), sync=False)
        write_atomically(config.output / "index.html", as_page(card, lines).encode(errors="replace"), sync=False)
    except OSError as e:
        raise write_error(f"--output {config.output}", e, "or choose another folder") from None
    splits = Counter(item.row.split for item in kept)
    counts = ", ".join(f"{splits[name]:,} {name}" for name in ("train", "val", "test") if splits[name])
    say(f"{config.output}: {counted(len(kept))}: {counts}; {len(lost):,} left out, listed in left_out.csv")
    return config.output


def read_rows(config: PrepareConfig) -> list[Row]:
    """The rows from the set's reader."""
    if config.set == "csv" and config.csv:
        return read_csv(config.source, config.csv, config.columns)
    if config.set == "pattern":
        return read_pattern(config.source, config.pattern)
    return SETS[config.set].read(config.source)


def _check_folders(config: PrepareConfig) -> None:
    source, output = config.source, config.output
    if not source.is_dir():
        raise UserError(f"--source {source}: no such folder; expected the set as downloaded and unpacked")
    if output.resolve().is_relative_to(source.resolve()):
        raise UserError(f"--output {output}: must be outside of --source")
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output}: must be a folder")
    try:
        foreign = output.is_dir() and any(output.iterdir()) and not (output / JOURNAL).is_file()
    except OSError as e:
        raise write_error(f"--output {output}", e, "or choose another folder") from None
    if foreign:
        raise UserError(f"--output {output}: must be a new or empty folder, or one made by prepare.py")


def _settings(config: PrepareConfig) -> dict[str, Any]:
    """The settings that determine the pictures and their names."""
    plain = asdict(replace(config, source=config.source.resolve(), output=Path(), workers=0, shards=0, parquet=False))
    settings: dict[str, Any] = json.loads(json.dumps(plain, default=str))
    return settings


def _made(config: PrepareConfig, items: Sequence[Item]) -> dict[str, dict[str, Any]]:
    """The outcome of each item, by its file; makes the missing ones."""
    journal, settings = config.output / JOURNAL, _settings(config)
    done: dict[str, dict[str, Any]] = {}
    try:
        config.output.mkdir(parents=True, exist_ok=True)
        if journal.is_file():
            lines = list(json_lines(journal))
            before = lines[0] if lines else settings
            if other := [name for name in settings if before.get(name, settings[name]) != settings[name]]:
                raise UserError(
                    f"--output {config.output}: was made with another --{other[0]}; use that, or another folder"
                )
            done = {line["file"]: line for line in lines[1:]}
        wanted = {item.file for item in items}
        done = {
            file: line
            for file, line in done.items()
            if file in wanted and (line["reason"] or (config.output / file).is_file())
        }
        text = "".join(json.dumps(line) + "\n" for line in (settings, *done.values()))
        write_atomically(journal, text.encode(), sync=False)  # without an incomplete last line
        missing = [item for item in items if item.file not in done]
        pause = 0.1 if sys.stderr.isatty() else _PAUSE_SECONDS
        with (
            journal.open("a") as log,
            tqdm(
                total=len(items), initial=len(done), unit="img", desc=config.set, mininterval=pause, maxinterval=pause
            ) as bar,
        ):
            for item, line in zip(missing, _work(config, missing), strict=True):
                done[item.file] = {"file": item.file, **line}
                log.write(json.dumps(done[item.file]) + "\n")
                log.flush()
                bar.update()
    except OSError as e:
        raise write_error(f"--output {config.output}", e, "or choose another folder") from None
    return done


def _work(config: PrepareConfig, items: Sequence[Item]) -> Iterator[dict[str, Any]]:
    work = partial(make, config.output, config.frame if config.align else "", config.size)
    if not config.workers or not items:
        return map(work, items)
    processes = config.workers if config.workers > 0 else processors()
    return in_processes(work, items, min(processes, len(items)))


def _label(config: PrepareConfig, item: Item) -> dict[str, object]:
    row = item.row
    return {
        "file": item.file,
        "age": f"{row.age:g}",
        "sex": row.sex,
        "race": row.race,
        "person": row.person.encode(errors="backslashreplace").decode(),  # for file names that are not UTF-8
        "split": row.split,
        "source": config.set,
        "fold": row.fold,
        "exact": int(not (row.group or row.estimated)),
    }


def _copies(labels: Sequence[Mapping[str, object]], hashes: Sequence[str], output: Path) -> list[str]:
    """Sentences on near duplicates, and on persons in two splits; writes `copies.csv`."""
    groups = near_copies(hashes)
    listed = [
        (number, *(labels[i][column] for column in ("file", "age", "person", "split")))
        for number, group in enumerate(groups, 1)
        for i in group
    ]
    write_atomically(output / "copies.csv", _table(("group", "file", "age", "person", "split"), listed), sync=False)
    across = sum(len({labels[i]["split"] for i in group}) > 1 for group in groups)
    ages = [[float(str(labels[i]["age"])) for i in group] for group in groups]
    conflicting = sum(max(some) - min(some) > 1 for some in ages)
    sentences = [
        f"Near copies: {counted(len(listed))}, in groups: {len(groups):,}, of which in two splits: {across:,}, with "
        f"ages more than a year apart: {conflicting:,}; copies.csv lists them."
    ]
    splits: dict[object, set[object]] = {}
    for label in labels:
        if label["person"]:
            splits.setdefault(label["person"], set()).add(label["split"])
    if parted := sorted(str(person) for person, some in splits.items() if len(some) > 1):
        sentences.append(f"In two of the set's own splits: {len(parted):,} persons, such as {parted[0]}.")
    return sentences


def _edges(config: PrepareConfig, lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sentences on pictures that were aligned already, and on crops that reach beyond their pictures."""
    if not config.align:
        return []
    sentences = []
    if kept := sum(line.get("kept", False) for line in lines):
        sentences.append(f"Aligned already, and not turned or cut: {kept:,} of {counted(len(lines))}.")
    if made := sum(line.get("beyond", 0) >= _MADE for line in lines):
        how = "mirrored" if Frame.of(config.frame).mirrored else "repeated"
        sentences.append(
            f"Edges {how}, as the frame is wider than the picture: {made:,} of {counted(len(lines))}; "
            "--no_align keeps pictures unchanged."
        )
    return sentences


def _by_reason(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.reason:
            found.setdefault(row.reason, []).append(row)
    return found


def _table(columns: Sequence[str], lines: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(lines)
    return text.getvalue().encode(errors="surrogateescape")
