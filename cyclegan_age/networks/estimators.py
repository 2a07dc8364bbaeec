"""Age estimation: a face -> a distribution over years -> its expectation.

The label distribution and the expectation follow DLDL-v2 (Gao et al., "Age Estimation Using Expectation of
Label Distribution Learning", IJCAI 2018): the network predicts a softmax over whole years; its loss is on the
distribution and on its mean.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cyclegan_age.ages import between
from cyclegan_age.networks.blocks import MeanPool, crop_input, pad_channels
from cyclegan_age.networks.efficientnet import EfficientNetLite
from cyclegan_age.networks.norms import Affine, affine, conv_norm, fold_norm, on_kernels

MAX_AGE_YEARS = 100


class _Block(nn.Module):
    """Basic residual block (He et al. 2016): two 3x3 convolutions with batch norm."""

    def __init__(self, *, channels_in: int, channels_out: int, stride: int) -> None:  # of 1 or 2
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.norm1: nn.Module = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm2: nn.Module = nn.BatchNorm2d(channels_out)
        self.short: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.short = nn.Sequential(
                MeanPool() if stride > 1 else nn.Identity(),
                nn.Conv2d(channels_in, channels_out, 1, bias=False),
                nn.BatchNorm2d(channels_out),
            )

    def forward(self, x: Tensor, norms: Affine | None = None) -> Tensor:
        h = conv_norm(x, self.conv1, self.norm1, slope=0.0, norms=norms)
        if isinstance(self.short, nn.Sequential):
            reduce, conv, norm = self.short
            assert isinstance(conv, nn.Conv2d)
            x = conv_norm(reduce(x), conv, norm, norms=norms)
        return conv_norm(h, self.conv2, self.norm2, slope=0.0, residual=x, norms=norms)

    def fuse(self) -> None:
        """Fold each batch norm into its convolution, irreversibly: the same output in eval mode, in less time."""
        self.conv1, self.norm1 = fold_norm(self.conv1, self.norm1)
        self.conv2, self.norm2 = fold_norm(self.conv2, self.norm2)
        if isinstance(self.short, nn.Sequential):
            self.short[1], self.short[2] = fold_norm(self.short[1], self.short[2])


class AgeEstimator(nn.Module, ABC):
    """(N, 3, H, W) in [-1, 1] -> (N, 101) logits over the years 0..100.

    Attributes:
        input_size: side in pixels that faces are resized to first.
        window: crop of the pictures that it uses, left, top and side as shares of the side; empty for everything.
        map_channels: channels of the feature maps of `logits_and_maps`.
        dropout: on the pooled features, while training.
        head: from them to the logits.
    """

    input_size: int
    window: Sequence[float] = ()
    map_channels: Sequence[int]
    dropout: nn.Module
    head: nn.Module

    @abstractmethod
    def features(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Pictures of `input_size` -> the features before pooling (N, C, h, w), and the feature maps of all depths."""

    @abstractmethod
    def fuse(self) -> None:
        """Fold each batch norm into its convolution, irreversibly: the same output in eval mode, in less time."""

    def widen(self) -> None:
        """Pad channels, after `fuse`, to multiples that a GPU uses without copies: the same output in less time."""
        return

    @abstractmethod
    def first_half(self) -> nn.Module:
        """The layers up to half of the depth: pictures of `input_size` -> a feature map (N, C, h, w)."""

    def logits_and_maps(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits (N, 101), and the feature maps (N, C, h, w)."""
        h, maps = self.features(crop_input(x, self.window, self.input_size))
        logits: Tensor = self.head(self.dropout(h.mean(dim=(2, 3))))
        return logits, maps

    def maps(self, x: Tensor) -> list[Tensor]:
        """Only the feature maps."""
        return self.features(crop_input(x, self.window, self.input_size))[1]

    def forward(self, x: Tensor) -> Tensor:
        return self.logits_and_maps(x)[0]


class LiteAgeEstimator(AgeEstimator):
    """An EfficientNet-Lite with pretrained weights; its maps are those of `EfficientNetLite`."""

    def __init__(
        self,
        *,
        version: int,  # 0 or 1
        input_size: int = 128,  # a multiple of 32
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.network = EfficientNetLite(version)
        self.map_channels = self.network.map_channels
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(1280, MAX_AGE_YEARS + 1)

    def features(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        out: tuple[Tensor, list[Tensor]] = self.network(x)
        return out

    def fuse(self) -> None:
        self.network.fuse()

    def load_imagenet(self) -> None:
        """See `EfficientNetLite.load_imagenet`."""
        self.network.load_imagenet()

    def first_half(self) -> nn.Module:
        return nn.Sequential(self.network.stem, nn.ReLU6(), *self.network.stages[:4])


class ResnetAgeEstimator(AgeEstimator):
    """A small residual network; its maps are those after each stage except the first, or after the only one."""

    def __init__(
        self,
        *,
        width: int = 32,  # channels of the first stage; each later stage doubles them
        blocks: tuple[int, ...] = (1, 2, 2, 2),  # residual blocks per stage
        input_size: int = 128,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        stages: list[nn.Module] = []
        channels = width
        deep = range(min(1, len(blocks) - 1), len(blocks))
        self.ends = [sum(blocks[: i + 1]) - 1 for i in deep]  # indices of the last blocks of stages
        self.map_channels = [width * 2**i for i in deep]
        for i, count in enumerate(blocks):
            for j in range(count):
                out = width * 2**i
                stages.append(_Block(channels_in=channels, channels_out=out, stride=2 if i > 0 and j == 0 else 1))
                channels = out
        self.stages = nn.Sequential(*stages)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, MAX_AGE_YEARS + 1)

    def features(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        conv, norm, _ = self.stem
        assert isinstance(conv, nn.Conv2d)
        norms = affine(self) if on_kernels(x) else None
        h, maps = conv_norm(x, conv, norm, slope=0.0, norms=norms), []
        for i, block in enumerate(self.stages):
            h = block(h, norms)
            if i in self.ends:
                maps.append(h)
        return h, maps

    def fuse(self) -> None:
        self.stem[0], self.stem[1] = fold_norm(self.stem[0], self.stem[1])
        for block in self.stages:
            assert isinstance(block, _Block)
            block.fuse()

    def widen(self) -> None:
        """Pad the first stage with zero channels to a multiple of 8, unless its output is a feature map."""
        conv, end = self.stem[0], self.ends[0]
        assert isinstance(conv, nn.Conv2d)
        more = -conv.out_channels % 8
        if not more or all(isinstance(block.short, nn.Identity) for block in self.stages):
            return
        self.stem[0] = pad_channels(conv, 0, more)
        for block in self.stages[: end + 1]:
            assert isinstance(block, _Block)
            if isinstance(block.short, nn.Sequential):  # the first block of the next stage
                block.conv1 = pad_channels(block.conv1, more, 0)
                block.short[1] = pad_channels(block.short[1], more, 0)
                break
            block.conv1, block.conv2 = (pad_channels(conv, more, more) for conv in (block.conv1, block.conv2))

    def first_half(self) -> nn.Module:
        return nn.Sequential(self.stem, *self.stages[: len(self.stages) // 2])


class AgeCalibration(nn.Module):
    """Calibration of a generator's age input, so that its faces have the target age, by the apparent age of the source.

    A generator may be too conservative: for 40 it makes young faces younger and old faces older than that. The
    calibrated inputs are stored for two faces, a young-looking and an old-looking one. Between these they are
    interpolated, and beyond them constant.
    """

    anchors: Tensor
    looks: Tensor
    asked: Tensor

    def __init__(self, *, estimator: AgeEstimator, anchors: Sequence[float]) -> None:
        super().__init__()
        self.estimator = estimator
        count = len(anchors)
        self.register_buffer("anchors", torch.tensor(anchors, dtype=torch.float32))  # (K,) years
        self.register_buffer("looks", torch.tensor([0.0, 100.0]))  # apparent ages of the two faces in years
        self.register_buffer(
            "asked", self.anchors.expand(2, count).clone()
        )  # (2, K) calibrated input for each in years, never falling

    def years(self, apparent_years: Tensor, age: Tensor) -> Tensor:
        """Calibrated input ages (N,) in years for apparent ages (N,) and target age vectors (N, K)."""
        young, old = self.looks
        share = ((apparent_years - young) / (old - young)).clamp(0, 1)[:, None]
        return (age.float() * torch.lerp(self.asked[0], self.asked[1], share)).sum(dim=1)

    def forward(self, x: Tensor, age: Tensor) -> Tensor:
        """Faces (N, 3, H, W) in [-1, 1] and target age vectors (N, K) in the `linear` form -> calibrated age
        vectors."""
        return between(self.years(expected_age(self.estimator(x)), age), self.anchors)


def expected_age(logits: Tensor) -> Tensor:
    """Mean of the distribution: (N, 101) logits -> (N,) years, always in fp32."""
    years = torch.arange(logits.shape[1], device=logits.device, dtype=torch.float32)
    return (logits.float().softmax(dim=1) * years).sum(dim=1)  # autocast would make a matrix product's result bf16
