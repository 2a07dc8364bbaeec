"""The ResNet generator (Johnson et al., "Perceptual Losses for Real-Time Style Transfer", ECCV 2016), aware of age.

The age vector becomes constant planes that are concatenated with the picture features before each convolution of the
encoder. Instance norm would remove what a constant plane adds, so in the encoder it stands before the planes join, and
the convolution that takes them is followed by the activation alone. The decoder knows nothing of the age.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclegan_age.ages import planes
from cyclegan_age.config import GeneratorConfig, UserError
from cyclegan_age.networks.blocks import (
    Conv,
    InstanceNorm,
    Layered,
    UpConv,
    biased,
    init_weights,
    on_kernels,
    reflected,
)


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
        if on_kernels(h):
            return self._by_kernels(h, age)
        if age is not None:
            h = torch.cat([h, planes(age, h.shape[2], h.shape[3]).to(h.dtype)], dim=1)
        return F.relu(self.conv(h))

    def _by_kernels(self, h: Tensor, age: Tensor | None) -> Tensor:
        """The same: what the planes add is a bias that is another one along the edges alone, where padding is."""
        conv, pad = self.conv.conv, self.conv.pad
        weight = conv.weight
        if age is not None:
            weight, of_planes = weight.split([h.shape[1], age.shape[1]], dim=1)
        weight = weight.contiguous(memory_format=torch.channels_last)
        assert conv.bias is not None
        biases = conv.bias.float()[None, None, None]
        first = last = 0
        if age is not None:
            kernel, stride = conv.kernel_size[0], conv.stride[0]
            with torch.autocast(h.device.type, enabled=False):
                # One pixel of each kind: at most `pad` at each edge, and one for all of the others.
                small = planes(age.float(), kernel + stride - 1, kernel + stride - 1)
                biases = F.conv2d(small, of_planes.float(), conv.bias.float(), conv.stride, pad)
            biases = biases.permute(0, 2, 3, 1)
            first, last = (pad, pad) if stride == 1 else (pad, 0)
            if self.conv.reflect:
                biases, first, last = biases[:, pad : pad + 1, pad : pad + 1], 0, 0
        if self.conv.reflect:
            h = reflected(h, pad)
        h = F.conv2d(h, weight, None, conv.stride, 0 if self.conv.reflect else pad)
        return biased(h, biases, slope=0.0, first=first, last=last)


class _Block(nn.Module):
    """Residual block: x + IN(conv(ReLU(IN(conv(x)))))."""

    def __init__(self, *, channels: int, reflect: bool) -> None:
        super().__init__()
        self.conv1 = Conv(channels_in=channels, channels_out=channels, kernel=3, reflect=reflect, bias=False)
        self.norm1 = InstanceNorm()
        self.conv2 = Conv(channels_in=channels, channels_out=channels, kernel=3, reflect=reflect, bias=False)
        self.norm2 = InstanceNorm()

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(self.conv1(x), slope=0.0)
        out: Tensor = self.norm2(self.conv2(h), residual=x)
        return out


class _Decode(nn.Module):
    """Upsampling convolution -> instance norm -> ReLU."""

    def __init__(self, *, channels_in: int, channels_out: int, resize: bool) -> None:
        super().__init__()
        self.conv = UpConv(channels_in=channels_in, channels_out=channels_out, resize=resize)
        self.norm = InstanceNorm()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.conv.before_norm(x), slope=0.0)
        return out


class BendingGenerator(Layered):
    """A generator that bends the picture by a smooth field and then changes its colours.

    Attributes:
        deform: how far the picture is bent at most, as a share of its side; 0 leaves it, and there is no `bend` then.
        bend: child whose output (N, 2, h, w), or (2 N, 2, h, w) with mirror images, `shift` makes the field of.
    """

    deform: float
    bend: nn.Module

    def with_flow(self, x: Tensor, age: Tensor) -> tuple[Tensor, Tensor | None]:
        """As `forward`, and the flow (N, 2, h, w) that `shift` gave, before `bent` smoothed it; None without one."""
        raise NotImplementedError

    def shift(self, h: Tensor) -> Tensor:
        """What the child `bend` gives -> where points come from: (N, 2, h, w) of (right, down), shares of the side.

        The picture is bent by this field once `bent` has smoothed it.
        """
        raise NotImplementedError


class ResnetGenerator(BendingGenerator):
    """Picture and age vector -> picture.

    Children in the order they run: `stem` (7x7), `down1`, `down2`, `join` (with ages only: the planes meet the
    bottleneck once more), `blocks.0` .., `up1`, `up2`, `head` (7x7).

    With `residual` the head gives a change c and a mask m beside it, and the output is x + 2 m tanh(c), clipped to
    [-1, 1]; otherwise it is tanh(c). With `deform` x is first bent by a smooth field that the child `bend` reads off
    the blocks' output at a quarter of the size: faces grow and sag in shape, too, not in colour alone. With
    `inner_size` all this is found on the picture scaled to so many pixels, and field and change are then enlarged onto
    the picture itself, which keeps its detail at any size. With `detail` the children `fine` and `fine_head` see the
    picture at its whole size, beside the features of `up2` enlarged to it, and add a change of their own, which begins
    at nothing (a local enhancer as in Wang et al., "High-Resolution Image Synthesis and Semantic Manipulation with
    Conditional GANs", CVPR 2018). With `symmetric` all children see each picture and its mirror image, and field and
    change are the mean of what both give: faults that only one of them shows are halved. Feature maps then are
    (2 N, ...), the mirror images' after the pictures'.
    """

    darkest: Tensor

    def __init__(
        self,
        *,
        ages: int,  # entries of the age vector; 0 for a two-domain generator
        ngf: int = 64,  # channels after the stem; the bottleneck has four times as many
        blocks: int = 6,  # residual blocks
        residual: bool = False,  # the output is the input plus a masked change
        deform: float = 0.0,  # how far the input is bent at most before that, as a share of its side; 0 leaves it
        chroma: float = 1.0,  # how much of the change's colour, beside its light and dark, is let through
        strength: float = 1.0,  # what field and change are multiplied by
        most_change: float = 0.0,  # what a pixel's change comes near to at most, out of a range of 2; 0 sets no limit
        most_darkening: Sequence[float] = (),  # what it is darkened by at most: for all ages, or for each entry
        inner_size: int = 0,  # side in pixels that the residual form works at; 0 is the picture's own
        detail: int = 0,  # channels of the branch at the picture's whole size; 0 for none
        symmetric: bool = False,  # average the residual form over the picture and its mirror image
        resize: bool = False,  # resize-convolutions instead of fractionally-strided ones
        reflect: bool = True,  # reflection padding instead of zeros
    ) -> None:
        super().__init__()
        self.ages, self.residual, self.deform = ages, residual, deform
        self.chroma, self.strength = chroma, strength
        self.most_change, self.most_darkening = most_change, tuple(most_darkening)
        self.register_buffer("darkest", torch.tensor(self.most_darkening), persistent=False)  # (1,) or (ages,)
        self.inner_size, self.detail, self.symmetric = inner_size, detail, symmetric
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
        if detail:
            self.fine = nn.Sequential(
                Conv(channels_in=ngf + 3, channels_out=detail, kernel=3),
                InstanceNorm(),
                nn.ReLU(),
                Conv(channels_in=detail, channels_out=detail, kernel=3),
                InstanceNorm(),
                nn.ReLU(),
            )
            self.fine_head = Conv(channels_in=detail, channels_out=4, kernel=3)
        init_weights(self)
        if detail:
            nn.init.zeros_(self.fine_head.conv.weight)
        if deform:
            self.bend = Conv(channels_in=wide, channels_out=2, kernel=3)
            for weight in self.bend.parameters():
                nn.init.zeros_(weight)

    def forward(self, x: Tensor, age: Tensor | None = None) -> Tensor:
        """(N, 3, H, W) in [-1, 1], H and W multiples of 4, and (N, ages) -> (N, 3, H, W) in [-1, 1], float32.

        With `inner_size` any square size goes in, and H and W in the comments below are that size.
        """
        return self.with_flow(x, age)[0]

    def with_flow(self, x: Tensor, age: Tensor | None) -> tuple[Tensor, Tensor | None]:
        size, flow = x.shape[2:], None
        age = age if self.ages else None
        darkest = self.darkest
        if age is not None and len(self.most_darkening) > 1:
            darkest = (age.float() * darkest).sum(dim=1)[:, None, None, None]
        small = scaled(x, (self.inner_size, self.inner_size)) if self.inner_size else x
        if self.symmetric:
            small = both_ways(small)
            age = None if age is None else torch.cat([age, age])
        h = self.stem(small, age)  # (N, ngf, H, W)
        h = self.down1(h, age)  # (N, 2 ngf, H/2, W/2)
        h = self.down2(h, age)  # (N, 4 ngf, H/4, W/4)
        if self.ages:
            h = self.join(h, age)
        h = self.blocks(h)
        if self.deform:
            flow = self.shift(self.bend(h))
            x = bent(x, flow)
        h = self.up2(self.up1(h))
        if not self.residual:
            return torch.tanh(self.head(h).float()), flow
        change = scaled(self._change(self.head(h)), size)
        if self.detail:
            seen = both_ways(x) if self.symmetric else x
            fine = self.fine(torch.cat([scaled(h, size), seen.to(h.dtype)], dim=1))
            change = change + self._change(self.fine_head(fine))
        if self.symmetric:
            there, mirrored = change.unflatten(0, (2, -1)).unbind()  # not `chunk`: exported, N stays free
            change = (there + mirrored.flip(3)) / 2
        if self.most_change:
            change = self.most_change * torch.tanh(change / self.most_change)
        out = x + change
        if self.most_darkening:
            change = torch.maximum(change, -darkest)
        clipped = (x + change).clamp(-1, 1)
        # The gradient goes past the clipping, so that it does not vanish there.
        return (out + (clipped - out).detach() if self.training else clipped), flow

    def _change(self, h: Tensor) -> Tensor:
        """What is added to the picture, from a head's output (N, 4, h, w): three colours and their mask."""
        h = h.float()
        colours = torch.tanh(h[:, :3])
        if self.chroma != 1:
            colours = torch.lerp(colours.mean(dim=1, keepdim=True), colours, self.chroma)
        return torch.sigmoid(h[:, 3:]) * colours * (2 * self.strength)

    def shift(self, h: Tensor) -> Tensor:
        field: Tensor = self.strength * self.deform * torch.tanh(h.float())
        if not self.symmetric:
            return field
        there, mirrored = field.unflatten(0, (2, -1)).unbind()
        field = (there + torch.cat([-mirrored[:, :1], mirrored[:, 1:]], dim=1).flip(3)) / 2
        return field


def both_ways(x: Tensor) -> Tensor:
    """Pictures (N, C, H, W) and, after them, their mirror images: (2 N, C, H, W)."""
    return torch.cat([x, x.flip(3)])


def scaled(x: Tensor, size: Sequence[int]) -> Tensor:
    """(N, C, h, w) -> (N, C, H, W) of the given size: smooth when enlarged, without aliases when reduced."""
    if x.shape[2:] == tuple(size):
        return x
    return F.interpolate(x, size=list(size), mode="bilinear", antialias=x.shape[2] > size[0])


def bent(x: Tensor, shift: Tensor) -> Tensor:
    """Each pixel of x (N, 3, H, W) taken from where a coarse field (N, 2, h, w) of (right, down) shifts points.

    Shifts are shares of the side. The field is averaged over 5x5 of its cells and interpolated, so that it is smooth;
    beyond the edge the picture repeats it.
    """
    field = F.interpolate(smoothed(shift), size=x.shape[2:], mode="bilinear", align_corners=False)
    rows = torch.linspace(-1 + 1 / x.shape[2], 1 - 1 / x.shape[2], x.shape[2], device=x.device)
    columns = torch.linspace(-1 + 1 / x.shape[3], 1 - 1 / x.shape[3], x.shape[3], device=x.device)
    places = torch.stack(torch.broadcast_tensors(columns[None, :], rows[:, None]), dim=-1)  # (H, W, 2)
    places = (places + 2 * field.permute(0, 2, 3, 1)).nan_to_num()  # of NaN the processor's kernel makes addresses
    return F.grid_sample(x.float(), places, mode="bilinear", padding_mode="border", align_corners=False)


def smoothed(shift: Tensor) -> Tensor:
    """A field (N, 2, h, w) averaged over 5x5 of its cells; beyond the edge it is 0."""
    # One after the other, or else 25 cells are compiled into each of the many pixels that need them. Padded apart:
    # of a pooling that pads PyTorch 2.11 gives a wrong gradient on CUDA (github.com/pytorch/pytorch/issues/188344).
    rows = F.avg_pool2d(F.pad(shift, (2, 2, 0, 0)), (1, 5), stride=1)
    return F.avg_pool2d(F.pad(rows, (0, 0, 2, 2)), (5, 1), stride=1)


def generator_of(net: GeneratorConfig, *, ages: int, image_size: int) -> ResnetGenerator:
    """The generator that a configuration describes, for so many entries of the age vector and pixels a side.

    Raises:
        UserError: limits for another number of ages, or a side inside that is above the picture's.
    """
    if net.inner_size > image_size:
        raise UserError(f"--inner_size {net.inner_size}: must be at most --image_size, {image_size}")
    if len(net.most_darkening) not in (0, 1, ages):
        raise UserError(f"--most_darkening {net.most_darkening}: give one number, or one for each of --ages ({ages})")
    return ResnetGenerator(
        ages=ages,
        ngf=net.ngf,
        blocks=net.block_count(image_size),
        residual=net.residual,
        deform=net.deform,
        chroma=net.chroma,
        strength=net.strength,
        most_change=net.most_change,
        most_darkening=net.most_darkening,
        inner_size=net.inner_size,
        detail=net.detail,
        symmetric=net.symmetric,
        resize=net.resize,
        reflect=net.reflect,
    )
