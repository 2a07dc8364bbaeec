"""Building blocks of several networks."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclegan_age.networks.norms import on_kernels, traced_for_training


class Layered(nn.Module):
    """A network whose children are its layers, in the order they run: as a part of another it stands for them."""


def pad_channels(conv: nn.Module, more_in: int, more_out: int) -> nn.Conv2d:
    """A convolution with additional input channels, which it ignores, and output channels, which are 0."""
    assert isinstance(conv, nn.Conv2d)
    wide = deepcopy(conv)
    wide.in_channels, wide.out_channels = conv.in_channels + more_in, conv.out_channels + more_out
    wide.weight.data = F.pad(conv.weight.data, (0, 0, 0, 0, 0, more_in, 0, more_out))
    if wide.bias is not None:
        wide.bias.data = F.pad(wide.bias.data, (0, more_out))
    return wide


def to_bf16(network: nn.Module) -> None:
    """Convert the weights of a frozen network's convolutions and matrices to bf16, as autocast would."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.data = module.weight.data.bfloat16()


@runtime_checkable
class Freezable(Protocol):
    """A network with an irreversible conversion to a faster inference form, in bf16 on a GPU."""

    def freeze(self) -> None: ...


class Conv(nn.Module):
    """Convolution that keeps the size, or divides it by the stride, with zero or reflection padding."""

    def __init__(
        self,
        *,
        channels_in: int,
        channels_out: int,
        kernel: int,  # side of the kernel in pixels
        stride: int = 1,
        reflect: bool = False,  # pad by reflection instead of zeros
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.pad = pad = (kernel - 1) // 2
        self.reflect = pad if reflect else 0
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, 0 if reflect else pad, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.reflect:
            x = reflection_pad(x, self.reflect)
        out: Tensor = self.conv(x)
        return out


def reflection_pad(x: Tensor, pad: int) -> Tensor:
    """Reflection padding: (N, C, H, W) -> (N, C, H + 2 pad, W + 2 pad)."""
    if on_kernels(x):
        from cyclegan_age.networks.kernels import ReflectionPadFunction  # needs Triton

        out: Tensor = ReflectionPadFunction.apply(x, pad)
        return out
    return F.pad(x, (pad,) * 4, mode="reflect")


class MeanPool(nn.Module):
    """Means of 2x2 pixels, at odd edges of fewer: (N, C, H, W) -> (N, C, (H + 1) / 2, (W + 1) / 2)."""

    def forward(self, x: Tensor) -> Tensor:
        if on_kernels(x):
            from cyclegan_age.networks.kernels import MeanPoolFunction  # needs Triton

            out: Tensor = MeanPoolFunction.apply(x)
            return out
        return F.avg_pool2d(x, 2, ceil_mode=True)


class UpConv(nn.Module):
    """Upsampling by 2: a transposed convolution, or nearest-neighbour resize and a convolution.

    The resize form avoids checkerboards (Odena et al., "Deconvolution and Checkerboard Artifacts", Distill 2016).
    """

    def __init__(self, *, channels_in: int, channels_out: int, resize: bool) -> None:
        super().__init__()
        self.resize = resize
        self.conv: nn.Conv2d | nn.ConvTranspose2d = (
            nn.Conv2d(channels_in, channels_out, 3, padding=1)
            if resize
            else nn.ConvTranspose2d(channels_in, channels_out, 3, stride=2, padding=1, output_padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(upsample(x) if self.resize else x)
        return out

    def before_norm(self, x: Tensor) -> Tensor:
        """The same before an instance norm, which removes the biases; the kernels omit them."""
        if not on_kernels(x):
            out: Tensor = self(x)
            return out
        if self.resize:
            return F.conv_transpose2d(x, upsample_weight(self.conv.weight), stride=2, padding=1)
        return F.conv_transpose2d(x, self.conv.weight, stride=2, padding=1, output_padding=1)


def upsample_weight(weight: Tensor) -> Tensor:
    """Weight of a transposed convolution of stride 2 equal to `upsample` and a 3x3 one: (O, C, 3, 3) -> (C, O, 4, 4).

    Each pixel takes 4 multiplications instead of 9.
    """
    wide = F.pad(weight.float(), (1, 1, 1, 1))
    rows = wide[:, :, 1:] + wide[:, :, :-1]
    return (rows[..., 1:] + rows[..., :-1]).flip(2, 3).transpose(0, 1)


def upsample(x: Tensor) -> Tensor:
    """Nearest-neighbour upsampling by 2: (N, C, H, W) -> (N, C, 2 H, 2 W)."""
    if not traced_for_training():
        if x.is_cuda:
            with torch.autocast("cuda", enabled=False):  # which would cast it to fp32
                return F.interpolate(x, scale_factor=2.0, mode="nearest")
        return F.interpolate(x, scale_factor=2.0, mode="nearest")
    # Equivalent, with a sum as its gradient: `interpolate` compiles to one atomic addition per pixel.
    n, c, h, w = x.shape
    spread = x.permute(0, 2, 3, 1)[:, :, None, :, None].expand(n, h, 2, w, 2, c)
    return spread.reshape(n, 2 * h, 2 * w, c).permute(0, 3, 1, 2)


def init_weights(network: nn.Module, std: float = 0.02) -> None:
    """CycleGAN's initialisation: convolution weights from N(0, std), biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def crop_input(x: Tensor, window: Sequence[float], size: int) -> Tensor:
    """Input of a network for square pictures: a crop of x (N, C, S, S), resized to (N, C, size, size).

    Args:
        window: left, top and side of the crop, as shares of S; empty for everything.
        size: input size of the network.
    """
    if window:
        left, top, side = (round(share * x.shape[3]) for share in window)
        x = x[:, :, top : top + side, left : left + side]
    if x.shape[2:] == (size, size):
        return x
    return F.interpolate(x, size=(size, size), mode="bilinear", antialias=True)
