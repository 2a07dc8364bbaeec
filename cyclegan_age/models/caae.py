"""Conditional adversarial autoencoder: a face's latent vector and another age's label make the face at that age.

After Zhang et al., "Age Progression/Regression by Conditional Adversarial Autoencoder" (CVPR 2017), in the forms of two
projects: TimeMachiNet (Kim and Deb, 2018; preset `kim`) with ten groups, and AgeProgression (Serry; preset `serry`)
with ten ages times two sexes. Where it departs from them:

- Labels are 0 and 1; Zhang's are -1 and 1. Serry's program joins ten ages and five times both sexes to a label of the
  same length 20, in which a sex is learnt once for all ages; here each age of each sex has an entry of its own.
- What the documents leave open is taken from the projects' programs: the channels, the batch norm of Serry's critics,
  and that 4x4 deconvolutions that keep the size are 3x3. TimeMachiNet's document gives its critic of pictures two
  convolutions and two linear layers, its program four and two; here it is two of 16 and 32 channels and 128 numbers.
- TimeMachiNet's encoder ends without an activation in its program; its document wants latent vectors in [-1, 1], and
  so does the prior, so that both forms end in tanh.
- The generator lowers -log D instead of log(1 - D), as the programs do.
- Batches are balanced over the age groups.
- The preset `default` is stronger: residual networks (see `networks.residual`), reconstructions that are compared by
  features and identity, too, and heads on an ImageNet network's features beside the critic of pictures. With
  `other_ages` each face is made at another age, too, and the critics of pictures see that one: without it they see no
  face at an age other than its own.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclegan_age.ages import AgeCode, code_of
from cyclegan_age.attributes import FaceAttributes
from cyclegan_age.config import CAAEConfig, TrainConfig, UserError
from cyclegan_age.data import recipes
from cyclegan_age.data.batches import Batch
from cyclegan_age.losses import bce_gan, bce_generator_loss, total_variation
from cyclegan_age.models.adversary import (
    SimilarityLosses,
    build_feature_discriminator,
    discriminator_input,
    discriminators_paused,
    reset_discriminators,
    wrong_ages,
)
from cyclegan_age.models.base import Encoding, FaceEncoder, Losses, Model, Renderer, System, age_and_sex
from cyclegan_age.models.pretrained import load_loss_embedder
from cyclegan_age.networks.latent import Decoder, Encoder, LatentCritic, PictureCritic, joint_label
from cyclegan_age.networks.residual import ProjectionDiscriminator, ResidualGenerator
from cyclegan_age.weight_files import Weights


def build_encoder(config: TrainConfig, net: CAAEConfig) -> Encoder:
    """The encoder that a configuration describes."""
    return Encoder(
        image_size=config.image_size,
        latent=net.z,
        channels=net.encoder,
        kernel=net.kernel,
        norm=net.residual,
        bounded=True,
    )


def build_generator(config: TrainConfig, net: CAAEConfig) -> Decoder | ResidualGenerator:
    """The generator that a configuration describes.

    Raises:
        UserError: pictures that the layers cannot halve so often, or a residual generator of another size.
    """
    for flag, layers in (("encoder", net.encoder), ("critic", net.critic)):
        if config.image_size % 2 ** len(layers):
            raise UserError(f"--{flag} {layers}: must be fewer layers: each halves the {config.image_size} px")
    if net.residual:
        if (made := 4 << len(net.decoder)) != config.image_size:
            raise UserError(
                f"--decoder {net.decoder}: with --residual they make {made} px, not {config.image_size}; "
                "give one number for each doubling from 4 px"
            )
        return ResidualGenerator(latent=net.z, ages=len(config.ages), channels=net.decoder, sexes=net.sexes)
    return Decoder(
        image_size=config.image_size,
        latent=net.z,
        ages=len(config.ages),
        sexes=net.sexes,
        channels=net.decoder,
        doublings=len(net.encoder),
        kernel=net.kernel,
    )


def sex_vectors(sex: Tensor) -> Tensor:
    """Sexes (N,), 0 male and 1 female, NaN for both alike -> sex vectors (N, 2), weights of male and female."""
    female = sex.nan_to_num(0.5)
    return torch.stack([1 - female, female], dim=1)


class CAAEEncoder(FaceEncoder):
    """Latent vectors, followed by the sex vector where the labels distinguish sexes.

    An unknown sex is set to the one with the better reconstruction, at the face's own age or, if that is unknown, too,
    at the best one.
    """

    def __init__(self, *, encoder: Encoder, generator: Decoder | ResidualGenerator, code: AgeCode) -> None:
        super().__init__()
        self.encoder, self.generator, self.code = encoder, generator, code
        self.latent_size = generator.latent

    def encode(self, x: Tensor, attributes: Sequence[FaceAttributes]) -> Encoding:
        z = self.encoder(x)
        if not self.generator.sexes:
            return Encoding(z)
        age_years, own_sex = age_and_sex(attributes, x.device)
        errors = []
        for sex in sex_vectors(torch.tensor([0.0, 1.0], device=x.device)):
            latent = torch.cat([z, sex.expand(len(z), -1)], dim=1)
            own = [self.code.encode(age_years.nan_to_num(0.0))]
            every = list(torch.eye(len(self.code), device=x.device)[:, None].expand(-1, len(z), -1))
            each = torch.stack([(self.generator(latent, v) - x).abs().mean(dim=(1, 2, 3)) for v in own + every])
            errors.append(torch.where(age_years.isnan(), each[1:].amin(dim=0), each[0]))
        guess = (errors[1] < errors[0]).float()
        return Encoding(torch.cat([z, sex_vectors(torch.where(own_sex.isnan(), guess, own_sex))], dim=1))

    def sample(self, count: int, random: torch.Generator) -> Tensor:
        z = torch.rand(count, self.latent_size, generator=random) * 2 - 1
        if not self.generator.sexes:
            return z
        return torch.cat([z, sex_vectors(torch.randint(2, (count,), generator=random).float())], dim=1)


def renderer(weights: Weights) -> Renderer:
    """The encoder and the generator of a weights file."""
    train, net = weights.train, weights.net
    assert isinstance(net, CAAEConfig)
    generator = weights.load_into(build_generator(train, net), "generator")
    encoder = weights.load_into(build_encoder(train, net), "encoder")
    return _renderer(code_of(train), {"generator": generator, "encoder": encoder})


def _renderer(code: AgeCode, networks: Mapping[str, nn.Module]) -> Renderer:
    encoder, generator = networks["encoder"], networks["generator"]
    assert isinstance(encoder, Encoder) and isinstance(generator, Decoder | ResidualGenerator)
    face_encoder = CAAEEncoder(encoder=encoder, generator=generator, code=code)
    return Renderer(generator=generator, code=code, encoder=face_encoder)


class CAAE(Model):
    """Networks `encoder`, `generator`, `critic_z`, `critic_image`; phases `autoencoder` and `critics`.

    With sexes a batch's label is the sex of each face: 0 male, 1 female.
    """

    columns = ("rebuilt", "ages")

    def __init__(
        self,
        *,
        config: TrainConfig,
        net: CAAEConfig,
        embedder: nn.Module | None = None,  # trained; for `lambda_identity`
    ) -> None:
        self.config, self.net = config, net
        self.code = code_of(config)
        self.generator, self.encoder = build_generator(config, net), build_encoder(config, net)
        self.critic_z = LatentCritic(latent=net.z, norm=net.norm)
        labels = len(config.ages) * (2 if net.sexes else 1)
        self.critic_image: PictureCritic | ProjectionDiscriminator = (
            ProjectionDiscriminator(image_size=config.image_size, labels=labels, channels=net.critic, slope=0.2)
            if net.residual
            else PictureCritic(
                image_size=config.image_size,
                labels=labels,
                channels=net.critic,
                kernel=net.kernel,
                hidden=net.hidden,
                norm=net.norm,
            )
        )
        self.networks = {
            "encoder": self.encoder,
            "generator": self.generator,
            "critic_z": self.critic_z,
            "critic_image": self.critic_image,
        }
        self.phases = {"autoencoder": ["encoder", "generator"], "critics": ["critic_z", "critic_image"]}
        self.feature_discriminator = build_feature_discriminator(config, net, n_heads=labels)
        self.similarity = SimilarityLosses(net, self.feature_discriminator, embedder)
        self.frozen = self.similarity.frozen
        if self.feature_discriminator:
            self.networks["feature_critic"] = self.feature_discriminator.critic
            self.phases["critics"].append("feature_critic")
        self.lr_factors = {"critics": net.d_rate}
        self.shipped = ["encoder", "generator"]
        self.pools = {}

    def paused(self, progress: float) -> frozenset[str]:
        return frozenset({"critics"} if discriminators_paused(self.config, self.net, progress) else ())

    def reset(self, before: float, progress: float) -> Sequence[str]:
        critics = (self.critic_z, self.critic_image)
        return ["critics"] if reset_discriminators(self.config, self.net, critics, before, progress) else []

    def losses(self, batch: Batch, progress: Tensor, paused: frozenset[str]) -> Losses:
        net, x = self.net, batch.x_source
        age = self.code.encode(batch.age_source)  # (N, K)
        sex = sex_vectors(batch.label_source[:, 0]) if net.sexes else age[:, :0]
        label = joint_label(age, sex) if net.sexes else age

        for critic in (self.critic_z, self.critic_image):
            critic.requires_grad_(False)
        z = self.encoder(x)
        latent, ages, label_made = torch.cat([z, sex], dim=1), age, label
        if net.other_ages:  # the reconstruction comes first, and has no adversarial loss
            age_other = self.code.encode(batch.age_target)
            latent, ages = latent.repeat(2, 1), torch.cat([age, age_other])
            label_made = joint_label(age_other, sex) if net.sexes else age_other
        x_made = self.generator(latent, ages)
        x_same, x_fake = x_made[: len(x)], x_made[-len(x) :]
        x_seen = discriminator_input(net, x_fake)
        distance = F.l1_loss if net.reconstruction == "l1" else F.mse_loss
        terms = {
            "reconstruction": net.lambda_reconstruction * distance(x_same, x),
            "g_z": net.lambda_z * bce_generator_loss(self.critic_z(z)),
            "g_image": net.lambda_image * bce_generator_loss(self.critic_image(x_seen, label_made)),
            "variation": net.lambda_tv * total_variation(x_same),
        }
        if self.feature_discriminator:
            terms["g_features"] = net.lambda_features * self.feature_discriminator.generator_loss(x_seen, label_made)
        terms |= self.similarity.terms(x, x_same, x_made)
        yield "autoencoder", terms

        for critic in (self.critic_z, self.critic_image):
            critic.requires_grad_(True)
        if "critics" in paused:
            yield "critics", {}
            return
        z_prior = torch.rand_like(z) * 2 - 1
        real = 1 - net.label_smoothing
        x_real, x_seen = discriminator_input(net, x), discriminator_input(net, x_fake.detach())
        terms = {
            "d_z_real": bce_gan(self.critic_z(z_prior), real),
            "d_z_fake": bce_gan(self.critic_z(z.detach()), 0),
            "d_image_real": bce_gan(self.critic_image(x_real, label), real),
            "d_image_fake": bce_gan(self.critic_image(x_seen, label_made), 0),
        }
        if self.feature_discriminator:
            wrong = wrong_ages(self.code, batch.age_source)
            wrong = joint_label(wrong, sex) if net.sexes else wrong
            terms |= self.feature_discriminator.discriminator_losses(x_real, x_seen, label, label_made, wrong)
        yield "critics", terms

    def renderers(self, networks: Mapping[str, nn.Module]) -> Sequence[Renderer]:
        return [_renderer(self.code, networks)]

    def measures(self, networks: Mapping[str, nn.Module], x: Tensor, age_years: Tensor) -> dict[str, float]:
        """The reconstruction of the batch held out, as in the loss."""
        distance = F.l1_loss if self.net.reconstruction == "l1" else F.mse_loss
        (renderer,) = self.renderers(networks)
        latent = renderer.encoder.encode(x, [FaceAttributes(years) for years in age_years.tolist()]).latent
        error = distance(renderer.generator(latent, self.code.encode(age_years)), x)
        return {"held_out_reconstruction": self.net.lambda_reconstruction * float(error)}


def build(config: TrainConfig, net: CAAEConfig) -> CAAE:
    """The model with the trained network that its configuration names."""
    embedder = load_loss_embedder(net.embedder, config) if net.lambda_identity else None
    return CAAE(config=config, net=net, embedder=embedder)


SYSTEM = System(config=CAAEConfig, build=build, data=recipes.caae, renderer=renderer)
