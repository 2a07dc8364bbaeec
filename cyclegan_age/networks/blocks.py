"""Pieces that several networks share."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class InstanceNorm(nn.Module):
    """Instance normalisation without weights (Ulyanov et al. 2016): each channel of each picture to mean 0, variance 1.

    Written out, so that a compiler can fuse it with its neighbours; the statistics are always fp32. On a flat channel
    the variance is 0 and the result is 0, but for rounding.
    """

    def __init__(self, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps

    def forward(
        self, x: Tensor, *, relu: bool = False, residual: Tensor | None = None, affine: Tensor | None = None
    ) -> Tensor:
        """Normalise x (N, C, H, W), then apply the rest, in one pass where that is fused.

        Args:
            relu: apply ReLU.
            residual: shaped as x, added at the end.
            affine: (N, 2, C) float32, scale and shift of each channel, before the ReLU.
        """
        if _on_kernels(x):
            from cyclegan_age.networks.kernels import InstanceNormFunction  # needs Triton

            fused: Tensor = InstanceNormFunction.apply(x, residual, self.eps, relu, affine)
            return fused
        if compiled_to_learn():
            variance, mean = torch.var_mean(x.float(), dim=(2, 3), correction=0, keepdim=True)
            out = (x.float() - mean) * torch.rsqrt(variance + self.eps)
        else:
            # The same, several times faster where the channels come last and nothing is compiled.
            middle = x.float() - x.float().mean(dim=(2, 3), keepdim=True)
            variance = middle.square().mean(dim=(2, 3), keepdim=True)
            out = middle * torch.rsqrt(variance + self.eps)
        if affine is not None:
            scale, shift = affine[:, :, :, None, None].unbind(1)
            out = out * scale + shift
        out = out.to(x.dtype)
        if relu:
            out = F.relu(out)
        return out if residual is None else residual + out


_USE_KERNELS = [False]


def use_kernels(on: bool) -> None:
    """Whether instance norm and reflection padding on a GPU run by this package's kernels (`networks.kernels`)."""
    _USE_KERNELS[0] = on


def _on_kernels(x: Tensor) -> bool:
    return _USE_KERNELS[0] and x.is_cuda and not torch.compiler.is_compiling()


class LeakyReLU(nn.Module):
    """Leaky ReLU, negative values times 0.2."""

    def forward(self, x: Tensor) -> Tensor:
        if not compiled_to_learn():
            return F.leaky_relu(x, 0.2)
        # The same, for whose gradient no truth values are kept: compiled, these are written one by one.
        return x * (0.6 + 0.4 * x.detach().sign())


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
            x = reflected(x, self.reflect)
        out: Tensor = self.conv(x)
        return out


def reflected(x: Tensor, pad: int) -> Tensor:
    """Padded by reflection: (N, C, H, W) -> (N, C, H + 2 pad, W + 2 pad)."""
    if _on_kernels(x):
        from cyclegan_age.networks.kernels import ReflectionPadFunction  # needs Triton

        out: Tensor = ReflectionPadFunction.apply(x, pad)
        return out
    return F.pad(x, (pad,) * 4, mode="reflect")


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
            x = doubled(x)
        out: Tensor = self.conv(x)
        return out


def doubled(x: Tensor) -> Tensor:
    """Each pixel as 2x2 of them: (N, C, H, W) -> (N, C, 2 H, 2 W)."""
    if not compiled_to_learn():
        if x.is_cuda:
            with torch.autocast("cuda", enabled=False):  # which would make it fp32
                return F.interpolate(x, scale_factor=2.0, mode="nearest")
        return F.interpolate(x, scale_factor=2.0, mode="nearest")
    # The same, with a gradient that is a sum: that of `interpolate` is compiled into one atomic addition per pixel.
    n, c, h, w = x.shape
    spread = x.permute(0, 2, 3, 1)[:, :, None, :, None].expand(n, h, 2, w, 2, c)
    return spread.reshape(n, 2 * h, 2 * w, c).permute(0, 3, 1, 2)


def compiled_to_learn() -> bool:
    """Whether this is being traced for `torch.compile`, gradients included; an export is not."""
    return torch.compiler.is_dynamo_compiling() and torch.is_grad_enabled()


def init_weights(network: nn.Module, std: float = 0.02) -> None:
    """CycleGAN's start: convolution weights from N(0, std), biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def seen(x: Tensor, window: Sequence[float], size: int) -> Tensor:
    """What a network of square pictures is shown: a part of x (N, C, S, S), resized to (N, C, size, size).

    Args:
        window: left, top and side of the part, as shares of S; empty for all of it.
        size: the network's own.
    """
    if window:
        left, top, side = (round(share * x.shape[3]) for share in window)
        x = x[:, :, top : top + side, left : left + side]
    if x.shape[2:] == (size, size):
        return x
    return F.interpolate(x, size=(size, size), mode="bilinear", antialias=True)
