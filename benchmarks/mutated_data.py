"""Mutated generators of CycleGAN, tables of labels and shards, for `benchmarks.mutations --data`."""

import io
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.mutated_files import mutated
from cyclegan_age.ages import AgeCode
from cyclegan_age.config import ConvertConfig
from cyclegan_age.convert import convert
from cyclegan_age.data.folders import scan
from cyclegan_age.data.shard_index import index_of
from cyclegan_age.data.shards import ShardPictures, open_shards

_AGES = (10, 20, 30, 40, 50, 60)

Way = tuple[Callable[[bytes], object], Callable[[], bytes]]


def data_ways(folder: Path, random: np.random.Generator) -> dict[str, Way]:
    """By name: what reads a file's bytes, and what makes a mutated file.

    Args:
        folder: for the files.
        random: of the mutations.
    """
    picture = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(picture, "PNG")
    root = folder / "faces"
    for years in _AGES:
        (root / f"{years}-{years + 9}").mkdir(parents=True)
        (root / f"{years}-{years + 9}" / "a.png").write_bytes(picture.getvalue())
    table = "".join(f"{years}-{years + 9}/a.png,{years},0,9,p{years}\n" for years in _AGES)
    shard = io.BytesIO()
    with tarfile.open(fileobj=shard, mode="w") as tar:
        for years in _AGES:
            for ending, data in (("png", picture.getvalue()), ("json", f'{{"age": {years}}}'.encode())):
                member = tarfile.TarInfo(f"{years}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    files = {"generators": _generator(), "tables": f"file,age,sex,race,person\n{table}".encode()}
    files["shards"] = shard.getvalue()

    def read_generator(broken: bytes) -> None:
        (folder / "net_G.pth").write_bytes(broken)
        convert(ConvertConfig(cg=(folder / "net_G.pth",), output=folder / "net_G.safetensors", image_size=32))

    def read_table(broken: bytes) -> None:
        (root / "labels.csv").write_bytes(broken)
        scan(root, AgeCode(_AGES))

    def read_shard(broken: bytes) -> None:
        path = folder / "all.tar"
        path.write_bytes(broken)
        path.with_suffix(".csv").write_bytes(index_of(path))
        pictures = ShardPictures(open_shards(path), 16)
        for i in range(len(pictures)):
            pictures.get(i)

    readers = {"generators": read_generator, "tables": read_table, "shards": read_shard}
    return {name: (read, partial(mutated, files[name], random)) for name, read in readers.items()}


def _generator() -> bytes:
    """A file of CycleGAN's smallest generator: one residual block, four channels, no norm."""
    shapes = {1: (4, 3, 7, 7), 4: (8, 4, 3, 3), 7: (16, 8, 3, 3), 11: (16, 8, 3, 3), 14: (8, 4, 3, 3), 18: (3, 4, 7, 7)}
    state = {f"model.{k}.weight": torch.full(shape, 0.01) for k, shape in shapes.items()}
    state |= {f"model.10.conv_block.{k}.weight": torch.full((16, 16, 3, 3), 0.01) for k in (1, 5)}
    file = io.BytesIO()
    torch.save(state | {"model.18.bias": torch.zeros(3)}, file)
    return file.getvalue()
