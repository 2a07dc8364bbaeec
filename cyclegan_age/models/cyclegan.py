"""Age-conditional CycleGAN: one generator and one discriminator for all ages.

After Zhu et al., "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks" (ICCV 2017), with
the 1x6 age vector of Liu, "As Time Goes By: Dynamic Face Aging Method Using CycleGAN". The discriminator has a head per
anchor age; for an age between two anchors, the age vector weights the scores of both.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from cyclegan_age.ages import code_of, constant
from cyclegan_age.config import AgeEstimatorConfig, CycleGANConfig, TrainConfig, UserError
from cyclegan_age.data import recipes
from cyclegan_age.data.batches import Batch
from cyclegan_age.data.face_data import FaceData
from cyclegan_age.faces.blending import face_distance
from cyclegan_age.faces.frames import Frame
from cyclegan_age.losses import (
    age_hinge,
    clip_gradients,
    label_distribution,
    lsgan,
    norms,
    with_gradient,
    wrong_age_weights,
)
from cyclegan_age.models.age_estimator import build_estimator
from cyclegan_age.models.augmentation import random_view
from cyclegan_age.models.base import Losses, Model, Renderer, System
from cyclegan_age.models.pool import ImagePool
from cyclegan_age.models.pretrained import load_estimator, load_loss_embedder
from cyclegan_age.networks.discriminators import AgeCritic, FeatureCritic, PatchDiscriminator
from cyclegan_age.networks.efficientnet import FeatureMeans, LiteFeatures
from cyclegan_age.networks.estimators import AgeCalibration, AgeEstimator
from cyclegan_age.networks.generators import ResnetGenerator, generator_of
from cyclegan_age.weight_files import Weights

_MEAN_FACES = 6000  # whose features are averaged


def build_generator(config: TrainConfig, net: CycleGANConfig) -> ResnetGenerator:
    """The generator that a configuration describes."""
    return generator_of(net, ages=len(config.ages), image_size=config.image_size)


def age_calibration(weights: Weights) -> AgeCalibration | None:
    """The calibration of the age input that `evaluate.py --fit_ages` wrote into a weights file, if it did."""
    of_estimator = weights.parts.get("correction")
    if of_estimator is None:
        return None
    assert isinstance(of_estimator, AgeEstimatorConfig)
    calibration = AgeCalibration(estimator=build_estimator(of_estimator), anchors=weights.train.ages)
    return weights.load_into(calibration, "correction")


def map_shapes(features: LiteFeatures, image_size: int) -> list[tuple[int, int, int]]:
    """Shapes (C, h, w) of pictures at a quarter of their size, and of their feature maps."""
    sides = (image_size // (4 * 2**i) for i in range(len(features.map_channels)))
    shapes = [(c, s, s) for c, s in zip(features.map_channels, sides, strict=True)]
    return [(3, image_size // 4, image_size // 4), *shapes]


def head_weights(vector: Tensor, sex: Tensor) -> Tensor:
    """Weights of discriminator heads for each sex and age: age vectors (N, K, ...) -> (N, 2 K, ...), men first.

    Args:
        vector: the age vectors.
        sex: (N, 1), 0 is male, 1 is female; NaN, unknown, counts half for both.
    """
    sexes = torch.cat([1 - sex, sex], dim=1).nan_to_num(0.5)  # (N, 2): male, female
    return (sexes.view(len(sex), 2, *[1] * (vector.dim() - 1)) * vector[:, None]).flatten(1, 2)


def renderer(weights: Weights) -> Renderer:
    """The generator of a weights file; it takes pictures as they are."""
    assert isinstance(weights.net, CycleGANConfig)
    generator = weights.load_into(build_generator(weights.train, weights.net), "generator")
    return Renderer(generator=generator, code=code_of(weights.train), calibration=age_calibration(weights))


class CycleGAN(Model):
    """Networks and phases `generator` and `discriminator`, and `critics` where there are age estimators.

    - Stripes and tints fool an estimator in the loss before a face looks older. So the age term's gradient on a picture
      is clipped to `age_share` times that of the adversarial and shift terms. VQGAN weighs its adversarial term by
      gradients in a similar way (Esser et al., CVPR 2021, equation 7).
    - With `lambda_fooled` the estimators keep learning, from real faces with their ages and from fakes with the ages of
      their sources. A generator that never fools an estimator only copies its input, so the fakes' weight starts at 0.
    - `AgeCritic` discriminates on the estimators' features. With `lambda_features` the network `feature_critic`
      discriminates on those of an ImageNet network.
    - With `lambda_shift` the network `means` holds the mean features of each age.
    """

    columns = ("ages", "cycle")
    shows_life = True

    def __init__(
        self,
        *,
        config: TrainConfig,
        net: CycleGANConfig,
        estimators: list[AgeEstimator],  # trained
        embedder: nn.Module | None = None,  # trained; for `lambda_embedding`
    ) -> None:
        self.net = net
        self.code = code_of(config)
        n_heads = len(config.ages) * (2 if net.sexes else 1)
        self.critics = {f"critic{i}": AgeCritic(estimator=e, n_heads=n_heads) for i, e in enumerate(estimators)}
        self.generator = build_generator(config, net)
        self.discriminator = PatchDiscriminator(n_heads=n_heads, ndf=net.ndf)
        self.networks = {"generator": self.generator, "discriminator": self.discriminator} | self.critics
        self.embedder = embedder.eval().requires_grad_(False) if embedder else None
        self.frozen = {"embedder": self.embedder} if self.embedder else {}
        self.phases = {"generator": ["generator"], "discriminator": ["discriminator"]}
        self.features = self.feature_critic = self.means = None
        if net.lambda_features or net.lambda_shift:
            self.features = self.frozen["features"] = LiteFeatures()
        if self.features and net.lambda_features:
            critic = FeatureCritic(map_channels=self.features.map_channels, n_heads=n_heads)
            self.feature_critic = self.networks["feature_critic"] = critic
            self.phases["discriminator"].append("feature_critic")
        if self.features and net.lambda_shift:
            shapes = map_shapes(self.features, config.image_size)
            self.means = self.networks["means"] = FeatureMeans(shapes=shapes, kinds=n_heads)
        if self.critics:
            self.phases["critics"] = list(self.critics)
            self.lr_factors = {"discriminator": 2.0, "critics": 2.0}
        self.shipped = ["generator"]
        self.pools = {"fakes": ImagePool(size=net.pool_size)}
        self.image_size, self.frame = config.image_size, config.frame

    def prepare(self, data: FaceData, device: torch.device, *, progress: bool = True) -> None:
        """Compute the mean features of `_MEAN_FACES` faces, if `lambda_shift` needs them.

        Raises:
            UserError: an age has no faces, or with `sexes` none of women or of men.
        """
        if not self.means:
            return
        bar = tqdm(total=_MEAN_FACES, unit="img", desc="means", disable=None if progress else True)
        seen = 0
        with closing(data.batches(0, device=device)) as batches, bar:
            while seen < _MEAN_FACES:
                batch = next(batches)
                for x, age, label in (
                    (batch.x_source, batch.age_source, batch.label_source),
                    (batch.x_target, batch.age_target, batch.label_target),
                ):
                    with torch.inference_mode():
                        maps = self._maps(x.to(device))
                    self.means.add(maps, self._head_weights(self.code.encode(age), label).to(device))
                    bar.update(len(x))
                    seen += len(x)
        if self.means.counts.min() < 1:
            kind, remedy = ("age and sex", " or --no_sexes") if self.net.sexes else ("age", "")
            raise UserError(f"--lambda_shift: needs faces of each {kind}; use other --ages{remedy}")
        self.means.finish()

    def losses(self, batch: Batch, progress: Tensor, paused: frozenset[str]) -> Losses:
        net, x_real = self.net, batch.x_target
        v_source = self.code.encode(batch.age_source)  # (N, K)
        v_target = self.code.encode(batch.age_target)

        self.discriminator.requires_grad_(False)
        if self.feature_critic:
            self.feature_critic.requires_grad_(False)
        for critic in self.critics.values():
            critic.set_trainable(False)
        count = net.taken(net.identity_share, len(x_real)) if net.lambda_identity else 0
        x_made = self.generator(
            torch.cat([batch.x_source, batch.x_source[:count]]), torch.cat([v_target, v_source[:count]])
        )
        x_fake, x_same = x_made.split([len(x_real), count])
        weights_fake = self._head_weights(v_target, batch.label_source)  # (N, n_heads)
        terms = self._adversarial_terms(x_fake, batch, weights_fake)
        if net.lambda_outside:
            change = (x_fake - batch.x_source).abs().mean(dim=1)
            weight = outside(self.image_size, x_fake.device, self.frame)
            terms["outside"] = net.lambda_outside * (change * weight).mean()
        if self.embedder:
            cosine = (self.embedder(x_fake) * self.embedder(batch.x_source)).sum(dim=1)
            terms["embedding"] = net.lambda_embedding * F.relu(1 - cosine - net.embedding_tolerance).mean()
        if net.lambda_identity:
            same = F.l1_loss(x_same, batch.x_source[:count])
            terms["identity"] = net.lambda_identity * net.identity_share * same
        count = net.taken(net.cycle_share, len(x_real))
        back = F.l1_loss(self.generator(x_fake[:count], v_source[:count]), batch.x_source[:count])
        terms["cycle"] = net.lambda_cycle * net.cycle_share * back
        yield "generator", terms

        self.discriminator.requires_grad_(True)
        rows = torch.cat([weights_fake, batch.age_source[:, None]], dim=1)  # stored with each fake
        x_old, rows = self.pools["fakes"].exchange(x_fake.detach(), rows)
        weights_old, age_old = rows[:, :-1], rows[:, -1]
        weights_real, weights_wrong = (
            self._head_weights(v_target, batch.label_target),
            self._wrong_head_weights(batch, v_target),
        )
        x_both = torch.cat([x_real, x_old])
        scores = {"d": self.discriminator(x_both)}
        if self.feature_critic:
            self.feature_critic.requires_grad_(True)
            with torch.no_grad():
                maps = self._maps(x_both)
            scores["features"] = self.feature_critic(maps[1:])
        terms = {}
        for name, both in scores.items():
            real, fake = both.chunk(2)
            terms[f"{name}_real"] = 0.5 * lsgan(real, 1, weights_real)
            terms[f"{name}_fake"] = 0.5 * lsgan(fake, 0, weights_old)
            if net.lambda_wrong_age:
                terms[f"{name}_wrong_age"] = 0.5 * net.lambda_wrong_age * lsgan(real, 0, weights_wrong)
        yield "discriminator", terms

        if self.critics:
            # A fake is labelled with its source's age, so that the estimators unlearn what fools them.
            x_seen = random_view(x_both)
            fooled = net.lambda_fooled * (progress / max(net.fooled_warmup, 1e-9)).clamp_max(1.0)
            terms = {}
            for name, critic in self.critics.items():
                critic.set_trainable(True)
                scores, logits = critic(x_both, x_seen)
                (real, fake), (years_real, years_fake) = scores.chunk(2), logits.chunk(2)
                terms[f"{name}_age"] = label_distribution(years_real, batch.age_target, 2.5)
                terms[f"{name}_fooled"] = fooled * label_distribution(years_fake, age_old, 2.5)
                terms[f"{name}_real"] = 0.5 * lsgan(real, 1, weights_real)
                terms[f"{name}_fake"] = 0.5 * lsgan(fake, 0, weights_old)
                terms[f"{name}_wrong_age"] = 0.5 * net.lambda_wrong_age * lsgan(real, 0, weights_wrong)
            yield "critics", terms

    def _maps(self, x: Tensor) -> list[Tensor]:
        """Pictures at a quarter of their size, and their feature maps where these are used."""
        return [F.avg_pool2d(x, 4), *(self.features(x) if self.features else [])]

    def _head_weights(self, vector: Tensor, sex: Tensor) -> Tensor:
        """Weights of the discriminators' heads: age vectors (N, K) -> (N, K), or (N, 2 K) by the sex (N, 1)."""
        return head_weights(vector, sex) if self.net.sexes else vector

    def _wrong_head_weights(self, batch: Batch, v_target: Tensor) -> Tensor:
        """Weights of heads with the wrong age or, halved, the wrong sex: real faces are negative examples for these."""
        anchors = constant(self.code.nominal_years, v_target.device)
        wrong = self._head_weights(wrong_age_weights(batch.age_target, anchors), batch.label_target)
        if not self.net.sexes:
            return wrong
        known = (~batch.label_target.isnan()).float()
        return wrong + 0.5 * known * self._head_weights(v_target, 1 - batch.label_target)

    def _adversarial_terms(self, x_fake: Tensor, batch: Batch, weights_fake: Tensor) -> dict[str, Tensor]:
        """Adversarial, feature and age terms of generated pictures.

        It runs its own backward pass. The returned `g_adversarial` carries the sum of the terms' gradients, with the
        age term's clipped. A new term on `x` or `x_aged` must be added before that pass.
        """
        net = self.net
        x, x_aged = (x_fake.detach().requires_grad_() for _ in range(2))  # the age term has its own gradient
        terms = {"g_adversarial": lsgan(self.discriminator(x), 1, weights_fake)}
        maps = self._maps(x)
        if self.feature_critic:
            terms["g_features"] = net.lambda_features * lsgan(self.feature_critic(maps[1:]), 1, weights_fake)
        if self.means:
            with torch.no_grad():
                before = self._maps(batch.x_source)
            own = self._head_weights(self.code.encode(batch.age_source), batch.label_source)
            terms["g_shift"] = net.lambda_shift * self.means(maps, before, net.shift_strength * (weights_fake - own))
        if self.critics:
            x_seen = random_view(x_aged)
            views = [critic(x, x_seen) for critic in self.critics.values()]
            errors = [age_hinge(logits, batch.age_target, net.age_tolerance) for _, logits in views]
            terms["g_critic"] = net.lambda_critic * torch.stack([lsgan(s, 1, weights_fake) for s, _ in views]).mean()
            terms["g_age"] = net.lambda_age * torch.stack(errors).mean()
        torch.stack([*terms.values()]).sum().backward()
        assert x.grad is not None
        gradient = x.grad
        if x_aged.grad is not None:
            longest = net.age_share * norms(gradient)
            gradient = gradient + (clip_gradients(x_aged.grad, longest) if net.age_share else x_aged.grad)
        values = {name: term.detach() for name, term in terms.items()}
        return values | {"g_adversarial": with_gradient(x_fake, values["g_adversarial"], gradient)}

    def renderers(self, networks: Mapping[str, nn.Module]) -> Sequence[Renderer]:
        return [Renderer(generator=networks["generator"], code=self.code)]


@lru_cache(maxsize=8)
def outside(size: int, device: torch.device, frame: str = "utkface") -> Tensor:
    """How far each pixel of a square (size, size) lies outside the face's ellipse: 0 inside, rising to 1 beyond it.

    Scaled to a mean of 1. It is made once for each device.
    """
    at = np.linspace(0.5 / size, 1 - 0.5 / size, size, dtype=np.float32)  # middles of pixels
    weight = ((face_distance(at[None, :], at[:, None], Frame.of(frame)) - 1) / 0.1).clip(0, 1)
    return torch.from_numpy(weight / weight.mean()).to(device)


def build(config: TrainConfig, net: CycleGANConfig) -> CycleGAN:
    """The model with the trained networks that its configuration names."""
    estimators = [load_estimator(w, config, config.frame) for w in net.estimators] if net.lambda_age else []
    embedder = load_loss_embedder(net.embedder, config) if net.lambda_embedding else None
    return CycleGAN(config=config, net=net, estimators=estimators, embedder=embedder)


SYSTEM = System(config=CycleGANConfig, build=build, data=recipes.cyclegan, renderer=renderer)
