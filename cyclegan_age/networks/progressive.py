"""Generator of PFA-GAN: a chain of small networks, each of which brings a face from one age group to the next.

After Huang et al., "PFA-GAN: Progressive Face Aging with Generative Adversarial Network" (IEEE TIFS 2021), section
III-B and table I: 9x9 and 4x4 convolutions, residual blocks, instance norm, leaky ReLU 0.2. A second chain, which makes
faces younger, is this package's.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclegan_age.networks.blocks import Conv, init_weights
from cyclegan_age.networks.norms import InstanceNorm

SLOPE = 0.2  # of the leaky ReLUs


class _Layer(nn.Module):
    """Convolution -> instance norm -> leaky ReLU; `up` and `down` are 4x4 and change the size by 2."""

    def __init__(self, *, channels_in: int, channels_out: int, kind: Literal["same", "down", "up"]) -> None:
        super().__init__()
        self.conv: nn.Module
        if kind == "same":
            self.conv = Conv(channels_in=channels_in, channels_out=channels_out, kernel=9, bias=False)
        elif kind == "down":
            self.conv = nn.Conv2d(channels_in, channels_out, 4, stride=2, padding=1, bias=False)
        else:
            self.conv = nn.ConvTranspose2d(channels_in, channels_out, 4, stride=2, padding=1, bias=False)
        self.norm = InstanceNorm()

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.norm(self.conv(x)), SLOPE)


class _Block(nn.Module):
    """Residual block: leaky ReLU of x + IN(conv(leaky ReLU of IN(conv(x))))."""

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.conv1 = Conv(channels_in=channels, channels_out=channels, kernel=3, bias=False)
        self.norm1 = InstanceNorm()
        self.conv2 = Conv(channels_in=channels, channels_out=channels, kernel=3, bias=False)
        self.norm2 = InstanceNorm()

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.norm1(self.conv1(x)), SLOPE)
        return F.leaky_relu(x + self.norm2(self.conv2(h)), SLOPE)


class AgingStep(nn.Module):
    """The residual from one age group to an adjacent one: (N, 3, H, W) -> (N, 3, H, W), unbounded.

    Children in execution order: `stem` (9x9), `down1`, `down2`, `blocks.0` .., `up1`, `up2`, `head` (9x9). The head's
    weights are initialised to 0, so that the first residual is 0.
    """

    def __init__(
        self,
        *,
        ngf: int = 32,  # channels after the stem; the bottleneck has four times as many
        blocks: int = 4,  # residual blocks
    ) -> None:
        super().__init__()
        self.stem = _Layer(channels_in=3, channels_out=ngf, kind="same")
        self.down1 = _Layer(channels_in=ngf, channels_out=2 * ngf, kind="down")
        self.down2 = _Layer(channels_in=2 * ngf, channels_out=4 * ngf, kind="down")
        self.blocks = nn.Sequential(*(_Block(channels=4 * ngf) for _ in range(blocks)))
        self.up1 = _Layer(channels_in=4 * ngf, channels_out=2 * ngf, kind="up")
        self.up2 = _Layer(channels_in=2 * ngf, channels_out=ngf, kind="up")
        self.head = Conv(channels_in=ngf, channels_out=3, kernel=9)
        init_weights(self)
        nn.init.zeros_(self.head.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)  # (N, ngf, H, W)
        h = self.down2(self.down1(h))  # (N, 4 ngf, H/4, W/4)
        h = self.up2(self.up1(self.blocks(h)))  # (N, ngf, H, W)
        out: Tensor = self.head(h).float()
        return out


class ProgressiveGenerator(nn.Module):
    """Picture, its place among the age groups and an age vector -> picture.

    X_{i+1} = X_i + gate_i G_i(X_i) (equation 2 of the paper); `steps.i` is G_i, see `gates_between` for the gates. In
    the same way `younger.0` leads from the last group to the one before, and so on. The result is clipped to [-1, 1];
    in training the clipping has a straight-through gradient.

    Attributes:
        skip_closed: whether in training a step runs only for pictures with an open gate; `compile` sets it.
    """

    def __init__(
        self,
        *,
        groups: int,  # age groups; the number of steps is one less
        ngf: int = 32,  # see `AgingStep`
        blocks: int = 4,
        younger_blocks: int = 0,  # residual blocks of each step of `younger`; 0: no such steps
    ) -> None:
        super().__init__()
        self.steps = nn.ModuleList(AgingStep(ngf=ngf, blocks=blocks) for _ in range(groups - 1))
        n_younger = groups - 1 if younger_blocks else 0
        self.younger = nn.ModuleList(AgingStep(ngf=ngf, blocks=younger_blocks) for _ in range(n_younger))
        self.skip_closed = False

    def forward(self, x: Tensor, age: Tensor) -> Tensor:
        """(N, 4, H, W) by `with_place` and (N, groups) -> (N, 3, H, W) in [-1, 1], float32.

        H and W are multiples of 4. In evaluation mode a step runs only for pictures with an open gate, unless feature
        maps of it are recorded.
        """
        source, target = x[:, 3, 0, 0], place(age)
        x = self._through(self.steps, gates_between(source, target, len(self.steps)), x[:, :3].float())
        if self.younger:
            x = self._through(self.younger, gates_between(target, source, len(self.younger)).flip(1), x)
        clipped = x.clamp(-1, 1)
        return x + (clipped - x).detach() if self.training else clipped

    def _through(self, steps: nn.ModuleList, gates: Tensor, x: Tensor) -> Tensor:
        """Pictures (N, 3, H, W) after a chain with gates (N, steps)."""
        for gate, step in zip(gates.unbind(dim=1), steps, strict=True):
            of_all = not self.skip_closed if self.training else _is_recorded(step)
            if of_all:
                x = x + gate[:, None, None, None] * step(x)
                continue
            count = int(gate.count_nonzero())
            if self.training:  # at least two pictures: the compiler makes code of its own for one
                count = max(2, count)
            if count:
                rows = gate.argsort(descending=True)[:count]
                x = x.index_add(0, rows, gate[rows, None, None, None] * step(x[rows]))
        return x

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile each step for batches of any size, and set `skip_closed`, which pays on a CPU."""
        self.skip_closed = True
        for step in (*self.steps, *self.younger):
            step.compile(*args, **options | {"dynamic": True})


def _is_recorded(network: nn.Module) -> bool:
    """Whether hooks wait for the outputs of a network or of its parts."""
    return any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def with_place(x: Tensor, own: Tensor) -> Tensor:
    """Pictures (N, 3, H, W) with their own places (N,) among the groups as a fourth, constant plane: (N, 4, H, W)."""
    plane = own.to(x.dtype)[:, None, None, None].expand(-1, 1, *x.shape[2:])
    return torch.cat([x, plane], dim=1)


def place(age: Tensor) -> Tensor:
    """Age vectors (N, K) -> places (N,) among the groups: 2.3 is 0.3 of the way from anchor 2 to anchor 3."""
    return age.float() @ torch.arange(age.shape[1], dtype=torch.float32, device=age.device)


def gates_between(low: Tensor, high: Tensor, steps: int) -> Tensor:
    """Gates of the steps from one place among the groups to a higher one: (N,), (N,) -> (N, steps) in [0, 1].

    Step i leads from group i to i + 1. Its gate is the part of this way that lies between the two places. Between
    whole groups the gates are binary, as published. Where `high` is not above `low` all are 0.
    """
    i = torch.arange(steps, dtype=torch.float32, device=high.device)
    return (torch.minimum(high[:, None], i + 1) - torch.maximum(low[:, None], i)).clamp(0, 1)
