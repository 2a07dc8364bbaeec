"""Encoder and conditional DCGAN: a generator of faces of a chosen age, then an encoder that learns its inverse.

After the blog "Face Aging using an Encoder - Conditional DCGAN Network" (preset `blog`: groups 20-30 and 40-50), which
joins Radford et al., "Unsupervised Representation Learning with DCGANs" (ICLR 2016), to Mirza and Osindero,
"Conditional Generative Adversarial Nets" (2014). One training has two stages: the GAN, then, from `gan_share` of it on,
the encoder, which learns to find the random latent vectors from which the finished (averaged) generator made its
inputs. A face is aged by the encoder and the generator with another label. Where it departs from the blog:

- The blog names no channels; they are DCGAN's, the encoder's those of its discriminator.
- The preset `default` has any ages and residual networks. With `joint` both networks learn together from the first
  step on, as in Larsen et al., "Autoencoding beyond Pixels Using a Learned Similarity Metric" (ICML 2016): real faces
  are reconstructed in pixels, features and identity. The discriminators see faces from noise and real faces rendered at
  other ages, whose identity is kept, too. Without `joint` only the encoder learns from reconstructions.
- Each pair is made for its step; the blog made a set of pairs beforehand.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclegan_age.ages import code_of
from cyclegan_age.attributes import FaceAttributes
from cyclegan_age.config import EncodedConfig, EncoderCDCGANConfig, TrainConfig, UserError
from cyclegan_age.data import recipes
from cyclegan_age.data.batches import Batch
from cyclegan_age.models.adversary import (
    AdversarialLosses,
    SimilarityLosses,
    adversarial_step,
    build_feature_discriminator,
    discriminators_paused,
    held_out_loss,
    latents_like,
    reset_discriminators,
    sample_latents,
    wrong_ages,
)
from cyclegan_age.models.base import Column, Encoding, FaceEncoder, Losses, Model, Renderer, System
from cyclegan_age.models.gan import build_discriminator, build_generator, initial_generator
from cyclegan_age.models.pretrained import load_loss_embedder
from cyclegan_age.networks.latent import Encoder, NoiseGenerator
from cyclegan_age.networks.residual import ResidualGenerator
from cyclegan_age.weight_files import Weights

KERNEL = 5  # side in pixels of the encoder's


def build_encoder(config: TrainConfig, net: EncodedConfig) -> Encoder:
    """The encoder that a configuration describes; no activation ends it, since the noise may be normal.

    Raises:
        UserError: pictures that cannot be reduced to its side, or that its layers cannot halve so often.
    """
    size = net.e_size or config.image_size
    if config.image_size % size:
        raise UserError(f"--e_size {net.e_size}: must divide the side of the pictures, {config.image_size} px; or be 0")
    if size % 2 ** len(net.e_channels):
        raise UserError(
            f"--e_channels {net.e_channels}: must be fewer: each halves the {size} px that the encoder sees"
        )
    return Encoder(image_size=size, latent=net.z, channels=net.e_channels, kernel=KERNEL, norm=True, bounded=False)


class LatentEncoder(FaceEncoder):
    """The latent vectors of the encoder network."""

    def __init__(self, *, encoder: Encoder, net: EncodedConfig) -> None:
        super().__init__()
        self.encoder, self.net = encoder, net
        self.latent_size = net.z

    def encode(self, x: Tensor, attributes: Sequence[FaceAttributes]) -> Encoding:
        return Encoding(self.encoder(x))

    def sample(self, count: int, random: torch.Generator) -> Tensor:
        return sample_latents(self.net, count, random)


def load_networks(weights: Weights) -> tuple[NoiseGenerator | ResidualGenerator, Encoder]:
    """The generator and the encoder of a weights file."""
    train, net = weights.train, weights.net
    assert isinstance(net, EncodedConfig)
    generator = weights.load_into(build_generator(train, net, labels=len(train.ages)), "generator")
    encoder = weights.load_into(build_encoder(train, net), "encoder")
    return generator, encoder


def renderer(weights: Weights) -> Renderer:
    """The generator and the encoder of a weights file."""
    assert isinstance(weights.net, EncodedConfig)
    generator, encoder = load_networks(weights)
    face_encoder = LatentEncoder(encoder=encoder, net=weights.net)
    return Renderer(generator=generator, code=code_of(weights.train), encoder=face_encoder)


class EncoderCDCGAN(Model):
    """Networks and phases `generator`, `discriminator` and `encoder`; the encoder's stage pauses the first two.

    With `joint` the phase `generator` also trains the encoder, which has none of its own.
    """

    columns: Sequence[Column] = ("generated ages",)

    def __init__(
        self,
        *,
        config: TrainConfig,
        net: EncodedConfig,
        embedder: nn.Module | None = None,  # trained; for `lambda_identity`
    ) -> None:
        self.config, self.net = config, net
        self.code = code_of(config)
        ages = len(config.ages)
        self.generator = build_generator(config, net, labels=ages)
        self.discriminator = build_discriminator(config, net, labels=ages, label_at=net.label_at)
        self.encoder = build_encoder(config, net)
        self.networks = {"generator": self.generator, "discriminator": self.discriminator, "encoder": self.encoder}
        self.phases = {name: [name] for name in self.networks}
        if net.joint:
            self.phases = {"generator": ["generator", "encoder"], "discriminator": ["discriminator"]}
        self.feature_discriminator = build_feature_discriminator(config, net, n_heads=ages)
        self.similarity = SimilarityLosses(net, self.feature_discriminator, embedder)
        self.frozen = self.similarity.frozen
        if self.feature_discriminator:
            self.networks["feature_critic"] = self.feature_discriminator.critic
            self.phases["discriminator"].append("feature_critic")
        self.lr_factors = {"discriminator": net.d_rate}
        self.shipped = ["generator", "encoder"]
        self.pools = {}
        self.encoding = False  # whether the last step was of the encoder's stage

    def initial(self, name: str, weights: Weights) -> dict[str, Tensor]:
        return initial_generator(self.net, weights) if name == "generator" else weights.network(name)

    def paused(self, progress: float) -> frozenset[str]:
        joint = self.net.joint
        self.encoding = self._encodes(progress)
        self.columns = ("rebuilt", "ages") if joint or self.encoding else ("generated ages",)
        if self.encoding:
            return frozenset({"generator", "discriminator"})
        rest = {"discriminator"} if discriminators_paused(self.config, self.net, progress) else set()
        return frozenset(rest if joint else rest | {"encoder"})

    def reset(self, before: float, progress: float) -> Sequence[str]:
        if self._encodes(progress):
            return []
        reset = reset_discriminators(self.config, self.net, [self.discriminator], before, progress)
        return ["discriminator"] if reset else []

    def _encodes(self, progress: float) -> bool:
        """Whether the encoder has a stage of its own at this progress."""
        return not self.net.joint and progress >= self.net.gan_share

    def losses(self, batch: Batch, progress: Tensor, paused: frozenset[str]) -> Losses:
        net = self.net
        if net.joint:
            yield from self._joint_losses(batch, paused="discriminator" in paused)
            return
        age_other = self.code.encode(batch.age_target)
        if "encoder" in paused:
            yield from adversarial_step(
                self.generator,
                self.discriminator,
                net,
                batch.x_source,
                feature_discriminator=self.feature_discriminator,
                label_real=self.code.encode(batch.age_source),
                label_fake=age_other,
                label_wrong=wrong_ages(self.code, batch.age_source),
                paused="discriminator" in paused,
            )
            yield "encoder", {}
            return
        yield "generator", {}
        yield "discriminator", {}
        generator, x = self.ema_networks["generator"], batch.x_source
        z = latents_like(net, x)
        with torch.no_grad():
            x_made = generator(z, age_other)
        if not (net.lambda_pixel or net.lambda_perceptual or net.lambda_identity):
            yield "encoder", {"latent": F.mse_loss(self.encoder(x_made), z)}
            return
        z_made, z_real = self.encoder(torch.cat([x_made, x])).chunk(2)
        x_same = generator(z_real, self.code.encode(batch.age_source))
        terms = {"latent": F.mse_loss(z_made, z)}
        if net.lambda_pixel:
            terms["pixel"] = net.lambda_pixel * F.l1_loss(x_same, x)
        terms |= self.similarity.terms(x, x_same, x_same)
        yield "encoder", terms

    def _joint_losses(self, batch: Batch, *, paused: bool) -> Losses:
        """Losses of generator and encoder together; a third of the generated faces come from noise."""
        net, x = self.net, batch.x_source
        age_own, age_other = self.code.encode(batch.age_source), self.code.encode(batch.age_target)
        adversarial = AdversarialLosses(self.discriminator, net, self.feature_discriminator)
        z, z_noise = self.encoder(x), latents_like(net, x[: max(1, len(x) // 2)])
        age_fake = torch.cat([age_other, age_other[: len(z_noise)]])
        x_made = self.generator(torch.cat([z, z, z_noise]), torch.cat([age_own, age_fake]))
        x_same, x_fake = x_made[: len(x)], x_made[len(x) :]
        terms = adversarial.generator_terms(x_fake, age_fake)
        terms["latent"] = F.mse_loss(self.encoder(x_fake[len(x) :]), z_noise)
        if net.lambda_pixel:
            terms["pixel"] = net.lambda_pixel * F.l1_loss(x_same, x)
        terms |= self.similarity.terms(x, x_same, x_made[: 2 * len(x)])
        yield "generator", terms
        if paused:
            yield "discriminator", {}
            return
        wrong = wrong_ages(self.code, batch.age_source)
        yield "discriminator", adversarial.discriminator_terms(x, x_fake, age_own, age_fake, wrong)

    def renderers(self, networks: Mapping[str, nn.Module]) -> Sequence[Renderer]:
        encoder = networks["encoder"]
        assert isinstance(encoder, Encoder)
        face_encoder = LatentEncoder(encoder=encoder, net=self.net)
        return [Renderer(generator=networks["generator"], code=self.code, encoder=face_encoder)]

    def measures(self, networks: Mapping[str, nn.Module], x: Tensor, age_years: Tensor) -> dict[str, float]:
        """In the first stage the discriminator's error on the faces held out; the second learns from no real face."""
        return {} if self.encoding else held_out_loss(self.discriminator, self.net, x, self.code.encode(age_years))


def build(config: TrainConfig, net: EncodedConfig) -> EncoderCDCGAN:
    """The model with the trained network that its configuration names."""
    embedder = load_loss_embedder(net.embedder, config) if net.lambda_identity else None
    return EncoderCDCGAN(config=config, net=net, embedder=embedder)


SYSTEM = System(config=EncoderCDCGANConfig, build=build, data=recipes.age_groups, renderer=renderer)
