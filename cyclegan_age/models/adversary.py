"""Shared by the models with a binary discriminator: its stabilisation, and the step of a GAN from noise.

A discriminator that wins is held back as in the AI2100 project report: a lower learning rate, pauses, a reset every few
epochs, a head start of the generator, one-sided label smoothing. Two more are of later papers: all inputs of the
discriminator are augmented, and heads on the features of an ImageNet network are a second discriminator (Sauer et al.,
"Projected GANs Converge Faster", NeurIPS 2021).
"""

from collections.abc import Iterable, Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclegan_age.ages import AgeCode, code_of, constant
from cyclegan_age.config import (
    AdversaryConfig,
    CAAEConfig,
    EncodedConfig,
    LatentConfig,
    NoiseConfig,
    PFAGANConfig,
    TrainConfig,
    UserError,
)
from cyclegan_age.devices import best_device, fork_rng
from cyclegan_age.losses import (
    bce_gan,
    bce_generator_loss,
    identity_distance,
    lsgan,
    perceptual,
    r1,
    wrong_age_weights,
)
from cyclegan_age.models.augmentation import diff_augment
from cyclegan_age.models.base import Losses, Model
from cyclegan_age.networks.discriminators import FeatureCritic
from cyclegan_age.networks.efficientnet import LiteFeatures

R1_PART = 4  # R1 is of one picture in so many
FEATURES_SIDE = 128  # side in pixels to which smaller pictures are enlarged for the ImageNet network
WRONG_AGE = 0.5  # weight of the loss of real faces with wrong ages, relative to that of generated faces


class _Resettable(Protocol):
    def reset_parameters(self) -> None: ...


def discriminators_paused(config: TrainConfig, net: AdversaryConfig, progress: float) -> bool:
    """Whether the discriminators are paused when a share of the training is done, 0 to 1."""
    epoch = progress * config.epochs
    since_start = epoch % net.d_reset if net.d_reset else epoch
    pauses = zip(net.d_pause[::2], net.d_pause[1::2], strict=True)
    return since_start < net.head_start or any(first <= epoch < last for first, last in pauses)


def reset_discriminators(
    config: TrainConfig, net: AdversaryConfig, discriminators: Iterable[_Resettable], before: float, progress: float
) -> bool:
    """Initialise the discriminators again if this step is the first after another `d_reset` epochs; whether it did.

    Every process draws the same weights, and the training's sequence of random numbers is not changed.

    Args:
        config: its number of epochs and seed.
        net: its `d_reset`.
        discriminators: the networks to reset.
        before: share of the training that was done before the last step.
        progress: share that is done before this step.
    """
    if not net.d_reset or int(before * config.epochs / net.d_reset) == int(progress * config.epochs / net.d_reset):
        return False
    with fork_rng(best_device()):
        torch.manual_seed(config.seed + int(progress * config.epochs / net.d_reset))
        for discriminator in discriminators:
            discriminator.reset_parameters()
    return True


class FeatureDiscriminator:
    """Discriminator heads on the feature maps of a frozen ImageNet network.

    Pictures below 128 px are enlarged to 128 px for this network, as Sauer et al. enlarge theirs: of 64 px its deepest
    map would have four positions.

    Attributes:
        features: pictures -> feature maps; to be among a model's frozen networks.
        critic: feature maps -> scores; to be trained in the discriminator's phase.
    """

    def __init__(self, config: TrainConfig, *, n_heads: int) -> None:
        if config.image_size % 32:
            raise UserError(f"--lambda_features: takes pictures of a multiple of 32 px, not {config.image_size}")
        self.features = LiteFeatures()
        self.critic = FeatureCritic(map_channels=self.features.map_channels, n_heads=n_heads)

    def generator_loss(self, x_fake: Tensor, label: Tensor | None) -> Tensor:
        """LSGAN loss of the generator, from its pictures (N, 3, S, S) and their target labels (N, K)."""
        self.critic.requires_grad_(False)
        return lsgan(self.critic(self._maps(x_fake)), 1, label)

    def discriminator_losses(
        self,
        x_real: Tensor,
        x_fake: Tensor,
        label_real: Tensor | None = None,
        label_fake: Tensor | None = None,
        label_wrong: Tensor | None = None,  # wrong labels of the real faces, see `wrong_ages`
    ) -> dict[str, Tensor]:
        """LSGAN losses of the heads: two terms, or three with labels."""
        self.critic.requires_grad_(True)
        with torch.no_grad():
            maps = self._maps(torch.cat([x_real, x_fake]))
        real, fake = self.critic(maps).split([len(x_real), len(x_fake)])
        terms = {"features_real": 0.5 * lsgan(real, 1, label_real), "features_fake": 0.5 * lsgan(fake, 0, label_fake)}
        if label_wrong is not None:
            terms["features_wrong_age"] = 0.5 * WRONG_AGE * lsgan(real, 0, label_wrong)
        return terms

    def _maps(self, x: Tensor) -> list[Tensor]:
        if x.shape[2] < FEATURES_SIDE:
            x = F.interpolate(x, size=(FEATURES_SIDE, FEATURES_SIDE), mode="bilinear")
        maps: list[Tensor] = self.features(x)
        return maps


class SimilarityLosses:
    """Perceptual and identity losses between faces and their reconstructions.

    Attributes:
        frozen: the networks in use, by name, to be among a model's frozen ones.
    """

    def __init__(
        self,
        net: CAAEConfig | EncodedConfig,
        feature_discriminator: FeatureDiscriminator | None,
        embedder: nn.Module | None,
    ) -> None:
        self.net = net
        self.features: nn.Module | None = feature_discriminator.features if feature_discriminator else None
        if net.lambda_perceptual and not self.features:
            self.features = LiteFeatures()
        self.embedder = embedder.eval().requires_grad_(False) if embedder else None
        parts: dict[str, nn.Module | None] = {"features": self.features, "embedder": self.embedder}
        self.frozen = {name: part for name, part in parts.items() if part}

    def terms(self, x: Tensor, x_same: Tensor, x_made: Tensor) -> dict[str, Tensor]:
        """Weighted terms; those of weight 0 are left out.

        Args:
            x: (N, 3, S, S), the faces.
            x_same: (N, 3, S, S), their reconstructions at their own ages, for the perceptual loss.
            x_made: (k N, 3, S, S), k renderings of each face, the whole batch k times, for the identity loss.
        """
        terms: dict[str, Tensor] = {}
        if self.net.lambda_perceptual and self.features:
            with torch.no_grad():
                maps = self.features(x)
            terms["perceptual"] = self.net.lambda_perceptual * perceptual(self.features(x_same), maps)
        if self.net.lambda_identity and self.embedder:
            with torch.no_grad():
                identity = self.embedder(x).repeat(len(x_made) // len(x), 1)
            terms["identity"] = self.net.lambda_identity * identity_distance(self.embedder(x_made), identity)
        return terms


def build_feature_discriminator(
    config: TrainConfig, net: LatentConfig | PFAGANConfig, *, n_heads: int
) -> FeatureDiscriminator | None:
    """The feature discriminator that a configuration describes; None with a `lambda_features` of 0.

    Raises:
        UserError: the ImageNet network is not installed, or does not take pictures of this size.
    """
    return FeatureDiscriminator(config, n_heads=n_heads) if net.lambda_features else None


def wrong_ages(code: AgeCode, age_years: Tensor) -> Tensor:
    """Wrong labels (N, K) for faces of ages (N,) in years: see `losses.wrong_age_weights`."""
    return wrong_age_weights(age_years, constant(code.nominal_years, age_years.device))


def discriminator_input(net: LatentConfig, x: Tensor) -> Tensor:
    """Pictures (N, 3, S, S), augmented where the configuration says so."""
    return diff_augment(x) if net.augment else x


class AdversarialModel(Model):
    """Networks and phases `generator` and `discriminator`, the latter with pauses and resets.

    With a `FeatureDiscriminator` its heads, `feature_critic`, are trained in the discriminator's phase.
    """

    def __init__(
        self,
        config: TrainConfig,
        net: AdversaryConfig,
        generator: nn.Module,
        discriminator: _Resettable,
        feature_discriminator: FeatureDiscriminator | None = None,
    ) -> None:
        self.config, self._adversary, self._resettable = config, net, discriminator
        self.feature_discriminator = feature_discriminator
        self.code = code_of(config)
        self.networks = {"generator": generator, "discriminator": cast(nn.Module, discriminator)}
        self.frozen = {}
        self.phases = {"generator": ["generator"], "discriminator": ["discriminator"]}
        if feature_discriminator:
            self.frozen["features"] = feature_discriminator.features
            self.networks["feature_critic"] = feature_discriminator.critic
            self.phases["discriminator"].append("feature_critic")
        self.lr_factors = {"discriminator": net.d_rate}
        self.shipped = ["generator"]
        self.pools = {}

    def paused(self, progress: float) -> frozenset[str]:
        return frozenset({"discriminator"} if discriminators_paused(self.config, self._adversary, progress) else ())

    def reset(self, before: float, progress: float) -> Sequence[str]:
        reset = reset_discriminators(self.config, self._adversary, [self._resettable], before, progress)
        return ["discriminator"] if reset else []


def latents_like(net: NoiseConfig, like: Tensor) -> Tensor:
    """Random latent vectors (N, z), as many as `like` has rows, on its device."""
    shape = (len(like), net.z)
    if net.prior == "normal":
        return torch.randn(shape, device=like.device)
    return torch.rand(shape, device=like.device) * 2 - 1


def sample_latents(net: NoiseConfig, count: int, random: torch.Generator) -> Tensor:
    """Random latent vectors (count, z), drawn by a random generator on the CPU."""
    if net.prior == "normal":
        return torch.randn(count, net.z, generator=random)
    return torch.rand(count, net.z, generator=random) * 2 - 1


class AdversarialLosses:
    """Adversarial terms of generated pictures (N, 3, S, S) with labels (N, K), or without labels."""

    def __init__(
        self, discriminator: nn.Module, net: NoiseConfig, feature_discriminator: FeatureDiscriminator | None
    ) -> None:
        self.discriminator, self.net, self.feature_discriminator = discriminator, net, feature_discriminator

    def generator_terms(self, x_fake: Tensor, label_fake: Tensor | None) -> dict[str, Tensor]:
        """Terms of the generator; `x_fake` carries its gradients."""
        net = self.net
        self.discriminator.requires_grad_(False)
        x_seen = discriminator_input(net, x_fake)
        saturating = net.generator_loss == "saturating"
        terms = {"g_adversarial": bce_generator_loss(self.discriminator(x_seen, label_fake), saturating=saturating)}
        if self.feature_discriminator:
            terms["g_features"] = net.lambda_features * self.feature_discriminator.generator_loss(x_seen, label_fake)
        return terms

    def discriminator_terms(
        self,
        x_real: Tensor,
        x_fake: Tensor,
        label_real: Tensor | None,
        label_fake: Tensor | None,
        label_wrong: Tensor | None,  # wrong labels of the real pictures, see `wrong_ages`
    ) -> dict[str, Tensor]:
        """Terms of the discriminators; the loss is the mean over real and generated pictures."""
        net, discriminator = self.net, self.discriminator
        discriminator.requires_grad_(True)
        x_real, x_fake = discriminator_input(net, x_real), discriminator_input(net, x_fake.detach())
        real = discriminator(x_real, label_real)
        fake = discriminator(x_fake, label_fake)
        terms = {"d_real": 0.5 * bce_gan(real, 1 - net.label_smoothing), "d_fake": 0.5 * bce_gan(fake, 0)}
        if net.lambda_r1:
            part = max(1, len(x_real) // R1_PART)
            x_part = x_real[:part].detach().requires_grad_()
            # Not compiled: compiled networks have no second derivative.
            logits = discriminator.forward(x_part, None if label_real is None else label_real[:part])
            terms["r1"] = net.lambda_r1 * r1(logits, x_part)
        if self.feature_discriminator:
            terms |= self.feature_discriminator.discriminator_losses(
                x_real, x_fake, label_real, label_fake, label_wrong
            )
        return terms


def adversarial_step(
    generator: nn.Module,
    discriminator: nn.Module,
    net: NoiseConfig,
    x_real: Tensor,
    *,
    feature_discriminator: FeatureDiscriminator | None = None,
    label_real: Tensor | None = None,  # (N, K); both or neither
    label_fake: Tensor | None = None,  # of the generated pictures
    label_wrong: Tensor | None = None,  # wrong labels of the real pictures, see `wrong_ages`
    paused: bool = False,  # the discriminator is not trained
) -> Losses:
    """The generator's phase, then the discriminator's, whose loss is the mean over real and generated pictures."""
    adversarial = AdversarialLosses(discriminator, net, feature_discriminator)
    x_fake = generator(latents_like(net, x_real), label_fake)
    yield "generator", adversarial.generator_terms(x_fake, label_fake)
    if paused:
        yield "discriminator", {}
    else:
        yield "discriminator", adversarial.discriminator_terms(x_real, x_fake, label_real, label_fake, label_wrong)


def held_out_loss(
    discriminator: nn.Module, net: NoiseConfig, x: Tensor, label: Tensor | None = None
) -> dict[str, float]:
    """The measure `held_out_d_real`: the loss `d_real` of real faces x (N, 3, H, W) with labels (N, K)."""
    # `forward`: not compiled again for batches of this size.
    logits = discriminator.forward(discriminator_input(net, x), label)
    return {"held_out_d_real": 0.5 * bce_gan(logits, 1 - net.label_smoothing).item()}
