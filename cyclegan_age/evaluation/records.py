"""Faces of a data folder -> what the judges say of each rendering of them: computed once, in parallel, and kept.

What is known of one face rendered by one row is a file in the cache, named after the row's weights, the face's pixels
and the ages. It holds an array per judge. A later evaluation renders only what is not known yet, so that a stopped one
goes on, and a new judge or a changed one is asked alone.
"""

import hashlib
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from skimage.color import rgb2lab
from skimage.morphology import dilation, disk
from tqdm import tqdm

from cyclegan_age.ages import AgeCode
from cyclegan_age.config import EvaluateConfig, TrainConfig, UserError
from cyclegan_age.data.cache import cache_folder
from cyclegan_age.data.folders import scan
from cyclegan_age.data.names import Known
from cyclegan_age.data.shards import open_pictures
from cyclegan_age.evaluation import measures
from cyclegan_age.evaluation.judges import Judge
from cyclegan_age.faces.frames import Frame
from cyclegan_age.images import Picture, to_float
from cyclegan_age.inference import Ager
from cyclegan_age.models import load_parser
from cyclegan_age.networks.parsers import PARTS
from cyclegan_age.runs import write_atomically

REACH_YEARS = 5.0  # how far a real face of a target's group is from it
_CODE = AgeCode((10, 20, 30, 40, 50, 60, 70))  # real faces of 5 to 79 years are used
_PAUSE_SECONDS = 20.0  # between two states of the progress bar where it is written to a file
_FEWEST_EXACT = 100  # faces of recorded age that calibrations are made on alone
_FORMAT = "1"  # changes when records of before mean something else
_SEXES = ("male", "female")
_RACES = ("White", "Black", "Asian", "Indian", "other")

Record = dict[str, NDArray[np.float32]]
Judges = Callable[[], list[Judge]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the table: what renders.

    Attributes:
        name: as in the table.
        key: changes whenever its pictures may.
        weights: what `Ager.load` reads; None for the rows without a model.
    """

    name: str
    key: str
    weights: Path | None = None


REAL = Row(name="real faces", key="real")
COPY = Row(name="copy input", key="copy")
BLEND = Row(name="group mean blend", key="blend")


@dataclass(frozen=True, eq=False)
class Faces:
    """The faces of an evaluation.

    Attributes:
        root: the data folder.
        paths: N files whose names tell or whose folders mean an age.
        age_years: (N,).
        sex: N names, empty where the file's name does not tell.
        race: as `sex`.
        rank: (N,) place of each in the order of the hashes of their names: a fixed shuffling.
        sources: numbers of the faces that are aged.
        left_out: how many pictures were left out, by reason.
        exact: numbers of the faces whose age is recorded; of all where `labels.csv` says so of fewer than 100.
    """

    root: Path
    paths: Sequence[Path]
    age_years: NDArray[np.float32]
    sex: list[str]
    race: list[str]
    rank: NDArray[np.int64]
    sources: list[int]
    left_out: dict[str, int]
    exact: frozenset[int]

    @classmethod
    def find(cls, config: EvaluateConfig) -> "Faces":
        """Scan the data folder and choose the sources.

        Raises:
            UserError: no folder, no age folders, or no face of the sources' ages.
        """
        folder = scan(config.dataroot, _CODE, every_group=False, cache_gb=config.shard_cache)
        marks = [hashlib.sha256(os.fsencode(path.name)).digest() for path in folder.paths]
        order = sorted(range(len(marks)), key=lambda i: marks[i])
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        known = folder.known
        youngest, oldest = config.sources
        fitting = [i for i in order if youngest <= folder.age_years[i] < oldest + 1]
        if not fitting:
            raise UserError(f"--sources {youngest} {oldest}: {config.dataroot} has no face of that age; give others")
        exact = frozenset(i for i, one in enumerate(known) if one.exact)
        return cls(
            root=folder.root,
            paths=folder.paths,
            age_years=folder.age_years,
            sex=["" if math.isnan(one.sex) else _SEXES[int(one.sex)] for one in known],
            race=["" if math.isnan(one.race) else _RACES[int(one.race)] for one in known],
            rank=rank,
            sources=sorted(evenly(fitting, folder.age_years, config.limit)),
            left_out=folder.left_out,
            exact=exact if len(exact) >= _FEWEST_EXACT else frozenset(range(len(known))),
        )

    def known(self, i: int) -> Known:
        """What a model may be told of face i."""
        sex = float(_SEXES.index(self.sex[i])) if self.sex[i] else math.nan
        return Known(float(self.age_years[i]), sex)


def evenly(order: Sequence[int], age_years: NDArray[np.float32], limit: int) -> list[int]:
    """The first `limit` faces of an order, as many of each decade as can be; all of them with limit 0."""
    decades: dict[int, list[int]] = {}
    for i in order:
        decades.setdefault(int(age_years[i] // 10), []).append(i)
    rounds = [group[k : k + 1] for k in range(len(order)) for group in decades.values()]
    chosen = [i for part in rounds for i in part]
    return chosen[: limit or None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that a process needs to know to make records; can be sent to it."""

    faces: Faces
    size: int  # side in pixels of the pictures that are compared
    targets: tuple[int, ...]  # ages in years, rising
    slider: tuple[int, ...]  # every fifth year, and the targets
    judges: Judges
    folder: Path  # of the cache
    frame: str = "utkface"  # of the pictures

    @classmethod
    def of(cls, config: EvaluateConfig, judges: Judges) -> "Plan":
        targets = tuple(sorted(set(config.target_age)))
        slider = sorted({*range(targets[0], targets[-1] + 1, 5), *targets})
        folder = cache_folder(config.dataroot, "evaluation")
        faces = Faces.find(config)
        return cls(
            faces=faces,
            size=config.image_size,
            targets=targets,
            slider=tuple(slider),
            judges=judges,
            folder=folder,
            frame=config.frame,
        )


class Studio:
    """Renders and judges faces, one at a time, in one process."""

    def __init__(self, plan: Plan, judges: list[Judge] | None = None) -> None:
        self.plan = plan
        self.judges = plan.judges() if judges is None else judges
        self.pictures = open_pictures(plan.faces.paths, plan.faces.root, plan.size)
        self._row = REAL
        self._ager: Ager | None = None
        self._means: dict[float, NDArray[np.float64]] = {}
        self._parser = load_parser("face_parser", TrainConfig()) if plan.frame == "ffhq" else None

    def use(self, row: Row) -> None:
        """Take a row's weights up."""
        if row != self._row:
            self._row, self._ager = row, Ager.load(row.weights) if row.weights else None

    def render(self, picture: Picture, years: Sequence[float], known: Known) -> Picture:
        """A face (S, S, 3) at N ages by the row in use: uint8 (N, S, S, 3)."""
        if self._ager:
            return render(self._ager, picture, years, known)
        if self._row == BLEND:
            means = np.stack([self._mean(float(one)) for one in years])
            return ((means + picture) / 2).round().astype(np.uint8)
        return np.stack([picture] * len(years))

    def fitted(self, numbers: Sequence[int], row: Row) -> Picture:
        """Faces at the size of a row's generator: uint8 (N, S, S, 3)."""
        self.use(row)
        assert self._ager
        pictures = [self.pictures.get(i) for i in numbers]
        return np.stack([self._ager.fit(Image.fromarray(one)).square for one in pictures if one is not None])

    def _mean(self, years: float) -> NDArray[np.float64]:
        """The mean of the real faces of an age, or of the ten nearest to it."""
        if years not in self._means:
            away = np.abs(self.plan.faces.age_years - years)
            nearest = np.sort(away)[min(9, len(away) - 1)]
            chosen = np.flatnonzero(away <= max(REACH_YEARS, nearest))
            pictures = [p for i in chosen if (p := self.pictures.get(int(i))) is not None]
            self._means[years] = np.mean(pictures, axis=0, dtype=np.float64)
        return self._means[years]

    def wanted(self, i: int) -> list[Judge]:
        """The judges that are shown face i."""
        return [judge for judge in self.judges if judge.look and _shown(judge, self.plan.faces, i)]

    def complete(self, row: Row, i: int) -> Record | None:
        """The record of a face, if all of it is known; empty where the picture cannot be used."""
        picture = self.pictures.get(i)
        if picture is None:
            return {}
        known = _read(self._file(row, picture, i))
        names = [judge.key for judge in self.wanted(i)]
        if row != REAL:
            names += ["keeping", "hair"] if self._parser else ["keeping"]
        return known if all(name in known for name in names) else None

    def record(self, row: Row, i: int) -> Record:
        """Make what is missing of the record of a face, and keep it."""
        picture = self.pictures.get(i)
        if picture is None:
            return {}
        file = self._file(row, picture, i)
        known = _read(file)
        missing = [judge for judge in self.wanted(i) if judge.key not in known]
        if row == REAL:
            known |= {judge.key: _asked(judge, picture[None]) for judge in missing}
        else:
            self.use(row)
            # What is said of the face itself holds for its copies.
            said = self.complete(REAL, i) or self.record(REAL, i) if row == COPY else None
            known_face = self.plan.faces.known(i)
            pictures = self.render(picture, self.plan.slider, known_face)
            decades = pictures[[self.plan.slider.index(years) for years in self.plan.targets]]
            for judge in missing:
                shown = pictures if judge.kind == "age" else decades
                known[judge.key] = said[judge.key].repeat(len(shown), axis=0) if said else _asked(judge, shown)
            if "keeping" not in known:
                known["keeping"] = self._keeping(picture, decades, known_face)
            if self._parser and "hair" not in known:
                known["hair"] = self._hair(picture, decades)
        write_atomically(file, save(known, None))
        return known

    def _keeping(self, picture: Picture, decades: Picture, known: Known) -> NDArray[np.float32]:
        """What stays as it was; see `keeping_names`."""
        own, ends = [known.age_years], (0, len(decades) - 1)
        same = self.render(picture, own, known)[0]
        back = [self.render(decades[k], own, Known(self.plan.targets[k], known.sex))[0] for k in ends]
        mask, sharp = self._outside(picture), measures.sharpness(picture)
        values = [
            *(measures.ssim(picture, same), measures.l1(picture, same)),
            float(np.mean([measures.ssim(picture, one) for one in back])),
            float(np.mean([measures.l1(picture, one) for one in back])),
            *(measures.l1(picture, one, mask) for one in decades),
            *(measures.sharpness(one) / sharp if sharp else np.nan for one in decades),
        ]
        return np.array(values, np.float32)

    def _outside(self, picture: Picture) -> NDArray[np.bool_]:
        """The mask (S, S) of what shall stay as it is: beyond the head grown by 1/32 of the side in FFHQ's frame, in
        others beyond the face."""
        if not self._parser:
            return measures.outside(self.plan.size, Frame.of(self.plan.frame))
        parts = self._parts(picture)
        head = parts[PARTS.index("face")] + parts[PARTS.index("hair")] + parts[PARTS.index("neck")] > 0.5
        grown: NDArray[np.bool_] = dilation(head, disk(self.plan.size // 32))
        return ~grown

    def _hair(self, picture: Picture, decades: Picture) -> NDArray[np.float32]:
        """The share of a picture (S, S, 3) that is hair, and the mean lightness of CIELAB (0 to 100) there in each of N
        renderings: (1 + N,); NaN where there is no hair."""
        hair = self._parts(picture)[PARTS.index("hair")] > 0.5
        lightness = [rgb2lab(one)[..., 0][hair].mean() if hair.any() else np.nan for one in decades]
        return np.array([hair.mean(), *lightness], np.float32)

    def _parts(self, picture: Picture) -> NDArray[np.float32]:
        """Shares (5, S, S) of the face parser's parts."""
        assert self._parser
        with torch.inference_mode():
            shares: NDArray[np.float32] = self._parser.shares(to_float(picture[None]), self.plan.size)[0].numpy()
        return shares

    def _file(self, row: Row, picture: Picture, i: int) -> Path:
        ages = (self.plan.slider, self.plan.targets, float(self.plan.faces.age_years[i]))
        mark = hashlib.sha256(repr((_FORMAT, row.key, self.plan.size, *(ages if row != REAL else ()))).encode())
        mark.update(picture.tobytes())
        if self.plan.frame != "utkface":
            mark.update(self.plan.frame.encode())
        if row == BLEND:  # depends on all faces
            mark.update(repr([path.name for path in self.plan.faces.paths]).encode())
        return self.plan.folder / f"{mark.hexdigest()[:32]}.safetensors"


def keeping_names(targets: Sequence[int]) -> list[str]:
    """Names of the numbers under `keeping` in a record."""
    fixed = ["own_ssim", "own_l1", "cycle_ssim", "cycle_l1"]
    return [*fixed, *(f"outside_{t}" for t in targets), *(f"sharpness_{t}" for t in targets)]


def render(ager: Ager, picture: Picture, years: Sequence[float], known: Known) -> Picture:
    """A face of any size at N ages, as `Ager.age` does it, in one batch: uint8 (N, H, W, 3)."""
    image = Image.fromarray(picture)
    fitted = ager.fit(image)
    aged = ager.engine.age_fitted([fitted] * len(years), list(years), known=[known] * len(years))
    return np.stack([np.asarray(fitted.unfit(one, image)) for one in aged])


def _shown(judge: Judge, faces: Faces, i: int) -> bool:
    return judge.share == 1 or int(faces.rank[i]) % judge.share == 0


def _asked(judge: Judge, pictures: Picture) -> NDArray[np.float32]:
    """What a judge says (N, width); pictures that are the same are shown to it once."""
    assert judge.look
    first: dict[bytes, int] = {}
    place = [first.setdefault(picture.tobytes(), len(first)) for picture in pictures]
    unique = np.stack([pictures[place.index(k)] for k in range(len(first))])
    said = judge.look(unique)[place]
    return said.astype(np.float16) if judge.kind == "features" else said


def _read(file: Path) -> Record:
    if not file.is_file():
        return {}
    try:
        with safe_open(file, framework="np") as f:
            return {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError):
        return {}


@dataclass(eq=False)
class Bench:
    """Makes the records of whole rows, in several processes where that is asked for.

    Attributes:
        studio: this process's own.
        workers: processes beside this one; 0 does it all here.
    """

    plan: Plan
    workers: int
    studio: Studio = field(init=False)
    _pool: ProcessPoolExecutor | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.studio = Studio(self.plan)

    def records(self, row: Row, numbers: Sequence[int]) -> dict[int, Record]:
        """Records of faces by number; those whose picture cannot be used are left out."""
        found = {i: self.studio.complete(row, i) for i in numbers}
        missing = [i for i in numbers if found[i] is None]
        if missing:
            pause = 0.1 if sys.stderr.isatty() else _PAUSE_SECONDS
            with tqdm(total=len(missing), desc=row.name, unit="face", mininterval=pause, maxinterval=pause) as bar:
                for i, record in self._made(row, missing):
                    found[i] = record
                    bar.update()
        return {i: record for i, record in found.items() if record}

    def _made(self, row: Row, missing: Sequence[int]) -> Iterator[tuple[int, Record]]:
        if not self.workers:
            with _one_thread():
                for i in missing:
                    yield i, self.studio.record(row, i)
            return
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self.workers, get_context("spawn"), _begin, (self.plan,))
        waiting = {self._pool.submit(_work, row, i): i for i in missing}
        try:
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        except BrokenProcessPool:
            raise UserError(
                f"--workers {self.workers}: one of them was killed; give fewer if memory is short"
            ) from None

    def close(self) -> None:
        """End the processes; what they were at is lost, what they had done is kept."""
        pool, self._pool = self._pool, None
        if pool:
            for process in [*pool._processes.values()]:  # after an interruption they may never hear of an end
                process.kill()
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums come out the same to the last bit however many processes there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_studio: Studio | None = None  # of a process of the pool


def _begin(plan: Plan) -> None:
    global _studio
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that began this one ends it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _studio = Studio(plan)


def _end_with_parent() -> None:
    """End this process when the one that began it was killed."""
    parent = parent_process()
    if parent:
        parent.join()
        os._exit(1)


def _work(row: Row, i: int) -> Record:
    assert _studio
    return _studio.record(row, i)
