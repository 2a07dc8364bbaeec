"""Rows scored against the same real faces."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cyclegan_age.config import EvaluateConfig, UserError
from cyclegan_age.evaluation.judges import Judge, load_judges
from cyclegan_age.evaluation.records import COPY, REAL, Bench, Judges, Plan, Record, Row
from cyclegan_age.evaluation.table import Goal, Values, Yardstick, columns, compare, goals, score
from cyclegan_age.images import counted

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Scores:
    """An evaluation.

    Attributes:
        bench: renders and runs the networks.
        yard: reference values of the real faces.
        rows: columns of each row by name, `copy input` first.
        records: record of each face by row and index.
        aims: goals of the rows.
    """

    bench: Bench
    yard: Yardstick
    rows: dict[str, Values]
    records: dict[str, dict[int, Record]]
    aims: list[Goal]

    @classmethod
    def begin(cls, config: EvaluateConfig, judges: Judges | None, say: Say) -> "Scores":
        """Evaluate the real faces and the copied input.

        Args:
            config: faces, ages and networks.
            judges: creates the networks, once per process; by default all that are installed.
            say: called with progress lines for the user.

        Raises:
            UserError: no such data, no readable face, or no such `--judge`.
        """
        plan = Plan.of(config, judges or partial(load_judges, config.judge, config.results_dir, config.frame))
        for reason, count in plan.faces.left_out.items():
            say(f"{config.dataroot}: {counted(count)} left out: {reason}")
        bench = Bench(plan, (os.cpu_count() or 1) if config.workers < 0 else config.workers)
        judged = bench.studio.judges
        try:
            named = config.judge != EvaluateConfig.judge
            for judge in judged:
                if judge.name == "age_judge" and named and not judge.look:
                    raise UserError(f"--judge {config.judge}: {judge.why}")
            for note in absent(judged):
                say(note)
            real = bench.records(REAL, range(len(plan.faces.paths)))
            yard = Yardstick.take(plan.faces, judged, plan.targets, plan.slider, real)
            aims = goals(_first(judged, "age"), _first(judged, "cosine", "distance"), plan.targets)
            scores = cls(bench, yard, {}, {}, [aim for aim in aims if not aim.column.startswith(".")])
            scores.add(COPY)
        except BaseException:
            bench.close()
            raise
        return scores

    def add(self, row: Row) -> Values:
        """Score one more row.

        Raises:
            UserError: no readable face.
        """
        made = self.bench.records(row, self.bench.plan.faces.sources)
        if not made:
            raise UserError(f"--dataroot {self.yard.faces.root}: none of the chosen faces is a readable picture")
        values = columns(self.yard, made)
        compare(values, self.rows.get(COPY.name, values), self.yard.targets)
        values = {"score": score(values, self.aims)} | values
        self.rows[row.name], self.records[row.name] = values, made
        return values


def _first(judges: list[Judge], *kinds: str) -> str:
    """Name of the first network of some kinds, available ones before missing ones."""
    fitting = [judge for judge in judges if judge.kind in kinds]
    return next((judge.name for judge in sorted(fitting, key=lambda judge: not judge.look)), "")


def absent(judges: list[Judge]) -> list[str]:
    """A line for each missing network."""
    return [f"{judge.name} is missing, its columns are empty: {judge.why}" for judge in judges if not judge.look]


def row_of(name: str, weights: Path) -> Row:
    """The row of a file of weights, identified by its content, not its path."""
    return Row(name=name, key=hashlib.sha256(weights.read_bytes()).hexdigest(), weights=weights)
