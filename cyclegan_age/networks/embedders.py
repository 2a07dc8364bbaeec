"""Face embedding: a face -> a unit vector, similar for pictures of one person."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclegan_age.networks.blocks import crop_input, to_bf16
from cyclegan_age.networks.norms import conv_norm, fold_norm


class _Block(nn.Module):
    """Improved residual block of ArcFace (Deng et al., CVPR 2019, section 3.1): BN, conv, BN, PReLU, conv, BN."""

    def __init__(self, *, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.norm1: nn.Module = nn.BatchNorm2d(channels_out)
        self.slope = nn.PReLU(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, stride=stride, padding=1, bias=False)
        self.norm2: nn.Module = nn.BatchNorm2d(channels_out)
        self.stride = stride
        self.short: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.short = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        h = self.slope(conv_norm(self.norm(x), self.conv1, self.norm1))
        # The 1x1 convolution has no stride: its backward pass in oneDNN corrupts memory on CPUs without AVX-512.
        seen = x[:, :, :: self.stride, :: self.stride] if self.stride > 1 else x
        if isinstance(self.short, nn.Sequential):
            conv, norm = self.short
            assert isinstance(conv, nn.Conv2d)
            seen = conv_norm(seen, conv, norm)
        return conv_norm(h, self.conv2, self.norm2, residual=seen)


class FaceEmbedder(nn.Module):
    """A small residual network: (N, 3, H, W) in [-1, 1] -> (N, dimensions), each of length 1, float32.

    Children in execution order: `stem`, `stages.0` .., `norm`, `head`. The last map is not averaged over its positions:
    each channel has a weight for each, `place`, since eyes and mouth differ (Chen et al., "MobileFaceNets", CCBR 2018,
    section 3.1). It is no depthwise convolution, whose backward pass in oneDNN writes out of bounds.
    """

    def __init__(
        self,
        *,
        width: int = 16,  # channels of the first stage; each later stage doubles them
        blocks: tuple[int, ...] = (1, 2, 2, 2),  # residual blocks per stage
        input_size: int = 64,  # faces are resized to this many pixels first
        dimensions: int = 128,  # numbers in an embedding
        window: Sequence[float] = (),  # crop of the pictures that it uses; see `blocks.seen`
    ) -> None:
        super().__init__()
        self.input_size, self.window = input_size, tuple(window)
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.PReLU(width)
        )
        stages: list[nn.Module] = []
        channels, side = width, (input_size + 1) // 2
        for i, count in enumerate(blocks):
            for j in range(count):
                stride = 2 if i > 0 and j == 0 else 1
                stages.append(_Block(channels_in=channels, channels_out=width * 2**i, stride=stride))
                channels, side = width * 2**i, (side + stride - 1) // stride
        self.stages = nn.Sequential(*stages)
        self.place = nn.Parameter(torch.randn(channels, side, side) / side)
        self.norm = nn.BatchNorm1d(channels)
        self.head = nn.Linear(channels, dimensions)

    def forward(self, x: Tensor) -> Tensor:
        x = crop_input(x, self.window, self.input_size)
        conv, norm, slope = self.stem
        assert isinstance(conv, nn.Conv2d)
        h = self.stages(slope(conv_norm(x, conv, norm)))  # (N, channels, side, side)
        h = self.norm((h * self.place).sum(dim=(2, 3)))
        return F.normalize(self.head(h).float(), dim=1)

    def trunk(self) -> nn.Module:
        """The layers up to the last feature map: pictures of `input_size` -> (N, channels, side, side)."""
        return nn.Sequential(self.stem, self.stages)

    def freeze(self) -> None:
        """Irreversible: no gradients of its weights, and only bf16 by autocast; the same output in less time."""
        self.stem[0], self.stem[1] = fold_norm(self.stem[0], self.stem[1])
        for block in self.stages:
            assert isinstance(block, _Block)
            block.conv1, block.norm1 = fold_norm(block.conv1, block.norm1)
            block.conv2, block.norm2 = fold_norm(block.conv2, block.norm2)
            if isinstance(block.short, nn.Sequential):
                block.short[0], block.short[1] = fold_norm(block.short[0], block.short[1])
        to_bf16(self)
