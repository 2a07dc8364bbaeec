"""`evaluate.py`: score weights side by side, or each new snapshot of a training."""

import hashlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import SafetensorError, safe_open

from cyclegan_age import plots
from cyclegan_age.config import EvaluateConfig, UserError
from cyclegan_age.evaluation.columns import estimated_ages
from cyclegan_age.evaluation.faces import BLEND, Row
from cyclegan_age.evaluation.fit import calibratable, fit_ages
from cyclegan_age.evaluation.page import write_page
from cyclegan_age.evaluation.parsing import evaluate_parsers
from cyclegan_age.evaluation.records import Evaluators
from cyclegan_age.evaluation.reference import FEW, FEWEST, Values, by_label
from cyclegan_age.evaluation.scores import Say, Scores, absent, row_of
from cyclegan_age.evaluation.table import Goal, as_csv, as_text
from cyclegan_age.faces.frames import FRAMES, Frame
from cyclegan_age.files import json_lines, write_atomically, write_error
from cyclegan_age.images import counted
from cyclegan_age.inference import Ager
from cyclegan_age.rendering.pictures import save_text
from cyclegan_age.runs import CROP_WEIGHTS, PHOTO_WEIGHTS, SHIPPED, find_weights, next_folder
from cyclegan_age.weight_files import load_weights

_POLL_SECONDS = 15.0


def evaluate(config: EvaluateConfig, say: Say, evaluators: Evaluators | None = None) -> Path:
    """Score weights side by side and write the table (text, JSON, CSV) and the page.

    Args:
        config: weights, faces and ages.
        say: called with progress lines for the user.
        evaluators: creates the networks, once per process; by default all that are installed.

    Returns:
        The output folder.

    Raises:
        UserError: no such data or weights, weights that render no faces, a package is not installed, or the output
            cannot be written.
    """
    begun = time.perf_counter()
    weights = _weights(config)
    parsers = [name for name, path in weights.items() if load_weights(path).train.model == "face_parser"]
    if parsers:
        if len(parsers) < len(weights):
            raise UserError("--weights: some are of a face_parser and some are not; score them one after the other")
        folder = _folder(config)
        evaluate_parsers(config, weights, folder, say)
        return folder
    plots.require()
    rows = [row_of(name, path) for name, path in weights.items()]
    for row in rows:  # report errors before the work
        ager = Ager.load(row.weights)
        _check_frame(ager, row, config)
        try:
            ager.age(Image.new("RGB", (ager.image_size, ager.image_size)), config.target_age[0])
        except UserError as e:
            raise UserError(f"--weights {row.weights}: {e}") from None
    if config.fit_ages:
        calibratable(rows[0])
    _check_results(config)
    scores = Scores.begin(config, evaluators, say)
    try:
        own = [evaluator for evaluator in scores.reference.evaluators if evaluator.name == "age_judge"]
        if config.fit_ages and not (own and own[0].look):
            raise UserError(f"--fit_ages: needs --judge; {own[0].why if own else 'there is none'}")
        scores.add(BLEND)
        for row in rows:
            scores.add(row)
        folder = _folder(config)
        real = scores.reference.real_faces()
        notes = _notes(scores, rows)
        save_text(as_text(scores.rows, real, scores.aims, notes), folder / "table.txt")
        save_text(as_csv(scores.rows | {"real faces": real}), folder / "table.csv")
        save_text(json.dumps(_plain(scores, real, notes), indent=1, allow_nan=False) + "\n", folder / "table.json")
        page = write_page(folder, scores, rows, real, notes)
        if config.fit_ages:
            read = estimated_ages(scores.reference, own[0], scores.records[rows[0].name])
            pictures = scores.recorder.renderer.squares(sorted(scores.records[rows[0].name]), rows[0])
            calibration = fit_ages(rows[0], pictures, read, np.array(scores.reference.slider), config.fit_ages)
            for looks, asked in zip(calibration.looks.tolist(), calibration.asked.tolist(), strict=True):
                years = " ".join(f"{one:.1f}" for one in asked)
                say(f"{config.fit_ages}: for a face that looks {looks:.0f}, asks for {years} years at its ages")
    except OSError as e:
        raise write_error(f"--results_dir {config.results_dir}", e, "or choose another folder") from e
    finally:
        scores.recorder.close()
    say((folder / "table.txt").read_text(encoding="utf-8"))
    say(f"{time.perf_counter() - begun:.0f} s; page: {page}")
    return folder


def _check_frame(ager: Ager, row: Row, config: EvaluateConfig) -> None:
    if ager.domains:
        raise UserError(f"--weights {row.weights}: have no ages; expected weights that age faces")
    if ager.frame != Frame.of(config.frame):
        raise UserError(
            f"--weights {row.weights}: made for faces in the frame {ager.frame}, not in that of --dataroot; "
            f"use pictures of --frame {ager.frame}, or other weights than these to --frame {config.frame}"
        )


def _weights(config: EvaluateConfig) -> dict[str, Path]:
    """The files of `--weights` by their names in the table."""
    default = PHOTO_WEIGHTS if Frame.of(config.frame) == FRAMES["ffhq"] else CROP_WEIGHTS
    paths = [find_weights(weights, config.results_dir, default) for weights in config.weights or ("",)]
    names: list[str] = []
    for weights, path in zip(config.weights or ("",), paths, strict=True):
        name = _name(weights, path)
        names.append(name if name not in names else f"{name} ({len(names) + 1})")
    return dict(zip(names, paths, strict=True))


def _name(weights: str, path: Path) -> str:
    if weights in ("", "shipped") and path.parent == SHIPPED:
        return "shipped"
    if path.stem in ("weights", "best"):
        return path.parent.name if path.stem == "weights" else f"{path.parent.name} best"
    return f"{path.parent.parent.name} {path.stem}" if path.parent.name == "snapshots" else path.stem


def _notes(scores: Scores, rows: list[Row]) -> list[str]:
    """Notes below the table."""
    plan, reference = scores.recorder.plan, scores.reference
    youngest, oldest = (int(f(reference.faces.age_years[plan.faces.sources])) for f in (min, max))
    notes = [
        f"{counted(len(plan.faces.sources), 'face')} of {youngest} to {oldest} years at "
        f"{' '.join(map(str, plan.targets))} years, {plan.size} px; real faces: {len(reference.real)}",
    ]
    if len(plan.faces.sources) < FEW or len(reference.real) < FEW:
        notes.append(f"caution: figures and score from fewer than {FEW} faces are rough; use more (--limit 300)")
    if estimated := len(set(reference.real) - reference.faces.exact):
        fact = f"the ages of {counted(estimated, 'real face')} are estimated or of groups"
        notes.append(f"{fact}: age estimators are calibrated and evaluated on the others")
    for evaluator in reference.evaluators:
        if evaluator.look and evaluator.kind == "age" and len(reference.calibration[evaluator.name].true_years) == 0:
            notes.append(
                f"{evaluator.name}: too few real faces for a calibration, so calibrated ages equal the estimates"
            )
        blind = [
            i
            for i in reference.real
            if evaluator.look and np.isnan(reference.real[i].get(evaluator.key, np.zeros(1))).any()
        ]
        if blind:
            notes.append(
                f"{evaluator.name} finds no face in {len(blind)} of the {counted(len(reference.real), 'real face')}"
            )
        if evaluator.look and evaluator.kind == "features":
            notes.append(
                f"realism: KID x 1000 and FID in the features of {evaluator.name} (ImageNet), not of Inception"
            )
    for row in rows:
        if row.weights and (used := _estimators(row.weights)):
            notes.append(f"{row.name}: age estimators in its training's loss: {' '.join(used)}")
    people = by_label(reference.faces, plan.faces.sources)
    if any(people.values()):
        years = plan.targets[-1] - plan.targets[0]
        notes.append(f"fairness: the target span is {years} years; for real faces it is the slope of the estimates")
    if few := [label for labels in people.values() for label, some in labels.items() if len(some) < FEWEST]:
        notes.append(f"fairness: omitted for lack of faces: {', '.join(few)}")
    undefined = [
        aim.column for aim in scores.aims if all(math.isnan(v.get(aim.column, math.nan)) for v in scores.rows.values())
    ]
    if undefined:
        notes.append(f"score: omitted because undefined here: {', '.join(undefined)}")
    return [*notes, *absent(reference.evaluators)]


def _estimators(weights: Path) -> list[str]:
    try:
        with safe_open(weights, framework="np") as f:
            net: dict[str, Any] = json.loads((f.metadata() or {}).get("cyclegan_age", "{}")).get("net", {})
    except (SafetensorError, OSError, ValueError):
        return []
    return [str(name) for name in net.get("estimators", [])] if net.get("lambda_age") else []


def _plain(scores: Scores, real: Values, notes: list[str]) -> dict[str, Any]:
    """The evaluation as JSON; null for undefined values."""

    def finite(values: Values) -> dict[str, float | None]:
        return {name: None if math.isnan(v) else round(v, 6) for name, v in values.items()}

    reference = scores.reference
    faces = [
        reference.faces.paths[i].relative_to(reference.faces.root).as_posix()
        for i in scores.recorder.plan.faces.sources
    ]
    return {
        "rows": {name: finite(values) for name, values in scores.rows.items()},
        "real_faces": finite(real),
        "goals": {goal.column: str(goal) for goal in scores.aims},
        "calibration": {
            name: {"true_years": c.true_years.tolist(), "estimate": c.estimate.round(4).tolist()}
            for name, c in reference.calibration.items()
        },
        "judges": {evaluator.name: evaluator.key if evaluator.look else None for evaluator in reference.evaluators},
        "faces": faces,
        "notes": notes,
    }


def _check_results(config: EvaluateConfig) -> None:
    try:
        (config.results_dir / config.name).mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise write_error(f"--results_dir {config.results_dir}", e, "or choose another folder") from None


def _folder(config: EvaluateConfig) -> Path:
    if not config.name:
        return next_folder(config.results_dir, "evaluate")
    folder = config.results_dir / config.name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def watch(
    config: EvaluateConfig, say: Say, evaluators: Evaluators | None = None, pause: Callable[[float], None] = time.sleep
) -> Path:
    """Score each snapshot of a run, including future ones; the best is kept as `best.safetensors`.

    Each gets a line in the run's `evaluation.jsonl`. After an interruption it resumes with the missing snapshots.

    Args:
        config: `watch` names the run.
        say: called with progress lines for the user.
        evaluators: as in `evaluate`.
        pause: sleeps for that many seconds.

    Returns:
        The best snapshot's copy.

    Raises:
        UserError: no such run, or no new snapshot in `watch_minutes`.
    """
    run = next((p for p in (config.results_dir / config.watch, Path(config.watch)) if p.is_dir()), None)
    if run is None:
        raise UserError(f"--watch {config.watch}: no such run in {config.results_dir}; check the name")
    log, best_file = run / "evaluation.jsonl", run / "best.safetensors"
    scores = Scores.begin(config, evaluators, say)
    mark = hashlib.sha256(repr((_plain(scores, {}, []), scores.recorder.plan.slider)).encode()).hexdigest()[:16]
    lines = [line for line in _lines(log) if line.get("mark") == mark]  # of the same faces and networks
    others = [line for line in _lines(log) if line.get("mark") != mark]
    quiet = 0.0
    say(f"{run}: {len(lines)} snapshots scored already; checks for new ones every {_POLL_SECONDS:.0f} s until Ctrl-C")
    try:
        while True:
            known = {line["snapshot"] for line in lines}
            new = [p for p in sorted((run / "snapshots").glob("*.safetensors")) if p.name not in known]
            for path in new:
                row = row_of(f"{config.watch} {path.stem}", path)
                _check_frame(Ager.load(path), row, config)
                values = scores.add(row)
                columns = {k: round(v, 6) for k, v in values.items() if not math.isnan(v)}
                lines.append({"snapshot": path.name, "mark": mark, **columns})
                write_atomically(log, "".join(json.dumps(line) + "\n" for line in [*others, *lines]).encode())
                best = max(lines, key=lambda line: line["score"])
                if best is lines[-1]:
                    write_atomically(best_file, path.read_bytes())
                say(_line(path.stem, values, scores.aims, best is lines[-1]))
            quiet = 0.0 if new else quiet + _POLL_SECONDS
            if config.watch_minutes and quiet >= config.watch_minutes * 60:
                break
            pause(_POLL_SECONDS)
    finally:
        scores.recorder.close()
    if not lines:
        raise UserError(f"--watch {config.watch}: no snapshot in {config.watch_minutes:g} minutes; is it training?")
    best = max(lines, key=lambda line: line["score"])
    say(f"best: {best['snapshot']}, score {best['score']:.3f}, kept as {best_file}")
    return best_file


def _line(name: str, values: Values, aims: list[Goal], best: bool) -> str:
    """One snapshot's scores with a goal, by short names."""
    columns = [goal.column for goal in aims if not math.isnan(values.get(goal.column, math.nan))]
    parts = [f"{column.rpartition('.')[2]} {values[column]:.3g}" for column in columns]
    return f"{name}: score {values['score']:.3f}{' (best so far)' if best else ''}: {', '.join(parts)}"


def _lines(log: Path) -> list[dict[str, Any]]:
    return list(json_lines(log)) if log.is_file() else []
