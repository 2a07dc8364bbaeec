"""Networks between pictures and latent vectors: generators, encoders and discriminators.

The generators take `latents`: (N, latent) or, with sexes, (N, latent + 2) with the probabilities of male and female at
the end. Children that output feature maps are named `stages.0`, `stages.1` .. in execution order.
Discriminators output logits: the sigmoid of the papers is in the loss.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclegan_age.ages import planes
from cyclegan_age.networks.blocks import init_weights


def joint_label(age: Tensor, sex: Tensor) -> Tensor:
    """Age vectors (N, K) and probabilities of male and female (N, 2) -> labels (N, 2 K), men's ages before women's."""
    return (sex[:, :, None] * age[:, None, :]).flatten(1)


class _Up(nn.Module):
    """Transposed convolution -> batch norm, if any -> ReLU, or tanh at the end. It doubles or keeps the size, or starts
    it."""

    def __init__(
        self,
        *,
        channels_in: int,
        channels_out: int,
        kernel: int,
        stride: int,
        pad: int,
        norm: bool = False,
        last: bool = False,  # tanh, no batch norm
    ) -> None:
        super().__init__()
        extra = stride - 1 if kernel % 2 else 0  # so that an odd kernel also doubles the size
        self.conv = nn.ConvTranspose2d(channels_in, channels_out, kernel, stride, pad, output_padding=extra)
        self.norm: nn.Module = nn.BatchNorm2d(channels_out) if norm and not last else nn.Identity()
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.conv(x))
        return torch.tanh(h.float()) if self.last else F.relu(h)


class _Down(nn.Module):
    """Convolution -> batch norm, if any -> leaky ReLU."""

    def __init__(
        self, *, channels_in: int, channels_out: int, kernel: int, slope: float = 0.0, norm: bool = False
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, 2, (kernel - 1) // 2)
        self.norm: nn.Module = nn.BatchNorm2d(channels_out) if norm else nn.Identity()
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.norm(self.conv(x)), self.slope)


class NoiseGenerator(nn.Module):
    """Latent vector and label -> picture, by 4x4 transposed convolutions (Radford et al., "DCGAN", ICLR 2016).

    The first one outputs 4x4 pixels, each further one doubles the side: 4 * 2^len(channels) in the end.
    """

    def __init__(
        self,
        *,
        latent: int,  # numbers in a latent vector
        labels: int,  # numbers in a label; 0 for an unconditional generator
        channels: tuple[int, ...],  # of all layers but the last, which has 3
        norm: bool,  # batch norm except on the last layer, and DCGAN's initialisation
    ) -> None:
        super().__init__()
        self.labels = labels
        sizes = [latent + labels, *channels, 3]
        self.stages = nn.ModuleList(
            _Up(
                channels_in=a,
                channels_out=b,
                kernel=4,
                stride=2 if i else 1,
                pad=1 if i else 0,
                norm=norm,
                last=i == len(channels),
            )
            for i, (a, b) in enumerate(pairwise(sizes))
        )
        if norm:
            init_weights(self)

    def forward(self, latents: Tensor, age: Tensor | None = None) -> Tensor:
        """(N, latent) and (N, labels) -> (N, 3, S, S) in [-1, 1], float32. Without labels the age is ignored."""
        h = latents if age is None or not self.labels else torch.cat([latents, age.to(latents.dtype)], dim=1)
        x = h[:, :, None, None]
        for stage in self.stages:
            x = stage(x)
        return x


class NoiseDiscriminator(nn.Module):
    """Picture and label -> logit (N,) of "real", by 4x4 convolutions of stride 2.

    The last convolution reduces the remaining 4x4 or 2x2 pixels to one number.
    """

    def __init__(
        self,
        *,
        image_size: int,  # side in pixels
        labels: int,  # planes of the label; 0 for none
        channels: tuple[int, ...],  # of all convolutions but the last, which has 1
        label_at: int,  # convolutions before the label is concatenated
        norm: bool,  # batch norm except on the first and the last, and DCGAN's initialisation
        slope: float,  # of the leaky ReLU
    ) -> None:
        super().__init__()
        self.label_at, self.with_start = label_at, norm
        joined = [labels if i == label_at else 0 for i in range(len(channels) + 1)]
        sizes = [3, *channels]
        self.stages = nn.ModuleList(
            _Down(channels_in=a + extra, channels_out=b, kernel=4, slope=slope, norm=norm and i > 0)
            for i, (a, b, extra) in enumerate(zip(sizes, channels, joined, strict=False))
        )
        left = image_size >> len(channels)
        self.head = nn.Conv2d(channels[-1] + joined[-1], 1, 4, 2 if left == 2 else 1, 1 if left == 2 else 0)
        if norm:
            init_weights(self)

    def reset_parameters(self) -> None:
        """Reset all weights to random values."""
        _reset(self)
        if self.with_start:
            init_weights(self)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        h = x
        for i, stage in enumerate(self.stages):
            h = stage(_join(h, label) if i == self.label_at else h)
        if self.label_at == len(self.stages):
            h = _join(h, label)
        logits: Tensor = self.head(h)
        return logits.flatten().float()


class Encoder(nn.Module):
    """Picture -> latent vector: convolutions of stride 2, ReLU, a linear layer and, if `bounded`, tanh."""

    def __init__(
        self,
        *,
        image_size: int,  # side in pixels, a multiple of 2^len(channels); larger pictures are averaged to it
        latent: int,  # numbers in a latent vector
        channels: tuple[int, ...],
        kernel: int,  # side of the kernels in pixels
        norm: bool,  # batch norm
        bounded: bool,  # tanh at the end: the vector lies in [-1, 1]
    ) -> None:
        super().__init__()
        sizes = [3, *channels]
        self.stages = nn.ModuleList(
            _Down(channels_in=a, channels_out=b, kernel=kernel, norm=norm)
            for a, b in zip(sizes, channels, strict=False)
        )
        self.head = nn.Linear(channels[-1] * (image_size >> len(channels)) ** 2, latent)
        self.size, self.bounded = image_size, bounded

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, S, S) in [-1, 1], S a multiple of the encoder's side, -> (N, latent), float32."""
        h = F.avg_pool2d(x, x.shape[2] // self.size) if x.shape[2] > self.size else x
        for stage in self.stages:
            h = stage(h)
        z: Tensor = self.head(h.flatten(1)).float()
        return torch.tanh(z) if self.bounded else z


class Decoder(nn.Module):
    """Latent vector and label -> picture: a linear layer to a small map, then transposed convolutions.

    The first `doublings` of them double the side, the others keep it; the last outputs 3 channels through tanh.
    """

    def __init__(
        self,
        *,
        image_size: int,  # side in pixels
        latent: int,  # numbers in a latent vector
        ages: int,  # numbers in an age vector
        sexes: bool,  # `latents` has two more columns, and the label is ages times sexes
        channels: tuple[int, ...],  # input channels of the transposed convolutions
        doublings: int,  # transposed convolutions of stride 2
        kernel: int,  # side of their kernels; for stride 1 the next smaller odd one
    ) -> None:
        super().__init__()
        self.latent, self.sexes = latent, sexes
        self.side = image_size >> doublings
        self.first = channels[0]
        self.enter = nn.Linear(latent + ages * (2 if sexes else 1), channels[0] * self.side**2)
        sizes = [*channels, 3]
        stages = []
        for i, (a, b) in enumerate(pairwise(sizes)):
            stride = 2 if i < doublings else 1
            side = kernel if stride == 2 or kernel % 2 else kernel - 1
            last = i == len(channels) - 1
            stages.append(
                _Up(channels_in=a, channels_out=b, kernel=side, stride=stride, pad=(side - 1) // 2, last=last)
            )
        self.stages = nn.ModuleList(stages)

    def forward(self, latents: Tensor, age: Tensor) -> Tensor:
        """(N, latent), or (N, latent + 2) with the sex probabilities, and (N, ages) -> (N, 3, S, S) in [-1, 1]."""
        z, sex = latents[:, : self.latent], latents[:, self.latent :]
        label = joint_label(age, sex) if self.sexes else age
        h = F.relu(self.enter(torch.cat([z, label.to(z.dtype)], dim=1)))
        x: Tensor = h.unflatten(1, (self.first, self.side, self.side))
        for stage in self.stages:
            x = stage(x)
        return x


class LatentCritic(nn.Module):
    """Latent vector (N, latent) -> logit (N,) of "from the prior": four linear layers, 64-32-16-1."""

    def __init__(self, *, latent: int, norm: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        sizes = (latent, 64, 32, 16)
        for a, b in pairwise(sizes):
            layers += [nn.Linear(a, b), *([nn.BatchNorm1d(b)] if norm else []), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(16, 1))

    def reset_parameters(self) -> None:
        """Reset all weights to random values."""
        _reset(self)

    def forward(self, z: Tensor) -> Tensor:
        logits: Tensor = self.layers(z)
        return logits.flatten().float()


class PictureCritic(nn.Module):
    """Picture and label -> logit (N,) of "real": convolutions of stride 2, then two linear layers.

    The label is concatenated after the first convolution. Kernels of side 5 are padded by 2, those of side 4 by 1.
    """

    def __init__(
        self,
        *,
        image_size: int,  # side in pixels
        labels: int,  # numbers in a label
        channels: tuple[int, ...],
        kernel: int,
        hidden: int,  # width between the linear layers
        norm: bool,  # batch norm after each convolution
    ) -> None:
        super().__init__()
        joined = [labels if i == 1 else 0 for i in range(len(channels) + 1)]
        sizes = [3, *channels]
        self.stages = nn.ModuleList(
            _Down(channels_in=a + extra, channels_out=b, kernel=kernel, norm=norm)
            for a, b, extra in zip(sizes, channels, joined, strict=False)
        )
        side = image_size >> len(channels)
        self.middle = nn.Linear((channels[-1] + (labels if len(channels) == 1 else 0)) * side**2, hidden)
        self.head = nn.Linear(hidden, 1)

    def reset_parameters(self) -> None:
        """Reset all weights to random values."""
        _reset(self)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        h = _join(self.stages[0](x), label)
        for stage in list(self.stages)[1:]:
            h = stage(h)
        logits: Tensor = self.head(F.leaky_relu(self.middle(h.flatten(1)), 0.2))
        return logits.flatten().float()


def _join(h: Tensor, label: Tensor | None) -> Tensor:
    """Constant planes of a label (N, L) after the channels of h (N, C, h, w)."""
    return h if label is None else torch.cat([h, planes(label, h.shape[2], h.shape[3]).to(h.dtype)], dim=1)


def _reset(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_parameters()
