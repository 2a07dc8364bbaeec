"""Age-conditional CycleGAN for whole heads: hair, head shape and skin, in FFHQ's frame.

The objective of `cyclegan`, region by region: a face parser separates hair, face and neck, no
discriminator sees the background, and features of a head are moved on by what age moves in each region.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from cyclegan_age.ages import code_of, constant
from cyclegan_age.config import CycleGANHeadsConfig, TrainConfig, UserError
from cyclegan_age.data import recipes
from cyclegan_age.data.batches import Batch
from cyclegan_age.data.face_data import FaceData
from cyclegan_age.faces.frames import FRAMES, Frame, window
from cyclegan_age.losses import (
    age_hinge,
    clip_gradients,
    eye_change,
    lsgan,
    norms,
    with_gradient,
    wrong_age_weights,
)
from cyclegan_age.models.augmentation import diff_augment, random_view
from cyclegan_age.models.base import Losses, Model, Renderer, System
from cyclegan_age.models.cyclegan import age_calibration, head_weights, map_shapes
from cyclegan_age.models.pool import ImagePool
from cyclegan_age.models.pretrained import load_embedder, load_estimator, load_parser
from cyclegan_age.networks.adain import AdaINGenerator
from cyclegan_age.networks.discriminators import FeatureCritic, PatchDiscriminator
from cyclegan_age.networks.efficientnet import LiteFeatures
from cyclegan_age.networks.embedders import FaceEmbedder
from cyclegan_age.networks.estimators import AgeEstimator
from cyclegan_age.networks.parsers import FaceParser
from cyclegan_age.networks.regions import RegionMeans, Regions
from cyclegan_age.weight_files import Weights

_MEAN_HEADS = 6000  # whose features are averaged
_VIEW = 0.6  # share of the augmentation: hair must stay grey, and skin old, before a discriminator
_YOUNG = 20  # up to this age in years `most_shade` and `two_steps` hold
_PARSED = 64  # side in pixels of the masks


def build_generator(config: TrainConfig, net: CycleGANHeadsConfig) -> AdaINGenerator:
    """The generator that a configuration describes.

    Raises:
        UserError: neither one strength nor as many as ages.
    """
    if len(net.strength) not in (1, len(config.ages)):
        raise UserError(f"--strength: must be one number or {len(config.ages)}, one for each of --ages")
    return AdaINGenerator(
        ages=len(config.ages),
        ngf=net.ngf,
        blocks=net.blocks,
        deform=net.deform,
        detail=net.detail,
        strength=net.strength,
        most_chroma=net.most_chroma,
    )


def renderer(weights: Weights) -> Renderer:
    """The generator of a weights file; it takes pictures as they are."""
    assert isinstance(weights.net, CycleGANHeadsConfig)
    generator = weights.load_into(build_generator(weights.train, weights.net), "generator")
    young = sum(age <= _YOUNG for age in weights.train.ages)
    if weights.net.most_shade or weights.net.head_alone:
        parser = load_parser("face_parser", weights.train)
        if weights.net.most_shade:
            generator.limit_shade(parser, weights.net.most_shade, young)
        if weights.net.head_alone:
            generator.change_head_alone(parser)
    if weights.net.smooth_eyes:
        generator.smooth_eyes(Frame.of(weights.train.frame).points[:2])
    if weights.net.two_steps and 0 < young < len(weights.train.ages):
        generator.take_two_steps(young)
    return Renderer(generator=generator, code=code_of(weights.train), calibration=age_calibration(weights))


class CycleGANHeads(Model):
    """Networks and phases `generator` and `discriminator`; each discriminator has an output map per age and sex.

    The discriminators are two PatchGANs, at the whole and at half the size, and a critic on the features of an ImageNet
    network (Sauer et al., NeurIPS 2021). All see the head cut out by the parser's mask of its source. Real and
    generated heads are augmented alike before them (Zhao et al., NeurIPS 2020).
    """

    columns = ("ages",)
    shows_life = True

    def __init__(
        self,
        *,
        config: TrainConfig,
        net: CycleGANHeadsConfig,
        parser: FaceParser,  # trained
        estimators: Sequence[AgeEstimator],  # trained, of faces in UTKFace's frame
        embedder: FaceEmbedder,  # trained, of the same
    ) -> None:
        self.net = net
        self.code = code_of(config)
        frame = Frame.of(config.frame)
        self.face = window(FRAMES["utkface"], frame)  # what estimators and embedder look at
        self.eyes = frame.points[:2]
        n_heads = 2 * len(config.ages)  # of a discriminator: men and women of each age
        self.generator = build_generator(config, net)
        self.whole = PatchDiscriminator(n_heads=n_heads, ndf=net.ndf)
        self.half = PatchDiscriminator(n_heads=n_heads, ndf=net.ndf)
        self.features = LiteFeatures()
        self.critic = FeatureCritic(map_channels=self.features.map_channels, n_heads=n_heads)
        self.means = RegionMeans(shapes=map_shapes(self.features, config.image_size), kinds=n_heads)
        self.parser = parser.eval().requires_grad_(False)
        self.embedder = embedder.eval().requires_grad_(False)
        self.estimators = [estimator.eval().requires_grad_(False) for estimator in estimators]
        self.networks = {
            "generator": self.generator,
            "whole": self.whole,
            "half": self.half,
            "critic": self.critic,
            "means": self.means,
        }
        self.frozen = {"features": self.features, "parser": self.parser, "embedder": self.embedder}
        self.frozen |= {f"estimator{i}": estimator for i, estimator in enumerate(self.estimators)}
        self.phases = {"generator": ["generator"], "discriminator": ["whole", "half", "critic"]}
        self.lr_factors = {"discriminator": net.d_rate}
        self.shipped = ["generator"]
        self.pools = {"fakes": ImagePool(size=net.pool_size)}

    def prepare(self, data: FaceData, device: torch.device, *, progress: bool = True) -> None:
        """Mean features of `_MEAN_HEADS` heads.

        Raises:
            UserError: an age has no heads of women, or of men.
        """
        seen = 0
        bar = tqdm(total=_MEAN_HEADS, unit="img", desc="means", disable=None if progress else True)
        with closing(data.batches(0, device=device)) as batches, bar, torch.inference_mode():
            while seen < _MEAN_HEADS:
                batch = next(batches)
                for x, age, sex in (
                    (batch.x_source, batch.age_source, batch.label_source),
                    (batch.x_target, batch.age_target, batch.label_target),
                ):
                    regions = Regions(self.parser.probabilities(x.to(device), _PARSED))
                    maps = self._maps(regions.cut_out(x.to(device), 0.0))
                    vectors = head_weights(self._vectors(age.to(device)), sex.to(device))
                    self.means.add(maps, vectors, regions.inner)
                    bar.update(len(x))
                    seen += len(x)
        if self.means.counts.min() < 1:
            raise UserError("--dataroot: must have heads of women and of men at each of --ages")
        self.means.finish()

    def losses(self, batch: Batch, progress: Tensor, paused: frozenset[str]) -> Losses:
        net, x_source, x_real = self.net, batch.x_source, batch.x_target
        age_source, age_target = (self._clamped(age) for age in (batch.age_source, batch.age_target))
        v_source, v_target = self.code.encode(age_source), self.code.encode(age_target)  # (N, K)
        weights_fake = head_weights(v_target, batch.label_source)  # (N, 2 K)
        with torch.no_grad():
            source = Regions(self.parser.probabilities(x_source, _PARSED))
            real = Regions(self.parser.probabilities(x_real, _PARSED))
        ramp = (progress / max(net.warmup, 1e-9)).clamp_max(1.0)

        for network in (self.whole, self.half, self.critic):
            network.requires_grad_(False)
        x_fake = self.generator(x_source, v_target)
        background = _random_background(x_fake)
        terms = self._adversarial_terms(x_fake, batch, source, background, weights_fake, age_target, ramp)
        cosine = (self.embedder(self._face(x_fake, 64)) * self.embedder(self._face(x_source, 64))).sum(dim=1)
        terms["embedding"] = net.lambda_embedding * F.relu(1 - cosine - net.embedding_tolerance).mean()
        change = (x_fake - x_source).abs().mean(dim=1, keepdim=True)
        away = 1 - F.interpolate(source.head, size=change.shape[2:], mode="bilinear")
        terms["outside"] = net.lambda_outside * (change * away).mean() / away.mean().clamp_min(0.05)
        terms["eyes"] = net.lambda_eyes * eye_change(x_source, x_fake, self.eyes)
        # The way back for the first half of the batch, the same age for the second.
        half = max(1, len(x_real) // 2)
        x_back = self.generator(torch.cat([x_fake[:half], x_source[half:]]), v_source)
        back = 0.03 + 0.97 * ramp
        terms["cycle"] = net.lambda_cycle * back * F.l1_loss(x_back[:half], x_source[:half])
        if len(x_real) > 1:
            terms["identity"] = net.lambda_identity * back * F.l1_loss(x_back[half:], x_source[half:])
        yield "generator", terms

        for network in (self.whole, self.half, self.critic):
            network.requires_grad_(True)
        x_old, weights_old = self.pools["fakes"].exchange(source.cut_out(x_fake.detach(), background), weights_fake)
        weights_real = head_weights(v_target, batch.label_target)
        anchors = constant(self.code.nominal_years, x_real.device)
        weights_wrong = head_weights(wrong_age_weights(age_target, anchors), batch.label_target)
        x_both = diff_augment(torch.cat([real.cut_out(x_real, _random_background(x_real)), x_old]), _VIEW)
        with torch.no_grad():
            grey = torch.cat([real.cut_out(x_real, 0.0), source.cut_out(x_fake.detach(), 0.0)])
            maps = self._maps(diff_augment(grey, _VIEW))
        scores = {
            "whole": (self.whole(x_both), weights_old),
            "half": (self.half(F.avg_pool2d(x_both, 2)), weights_old),
            "features": (self.critic(maps[1:]), weights_fake),
        }
        terms = {}
        for name, (both, of_fakes) in scores.items():
            reals, fakes = both.chunk(2)
            terms[f"{name}_real"] = 0.5 * lsgan(reals, 1, weights_real)
            terms[f"{name}_fake"] = 0.5 * lsgan(fakes, 0, of_fakes)
            terms[f"{name}_wrong_age"] = 0.5 * net.lambda_wrong_age * lsgan(reals, 0, weights_wrong)
        yield "discriminator", terms

    def _adversarial_terms(
        self,
        x_fake: Tensor,
        batch: Batch,
        source: Regions,
        background: Tensor,
        weights_fake: Tensor,
        age_target: Tensor,
        ramp: Tensor,
    ) -> dict[str, Tensor]:
        """Adversarial, feature shift and age terms of generated heads.

        The gradients of the adversarial and age terms on a head are limited to shares of that of the feature shift, or
        else a steep discriminator dominates it, and the generator only sharpens pictures.
        """
        net = self.net
        x_adversarial, x_moved, x_aged = (
            x_fake.detach().requires_grad_() for _ in range(3)
        )  # apart, as their gradients are
        x_seen = diff_augment(source.cut_out(x_adversarial, background), _VIEW)
        realism = {
            "g_whole": net.lambda_adversarial * lsgan(self.whole(x_seen), 1, weights_fake),
            "g_half": net.lambda_adversarial * lsgan(self.half(F.avg_pool2d(x_seen, 2)), 1, weights_fake),
            "g_features": net.lambda_features
            * lsgan(self.critic(self._maps(source.cut_out(x_adversarial, 0.0))[1:]), 1, weights_fake),
        }
        with torch.no_grad():
            before = self._maps(source.cut_out(batch.x_source, 0.0))
        maps = self._maps(source.cut_out(x_moved, 0.0))
        moved = net.lambda_shift * self.means(maps, before, self._shift(batch, age_target), source.parts)
        (gradient,) = torch.autograd.grad(moved, x_moved)
        longest = norms(gradient)
        (of_realism,) = torch.autograd.grad(torch.stack([*realism.values()]).sum(), x_adversarial)
        gradient = gradient + clip_gradients(of_realism, net.realism_share * longest)
        values = {name: term.detach() for name, term in realism.items()}
        if net.lambda_age:
            face = self._face(x_aged, 112)
            errors = [age_hinge(n(random_view(face)), age_target, net.age_tolerance) for n in self.estimators]
            aged = net.lambda_age * ramp * torch.stack(errors).mean()
            (of_age,) = torch.autograd.grad(aged, x_aged)
            gradient = gradient + clip_gradients(of_age, net.age_share * longest)
            values["g_age"] = aged.detach()
        return values | {"g_shift": with_gradient(x_fake, moved.detach(), gradient)}

    def _clamped(self, age_years: Tensor) -> Tensor:
        return age_years.clamp(self.code.anchors[0], self.code.anchors[-1])

    def _maps(self, x: Tensor) -> list[Tensor]:
        """Pictures at a quarter of their size, and their feature maps."""
        return [F.avg_pool2d(x, 4), *self.features(x)]

    def _vectors(self, age_years: Tensor) -> Tensor:
        """Age vectors (N, K, 3) for hair, face and neck of ages (N,): the hair's is of the age that hair looks like."""
        vector = self.code.encode(age_years)
        return torch.stack([self.code.encode(self._hair(age_years)), vector, vector], dim=2)

    def _hair(self, age_years: Tensor) -> Tensor:
        """Ages (N,) -> those whose mean hair is the target: later from 40 on, since much of the real hair is dyed."""
        return age_years + self.net.hair_ahead * ((age_years - 40) / 10).clamp(0, 1)

    def _shift(self, batch: Batch, age_target: Tensor) -> Tensor:
        """How much of each kind's mean the features are moved on by, in each region: (N, 2 K, 3)."""
        net = self.net
        ages = torch.stack([age_target, self._clamped(batch.age_source)])
        target, own = (head_weights(self._vectors(age), batch.label_source) for age in ages)
        strength = constant(net.shift_strength, age_target.device)
        younger = net.youth * ((25 - age_target) / 15).clamp(0, 1)
        # Hair is as dark at 20 as at 10: more of it would become a cap.
        younger = 1 + younger[:, None] * constant((0.0, 1.0, 1.0), age_target.device)
        return (target - own) * strength * younger[:, None]

    def _face(self, x: Tensor, size: int) -> Tensor:
        """The face in UTKFace's frame: (N, 3, S, S) -> (N, 3, size, size)."""
        left, top, side = (round(share * x.shape[-1]) for share in self.face)
        part = x[:, :, top : top + side, left : left + side]
        return F.interpolate(part, size=(size, size), mode="bilinear", antialias=True)

    def renderers(self, networks: Mapping[str, nn.Module]) -> Sequence[Renderer]:
        return [Renderer(generator=networks["generator"], code=self.code)]


def _random_background(x: Tensor) -> Tensor:
    """A random colour for each picture: (N, 3, 1, 1) in [-1, 1]."""
    return torch.rand(len(x), 3, 1, 1, device=x.device) * 2 - 1


def build(config: TrainConfig, net: CycleGANHeadsConfig) -> CycleGANHeads:
    """The model with the trained networks that its configuration names."""
    return CycleGANHeads(
        config=config,
        net=net,
        parser=load_parser(net.parser, config),
        estimators=[load_estimator(w, config) for w in net.estimators] if net.lambda_age else [],
        embedder=load_embedder(net.embedder, config),
    )


SYSTEM = System(config=CycleGANHeadsConfig, build=build, data=recipes.cyclegan_heads, renderer=renderer)
