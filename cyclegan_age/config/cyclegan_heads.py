"""The CycleGAN for whole heads."""

from dataclasses import dataclass
from typing import Annotated

from cyclegan_age.config.fields import LOSS, MODEL, OPTIMISATION, RARE, Option, check, require


@dataclass(frozen=True, kw_only=True)
class CycleGANHeadsConfig:
    """Age-conditional CycleGAN for whole heads in FFHQ's frame: hair, shape and skin, region by region."""

    ngf: Annotated[int, Option(MODEL, at_least=1)] = 32
    """Channels after the generator's first layer."""
    blocks: Annotated[int, Option(MODEL, at_least=1)] = 6
    """Residual blocks of its bottleneck."""
    deform: Annotated[float, Option(MODEL, at_least=0, below=0.5)] = 0.06
    """Largest displacement of the flow that changes the head's shape, as a share of the side; 0 disables warping."""
    detail: Annotated[int, Option(MODEL, at_least=0)] = 24
    """Channels of the full-resolution branch; the rest of the generator works at half of it. 0 disables the branch."""
    strength: Annotated[tuple[float, ...], Option(RARE, above=0, min_length=1)] = (1.0,)
    """Factor of the flow and the residual, or one for each of --ages, for a trained generator that changes too little
    or too much."""
    most_chroma: Annotated[float, Option(MODEL, at_least=0)] = 0.0
    """Soft limit of the chroma that a pixel gains, of a range of 2; colours fade freely. Where a pixel gets darker, its
    chroma and the limit shrink in proportion. 0 sets no limit."""
    most_shade: Annotated[float, Option(MODEL, at_least=0)] = 0.0
    """Up to 20 years: limit of how much a face changes its colour over areas larger than a wrinkle, as root mean square
    of a range of 2; in proportion less on dark faces. It holds for results, not in training. 0 sets no limit."""
    head_alone: Annotated[bool, Option(MODEL)] = False
    """Keep the input's colours outside face, hair and neck, as found by face_parser. It holds for results, not in
    training."""
    smooth_eyes: Annotated[bool, Option(MODEL)] = False
    """Smooth the residual in the eyes and let it change brightness alone, against patterns and stains. It holds for
    results, not in training."""
    two_steps: Annotated[bool, Option(MODEL)] = False
    """Up to 20 years: make a head young in two steps, since two small changes damage a face less than a large one. It
    holds for results, not in training."""
    ndf: Annotated[int, Option(MODEL, at_least=1)] = 64
    """Channels after the first layer of the discriminators."""
    d_rate: Annotated[float, Option(OPTIMISATION, above=0)] = 1.5
    """Learning rate of the discriminators, as a multiple of --lr."""
    pool_size: Annotated[int, Option(LOSS, at_least=0)] = 64
    """Generated pictures in the history buffer; 0 disables it."""
    parser: Annotated[str, Option(MODEL)] = "face_parser"
    """Face parser: a shipped name, a file or a run."""
    embedder: Annotated[str, Option(MODEL)] = "face_embedder"
    """Face embedder: a shipped name, a file or a run."""
    estimators: Annotated[tuple[str, ...], Option(MODEL)] = ("age_loss_a", "age_loss_b")
    """Age estimators in the loss: shipped names, files or runs."""
    lambda_adversarial: Annotated[float, Option(LOSS, at_least=0)] = 1.5
    """Weight of the adversarial terms of the two PatchGANs."""
    lambda_features: Annotated[float, Option(LOSS, at_least=0)] = 2.0
    """Weight of the adversarial term on an ImageNet network's features."""
    lambda_wrong_age: Annotated[float, Option(LOSS, at_least=0)] = 0.5
    """Weight of the discriminators' term on real heads with wrong ages."""
    lambda_shift: Annotated[float, Option(LOSS, at_least=0)] = 2.5
    """Weight of the feature shift term: distance to the source's features plus the mean difference between real heads
    of the two ages."""
    shift_strength: Annotated[tuple[float, ...], Option(LOSS, length=3, at_least=0)] = (2.5, 4.0, 4.0)
    """Factors of that difference for hair, face and neck."""
    youth: Annotated[float, Option(LOSS, at_least=0)] = 0.5
    """Relative increase of that factor for face and neck below 25 years, rising linearly to its full value at 10."""
    hair_ahead: Annotated[float, Option(LOSS, at_least=0)] = 8.0
    """Years added to the age of the hair, rising from 0 at 40 to all at 50: many older heads have dyed hair."""
    realism_share: Annotated[float, Option(LOSS, at_least=0)] = 1.0
    """Largest gradient norm of the adversarial terms on a generated head, relative to the shift term's."""
    lambda_age: Annotated[float, Option(LOSS, at_least=0)] = 0.05
    """Weight per year of the age estimators' error beyond age_tolerance; 0 needs no estimators."""
    age_tolerance: Annotated[float, Option(LOSS)] = 3.0
    """Error of the estimated age in years up to which the loss is 0."""
    age_share: Annotated[float, Option(LOSS, at_least=0)] = 1.0
    """Clip the age term's gradient on a generated head to this multiple of the shift term's."""
    lambda_embedding: Annotated[float, Option(LOSS, at_least=0)] = 2.0
    """Weight of the embedding loss: 1 minus the cosine between the embeddings of a face and of the aged face."""
    embedding_tolerance: Annotated[float, Option(LOSS, at_least=0, below=2)] = 0.3
    """Embedding loss up to which nothing is penalised."""
    lambda_outside: Annotated[float, Option(LOSS, at_least=0)] = 2.0
    """Weight of the change (L1) outside the head."""
    lambda_eyes: Annotated[float, Option(LOSS, at_least=0)] = 1.0
    """Weight of the change of colour in the eyes."""
    lambda_cycle: Annotated[float, Option(LOSS, at_least=0)] = 1.5
    """Weight of the cycle consistency (L1), on half of the batch."""
    lambda_identity: Annotated[float, Option(LOSS, at_least=0)] = 1.5
    """Weight of the identity term (L1), on the other half: a head at its own age stays unchanged."""
    warmup: Annotated[float, Option(OPTIMISATION, at_least=0)] = 0.1
    """Share of the training over which the age, cycle and identity terms rise to their weights."""

    def __post_init__(self) -> None:
        check(self)

    def check_together(self) -> None:
        """Refuse an age loss without estimators."""
        named = self.estimators or not self.lambda_age
        require(self, "estimators", named, "at least one, where --lambda_age is above 0")
