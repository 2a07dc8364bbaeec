"""A ResNet generator for whole heads: age input at every depth, skip connections, and a full-resolution branch.

The age vector is concatenated with the picture, and with the features before the bottleneck, as constant planes (Liu,
"As Time Goes By"). In addition, an embedding of it sets scale and shift of every feature map of the residual blocks and
of the decoder: adaptive instance normalisation (Huang and Belongie, ICCV 2017; Karras et al., CVPR 2019).
"""

import math
from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclegan_age.ages import planes
from cyclegan_age.networks.blocks import upsample
from cyclegan_age.networks.norms import InstanceNorm
from cyclegan_age.networks.parsers import FaceParser
from cyclegan_age.networks.warping import WarpingGenerator, warp

_EMBEDDING = 64  # dimensions of the age embedding
_AREA = 0.02  # sigma of the smoothed shade, as a share of the side: wider than a wrinkle
_EDGE = 0.006  # sigma of the face's edge
_MARGIN = 0.01  # sigma of the head's edge
_EYE = 0.35  # radius of an eye, as a share of the eyes' distance


class AdaIN(nn.Module):
    """Instance norm, then scale and shift of each channel by an embedding (N, E), then leaky ReLU of slope `slope`.

    The initial scales and shifts are near those of a plain instance norm, but depend on the age from the first step on.
    """

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.norm = InstanceNorm()
        self.affine = nn.Linear(_EMBEDDING, 2 * channels)
        nn.init.normal_(self.affine.weight, 0.0, 0.02)
        nn.init.zeros_(self.affine.bias)

    def forward(self, x: Tensor, embedding: Tensor, *, slope: float = 1.0, residual: Tensor | None = None) -> Tensor:
        gain, shift = self.affine(embedding).float().chunk(2, dim=1)  # (N, C) each
        affine = torch.stack([1 + gain, shift], dim=1)
        out: Tensor = self.norm(x, slope=slope, residual=residual, affine=affine)
        return out


class _Encode(nn.Module):
    """Convolution -> instance norm -> ReLU; an age, if given, is concatenated first as planes."""

    def __init__(self, *, channels_in: int, channels_out: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, (kernel - 1) // 2, bias=False)
        self.norm = InstanceNorm()

    def forward(self, x: Tensor, age: Tensor | None = None) -> Tensor:
        if age is not None:
            x = torch.cat([x, planes(age, x.shape[2], x.shape[3]).to(x.dtype)], dim=1)
        out: Tensor = self.norm(self.conv(x), slope=0.0)
        return out


class _Block(nn.Module):
    """Residual block: x + AdaIN(conv(ReLU(AdaIN(conv(x)))))."""

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = AdaIN(channels=channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = AdaIN(channels=channels)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.norm1(self.conv1(x), embedding, slope=0.0)
        out: Tensor = self.norm2(self.conv2(h), embedding, residual=x)
        return out


class _Decode(nn.Module):
    """Convolution of the upsampled input -> skip connection -> AdaIN -> ReLU."""

    def __init__(self, *, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.norm = AdaIN(channels=channels_out)

    def forward(self, x: Tensor, skip: Tensor, embedding: Tensor) -> Tensor:
        out: Tensor = self.norm(self.conv(upsample(x)) + skip, embedding, slope=0.0)
        return out


class AdaINGenerator(WarpingGenerator):
    """Picture and age vector -> picture: out = warp(x, flow) + 2 sigmoid(mask) tanh(residual), clipped to [-1, 1].

    Children in execution order: `embed` (age vector -> embedding), `stem` (7x7), `down1`, `down2`, `middle.0` ..
    (residual blocks at a quarter of the resolution), `down3`, `blocks.0` .. (at an eighth), `up3`, `bend` (the flow),
    `up2`, `up1`, `head` (7x7). With `detail` all these work at half resolution, and the children `fine_stem`,
    `fine_up`, `fine` and `fine_head` refine the residual at full resolution (a local enhancer as in Wang et al., CVPR
    2018). The last layers are initialised to zero: the first output is the input itself. `most_chroma` limits the
    chroma that a pixel gains and the change of its hue, but not fading to grey, which hair needs.
    """

    def __init__(
        self,
        *,
        ages: int,  # entries of the age vector
        ngf: int = 32,  # channels after the stem; the bottleneck has six times as many
        blocks: int = 6,  # residual blocks of the bottleneck; half as many at twice its resolution
        deform: float = 0.06,  # largest displacement of the flow, as a share of the side; 0 disables warping
        detail: int = 24,  # channels of the full-resolution branch; 0 disables it
        strength: Sequence[float] = (1.0,),  # factor of flow and residual, one or one for each entry of the age vector
        most_chroma: float = 0.0,  # soft limit of the chroma that a pixel gains, of a range of 2; 0 sets no limit
    ) -> None:
        super().__init__()
        self.deform, self.detail, self.most_chroma = deform, detail, most_chroma
        self.strengths: Tensor
        strengths = torch.tensor(strength, dtype=torch.float32).expand(ages).clone()
        self.register_buffer("strengths", strengths, persistent=False)
        self.most_shade, self.shade_ages = 0.0, 0
        self.young_ages = 0
        self.eyes: Sequence[tuple[float, float]] = ()
        self.head_alone = False
        self.helpers = nn.ModuleDict()  # no layers
        a, b, c = 2 * ngf, 4 * ngf, 6 * ngf
        first, second = nn.Linear(ages, _EMBEDDING), nn.Linear(_EMBEDDING, _EMBEDDING)
        nn.init.normal_(first.weight, 0.0, 1.0)
        nn.init.kaiming_normal_(second.weight)
        self.embed = nn.Sequential(first, nn.ReLU(), second, nn.ReLU())
        self.stem = _Encode(channels_in=3 + ages, channels_out=ngf, kernel=7, stride=1)
        self.down1 = _Encode(channels_in=ngf, channels_out=a, kernel=4, stride=2)
        self.down2 = _Encode(channels_in=a, channels_out=b, kernel=4, stride=2)
        self.middle = nn.ModuleList(_Block(channels=b) for _ in range(blocks // 2))
        self.down3 = _Encode(channels_in=b + ages, channels_out=c, kernel=4, stride=2)
        self.blocks = nn.ModuleList(_Block(channels=c) for _ in range(blocks))
        self.up3 = _Decode(channels_in=c, channels_out=b)
        if deform:
            self.bend = nn.Conv2d(b, 2, 3, padding=1)
            _start_at_zero(self.bend)
        self.up2 = _Decode(channels_in=b, channels_out=a)
        self.up1 = _Decode(channels_in=a, channels_out=ngf)
        self.head = nn.Conv2d(ngf, 4, 7, padding=3)
        _start_at_zero(self.head)
        if detail:
            self.fine_stem = _Encode(channels_in=3 + ages, channels_out=detail, kernel=3, stride=1)
            self.fine_up = _Decode(channels_in=ngf, channels_out=detail)
            self.fine = nn.Conv2d(detail, detail, 3, padding=1, bias=False)
            self.fine_norm = AdaIN(channels=detail)
            self.fine_head = nn.Conv2d(detail, 4, 3, padding=1)
            _start_at_zero(self.fine_head)

    def limit_shade(self, parser: FaceParser, most: float, ages: int) -> None:
        """Limit how much a face changes its colour over areas larger than a wrinkle, as by a veil on the forehead.

        For inference, after the weights are loaded. In training the discriminators have to see what is wrong.

        Args:
            parser: trained; finds the face.
            most: root mean square over the channels, of a range of 2, above 0; in proportion less on dark faces.
            ages: number of the youngest anchors at which the limit holds; to the next one it fades out.
        """
        self.helpers["parser"], self.most_shade, self.shade_ages = parser, most, ages

    def change_head_alone(self, parser: FaceParser) -> None:
        """Keep the input's colours outside the head, where hats and a dark background would turn grey with the hair.

        For inference, after the weights are loaded.

        Args:
            parser: trained; finds face, hair and neck.
        """
        self.helpers["parser"], self.head_alone = parser, True

    def smooth_eyes(self, eyes: Sequence[tuple[float, float]]) -> None:
        """Smooth the residual in the eyes, and let it change brightness alone.

        For inference: the loss that keeps the colour of eyes sees averages over patches, so that a trained residual has
        a pattern of single pixels there, and stains in the corners of the eyes.

        Args:
            eyes: positions (x, y) of both eyes in the crop, as shares of its side.
        """
        self.eyes = eyes

    def take_two_steps(self, ages: int) -> None:
        """Reach the youngest ages in two steps, the first one halfway from the next anchor.

        For inference, after the other corrections: two small changes damage a face less than a large one. A copy with
        the same weights makes the first step, so that hooks on the layers see the second step alone.

        Args:
            ages: number of the youngest anchors, at least 1 and less than all. From the last of them to the next one,
                the strength of the first step falls to 0.
        """
        same = {id(values): values for values in (*self.parameters(), *self.buffers())}
        self.helpers["first"], self.young_ages = deepcopy(self, same), ages

    def forward(self, x: Tensor, age: Tensor) -> Tensor:
        """(N, 3, H, W) in [-1, 1], H and W multiples of 16, and (N, ages) -> (N, 3, H, W) in [-1, 1], float32."""
        return self.with_flow(x, age)[0]

    def with_flow(self, x: Tensor, age: Tensor) -> tuple[Tensor, Tensor | None]:
        n = self.young_ages
        if not n:
            return self._changed(x, age)
        share = age[:, :n].sum(dim=1)
        half = F.pad(age[:, :n] / 2, (0, 1))  # of the weight of each young anchor goes to the next one
        halfway = torch.cat([age[:, : n + 1] - half + half.roll(1, dims=1), age[:, n + 1 :]], dim=1)
        first = self.helpers["first"]
        assert isinstance(first, AdaINGenerator)
        if torch.compiler.is_exporting():  # which pictures need it is not known
            return self._changed(first._changed(x, halfway, share)[0], age)
        rows = share.nonzero()[:, 0]
        if not len(rows):
            return self._changed(x, age)
        changed, first_flow = first._changed(x[rows], halfway[rows], share[rows])
        out, flow = self._changed(x.index_copy(0, rows, changed), age)
        if flow is not None and first_flow is not None:
            flow = flow.index_add(0, rows, warp(first_flow, flow[rows]))
        return out, flow

    def _changed(self, x: Tensor, age: Tensor, factor: Tensor | float = 1.0) -> tuple[Tensor, Tensor | None]:
        """Pictures and flows after one step, whose strength is multiplied by a factor (N,)."""
        x_in = F.avg_pool2d(x, 2) if self.detail else x
        e = self.embed(age)  # (N, 64); H and W are those of x_in below
        h0 = self.stem(x_in, age)  # (N, ngf, H, W)
        h1 = self.down1(h0)  # (N, 2 ngf, H/2, W/2)
        h2 = self.down2(h1)  # (N, 4 ngf, H/4, W/4)
        for block in self.middle:
            h2 = block(h2, e)
        h = self.down3(h2, age)  # (N, 6 ngf, H/8, W/8)
        for block in self.blocks:
            h = block(h, e)
        h = self.up3(h, h2, e)
        strength = (factor * (age * self.strengths).sum(dim=1)).view(-1, 1, 1, 1)
        flow = strength * self.flow(self.bend(h)) if self.deform else None
        warped = x if flow is None else warp(x, flow)
        h = self.up1(self.up2(h, h1, e), h0, e)  # (N, ngf, H, W)
        residual = _residual(self.head(h))
        if self.detail:
            h = self.fine_up(h, self.fine_stem(x, age), e)  # (N, detail, 2 H, 2 W)
            h = self.fine_norm(self.fine(h), e, slope=0.0)
            residual = F.interpolate(residual, scale_factor=2.0, mode="bilinear") + _residual(self.fine_head(h))
        if self.eyes:
            residual = _smooth_in_eyes(residual, self.eyes)
        out = warped + strength * residual
        if self.most_chroma:
            out = _limit_chroma(out, warped, self.most_chroma)
        if self.most_shade or self.head_alone:
            out = self._limited(out, warped, age)
        clipped = out.clamp(-1, 1)
        # Straight-through gradient of the clipping, so that it does not vanish there.
        return (out + (clipped - out).detach() if self.training else clipped), flow

    def _limited(self, out: Tensor, warped: Tensor, age: Tensor) -> Tensor:
        """Changed pictures after the limits that need a face parser."""
        parser = self.helpers["parser"]
        assert isinstance(parser, FaceParser)
        parts = parser.probabilities(warped, warped.shape[2])  # (N, 5, H, W): background, face, hair, neck, other
        if self.head_alone:
            head = F.max_pool2d(parts[:, 1:4].sum(dim=1, keepdim=True), 9, 1, 4)  # 4 px wider
            head = _smoothed(head, _MARGIN) / _smoothed(torch.ones_like(head), _MARGIN)
            out = warped + head * (out - warped)
        if self.most_shade:
            share = age[:, : self.shade_ages].sum(dim=1).view(-1, 1, 1, 1)
            out = out - share * _excess_shade(out, warped, parts[:, 1:2], self.most_shade)
        return out

    def flow(self, h: Tensor) -> Tensor:
        """Output of the child `bend` -> flow (N, 2, h, w) at strength 1: displacement of each sampling point, right and
        down, in shares of the side."""
        return self.deform * torch.tanh(h.float())


def _start_at_zero(layer: nn.Module) -> None:
    for weight in layer.parameters():
        nn.init.zeros_(weight)


def _limit_chroma(x: Tensor, before: Tensor, most: float) -> Tensor:
    """Pictures x (N, 3, H, W) with no more than `most` of chroma beyond that of `before`, and the same mean of RGB.

    Chroma is the difference of a colour to the mean of its channels. Its change is split into the part that takes the
    old chroma back, up to grey, and the rest, whose length is limited by tanh. Where a pixel gets darker, old chroma
    and limit shrink in proportion to its brightness, as in a shadow.
    """
    mean, mean_before = (picture.mean(dim=1, keepdim=True) for picture in (x, before))
    shadow = ((mean + 1) / (mean_before + 1).clamp_min(1e-2)).clamp(1e-3, 1.0)
    chroma, most_gained = shadow * (before - mean_before), shadow * most
    change = x - mean - chroma
    length = _length(chroma)
    along = (change * chroma).sum(dim=1, keepdim=True) / length
    faded = chroma / length * torch.maximum(along.clamp(max=0), -length)
    rest = change - faded
    of_rest = _length(rest)
    return mean + chroma + faded + rest * (most_gained * torch.tanh(of_rest / most_gained) / of_rest)


def _excess_shade(x: Tensor, before: Tensor, face: Tensor, most: float) -> Tensor:
    """The part beyond `most` of the change in colour of the faces of pictures x (N, 3, H, W): (N, 3, H, W).

    The change and the brightness are averaged over the face around each pixel.

    Args:
        x: the pictures.
        before: what they were.
        face: (N, 1, H, W), the probability of a face.
        most: root mean square over the channels, of a range of 2, at medium brightness; in proportion less below it.
    """
    share = _smoothed(face, _AREA).clamp_min(1e-3)
    areas = _smoothed((x - before) * face, _AREA) / share
    brightness = _smoothed((before.mean(dim=1, keepdim=True) + 1) * face, _AREA) / share
    size = _length(areas) / math.sqrt(3)
    return _smoothed(face, _EDGE) * areas * F.relu(1 - most * brightness.clamp_max(1.0) / size)


def _smooth_in_eyes(residual: Tensor, eyes: Sequence[tuple[float, float]]) -> Tensor:
    """The residual (N, 3, H, W), but in the eyes the mean of its channels, blurred with a sigma of one pixel."""
    h, w = residual.shape[2:]
    down, right = ((torch.arange(side, device=residual.device) + 0.5) / side for side in (h, w))
    away = torch.minimum(*((down - y).square()[:, None] + (right - x).square()[None, :] for x, y in eyes)).sqrt()
    share = torch.sigmoid(50 * (_EYE - away / math.dist(*eyes)))  # from 0.88 to 0.12 over 0.08 of the eyes' distance
    grey = _smoothed(residual.mean(dim=1, keepdim=True), 1 / h)
    return residual + share * (grey - residual)


def _smoothed(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of maps (N, C, H, W), sigma as a share of the side; beyond their edges they are 0."""
    channels = x.shape[1]
    sigma *= x.shape[2]
    reach = round(3 * sigma)
    weights = torch.tensor([math.exp(-0.5 * (i / sigma) ** 2) for i in range(-reach, reach + 1)], device=x.device)
    weights = (weights / weights.sum()).repeat(channels, 1, 1, 1)  # (C, 1, 1, size)
    rows = F.conv2d(x, weights, padding=(0, reach), groups=channels)
    return F.conv2d(rows, weights.transpose(2, 3), padding=(reach, 0), groups=channels)


def _length(x: Tensor) -> Tensor:
    """Norm over the channels (N, 1, H, W); never 0, where it would have no gradient."""
    return x.square().sum(dim=1, keepdim=True).clamp_min(1e-8).sqrt()  # the export to ONNX drops + 1e-8


def _residual(h: Tensor) -> Tensor:
    """A head's output (N, 4, H, W), three colours and the mask's logits -> residual (N, 3, H, W) in [-2, 2]."""
    h = h.float()
    return 2 * torch.sigmoid(h[:, 3:]) * torch.tanh(h[:, :3])
