"""What the systems with a real-or-fake discriminator share: its remedies, and the game of a generator from noise.

The remedies keep a discriminator from winning, as the AI2100 project report tells them: a lower learning rate, pauses,
beginning anew every few epochs, a head start of the generator, goals below 1 for real pictures. Two more are of later
papers: all pictures that a discriminator sees are augmented, and heads on the features of an ImageNet network judge
beside it (Sauer et al., "Projected GANs Converge Faster", NeurIPS 2021).
"""

from collections.abc import Iterable, Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from cyclegan_age.ages import AgeCode, code_of, constant
from cyclegan_age.config import (
    AdversaryConfig,
    CAAEConfig,
    EncodedConfig,
    LatentConfig,
    NoiseConfig,
    TrainConfig,
    UserError,
)
from cyclegan_age.devices import best_device, fork_rng
from cyclegan_age.losses import (
    augmented,
    generator_adversarial,
    identity_distance,
    lsgan,
    perceptual,
    r1,
    real_or_fake,
    wrong_age_weights,
)
from cyclegan_age.models.base import Losses, Model
from cyclegan_age.networks.discriminators import FeatureCritic
from cyclegan_age.networks.efficientnet import LiteFeatures
from cyclegan_age.networks.embedders import FaceEmbedder

R1_PART = 4  # R1 is of one picture in so many
WRONG_AGE = 0.5  # weight of showing heads on features real faces at wrong ages, to that of generated ones


class _Starting(Protocol):
    def reset_parameters(self) -> None: ...


def rests(net: AdversaryConfig, epoch: float) -> bool:
    """Whether the discriminators rest after so many epochs."""
    since_start = epoch % net.d_reset if net.d_reset else epoch
    pauses = zip(net.d_pause[::2], net.d_pause[1::2], strict=True)
    return since_start < net.head_start or any(first <= epoch < last for first, last in pauses)


def renewed(net: AdversaryConfig, discriminators: Iterable[_Starting], before: float, epoch: float, seed: int) -> bool:
    """Begin the discriminators anew if this step is the first after another `d_reset` epochs; whether it did.

    Every process draws the same weights, and the training's sequence of random numbers goes on as if nothing was.

    Args:
        net: the remedies.
        discriminators: what to begin anew.
        before: epochs done before the last step.
        epoch: epochs done before this step.
        seed: the training's seed.
    """
    if not net.d_reset or int(before / net.d_reset) == int(epoch / net.d_reset):
        return False
    with fork_rng(best_device()):
        torch.manual_seed(seed + int(epoch / net.d_reset))
        for discriminator in discriminators:
            discriminator.reset_parameters()
    return True


class FeatureJudge:
    """The features of an ImageNet network, which stay as they are, and heads on them that tell real faces from others.

    Attributes:
        features: pictures -> feature maps; to be among a model's frozen networks.
        critic: feature maps -> scores; to be moved in the discriminator's phase.
    """

    def __init__(self, config: TrainConfig, *, heads: int) -> None:
        if config.image_size % 32:
            raise UserError(f"--lambda_features: takes pictures of a multiple of 32 px, not {config.image_size}")
        self.features = LiteFeatures()
        self.critic = FeatureCritic(map_channels=self.features.map_channels, heads=heads)

    def deceived(self, maps: Sequence[Tensor], label: Tensor | None) -> Tensor:
        """What a generator lowers, from the feature maps of its pictures and the labels (N, K) that they are for."""
        self.critic.requires_grad_(False)
        return lsgan(self.critic(maps), 1, label)

    def told(
        self,
        x_real: Tensor,
        x_fake: Tensor,
        label_real: Tensor | None = None,
        label_fake: Tensor | None = None,
        label_wrong: Tensor | None = None,  # what real faces are no examples of, see `wrong_ages`
    ) -> dict[str, Tensor]:
        """What the heads lower, in two parts, or three where there are labels."""
        self.critic.requires_grad_(True)
        with torch.no_grad():
            maps = self.features(torch.cat([x_real, x_fake]))
        real, fake = self.critic(maps).split([len(x_real), len(x_fake)])
        terms = {"features_real": 0.5 * lsgan(real, 1, label_real), "features_fake": 0.5 * lsgan(fake, 0, label_fake)}
        if label_wrong is not None:
            terms["features_wrong_age"] = 0.5 * WRONG_AGE * lsgan(real, 0, label_wrong)
        return terms


class Likeness:
    """Terms that keep what is made of a face's latent vector like the face: perceptual and identity losses.

    Attributes:
        frozen: the networks in use, by name, to be among a model's frozen ones.
    """

    def __init__(
        self, net: CAAEConfig | EncodedConfig, judge: FeatureJudge | None, embedder: FaceEmbedder | None
    ) -> None:
        self.net = net
        self.features: nn.Module | None = judge.features if judge else None
        if net.lambda_perceptual and not self.features:
            self.features = LiteFeatures()
        self.embedder = embedder.eval().requires_grad_(False) if embedder else None
        parts: dict[str, nn.Module | None] = {"features": self.features, "embedder": self.embedder}
        self.frozen = {name: part for name, part in parts.items() if part}

    def terms(self, x: Tensor, x_same: Tensor, x_made: Tensor) -> dict[str, Tensor]:
        """Weighted terms, where they are asked for.

        Args:
            x: (N, 3, S, S), the faces.
            x_same: shaped so, what is made at their own ages; compared by features.
            x_made: (k N, 3, S, S), k renderings of all of them, one after the other; compared by identity.
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


def feature_judge(config: TrainConfig, net: LatentConfig, *, heads: int) -> FeatureJudge | None:
    """What a configuration asks for.

    Raises:
        UserError: the ImageNet network is not installed, or does not take pictures of this size.
    """
    return FeatureJudge(config, heads=heads) if net.lambda_features else None


def wrong_ages(code: AgeCode, age_years: Tensor) -> Tensor:
    """Labels (N, K) of ages that faces of ages (N,) surely do not have: see `losses.wrong_age_weights`."""
    return wrong_age_weights(age_years, constant(code.nominal_years, age_years.device))


def seen(net: LatentConfig, x: Tensor) -> Tensor:
    """Pictures as discriminators see them."""
    return augmented(x) if net.augment else x


class Duel(Model):
    """One generator against one discriminator, with the remedies; networks and phases are called so.

    With a `FeatureJudge` its heads, `feature_critic`, are moved with the discriminator.
    """

    def __init__(
        self,
        config: TrainConfig,
        net: AdversaryConfig,
        generator: nn.Module,
        discriminator: _Starting,
        judge: FeatureJudge | None = None,
    ) -> None:
        self.config, self.remedies, self.beginner, self.judge = config, net, discriminator, judge
        self.code = code_of(config)
        self.networks = {"generator": generator, "discriminator": cast(nn.Module, discriminator)}
        self.frozen = {}
        self.phases = {"generator": ["generator"], "discriminator": ["discriminator"]}
        if judge:
            self.frozen["features"] = judge.features
            self.networks["feature_critic"] = judge.critic
            self.phases["discriminator"].append("feature_critic")
        self.rates = {"discriminator": net.d_rate}
        self.shipped = ["generator"]
        self.pools = {}

    def resting(self, progress: float) -> frozenset[str]:
        return frozenset({"discriminator"} if rests(self.remedies, progress * self.config.epochs) else ())

    def renew(self, before: float, progress: float) -> Sequence[str]:
        epochs = self.config.epochs
        anew = renewed(self.remedies, [self.beginner], before * epochs, progress * epochs, self.config.seed)
        return ["discriminator"] if anew else []


def noise(net: NoiseConfig, like: Tensor) -> Tensor:
    """A latent vector for each row of `like`, on its device: (N, z)."""
    shape = (len(like), net.z)
    if net.prior == "normal":
        return torch.randn(shape, device=like.device)
    return torch.rand(shape, device=like.device) * 2 - 1


def drawn(net: NoiseConfig, count: int, random: torch.Generator) -> Tensor:
    """As many latent vectors, drawn by a generator of random numbers on the CPU: (count, z)."""
    if net.prior == "normal":
        return torch.randn(count, net.z, generator=random)
    return torch.rand(count, net.z, generator=random) * 2 - 1


def play(
    generator: nn.Module,
    discriminator: nn.Module,
    net: NoiseConfig,
    x_real: Tensor,
    *,
    judge: FeatureJudge | None = None,
    label_real: Tensor | None = None,  # (N, K); both or neither
    label_fake: Tensor | None = None,  # what the fakes are made for
    label_wrong: Tensor | None = None,  # what the real ones are no examples of
    resting: bool = False,  # the discriminator does not learn
) -> Losses:
    """One round: the generator's phase, then the discriminator's, whose loss is the mean of its parts."""
    discriminator.requires_grad_(False)
    x_fake = generator(noise(net, x_real), label_fake)
    x_seen = seen(net, x_fake)
    saturating = net.generator_loss == "saturating"
    terms = {"g_adversarial": generator_adversarial(discriminator(x_seen, label_fake), saturating=saturating)}
    if judge:
        terms["g_features"] = net.lambda_features * judge.deceived(judge.features(x_seen), label_fake)
    yield "generator", terms

    discriminator.requires_grad_(True)
    if resting:
        yield "discriminator", {}
        return
    x_real, x_fake = seen(net, x_real), seen(net, x_fake.detach())
    real = discriminator(x_real, label_real)
    fake = discriminator(x_fake, label_fake)
    terms = {"d_real": 0.5 * real_or_fake(real, 1 - net.label_smoothing), "d_fake": 0.5 * real_or_fake(fake, 0)}
    if net.lambda_r1:
        part = max(1, len(x_real) // R1_PART)
        x_part = x_real[:part].detach().requires_grad_()
        # Not compiled: compiled networks have no second derivative.
        logits = discriminator.forward(x_part, None if label_real is None else label_real[:part])
        terms["r1"] = net.lambda_r1 * r1(logits, x_part)
    if judge:
        terms |= judge.told(x_real, x_fake, label_real, label_fake, label_wrong)
    yield "discriminator", terms


def held_out(discriminator: nn.Module, net: NoiseConfig, x: Tensor, label: Tensor | None = None) -> dict[str, float]:
    """The measure `held_out_d_real`: the error of `play` on real faces x (N, 3, H, W) with labels (N, K)."""
    # As it is: not compiled anew for batches of this size.
    logits = discriminator.forward(seen(net, x), label)
    return {"held_out_d_real": 0.5 * real_or_fake(logits, 1 - net.label_smoothing).item()}
