"""Regions of a head, and statistics of real heads in each region."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

REGIONS = ("hair", "face", "neck")

_EDGE = 3  # width of a region's edge, in cells of its mask


class Regions:
    """Soft masks of heads, all (N, C, s, s) float32 in [0, 1].

    Args:
        probabilities: (N, 5, s, s), see `FaceParser.probabilities`; s is 64 for a head that fills the picture.

    Attributes:
        head: C = 1; hair, face and neck, grown by a pixel with a soft edge.
        parts: C = 3; `REGIONS`. The margin that `head` is grown by belongs to none of them: it shows the background.
    """

    def __init__(self, probabilities: Tensor) -> None:
        _, face, hair, neck, _ = probabilities.split(1, dim=1)
        self.head = F.avg_pool2d(F.max_pool2d(face + hair + neck, 3, 1, 1), 3, 1, 1)
        self.parts = torch.cat([hair, face, neck], dim=1)

    @property
    def inner(self) -> Tensor:
        """`parts` without their edges, where features also contain the neighbouring region."""
        return -F.max_pool2d(-self.parts, 2 * _EDGE + 1, 1, _EDGE)

    def cut_out(self, x: Tensor, background: Tensor | float) -> Tensor:
        """Pictures (N, 3, S, S) with all but the head replaced by a background: (N, 3, 1, 1) or one number."""
        head = F.interpolate(self.head, size=x.shape[2:], mode="bilinear")
        return x * head + background * (1 - head)


def _finish(means: "RegionMeans", keys: object) -> None:
    means.finish()


class RegionMeans(nn.Module):
    """Mean feature maps of real heads of each kind, per region, and from them target features for a head.

    After Upchurch et al., "Deep Feature Interpolation for Image Content Changes" (CVPR 2017): the difference between
    the means of two ages is added to a face's features to age it. At each position the mean is over the heads that have
    the region there. Where these are few it is shrunk towards the region's mean over all positions. So grey is added to
    the hair itself, not to the usual position of hair. The heads must be aligned.
    """

    counts: Tensor
    seen: Tensor

    def __init__(
        self,
        *,
        shapes: Sequence[tuple[int, int, int]],  # of the maps: (C, h, w)
        kinds: int,  # of heads
        prior: float = 30.0,  # weight of the mean over all positions, in heads
    ) -> None:
        super().__init__()
        self.prior, self.shapes, self.kinds = prior, tuple(shapes), kinds
        for i, (channels, h, w) in enumerate(shapes):
            self.register_buffer(f"sums{i}", torch.zeros(kinds, len(REGIONS), channels * h * w))
            self.register_buffer(f"shares{i}", torch.zeros(kinds, len(REGIONS), h * w))
            self.register_buffer(f"moments{i}", torch.zeros(2, channels * h * w))  # sums of values and of squares
            self.register_buffer(f"means{i}", torch.zeros(kinds, len(REGIONS), channels * h * w), persistent=False)
            self.register_buffer(f"variance{i}", torch.ones(channels), persistent=False)
        self.register_buffer("counts", torch.zeros(kinds))
        self.register_buffer("seen", torch.zeros(()))
        self.register_load_state_dict_post_hook(_finish)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def add(self, maps: Sequence[Tensor], kinds: Tensor, parts: Tensor) -> None:
        """Accumulate real heads.

        Args:
            maps: (N, C, h, w) each.
            kinds: (N, kinds, 3), weight of each kind for each region.
            parts: (N, 3, s, s), see `Regions`; the inner ones, or a forehead's mean would contain fringes.
        """
        self.counts += kinds.mean(dim=2).sum(dim=0)
        self.seen += len(kinds)
        for i, h in enumerate(maps):
            masks = F.adaptive_avg_pool2d(parts, (h.shape[2], h.shape[3]))
            self.get_buffer(f"sums{i}").add_(torch.einsum("nkr,nrhw,nchw->krchw", kinds, masks, h).flatten(2))
            self.get_buffer(f"shares{i}").add_(torch.einsum("nkr,nrhw->krhw", kinds, masks).flatten(2))
            self.get_buffer(f"moments{i}").add_(torch.stack([h.sum(dim=0), h.square().sum(dim=0)]).flatten(1))

    @torch.no_grad()
    def finish(self) -> None:
        """Compute means and variances from the accumulated sums; `forward` uses them."""
        for i, (channels, h, w) in enumerate(self.shapes):
            sums = self.get_buffer(f"sums{i}").unflatten(2, (channels, h * w))
            shares = self.get_buffer(f"shares{i}")[:, :, None]
            overall = sums.sum(dim=3, keepdim=True) / shares.sum(dim=3, keepdim=True).clamp_min(1e-3)
            means = (sums + self.prior * overall) / (shares + self.prior)
            self.get_buffer(f"means{i}").copy_(means.flatten(2))
            mean, square = (self.get_buffer(f"moments{i}") / self.seen.clamp_min(1)).unflatten(1, (channels, h * w))
            self.get_buffer(f"variance{i}").copy_((square - mean.square()).mean(dim=1).clamp_min(1e-6))

    # The rounding of bf16 would exceed the differences of the means.
    def forward(self, maps: Sequence[Tensor], before: Sequence[Tensor], shift: Tensor, parts: Tensor) -> Tensor:
        """Distance of features from the sources' features plus the shift: a scalar.

        The mean squared distance, in standard deviations of each channel over real heads, averaged over the maps.

        Args:
            maps: (N, C, h, w) each, of the generated pictures.
            before: the same of their source heads.
            shift: (N, kinds, 3), weight of each kind's mean in each region.
            parts: (N, 3, s, s), regions of the source heads.
        """
        terms = []
        with torch.autocast(shift.device.type, enabled=False):
            for i, (h, h_before) in enumerate(zip(maps, before, strict=True)):
                masks = F.adaptive_avg_pool2d(parts, (h.shape[2], h.shape[3]))
                moved = torch.einsum("nkr,krf->nrf", shift, self.get_buffer(f"means{i}")).unflatten(2, h.shape[1:])
                target = h_before + (moved * masks[:, :, None]).sum(dim=1)
                terms.append(((h - target).square() / self.get_buffer(f"variance{i}")[:, None, None]).mean())
        return torch.stack(terms).mean()
