"""Image-to-image generators without ages, layer by layer as in the papers' published programs.

`ResnetTranslator` is CycleGAN's (Zhu et al., ICCV 2017, appendix 7.2), and, with antialiasing, CUT's (Park et al.,
"Contrastive Learning for Unpaired Image-to-Image Translation", ECCV 2020). `UnetTranslator` is pix2pix's (Isola et
al., CVPR 2017, section 6.1). `convert` renames the weights of those programs.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclegan_age.networks.blocks import Conv, Layered, init_weights, reflection_pad
from cyclegan_age.networks.norms import InstanceNorm, leaky

_DROPOUT = 0.5

# Normalisation after convolutions, by name. Convolutions have biases only with instance norm.
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "instance": lambda channels: InstanceNorm(),
    "batch": nn.BatchNorm2d,
    "none": lambda channels: nn.Identity(),
}


def _normed(norm: nn.Module, x: Tensor, slope: float) -> Tensor:
    """Norm, then leaky ReLU of slope `slope`."""
    out: Tensor = norm(x, slope=slope) if isinstance(norm, InstanceNorm) else leaky(norm(x), slope)
    return out


class Halve(nn.Module):
    """Antialiased downsampling by 2 (Zhang, "Making Convolutional Networks Shift-Invariant Again", ICML 2019).

    Each output pixel is the mean of 3x3, weighted 1 2 1 along each axis: (N, C, H, W) -> (N, C, H/2, W/2).
    """

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        row = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("kernel", row[:, None] * row[None, :], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        kernel = self.kernel.to(x.dtype).expand(channels, 1, 3, 3)
        return F.conv2d(reflection_pad(x, 1), kernel, stride=2, groups=channels)


class Double(nn.Module):
    """Bilinear upsampling by 2, weighted 1 3 3 1: (N, C, H, W) -> (N, C, 2 H, 2 W)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class _Layer(nn.Module):
    """Resize or identity -> convolution -> norm -> ReLU -> resize or identity."""

    def __init__(self, *, before: nn.Module, conv: nn.Module, norm: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.before, self.conv, self.norm, self.after = before, conv, norm, after

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.after(_normed(self.norm, self.conv(self.before(x)), 0.0))
        return out


class _Block(nn.Module):
    """Residual block: x + norm(conv(dropout(ReLU(norm(conv(x)))))), with reflection padding."""

    def __init__(self, *, channels: int, norm: str, dropout: bool) -> None:
        super().__init__()

        def conv() -> Conv:
            biased = norm == "instance"
            return Conv(channels_in=channels, channels_out=channels, kernel=3, reflect=True, bias=biased)

        self.conv1, self.norm1 = conv(), NORMS[norm](channels)
        self.dropout = nn.Dropout(_DROPOUT if dropout else 0.0)
        self.conv2, self.norm2 = conv(), NORMS[norm](channels)

    def forward(self, x: Tensor) -> Tensor:
        h = self.dropout(_normed(self.norm1, self.conv1(x), 0.0))
        return x + _normed(self.norm2, self.conv2(h), 1.0)


class ResnetTranslator(Layered):
    """Picture -> picture, with residual blocks at a quarter of the size.

    Children in execution order: `stem` (7x7), `down1`, `down2`, `blocks.0` .., `up1`, `up2`, `head` (7x7).
    """

    def __init__(
        self,
        *,
        ngf: int = 64,  # channels after the stem; the blocks have four times as many
        blocks: int = 9,
        norm: str = "instance",  # a key of NORMS
        dropout: bool = False,  # of half of the features in the blocks, only in training
        antialias_down: bool = False,  # convolutions and `Halve` instead of strided convolutions
        antialias_up: bool = False,  # `Double` and convolutions instead of transposed ones
    ) -> None:
        super().__init__()
        biased = norm == "instance"

        def down(channels: int) -> _Layer:
            stride = 1 if antialias_down else 2
            return _Layer(
                before=nn.Identity(),
                conv=Conv(channels_in=channels, channels_out=2 * channels, kernel=3, stride=stride, bias=biased),
                norm=NORMS[norm](2 * channels),
                after=Halve() if antialias_down else nn.Identity(),
            )

        def up(channels: int) -> _Layer:
            conv: nn.Module = nn.ConvTranspose2d(channels, channels // 2, 3, 2, 1, output_padding=1, bias=biased)
            if antialias_up:
                conv = Conv(channels_in=channels, channels_out=channels // 2, kernel=3, bias=biased)
            before = Double() if antialias_up else nn.Identity()
            return _Layer(before=before, conv=conv, norm=NORMS[norm](channels // 2), after=nn.Identity())

        self.stem = _Layer(
            before=nn.Identity(),
            conv=Conv(channels_in=3, channels_out=ngf, kernel=7, reflect=True, bias=biased),
            norm=NORMS[norm](ngf),
            after=nn.Identity(),
        )
        self.down1, self.down2 = down(ngf), down(2 * ngf)
        self.blocks = nn.Sequential(*(_Block(channels=4 * ngf, norm=norm, dropout=dropout) for _ in range(blocks)))
        self.up1, self.up2 = up(4 * ngf), up(2 * ngf)
        self.head = Conv(channels_in=ngf, channels_out=3, kernel=7, reflect=True)
        init_weights(self)

    def forward(self, x: Tensor, age: Tensor | None = None) -> Tensor:
        """(N, 3, H, W) in [-1, 1], H and W multiples of 4 -> (N, 3, H, W) in [-1, 1], float32; the age is ignored."""
        h = self.down2(self.down1(self.stem(x)))  # (N, 4 ngf, H/4, W/4)
        return torch.tanh(self.head(self.up2(self.up1(self.blocks(h)))).float())


class _Down(nn.Module):
    """Leaky ReLU (except on the picture itself) -> 4x4 convolution of stride 2 -> norm."""

    def __init__(self, *, channels_in: int, channels_out: int, slope: float, norm: str, bias: bool) -> None:
        super().__init__()
        self.slope = slope
        self.conv = nn.Conv2d(channels_in, channels_out, 4, 2, 1, bias=bias)
        self.norm = NORMS[norm](channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return _normed(self.norm, self.conv(leaky(x, self.slope)), 1.0)


class _Up(nn.Module):
    """ReLU -> 4x4 transposed convolution of stride 2 -> norm -> dropout."""

    def __init__(self, *, channels_in: int, channels_out: int, norm: str, bias: bool, dropout: bool) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(channels_in, channels_out, 4, 2, 1, bias=bias)
        self.norm = NORMS[norm](channels_out)
        self.dropout = nn.Dropout(_DROPOUT if dropout else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.dropout(_normed(self.norm, self.conv(F.relu(x)), 1.0))
        return out


class UnetTranslator(Layered):
    """Picture -> picture through a U-Net: each decoder layer is concatenated with the encoder layer of its resolution.

    Children in execution order: `downs.0` .., `ups.0` .. (innermost first), `head`.
    """

    def __init__(
        self,
        *,
        depth: int = 8,  # halvings, at least 5
        ngf: int = 64,  # channels after the first layer; from the fourth on there are eight times as many
        norm: str = "instance",  # a key of NORMS
        dropout: bool = False,  # of half of the features between the innermost and the outer four layers, in training
    ) -> None:
        super().__init__()
        biased = norm == "instance"
        widths = [ngf * min(2**k, 8) for k in range(depth)]
        self.depth = depth
        self.downs = nn.ModuleList(
            _Down(
                channels_in=widths[k - 1] if k else 3,
                channels_out=widths[k],
                slope=0.2 if k else 1.0,
                norm=norm if 0 < k < depth - 1 else "none",
                bias=biased,
            )
            for k in range(depth)
        )
        self.ups = nn.ModuleList(
            _Up(
                channels_in=widths[k] if k == depth - 1 else 2 * widths[k],
                channels_out=widths[k - 1],
                norm=norm,
                bias=biased,
                dropout=dropout and 4 <= k < depth - 1,
            )
            for k in range(depth - 1, 0, -1)
        )
        self.head = _Up(channels_in=2 * ngf, channels_out=3, norm="none", bias=True, dropout=False)
        init_weights(self)

    def forward(self, x: Tensor, age: Tensor | None = None) -> Tensor:
        """(N, 3, H, W) in [-1, 1], H and W multiples of 2^depth -> (N, 3, H, W) in [-1, 1], float32; the age is
        ignored."""
        seen = []
        h = x
        for down in self.downs:
            h = down(h)
            seen.append(h)  # (N, widths[k], H / 2^(k+1), W / 2^(k+1))
        seen.pop()
        for up in self.ups:
            h = torch.cat([seen.pop(), up(h)], dim=1)
        return torch.tanh(self.head(h).float())
