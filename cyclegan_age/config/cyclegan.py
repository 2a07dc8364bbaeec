"""The CycleGANs for aligned faces: age-conditional, and between two domains."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclegan_age.config.fields import DATA, LOSS, MODEL, RARE, Option, check, require


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """The ResNet generator and the PatchGAN, for both CycleGANs."""

    ngf: Annotated[int, Option(MODEL, at_least=1)] = 32
    """Channels after the generator's first layer."""
    ndf: Annotated[int, Option(MODEL, at_least=1)] = 64
    """Channels after the discriminator's first layer."""
    blocks: Annotated[int, Option(MODEL, at_least=0)] = 0
    """Residual blocks; 0 takes 6 below 256 px and 9 from there."""
    residual: Annotated[bool, Option(MODEL)] = True
    """The output is the input plus a masked residual, instead of a new picture."""
    deform: Annotated[float, Option(MODEL, at_least=0, below=0.5, needs=("residual",))] = 0.0
    """Largest displacement of the flow that warps the input, as a share of the side; 0 disables warping."""
    chroma: Annotated[float, Option(MODEL, at_least=0, at_most=1)] = 1.0
    """Share of the residual's chroma that is kept, besides its luminance; 0 keeps the input's colours."""
    inner_size: Annotated[int, Option(MODEL, multiple_of=4, at_least=0, needs=("residual",))] = 0
    """Side in pixels at which the generator works; its residual is then upsampled. 0 takes image_size."""
    detail: Annotated[int, Option(MODEL, at_least=0, needs=("residual",))] = 0
    """Channels of a small branch that refines the residual at full resolution; 0 disables it."""
    resize: Annotated[bool, Option(MODEL)] = True
    """Resize-convolutions in the decoder instead of transposed ones."""
    reflect: Annotated[bool, Option(MODEL)] = False
    """Reflection padding instead of zeros."""
    lambda_cycle: Annotated[float, Option(LOSS, at_least=0)] = 5.0
    """Weight of the cycle consistency (L1)."""
    cycle_share: Annotated[float, Option(LOSS, above=0, at_most=1)] = 1.0
    """Share of each batch (at least one picture) in the cycle term. The term's weight is multiplied by it."""
    lambda_identity: Annotated[float, Option(LOSS, at_least=0)] = 10.0
    """Weight of the identity term (L1): a face at its own age stays unchanged."""
    identity_share: Annotated[float, Option(LOSS, above=0, at_most=1)] = 0.25
    """Share of each batch (at least one picture) in the identity term. The term's weight is multiplied by it."""
    pool_size: Annotated[int, Option(LOSS, at_least=0)] = 50
    """Generated pictures in the history buffer; 0 disables it."""
    strength: Annotated[float, Option(RARE, above=0, needs=("residual",))] = 1.0
    """Factor of the flow and the residual, for a trained generator that changes too little or too much."""
    most_change: Annotated[float, Option(RARE, at_least=0, needs=("residual",))] = 0.0
    """Soft limit of the residual of a pixel, where 2 is from black to white; 0 sets no limit."""
    symmetric: Annotated[bool, Option(RARE, needs=("residual",))] = False
    """Average the residual and flow over the picture and its mirror image: fewer artefacts, twice the cost."""

    def __post_init__(self) -> None:
        check(self)

    def taken(self, share: float, count: int) -> int:
        """Number of pictures in a share of a batch of `count`, at least 1."""
        return max(1, round(share * count))

    def block_count(self, image_size: int) -> int:
        """Residual blocks for pictures of this size (Zhu et al. 2017, section 4)."""
        return self.blocks or (6 if image_size < 256 else 9)


@dataclass(frozen=True, kw_only=True)
class CycleGANConfig(GeneratorConfig):
    """Age-conditional CycleGAN: one generator for every age."""

    lambda_age: Annotated[float, Option(LOSS, at_least=0)] = 0.1
    """Weight per year of the age estimators' error beyond age_tolerance; 0 needs no estimators."""
    estimators: Annotated[tuple[str, ...], Option(LOSS)] = ("age_loss_a", "age_loss_b")
    """Age estimators in the loss: shipped names, files or runs."""
    age_tolerance: Annotated[float, Option(LOSS)] = 3.0
    """Error of the estimated age in years up to which the loss is 0."""
    age_share: Annotated[float, Option(LOSS, at_least=0)] = 1.0
    """Clip the age term's gradient on a generated picture to this multiple of the gradient of the adversarial and shift
    terms there; 0 sets no limit."""
    lambda_fooled: Annotated[float, Option(LOSS, at_least=0)] = 0.1
    """Weight of generated faces in the training of the estimators; their label is the source's age."""
    fooled_warmup: Annotated[float, Option(LOSS)] = 0.3
    """Share of the training over which lambda_fooled rises from 0 to its full value."""
    lambda_critic: Annotated[float, Option(LOSS, at_least=0)] = 1.0
    """Weight of an adversarial term on the estimators' features, besides the PatchGAN."""
    lambda_wrong_age: Annotated[float, Option(LOSS, at_least=0)] = 0.5
    """Weight of the discriminator's term on real faces with wrong ages."""
    lambda_outside: Annotated[float, Option(LOSS, at_least=0)] = 0.0
    """Weight of the change (L1) outside the face's ellipse."""
    sexes: Annotated[bool, Option(LOSS)] = False
    """Separate discriminator heads for women and men. The sex comes from the labels or from names like
    age_sex_race_...; faces of unknown sex count half for both."""
    balance: Annotated[bool, Option(RARE)] = False
    """Draw each age group's faces with the same shares of sexes and races, from the labels or names like
    age_sex_race_...; those rare in a group are repeated up to four times."""
    lambda_embedding: Annotated[float, Option(RARE, at_least=0)] = 0.0
    """Weight of the embedding loss: 1 minus the cosine between the embeddings of a face and of the aged face."""
    embedding_tolerance: Annotated[float, Option(RARE, at_least=0, below=2)] = 0.0
    """Embedding loss up to which nothing is penalised."""
    embedder: Annotated[str, Option(RARE)] = "face_embedder"
    """Face embedder of --lambda_embedding: a shipped name, a file, a run, or sface for SFace itself."""
    lambda_features: Annotated[float, Option(RARE, at_least=0)] = 0.0
    """Weight of an adversarial term on the features of an ImageNet network; above 0 it needs `make eval-packages`."""
    lambda_shift: Annotated[float, Option(RARE, at_least=0)] = 0.0
    """Weight of the feature shift term: distance to the source's features plus the mean difference between real faces
    of the two ages."""
    shift_strength: Annotated[float, Option(RARE, above=0)] = 3.0
    """Factor of the difference in --lambda_shift."""

    def check_together(self) -> None:
        """Refuse an age loss without estimators."""
        named = self.estimators or not self.lambda_age
        require(self, "estimators", named, "at least one, where --lambda_age is above 0")


@dataclass(frozen=True, kw_only=True)
class CycleGANPairConfig(GeneratorConfig):
    """Plain CycleGAN between two domains: two generators, two discriminators."""

    group_a: Annotated[str, Option(DATA)] = "20-29"
    """Age group of domain A. If the dataroot holds trainA and trainB, it is only the domain's name (default A)."""
    group_b: Annotated[str, Option(DATA)] = "50-59"
    """Age group of domain B, given likewise."""
    generator: Annotated[Literal["default", "resnet", "unet"], Option(RARE)] = "default"
    """default: the generator of `cyclegan` without ages. resnet (CycleGAN, CUT) and unet (pix2pix) follow the papers'
    programs layer by layer; of the generator flags they use only --ngf, --blocks and the three below."""
    norm: Annotated[Literal["instance", "batch", "none"], Option(RARE, needs=("generator", "resnet", "unet"))] = (
        "instance"
    )
    """resnet, unet: normalisation after convolutions."""
    dropout: Annotated[bool, Option(RARE, needs=("generator", "resnet", "unet"))] = False
    """resnet, unet: dropout of half of the features in the middle during training."""
    antialias: Annotated[Literal["none", "down", "up", "both"], Option(RARE, needs=("generator", "resnet"))] = "none"
    """resnet: where antialiased resampling replaces strided convolutions; CUT uses both."""

    def check_together(self) -> None:
        """Refuse two domains of the same name."""
        require(self, "group_b", self.group_b != self.group_a, "different from --group_a")
