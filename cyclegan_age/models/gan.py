"""Plain GAN: faces of no chosen age from noise.

After Goodfellow et al., "Generative Adversarial Nets" (NIPS 2014), in the form of the AI2100 project report (Nandi et
al., 2022; preset `nandi`), whose tables give the layers. Where it departs from the report:

- The report names neither the length of the noise nor what it is drawn from here; it is 100 numbers between -1 and 1.
- The discriminator's loss is the mean of its two parts, as the report has it for its conditional GAN, not their sum.
- The preset `default` has residual networks (see `networks.residual`) and R1; DCGAN's batch norm, without which the
  layers of the tables learn little, is on without a preset.
- Batches are balanced over the age groups.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from cyclegan_age.ages import code_of
from cyclegan_age.attributes import FaceAttributes
from cyclegan_age.config import CGANConfig, GANConfig, NoiseConfig, TrainConfig, UserError, WrongWeights
from cyclegan_age.data import recipes
from cyclegan_age.data.batches import Batch
from cyclegan_age.models.adversary import (
    AdversarialModel,
    adversarial_step,
    build_feature_discriminator,
    held_out_loss,
    sample_latents,
)
from cyclegan_age.models.base import Encoding, FaceEncoder, Losses, Renderer, System
from cyclegan_age.networks.latent import NoiseDiscriminator, NoiseGenerator
from cyclegan_age.networks.residual import ProjectionDiscriminator, ResidualGenerator, grown, unconditional
from cyclegan_age.weight_files import Weights


def build_generator(config: TrainConfig, net: NoiseConfig, *, labels: int = 0) -> NoiseGenerator | ResidualGenerator:
    """The generator that a configuration describes, for labels of so many numbers.

    Raises:
        UserError: its layers make pictures of another size.
    """
    made = 4 << len(net.g_channels)
    if made != config.image_size:
        raise UserError(
            f"--g_channels {net.g_channels}: make {made} px, not {config.image_size}; "
            f"give --image_size {made}, or one number for each doubling from 4 px"
        )
    if net.residual:
        return ResidualGenerator(latent=net.z, ages=labels, channels=net.g_channels)
    return NoiseGenerator(latent=net.z, labels=labels, channels=net.g_channels, norm=net.norm)


def initial_generator(net: NoiseConfig, weights: Weights) -> dict[str, Tensor]:
    """State dict of a generator to start from. If it makes smaller pictures, blocks that double the side are added."""
    tensors = weights.network("generator")
    return grown(tensors, net.g_channels) if tensors and net.residual else tensors


def build_discriminator(
    config: TrainConfig, net: NoiseConfig, *, labels: int = 0, label_at: int = 0
) -> NoiseDiscriminator | ProjectionDiscriminator:
    """The discriminator that a configuration describes.

    Raises:
        UserError: its layers do not end at 4 or 2 pixels.
    """
    if config.image_size not in (4 << len(net.d_channels), 2 << len(net.d_channels)):
        raise UserError(
            f"--d_channels {net.d_channels}: must be one for each halving of {config.image_size} px to 4 or 2"
        )
    if net.residual:
        return ProjectionDiscriminator(
            image_size=config.image_size,
            labels=labels,
            channels=net.d_channels,
            slope=net.slope,
            spectral=not net.lambda_r1,
        )
    return NoiseDiscriminator(
        image_size=config.image_size,
        labels=labels,
        channels=net.d_channels,
        label_at=label_at,
        norm=net.norm,
        slope=net.slope,
    )


class NoiseSampler(FaceEncoder):
    """Samples latent vectors; it encodes no faces."""

    encodes = False

    def __init__(self, *, net: NoiseConfig) -> None:
        super().__init__()
        self.net = net
        self.latent_size = net.z

    def encode(self, x: Tensor, attributes: Sequence[FaceAttributes]) -> Encoding:
        raise WrongWeights("must be weights that age a given face; use test.py --sample N with these")

    def sample(self, count: int, random: torch.Generator) -> Tensor:
        return sample_latents(self.net, count, random)


def renderer(weights: Weights) -> Renderer:
    """The generator of a weights file."""
    assert isinstance(weights.net, GANConfig)
    generator = weights.load_into(build_generator(weights.train, weights.net), "generator")
    sampler = NoiseSampler(net=weights.net)
    return Renderer(generator=generator, code=code_of(weights.train), encoder=sampler, conditional=False)


class GAN(AdversarialModel):
    """Networks and phases `generator` and `discriminator`."""

    columns = ("generated",)

    def __init__(self, *, config: TrainConfig, net: GANConfig) -> None:
        self.net = net
        self.generator, self.discriminator = build_generator(config, net), build_discriminator(config, net)
        super().__init__(
            config, net, self.generator, self.discriminator, build_feature_discriminator(config, net, n_heads=1)
        )

    def initial(self, name: str, weights: Weights) -> dict[str, Tensor]:
        """As `initial_generator`; of `cgan` those of a generator of faces of the mean label."""
        tensors = initial_generator(self.net, weights)
        if isinstance(weights.net, CGANConfig) and weights.net.residual:
            return unconditional(tensors, weights.net.z, len(weights.train.ages))
        return tensors

    def losses(self, batch: Batch, progress: Tensor, paused: frozenset[str]) -> Losses:
        yield from adversarial_step(
            self.generator,
            self.discriminator,
            self.net,
            batch.x_source,
            feature_discriminator=self.feature_discriminator,
            paused="discriminator" in paused,
        )

    def renderers(self, networks: Mapping[str, nn.Module]) -> Sequence[Renderer]:
        sampler = NoiseSampler(net=self.net)
        return [Renderer(generator=networks["generator"], code=self.code, encoder=sampler, conditional=False)]

    def measures(self, networks: Mapping[str, nn.Module], x: Tensor, age_years: Tensor) -> dict[str, float]:
        return held_out_loss(self.discriminator, self.net, x)


SYSTEM = System(
    config=GANConfig,
    build=lambda config, net: GAN(config=config, net=net),
    data=recipes.age_groups,
    renderer=renderer,
)
