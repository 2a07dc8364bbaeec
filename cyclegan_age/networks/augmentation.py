"""Differentiable augmentation of what a discriminator sees (Zhao et al., NeurIPS 2020, section 4)."""

import torch
from torch import Tensor
from torch.nn import functional as F


def augmented(x: Tensor, *, shift: float = 0.125, hole: float = 0.3) -> Tensor:
    """Pictures (N, 3, S, S) in other light, colour and contrast, shifted, with a square hole; differentiable.

    Real and generated pictures are to be augmented alike. Each picture is by random numbers of its own, from the
    default generator of its device.

    Args:
        x: in [-1, 1]; the result may leave that range.
        shift: how far pictures are shifted at most, as a share of the side; what enters is 0.
        hole: side of the hole, as a share of the picture's; it is 0.
    """
    n, _, height, width = x.shape
    draw = torch.rand(n, 7, 1, 1, 1, device=x.device).unbind(1)
    x = x.float() + 0.6 * (draw[0] - 0.5)
    grey = x.mean(dim=1, keepdim=True)
    x = grey + (x - grey) * (0.4 + 1.2 * draw[1])
    middle = x.mean(dim=(1, 2, 3), keepdim=True)
    x = middle + (x - middle) * (0.7 + 0.6 * draw[2])
    across, down = ((2 * shift * (d - 0.5)).squeeze(1) for d in draw[3:5])  # (N, 1, 1), shares of the side
    rows = (torch.arange(height, device=x.device) + 0.5)[None, :, None] / height
    columns = (torch.arange(width, device=x.device) + 0.5)[None, None, :] / width
    at = torch.stack(torch.broadcast_tensors(columns + across, rows + down), dim=3) * 2 - 1
    x = F.grid_sample(x, at, mode="bilinear", padding_mode="zeros", align_corners=False)
    away = [(place - d.squeeze(1)).abs() < hole / 2 for place, d in ((columns, draw[5]), (rows, draw[6]))]
    return x * ~(away[0] & away[1])[:, None]
