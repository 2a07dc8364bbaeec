"""A prepared folder, or any with age folders, to WebDataset shards; see `cyclegan_age.data.shards` for the format."""

import json
import math
import re
import shlex
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cyclegan_age.attributes import FaceAttributes
from cyclegan_age.config import ShardsConfig, UserError
from cyclegan_age.data.age_folders import attributes_by_path, labelled
from cyclegan_age.data.labels import is_exact, read_labels, read_lines, within
from cyclegan_age.data.shard_index import as_index, attributes_of
from cyclegan_age.files import json_lines, write_atomically, write_error
from cyclegan_age.images import SUFFIXES, counted

SETTINGS = ".shards.json"
_SPLITS = frozenset({"train", "val", "test"})

Line = dict[str, Any]  # of labels.csv, with numbers


@dataclass(frozen=True)
class Shard:
    """An output file.

    Attributes:
        name: of the tar file.
        members: the key and the labels of each picture.
    """

    name: str
    members: Sequence[tuple[str, Line]]


def write_shards(config: ShardsConfig, say: Callable[[str], None]) -> Path:
    """Write the shards of each split, each with its index, or resume an interrupted run.

    Raises:
        UserError: no folder or no pictures, an output folder with other settings, or one that cannot be written.
    """
    folder, output = config.folder, config.output
    if not folder.is_dir():
        raise UserError(f"FOLDER {folder}: no such folder; expected a prepared one, or one with age folders")
    lines = _lines(folder)
    shards = plan(lines, config.per_shard, config.seed)
    try:
        settings = {"folder": str(folder.resolve()), "per_shard": config.per_shard, "seed": config.seed}
        settings["pictures"] = len(lines)
        _begin(output, settings)
        missing = [shard for shard in shards if not (output / shard.name).with_suffix(".csv").is_file()]
        lost: list[str] = []
        total = sum(len(shard.members) for shard in missing)
        with tqdm(total=total, unit="img", desc="shards", disable=None) as bar:
            for shard in missing:
                for file, cause in _write(shard, folder, output, bar.update):
                    lost.append(file)
                    say(f"{folder / file}: left out: {cause}")
    except OSError as e:
        raise write_error(f"--output {output}", e, "or choose another folder") from None
    splits = sorted({shard.name.rpartition("-")[0] for shard in shards})
    for split in splits:
        own = [shard for shard in shards if shard.name.rpartition("-")[0] == split]
        first, last = (Path(shard.name).stem.rpartition("-")[2] for shard in (own[0], own[-1]))
        named = f"{split}-{{{first}..{last}}}.tar" if first != last else own[0].name
        say(f"{counted(sum(len(shard.members) for shard in own))}: --dataroot {shlex.quote(str(output / named))}")
    if lost:
        say(f"{counted(len(lost))} missing, listed above")
    return output


def plan(lines: Sequence[Line], per_shard: int, seed: int) -> list[Shard]:
    """Assignment of pictures to shards: equal sizes within a split, with equal shares of all ages.

    Args:
        lines: of all splits.
        per_shard: maximum number of pictures in a shard.
        seed: of the order.
    """
    shards = []
    for split in sorted({line["split"] for line in lines}):
        random = np.random.default_rng(seed)
        own = [line for line in lines if line["split"] == split]
        shuffled = [own[i] for i in random.permutation(len(own))]
        by_age = sorted(shuffled, key=lambda line: float(line["age"]))
        count = -(-len(own) // per_shard)
        digits = max(3, len(str(count - 1)))
        number = 0
        for k in range(count):
            members = [by_age[k::count][i] for i in random.permutation(len(by_age[k::count]))]
            keyed = [(f"{number + i:09d}", line) for i, line in enumerate(members)]
            shards.append(Shard(f"{split}-{k:0{digits}d}.tar", keyed))
            number += len(members)
    return shards


def _lines(folder: Path) -> list[Line]:
    """A line for each picture, from labels.csv or else from names and folders."""
    lines = list({line["file"]: _with_numbers(line) for line in read_lines(folder)}.values())
    if not lines:
        split = folder.resolve().name if folder.resolve().name in _SPLITS else "all"
        try:
            pictures, labels = labelled(folder), read_labels(folder)
        except UserError as e:
            raise UserError(e.text.replace("--dataroot", "FOLDER", 1)) from None
        for path, age in pictures:
            attributes = labels.get(path) or attributes_by_path(path)
            lines.append({"file": path.relative_to(folder).as_posix(), "age": age, "split": split} | _codes(attributes))
    if not lines:
        raise UserError(f"FOLDER {folder}: no pictures in it; expected a prepared folder, or one with age folders")
    for line in lines:
        if not re.fullmatch(r"[\w-]+", line.setdefault("split", "all")):
            raise UserError(f"FOLDER {folder}: split {line['split']!a} is unknown; must be train, val or test")
    return lines


def _with_numbers(line: Mapping[str, str]) -> Line:
    """The known labels in a line of `labels.csv`: ages as floats, codes as integers."""
    labels: Line = {key: value for key, value in line.items() if value or key == "file"}
    labels["age"] = float(line["age"])
    for key in ("sex", "race"):
        if key in labels and math.isnan(float(labels[key])):
            del labels[key]
        elif key in labels:
            labels[key] = int(float(labels[key]))
    return labels | ({"exact": int(is_exact(line["exact"]))} if line["exact"] else {})


def _codes(attributes: FaceAttributes) -> Line:
    line: Line = {key: int(n) for key, n in (("sex", attributes.sex), ("race", attributes.race)) if n == n}
    line |= {"person": attributes.person} if attributes.person else {}
    return line if attributes.exact else line | {"exact": 0}


def _begin(output: Path, settings: Line) -> None:
    file = output / SETTINGS
    output.mkdir(parents=True, exist_ok=True)
    if file.is_file():
        before = next(json_lines(file), {})
        if other := [key for key in settings if before.get(key) != settings[key]]:
            raise UserError(f"--output {output}: its shards are of another {other[0]}; use that, or another folder")
    elif any(output.iterdir()):
        raise UserError(f"--output {output}: must be a new or empty folder, or one of shards")
    write_atomically(file, json.dumps(settings).encode())


def _write(shard: Shard, folder: Path, output: Path, done: Callable[[], object]) -> Iterator[tuple[str, str]]:
    """Write a shard, then its index; yields the unreadable files, with the cause."""
    tar_file = output / shard.name
    part = output / f".{shard.name}.part"
    index: list[tuple[str, int, int, FaceAttributes]] = []
    with part.open("wb") as out, tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for key, line in shard.members:
            done()
            file = within(folder, line["file"])
            if not file or file.suffix.lower() not in SUFFIXES | {".heic", ".heif", ".hif"}:
                yield line["file"], "file name without a picture's suffix" if file else "outside of FOLDER"
                continue
            try:
                picture = file.read_bytes()
            except OSError as e:
                yield line["file"], str(e.strerror)
                continue
            name = f"{key}{Path(line['file']).suffix.lower()}"
            _add(tar, name, picture)
            index.append((name, tar.offset - -(-len(picture) // 512) * 512, len(picture), attributes_of(line, name)))
            _add(tar, f"{key}.json", json.dumps(line, ensure_ascii=False).encode(errors="replace"))
    part.replace(tar_file)
    write_atomically(tar_file.with_suffix(".csv"), as_index(iter(index)))


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    tar.addfile(member, BytesIO(data))
