"""Calibration of the age input: which years to ask a generator for, so that a face looks as old as was named."""

from torch import Tensor, nn

from cyclegan_age.networks.estimators import AgeCorrection


class Calibrated(nn.Module):
    """A generator with the calibration of its age input in front of it: one network, as programs elsewhere take it.

    Attributes:
        generator: what is kept of faces (N, ...) and age vectors (N, K) -> (N, 3, S, S) in [-1, 1].
        calibration: as `evaluate.py --fit_ages` fitted it; None for weights without one.
    """

    def __init__(self, *, generator: nn.Module, calibration: AgeCorrection | None = None) -> None:
        super().__init__()
        self.generator, self.calibration = generator, calibration

    def vectors(self, kept: Tensor, age: Tensor) -> Tensor:
        """Age vectors (N, K) as they are named -> those to give the generator for these faces."""
        if self.calibration is None:
            return age
        vectors: Tensor = self.calibration(kept, age)
        return vectors

    def forward(self, kept: Tensor, age: Tensor | None = None) -> Tensor:
        """As the generator; those of one domain take no age."""
        out: Tensor = self.generator(kept) if age is None else self.generator(kept, self.vectors(kept, age))
        return out
