"""Instance norm and reflection padding for GPUs, written in Triton: the channels stay last and nothing is read twice.

PyTorch's own kernels put the channels first, and what torch.compile makes of an instance norm takes a compilation for
each shape. Imported only where kernels are asked for, since Triton does not come with every PyTorch.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_PARTS = 16  # that the pixels of a picture are summed in, one after the other
_PIXELS = 32  # of a tile


@triton.jit  # type: ignore[untyped-decorator]
def _sums(x, sums, pixels, channels, part, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of each channel and part of a picture: sums of the differences to its first pixel, and of their squares."""
    n, c = tl.program_id(2), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = c < channels
    picture = x + n.to(tl.int64) * pixels * channels
    first = tl.load(picture + c, mask=inside, other=0.0).to(tl.float32)
    total = tl.zeros([CHANNELS], tl.float32)
    squares = tl.zeros([CHANNELS], tl.float32)
    begin = tl.program_id(0) * part
    for offset in range(0, part, PIXELS):
        p = begin + offset + tl.arange(0, PIXELS)
        mask = (p < pixels)[:, None] & inside[None, :]
        value = tl.load(picture + p[:, None] * channels + c[None, :], mask=mask, other=0.0).to(tl.float32)
        d = tl.where(mask, value - first[None, :], 0.0)
        total += tl.sum(d, 0)
        squares += tl.sum(d * d, 0)
    out = sums + (n * tl.num_programs(0) + tl.program_id(0)) * 2 * channels + c
    tl.store(out, total, mask=inside)
    tl.store(out + channels, squares, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _totals(sums, n, c, inside, channels, parts, PARTS: tl.constexpr):  # type: ignore[no-untyped-def]
    s = tl.arange(0, PARTS)
    mask = (s < parts)[:, None] & inside[None, :]
    at = sums + (n * parts + s[:, None]) * 2 * channels + c[None, :]
    one = tl.sum(tl.load(at, mask=mask, other=0.0), 0)
    two = tl.sum(tl.load(at + channels, mask=mask, other=0.0), 0)
    return one, two


@triton.jit  # type: ignore[untyped-decorator]
def _apply(  # type: ignore[no-untyped-def]
    x, affine, residual, y, sums, statistics, pixels, channels, part, eps,
    AFFINE: tl.constexpr, RELU: tl.constexpr, ADD: tl.constexpr,
    PARTS: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    n, c = tl.program_id(2), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = c < channels
    begin = n.to(tl.int64) * pixels * channels
    total, squares = _totals(sums, n, c, inside, channels, tl.num_programs(0), PARTS)
    difference = total / pixels
    variance = tl.maximum(squares / pixels - difference * difference, 0.0)
    mean = tl.load(x + begin + c, mask=inside, other=0.0).to(tl.float32) + difference
    scale = 1.0 / tl.sqrt(variance + eps)
    if tl.program_id(0) == 0:
        tl.store(statistics + n * 2 * channels + c, mean, mask=inside)
        tl.store(statistics + (n * 2 + 1) * channels + c, scale, mask=inside)
    if AFFINE:
        gain = tl.load(affine + n * 2 * channels + c, mask=inside, other=0.0)
        shift = tl.load(affine + (n * 2 + 1) * channels + c, mask=inside, other=0.0)
    for offset in range(0, part, PIXELS):
        p = tl.program_id(0) * part + offset + tl.arange(0, PIXELS)
        mask = (p < pixels)[:, None] & inside[None, :]
        at = begin + p[:, None] * channels + c[None, :]
        value = (tl.load(x + at, mask=mask, other=0.0).to(tl.float32) - mean[None, :]) * scale[None, :]
        if AFFINE:
            value = value * gain[None, :] + shift[None, :]
        if RELU:
            value = tl.maximum(value, 0.0)
        if ADD:
            value += tl.load(residual + at, mask=mask, other=0.0).to(tl.float32)
        tl.store(y + at, value.to(y.dtype.element_ty), mask=mask)


@triton.jit  # type: ignore[untyped-decorator]
def _gradient_sums(  # type: ignore[no-untyped-def]
    x, affine, g, sums, statistics, pixels, channels, part,
    AFFINE: tl.constexpr, RELU: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    n, c = tl.program_id(2), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = c < channels
    begin = n.to(tl.int64) * pixels * channels
    mean = tl.load(statistics + n * 2 * channels + c, mask=inside, other=0.0)
    scale = tl.load(statistics + (n * 2 + 1) * channels + c, mask=inside, other=0.0)
    if AFFINE:
        gain = tl.load(affine + n * 2 * channels + c, mask=inside, other=0.0)
        shift = tl.load(affine + (n * 2 + 1) * channels + c, mask=inside, other=0.0)
    one = tl.zeros([CHANNELS], tl.float32)
    two = tl.zeros([CHANNELS], tl.float32)
    for offset in range(0, part, PIXELS):
        p = tl.program_id(0) * part + offset + tl.arange(0, PIXELS)
        mask = (p < pixels)[:, None] & inside[None, :]
        at = begin + p[:, None] * channels + c[None, :]
        normal = (tl.load(x + at, mask=mask, other=0.0).to(tl.float32) - mean[None, :]) * scale[None, :]
        value = tl.load(g + at, mask=mask, other=0.0).to(tl.float32)
        if RELU:
            out_before = normal
            if AFFINE:
                out_before = normal * gain[None, :] + shift[None, :]
            value = tl.where(out_before > 0, value, 0.0)
        one += tl.sum(value, 0)
        two += tl.sum(value * normal, 0)
    out = sums + (n * tl.num_programs(0) + tl.program_id(0)) * 2 * channels + c
    tl.store(out, one, mask=inside)
    tl.store(out + channels, two, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _gradient(  # type: ignore[no-untyped-def]
    x, affine, g, out, sums, statistics, pixels, channels, part,
    AFFINE: tl.constexpr, RELU: tl.constexpr, PARTS: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    n, c = tl.program_id(2), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = c < channels
    begin = n.to(tl.int64) * pixels * channels
    mean = tl.load(statistics + n * 2 * channels + c, mask=inside, other=0.0)
    scale = tl.load(statistics + (n * 2 + 1) * channels + c, mask=inside, other=0.0)
    one, two = _totals(sums, n, c, inside, channels, tl.num_programs(0), PARTS)
    one, two = one / pixels, two / pixels
    if AFFINE:
        gain = tl.load(affine + n * 2 * channels + c, mask=inside, other=0.0)
        shift = tl.load(affine + (n * 2 + 1) * channels + c, mask=inside, other=0.0)
    for offset in range(0, part, PIXELS):
        p = tl.program_id(0) * part + offset + tl.arange(0, PIXELS)
        mask = (p < pixels)[:, None] & inside[None, :]
        at = begin + p[:, None] * channels + c[None, :]
        normal = (tl.load(x + at, mask=mask, other=0.0).to(tl.float32) - mean[None, :]) * scale[None, :]
        value = tl.load(g + at, mask=mask, other=0.0).to(tl.float32)
        if RELU:
            out_before = normal
            if AFFINE:
                out_before = normal * gain[None, :] + shift[None, :]
            value = tl.where(out_before > 0, value, 0.0)
        value = scale[None, :] * (value - one[None, :] - normal * two[None, :])
        if AFFINE:
            value = value * gain[None, :]
        tl.store(out + at, value.to(out.dtype.element_ty), mask=mask)


@triton.jit  # type: ignore[untyped-decorator]
def _pad(x, y, height, width, channels, pad, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):  # type: ignore[no-untyped-def]
    tall, wide = height + 2 * pad, width + 2 * pad
    n, row = tl.program_id(0) // tall, tl.program_id(0) % tall
    column = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    c = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    i, j = tl.abs(row - pad), tl.abs(column - pad)
    i = tl.where(i < height, i, 2 * (height - 1) - i)
    j = tl.where(j < width, j, 2 * (width - 1) - j)
    mask = (column < wide)[:, None] & (c < channels)[None, :]
    source = x + (n * height + i).to(tl.int64) * width * channels
    value = tl.load(source + j[:, None] * channels + c[None, :], mask=mask, other=0.0)
    target = y + (n * tall + row).to(tl.int64) * wide * channels
    tl.store(target + column[:, None] * channels + c[None, :], value, mask=mask)


@triton.jit  # type: ignore[untyped-decorator]
def _pad_gradient(g, out, height, width, channels, pad, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Each pixel gathers what came of it: itself, and up to two reflections along each side."""
    tall, wide = height + 2 * pad, width + 2 * pad
    n, i = tl.program_id(0) // height, tl.program_id(0) % height
    j = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    c = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    total = tl.zeros([PIXELS, CHANNELS], tl.float32)
    for a in tl.static_range(3):
        row, row_there = i + pad, i >= 0
        if a == 1:
            row, row_there = pad - i, (i >= 1) & (i <= pad)
        if a == 2:
            row, row_there = 2 * (height - 1) - i + pad, (i <= height - 2) & (i >= height - 1 - pad)
        for b in tl.static_range(3):
            column, there = j + pad, j < width
            if b == 1:
                column, there = pad - j, (j >= 1) & (j <= pad)
            if b == 2:
                column, there = 2 * (width - 1) - j + pad, (j <= width - 2) & (j >= width - 1 - pad)
            mask = (there & row_there)[:, None] & (c < channels)[None, :]
            source = g + (n * tall + row).to(tl.int64) * wide * channels
            total += tl.load(source + column[:, None] * channels + c[None, :], mask=mask, other=0.0).to(tl.float32)
    mask = (j < width)[:, None] & (c < channels)[None, :]
    target = out + (n * height + i).to(tl.int64) * width * channels
    tl.store(target + j[:, None] * channels + c[None, :], total.to(out.dtype.element_ty), mask=mask)


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _block(channels: int) -> int:
    return min(128, int(triton.next_power_of_2(channels)))


class InstanceNormFunction(torch.autograd.Function):
    """Instance norm of x (N, C, H, W), then a scale and a shift of each channel, then ReLU, then a residual added: each
    of the three where it is asked for. `affine` is (N, 2, C) float32, scales and shifts."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor | None, eps: float, relu: bool, affine: Tensor | None = None
    ) -> Tensor:
        x = _last(x)
        n, channels, pixels = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
        block = _block(channels)
        part = -(-pixels // _PARTS)
        part = -(-part // _PIXELS) * _PIXELS
        grid = (-(-pixels // part), -(-channels // block), n)
        sums = torch.empty(n, grid[0], 2, channels, device=x.device)
        statistics = torch.empty(n, 2, channels, device=x.device)
        y, added = torch.empty_like(x), _last(residual) if residual is not None else x
        scaling = statistics if affine is None else affine.contiguous()
        _sums[grid](x, sums, pixels, channels, part, _PIXELS, block)
        _apply[grid](
            *(x, scaling, added, y, sums, statistics, pixels, channels, part, eps),
            *(affine is not None, relu, residual is not None, _PARTS, _PIXELS, block),
        )
        ctx.save_for_backward(x, statistics, scaling)
        ctx.options = affine is not None, relu
        ctx.residual, ctx.grid, ctx.part, ctx.block = residual is not None, grid, part, block
        return y

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, Tensor | None, None, None, Tensor | None]:
        x, statistics, affine = ctx.saved_tensors
        g, out = _last(outer[0]), torch.empty_like(x)
        channels, pixels = x.shape[1], x.shape[2] * x.shape[3]
        sums = torch.empty(len(x), ctx.grid[0], 2, channels, device=x.device)
        sizes = (pixels, channels, ctx.part, *ctx.options)
        _gradient_sums[ctx.grid](x, affine, g, sums, statistics, *sizes, _PIXELS, ctx.block)
        _gradient[ctx.grid](x, affine, g, out, sums, statistics, *sizes, _PARTS, _PIXELS, ctx.block)
        of_affine = sums.sum(dim=1).flip(1) if ctx.options[0] else None  # (N, 2, C)
        return out, g if ctx.residual else None, None, None, of_affine


class ReflectionPadFunction(torch.autograd.Function):
    """Reflection padding: (N, C, H, W) -> (N, C, H + 2 pad, W + 2 pad)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pad: int) -> Tensor:
        x = _last(x)
        n, channels, height, width = x.shape
        shape = (n, channels, height + 2 * pad, width + 2 * pad)
        y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        block = _block(channels)
        grid = (n * shape[2], -(-shape[3] // _PIXELS), -(-channels // block))
        _pad[grid](x, y, height, width, channels, pad, _PIXELS, block)
        ctx.shape, ctx.pad = x.shape, pad
        return y

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        g = _last(outer[0])
        n, channels, height, width = ctx.shape
        out = torch.empty(ctx.shape, dtype=g.dtype, device=g.device, memory_format=torch.channels_last)
        block = _block(channels)
        grid = (n * height, -(-width // _PIXELS), -(-channels // block))
        _pad_gradient[grid](g, out, height, width, channels, ctx.pad, _PIXELS, block)
        return out, None
