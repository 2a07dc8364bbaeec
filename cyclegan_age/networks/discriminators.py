"""The 70x70 PatchGAN (Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks", CVPR 2017)."""

from torch import Tensor, nn

from cyclegan_age.networks.blocks import InstanceNorm, init_weights


class PatchDiscriminator(nn.Module):
    """A real-or-fake map per head from one trunk: each value judges a 70x70 patch.

    (N, 3, H, W) in [-1, 1] -> (N, heads, H/8 - 2, W/8 - 2), unbounded. 4x4 convolutions ndf-2ndf-4ndf-8ndf, leaky ReLU
    0.2, instance norm but on the first. With several heads each stands for one anchor age.
    """

    def __init__(
        self,
        *,
        heads: int = 1,  # maps, one per anchor age
        ndf: int = 64,  # channels of the first convolution
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, ndf, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for channels, stride in ((ndf, 2), (2 * ndf, 2), (4 * ndf, 1)):
            layers += [
                nn.Conv2d(channels, 2 * channels, 4, stride=stride, padding=1, bias=False),
                InstanceNorm(),
                nn.LeakyReLU(0.2),
            ]
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Conv2d(8 * ndf, heads, 4, padding=1)
        init_weights(self)
        nn.init.zeros_(self.head.weight)  # a random head is noise that takes hundreds of steps to unlearn

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.trunk(x)).float()
        return scores
