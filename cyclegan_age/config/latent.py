"""The models with latent vectors."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclegan_age.config.adversary import AdversaryConfig, LatentConfig
from cyclegan_age.config.fields import LOSS, MODEL, OPTIMISATION, RARE, Option, require


@dataclass(frozen=True, kw_only=True)
class CAAEConfig(LatentConfig, AdversaryConfig):
    """Conditional adversarial autoencoder."""

    z: Annotated[int, Option(MODEL, at_least=1)] = 50
    """Numbers in a latent vector."""
    kernel: Annotated[int, Option(MODEL, choices=(3, 4, 5))] = 5
    """Side of the convolution kernels."""
    encoder: Annotated[tuple[int, ...], Option(MODEL, min_length=1, at_least=1)] = (64, 128, 256, 512, 1024)
    """Channels of the encoder, one per downsampling."""
    decoder: Annotated[tuple[int, ...], Option(MODEL, at_least=1)] = (1024, 512, 256, 128, 64, 32, 16)
    """Channels of the generator's transposed convolutions; those beyond the encoder's number keep the size."""
    critic: Annotated[tuple[int, ...], Option(MODEL, min_length=1, at_least=1)] = (16, 32, 64, 128)
    """Channels of the picture discriminator's convolutions; the label joins after the first."""
    hidden: Annotated[int, Option(MODEL, at_least=1)] = 1024
    """Width between its two linear layers."""
    norm: Annotated[bool, Option(MODEL)] = True
    """Batch norm in both discriminators."""
    reconstruction: Annotated[Literal["l1", "l2"], Option(LOSS)] = "l2"
    """Mean absolute or mean squared difference to the input."""
    lambda_reconstruction: Annotated[float, Option(LOSS, at_least=0)] = 100.0
    """Weight of the reconstruction."""
    lambda_z: Annotated[float, Option(LOSS, at_least=0)] = 1.0
    """Weight of the adversarial term of the latent vectors."""
    lambda_image: Annotated[float, Option(LOSS, at_least=0)] = 1.0
    """Weight of the adversarial term of the pictures."""
    lambda_tv: Annotated[float, Option(LOSS, at_least=0)] = 10.0
    """Weight of the total variation of the reconstruction."""
    lambda_perceptual: Annotated[float, Option(LOSS, at_least=0)] = 0.0
    """Weight of its perceptual distance by an ImageNet network; above 0 it needs `make eval-packages`."""
    lambda_identity: Annotated[float, Option(LOSS, at_least=0)] = 0.0
    """Weight of the identity distance, 1 minus the cosine of the embeddings."""
    embedder: Annotated[str, Option(LOSS)] = "face_embedder"
    """Face embedder in the loss: a shipped name, a file, a run, or sface for SFace itself."""
    sexes: Annotated[bool, Option(RARE)] = False
    """Labels are ages times sexes; the sex comes from the labels or from names like age_sex_race_..."""
    other_ages: Annotated[bool, Option(RARE)] = False
    """Also generate each face at another age; the picture discriminators score it, and the identity term applies to
    it."""

    def check_together(self) -> None:
        """Refuse a generator that is smaller than its encoder."""
        require(self, "decoder", len(self.decoder) >= len(self.encoder), "at least as many numbers as --encoder has")


@dataclass(frozen=True, kw_only=True)
class NoiseFields:
    """A generator that makes pictures from noise, and its discriminator."""

    z: Annotated[int, Option(MODEL, at_least=1)] = 100
    """Numbers in a latent vector."""
    prior: Annotated[Literal["uniform", "normal"], Option(MODEL)] = "uniform"
    """Their distribution: uniform from -1 to 1, or normal."""
    g_channels: Annotated[tuple[int, ...], Option(MODEL, min_length=1, at_least=1)] = (512, 256, 128, 64)
    """Channels of the generator's layers, from 4 pixels a side on; each layer doubles the side."""
    d_channels: Annotated[tuple[int, ...], Option(MODEL, min_length=1, at_least=1)] = (64, 128, 256, 512)
    """Channels of the discriminator's convolutions, each of which halves the side, to 4 or 2 pixels."""
    norm: Annotated[bool, Option(MODEL)] = True
    """Batch norm, except on the generator's last layer and the discriminator's first and last."""
    slope: Annotated[float, Option(MODEL, at_least=0, below=1)] = 0.2
    """Negative slope of the discriminator's leaky ReLU."""
    generator_loss: Annotated[Literal["non_saturating", "saturating"], Option(RARE)] = "non_saturating"
    """The generator's loss: -log D(G(z)), or log(1 - D(G(z)))."""
    lambda_r1: Annotated[float, Option(LOSS, at_least=0, needs=("residual",))] = 0.0
    """Weight of the R1 penalty on the discriminator's gradient at real pictures (Mescheder et al., ICML 2018). Above 0
    it replaces spectral norm, and the discriminator gets the standard deviation over the batch."""


@dataclass(frozen=True, kw_only=True)
class LabelFields:
    """Position of the label in the discriminator of a conditional GAN."""

    label_at: Annotated[int, Option(MODEL, at_least=0)] = 0
    """Convolutions of the discriminator before the label is concatenated; 0 concatenates it to the picture."""

    def check_together(self) -> None:
        """Refuse a label after the last convolution."""
        assert isinstance(self, NoiseFields)
        require(self, "label_at", self.label_at <= len(self.d_channels), "at most the number of --d_channels")


@dataclass(frozen=True, kw_only=True)
class EncoderFields:
    """An encoder that learns the inverse of a generator."""

    e_channels: Annotated[tuple[int, ...], Option(MODEL, min_length=1, at_least=1)] = (64, 128, 256, 512)
    """Channels of the encoder's convolutions, each of which halves the side."""
    e_size: Annotated[int, Option(MODEL, at_least=0)] = 0
    """Side in pixels to which the encoder reduces pictures, a divisor of image_size; 0: it sees them as they are."""
    gan_share: Annotated[float, Option(OPTIMISATION, at_least=0, below=1)] = 0.7
    """Share of the training before the encoder is trained; 0 with --init keeps the initial generator. Only without
    --joint."""
    joint: Annotated[bool, Option(OPTIMISATION)] = False
    """Train generator and encoder together, without stages. The discriminators then also judge real faces that were
    encoded and rendered at other ages."""
    lambda_pixel: Annotated[float, Option(LOSS, at_least=0)] = 0.0
    """Encoder: weight of the mean absolute difference between a real face and its reconstruction."""
    lambda_perceptual: Annotated[float, Option(LOSS, at_least=0)] = 0.0
    """Encoder: weight of their perceptual distance by an ImageNet network; above 0 it needs `make eval-packages`."""
    lambda_identity: Annotated[float, Option(LOSS, at_least=0)] = 0.0
    """Encoder: weight of their identity distance, 1 minus the cosine of the embeddings."""
    embedder: Annotated[str, Option(LOSS, valid=bool, must_be="a face embedder")] = "face_embedder"
    """Face embedder in the loss: a shipped name, a file, a run, or (except for age_cgan) sface for SFace itself."""

    def check_together(self) -> None:
        """Refuse the length of a stage where there are no stages."""
        unused = self.gan_share == EncoderFields.gan_share
        require(self, "gan_share", unused or not self.joint, "used with --no_joint")


@dataclass(frozen=True, kw_only=True)
class GANConfig(NoiseFields, LatentConfig, AdversaryConfig):
    """Plain GAN: faces from noise, without a choice of age."""


@dataclass(frozen=True, kw_only=True)
class CGANConfig(LabelFields, NoiseFields, LatentConfig, AdversaryConfig):
    """Conditional GAN: faces of a chosen age from noise."""


@dataclass(frozen=True, kw_only=True)
class EncoderCDCGANConfig(EncoderFields, LabelFields, NoiseFields, LatentConfig, AdversaryConfig):
    """Conditional DCGAN, and an encoder that learns its inverse from synthetic pairs."""


@dataclass(frozen=True, kw_only=True)
class AgeCGANConfig(EncoderFields, LabelFields, NoiseFields, LatentConfig, AdversaryConfig):
    """Conditional GAN, encoder, and a latent vector optimised for a face's identity."""

    latent_steps: Annotated[int, Option(MODEL, at_least=0)] = 50
    """Steps of the optimisation during rendering."""
    latent_optimizer: Annotated[Literal["adam", "lbfgs"], Option(MODEL)] = "adam"
    """Its optimiser."""
    latent_rate: Annotated[float, Option(MODEL, above=0)] = 0.05
    """Its learning rate; for lbfgs 1 is usual."""


NoiseConfig = GANConfig | CGANConfig | EncoderCDCGANConfig | AgeCGANConfig
"""Models that make pictures from noise."""
EncodedConfig = EncoderCDCGANConfig | AgeCGANConfig
"""Those of them with an encoder."""
