"""Pieces that several networks share."""

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval


class Layered(nn.Module):
    """A network whose children are its layers, in the order they run: as a part of another it stands for them."""


class InstanceNorm(nn.Module):
    """Instance normalisation without weights (Ulyanov et al. 2016): each channel of each picture to mean 0, variance 1.

    Written out, so that a compiler can fuse it with its neighbours; the statistics are always fp32. On a flat channel
    the variance is 0 and the result is 0, but for rounding.
    """

    def __init__(self, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps

    def forward(
        self, x: Tensor, *, slope: float = 1.0, residual: Tensor | None = None, affine: Tensor | None = None
    ) -> Tensor:
        """Normalise x (N, C, H, W), then apply the rest, in one pass where that is fused.

        Args:
            slope: what negative values are multiplied by.
            residual: shaped as x, added at the end.
            affine: (N, 2, C) float32, scale and shift of each channel, before negative values are multiplied.
        """
        if on_kernels(x):
            from cyclegan_age.networks.kernels import InstanceNormFunction  # needs Triton

            fused: Tensor = InstanceNormFunction.apply(x, residual, self.eps, slope, affine)
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
        out = leaky(out.to(x.dtype), slope)
        return out if residual is None else residual + out


_USE_KERNELS = [False]


def use_kernels(on: bool) -> None:
    """Whether what stands between convolutions runs on a GPU by this package's kernels (`networks.kernels`)."""
    _USE_KERNELS[0] = on


def on_kernels(x: Tensor) -> bool:
    """Whether this package's kernels are to do what can be done by them."""
    return _USE_KERNELS[0] and x.is_cuda and not torch.compiler.is_compiling()


class LeakyReLU(nn.Module):
    """Leaky ReLU, negative values times 0.2."""

    slope = 0.2

    def forward(self, x: Tensor) -> Tensor:
        return leaky(x, self.slope)


def leaky(x: Tensor, slope: float) -> Tensor:
    """Negative values times `slope`: 0 is ReLU, 1 leaves all as it is."""
    if slope == 1:
        return x
    if slope == 0:
        return F.relu(x)
    if not compiled_to_learn():
        return F.leaky_relu(x, slope)
    # The same, for whose gradient no truth values are kept: compiled, these are written one by one.
    return x * ((1 + slope) / 2 + (1 - slope) / 2 * x.detach().sign())


Affine: TypeAlias = Mapping[nn.Module, tuple[Tensor, Tensor]]  # batch norm -> scales and biases (C,)


def affine(network: nn.Module) -> Affine:
    """What the batch norms of a network in eval mode come to, computed for all of them at once; differentiable."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return {}
    weight, bias = (torch.cat([getattr(norm, k) for norm in norms]) for k in ("weight", "bias"))
    mean, variance = (torch.cat([getattr(norm, k) for norm in norms]) for k in ("running_mean", "running_var"))
    scales = weight * torch.rsqrt(variance + norms[0].eps)
    biases, sizes = bias - mean * scales, [norm.num_features for norm in norms]
    return dict(zip(norms, zip(scales.split(sizes), biases.split(sizes), strict=True), strict=True))


def convolved(
    x: Tensor,
    conv: nn.Conv2d,
    norm: nn.Module | None = None,
    *,
    slope: float = 1.0,
    residual: Tensor | None = None,
    norms: Affine | None = None,
) -> Tensor:
    """Convolution -> batch norm -> a residual added -> negative values times `slope`.

    By kernels, what follows the convolution is done in one pass where the batch norm is in eval mode.

    Args:
        x: (N, C, H, W).
        conv: without biases where there is a batch norm.
        norm: batch norm; None or an identity for none.
        slope: 0 is ReLU, 1 leaves all as it is.
        residual: of the shape of the result.
        norms: of the network, as `affine` gives them; without it the batch norm is computed for itself.
    """
    if not on_kernels(x) or (isinstance(norm, nn.BatchNorm2d) and norm.training):
        h = conv(x)
        h = norm(h) if norm is not None else h
        return leaky(h if residual is None else h + residual, slope)
    h = F.conv2d(x, conv.weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)
    if isinstance(norm, nn.BatchNorm2d):
        scales, bias = (norms or affine(norm))[norm]
        return biased(h, bias[None, None, None], residual, slope=slope, scales=scales)
    if conv.bias is None:
        return leaky(h if residual is None else h + residual, slope)
    return biased(h, conv.bias.float()[None, None, None], residual, slope=slope)


def biased(
    x: Tensor,
    biases: Tensor,
    residual: Tensor | None = None,
    *,
    slope: float = 1.0,
    first: int = 0,
    last: int = 0,
    scales: Tensor | None = None,
) -> Tensor:
    """See `kernels.BiasFunction`."""
    from cyclegan_age.networks.kernels import BiasFunction  # needs Triton

    out: Tensor = BiasFunction.apply(x, biases, residual, float(slope), math.inf, first, last, scales)
    return out


def fused(conv: nn.Module, norm: nn.Module) -> tuple[nn.Conv2d, nn.Module]:
    """A convolution that does a batch norm in eval mode, too, and what stands in the place of that."""
    assert isinstance(conv, nn.Conv2d)
    if not isinstance(norm, nn.BatchNorm2d):
        return conv, norm
    return fuse_conv_bn_eval(conv, norm), nn.Identity()


def widened(conv: nn.Module, more_in: int, more_out: int) -> nn.Conv2d:
    """A convolution that takes and gives so many more channels, which it ignores and which are 0."""
    assert isinstance(conv, nn.Conv2d)
    wide = deepcopy(conv)
    wide.in_channels, wide.out_channels = conv.in_channels + more_in, conv.out_channels + more_out
    wide.weight.data = F.pad(conv.weight.data, (0, 0, 0, 0, 0, more_in, 0, more_out))
    if wide.bias is not None:
        wide.bias.data = F.pad(wide.bias.data, (0, more_out))
    return wide


def halve(network: nn.Module) -> None:
    """Keep the weights of a frozen network's convolutions and matrices as autocast would make them, in bf16."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.data = module.weight.data.bfloat16()


@runtime_checkable
class Freezable(Protocol):
    """A network that can be made faster for good once it only runs in bf16 on a GPU and nothing in it changes."""

    def freeze(self) -> None: ...


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
        self.pad = pad = (kernel - 1) // 2
        self.reflect = pad if reflect else 0
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, 0 if reflect else pad, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.reflect:
            x = reflected(x, self.reflect)
        out: Tensor = self.conv(x)
        return out


def reflected(x: Tensor, pad: int) -> Tensor:
    """Padded by reflection: (N, C, H, W) -> (N, C, H + 2 pad, W + 2 pad)."""
    if on_kernels(x):
        from cyclegan_age.networks.kernels import ReflectionPadFunction  # needs Triton

        out: Tensor = ReflectionPadFunction.apply(x, pad)
        return out
    return F.pad(x, (pad,) * 4, mode="reflect")


class MeanPool(nn.Module):
    """Means of 2x2 pixels, at odd edges of those that there are: (N, C, H, W) -> (N, C, (H + 1) / 2, (W + 1) / 2)."""

    def forward(self, x: Tensor) -> Tensor:
        if on_kernels(x):
            from cyclegan_age.networks.kernels import MeanPoolFunction  # needs Triton

            out: Tensor = MeanPoolFunction.apply(x)
            return out
        return F.avg_pool2d(x, 2, ceil_mode=True)


class UpConv(nn.Module):
    """Twice the size: a fractionally-strided convolution, or nearest-neighbour resize and a convolution.

    The resize form has no checkerboards (Odena et al., "Deconvolution and Checkerboard Artifacts", Distill 2016).
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
        out: Tensor = self.conv(doubled(x) if self.resize else x)
        return out

    def before_norm(self, x: Tensor) -> Tensor:
        """The same where an instance norm follows: it removes the biases, so by kernels there are none."""
        if not on_kernels(x):
            out: Tensor = self(x)
            return out
        if self.resize:
            return F.conv_transpose2d(x, doubling(self.conv.weight), stride=2, padding=1)
        return F.conv_transpose2d(x, self.conv.weight, stride=2, padding=1, output_padding=1)


def doubling(weight: Tensor) -> Tensor:
    """What a transposed convolution of stride 2 takes to do `doubled` and a 3x3 one: (O, C, 3, 3) -> (C, O, 4, 4).

    At each pixel it multiplies 4 weights where the convolution multiplies 9.
    """
    wide = F.pad(weight.float(), (1, 1, 1, 1))
    rows = wide[:, :, 1:] + wide[:, :, :-1]
    return (rows[..., 1:] + rows[..., :-1]).flip(2, 3).transpose(0, 1)


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
