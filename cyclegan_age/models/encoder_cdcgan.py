"""Encoder and conditional DCGAN: a generator of faces of a chosen age, then an encoder that learns its inverse.

After the blog "Face Aging using an Encoder - Conditional DCGAN Network" (preset `blog`: groups 20-30 and 40-50), which
joins Radford et al., "Unsupervised Representation Learning with DCGANs" (ICLR 2016), to Mirza and Osindero,
"Conditional Generative Adversarial Nets" (2014). One training has two stages: the GAN, then, from `gan_share` of it on,
the encoder, which is shown what the finished (averaged) generator makes of random latent vectors, and learns to tell
these. A face is aged by the encoder and the generator with another label. Where it departs from the blog:

- The blog names no channels; they are DCGAN's, the encoder's those of its discriminator.
- The preset `default` has the networks and remedies of the one of `cgan`, and any ages. Its encoder sees real faces,
  too: what the generator makes of their vectors is to be the same in pixels, features and identity.
- Each pair is made for its step; the blog made a set of pairs beforehand.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclegan_age.ages import code_of
from cyclegan_age.config import EncodedConfig, EncoderCDCGANConfig, TrainConfig, UserError
from cyclegan_age.data import recipes
from cyclegan_age.data.batches import Batch
from cyclegan_age.models.adversary import (
    Likeness,
    drawn,
    feature_judge,
    held_out,
    noise,
    play,
    renewed,
    rests,
    wrong_ages,
)
from cyclegan_age.models.base import About, Column, Losses, Model, Reader, Reading, Renderer, System
from cyclegan_age.models.gan import build_discriminator, build_generator
from cyclegan_age.models.pretrained import load_embedder
from cyclegan_age.networks.embedders import FaceEmbedder
from cyclegan_age.networks.latent import Encoder, NoiseGenerator
from cyclegan_age.networks.residual import ResidualGenerator
from cyclegan_age.runs import Snapshot

KERNEL = 5  # side in pixels of the encoder's


def build_encoder(config: TrainConfig, net: EncodedConfig) -> Encoder:
    """The encoder that a configuration describes; no activation ends it, since the noise may be normal.

    Raises:
        UserError: pictures that its layers cannot halve so often.
    """
    if config.image_size % 2 ** len(net.e_channels):
        raise UserError(f"--e_channels {net.e_channels}: cannot halve {config.image_size} px so often; give fewer")
    return Encoder(
        image_size=config.image_size, latent=net.z, channels=net.e_channels, kernel=KERNEL, norm=True, bounded=False
    )


class EncoderReader(Reader):
    """Keeps what the encoder tells."""

    def __init__(self, *, encoder: Encoder, net: EncodedConfig) -> None:
        super().__init__()
        self.encoder, self.net = encoder, net
        self.latent = net.z

    def read(self, x: Tensor, about: About) -> Reading:
        return Reading(self.encoder(x))

    def draw(self, count: int, random: torch.Generator) -> Tensor:
        return drawn(self.net, count, random)


def load_networks(snapshot: Snapshot) -> tuple[NoiseGenerator | ResidualGenerator, Encoder]:
    """The generator and the encoder of a snapshot."""
    train, net = snapshot.train, snapshot.net
    assert isinstance(net, EncodedConfig)
    generator, encoder = build_generator(train, net, labels=len(train.ages)), build_encoder(train, net)
    generator.load_state_dict(snapshot.network("generator"))
    encoder.load_state_dict(snapshot.network("encoder"))
    return generator, encoder


def renderer(snapshot: Snapshot) -> Renderer:
    """The generator and the encoder of a snapshot."""
    assert isinstance(snapshot.net, EncodedConfig)
    generator, encoder = load_networks(snapshot)
    reader = EncoderReader(encoder=encoder, net=snapshot.net)
    return Renderer(generator=generator, code=code_of(snapshot.train), reader=reader)


class EncoderCDCGAN(Model):
    """Networks and phases `generator`, `discriminator` and `encoder`; the first two rest in the encoder's stage."""

    columns: Sequence[Column] = ("generated ages",)

    def __init__(
        self,
        *,
        config: TrainConfig,
        net: EncodedConfig,
        embedder: FaceEmbedder | None = None,  # trained; for `lambda_identity`
    ) -> None:
        self.config, self.net = config, net
        self.code = code_of(config)
        ages = len(config.ages)
        self.generator = build_generator(config, net, labels=ages)
        self.discriminator = build_discriminator(config, net, labels=ages, label_at=net.label_at)
        self.encoder = build_encoder(config, net)
        self.networks = {"generator": self.generator, "discriminator": self.discriminator, "encoder": self.encoder}
        self.phases = {name: [name] for name in self.networks}
        self.judge = feature_judge(config, net, heads=ages)
        self.likeness = Likeness(net, self.judge, embedder)
        self.frozen = self.likeness.frozen
        if self.judge:
            self.networks["feature_critic"] = self.judge.critic
            self.phases["discriminator"].append("feature_critic")
        self.rates = {"discriminator": net.d_rate}
        self.shipped = ["generator", "encoder"]
        self.pools = {}
        self.encoding = False  # whether the last step was of the encoder's stage

    def resting(self, progress: float) -> frozenset[str]:
        self.encoding = progress >= self.net.gan_share
        self.columns = ("rebuilt", "ages") if self.encoding else ("generated ages",)
        if self.encoding:
            return frozenset({"generator", "discriminator"})
        pause = rests(self.net, progress * self.config.epochs)
        return frozenset({"encoder", "discriminator"} if pause else {"encoder"})

    def renew(self, before: float, progress: float) -> Sequence[str]:
        if progress >= self.net.gan_share:
            return []
        epochs = self.config.epochs
        anew = renewed(self.net, [self.discriminator], before * epochs, progress * epochs, self.config.seed)
        return ["discriminator"] if anew else []

    def losses(self, batch: Batch, progress: Tensor, resting: frozenset[str]) -> Losses:
        net = self.net
        age_other = self.code.encode(batch.age_target)
        if "encoder" in resting:
            yield from play(
                self.generator,
                self.discriminator,
                net,
                batch.x_source,
                judge=self.judge,
                label_real=self.code.encode(batch.age_source),
                label_fake=age_other,
                label_wrong=wrong_ages(self.code, batch.age_source),
                resting="discriminator" in resting,
            )
            yield "encoder", {}
            return
        yield "generator", {}
        yield "discriminator", {}
        generator, x = self.averaged["generator"], batch.x_source
        z = noise(net, x)
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
        terms |= self.likeness.terms(x, x_same, x_same)
        yield "encoder", terms

    def renderers(self, networks: Mapping[str, nn.Module]) -> Sequence[Renderer]:
        encoder = networks["encoder"]
        assert isinstance(encoder, Encoder)
        reader = EncoderReader(encoder=encoder, net=self.net)
        return [Renderer(generator=networks["generator"], code=self.code, reader=reader)]

    def measures(self, networks: Mapping[str, nn.Module], x: Tensor, age_years: Tensor) -> dict[str, float]:
        """In the first stage the discriminator's error on the faces held out; the second learns from no real face."""
        return {} if self.encoding else held_out(self.discriminator, self.net, x, self.code.encode(age_years))


def build(config: TrainConfig, net: EncodedConfig) -> EncoderCDCGAN:
    """The model with the trained network that its configuration names."""
    embedder = load_embedder(net.embedder, config, config.frame) if net.lambda_identity else None
    return EncoderCDCGAN(config=config, net=net, embedder=embedder)


SYSTEM = System(config=EncoderCDCGANConfig, build=build, data=recipes.age_groups, renderer=renderer)
