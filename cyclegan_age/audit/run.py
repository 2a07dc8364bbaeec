"""`prepare.py audit`: what may be wrong with the pictures and labels of a folder of faces."""

import base64
import csv
import hashlib
import io
import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cyclegan_age.ages import parse_group
from cyclegan_age.config import AuditConfig, UserError
from cyclegan_age.data.folders import label
from cyclegan_age.data.labels import read_labels
from cyclegan_age.data.names import form_of, stem_of, told
from cyclegan_age.data.prepare.copies import near_copies, perceptual_hash
from cyclegan_age.data.prepare.rows import split_of
from cyclegan_age.data.workers import in_processes, processors
from cyclegan_age.faces.alignment import opencv
from cyclegan_age.faces.detection import detector
from cyclegan_age.images import BadImage, Picture, list_images, open_image
from cyclegan_age.runs import next_folder, write_atomically

_BLURRED = 15.0  # variance of the Laplacian at 200 px
_GREY = 3.0  # mean difference of the channels
_BESIDE = 0.5  # share of the first face's size from which a second one counts
_SHOWN = 24  # pictures of a kind on the page
_PAUSE_SECONDS = 20.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Finding:
    """Something that may be wrong: its kind, the picture, and more of it in a few words."""

    kind: str
    file: Path
    detail: str = ""


def audit(config: AuditConfig, say: Say) -> Path:
    """Look at every picture of a folder; nothing in it is changed.

    Args:
        config: which folder.
        say: takes lines for the user.

    Returns:
        The page; `audit.csv` beside it lists everything.

    Raises:
        UserError: no such folder, no picture in it, or the report cannot be written.
    """
    if not config.folder.is_dir():
        raise UserError(f"{config.folder}: no such folder; give one of faces")
    files = [file for file in list_images(config.folder) if "parsings" not in file.parts]
    if not files:
        raise UserError(f"{config.folder}: no pictures in it; give a folder of faces")
    processes = processors() if config.workers < 0 else config.workers
    looks = in_processes(look, files, min(processes, len(files))) if processes else map(look, files)
    pause = 0.1 if sys.stderr.isatty() else _PAUSE_SECONDS
    seen = list(tqdm(looks, total=len(files), unit="img", desc="audit", mininterval=pause, maxinterval=pause))
    findings = find(config.folder, files, seen)
    for kind, number in Counter(one.kind for one in findings).items():
        first = next(one for one in findings if one.kind == kind)
        say(f"{kind}: {number:,}, as {first.file.relative_to(config.folder)}{first.detail and f' ({first.detail})'}")
    say(f"{len(files):,} pictures, {len({one.file for one in findings}):,} with findings")
    try:
        folder = next_folder(config.results_dir, "audit")
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("finding", "file", "detail"))
        writer.writerows((one.kind, one.file.relative_to(config.folder).as_posix(), one.detail) for one in findings)
        write_atomically(folder / "audit.csv", text.getvalue().encode(errors="surrogateescape"))
        write_atomically(folder / "index.html", _page(config.folder, len(files), findings).encode(errors="replace"))
    except OSError as e:
        raise UserError(f"--results_dir {config.results_dir}: cannot be written ({e.strerror or e})") from None
    say(f"page: {folder / 'index.html'}")
    return folder / "index.html"


def look(file: Path) -> dict[str, Any]:
    """What is seen of one picture: `broken`, or its mark of bytes, hash, sharpness, faces and turn."""
    cv2 = opencv()
    cv2.setNumThreads(1)
    try:
        data = file.read_bytes()
        picture: Picture = np.asarray(open_image(data))
    except BadImage as e:
        return {"broken": str(e)}
    except OSError as e:
        return {"broken": e.strerror or type(e).__name__}
    grey = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (200, 200), interpolation=cv2.INTER_AREA)
    channels = picture.astype(np.int16)
    found = sorted(detector().find(picture), key=lambda face: face.size, reverse=True)
    return {
        "broken": "",
        "bytes": hashlib.sha256(data).hexdigest(),
        "hash": perceptual_hash(grey),
        "sharpness": float(cv2.Laplacian(small, cv2.CV_64F).var()),
        "colour": float(np.abs(channels - channels.mean(axis=2, keepdims=True)).mean()),
        "faces": sum(face.size >= _BESIDE * found[0].size for face in found),
        "turn": found[0].turn if found else 0,
    }


def find(root: Path, files: Sequence[Path], seen: Sequence[dict[str, Any]]) -> list[Finding]:
    """What may be wrong, kind by kind.

    Args:
        root: the folder.
        files: N pictures in it.
        seen: N, as `look` gives them.
    """
    both = list(zip(files, seen, strict=True))
    good = [(file, one) for file, one in both if not one["broken"]]
    out = [Finding("broken file", file, one["broken"]) for file, one in both if one["broken"]]
    labels = read_labels(root)
    ages, people = {}, {}
    for file, _ in good:
        span = parse_group(file.parent.name)
        form = form_of(stem_of(file))
        known = labels.get(file) or (told(form, stem_of(file)) if form else None)
        ages[file] = known.age_years if known else label(file.name, span) if span else math.nan
        people[file] = known.person if known else ""
    groups = near_copies([one["hash"] for _, one in good])
    for group in ([good[i] for i in group] for group in groups):
        several = [file for file, _ in group]
        kind = "same bytes" if len({one["bytes"] for _, one in group}) == 1 else "near copy"
        first = several[0]
        for file in several[1:]:
            out.append(Finding(kind, file, f"of {first.relative_to(root)}"))
            if _split(root, file) != _split(root, first):
                out.append(Finding("copy in another split", file, f"of {first.relative_to(root)}"))
            if abs(ages[file] - ages[first]) > 1:
                out.append(Finding("copy of another age", file, f"{ages[file]:g} and {ages[first]:g} years"))
    splits: dict[str, set[str]] = {}
    for file, person in people.items():
        splits.setdefault(person, set()).add(_split(root, file))
    parted = {person for person, some in splits.items() if person and len(some) > 1}
    out += [Finding("person in two splits", file, person) for file, person in people.items() if person in parted]
    for file, one in good:
        out += [Finding(kind, file, detail) for kind, detail in _seen(one).items()]
    return sorted(out, key=lambda one: (one.kind, one.file))


def _seen(one: dict[str, Any]) -> dict[str, str]:
    """What may be wrong with a picture by itself, and more of it."""
    kinds = {}
    if not one["faces"]:
        kinds["no face"] = ""
    if one["faces"] > 1:
        kinds["several faces"] = str(one["faces"])
    if one["turn"]:
        kinds["turned"] = f"upright once turned by {one['turn']} degrees to the left"
    if one["sharpness"] < _BLURRED:
        kinds["blurred"] = f"sharpness {one['sharpness']:.1f}"
    if one["colour"] < _GREY:
        kinds["grey"] = ""
    return kinds


def _split(root: Path, file: Path) -> str:
    return split_of(file.relative_to(root).parts[0])


def _page(root: Path, number: int, findings: Sequence[Finding]) -> str:
    """A page with some pictures of each kind in it, that opens from disk and loads nothing."""
    kinds = Counter(one.kind for one in findings)
    style = (
        "body { font: 1rem/1.5 system-ui, sans-serif; margin: 1rem auto; max-width: 76rem; padding: 0 1rem; }"
        " div { display: flex; flex-wrap: wrap; gap: .5rem; } figure { margin: 0; width: 8rem; font-size: .75rem;"
        " overflow-wrap: anywhere; } img { width: 8rem; }"
    )
    out = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Audit</title>',
        f"<style>{style}</style></head>",
        f"<body><h1>Audit of {escape(root.name)}</h1><p>{number:,} pictures; audit.csv lists all findings.</p>",
    ]
    for kind, count in kinds.items():
        out.append(f"<h2>{escape(kind)}: {count:,}</h2><div>")
        for one in [one for one in findings if one.kind == kind][:_SHOWN]:
            name = escape(f"{one.file.relative_to(root)} {one.detail}", quote=True)
            out.append(f'<figure><img src="{_thumbnail(one.file)}" alt=""><figcaption>{name}</figcaption></figure>')
        out.append("</div>")
    return "\n".join([*out, "</body></html>\n"])


def _thumbnail(file: Path) -> str:
    """A small JPEG as a data URL; empty for a broken file."""
    try:
        picture = open_image(file)
    except (BadImage, OSError):
        return "data:,"
    picture.thumbnail((128, 128))
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
