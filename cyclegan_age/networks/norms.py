"""Normalisation and leaky ReLU after convolutions, by elementary operations or the GPU kernels."""

import math
from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval


class InstanceNorm(nn.Module):
    """Instance normalisation without weights (Ulyanov et al. 2016): each channel of each picture to mean 0, variance 1.

    Implemented by elementary operations, so that a compiler can fuse them; the statistics are always fp32. A constant
    channel has variance 0 and output 0, up to rounding.
    """

    def __init__(self, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps

    def forward(
        self, x: Tensor, *, slope: float = 1.0, residual: Tensor | None = None, affine: Tensor | None = None
    ) -> Tensor:
        """Normalise x (N, C, H, W), then apply the rest, in one fused pass where possible.

        Args:
            slope: negative slope of a leaky ReLU.
            residual: shaped as x, added at the end.
            affine: (N, 2, C) float32, scale and shift of each channel, applied before the leaky ReLU.
        """
        if on_kernels(x):
            from cyclegan_age.networks.kernels import InstanceNormFunction  # needs Triton

            fused: Tensor = InstanceNormFunction.apply(x, residual, self.eps, slope, affine)
            return fused
        if traced_for_training():
            variance, mean = torch.var_mean(x.float(), dim=(2, 3), correction=0, keepdim=True)
            out = (x.float() - mean) * torch.rsqrt(variance + self.eps)
        else:
            # Equivalent, several times faster for channels-last tensors without compilation.
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
    """Switch the project's GPU kernels between convolutions (`networks.kernels`) on or off."""
    _USE_KERNELS[0] = on


def on_kernels(x: Tensor) -> bool:
    """Whether the project's kernels apply to x."""
    return _USE_KERNELS[0] and x.is_cuda and not torch.compiler.is_compiling()


class LeakyReLU(nn.Module):
    """Leaky ReLU with negative slope 0.2."""

    slope = 0.2

    def forward(self, x: Tensor) -> Tensor:
        return leaky(x, self.slope)


def leaky(x: Tensor, slope: float) -> Tensor:
    """Leaky ReLU with negative slope `slope`: 0 is ReLU, 1 the identity."""
    if slope == 1:
        return x
    if slope == 0:
        return F.relu(x)
    if not traced_for_training():
        return F.leaky_relu(x, slope)
    # Equivalent, but the gradient stores no boolean mask: compiled code writes masks one by one.
    return x * ((1 + slope) / 2 + (1 - slope) / 2 * x.detach().sign())


Affine: TypeAlias = Mapping[nn.Module, tuple[Tensor, Tensor]]  # batch norm -> scales and biases (C,)


def affine(network: nn.Module) -> Affine:
    """Scales and biases of all batch norms of a network in eval mode, computed together; differentiable."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return {}
    weight, bias = (torch.cat([getattr(norm, k) for norm in norms]) for k in ("weight", "bias"))
    mean, variance = (torch.cat([getattr(norm, k) for norm in norms]) for k in ("running_mean", "running_var"))
    scales = weight * torch.rsqrt(variance + norms[0].eps)
    biases, sizes = bias - mean * scales, [norm.num_features for norm in norms]
    return dict(zip(norms, zip(scales.split(sizes), biases.split(sizes), strict=True), strict=True))


def conv_norm(
    x: Tensor,
    conv: nn.Conv2d,
    norm: nn.Module | None = None,
    *,
    slope: float = 1.0,
    residual: Tensor | None = None,
    norms: Affine | None = None,
) -> Tensor:
    """Convolution -> batch norm -> addition of a residual -> leaky ReLU.

    With kernels, everything after the convolution is one pass if the batch norm is in eval mode.

    Args:
        x: (N, C, H, W).
        conv: without biases if there is a batch norm.
        norm: batch norm; None or an identity for none.
        slope: negative slope; 0 is ReLU, 1 the identity.
        residual: of the shape of the result.
        norms: scales and biases of the network by `affine`; without them they are computed here.
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


def fold_norm(conv: nn.Module, norm: nn.Module) -> tuple[nn.Conv2d, nn.Module]:
    """A convolution with a batch norm in eval mode folded into it, and the identity that replaces the batch norm."""
    assert isinstance(conv, nn.Conv2d)
    if not isinstance(norm, nn.BatchNorm2d):
        return conv, norm
    return fuse_conv_bn_eval(conv, norm), nn.Identity()


def traced_for_training() -> bool:
    """Whether `torch.compile` traces this with gradients; false during an export."""
    return torch.compiler.is_dynamo_compiling() and torch.is_grad_enabled()
