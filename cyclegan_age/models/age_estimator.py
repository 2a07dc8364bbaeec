"""Age estimator trained with DLDL-v2's label distribution (Gao et al., IJCAI 2018) on strongly augmented faces."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cyclegan_age.ages import constant
from cyclegan_age.config import AgeEstimatorConfig
from cyclegan_age.data import recipes
from cyclegan_age.data.batches import Batch
from cyclegan_age.losses import label_distribution
from cyclegan_age.models.augmentation import augment
from cyclegan_age.models.base import Losses, Model, System
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
            self.estimator.load_imagenet()
        self.networks = {"estimator": self.estimator}
        self.frozen = {}
        self.phases = {"estimator": ["estimator"]}
        self.shipped = ["estimator"]
        self.pools = {}

    def losses(self, batch: Batch, progress: Tensor, paused: frozenset[str]) -> Losses:
        net = self.net
        x = augment(torch.cat([batch.x_source, batch.x_target]), net.disturb)
        age_years = torch.cat([batch.age_source, batch.age_target])
        if not net.mixup:
            yield "estimator", {"age": label_distribution(self.estimator(x), age_years, net.sigma)}
            return
        mixup = constant((net.mixup,), x.device)[0]
        weight = torch.distributions.Beta(mixup, mixup, validate_args=False).sample()
        logits = self.estimator(torch.lerp(x.roll(1, dims=0), x, weight))
        first, other = (label_distribution(logits, years, net.sigma) for years in (age_years, age_years.roll(1)))
        yield "estimator", {"age": torch.lerp(other, first, weight)}

    def views(self, networks: Mapping[str, nn.Module], x: Tensor) -> dict[str, Tensor]:
        return {"augmented": augment(x, self.net.disturb)}

    def measures(self, networks: Mapping[str, nn.Module], x: Tensor, age_years: Tensor) -> dict[str, float]:
        """The error on the batch held out, and the training loss there, with augmentation."""
        estimator = networks["estimator"]
        error = (expected_age(estimator(x)) - age_years).abs().mean()
        loss = label_distribution(estimator(augment(x, self.net.disturb)), age_years, self.net.sigma)
        return {"mean_absolute_error_years": float(error), "held_out_age": float(loss)}


SYSTEM = System(
    config=AgeEstimatorConfig, build=lambda config, net: AgeEstimatorModel(net=net), data=recipes.age_groups
)
