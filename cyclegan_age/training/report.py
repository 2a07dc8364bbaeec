"""Means of the loss terms since the last log line, and counts of non-finite steps, kept on the device."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cyclegan_age.devices import widest_float


@dataclass(frozen=True)
class Report:
    """Statistics since the last report.

    Attributes:
        terms: mean of each loss term over the finite steps.
        phases: the phase of each term.
        skipped: number of non-finite steps since the training began.
        bad_in_a_row: non-finite steps in a row, ending with the last step; 0 if that was finite.
        longest_bad_run: longest such row since the last report.
    """

    terms: dict[str, float]
    phases: dict[str, str]
    skipped: int
    bad_in_a_row: int
    longest_bad_run: int


class _Sums:
    """Sums of the loss terms over all steps with the same paused phases."""

    def __init__(self, phases: Mapping[str, str], device: torch.device) -> None:
        self.phases = dict(phases)
        self.values = torch.zeros(len(phases) + 1, device=device)  # the last entry counts steps

    def add(self, values: Tensor, bad: Tensor) -> None:
        self.values += torch.cat([values, values.new_ones(1)]).masked_fill(bad, 0)


class Counts:
    """Sums and counts of steps; only `read` synchronises.

    Attributes:
        skipped, bad_in_a_row, longest_bad_run: () int64 on the device; see `Report`.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.skipped, self.bad_in_a_row, self.longest_bad_run = (
            torch.zeros((), dtype=torch.int64, device=device) for _ in range(3)
        )
        self._sums: dict[frozenset[str], _Sums] = {}

    def add(self, paused: frozenset[str], phases: Mapping[str, str], values: Tensor, bad: Tensor) -> None:
        """Count a step.

        Args:
            paused: phases that were paused in it.
            phases: for each loss term, in order, its phase.
            values: (terms,) float32, the loss terms.
            bad: () bool, whether the step was not finite.
        """
        if paused not in self._sums:
            self._sums[paused] = _Sums(phases, self._device)
        self._sums[paused].add(values, bad)
        self.skipped += bad
        self.bad_in_a_row.copy_((self.bad_in_a_row + 1) * bad)
        torch.maximum(self.longest_bad_run, self.bad_in_a_row, out=self.longest_bad_run)

    def read(self) -> Report:
        """Statistics since the last call; waits for the device."""
        counts = torch.stack([self.skipped, self.bad_in_a_row, self.longest_bad_run]).to(widest_float(self._device))
        all_sums = list(self._sums.values())
        flat = torch.cat([counts, *(sums.values.to(counts.dtype) for sums in all_sums)]).tolist()
        totals: dict[str, tuple[float, float]] = {}
        phases: dict[str, str] = {}
        at = len(counts)
        for sums in all_sums:
            values, steps = flat[at : at + len(sums.phases)], flat[at + len(sums.phases)]
            at += len(sums.phases) + 1
            if steps:
                phases |= sums.phases
                for name, value in zip(sums.phases, values, strict=True):
                    total, of = totals.get(name, (0.0, 0.0))
                    totals[name] = total + value, of + steps
            sums.values.zero_()
        self.longest_bad_run.zero_()
        terms = {name: total / of for name, (total, of) in totals.items()}
        return Report(terms, phases, *(int(n) for n in flat[:3]))
