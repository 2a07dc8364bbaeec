"""Calibration of a generator's age input, so that its faces have the target age."""

from torch import Tensor, nn

from cyclegan_age.networks.estimators import AgeCalibration


class Calibrated(nn.Module):
    """A generator behind the calibration of its age input, as one network for export.

    Attributes:
        generator: inputs (N, ...), pictures or latent vectors, and age vectors (N, K) -> (N, 3, S, S) in [-1, 1].
        calibration: as `evaluate.py --fit_ages` fitted it; None for weights without one.
    """

    def __init__(self, *, generator: nn.Module, calibration: AgeCalibration | None = None) -> None:
        super().__init__()
        self.generator, self.calibration = generator, calibration

    def vectors(self, inputs: Tensor, age_vector: Tensor) -> Tensor:
        """Target age vectors (N, K) -> calibrated ones for these faces."""
        if self.calibration is None:
            return age_vector
        vectors: Tensor = self.calibration(inputs, age_vector)
        return vectors

    def forward(self, inputs: Tensor, age_vector: Tensor | None = None) -> Tensor:
        """As the generator; those of one domain take no age."""
        arguments = (inputs,) if age_vector is None else (inputs, self.vectors(inputs, age_vector))
        out: Tensor = self.generator(*arguments)
        return out
