"""Age estimator trained with DLDL-v2's label distribution (Gao et al., IJCAI 2018) on strongly disturbed faces."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclegan_age.ages import constant
from cyclegan_age.config import AgeEstimatorConfig
from cyclegan_age.data.batches import Batch
from cyclegan_age.losses import label_distribution
from cyclegan_age.models.base import Losses, Model
from cyclegan_age.networks.estimators import AgeEstimator, LiteAgeEstimator, ResnetAgeEstimator, expected_age


def build_estimator(net: AgeEstimatorConfig) -> AgeEstimator:
    """The network that a configuration describes."""
    network: AgeEstimator
    if net.backbone == "resnet":
        network = ResnetAgeEstimator(width=net.width, blocks=net.depth, input_size=net.input_size)
    else:
        network = LiteAgeEstimator(version=int(net.backbone[-1]), input_size=net.input_size)
    network.window = net.window
    return network


class AgeEstimatorModel(Model):
    """Network and phase `estimator`; it learns from the batch's source and target faces alike."""

    def __init__(self, *, net: AgeEstimatorConfig) -> None:
        self.net = net
        self.estimator = build_estimator(net)
        if isinstance(self.estimator, LiteAgeEstimator):
            self.estimator.network.load_imagenet()
        self.networks = {"estimator": self.estimator}
        self.frozen = {}
        self.phases = {"estimator": ["estimator"]}
        self.shipped = ["estimator"]
        self.pools = {}

    def losses(self, batch: Batch, progress: Tensor, resting: frozenset[str]) -> Losses:
        net = self.net
        x = augment(torch.cat([batch.x_source, batch.x_target]), net.disturb)
        age_years = torch.cat([batch.age_source, batch.age_target])
        if not net.mixup:
            yield "estimator", {"age": label_distribution(self.estimator(x), age_years, net.sigma)}
            return
        mixup = constant((net.mixup,), x.device)[0]
        share = torch.distributions.Beta(mixup, mixup, validate_args=False).sample()
        logits = self.estimator(torch.lerp(x.roll(1, dims=0), x, share))
        first, other = (label_distribution(logits, years, net.sigma) for years in (age_years, age_years.roll(1)))
        yield "estimator", {"age": torch.lerp(other, first, share)}

    def samples(self, networks: Mapping[str, nn.Module], x: Tensor, age_years: Tensor) -> dict[str, Tensor]:
        return {"source": x, "augmented": augment(x, self.net.disturb)}

    def measures(self, networks: Mapping[str, nn.Module], x: Tensor, age_years: Tensor) -> dict[str, float]:
        """The error on the batch held out, and the loss there as it is on those learnt from: disturbed."""
        estimator = networks["estimator"]
        error = (expected_age(estimator(x)) - age_years).abs().mean()
        loss = label_distribution(estimator(augment(x, self.net.disturb)), age_years, self.net.sigma)
        return {"mean_absolute_error_years": float(error), "held_out_age": float(loss)}


def augment(x: Tensor, share: float = 1.0) -> Tensor:
    """Random mirror, rotation, scale, shift, blur, light, colour and noise: (N, 3, H, W) in [-1, 1] -> same.

    Args:
        x: the pictures.
        share: how strong and how frequent all but the mirroring are, from 0 to 1.
    """
    return recolour(move(x, share=share)[0], share)


def move(x: Tensor, masks: Tensor | None = None, share: float = 1.0) -> tuple[Tensor, Tensor]:
    """Random mirror, rotation, scale and shift, as in `augment`; what is beyond the edge is mirrored.

    Args:
        x: the pictures.
        masks: (N, C, H, W), to be moved as their pictures are, by nearest neighbours.
        share: see `augment`.

    Returns:
        The pictures, and the masks, or the pictures again where there are none.
    """
    n, device = len(x), x.device
    angle, scale = _around(x, 0, 0.18 * share)[:, 0, 0, 0], _around(x, 1, 0.12 * share)[:, 0, 0, 0]
    mirror = torch.where(torch.rand(n, device=device) < 0.5, -1.0, 1.0)
    affine = torch.stack(
        [
            torch.stack([angle.cos() * scale * mirror, -angle.sin() * scale], dim=1),
            torch.stack([angle.sin() * scale * mirror, angle.cos() * scale], dim=1),
        ],
        dim=1,
    )  # (N, 2, 2)
    shift = _around(x, 0, 0.08 * share, 2)[:, :, :, 0]  # (N, 2, 1)
    grid = F.affine_grid(torch.cat([affine, shift], dim=2), list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    if masks is None:
        return x, x
    return x, F.grid_sample(masks, grid, mode="nearest", padding_mode="reflection", align_corners=False)


def recolour(x: Tensor, share: float = 1.0) -> Tensor:
    """Random blur, light, colour and noise, as in `augment`."""
    size = x.shape[-1]
    half = F.interpolate(x, size=(size // 2, size // 2), mode="bilinear", antialias=True)
    blurred = F.interpolate(half, size=(size, size), mode="bilinear")
    x = torch.where(_uniform(x, 0, 1) < 0.2 * share, blurred, x)
    x = (x + 1) * _around(x, 1, 0.1 * share, 3) * _around(x, 1, 0.25 * share) - 1
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    x = (x - mean) * _around(x, 1, 0.25 * share) + mean
    x = torch.lerp(x, x.mean(dim=1, keepdim=True), share * _uniform(x, -0.4, 1.0).clamp_min(0))
    noise = torch.where(_uniform(x, 0, 1) < 0.3 * share, _uniform(x, 0, 0.12), 0.0)
    return (x + noise * torch.randn_like(x)).clamp(-1, 1)


def _uniform(x: Tensor, low: float, high: float, channels: int = 1) -> Tensor:
    """Random numbers (N, channels, 1, 1) for pictures x."""
    return torch.rand(len(x), channels, 1, 1, device=x.device) * (high - low) + low


def _around(x: Tensor, middle: float, most: float, channels: int = 1) -> Tensor:
    """The same, at most so far from the middle."""
    return middle + _uniform(x, -most, most, channels)
