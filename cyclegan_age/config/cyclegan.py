"""The CycleGANs for aligned faces, with ages and between two domains."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclegan_age.config.fields import DATA, LOSS, MODEL, RARE, Option, check, require


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """The ResNet generator and the PatchGAN, for the age-conditional and the two-domain CycleGAN alike."""

    ngf: Annotated[int, Option(MODEL, at_least=1)] = 32
    """Channels after the generator's first layer."""
    ndf: Annotated[int, Option(MODEL, at_least=1)] = 64
    """Channels after the discriminator's first layer."""
    blocks: Annotated[int, Option(MODEL, at_least=0)] = 0
    """Residual blocks; 0 takes 6 below 256 px and 9 from there."""
    residual: Annotated[bool, Option(MODEL)] = True
    """The output is the input plus a masked change, instead of a picture of its own."""
    deform: Annotated[float, Option(MODEL, at_least=0, below=0.5, needs=("residual",))] = 0.0
    """Largest shift, as a share of the side, by which the residual output may bend the input; 0 leaves its shape."""
    chroma: Annotated[float, Option(MODEL, at_least=0, at_most=1)] = 1.0
    """Share of the residual change's colour that is let through, beside its light and dark; 0 changes no colours."""
    inner_size: Annotated[int, Option(MODEL, multiple_of=4, at_least=0, needs=("residual",))] = 0
    """Side in pixels at which the generator works inside, its change then being enlarged; 0 takes image_size."""
    detail: Annotated[int, Option(MODEL, at_least=0, needs=("residual",))] = 0
    """Channels of a small branch that refines the change at the picture's whole size; 0 has none."""
    resize: Annotated[bool, Option(MODEL)] = True
    """Resize-convolutions in the decoder instead of fractionally-strided ones."""
    reflect: Annotated[bool, Option(MODEL)] = False
    """Reflection padding instead of zeros."""
    lambda_cycle: Annotated[float, Option(LOSS, at_least=0)] = 5.0
    """Weight of the cycle consistency (L1)."""
    cycle_share: Annotated[float, Option(LOSS, above=0, at_most=1)] = 1.0
    """Share of each batch (at least one picture) that the cycle term sees; its weight is multiplied by that, too."""
    lambda_identity: Annotated[float, Option(LOSS, at_least=0)] = 10.0
    """Weight of the identity term (L1): a face at its own age stays as it is."""
    identity_share: Annotated[float, Option(LOSS, above=0, at_most=1)] = 0.25
    """Share of each batch (at least one picture) that the identity term sees; its weight is multiplied by that, too."""
    pool_size: Annotated[int, Option(LOSS, at_least=0)] = 50
    """Generated pictures that the history buffer keeps; 0 turns it off."""
    strength: Annotated[float, Option(RARE, above=0, needs=("residual",))] = 1.0
    """What bending and change are multiplied by; for a trained generator that does too little, or too much."""
    most_change: Annotated[float, Option(RARE, at_least=0, needs=("residual",))] = 0.0
    """What the change of a pixel comes near to at most, where 2 is from black to white; 0 sets no limit."""
    most_darkening: Annotated[tuple[float, ...], Option(RARE, above=0, needs=("residual",))] = ()
    """What a pixel becomes darker by at most, of the same 2, so that no strokes and eyes turn black: one limit for all
    ages, or one for each of --ages; none sets no limit."""
    symmetric: Annotated[bool, Option(RARE, needs=("residual",))] = False
    """Average the residual output over the picture and its mirror image: fewer faults, twice the work."""

    def __post_init__(self) -> None:
        check(self)

    def taken(self, share: float, count: int) -> int:
        """Pictures out of so many that a share of a batch is."""
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
    """Years of estimated error that cost nothing."""
    age_share: Annotated[float, Option(LOSS, at_least=0)] = 1.0
    """Longest gradient of the age term on a generated picture, as a share of realism's; 0 sets no limit."""
    lambda_fooled: Annotated[float, Option(LOSS, at_least=0)] = 0.1
    """Weight of fakes, as of their source's age, in the estimators' training along."""
    fooled_warmup: Annotated[float, Option(LOSS)] = 0.3
    """Share of the training over which lambda_fooled rises from 0 to its whole."""
    lambda_critic: Annotated[float, Option(LOSS, at_least=0)] = 1.0
    """Weight of telling real from generated faces by the estimators' features, beside the PatchGAN."""
    lambda_wrong_age: Annotated[float, Option(LOSS, at_least=0)] = 0.5
    """Weight of the term that shows the discriminator real faces at wrong ages."""
    lambda_outside: Annotated[float, Option(LOSS, at_least=0)] = 0.0
    """Weight of the change (L1) outside the face's ellipse."""
    sexes: Annotated[bool, Option(LOSS)] = False
    """Judge women and men apart; the sex is read from names like age_sex_race_..., and faces without one count half."""
    balance: Annotated[bool, Option(RARE)] = False
    """Draw each age group's faces with the same shares of sexes and races, read from names like age_sex_race_...; those
    rare in a group are repeated up to four times."""
    lambda_embedding: Annotated[float, Option(RARE, at_least=0)] = 0.0
    """Weight of looking like another person: 1 minus the cosine between the embeddings of a face and of it aged."""
    embedding_tolerance: Annotated[float, Option(RARE, at_least=0, below=2)] = 0.0
    """How much of that costs nothing."""
    embedder: Annotated[str, Option(RARE)] = "face_embedder"
    """Face embedder for that: a shipped name, a file or a run."""
    lambda_features: Annotated[float, Option(RARE, at_least=0)] = 0.0
    """Weight of telling real from generated faces by the features of an ImageNet network, too; anything but 0 needs
    `make eval-packages`."""
    lambda_shift: Annotated[float, Option(RARE, at_least=0)] = 0.0
    """Weight of the distance to a face's features moved on by what real faces of the two ages differ in on average."""
    shift_strength: Annotated[float, Option(RARE, above=0)] = 3.0
    """How many times that difference they are moved on by."""

    def check_together(self) -> None:
        """Refuse an age loss without estimators."""
        named = self.estimators or not self.lambda_age
        require(self, "estimators", named, "at least one, where --lambda_age is above 0")


@dataclass(frozen=True, kw_only=True)
class CycleGANPairConfig(GeneratorConfig):
    """Plain CycleGAN between two domains: two generators, two discriminators."""

    group_a: Annotated[str, Option(DATA)] = "20-29"
    """Age group of domain A. Where the dataroot holds trainA and trainB it is only its name, and A if not given."""
    group_b: Annotated[str, Option(DATA)] = "50-59"
    """The same of domain B."""
    generator: Annotated[Literal["default", "resnet", "unet"], Option(RARE)] = "default"
    """default is that of `cyclegan` without ages; resnet (of CycleGAN and CUT) and unet (of pix2pix) are layer by layer
    those of the papers' programs, and of the flags on generators take --ngf, --blocks and the three below alone."""
    norm: Annotated[Literal["instance", "batch", "none"], Option(RARE, needs=("generator", "resnet", "unet"))] = (
        "instance"
    )
    """resnet, unet: what stands behind convolutions."""
    dropout: Annotated[bool, Option(RARE, needs=("generator", "resnet", "unet"))] = False
    """resnet, unet: leave out half of the features in the middle while it learns."""
    antialias: Annotated[Literal["none", "down", "up", "both"], Option(RARE, needs=("generator", "resnet"))] = "none"
    """resnet: where convolutions with a blurring resize stand instead of strided ones; CUT has both."""

    def check_together(self) -> None:
        """Refuse two domains of one name."""
        require(self, "group_b", self.group_b != self.group_a, "another name than that of --group_a")
