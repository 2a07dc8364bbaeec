"""Age-conditional CycleGAN: one generator and one discriminator for all ages.

After Zhu et al., "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks" (ICCV 2017), with
the 1x6 age vector of Liu, "As Time Goes By: Dynamic Face Aging Method Using CycleGAN". The discriminator has a head per
anchor age; an age between two anchors asks both, each as far as its weight in the age vector.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclegan_age.ages import AgeCode
from cyclegan_age.config import CycleGANConfig, TrainConfig
from cyclegan_age.data.batches import Batch
from cyclegan_age.features import Taps
from cyclegan_age.losses import age_hinge, label_distribution, lsgan, wrong_age_weights
from cyclegan_age.models.base import Losses, Model
from cyclegan_age.models.pool import ImagePool
from cyclegan_age.networks.discriminators import PatchDiscriminator
from cyclegan_age.networks.generators import ResnetGenerator, generator_of


def build_generator(config: TrainConfig, net: CycleGANConfig) -> ResnetGenerator:
    """The generator that a configuration describes."""
    return generator_of(net, ages=len(config.ages), image_size=config.image_size)


class CycleGAN(Model):
    """Networks and phases `generator` and `discriminator`, and `estimators` where they learn along.

    An estimator in the loss is fooled before a face looks older, by stripes and tints. With `lambda_fooled` it is
    therefore trained on, on real faces with their ages and on fakes with those of their sources. The weight of the
    fakes begins at 0: a generator that never fools an estimator never leaves the copy of its input.
    """

    def __init__(self, *, config: TrainConfig, net: CycleGANConfig, estimators: list[nn.Module]) -> None:
        self.net = net
        self.code = AgeCode(config.ages, config.age_vector)
        self.estimators = {f"estimator{i}": e.eval().requires_grad_(False) for i, e in enumerate(estimators)}
        self.generator = build_generator(config, net)
        self.discriminator = PatchDiscriminator(heads=len(config.ages), ndf=net.ndf)
        self.networks = {"generator": self.generator, "discriminator": self.discriminator}
        self.frozen = {} if net.lambda_fooled else self.estimators
        self.phases = {"generator": ["generator"], "discriminator": ["discriminator"]}
        if self.estimators and net.lambda_fooled:
            self.networks |= self.estimators
            self.phases["estimators"] = list(self.estimators)
        self.shipped = ["generator"]
        self.pools = {"fakes": ImagePool(size=net.pool_size)}

    def losses(self, batch: Batch, progress: float, step: int) -> Losses:
        net, x_real = self.net, batch.x_target
        v_source = self.code.encode(batch.age_source)  # (N, K)
        v_target = self.code.encode(batch.age_target)

        for network in (self.discriminator, *self.estimators.values()):
            network.requires_grad_(False)
        x_fake = self.generator(batch.x_source, v_target)
        x_cycle = self.generator(x_fake, v_source)
        terms = {
            "g_adversarial": lsgan(self.discriminator(x_fake), 1, v_target),
            "cycle": net.lambda_cycle * F.l1_loss(x_cycle, batch.x_source),
        }
        if net.lambda_identity and step % net.identity_every == 0:
            x_same = self.generator(batch.x_source, v_source)
            terms["identity"] = net.lambda_identity * F.l1_loss(x_same, batch.x_source)
        if self.estimators:
            x_seen = disturb(x_fake)
            errors = [age_hinge(e(x_seen), batch.age_target, net.age_tolerance) for e in self.estimators.values()]
            terms["g_age"] = net.lambda_age * torch.stack(errors).mean()
        yield "generator", terms

        self.discriminator.requires_grad_(True)
        meant = torch.cat([v_target, batch.age_source[:, None]], dim=1)
        x_old, meant = self.pools["fakes"].exchange(x_fake.detach(), meant)
        v_old, age_old = meant[:, :-1], meant[:, -1]
        real, fake = self.discriminator(torch.cat([x_real, x_old])).chunk(2)
        terms = {"d_real": 0.5 * lsgan(real, 1, v_target), "d_fake": 0.5 * lsgan(fake, 0, v_old)}
        if net.lambda_wrong_age:
            anchors = torch.tensor(self.code.nominal_years, device=real.device)
            wrong = wrong_age_weights(batch.age_target, anchors)
            terms["d_wrong_age"] = 0.5 * net.lambda_wrong_age * lsgan(real, 0, wrong)
        yield "discriminator", terms

        if "estimators" in self.phases:
            # A fake shows its source's age to whoever is not fooled: so the estimators learn what they fell for.
            x_seen = disturb(torch.cat([x_real, x_old]))
            fooled = net.lambda_fooled * min(1.0, progress / max(net.fooled_warmup, 1e-9))
            terms = {}
            for name, estimator in self.estimators.items():
                estimator.requires_grad_(True)
                real, fake = estimator(x_seen).chunk(2)
                terms[f"{name}_real"] = label_distribution(real, batch.age_target, 2.5)
                terms[f"{name}_fooled"] = fooled * label_distribution(fake, age_old, 2.5)
            yield "estimators", terms

    def samples(self, networks: Mapping[str, nn.Module], x: Tensor, age_years: Tensor) -> dict[str, Tensor]:
        generator = networks["generator"]
        columns = {"source": x}
        for years in self.code.nominal_years:
            columns[f"{years:g}"] = generator(x, self.code.encode([years]).to(x.device).expand(len(x), -1))
        columns["cycle"] = generator(columns[f"{self.code.nominal_years[-1]:g}"], self.code.encode(age_years))
        return columns

    def feature_maps(
        self, networks: Mapping[str, nn.Module], x: Tensor, layers: Sequence[str]
    ) -> dict[str, dict[str, Tensor]]:
        maps: dict[str, dict[str, Tensor]] = {layer: {} for layer in layers}
        for years in self.code.nominal_years:
            with Taps(networks["generator"], layers) as taps:
                networks["generator"](x, self.code.encode([years]).to(x.device))
            for layer in layers:
                maps[layer][f"{years:g}"] = taps.outputs[layer][0]
        return maps


def disturb(x: Tensor) -> Tensor:
    """A random view of a batch (N, 3, H, W), differentiable: crop and resize, light, contrast, and half the time blur.

    What an estimator in the loss is shown, so that the generator cannot please it by patterns of single pixels.
    """
    size = x.shape[-1]
    draw = torch.rand(6)
    side = int(size * (0.86 + 0.14 * float(draw[0])))
    top, left = (int(float(d) * (size - side + 1)) for d in draw[1:3])
    x = x[:, :, top : top + side, left : left + side]
    middle = size // 2 if float(draw[3]) < 0.5 else size
    x = F.interpolate(x, size=(middle, middle), mode="bilinear", antialias=True)
    if middle != size:
        x = F.interpolate(x, size=(size, size), mode="bilinear")
    x = x * (0.85 + 0.3 * draw[4]).item() + 0.2 * (float(draw[5]) - 0.5)
    return x + 0.02 * torch.randn(x.shape, device=x.device)
