"""Reading speed of training from WebDataset shards, and a check that memory stays constant."""

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np

from benchmarks.plan import Row, table
from benchmarks.processes import RSS_UNIT, make_faces
from cyclegan_age.ages import AgeCode
from cyclegan_age.config import ShardsConfig
from cyclegan_age.data.batches import make
from cyclegan_age.data.draws import Draws
from cyclegan_age.data.face_data import FaceData
from cyclegan_age.data.prepare.shards import write_shards
from cyclegan_age.data.shards import open_pictures, open_shards
from cyclegan_age.data.workers import in_processes
from options.bench import ShardsBenchConfig, parse_shards_bench
from options.command import command

CODE = AgeCode((10, 20, 30, 40, 50, 60))
PICTURES = 600  # synthetic, in six shards; larger sets repeat them
SIDE, SMALL = 250, 32  # their sides in pixels for the speed and for the memory test
LOAD, CROP = 144, 128  # pixels, as train.py's
BATCH = 16
MANY = 1_000_000  # pictures of a large set


@command(parse_shards_bench)
def main(config: ShardsBenchConfig) -> None:
    """Measure and print the table."""
    with tempfile.TemporaryDirectory(prefix="cyclegan-age-bench-") as name:
        rows = measure(config, Path(name), lambda text: print(text, file=sys.stderr))
    print(table(rows))


def measure(config: ShardsBenchConfig, folder: Path, say: Callable[[str], None]) -> list[Row]:
    """Speed by the number of worker processes, then memory."""
    data = data_of(folder / "large", SIDE, PICTURES, say)
    begin, batches = time.process_time(), max(1, config.seconds // 5)
    for step in range(batches):
        data.batch(step)
    cpu = (time.process_time() - begin) / (2 * BATCH * batches)
    rows = [Row(measure=f"one picture of {SIDE} px, read, decoded and cropped", value=cpu * 1e3, unit="ms of a core")]
    for workers in (1, 2):
        made = in_processes(partial(make, data._draws, 0, 1), count(), workers)
        with closing(made):
            next(made)  # the processes have started
            begin, drawn = time.monotonic(), 0
            while time.monotonic() - begin < config.seconds:
                next(made)
                drawn += 2 * BATCH
            speed = drawn / (time.monotonic() - begin)
        say(f"{workers} of 2 workers: {speed:.0f} pictures/s")
        rows.append(
            Row(measure=f"train.py's batches, {workers} worker{'s' * (workers > 1)}", value=speed, unit="pictures/s")
        )
    data = data_of(folder / "small", SMALL, MANY, say)
    tenth = max(1, config.samples // (20 * BATCH))  # steps in a tenth
    peaks = []
    for k in range(10):
        for step in range(k * tenth, (k + 1) * tenth):
            data.batch(step)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT / 2**20)
        say(f"memory: {k + 1} of 10, {peaks[-1]:.0f} MiB")
    drawn = tenth * 20 * BATCH
    rows += [
        Row(measure=f"peak memory after {drawn // 10:,} of a set of {MANY:,}", value=peaks[0], unit="MiB"),
        Row(measure=f"after {drawn:,}", value=peaks[-1], unit="MiB", at_most=round(peaks[0] + 20)),
    ]
    return rows


def data_of(folder: Path, side: int, size: int, say: Callable[[str], None]) -> FaceData:
    """A data set of `size` pictures, which repeat the same few."""
    make_faces(folder / "faces", PICTURES, side)
    write_shards(ShardsConfig(folder=folder / "faces", output=folder / "shards", per_shard=PICTURES // 6), say)
    shards = open_shards(folder / "shards" / "all-{000..005}.tar")
    shards = shards.take(np.resize(np.arange(len(shards)), size))
    group = np.array([CODE.group(float(age)) for age in shards.age_years])
    pools = [np.flatnonzero(group == k) for k in range(len(CODE))]
    draws = Draws(
        cache=open_pictures(shards, folder, min(LOAD, side)),
        age_years=shards.age_years,
        source_pools=pools,
        target_pools=pools,
        image_size=min(CROP, side),
        flip=True,
        batch_size=BATCH,
        seed=0,
    )
    return FaceData(draws)


if __name__ == "__main__":
    sys.exit(main())
