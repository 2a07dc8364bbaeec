"""What the systems with a real-or-fake discriminator share: its remedies, and the game of a generator from noise.

The remedies keep a discriminator from winning, as the AI2100 project report tells them: a lower learning rate, pauses,
beginning anew every few epochs, a head start of the generator, goals below 1 for real pictures.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from cyclegan_age.ages import code_of
from cyclegan_age.config import AdversaryConfig, NoiseConfig, TrainConfig
from cyclegan_age.losses import deception, real_or_fake
from cyclegan_age.models.base import Losses, Model


class _Starting(Protocol):
    def start(self) -> None: ...


def rests(net: AdversaryConfig, epoch: float) -> bool:
    """Whether the discriminators rest after so many epochs."""
    since_start = epoch % net.d_reset if net.d_reset else epoch
    pauses = zip(net.d_pause[::2], net.d_pause[1::2], strict=True)
    return since_start < net.head_start or any(first <= epoch < last for first, last in pauses)


def renewed(net: AdversaryConfig, discriminators: Iterable[_Starting], before: float, epoch: float, seed: int) -> bool:
    """Begin the discriminators anew if this step is the first after another `d_reset` epochs; whether it did.

    Every process draws the same weights, and the training's sequence of random numbers goes on as if nothing was.

    Args:
        net: the remedies.
        discriminators: what to begin anew.
        before: epochs done before the last step.
        epoch: epochs done before this step.
        seed: the training's seed.
    """
    if not net.d_reset or int(before / net.d_reset) == int(epoch / net.d_reset):
        return False
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if torch.cuda.is_available() else []):
        torch.manual_seed(seed + int(epoch / net.d_reset))
        for discriminator in discriminators:
            discriminator.start()
    return True


class Duel(Model):
    """One generator against one discriminator, with the remedies; networks and phases are called so."""

    def __init__(
        self, config: TrainConfig, net: AdversaryConfig, generator: nn.Module, discriminator: _Starting
    ) -> None:
        self.config, self.remedies, self.beginner = config, net, discriminator
        self.code = code_of(config)
        self.networks = {"generator": generator, "discriminator": cast(nn.Module, discriminator)}
        self.frozen = {}
        self.phases = {"generator": ["generator"], "discriminator": ["discriminator"]}
        self.rates = {"discriminator": net.d_rate}
        self.shipped = ["generator"]
        self.pools = {}

    def resting(self, progress: float) -> frozenset[str]:
        return frozenset({"discriminator"} if rests(self.remedies, progress * self.config.epochs) else ())

    def renew(self, before: float, progress: float) -> Sequence[str]:
        epochs = self.config.epochs
        anew = renewed(self.remedies, [self.beginner], before * epochs, progress * epochs, self.config.seed)
        return ["discriminator"] if anew else []


def noise(net: NoiseConfig, like: Tensor) -> Tensor:
    """A latent vector for each row of `like`, on its device: (N, z)."""
    shape = (len(like), net.z)
    if net.prior == "normal":
        return torch.randn(shape, device=like.device)
    return torch.rand(shape, device=like.device) * 2 - 1


def drawn(net: NoiseConfig, count: int, random: torch.Generator) -> Tensor:
    """As many latent vectors, drawn by a generator of random numbers on the CPU: (count, z)."""
    if net.prior == "normal":
        return torch.randn(count, net.z, generator=random)
    return torch.rand(count, net.z, generator=random) * 2 - 1


def play(
    generator: nn.Module,
    discriminator: nn.Module,
    net: NoiseConfig,
    x_real: Tensor,
    *,
    label_real: Tensor | None = None,  # (N, K); both or neither
    label_fake: Tensor | None = None,  # what the fakes are made for
    resting: bool = False,  # the discriminator does not learn
) -> Losses:
    """One round: the generator's phase, then the discriminator's, whose loss is the mean of its parts."""
    discriminator.requires_grad_(False)
    x_fake = generator(noise(net, x_real), label_fake)
    deceived = deception(discriminator(x_fake, label_fake), saturating=net.generator_loss == "saturating")
    yield "generator", {"g_adversarial": deceived}

    discriminator.requires_grad_(True)
    if resting:
        yield "discriminator", {}
        return
    real = discriminator(x_real, label_real)
    fake = discriminator(x_fake.detach(), label_fake)
    yield (
        "discriminator",
        {"d_real": 0.5 * real_or_fake(real, 1 - net.label_smoothing), "d_fake": 0.5 * real_or_fake(fake, 0)},
    )


def held_out(discriminator: nn.Module, net: NoiseConfig, x: Tensor, label: Tensor | None = None) -> dict[str, float]:
    """The measure `held_out_d_real`: the error of `play` on real faces x (N, 3, H, W) with labels (N, K)."""
    logits = discriminator.forward(x, label)  # as it is: not compiled anew for batches of this size
    return {"held_out_d_real": 0.5 * real_or_fake(logits, 1 - net.label_smoothing).item()}
