"""Settings shared by models with discriminators, and the progressive face aging GAN."""

from dataclasses import dataclass
from typing import Annotated

from cyclegan_age.config.fields import LOSS, MODEL, OPTIMISATION, RARE, Option, check, require


def _pairs(epochs: tuple[float, ...]) -> bool:
    return len(epochs) % 2 == 0 and list(epochs) == sorted(epochs)


@dataclass(frozen=True, kw_only=True)
class AdversaryConfig:
    """Settings that limit the discriminators' advantage."""

    label_smoothing: Annotated[float, Option(LOSS, at_least=0, below=1)] = 0.0
    """Reduction of the discriminators' target for real pictures below 1 (one-sided label smoothing)."""
    d_rate: Annotated[float, Option(OPTIMISATION, above=0)] = 1.0
    """Learning rate of the discriminators, as a multiple of --lr."""
    d_reset: Annotated[float, Option(RARE, at_least=0)] = 0.0
    """Interval in epochs at which the discriminators are reset to new random weights; 0 never."""
    d_pause: Annotated[
        tuple[float, ...], Option(RARE, valid=_pairs, must_be="pairs of epochs, from and to, rising")
    ] = ()
    """Intervals of epochs in which the discriminators pause, as pairs of start and end."""
    head_start: Annotated[float, Option(RARE, at_least=0)] = 0.0
    """Epochs at the beginning, and after each --d_reset, in which the discriminators pause."""

    def __post_init__(self) -> None:
        check(self)

    def check_together(self) -> None:
        """Refuse a pause that lasts until the next reset."""
        short = not self.d_reset or self.head_start < self.d_reset
        require(self, "head_start", short, "below --d_reset")


@dataclass(frozen=True, kw_only=True)
class LatentConfig:
    """Additions for models with latent vectors; no published form has them."""

    residual: Annotated[bool, Option(MODEL)] = False
    """A residual generator conditioned on latent vector and label, and a discriminator with spectral norm."""
    augment: Annotated[bool, Option(LOSS)] = False
    """Augment all discriminator inputs by translation, colour and cutout (DiffAugment, Zhao et al., NeurIPS 2020)."""
    lambda_features: Annotated[float, Option(LOSS, at_least=0)] = 0.0
    """Weight of an adversarial term on the features of an ImageNet network; above 0 it needs `make eval-packages`."""


@dataclass(frozen=True, kw_only=True)
class PFAGANConfig(AdversaryConfig):
    """Progressive face aging: small generators from each age group to the next, one after the other."""

    ngf: Annotated[int, Option(MODEL, at_least=1)] = 16
    """Channels after each sub-network's first layer."""
    blocks: Annotated[int, Option(MODEL, at_least=1)] = 4
    """Residual blocks of each sub-network that makes faces older."""
    younger_blocks: Annotated[int, Option(MODEL, at_least=0)] = 0
    """Residual blocks of each sub-network that makes faces younger; 0: none of these, as published."""
    ndf: Annotated[int, Option(MODEL, at_least=1)] = 64
    """Channels after the discriminator's first layer."""
    lambda_age: Annotated[float, Option(LOSS, at_least=0)] = 0.002
    """Weight of the age loss, which is in square years; 0 needs no estimators."""
    estimators: Annotated[tuple[str, ...], Option(MODEL)] = ("age_loss_a", "age_loss_b")
    """Age estimators in the loss: shipped names, files or runs."""
    lambda_identity: Annotated[float, Option(LOSS, at_least=0)] = 1.0
    """Weight of the identity consistency."""
    alpha_ssim: Annotated[float, Option(LOSS, at_least=0, at_most=1)] = 0.15
    """Share of 1 - SSIM in it; the rest is the pixel difference."""
    alpha_feature: Annotated[float, Option(LOSS, at_least=0)] = 0.5
    """Weight of the deep features in it, besides those two."""
    lambda_eyes: Annotated[float, Option(LOSS, at_least=0)] = 0.0
    """Weight of the change of colour in the eyes, where the frame has them: without random crops."""
    embedder: Annotated[str, Option(MODEL)] = ""
    """Face embedder for the deep features: a shipped name, file or run; without it the first estimator is used."""
    lambda_features: Annotated[float, Option(LOSS, at_least=0)] = 0.0
    """Weight of an adversarial term on the features of an ImageNet network; above 0 it needs `make eval-packages`."""

    def check_together(self) -> None:
        """Refuse losses without the networks that they need."""
        named = self.estimators or not self.lambda_age
        require(self, "estimators", named, "at least one, where --lambda_age is above 0")
        seen = self.lambda_age > 0 or self.embedder or not (self.alpha_feature and self.lambda_identity)
        require(self, "alpha_feature", seen, "0 without --embedder and --lambda_age")
