"""Pieces that several networks share."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class InstanceNorm(nn.Module):
    """Instance normalisation without weights (Ulyanov et al. 2016): each channel of each picture to mean 0, variance 1.

    Written out, so that a compiler can fuse it with its neighbours; the statistics are always fp32. On a flat channel
    the variance is 0 and the result is 0.
    """

    def __init__(self, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x.float(), dim=(2, 3), correction=0, keepdim=True)
        return ((x.float() - mean) * torch.rsqrt(variance + self.eps)).to(x.dtype)


class Conv(nn.Module):
    """Convolution that keeps (or, with a stride, divides) the size, zero or reflection padded."""

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
        pad = (kernel - 1) // 2
        self.reflect = pad if reflect else 0
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, 0 if reflect else pad, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.reflect:
            x = F.pad(x, (self.reflect,) * 4, mode="reflect")
        out: Tensor = self.conv(x)
        return out


class UpConv(nn.Module):
    """Twice the size: a fractionally-strided convolution, or nearest-neighbour resize and a convolution.

    The resize form has no checkerboards (Odena et al., "Deconvolution and Checkerboard Artifacts", Distill 2016).
    """

    def __init__(self, *, channels_in: int, channels_out: int, resize: bool) -> None:
        super().__init__()
        self.resize = resize
        self.conv: nn.Module = (
            nn.Conv2d(channels_in, channels_out, 3, padding=1)
            if resize
            else nn.ConvTranspose2d(channels_in, channels_out, 3, stride=2, padding=1, output_padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.resize:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        out: Tensor = self.conv(x)
        return out


def init_weights(network: nn.Module, std: float = 0.02) -> None:
    """CycleGAN's start: convolution weights from N(0, std), biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
