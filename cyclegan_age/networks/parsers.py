"""Face parsing: a picture -> for each pixel face, hair, neck, other worn things, or background.

An encoder pretrained on ImageNet, and a feature pyramid (Lin et al., "Feature Pyramid Networks for Object Detection",
CVPR 2017) whose finest map outputs the logits.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cyclegan_age.networks.efficientnet import EfficientNetLite

# face: skin, ears, glasses and everything inside; other: hat, earring, necklace, clothes.
PARTS = ("background", "face", "hair", "neck", "other")

_STAGES = 5  # of the encoder: maps at 1/4, 1/8 and 1/16 of the size


class _Merge(nn.Module):
    """A coarse map, upsampled, and a fine one: their sum -> convolution -> batch norm -> ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm: nn.BatchNorm2d | nn.Identity = nn.BatchNorm2d(channels)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        h = F.interpolate(coarse, size=fine.shape[2:], mode="bilinear") + fine
        return F.relu(self.norm(self.conv(h)))


class FaceParser(nn.Module):
    """Pictures (N, 3, S, S) in [-1, 1], in FFHQ's frame, S at least 32 -> float32 logits (N, 5, s, s) of `PARTS`.

    s is a quarter of the input size. On a CPU it computes in fp32 even under autocast.

    Args:
        version: of the EfficientNet-Lite, 0 or 1.
        channels: of the pyramid's maps.
        input_size: side in pixels that pictures are resized to first; a multiple of 16.
    """

    def __init__(self, *, version: int = 1, channels: int = 64, input_size: int = 128) -> None:
        super().__init__()
        self.input_size = input_size
        self.encoder = EfficientNetLite(version, stages=_STAGES)
        self.lateral = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in self.encoder.map_channels)
        self.merges = nn.ModuleList(_Merge(channels) for _ in self.encoder.map_channels[1:])
        self.head = nn.Conv2d(channels, len(PARTS), 3, padding=1)

    def compile(self, *args: Any, **options: Any) -> None:
        """Does nothing: compiled, depthwise convolutions take several times as long on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        # On a CPU in fp32: depthwise convolutions in bf16 take several times as long.
        with torch.autocast(x.device.type, torch.bfloat16, enabled=x.is_cuda and torch.is_autocast_enabled("cuda")):
            x = x.float()
            if x.shape[2:] != (self.input_size, self.input_size):
                x = F.interpolate(x, size=(self.input_size, self.input_size), mode="bilinear", antialias=True)
            _, maps = self.encoder(x)
            h = self.lateral[-1](maps[-1])
            for i in reversed(range(len(self.merges))):
                h = self.merges[i](h, self.lateral[i](maps[i]))
            logits: Tensor = self.head(h)
        return logits.float()

    def probabilities(self, x: Tensor, size: int) -> Tensor:
        """Probability of each of `PARTS` for each pixel: (N, 3, S, S) in [-1, 1] -> (N, 5, size, size) float32.

        The five probabilities of a pixel sum to 1.
        """
        logits = self(x)
        with torch.autocast(x.device.type, enabled=False):
            return F.interpolate(logits.softmax(dim=1), size=(size, size), mode="bilinear")

    def load_imagenet(self) -> None:
        """See `EfficientNetLite.load_imagenet`; of the encoder."""
        self.encoder.load_imagenet()

    def fuse(self) -> None:
        """Fold each batch norm into its convolution, irreversibly: the same output in eval mode, in less time."""
        self.encoder.fuse()
        for merge in self.merges:
            if isinstance(merge, _Merge) and isinstance(merge.norm, nn.BatchNorm2d):
                merge.conv, merge.norm = fuse_conv_bn_eval(merge.conv, merge.norm), nn.Identity()
