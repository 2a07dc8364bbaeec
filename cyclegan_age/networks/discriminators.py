"""Discriminators for generated faces: the 70x70 PatchGAN, and critics on pretrained features."""

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclegan_age.networks.blocks import init_weights, to_bf16
from cyclegan_age.networks.estimators import AgeEstimator
from cyclegan_age.networks.norms import InstanceNorm, LeakyReLU, conv_norm, on_kernels


def shared(maps: Tensor) -> Tensor:
    """(N, K + 1, h, w) -> (N, K, h, w): the last map is added to each other one; a single map is unchanged."""
    if maps.shape[1] == 1:
        return maps
    own: Tensor
    common: Tensor
    own, common = maps.split([maps.shape[1] - 1, 1], dim=1)  # its gradient is one copy, that of slices is five
    return own + common


class PatchDiscriminator(nn.Module):
    """A real-or-fake map per head from one trunk: each value scores a 70x70 patch.

    After Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks" (CVPR 2017).

    (N, 3, H, W) in [-1, 1] -> (N, n_heads, H/8 - 2, W/8 - 2), unbounded. 4x4 convolutions ndf-2ndf-4ndf-8ndf, leaky
    ReLU 0.2, instance norm except on the first. With several heads each belongs to one anchor age. Its map is its own
    plus a shared one, so that general faults of fakes are learnt from all ages (as in Miyato and Koyama, "cGANs with
    Projection Discriminator", ICLR 2018).
    """

    def __init__(
        self,
        *,
        n_heads: int = 1,  # maps, one per anchor age
        ndf: int = 64,  # channels of the first convolution
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, ndf, 4, stride=2, padding=1), LeakyReLU()]
        for channels, stride in ((ndf, 2), (2 * ndf, 2), (4 * ndf, 1)):
            layers += [
                nn.Conv2d(channels, 2 * channels, 4, stride=stride, padding=1, bias=False),
                InstanceNorm(),
                LeakyReLU(),
            ]
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Conv2d(8 * ndf, n_heads + (n_heads > 1), 4, padding=1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the weights, or reset them."""
        init_weights(self)
        nn.init.zeros_(self.head.weight)  # a random head adds noise for hundreds of steps

    def forward(self, x: Tensor) -> Tensor:
        if not on_kernels(x):
            return shared(self.head(self.trunk(x)).float())
        first, _, *layers = self.trunk
        assert isinstance(first, nn.Conv2d)
        h = conv_norm(x, first, slope=LeakyReLU.slope)
        for conv, norm in zip(layers[::3], layers[1::3], strict=True):
            h = norm(conv(h), slope=LeakyReLU.slope)
        return shared(self.head(h).float())


def _heads(map_channels: Sequence[int], n_heads: int) -> nn.ModuleList:
    """Two convolutions per feature map, the second initialised to zero."""
    networks = nn.ModuleList()
    for channels in map_channels:
        last = nn.Conv2d(64, n_heads + 1, 3, padding=1)
        for weight in last.parameters():
            nn.init.zeros_(weight)
        networks.append(nn.Sequential(nn.Conv2d(channels, 64, 3, padding=1), LeakyReLU(), last))
    return networks


def _scores(head: nn.Module, h: Tensor) -> Tensor:
    """Scores (N, n_heads, h, w) of features (N, C, h, w), which are first normalised per picture."""
    h = h.float()
    if not h.is_cuda:
        return shared(head(F.layer_norm(h, h.shape[1:])).float())
    variance, mean = torch.var_mean(h, dim=(1, 2, 3), correction=0, keepdim=True)  # the same, in channels-last layout
    h = (h - mean) * torch.rsqrt(variance + 1e-5)
    assert isinstance(head, nn.Sequential)
    first, _, last = head
    assert isinstance(first, nn.Conv2d)
    return shared(last(conv_norm(h, first, slope=LeakyReLU.slope)).float())


class FeatureCritic(nn.Module):
    """Discriminator heads on the frozen features of a network pretrained on other pictures.

    After Sauer et al., "Projected GANs Converge Faster" (NeurIPS 2021), without their random mixing of channels and
    scales. Each position of each feature map has a score, as in `PatchDiscriminator`, so that local faults are
    localised.
    """

    def __init__(
        self,
        *,
        map_channels: Sequence[int],  # of the feature maps
        n_heads: int,  # scores per position, one per anchor age
    ) -> None:
        super().__init__()
        self.heads = _heads(map_channels, n_heads)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Feature maps (N, C, h, w) -> scores (N, n_heads, M) of the M positions of all maps. Smaller maps are repeated
        to the size of the largest, so that all maps have equal weight."""
        maps = [_scores(head, h).flatten(2) for head, h in zip(self.heads, features, strict=True)]
        most = max(m.shape[2] for m in maps)
        return torch.cat([m.repeat_interleave(most // m.shape[2], dim=2) for m in maps], dim=2)


class AgeCritic(nn.Module):
    """A pretrained age estimator that is trained further, and discriminator heads on its frozen initial features.

    Each head has a map for each anchor age and one shared map, as in `PatchDiscriminator`. A discriminator on
    pretrained features learns within a few hundred steps, one from random weights takes thousands (Sauer et al.,
    "Projected GANs Converge Faster", NeurIPS 2021). The features are normalised per picture; otherwise the scores
    explode when the generator drives a feature high.
    """

    def __init__(
        self,
        *,
        estimator: AgeEstimator,  # trained; its batch norm keeps its statistics
        n_heads: int,  # scores per feature map, one per anchor age
    ) -> None:
        super().__init__()
        self.estimator = estimator.eval()
        self.features = deepcopy(estimator).requires_grad_(False)
        self.heads = _heads(estimator.map_channels, n_heads)
        self._halves: list[AgeEstimator] = []  # the GPU's form of the features; not part of the state
        self.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]

    def set_trainable(self, on: bool) -> None:
        """Enable or disable gradients of the estimator and the heads."""
        self.estimator.requires_grad_(on)
        self.heads.requires_grad_(on)

    def forward(self, x: Tensor, x_augmented: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures, and augmented pictures for the estimator, both (N, 3, H, W) in [-1, 1] -> scores and logits.

        The scores (N, n_heads, M), one for each of M feature maps, are unbounded; the logits (N, 101) are over years.
        """
        if on_kernels(x) and torch.is_autocast_enabled(x.device.type):
            if not self._halves:
                self._halves.append(deepcopy(self.features))
                self._halves[0].fuse()
                self._halves[0].widen()
                to_bf16(self._halves[0].to(memory_format=torch.channels_last))
            maps = self._halves[0].maps(x)
        else:
            maps = self.features.maps(x)
        scores = []
        for head, h in zip(self.heads, maps, strict=True):
            scores.append(_scores(head, h).mean(dim=(2, 3)))
        return torch.stack(scores, dim=2), self.estimator(x_augmented)


def _forget(critic: nn.Module, _: object) -> None:
    """Discard copies made from the previous weights, after new ones are loaded."""
    assert isinstance(critic, AgeCritic)
    critic._halves.clear()
