"""The ResNet generator (Johnson et al., "Perceptual Losses for Real-Time Style Transfer", ECCV 2016), aware of age.

The age vector becomes constant planes that are concatenated with the picture features before each convolution of the
encoder. Instance norm would remove what a constant plane adds, so in the encoder it stands before the planes join, and
the convolution that takes them is followed by the activation alone. The decoder knows nothing of the age.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclegan_age.ages import planes
from cyclegan_age.config import GeneratorConfig
from cyclegan_age.networks.blocks import Conv, InstanceNorm, UpConv, init_weights


class _Encode(nn.Module):
    """Instance norm (but on the picture itself) -> concatenate the age planes -> convolution -> ReLU."""

    def __init__(
        self, *, channels_in: int, channels_out: int, ages: int, kernel: int, stride: int, reflect: bool, norm: bool
    ) -> None:
        super().__init__()
        self.norm: nn.Module = InstanceNorm() if norm else nn.Identity()
        self.conv = Conv(
            channels_in=channels_in + ages, channels_out=channels_out, kernel=kernel, stride=stride, reflect=reflect
        )

    def forward(self, x: Tensor, age: Tensor | None) -> Tensor:
        h = self.norm(x)
        if age is not None:
            h = torch.cat([h, planes(age, h.shape[2], h.shape[3]).to(h.dtype)], dim=1)
        return F.relu(self.conv(h))


class _Block(nn.Module):
    """Residual block: x + IN(conv(ReLU(IN(conv(x)))))."""

    def __init__(self, *, channels: int, reflect: bool) -> None:
        super().__init__()
        self.conv1 = Conv(channels_in=channels, channels_out=channels, kernel=3, reflect=reflect, bias=False)
        self.norm1 = InstanceNorm()
        self.conv2 = Conv(channels_in=channels, channels_out=channels, kernel=3, reflect=reflect, bias=False)
        self.norm2 = InstanceNorm()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return out


class _Decode(nn.Module):
    """Upsampling convolution -> instance norm -> ReLU."""

    def __init__(self, *, channels_in: int, channels_out: int, resize: bool) -> None:
        super().__init__()
        self.conv = UpConv(channels_in=channels_in, channels_out=channels_out, resize=resize)
        self.norm = InstanceNorm()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


class ResnetGenerator(nn.Module):
    """Picture and age vector -> picture.

    Children in the order they run: `stem` (7x7), `down1`, `down2`, `join` (with ages only: the planes meet the
    bottleneck once more), `blocks.0` .., `up1`, `up2`, `head` (7x7).

    With `residual` the head gives a change c and a mask m beside it, and the output is x + 2 m tanh(c), clipped to
    [-1, 1]; otherwise it is tanh(c).
    """

    def __init__(
        self,
        *,
        ages: int,  # entries of the age vector; 0 for a two-domain generator
        ngf: int = 64,  # channels after the stem; the bottleneck has four times as many
        blocks: int = 6,  # residual blocks
        residual: bool = False,  # the output is the input plus a masked change
        resize: bool = False,  # resize-convolutions instead of fractionally-strided ones
        reflect: bool = True,  # reflection padding instead of zeros
    ) -> None:
        super().__init__()
        self.ages, self.residual = ages, residual
        wide = 4 * ngf

        def encode(channels_in: int, channels_out: int, kernel: int, stride: int, norm: bool) -> _Encode:
            return _Encode(
                channels_in=channels_in,
                channels_out=channels_out,
                ages=ages,
                kernel=kernel,
                stride=stride,
                reflect=reflect,
                norm=norm,
            )

        self.stem = encode(3, ngf, 7, 1, False)
        self.down1 = encode(ngf, 2 * ngf, 3, 2, True)
        self.down2 = encode(2 * ngf, wide, 3, 2, True)
        if ages:
            self.join = encode(wide, wide, 3, 1, True)
        self.blocks = nn.Sequential(*(_Block(channels=wide, reflect=reflect) for _ in range(blocks)))
        self.up1 = _Decode(channels_in=wide, channels_out=2 * ngf, resize=resize)
        self.up2 = _Decode(channels_in=2 * ngf, channels_out=ngf, resize=resize)
        self.head = Conv(channels_in=ngf, channels_out=4 if residual else 3, kernel=7, reflect=reflect)
        init_weights(self)

    def forward(self, x: Tensor, age: Tensor | None = None) -> Tensor:
        """(N, 3, H, W) in [-1, 1], H and W multiples of 4, and (N, ages) -> (N, 3, H, W) in [-1, 1], float32."""
        h = self.stem(x, age)  # (N, ngf, H, W)
        h = self.down1(h, age)  # (N, 2 ngf, H/2, W/2)
        h = self.down2(h, age)  # (N, 4 ngf, H/4, W/4)
        if self.ages:
            h = self.join(h, age)
        h = self.blocks(h)
        h = self.head(self.up2(self.up1(h))).float()
        if not self.residual:
            return torch.tanh(h)
        out = x + torch.sigmoid(h[:, 3:]) * torch.tanh(h[:, :3]) * 2
        clipped = out.clamp(-1, 1)
        # The gradient goes past the clipping, so that it does not vanish at the ends of the range.
        return out + (clipped - out).detach() if self.training else clipped


def generator_of(net: GeneratorConfig, *, ages: int, image_size: int) -> ResnetGenerator:
    """The generator that a configuration describes, for so many entries of the age vector and pixels a side."""
    return ResnetGenerator(
        ages=ages,
        ngf=net.ngf,
        blocks=net.block_count(image_size),
        residual=net.residual,
        resize=net.resize,
        reflect=net.reflect,
    )
