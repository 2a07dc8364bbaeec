"""Rows scored against the same real faces."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cyclegan_age.config import EvaluateConfig, UserError
from cyclegan_age.evaluation.columns import columns, compare
from cyclegan_age.evaluation.evaluators import Evaluator, load_evaluators
from cyclegan_age.evaluation.faces import COPY, REAL, Row
from cyclegan_age.evaluation.recorder import Recorder
from cyclegan_age.evaluation.records import Evaluators, Plan, Record
from cyclegan_age.evaluation.reference import Reference, Values
from cyclegan_age.evaluation.table import Goal, goals, score
from cyclegan_age.images import counted

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Scores:
    """An evaluation.

    Attributes:
        bench: renders and runs the networks.
        reference: values of the real faces.
        rows: columns of each row by name, `copy input` first.
        records: record of each face by row and index.
        aims: goals of the rows.
    """

    recorder: Recorder
    reference: Reference
    rows: dict[str, Values]
    records: dict[str, dict[int, Record]]
    aims: list[Goal]

    @classmethod
    def begin(cls, config: EvaluateConfig, evaluators: Evaluators | None, say: Say) -> "Scores":
        """Evaluate the real faces and the copied input.

        Args:
            config: faces, ages and networks.
            evaluators: creates the networks, once per process; by default all that are installed.
            say: called with progress lines for the user.

        Raises:
            UserError: no such data, no readable face, or no such `--judge`.
        """
        plan = Plan.of(config, evaluators or partial(load_evaluators, config.judge, config.results_dir, config.frame))
        for reason, count in plan.faces.left_out.items():
            say(f"{config.dataroot}: {counted(count)} left out: {reason}")
        recorder = Recorder(plan, (os.cpu_count() or 1) if config.workers < 0 else config.workers)
        networks = recorder.renderer.evaluators
        try:
            named = config.judge != EvaluateConfig.judge
            for evaluator in networks:
                if evaluator.name == "age_judge" and named and not evaluator.look:
                    raise UserError(f"--judge {config.judge}: {evaluator.why}")
            for note in absent(networks):
                say(note)
            real = recorder.records(REAL, range(len(plan.faces.paths)))
            reference = Reference.take(plan.faces, networks, plan.targets, plan.slider, real)
            aims = goals(_first(networks, "age"), _first(networks, "cosine", "distance"), plan.targets)
            scores = cls(recorder, reference, {}, {}, [aim for aim in aims if not aim.column.startswith(".")])
            scores.add(COPY)
        except BaseException:
            recorder.close()
            raise
        return scores

    def add(self, row: Row) -> Values:
        """Score one more row.

        Raises:
            UserError: no readable face.
        """
        made = self.recorder.records(row, self.recorder.plan.faces.sources)
        if not made:
            raise UserError(f"--dataroot {self.reference.faces.root}: none of the chosen faces is a readable picture")
        values = columns(self.reference, made)
        compare(values, self.rows.get(COPY.name, values), self.reference.targets)
        values = {"score": score(values, self.aims)} | values
        self.rows[row.name], self.records[row.name] = values, made
        return values


def _first(evaluators: list[Evaluator], *kinds: str) -> str:
    """Name of the first network of some kinds, available ones before missing ones."""
    of_kind = [evaluator for evaluator in evaluators if evaluator.kind in kinds]
    return next((evaluator.name for evaluator in sorted(of_kind, key=lambda evaluator: not evaluator.look)), "")


def absent(evaluators: list[Evaluator]) -> list[str]:
    """A line for each missing network."""
    return [
        f"{evaluator.name} is missing, its columns are empty: {evaluator.why}"
        for evaluator in evaluators
        if not evaluator.look
    ]


def row_of(name: str, weights: Path) -> Row:
    """The row of a file of weights, identified by its content, not its path."""
    return Row(name=name, key=hashlib.sha256(weights.read_bytes()).hexdigest(), weights=weights)
