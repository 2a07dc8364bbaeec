"""Warps of pictures by a smooth flow of displacements, and generators that warp."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclegan_age.networks.blocks import Layered


class WarpingGenerator(Layered, ABC):
    """A generator that warps the picture by a smooth flow and then changes its colours.

    Attributes:
        deform: largest displacement, as a share of the side; 0 disables warping, and there is no `bend` then.
        bend: child whose output (N, 2, h, w), or (2 N, 2, h, w) with mirror images, `flow` converts to a flow.
    """

    deform: float
    bend: nn.Module

    @abstractmethod
    def with_flow(self, x: Tensor, age: Tensor) -> tuple[Tensor, Tensor | None]:
        """As `forward`, and the flow (N, 2, h, w) that `flow` gave, before `warp` smooths it; None without one."""

    @abstractmethod
    def flow(self, h: Tensor) -> Tensor:
        """Output of the child `bend` -> flow (N, 2, h, w): displacements of the sampling points (right, down), shares
        of the side.

        `warp` smooths the flow and warps the picture by it.
        """


def both_ways(x: Tensor) -> Tensor:
    """Pictures (N, C, H, W) followed by their mirror images: (2 N, C, H, W)."""
    return torch.cat([x, x.flip(3)])


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize (N, C, h, w) -> (N, C, H, W): bilinear when enlarging, antialiased when reducing."""
    if x.shape[2:] == tuple(size):
        return x
    return F.interpolate(x, size=list(size), mode="bilinear", antialias=x.shape[2] > size[0])


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """Warp x (N, 3, H, W) by a coarse flow (N, 2, h, w) of displacements (right, down) of the sampling points.

    Displacements are shares of the side. The flow is smoothed over 5x5 cells and interpolated; beyond its edge the
    picture is repeated.
    """
    flow = F.interpolate(smooth_flow(flow), size=x.shape[2:], mode="bilinear", align_corners=False)
    rows = torch.linspace(-1 + 1 / x.shape[2], 1 - 1 / x.shape[2], x.shape[2], device=x.device)
    columns = torch.linspace(-1 + 1 / x.shape[3], 1 - 1 / x.shape[3], x.shape[3], device=x.device)
    places = torch.stack(torch.broadcast_tensors(columns[None, :], rows[:, None]), dim=-1)  # (H, W, 2)
    places = (places + 2 * flow.permute(0, 2, 3, 1)).nan_to_num()  # the CPU kernel would compute addresses from NaN
    return F.grid_sample(x.float(), places, mode="bilinear", padding_mode="border", align_corners=False)


def smooth_flow(flow: Tensor) -> Tensor:
    """A flow (N, 2, h, w) averaged over 5x5 cells; beyond the edge it is 0."""
    if torch.compiler.is_exporting():  # padded pools are wrong at two edges in onnxruntime up to 1.23
        return F.conv2d(flow, flow.new_full((flow.shape[1], 1, 5, 5), 1 / 25), padding=2, groups=flow.shape[1])
    # Two separable passes: otherwise compiled code averages 25 cells for each of the many pixels. Padded separately: a
    # padding pool of PyTorch 2.11 has a wrong gradient on CUDA (github.com/pytorch/pytorch/issues/188344).
    rows = F.avg_pool2d(F.pad(flow, (2, 2, 0, 0)), (1, 5), stride=1)
    return F.avg_pool2d(F.pad(rows, (0, 0, 2, 2)), (5, 1), stride=1)
