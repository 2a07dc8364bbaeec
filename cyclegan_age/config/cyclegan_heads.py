"""The CycleGAN for whole heads."""

from dataclasses import dataclass
from typing import Annotated

from cyclegan_age.config.fields import LOSS, MODEL, OPTIMISATION, Option, check, require


@dataclass(frozen=True, kw_only=True)
class CycleGANHeadsConfig:
    """Age-conditional CycleGAN for whole heads in FFHQ's frame: hair, shape and skin, region by region."""

    ngf: Annotated[int, Option(MODEL, at_least=1)] = 32
    """Channels after the generator's first layer."""
    blocks: Annotated[int, Option(MODEL, at_least=1)] = 6
    """Residual blocks of its bottleneck."""
    deform: Annotated[float, Option(MODEL, at_least=0, below=0.5)] = 0.06
    """Largest shift, as a share of the side, by which the head's shape changes; 0 leaves it."""
    detail: Annotated[int, Option(MODEL, at_least=0)] = 24
    """Channels of the generator's branch at the picture's whole size, the rest working at half of it; 0 has none."""
    ndf: Annotated[int, Option(MODEL, at_least=1)] = 64
    """Channels after the first layer of the discriminators."""
    d_rate: Annotated[float, Option(OPTIMISATION, above=0)] = 1.5
    """Learning rate of the discriminators, as a multiple of --lr."""
    pool_size: Annotated[int, Option(LOSS, at_least=0)] = 64
    """Generated pictures that the history buffer keeps; 0 turns it off."""
    parser: Annotated[str, Option(MODEL)] = "face_parser"
    """Face parser: a shipped name, a file or a run."""
    embedder: Annotated[str, Option(MODEL)] = "face_embedder"
    """Face embedder: a shipped name, a file or a run."""
    estimators: Annotated[tuple[str, ...], Option(MODEL)] = ("age_loss_a", "age_loss_b")
    """Age estimators in the loss: shipped names, files or runs."""
    lambda_adversarial: Annotated[float, Option(LOSS, at_least=0)] = 1.5
    """Weight of the two PatchGANs."""
    lambda_features: Annotated[float, Option(LOSS, at_least=0)] = 2.0
    """Weight of the critic on an ImageNet network's features."""
    lambda_wrong_age: Annotated[float, Option(LOSS, at_least=0)] = 0.5
    """Weight of the term that shows the discriminators real heads at wrong ages."""
    lambda_shift: Annotated[float, Option(LOSS, at_least=0)] = 2.5
    """Weight of the distance to a head's features moved on by what real heads of the two ages differ in on average."""
    shift_strength: Annotated[tuple[float, ...], Option(LOSS, length=3, at_least=0)] = (2.5, 4.0, 4.0)
    """How many times that difference hair, face and neck are moved on by."""
    youth: Annotated[float, Option(LOSS, at_least=0)] = 0.5
    """What that is more for face and neck at ages under 25 years, as a share that rises down to 10."""
    hair_ahead: Annotated[float, Option(LOSS, at_least=0)] = 8.0
    """Years by which hair is taken to be older than its head from 50 on, since many of the real heads are dyed."""
    realism_share: Annotated[float, Option(LOSS, at_least=0)] = 1.0
    """Longest gradient of the discriminators on a generated head, as a share of the shift's."""
    lambda_age: Annotated[float, Option(LOSS, at_least=0)] = 0.05
    """Weight per year of the age estimators' error beyond age_tolerance; 0 needs no estimators."""
    age_tolerance: Annotated[float, Option(LOSS)] = 3.0
    """Years of estimated error that cost nothing."""
    age_share: Annotated[float, Option(LOSS, at_least=0)] = 1.0
    """Longest gradient of the age term on a generated head, as a share of the shift's."""
    lambda_embedding: Annotated[float, Option(LOSS, at_least=0)] = 2.0
    """Weight of looking like another person: 1 minus the cosine between the embeddings of a face and of it aged."""
    embedding_tolerance: Annotated[float, Option(LOSS, at_least=0, below=2)] = 0.3
    """How much of that costs nothing."""
    lambda_outside: Annotated[float, Option(LOSS, at_least=0)] = 2.0
    """Weight of the change (L1) outside the head."""
    lambda_eyes: Annotated[float, Option(LOSS, at_least=0)] = 1.0
    """Weight of the change of colour in the eyes."""
    lambda_cycle: Annotated[float, Option(LOSS, at_least=0)] = 1.5
    """Weight of the cycle consistency (L1), on half of the batch."""
    lambda_identity: Annotated[float, Option(LOSS, at_least=0)] = 1.5
    """Weight of the identity term (L1), on the other half: a head at its own age stays as it is."""
    warmup: Annotated[float, Option(OPTIMISATION, at_least=0)] = 0.1
    """Share of the training over which estimators, cycle and identity rise to their weights."""

    def __post_init__(self) -> None:
        check(self)

    def check_together(self) -> None:
        """Refuse an age loss without estimators."""
        named = self.estimators or not self.lambda_age
        require(self, "estimators", named, "at least one, where --lambda_age is above 0")
