"""Progressive face aging, PFA-GAN: sub-networks from each age group to the next, one after the other.

After Huang et al., "PFA-GAN: Progressive Face Aging with Generative Adversarial Network" (IEEE TIFS 2021), as the
AI2100 project report describes it. Where it departs from them:

- With `younger_blocks` a second chain leads from each group to the one before. The published chain only ages: a target
  below the source's age leaves the picture as it is.
- Training opens gates for whole groups alone. At test time an own age between two anchors opens the first gate in part,
  and such a target the last. The own age is from the file name or else from an estimator.
- The discriminator is this package's PatchGAN, in which each group has a head; theirs joins the group to a feature map.
- Of the two faces of a draw the younger one is aged to the group of the older one. With `younger_blocks` the first face
  is brought to the group of the second. Pairs of one group, which no sub-network acts on, count neither for the
  generator nor as fakes.
- The age loss asks this package's estimators, on random views, or else the generator fools them by patterns that
  no person sees. The group's probability is the sum over its years.
- Deep features are those of a face embedder, or of the first age estimator, at unit length, instead of VGG-Face's.
- With `lambda_eyes` the eyes keep their colour, or else they turn black at 10.
- With `lambda_features` heads on an ImageNet network's features are a second discriminator.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclegan_age.ages import AgeCode, code_of, constant, one_hot
from cyclegan_age.attributes import FaceAttributes
from cyclegan_age.config import PFAGANConfig, TrainConfig
from cyclegan_age.data import recipes
from cyclegan_age.data.batches import Batch
from cyclegan_age.faces.frames import Frame
from cyclegan_age.losses import dissimilarity, eye_change, feature_distance, group_age, lsgan
from cyclegan_age.models.adversary import AdversarialModel, build_feature_discriminator, wrong_ages
from cyclegan_age.models.augmentation import random_view
from cyclegan_age.models.base import Encoding, FaceEncoder, Losses, Renderer, System, age_and_sex
from cyclegan_age.models.pretrained import load_embedder, load_estimator
from cyclegan_age.networks.blocks import crop_input
from cyclegan_age.networks.discriminators import PatchDiscriminator
from cyclegan_age.networks.embedders import FaceEmbedder
from cyclegan_age.networks.estimators import MAX_AGE_YEARS, AgeEstimator, expected_age
from cyclegan_age.networks.progressive import ProgressiveGenerator, place, with_place
from cyclegan_age.weight_files import Weights


def build_generator(config: TrainConfig, net: PFAGANConfig) -> ProgressiveGenerator:
    """The generator that a configuration describes."""
    return ProgressiveGenerator(
        groups=len(config.ages), ngf=net.ngf, blocks=net.blocks, younger_blocks=net.younger_blocks
    )


def group_of(code: AgeCode, age_years: Tensor) -> Tensor:
    """Ages (N,) in years -> numbers (N,) of their groups, int64; an age outside all of them is in the nearest one."""
    return (place(code.encode(age_years)) + 0.5).floor().long()


class PlaceEncoder(FaceEncoder):
    """Pictures together with their places among the age groups.

    An unknown age is estimated; without an estimator the place is the first group.
    """

    def __init__(self, *, code: AgeCode, estimator: AgeEstimator | None = None) -> None:
        super().__init__()
        self.code = code
        self.estimator = estimator

    def encode(self, x: Tensor, attributes: Sequence[FaceAttributes]) -> Encoding:
        own, _ = age_and_sex(attributes, x.device)
        guess = expected_age(self.estimator(x)) if self.estimator else torch.zeros_like(own)
        age_years = torch.where(own.isnan(), guess, own)
        return Encoding(with_place(x, place(self.code.encode(age_years))))


def renderer(weights: Weights) -> Renderer:
    """The generator of a weights file, with an estimator for the ages of faces that are not known."""
    estimator = load_estimator("age_loss_a", weights.train, weights.train.frame)
    assert isinstance(weights.net, PFAGANConfig)
    generator = weights.load_into(build_generator(weights.train, weights.net), "generator")
    code = code_of(weights.train)
    return Renderer(generator=generator, code=code, encoder=PlaceEncoder(code=code, estimator=estimator))


class LossNetworks(nn.Module):
    """Frozen networks of the generator's losses: age estimators, and an extractor of face features."""

    def __init__(
        self,
        *,
        estimators: Sequence[AgeEstimator],  # trained
        embedder: FaceEmbedder | None,  # trained; without it the features are the first estimator's
    ) -> None:
        super().__init__()
        self.estimators = nn.ModuleList(estimators)
        self.trunk: nn.Module | None = None
        self.window: Sequence[float] = ()
        if embedder is not None:
            self.trunk = embedder.trunk()
            self.size, self.window = embedder.input_size, embedder.window
        elif estimators:
            self.trunk = estimators[0].first_half()
            self.size, self.window = estimators[0].input_size, estimators[0].window
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor, x_seen: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """Faces, and views of them for the estimators, (N, 3, H, W) in [-1, 1] -> logits (N, 101), maps (N, C, h, w).

        There are as many logits as estimators. The maps are the embedder's last ones, or those half the way through the
        first estimator, where texture and parts are seen and not yet age; None without either network.
        """
        maps = None
        if self.trunk is not None:
            maps = self.trunk(crop_input(x, self.window, self.size))
        return [estimator(x_seen) for estimator in self.estimators], maps


class PFAGAN(AdversarialModel):
    """Networks and phases `generator` and `discriminator`; the loss networks are frozen."""

    columns = ("ages",)

    def __init__(self, *, config: TrainConfig, net: PFAGANConfig, loss_networks: LossNetworks) -> None:
        self.net = net
        self.eyes = Frame.of(config.frame).points[:2]
        self.generator = build_generator(config, net)
        self.discriminator = PatchDiscriminator(n_heads=len(config.ages), ndf=net.ndf)
        self.loss_networks = loss_networks
        features = build_feature_discriminator(config, net, n_heads=len(config.ages))
        super().__init__(config, net, self.generator, self.discriminator, features)
        self.frozen["loss_networks"] = loss_networks

    def losses(self, batch: Batch, progress: Tensor, paused: frozenset[str]) -> Losses:
        net, code = self.net, self.code
        x_source, x_real, age_source, age_real = batch.x_source, batch.x_target, batch.age_source, batch.age_target
        if not net.younger_blocks:
            first = (age_source <= age_real)[:, None, None, None]
            x_source, x_real = torch.where(first, x_source, x_real), torch.where(first, x_real, x_source)
            age_source, age_real = torch.minimum(age_source, age_real), torch.maximum(age_source, age_real)
        g_source, g_target = group_of(code, age_source), group_of(code, age_real)  # (N,)
        aged = (g_target != g_source).float()
        v_target = one_hot(g_target, len(code))  # (N, K)

        self.discriminator.requires_grad_(False)
        x_fake = self.generator(with_place(x_source, g_source), v_target)
        v_fake = v_target * aged[:, None]
        terms = {"g_adversarial": lsgan(self.discriminator(x_fake), 1, v_fake)}  # equation 4
        if self.feature_discriminator:
            terms["g_features"] = net.lambda_features * self.feature_discriminator.generator_loss(x_fake, v_fake)
        x_seen = random_view(x_fake)
        logits, features = self.loss_networks(torch.cat([x_fake, x_source]), x_seen)
        if net.lambda_age and logits:
            groups = group_of(code, torch.arange(MAX_AGE_YEARS + 1, device=x_fake.device))  # of each year
            nominal = constant(code.nominal_years, x_fake.device)
            errors = [group_age(one, g_target, groups, nominal, aged) for one in logits]
            terms["g_age"] = net.lambda_age * torch.stack(errors).mean()
        if net.lambda_identity:  # equations 6 to 9
            terms["pixel"] = net.lambda_identity * (1 - net.alpha_ssim) * F.l1_loss(x_fake, x_source)
            terms["ssim"] = net.lambda_identity * net.alpha_ssim * dissimilarity(x_fake, x_source)
            if features is not None and net.alpha_feature:
                terms["feature"] = net.lambda_identity * net.alpha_feature * feature_distance(*features.chunk(2))
        if net.lambda_eyes:
            terms["eyes"] = net.lambda_eyes * eye_change(x_source, x_fake, self.eyes, patch=0)
        yield "generator", terms

        self.discriminator.requires_grad_(True)
        if "discriminator" in paused:
            yield "discriminator", {}
            return
        real, fake = self.discriminator(torch.cat([x_real, x_fake.detach()])).chunk(2)
        d_real = 0.5 * lsgan(real, 1 - net.label_smoothing, v_target)
        terms = {"d_real": d_real, "d_fake": 0.5 * lsgan(fake, 0, v_fake)}
        if self.feature_discriminator:
            wrong = wrong_ages(code, age_real)
            terms |= self.feature_discriminator.discriminator_losses(x_real, x_fake.detach(), v_target, v_fake, wrong)
        yield "discriminator", terms

    def renderers(self, networks: Mapping[str, nn.Module]) -> Sequence[Renderer]:
        return [Renderer(generator=networks["generator"], code=self.code, encoder=PlaceEncoder(code=self.code))]

    def measures(self, networks: Mapping[str, nn.Module], x: Tensor, age_years: Tensor) -> dict[str, float]:
        """The discriminator's error on the real faces held out."""
        own = one_hot(group_of(self.code, age_years), len(self.code))
        scores = self.discriminator.forward(x)  # `forward`: not compiled again for batches of this size
        return {"held_out_d_real": 0.5 * lsgan(scores, 1 - self.net.label_smoothing, own).item()}


def build(config: TrainConfig, net: PFAGANConfig) -> PFAGAN:
    """The model with the trained networks that its configuration names."""
    estimators = [load_estimator(w, config, config.frame) for w in net.estimators] if net.lambda_age else []
    embedder = load_embedder(net.embedder, config, config.frame) if net.embedder else None
    return PFAGAN(config=config, net=net, loss_networks=LossNetworks(estimators=estimators, embedder=embedder))


SYSTEM = System(config=PFAGANConfig, build=build, data=recipes.age_groups, renderer=renderer)
