"""Conditional GAN: faces of a chosen age from noise.

After Mirza and Osindero, "Conditional Generative Adversarial Nets" (2014), in the form of the AI2100 project report
(Nandi et al., 2022; preset `nandi`), whose tables give the layers and whose remedies against a discriminator that wins
are options here (see `adversary`). Where it departs from the report:

- The report does not name the length of the noise; it is 100.
- The preset `default` has the networks and R1 of the one of `gan`, heads on an ImageNet network's features, the label
  joining by projection, and any ages: a label between two anchors is their interpolation.
- Fakes are made for the ages of another draw of faces, not for those of the real ones beside them.
- Batches are balanced over the age groups.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from cyclegan_age.ages import code_of
from cyclegan_age.config import CGANConfig, TrainConfig
from cyclegan_age.data import recipes
from cyclegan_age.data.batches import Batch
from cyclegan_age.models.adversary import (
    AdversarialModel,
    adversarial_step,
    build_feature_discriminator,
    held_out_loss,
    wrong_ages,
)
from cyclegan_age.models.base import Losses, Renderer, System
from cyclegan_age.models.gan import NoiseSampler, build_discriminator, build_generator, initial_generator
from cyclegan_age.weight_files import Weights


def renderer(weights: Weights) -> Renderer:
    """The generator of a weights file."""
    assert isinstance(weights.net, CGANConfig)
    generator = build_generator(weights.train, weights.net, labels=len(weights.train.ages))
    weights.load_into(generator, "generator")
    return Renderer(generator=generator, code=code_of(weights.train), encoder=NoiseSampler(net=weights.net))


class CGAN(AdversarialModel):
    """Networks and phases `generator` and `discriminator`."""

    columns = ("generated ages",)

    def __init__(self, *, config: TrainConfig, net: CGANConfig) -> None:
        self.net = net
        ages = len(config.ages)
        self.generator = build_generator(config, net, labels=ages)
        self.discriminator = build_discriminator(config, net, labels=ages, label_at=net.label_at)
        super().__init__(
            config, net, self.generator, self.discriminator, build_feature_discriminator(config, net, n_heads=ages)
        )

    def initial(self, name: str, weights: Weights) -> dict[str, Tensor]:
        return initial_generator(self.net, weights)

    def losses(self, batch: Batch, progress: Tensor, paused: frozenset[str]) -> Losses:
        yield from adversarial_step(
            self.generator,
            self.discriminator,
            self.net,
            batch.x_source,
            feature_discriminator=self.feature_discriminator,
            label_real=self.code.encode(batch.age_source),
            label_fake=self.code.encode(batch.age_target),
            label_wrong=wrong_ages(self.code, batch.age_source),
            paused="discriminator" in paused,
        )

    def renderers(self, networks: Mapping[str, nn.Module]) -> Sequence[Renderer]:
        return [Renderer(generator=networks["generator"], code=self.code, encoder=NoiseSampler(net=self.net))]

    def measures(self, networks: Mapping[str, nn.Module], x: Tensor, age_years: Tensor) -> dict[str, float]:
        return held_out_loss(self.discriminator, self.net, x, self.code.encode(age_years))


SYSTEM = System(
    config=CGANConfig,
    build=lambda config, net: CGAN(config=config, net=net),
    data=recipes.age_groups,
    renderer=renderer,
)
