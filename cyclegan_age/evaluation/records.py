"""Outputs of the evaluation's networks for each rendering of the faces: computed once, in parallel, and kept.

The outputs for one face and one row are a file in the cache, named after the row's weights, the face's pixels and the
ages. It holds an array per network. A later evaluation renders only what is missing, so that a stopped one resumes. A
new or changed network runs alone.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from skimage.color import rgb2lab
from skimage.morphology import dilation, disk

from cyclegan_age.attributes import FaceAttributes
from cyclegan_age.config import EvaluateConfig, TrainConfig
from cyclegan_age.data.cache_files import cache_folder
from cyclegan_age.data.shards import open_pictures
from cyclegan_age.evaluation import measures
from cyclegan_age.evaluation.evaluators import Evaluator
from cyclegan_age.evaluation.faces import BLEND, COPY, REACH_YEARS, REAL, Faces, Row
from cyclegan_age.faces.frames import Frame
from cyclegan_age.files import write_atomically
from cyclegan_age.images import Picture, to_float
from cyclegan_age.inference import Ager
from cyclegan_age.models import load_parser
from cyclegan_age.networks.parsers import PARTS

_FORMAT = "2"  # changed to invalidate earlier records

Record = dict[str, NDArray[np.float32]]
Evaluators = Callable[[], list[Evaluator]]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The settings that a process needs to make records; picklable."""

    faces: Faces
    size: int  # side in pixels of the compared pictures
    targets: tuple[int, ...]  # ages in years, rising
    slider: tuple[int, ...]  # every fifth year, and the targets
    evaluators: Evaluators
    folder: Path  # of the cache
    frame: str = "utkface"  # of the pictures

    @classmethod
    def of(cls, config: EvaluateConfig, evaluators: Evaluators) -> "Plan":
        targets = tuple(sorted(set(config.target_age)))
        slider = sorted({*range(targets[0], targets[-1] + 1, 5), *targets})
        folder = cache_folder(config.dataroot, "evaluation")
        faces = Faces.find(config)
        return cls(
            faces=faces,
            size=config.image_size,
            targets=targets,
            slider=tuple(slider),
            evaluators=evaluators,
            folder=folder,
            frame=config.frame,
        )


class Renderer:
    """Renders faces and runs the networks on them, one at a time, in one process."""

    def __init__(self, plan: Plan, evaluators: list[Evaluator] | None = None) -> None:
        self.plan = plan
        self.evaluators = plan.evaluators() if evaluators is None else evaluators
        self.pictures = open_pictures(plan.faces.paths, plan.faces.root, plan.size)
        self._row = REAL
        self._ager: Ager | None = None
        self._means: dict[float, NDArray[np.float64]] = {}
        self._parser = load_parser("face_parser", TrainConfig()) if plan.frame == "ffhq" else None

    def use(self, row: Row) -> None:
        """Load a row's weights."""
        if row != self._row:
            self._row, self._ager = row, Ager.load(row.weights) if row.weights else None

    def render(self, picture: Picture, years: Sequence[float], attributes: FaceAttributes) -> Picture:
        """A face (S, S, 3) at N ages by the current row: uint8 (N, S, S, 3)."""
        if self._ager:
            return render(self._ager, picture, years, attributes)
        if self._row == BLEND:
            means = np.stack([self._mean(float(one)) for one in years])
            return ((means + picture) / 2).round().astype(np.uint8)
        return np.stack([picture] * len(years))

    def squares(self, numbers: Sequence[int], row: Row) -> Picture:
        """Faces at the size of a row's generator: uint8 (N, S, S, 3)."""
        self.use(row)
        assert self._ager
        pictures = [self.pictures.get(i) for i in numbers]
        return np.stack([self._ager.letterbox(Image.fromarray(one)).square for one in pictures if one is not None])

    def _mean(self, years: float) -> NDArray[np.float64]:
        """The mean of the real faces of an age, or of the ten nearest to it."""
        if years not in self._means:
            away = np.abs(self.plan.faces.age_years - years)
            nearest = np.sort(away)[min(9, len(away) - 1)]
            chosen = np.flatnonzero(away <= max(REACH_YEARS, nearest))
            pictures = [p for i in chosen if (p := self.pictures.get(int(i))) is not None]
            self._means[years] = np.mean(pictures, axis=0, dtype=np.float64)
        return self._means[years]

    def complete(self, row: Row, i: int) -> Record | None:
        """The record of a face, if it is complete; empty if the picture cannot be read."""
        picture = self.pictures.get(i)
        if picture is None:
            return {}
        known = _read(self._file(row, picture, i))
        names = [evaluator.key for evaluator in self.evaluators if evaluator.look]
        if row != REAL:
            names += ["keeping", "hair"] if self._parser else ["keeping"]
        return known if all(name in known for name in names) else None

    def record(self, row: Row, i: int) -> Record:
        """Complete the record of a face, and store it."""
        picture = self.pictures.get(i)
        if picture is None:
            return {}
        file = self._file(row, picture, i)
        known = _read(file)
        missing = [one for one in self.evaluators if one.look and one.key not in known]
        if row == REAL:
            known |= {evaluator.key: _outputs(evaluator, picture[None]) for evaluator in missing}
        else:
            self.use(row)
            # The outputs for the input face apply to its copies.
            said = self.complete(REAL, i) or self.record(REAL, i) if row == COPY else None
            attributes = self.plan.faces.attributes(i)
            pictures = self.render(picture, self.plan.slider, attributes)
            decades = pictures[[self.plan.slider.index(years) for years in self.plan.targets]]
            for evaluator in missing:
                shown = pictures if evaluator.kind == "age" else decades
                known[evaluator.key] = (
                    said[evaluator.key].repeat(len(shown), axis=0) if said else _outputs(evaluator, shown)
                )
            if "keeping" not in known:
                known["keeping"] = self._keeping(picture, decades, attributes)
            if self._parser and "hair" not in known:
                known["hair"] = self._hair(picture, decades)
        write_atomically(file, save(known, None))
        return known

    def _keeping(self, picture: Picture, decades: Picture, attributes: FaceAttributes) -> NDArray[np.float32]:
        """Measures of preservation; see `keeping_names`."""
        own, ends = [attributes.age_years], (0, len(decades) - 1)
        same = self.render(picture, own, attributes)[0]
        back = [self.render(decades[k], own, FaceAttributes(self.plan.targets[k], attributes.sex))[0] for k in ends]
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
        """The mask (S, S) of pixels that must not change: outside the head grown by 1/32 of the side in FFHQ's frame,
        in others outside the face."""
        if not self._parser:
            return measures.outside(self.plan.size, Frame.of(self.plan.frame))
        parts = self._parts(picture)
        head = parts[PARTS.index("face")] + parts[PARTS.index("hair")] + parts[PARTS.index("neck")] > 0.5
        grown: NDArray[np.bool_] = dilation(head, disk(self.plan.size // 32))
        return ~grown

    def _hair(self, picture: Picture, decades: Picture) -> NDArray[np.float32]:
        """The share of hair in a picture (S, S, 3), and its mean CIELAB lightness (0 to 100) in each of N
        renderings: (1 + N,); NaN without hair."""
        hair = self._parts(picture)[PARTS.index("hair")] > 0.5
        lightness = [rgb2lab(one)[..., 0][hair].mean() if hair.any() else np.nan for one in decades]
        return np.array([hair.mean(), *lightness], np.float32)

    def _parts(self, picture: Picture) -> NDArray[np.float32]:
        """Probabilities (5, S, S) of the face parser's parts."""
        assert self._parser
        with torch.inference_mode():
            probabilities = self._parser.probabilities(to_float(picture[None]), self.plan.size)[0]
            found: NDArray[np.float32] = probabilities.numpy()
        return found

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


def render(ager: Ager, picture: Picture, years: Sequence[float], attributes: FaceAttributes) -> Picture:
    """A face of any size at N ages, as `Ager.age` does it, in one batch: uint8 (N, H, W, 3)."""
    image = Image.fromarray(picture)
    boxed = ager.letterbox(image)
    aged = ager.engine.age_letterboxed([boxed] * len(years), list(years), attributes=[attributes] * len(years))
    return np.stack([np.asarray(boxed.restore(one, image)) for one in aged])


def _outputs(evaluator: Evaluator, pictures: Picture) -> NDArray[np.float32]:
    """Outputs (N, width) of a network; equal pictures are evaluated once."""
    assert evaluator.look
    first: dict[bytes, int] = {}
    place = [first.setdefault(picture.tobytes(), len(first)) for picture in pictures]
    unique = np.stack([pictures[place.index(k)] for k in range(len(first))])
    said = evaluator.look(unique)[place]
    return said.astype(np.float16) if evaluator.kind == "features" else said


def _read(file: Path) -> Record:
    if not file.is_file():
        return {}
    try:
        with safe_open(file, framework="np") as f:
            return {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError):
        return {}
