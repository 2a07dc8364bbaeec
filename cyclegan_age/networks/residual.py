"""A residual generator conditioned on a latent vector and a label, and a projection discriminator.

Both follow Miyato and Koyama, "cGANs with Projection Discriminator" (ICLR 2018), with the spectral norm of Miyato et
al., "Spectral Normalization for Generative Adversarial Networks" (ICLR 2018). The generator has the inputs of
`networks.latent`.
"""

import math
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclegan_age.networks.blocks import upsample
from cyclegan_age.networks.latent import joint_label

_START = 4  # side in pixels of the first map
_GAIN = 10.0  # of the logits: with layers of spectral norm 1 they hardly vary, and the discriminator cannot learn


class _Modulated(nn.Module):
    """Batch norm with gain and bias computed from a vector, then ReLU (Chen et al., "On Self Modulation", ICLR
    2019)."""

    def __init__(self, *, channels: int, steered_by: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.change = nn.Linear(steered_by, 2 * channels)
        nn.init.normal_(self.change.weight, 0, 0.02)
        nn.init.zeros_(self.change.bias)

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        gain, bias = self.change(vector)[:, :, None, None].chunk(2, dim=1)  # (N, C, 1, 1)
        return F.relu(self.norm(x) * (1 + gain) + bias)


class _Block(nn.Module):
    """Upsampling block: norm, resize, 3x3 convolution, norm, 3x3 convolution; added to the resized input."""

    def __init__(self, *, channels_in: int, channels_out: int, steered_by: int) -> None:
        super().__init__()
        self.norm1 = _Modulated(channels=channels_in, steered_by=steered_by)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = _Modulated(channels=channels_out, steered_by=steered_by)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.short: nn.Module = nn.Identity()
        if channels_in != channels_out:
            self.short = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        h = self.conv1(upsample(self.norm1(x, vector)))
        h = self.conv2(self.norm2(h, vector))
        out: Tensor = h + upsample(self.short(x))
        return out


def _label_scale(latent: int) -> float:
    return math.sqrt(latent) / 3


class ResidualGenerator(nn.Module):
    """Latent vector and label -> picture of 4 * 2^len(channels) pixels a side.

    A linear layer makes 4x4 pixels, each block doubles the side, vector and label set each batch norm. The label is
    scaled to about a third of the norm of a normal latent vector. A smaller scale has too little effect at first, a
    larger one makes all faces of an age equal.
    """

    def __init__(
        self,
        *,
        latent: int,  # numbers in a latent vector
        ages: int,  # numbers in an age vector; 0 for an unconditional generator
        channels: tuple[int, ...],  # input channels of the blocks; the last one has as many output channels
        sexes: bool = False,  # `latents` has two more columns, and the label is ages times sexes
    ) -> None:
        super().__init__()
        self.latent, self.labels, self.sexes, self.first = latent, ages, sexes, channels[0]
        steered_by = latent + ages * (2 if sexes else 1)
        self.enter = nn.Linear(steered_by, channels[0] * _START**2)
        self.stages = nn.ModuleList(
            _Block(channels_in=a, channels_out=b, steered_by=steered_by) for a, b in pairwise([*channels, channels[-1]])
        )
        self.norm = nn.BatchNorm2d(channels[-1])
        self.head = nn.Conv2d(channels[-1], 3, 3, padding=1)

    def forward(self, latents: Tensor, age: Tensor | None = None) -> Tensor:
        """(N, latent), or (N, latent + 2) with the sex probabilities, and (N, ages) -> (N, 3, S, S) in [-1, 1]."""
        vector = z = latents[:, : self.latent]
        if age is not None and self.labels:
            label = joint_label(age, latents[:, self.latent :]) if self.sexes else age
            vector = torch.cat([z, _label_scale(self.latent) * label.to(z.dtype)], dim=1)
        x: Tensor = self.enter(vector).unflatten(1, (self.first, _START, _START))
        for stage in self.stages:
            x = stage(x, vector)
        return torch.tanh(self.head(F.relu(self.norm(x))).float())


def unconditional(tensors: Mapping[str, Tensor], latent: int, labels: int) -> dict[str, Tensor]:
    """State dict of a `ResidualGenerator` with labels -> of one without: the mean label is added to the biases.

    Args:
        tensors: its weights.
        latent: numbers in its latent vectors.
        labels: numbers in its labels.
    """
    changed = dict(tensors)
    for name, weight in tensors.items():
        if weight.ndim == 2 and weight.shape[1] == latent + labels:
            bias = name.removesuffix("weight") + "bias"
            changed[name], of_labels = weight.split([latent, labels], dim=1)
            changed[bias] = tensors[bias] + _label_scale(latent) * of_labels.mean(dim=1)
    return changed


def grown(tensors: Mapping[str, Tensor], channels: tuple[int, ...]) -> dict[str, Tensor]:
    """State dict of a `ResidualGenerator` -> of one with more blocks, which only upsample at first.

    One step of progressive growing (Karras et al., "Progressive Growing of GANs", ICLR 2018), without fading in.

    Args:
        tensors: its weights.
        channels: of the other generator; those beyond the first one's must equal its last.
    """
    changed = dict(tensors)
    for i, wide in enumerate(channels):
        if f"stages.{i}.conv2.weight" not in tensors:
            changed[f"stages.{i}.conv2.weight"] = torch.zeros(wide, wide, 3, 3)
            changed[f"stages.{i}.conv2.bias"] = torch.zeros(wide)
    return changed


def spectral(weight: Tensor, u: Tensor, *, learn: bool) -> Tensor:
    """A weight (C, ...) divided by the largest singular value of its matrix (C, -1), by one power iteration.

    Args:
        weight: the optimised weight.
        u: (C,), the estimated left singular vector, of length 1, from the last iteration.
        learn: whether to update u in place.
    """
    matrix = weight.flatten(1)
    with torch.autocast(weight.device.type, enabled=False):
        with torch.no_grad():
            v = F.normalize(u @ matrix, dim=0)
            if learn:
                u.copy_(F.normalize(matrix @ v, dim=0))
            left = u.clone()  # a backward pass may come after the next iteration
        return weight / (left @ (matrix @ v))


class SpectralConv(nn.Conv2d):
    """Convolution of spectral norm 1."""

    u: Tensor

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, pad: int = 0) -> None:
        super().__init__(channels_in, channels_out, kernel, stride, pad)
        self.register_buffer("u", F.normalize(torch.randn(channels_out), dim=0))

    def forward(self, x: Tensor) -> Tensor:
        weight = spectral(self.weight, self.u, learn=self.training)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class ProjectionDiscriminator(nn.Module):
    """Picture and label -> logit (N,) of "real": realism of the picture, plus agreement with the label.

    4x4 convolutions of stride 2, then one that reduces the remaining map to a vector. Its inner product with the
    label's embedding is added (Miyato and Koyama, equation 4). All weights except the embedding have spectral norm 1,
    or none; with spectral norm the sum is multiplied by ten.
    """

    def __init__(
        self,
        *,
        image_size: int,  # side in pixels
        labels: int,  # numbers in a label; 0 for none
        channels: tuple[int, ...],  # of the convolutions
        slope: float,  # of the leaky ReLU
        spectral: bool = True,  # spectral norm; otherwise a map of the standard deviation over the batch is added
    ) -> None:
        super().__init__()
        conv = SpectralConv if spectral else nn.Conv2d
        self.slope, self.spectral = slope, spectral
        self.stages = nn.ModuleList(conv(a, b, 4, 2, 1) for a, b in pairwise([3, *channels]))
        self.whole = conv(channels[-1] + (not spectral), channels[-1], image_size >> len(channels))
        self.head = conv(channels[-1], 1, 1)
        self.embed = nn.Linear(labels, channels[-1], bias=False) if labels else None
        if not spectral:
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Reset all weights to random values."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.reset_parameters()
            if not self.spectral and isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, self.slope)
            elif not self.spectral and isinstance(module, nn.Linear):
                nn.init.zeros_(module.weight)  # of the label: random ones would cause large logits

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        h = x
        for stage in self.stages:
            h = F.leaky_relu(stage(h), self.slope)
        if not self.spectral:  # Karras et al., ICLR 2018, section 3
            deviation = (h.float().var(dim=0, correction=0) + 1e-8).sqrt().mean().to(h.dtype)
            h = torch.cat([h, deviation.expand(len(h), 1, *h.shape[2:])], dim=1)
        h = F.leaky_relu(self.whole(h), self.slope)
        logits: Tensor = self.head(h).flatten().float()
        if self.embed is not None and label is not None:
            logits = logits + (self.embed(label) * h.flatten(1)).float().sum(dim=1)
        return _GAIN * logits if self.spectral else logits
