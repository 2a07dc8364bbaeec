"""Calibration of a generator's age input, so that its faces have the target age."""

from torch import Tensor, nn

from cyclegan_age.networks.estimators import AgeCalibration


class Calibrated(nn.Module):
    """A generator behind the calibration of its age input, as one network for export.

    Attributes:
        generator: latents (N, ...) and age vectors (N, K) -> (N, 3, S, S) in [-1, 1].
        calibration: as `evaluate.py --fit_ages` fitted it; None for weights without one.
    """

    def __init__(self, *, generator: nn.Module, calibration: AgeCalibration | None = None) -> None:
        super().__init__()
        self.generator, self.calibration = generator, calibration

    def vectors(self, latents: Tensor, age: Tensor) -> Tensor:
        """Target age vectors (N, K) -> calibrated ones for these faces."""
        if self.calibration is None:
            return age
        vectors: Tensor = self.calibration(latents, age)
        return vectors

    def forward(self, latents: Tensor, age: Tensor | None = None) -> Tensor:
        """As the generator; those of one domain take no age."""
        out: Tensor = self.generator(latents) if age is None else self.generator(latents, self.vectors(latents, age))
        return out
