"""Random views of pictures, for the training of estimators and embedders, and for discriminators and estimators."""

import torch
from torch import Tensor
from torch.nn import functional as F

from cyclegan_age.devices import widest_float


def augment(x: Tensor, strength: float = 1.0) -> Tensor:
    """Random mirror, rotation, scale, shift, blur, light, colour and noise: (N, 3, H, W) in [-1, 1] -> same.

    Args:
        x: the pictures.
        strength: how strong and how frequent all but the mirroring are, from 0 to 1.
    """
    return recolour(move(x, strength=strength)[0], strength)


def move(x: Tensor, masks: Tensor | None = None, strength: float = 1.0) -> tuple[Tensor, Tensor]:
    """Random mirror, rotation, scale and shift, as in `augment`; what is beyond the edge is mirrored.

    Args:
        x: the pictures.
        masks: (N, C, H, W), to be moved as their pictures are, by nearest neighbours.
        strength: see `augment`.

    Returns:
        The pictures, and the masks, or the pictures again where there are none.
    """
    n, device = len(x), x.device
    angle, scale = _around(x, 0, 0.18 * strength)[:, 0, 0, 0], _around(x, 1, 0.12 * strength)[:, 0, 0, 0]
    mirror = torch.where(torch.rand(n, device=device) < 0.5, -1.0, 1.0)
    affine = torch.stack(
        [
            torch.stack([angle.cos() * scale * mirror, -angle.sin() * scale], dim=1),
            torch.stack([angle.sin() * scale * mirror, angle.cos() * scale], dim=1),
        ],
        dim=1,
    )  # (N, 2, 2)
    shift = _around(x, 0, 0.08 * strength, 2)[:, :, :, 0]  # (N, 2, 1)
    grid = F.affine_grid(torch.cat([affine, shift], dim=2), list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    if masks is None:
        return x, x
    return x, F.grid_sample(masks, grid, mode="nearest", padding_mode="reflection", align_corners=False)


def recolour(x: Tensor, strength: float = 1.0) -> Tensor:
    """Random blur, light, colour and noise, as in `augment`."""
    size = x.shape[-1]
    half = F.interpolate(x, size=(size // 2, size // 2), mode="bilinear", antialias=True)
    blurred = F.interpolate(half, size=(size, size), mode="bilinear")
    x = torch.where(_uniform(x, 0, 1) < 0.2 * strength, blurred, x)
    x = (x + 1) * _around(x, 1, 0.1 * strength, 3) * _around(x, 1, 0.25 * strength) - 1
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    x = (x - mean) * _around(x, 1, 0.25 * strength) + mean
    x = torch.lerp(x, x.mean(dim=1, keepdim=True), strength * _uniform(x, -0.4, 1.0).clamp_min(0))
    noise = torch.where(_uniform(x, 0, 1) < 0.3 * strength, _uniform(x, 0, 0.12), 0.0)
    return (x + noise * torch.randn_like(x)).clamp(-1, 1)


def _uniform(x: Tensor, low: float, high: float, channels: int = 1) -> Tensor:
    """Random numbers (N, channels, 1, 1) for pictures x."""
    return torch.rand(len(x), channels, 1, 1, device=x.device) * (high - low) + low


def _around(x: Tensor, middle: float, most: float, channels: int = 1) -> Tensor:
    """The same, at most so far from the middle."""
    return middle + _uniform(x, -most, most, channels)


def diff_augment(x: Tensor, strength: float = 1.0) -> Tensor:
    """A random augmentation of each picture of a batch (N, 3, S, S) in [-1, 1], differentiable; may exceed that range.

    DiffAugment (Zhao et al., "Differentiable Augmentation for Data-Efficient GAN Training", NeurIPS 2020): brightness,
    saturation and contrast; a translation by up to 1/8 of the side; a grey square of half the side at a random
    position.

    Args:
        strength: scale of these ranges, and of that square's side.
    """
    count, size = len(x), x.shape[-1]
    draw = torch.rand(7, count, 1, 1, 1, device=x.device)
    x = x.float() + strength * (draw[0] - 0.5)
    grey = x.mean(dim=1, keepdim=True)
    x = (x - grey) * (1 + strength * (2 * draw[1] - 1)) + grey
    middle = x.mean(dim=(1, 2, 3), keepdim=True)
    x = (x - middle) * (1 + strength * (draw[2] - 0.5)) + middle

    at = torch.arange(size, device=x.device)
    most = int(strength * size / 8)
    shift = (draw[3:5] * (2 * most + 1)).floor() - most  # (2, N, 1, 1, 1) pixels, down and to the right
    moved = (at[:, None] - at == shift).float()  # (2, N, 1, S, S), source pixel of each pixel
    with torch.autocast(x.device.type, enabled=False):
        x = moved[0] @ x @ moved[1].mT
    centre = (draw[5:7] * (size + 1 - size % 2)).floor()
    near = (at - centre).abs() < strength * size / 4  # (2, N, 1, 1, S), rows and columns of the square
    return x.masked_fill(near[0].mT & near[1], 0)


def random_view(x: Tensor) -> Tensor:
    """A random view of a batch (N, 3, H, W), differentiable: crop, colour, light, contrast, half the time blur or grey.

    What an estimator in the loss is shown, so that the generator cannot please it by patterns of single pixels.
    """
    size, draw = x.shape[-1], torch.rand(7, device=x.device)
    fine = draw[:3].to(widest_float(x.device))
    side = (size * (0.86 + 0.14 * fine[0])).floor().float()
    first = (fine[1:] * (size - side + 1)).floor().float()  # (2,), top and left
    half = torch.full_like(side, size // 2)
    with torch.autocast(x.device.type, enabled=False):
        blur = resizing(size // 2, size, 0 * first, half) @ resizing(size, size // 2, first, side)
        rows, columns = torch.where(draw[3] < 0.5, blur, resizing(size, size, first, side))
        x = rows @ x.float() @ columns.T
    x = torch.where(draw[6] < 0.5, x.mean(dim=1, keepdim=True), x)  # or else tints show an age
    tint, contrast = 0.8 + 0.4 * torch.rand(1, 3, 1, 1, device=x.device), 0.85 + 0.3 * draw[4]
    # ((x + 1) tint - 1) contrast + light, in one pass over the pictures
    x = torch.addcmul((tint - 1) * contrast + 0.2 * (draw[5] - 0.5), x, tint * contrast)
    return torch.add(x, torch.randn(x.shape, device=x.device), alpha=0.02)


def resizing(pixels: int, out: int, first: Tensor, count: Tensor) -> Tensor:
    """Matrices (M, out, pixels) that take a row of pixels to a part of it, resized: bilinear, without aliases.

    They do what `F.interpolate(antialias=True)` does, but to a part that only the device knows.

    Args:
        pixels: length of the row.
        out: what the part is resized to.
        first: (M,), number of the first pixel of each part.
        count: (), pixels in a part.
    """
    scale = count / out
    centre = (torch.arange(out, device=first.device) + 0.5) * scale  # of each output pixel, in the part
    at = torch.arange(pixels, device=first.device) + 0.5 - first[:, None]  # (M, pixels), of each pixel there
    weight = (1 - (at[:, None, :] - centre[:, None]).abs() / scale.clamp_min(1)).clamp_min(0)
    weight = weight * ((at > 0) & (at < count))[:, None, :]
    return weight / weight.sum(dim=2, keepdim=True)
