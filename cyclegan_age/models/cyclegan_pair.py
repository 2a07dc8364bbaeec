"""Plain two-domain CycleGAN (Zhu et al., ICCV 2017): what an age-conditional model is compared with.

Domain A is the batch's source, domain B its target. The generators take no age. Domains may be age groups, or anything
else: pictures of any kind, then known by their names.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclegan_age.ages import AgeCode, parse_group
from cyclegan_age.config import CycleGANPairConfig, TrainConfig, UserError
from cyclegan_age.data import recipes
from cyclegan_age.data.batches import Batch
from cyclegan_age.losses import lsgan
from cyclegan_age.models.base import Losses, Model, Renderer, System
from cyclegan_age.models.pool import ImagePool
from cyclegan_age.networks.discriminators import PatchDiscriminator
from cyclegan_age.networks.generators import generator_of
from cyclegan_age.networks.translation import ResnetTranslator, UnetTranslator
from cyclegan_age.weight_files import Weights

_TWO = AgeCode((0, 1))  # domains instead of ages


def build_generator(config: TrainConfig, net: CycleGANPairConfig) -> nn.Module:
    """One of the two generators that a configuration describes.

    Raises:
        UserError: a size that a U-Net cannot halve so often.
    """
    if net.generator == "unet":
        depth = net.blocks or config.image_size.bit_length() - 1  # down to one pixel
        if depth < 5 or config.image_size % 2**depth:
            raise UserError(
                f"--image_size {config.image_size}: must be a multiple of {2 ** max(depth, 5)} for a unet that halves "
                f"pictures {depth} times; --blocks, at least 5, sets how often"
            )
        return UnetTranslator(depth=depth, ngf=net.ngf, norm=net.norm, dropout=net.dropout)
    if net.generator == "resnet":
        return ResnetTranslator(
            ngf=net.ngf,
            blocks=net.block_count(config.image_size),
            norm=net.norm,
            dropout=net.dropout,
            antialias_down=net.antialias in ("down", "both"),
            antialias_up=net.antialias in ("up", "both"),
        )
    return generator_of(net, ages=0, image_size=config.image_size)


class _TwoDomains(nn.Module):
    """The two generators of a pair as one that takes an age vector (N, 2): each adds its share."""

    def __init__(self, **networks: nn.Module) -> None:
        super().__init__()
        for name, network in networks.items():
            self.add_module(name, network)

    def forward(self, x: Tensor, age: Tensor) -> Tensor:
        share = age[:, :, None, None, None]  # (N, 2, 1, 1, 1)
        first, second = self.children()
        out: Tensor = share[:, 0] * first(x) + share[:, 1] * second(x)
        return out


def one_way(generator: nn.Module, domain: str) -> Renderer:
    """A generator that translates to one domain, and takes no age."""
    return Renderer(generator=generator, code=_TWO, conditional=False, domains=(domain,))


def renderer(weights: Weights) -> Renderer:
    """Both generators of a weights file as one that knows two ages, the middles of the groups, and blends between them.

    Where the groups are no ages, it knows two domains, or one where the weights have one generator.

    Raises:
        UserError: the domains are of one age.
    """
    train, net = weights.train, weights.net
    assert isinstance(net, CycleGANPairConfig)
    single = net.generator != "default" and not weights.network("generator_ba")
    networks = []
    for name in ("generator_ab",) if single else ("generator_ba", "generator_ab"):
        generator = build_generator(train, net)
        generator.load_state_dict(weights.network(name))
        networks.append(generator)
    if single:
        return one_way(networks[0], net.group_b)
    groups = [parse_group(group) for group in (net.group_a, net.group_b)]
    if not all(groups):
        both = _TwoDomains(to_a=networks[0], to_b=networks[1])
        return Renderer(generator=both, code=_TWO, domains=(net.group_a, net.group_b))
    a, b = ((group[0] + group[1] + 1) // 2 if group else 0 for group in groups)
    if a == b:
        raise UserError(f"two domains of one age, {net.group_a} and {net.group_b}; they cannot be chosen by age")
    to_a, to_b = networks
    if a < b:
        return Renderer(generator=_TwoDomains(to_young=to_a, to_old=to_b), code=AgeCode((a, b)))
    return Renderer(generator=_TwoDomains(to_young=to_b, to_old=to_a), code=AgeCode((b, a)))


class CycleGANPair(Model):
    """Networks `generator_ab`, `generator_ba`, `discriminator_a`, `discriminator_b`."""

    columns = ("translations",)

    def __init__(self, *, config: TrainConfig, net: CycleGANPairConfig) -> None:
        self.net = net
        self.default_layers = ("downs.1", "ups.2") if net.generator == "unet" else ()
        self.generator_ab, self.generator_ba = build_generator(config, net), build_generator(config, net)
        self.discriminator_a = PatchDiscriminator(ndf=net.ndf)
        self.discriminator_b = PatchDiscriminator(ndf=net.ndf)
        self.networks = {
            "generator_ab": self.generator_ab,
            "generator_ba": self.generator_ba,
            "discriminator_a": self.discriminator_a,
            "discriminator_b": self.discriminator_b,
        }
        self.frozen = {}
        self.phases = {
            "generator": ["generator_ab", "generator_ba"],
            "discriminator": ["discriminator_a", "discriminator_b"],
        }
        self.shipped = ["generator_ab", "generator_ba"]
        self.pools = {"a": ImagePool(size=net.pool_size), "b": ImagePool(size=net.pool_size)}

    def losses(self, batch: Batch, progress: Tensor, paused: frozenset[str]) -> Losses:
        net, a_real, b_real = self.net, batch.x_source, batch.x_target
        discriminators = (self.discriminator_a, self.discriminator_b)

        for d in discriminators:
            d.requires_grad_(False)
        size, count = len(a_real), net.taken(net.identity_share, len(a_real)) if net.lambda_identity else 0
        b_fake, b_same = self.generator_ab(torch.cat([a_real, b_real[:count]])).split([size, count])
        a_fake, a_same = self.generator_ba(torch.cat([b_real, a_real[:count]])).split([size, count])
        terms = {
            "g_adversarial_a": lsgan(self.discriminator_a(a_fake), 1),
            "g_adversarial_b": lsgan(self.discriminator_b(b_fake), 1),
        }
        if net.lambda_identity:
            weight = net.lambda_identity * net.identity_share
            terms["identity_a"] = weight * F.l1_loss(a_same, a_real[:count])
            terms["identity_b"] = weight * F.l1_loss(b_same, b_real[:count])
        count, weight = net.taken(net.cycle_share, size), net.lambda_cycle * net.cycle_share
        terms["cycle_a"] = weight * F.l1_loss(self.generator_ba(b_fake[:count]), a_real[:count])
        terms["cycle_b"] = weight * F.l1_loss(self.generator_ab(a_fake[:count]), b_real[:count])
        yield "generator", terms

        for d in discriminators:
            d.requires_grad_(True)
        a_old, _ = self.pools["a"].exchange(a_fake.detach(), batch.age_source[:, None])
        b_old, _ = self.pools["b"].exchange(b_fake.detach(), batch.age_target[:, None])
        terms = {}
        for domain, d, real, old in (("a", discriminators[0], a_real, a_old), ("b", discriminators[1], b_real, b_old)):
            scores_real, scores_old = d(torch.cat([real, old])).chunk(2)
            terms[f"d_real_{domain}"] = 0.5 * lsgan(scores_real, 1)
            terms[f"d_fake_{domain}"] = 0.5 * lsgan(scores_old, 0)
        yield "discriminator", terms

    def renderers(self, networks: Mapping[str, nn.Module]) -> Sequence[Renderer]:
        """From A to B, and from B to A."""
        return [one_way(networks["generator_ab"], "B"), one_way(networks["generator_ba"], "A")]


SYSTEM = System(
    config=CycleGANPairConfig,
    build=lambda config, net: CycleGANPair(config=config, net=net),
    data=recipes.cyclegan_pair,
    renderer=renderer,
)
