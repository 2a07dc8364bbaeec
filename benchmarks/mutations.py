"""Randomly mutated files through every reader: `python -m benchmarks.mutations --count N`.

Bytes are flipped, cut off, deleted and inserted. Pictures are aged as photographs, as crops by `Ager`, and by REST
inside this process. Videos are rewritten. Pictures and videos go through `test.py`, too. `Ager` loads weights and the
JSON configuration inside them. With `--data`, generators for `convert.py`, tables of labels and shards are read. A
failure is any exception but the project's own, a status of 500 or above but 503 and 504, an exit status of `test.py`
but 0 and 2, or a run of more than 30 s.
"""

import asyncio
import io
import logging
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from itertools import cycle
from pathlib import Path

import httpx
import numpy as np
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save

from benchmarks.mutated_data import data_ways
from benchmarks.mutated_files import clips, mutated, mutated_settings, pictures
from benchmarks.plan import Row, table
from cyclegan_age.config import DemoConfig, UserError
from cyclegan_age.faces import video
from cyclegan_age.faces.detection import detector
from cyclegan_age.faces.files import Photo, as_rgb
from cyclegan_age.images import BadImage
from cyclegan_age.inference import Ager
from cyclegan_age.runs import SHIPPED
from options.bench import MutationsBenchConfig, parse_mutations_bench
from options.command import command

SLOW = 30.0  # seconds
Try = Callable[[bytes], None]  # raises on any failure that is not an error of the project
Ways = dict[str, tuple[Try, Callable[[], bytes]]]  # by name: a reader of a file's bytes, and a maker of mutated files


def _accepts(do: Callable[[], object]) -> None:
    with suppress(UserError, BadImage):
        do()


def _accepting(read: Callable[[bytes], object]) -> Try:
    return lambda broken: _accepts(lambda: read(broken))


def photo_try(ager: Ager) -> Try:
    """A photograph's bytes to the bytes of the aged photograph."""

    def whole(broken: bytes) -> None:
        photo = Photo.read(broken)
        places = [face.place(ager.frame) for face in detector().find(as_rgb(photo.upright))]
        photo.with_upright(ager.age_places(photo.upright, places, 60)).encoded()

    return lambda broken: _accepts(lambda: whole(broken))


def crop_try(ager: Ager, folder: Path) -> Try:
    """A face crop from its file."""

    def whole(broken: bytes) -> None:
        (folder / "crop.png").write_bytes(broken)
        try:
            ager.age(folder / "crop.png", 60)
        except ValueError as e:
            if "too small for a face" not in str(e):
                raise

    return lambda broken: _accepts(lambda: whole(broken))


def command_try(folder: Path, name: str) -> Try:
    """A file of this name through `test.py`, page and all."""
    import test as command

    flags = ["--input", str(folder / name), "--results_dir", str(folder / "results"), "--name", "out"]

    def whole(broken: bytes) -> None:
        (folder / name).write_bytes(broken)
        said = io.StringIO()
        with redirect_stdout(said), redirect_stderr(said):
            status = command.main([*flags, "--target_age", "60"])
        if status not in (0, 2) or "Traceback" in said.getvalue():
            raise RuntimeError(f"exit status {status}: {said.getvalue()[-200:]}")

    return whole


def video_try(folder: Path) -> Try:
    """A video, decoded and rewritten."""

    def whole(broken: bytes) -> None:
        (folder / "broken.mp4").write_bytes(broken)
        video.rate(folder / "broken.mp4")
        video.rewrite(folder / "broken.mp4", [folder / "out.mkv"], lambda number, frame: [frame])

    return lambda broken: _accepts(lambda: whole(broken))


def weights_try(folder: Path) -> Try:
    """A file of weights, loaded, and a face aged."""

    def whole(broken: bytes) -> None:
        (folder / "broken.safetensors").write_bytes(broken)
        Ager.load(folder / "broken.safetensors").age(Image.new("RGB", (64, 64)), 60)

    return lambda broken: _accepts(lambda: whole(broken))


def rest_try(loop: asyncio.AbstractEventLoop) -> Try:
    """An upload to the REST service in this process."""
    from cyclegan_age.web.server import application

    client = httpx.AsyncClient(transport=httpx.ASGITransport(application(DemoConfig())), base_url="http://here")

    async def send(broken: bytes) -> httpx.Response:
        form = {"image": ("a", broken)}
        return await client.post("/api/age", files=form, data={"target_age": "60"}, timeout=None)

    def whole(broken: bytes) -> None:
        answer = loop.run_until_complete(send(broken))
        if answer.status_code >= 500 and answer.status_code not in (503, 504):
            raise RuntimeError(f"status {answer.status_code}: {answer.text[:200]}")
        if answer.status_code != 200 and set(answer.json()) - {"waiting"} != {"error"}:
            raise RuntimeError(f"no line on the error: {answer.text[:200]}")

    return whole


class _Hang(BaseException):
    """The call did not end in time. A BaseException, so that no program catches it as its own error."""


def _hang(*_: object) -> None:
    raise _Hang(f"not finished within {SLOW:g} s")


def resident() -> float:
    """Memory of this process in MiB."""
    text = Path("/proc/self/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) / 1024


def _media(folder: Path, random: np.random.Generator, loop: asyncio.AbstractEventLoop) -> tuple[Ways, list[str]]:
    """Pictures, videos and weights: the readers, and the order of their turns."""
    weights = SHIPPED / "cyclegan.safetensors"
    stills, films, tensors = pictures(), clips(folder), weights.read_bytes()
    with safe_open(weights, framework="pt") as f:
        (name, text), *_ = f.metadata().items()
        kept = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118 - not a dict
    photo, film, weight, rest = photo_try(Ager.load()), video_try(folder), weights_try(folder), rest_try(loop)

    def one_of(files: list[bytes]) -> bytes:
        return mutated(files[int(random.integers(len(files)))], random)

    ways: Ways = {
        "pictures": (photo, lambda: one_of(stills)),
        "pictures by Ager": (crop_try(Ager.load(), folder), lambda: one_of(stills)),
        "pictures by REST": (rest, lambda: one_of(stills)),
        "pictures by test.py": (command_try(folder, "still.png"), lambda: one_of(stills)),
        "videos": (film, lambda: one_of(films)),
        "videos by test.py": (command_try(folder, "film.mp4"), lambda: one_of(films)),
        "weights": (weight, lambda: mutated(tensors[: 40_000 if random.uniform() < 0.2 else None], random)),
        "configurations": (weight, lambda: save(kept, {name: mutated_settings(text, random)})),
    }
    # Pictures are cheap, and strangers upload them: they have more turns than weights.
    turns = ["pictures", "pictures by REST", "videos", "pictures", "pictures by Ager"]
    turns = [one for last in ("configurations", "weights", "pictures by test.py") for one in (*turns, last)]
    turns += ["pictures by REST", "videos by test.py"]
    return ways, turns


def run(
    count: int, seconds: float, seed: int, folder: Path, say: Callable[[str], None], *, data: bool = False
) -> tuple[list[Row], list[str]]:
    """Mutate files and feed them to the readers.

    Args:
        count: mutations, each kind in turn.
        seconds: time limit, after which no more files are tried.
        seed: of the mutations.
        folder: for temporary files.
        say: called with progress lines.
        data: try the files of trainings instead of pictures, videos and weights.

    Returns:
        Rows of a table, and one line for each distinct exception.
    """
    random, loop = np.random.default_rng(seed), asyncio.new_event_loop()
    if data:
        ways: Ways = {name: (_accepting(read), make) for name, (read, make) in data_ways(folder, random).items()}
        turns = list(ways)
    else:
        ways, turns = _media(folder, random, loop)
    signal.signal(signal.SIGALRM, _hang)
    done: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    lines: dict[str, bytes] = {}
    longest, begin, memory = 0.0, time.monotonic(), [resident()]
    for way in cycle(turns):
        if done.total() >= count or time.monotonic() - begin > seconds:
            break
        attempt, make = ways[way]
        broken = make()
        last = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, SLOW)
        try:
            attempt(broken)
        except (Exception, _Hang) as e:  # a failure
            wrong[way] += 1
            lines.setdefault(f"{way}: {type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"[:200], broken)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        longest = max(longest, time.monotonic() - last)
        done[way] += 1
        if done.total() % 100 == 0:
            memory.append(resident())
            say(f"{done.total()} tried, {wrong.total()} wrong, {memory[-1]:.0f} MiB")
    memory.append(resident())
    loop.close()
    rows = []
    for way in ways:
        rows.append(Row(measure=f"mutated {way}", value=done[way], unit="files"))
        rows.append(Row(measure="- unexpected exceptions", value=wrong[way], unit="files", at_most=0))
    settled = memory[len(memory) // 2 :]
    rows.append(Row(measure="the longest", value=longest, unit="s", at_most=SLOW))
    rows.append(Row(measure="memory at half, most", value=settled[0], unit="MiB"))
    rows.append(Row(measure="memory at the end", value=memory[-1], unit="MiB"))
    return rows, list(lines)


@command(parse_mutations_bench)
def main(config: MutationsBenchConfig) -> int:
    """Mutate the files and print the table; returns 1 if anything failed."""
    begin = time.monotonic()
    logging.getLogger("cyclegan_age").setLevel(logging.CRITICAL)  # each file would be named
    with tempfile.TemporaryDirectory(prefix="cyclegan-age-mutations-") as folder:
        rows, lines = run(
            config.count,
            config.seconds,
            config.seed,
            Path(folder),
            lambda text: print(f"[{time.monotonic() - begin:3.0f} s] {text}", file=sys.stderr),
            data=config.data,
        )
    print("\n".join([table(rows), *lines]))
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
