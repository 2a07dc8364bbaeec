"""The age-conditional ResNet generator (Johnson et al., "Perceptual Losses for Real-Time Style Transfer", ECCV 2016).

The age vector becomes constant planes, which are concatenated with the picture features before each convolution of the
encoder. Instance norm would remove the effect of a constant plane. So in the encoder it precedes the concatenation, and
only the activation follows the convolution. The decoder has no age input.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclegan_age.ages import planes
from cyclegan_age.config import GeneratorConfig, UserError
from cyclegan_age.networks.blocks import Conv, UpConv, init_weights, reflection_pad
from cyclegan_age.networks.norms import InstanceNorm, biased, on_kernels
from cyclegan_age.networks.warping import WarpingGenerator, both_ways, resized, warp


class _Encode(nn.Module):
    """Instance norm (except on the picture itself) -> concatenation of the age planes -> convolution -> ReLU."""

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
        """The same: the planes' contribution is a bias, which differs only along the edges because of padding."""
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
                # Only pixels near an edge differ: `pad` at each edge, and one pixel for the interior.
                small = planes(age.float(), kernel + stride - 1, kernel + stride - 1)
                biases = F.conv2d(small, of_planes.float(), conv.bias.float(), conv.stride, pad)
            biases = biases.permute(0, 2, 3, 1)
            first, last = (pad, pad) if stride == 1 else (pad, 0)
            if self.conv.reflect:
                biases, first, last = biases[:, pad : pad + 1, pad : pad + 1], 0, 0
        if self.conv.reflect:
            h = reflection_pad(h, pad)
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


class ResnetGenerator(WarpingGenerator):
    """Picture and age vector -> picture.

    Children in execution order: `stem` (7x7), `down1`, `down2`, `join` (with ages only: concatenates the planes with
    the bottleneck once more), `blocks.0` .., `up1`, `up2`, `head` (7x7).

    - `residual`: the head outputs a residual r and a mask m, and the output is x + 2 m tanh(r), clipped to [-1, 1].
      Otherwise it is tanh(r).
    - `deform`: x is first warped by a smooth flow, which the child `bend` computes from the blocks' output at a quarter
      of the resolution. So the shape of a face can change, not only its colour.
    - `inner_size`: flow and residual are computed on the picture resized to that size, and then upsampled. So the
      picture keeps its detail at any size.
    - `detail`: the children `fine` and `fine_head` take the picture at full resolution and the upsampled features of
      `up2`, and add a residual that is initialised to zero. This is a local enhancer as in Wang et al.,
      "High-Resolution Image Synthesis and Semantic Manipulation with Conditional GANs" (CVPR 2018).
    - `symmetric`: all children run on each picture and its mirror image, and flow and residual are averaged over both.
      This halves artefacts that only one of them has. Feature maps are (2 N, ...), first those of the pictures.
    """

    def __init__(
        self,
        *,
        ages: int,  # entries of the age vector; 0 for a two-domain generator
        ngf: int = 64,  # channels after the stem; the bottleneck has four times as many
        blocks: int = 6,  # residual blocks
        residual: bool = False,  # the output is the input plus a masked residual
        deform: float = 0.0,  # largest displacement of the flow, as a share of the side; 0 disables warping
        chroma: float = 1.0,  # share of the residual's chroma that is kept, besides its luminance
        strength: float = 1.0,  # factor of flow and residual
        most_change: float = 0.0,  # soft limit of a pixel's residual, of a range of 2; 0 sets no limit
        inner_size: int = 0,  # side in pixels at which the residual form works; 0 is the picture's own
        detail: int = 0,  # channels of the full-resolution branch; 0 disables it
        symmetric: bool = False,  # average flow and residual over the picture and its mirror image
        resize: bool = False,  # resize-convolutions instead of transposed ones
        reflect: bool = True,  # reflection padding instead of zeros
    ) -> None:
        super().__init__()
        self.ages, self.residual, self.deform = ages, residual, deform
        self.chroma, self.strength = chroma, strength
        self.most_change = most_change
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

        With `inner_size` any square size is accepted, and H and W in the comments below are that size.
        """
        return self.with_flow(x, age)[0]

    def with_flow(self, x: Tensor, age: Tensor | None) -> tuple[Tensor, Tensor | None]:
        size, flow = x.shape[2:], None
        age = age if self.ages else None
        small = resized(x, (self.inner_size, self.inner_size)) if self.inner_size else x
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
            flow = self.flow(self.bend(h))
            x = warp(x, flow)
        h = self.up2(self.up1(h))
        if not self.residual:
            return torch.tanh(self.head(h).float()), flow
        change = resized(self._change(self.head(h)), size)
        if self.detail:
            seen = both_ways(x) if self.symmetric else x
            fine = self.fine(torch.cat([resized(h, size), seen.to(h.dtype)], dim=1))
            change = change + self._change(self.fine_head(fine))
        if self.symmetric:
            there, mirrored = change.unflatten(0, (2, -1)).unbind()  # not `chunk`, so that N stays free in an export
            change = (there + mirrored.flip(3)) / 2
        if self.most_change:
            change = self.most_change * torch.tanh(change / self.most_change)
        out = x + change
        clipped = out.clamp(-1, 1)
        # Straight-through gradient of the clipping, so that it does not vanish there.
        return (out + (clipped - out).detach() if self.training else clipped), flow

    def _change(self, h: Tensor) -> Tensor:
        """The masked residual, from a head's output (N, 4, h, w): three colours and the mask's logits."""
        h = h.float()
        colours = torch.tanh(h[:, :3])
        if self.chroma != 1:
            colours = torch.lerp(colours.mean(dim=1, keepdim=True), colours, self.chroma)
        return torch.sigmoid(h[:, 3:]) * colours * (2 * self.strength)

    def flow(self, h: Tensor) -> Tensor:
        flow: Tensor = self.strength * self.deform * torch.tanh(h.float())
        if not self.symmetric:
            return flow
        there, mirrored = flow.unflatten(0, (2, -1)).unbind()
        flow = (there + torch.cat([-mirrored[:, :1], mirrored[:, 1:]], dim=1).flip(3)) / 2
        return flow


def generator_of(net: GeneratorConfig, *, ages: int, image_size: int) -> ResnetGenerator:
    """The generator of a configuration, for a length of the age vector and a side in pixels.

    Raises:
        UserError: an inner size above the picture's.
    """
    if net.inner_size > image_size:
        raise UserError(f"--inner_size {net.inner_size}: must be at most --image_size, {image_size}")
    return ResnetGenerator(
        ages=ages,
        ngf=net.ngf,
        blocks=net.block_count(image_size),
        residual=net.residual,
        deform=net.deform,
        chroma=net.chroma,
        strength=net.strength,
        most_change=net.most_change,
        inner_size=net.inner_size,
        detail=net.detail,
        symmetric=net.symmetric,
        resize=net.resize,
        reflect=net.reflect,
    )
