"""GPU kernels between two convolutions, in Triton: channels-last, and each tensor is read only once.

PyTorch's kernels use channels-first for some operations, and one memory pass for each. torch.compile needs a
compilation for each shape. Imported only on demand, since Triton does not come with every PyTorch.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_PARTS = 16  # parts of a picture that are summed separately
_PIXELS = 32  # pixels of a tile
_TILES = 4  # tiles per program


@triton.jit(do_not_specialize=["pixels", "part", "groups"])  # type: ignore[untyped-decorator]
def _sums(x, sums, pixels, groups, part, VECTOR: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Per channel and part of a picture: sums of the differences to its first pixel, and of their squares."""
    channels = groups * VECTOR
    n, c = tl.program_id(2), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = c < channels
    picture = x + n.to(tl.int64) * pixels * channels
    first = tl.load(picture + c, mask=inside, other=0.0).to(tl.float32)
    total = tl.zeros([PIXELS, CHANNELS], tl.float32)  # reduced over the pixels at the end, which synchronises threads
    squares = tl.zeros([PIXELS, CHANNELS], tl.float32)
    begin = tl.program_id(0) * part
    for offset in range(0, part, PIXELS):
        p = begin + offset + tl.arange(0, PIXELS)
        mask = (p < pixels)[:, None] & inside[None, :]
        value = tl.load(picture + p[:, None] * channels + c[None, :], mask=mask, other=0.0).to(tl.float32)
        d = tl.where(mask, value - first[None, :], 0.0)
        total += d
        squares += d * d
    out = sums + (n * tl.num_programs(0) + tl.program_id(0)) * 2 * channels + c
    tl.store(out, tl.sum(total, 0), mask=inside)
    tl.store(out + channels, tl.sum(squares, 0), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _totals(sums, n, c, inside, channels, parts, PARTS: tl.constexpr):  # type: ignore[no-untyped-def]
    s = tl.arange(0, PARTS)
    mask = (s < parts)[:, None] & inside[None, :]
    at = sums + (n * parts + s[:, None]) * 2 * channels + c[None, :]
    one = tl.sum(tl.load(at, mask=mask, other=0.0), 0)
    two = tl.sum(tl.load(at + channels, mask=mask, other=0.0), 0)
    return one, two


@triton.jit(do_not_specialize=["pixels", "part", "groups"])  # type: ignore[untyped-decorator]
def _apply(  # type: ignore[no-untyped-def]
    x, affine, residual, y, sums, statistics, pixels, groups, part, eps, slope,
    AFFINE: tl.constexpr, ADD: tl.constexpr, PARTS: tl.constexpr,
    VECTOR: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    channels = groups * VECTOR
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
        value = tl.where(value > 0, value, value * slope)
        if ADD:
            value += tl.load(residual + at, mask=mask, other=0.0).to(tl.float32)
        tl.store(y + at, value.to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["pixels", "part", "groups"])  # type: ignore[untyped-decorator]
def _gradient_sums(  # type: ignore[no-untyped-def]
    x, affine, g, sums, statistics, pixels, groups, part, slope,
    AFFINE: tl.constexpr, VECTOR: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    channels = groups * VECTOR
    n, c = tl.program_id(2), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = c < channels
    begin = n.to(tl.int64) * pixels * channels
    mean = tl.load(statistics + n * 2 * channels + c, mask=inside, other=0.0)
    scale = tl.load(statistics + (n * 2 + 1) * channels + c, mask=inside, other=0.0)
    if AFFINE:
        gain = tl.load(affine + n * 2 * channels + c, mask=inside, other=0.0)
        shift = tl.load(affine + (n * 2 + 1) * channels + c, mask=inside, other=0.0)
    one = tl.zeros([PIXELS, CHANNELS], tl.float32)
    two = tl.zeros([PIXELS, CHANNELS], tl.float32)
    for offset in range(0, part, PIXELS):
        p = tl.program_id(0) * part + offset + tl.arange(0, PIXELS)
        mask = (p < pixels)[:, None] & inside[None, :]
        at = begin + p[:, None] * channels + c[None, :]
        normal = (tl.load(x + at, mask=mask, other=0.0).to(tl.float32) - mean[None, :]) * scale[None, :]
        value = tl.load(g + at, mask=mask, other=0.0).to(tl.float32)
        before = normal
        if AFFINE:
            before = normal * gain[None, :] + shift[None, :]
        value = tl.where(before > 0, value, value * slope)
        one += value
        two += value * normal
    out = sums + (n * tl.num_programs(0) + tl.program_id(0)) * 2 * channels + c
    tl.store(out, tl.sum(one, 0), mask=inside)
    tl.store(out + channels, tl.sum(two, 0), mask=inside)


@triton.jit(do_not_specialize=["pixels", "part", "groups"])  # type: ignore[untyped-decorator]
def _gradient(  # type: ignore[no-untyped-def]
    x, affine, g, out, sums, statistics, pixels, groups, part, slope,
    AFFINE: tl.constexpr, PARTS: tl.constexpr, VECTOR: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    channels = groups * VECTOR
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
        before = normal
        if AFFINE:
            before = normal * gain[None, :] + shift[None, :]
        value = tl.where(before > 0, value, value * slope)
        value = scale[None, :] * (value - one[None, :] - normal * two[None, :])
        if AFFINE:
            value = value * gain[None, :]
        tl.store(out + at, value.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["height", "width", "pad", "groups"])  # type: ignore[untyped-decorator]
def _pad(x, y, height, width, groups, pad, VECTOR: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):  # type: ignore[no-untyped-def]
    channels = groups * VECTOR
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


@triton.jit(do_not_specialize=["height", "width", "pad", "groups"])  # type: ignore[untyped-decorator]
def _pad_gradient(  # type: ignore[no-untyped-def]
    g, out, height, width, groups, pad, VECTOR: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr
):
    """Each pixel gathers the gradients of its copies: itself, and up to two reflections along each axis."""
    channels = groups * VECTOR
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


@triton.jit(do_not_specialize=["height", "width", "part", "first", "last", "stride", "groups"])  # type: ignore[untyped-decorator]
def _activate(  # type: ignore[no-untyped-def]
    x, scales, residual, y, table, height, width, groups, part, first, last, stride, slope, cap,
    SIDE: tl.constexpr, SCALE: tl.constexpr, ADD: tl.constexpr,
    VECTOR: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    channels = groups * VECTOR
    line, c = tl.program_id(0).to(tl.int64), tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    row = (line % height).to(tl.int32)
    row = tl.where(row >= height - last, row - height + SIDE, tl.minimum(row, first))
    biases = table + (line // height) * (stride * VECTOR) + row * SIDE * channels
    for offset in range(0, part, PIXELS):
        p = tl.program_id(1) * part + offset + tl.arange(0, PIXELS)
        mask = (p < width)[:, None] & (c < channels)[None, :]
        at = line * width * channels + p[:, None] * channels + c[None, :]
        value = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
        if SCALE:
            value *= tl.load(scales + c, mask=c < channels, other=0.0)[None, :]
        if SIDE == 1:
            value += tl.load(biases + c, mask=c < channels, other=0.0)[None, :]
        else:
            column = tl.where(p >= width - last, p - width + SIDE, tl.minimum(p, first))
            value += tl.load(biases + column[:, None] * channels + c[None, :], mask=mask, other=0.0)
        if ADD:
            value += tl.load(residual + at, mask=mask, other=0.0).to(tl.float32)
        value = tl.where(value > 0, value, value * slope)
        value = tl.where(value > cap, cap, value)
        tl.store(y + at, value.to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["width", "part", "groups"])  # type: ignore[untyped-decorator]
def _activate_gradient(  # type: ignore[no-untyped-def]
    x, scales, y, g, out, before, sums, width, groups, part, slope, cap,
    SCALE: tl.constexpr, ADD: tl.constexpr, SUM: tl.constexpr,
    VECTOR: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Gradients of x and of the summands, and per part of each line the sums of the latter, plain and times x."""
    channels = groups * VECTOR
    line, c = tl.program_id(0).to(tl.int64), tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    total = tl.zeros([PIXELS, CHANNELS], tl.float32)
    product = tl.zeros([PIXELS, CHANNELS], tl.float32)
    for offset in range(0, part, PIXELS):
        p = tl.program_id(1) * part + offset + tl.arange(0, PIXELS)
        mask = (p < width)[:, None] & (c < channels)[None, :]
        at = line * width * channels + p[:, None] * channels + c[None, :]
        after = tl.load(y + at, mask=mask, other=0.0).to(tl.float32)
        value = tl.load(g + at, mask=mask, other=0.0).to(tl.float32)
        value = tl.where(after > 0, tl.where(after < cap, value, 0.0), value * slope)
        if SUM:
            total += value
            if SCALE:
                product += value * tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
        if SCALE:
            if ADD:
                tl.store(before + at, value.to(before.dtype.element_ty), mask=mask)
            value *= tl.load(scales + c, mask=c < channels, other=0.0)[None, :]
        tl.store(out + at, value.to(out.dtype.element_ty), mask=mask)
    if SUM:
        place = sums + (line * tl.num_programs(1) + tl.program_id(1)) * channels + c
        tl.store(place, tl.sum(total, 0), mask=c < channels)
        if SCALE:
            place += tl.num_programs(0) * tl.num_programs(1) * channels
            tl.store(place, tl.sum(product, 0), mask=c < channels)


@triton.jit
def _clamped(value, cap):  # type: ignore[no-untyped-def]
    """Clamp between 0 and `cap`; NaN stays."""
    value = tl.maximum(value, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(value, cap, propagate_nan=tl.PropagateNan.ALL)


@triton.jit(do_not_specialize=["height", "width", "out_height", "out_width", "before", "groups"])  # type: ignore[untyped-decorator]
def _depthwise(  # type: ignore[no-untyped-def]
    x, weight, bias, y, height, width, out_height, out_width, groups, before, cap,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr, VECTOR: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    channels = groups * VECTOR
    n, c = tl.program_id(2).to(tl.int64), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    p = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    row, column = p // out_width, p % out_width
    inside = c < channels
    total = tl.zeros([PIXELS, CHANNELS], tl.float32) + tl.load(bias + c, mask=inside, other=0.0)[None, :]
    picture = x + n * height * width * channels
    for a in tl.static_range(KERNEL):
        i = row * STRIDE - before + a
        for b in tl.static_range(KERNEL):
            j = column * STRIDE - before + b
            there = (i >= 0) & (i < height) & (j >= 0) & (j < width)
            at = picture + ((i * width + j) * channels)[:, None] + c[None, :]
            value = tl.load(at, mask=there[:, None] & inside[None, :], other=0.0).to(tl.float32)
            value = _clamped(value, cap)
            total += value * tl.load(weight + (a * KERNEL + b) * channels + c, mask=inside, other=0.0)[None, :]
    total = _clamped(total, cap)
    mask = (p < out_height * out_width)[:, None] & inside[None, :]
    target = y + n * out_height * out_width * channels + p[:, None] * channels + c[None, :]
    tl.store(target, total.to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["height", "width", "out_height", "out_width", "before", "groups"])  # type: ignore[untyped-decorator]
def _depthwise_gradient(  # type: ignore[no-untyped-def]
    x, weight, g, out, height, width, out_height, out_width, groups, before, cap,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr, VECTOR: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Each input pixel gathers from the outputs that it contributed to; g is before their activation."""
    channels = groups * VECTOR
    n, c = tl.program_id(2).to(tl.int64), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    p = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    row, column = p // width, p % width
    inside = c < channels
    total = tl.zeros([PIXELS, CHANNELS], tl.float32)
    begin = n * out_height * out_width * channels
    for a in tl.static_range(KERNEL):
        up = row + before - a
        i = up // STRIDE
        for b in tl.static_range(KERNEL):
            left = column + before - b
            j = left // STRIDE
            there = (up >= 0) & (left >= 0) & (i * STRIDE == up) & (j * STRIDE == left)
            there = there & (i < out_height) & (j < out_width)
            at = begin + ((i * out_width + j) * channels)[:, None] + c[None, :]
            value = tl.load(g + at, mask=there[:, None] & inside[None, :], other=0.0).to(tl.float32)
            total += value * tl.load(weight + (a * KERNEL + b) * channels + c, mask=inside, other=0.0)[None, :]
    at = n * height * width * channels + p[:, None] * channels + c[None, :]
    mask = (p < height * width)[:, None] & inside[None, :]
    given = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    total = tl.where((given > 0) & (given < cap), total, 0.0)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["height", "width", "groups"])  # type: ignore[untyped-decorator]
def _pool(x, y, height, width, groups, VECTOR: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):  # type: ignore[no-untyped-def]
    channels = groups * VECTOR
    n, c = tl.program_id(2).to(tl.int64), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    p = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    tall, wide = (height + 1) // 2, (width + 1) // 2
    row, column = 2 * (p // wide), 2 * (p % wide)
    mask = (p < tall * wide)[:, None] & (c < channels)[None, :]
    picture = x + n * height * width * channels
    total = tl.zeros([PIXELS, CHANNELS], tl.float32)
    for a in tl.static_range(2):
        for b in tl.static_range(2):
            there = (row + a < height) & (column + b < width)
            at = picture + (((row + a) * width + column + b) * channels)[:, None] + c[None, :]
            total += tl.load(at, mask=mask & there[:, None], other=0.0).to(tl.float32)
    share = tl.where(row + 1 < height, 0.5, 1.0) * tl.where(column + 1 < width, 0.5, 1.0)
    target = y + n * tall * wide * channels + p[:, None] * channels + c[None, :]
    tl.store(target, (total * share[:, None]).to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["height", "width", "groups"])  # type: ignore[untyped-decorator]
def _pool_gradient(g, out, height, width, groups, VECTOR: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):  # type: ignore[no-untyped-def]
    channels = groups * VECTOR
    n, c = tl.program_id(2).to(tl.int64), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    p = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    tall, wide = (height + 1) // 2, (width + 1) // 2
    i, j = p // width // 2, p % width // 2
    mask = (p < height * width)[:, None] & (c < channels)[None, :]
    at = g + n * tall * wide * channels + ((i * wide + j) * channels)[:, None] + c[None, :]
    share = tl.where(2 * i + 1 < height, 0.5, 1.0) * tl.where(2 * j + 1 < width, 0.5, 1.0)
    value = tl.load(at, mask=mask, other=0.0).to(tl.float32) * share[:, None]
    target = out + n * height * width * channels + p[:, None] * channels + c[None, :]
    tl.store(target, value.to(out.dtype.element_ty), mask=mask)


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _block(channels: int) -> int:
    return min(128, int(triton.next_power_of_2(channels)))


def _groups(channels: int) -> tuple[int, int]:
    """Number of groups of channels, and channels per group: up to 8, which are read at once."""
    vector = math.gcd(channels, 8)
    return channels // vector, vector


class InstanceNormFunction(torch.autograd.Function):
    """Instance norm of x (N, C, H, W), scale and shift of each channel, leaky ReLU of slope `slope`, residual added.

    `affine` (N, 2, C) float32, scales and shifts, and the residual may be None.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor | None, eps: float, slope: float, affine: Tensor | None = None
    ) -> Tensor:
        x = _last(x)
        n, channels, pixels = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
        block = _block(channels)
        part = -(-pixels // _PARTS)
        part = -(-part // _PIXELS) * _PIXELS
        grid = (-(-pixels // part), -(-channels // block), n)
        sums, narrow = torch.empty(n, grid[0], 2, channels, device=x.device), min(64, block)
        groups, vector = _groups(channels)
        statistics = torch.empty(n, 2, channels, device=x.device)
        y, added = torch.empty_like(x), _last(residual) if residual is not None else x
        scaling = statistics if affine is None else affine.contiguous()
        _sums[grid[0], -(-channels // narrow), n](x, sums, pixels, groups, part, vector, _PIXELS, narrow)
        _apply[grid](
            *(x, scaling, added, y, sums, statistics, pixels, groups, part, eps, slope),
            *(affine is not None, residual is not None, _PARTS, vector, _PIXELS, block),
        )
        ctx.save_for_backward(x, statistics, scaling)
        ctx.affine, ctx.residual = affine is not None, residual is not None
        ctx.slope, ctx.grid, ctx.part, ctx.block = slope, grid, part, block
        return y

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, Tensor | None, None, None, Tensor | None]:
        x, statistics, affine = ctx.saved_tensors
        g, out = _last(outer[0]), torch.empty_like(x)
        channels, pixels = x.shape[1], x.shape[2] * x.shape[3]
        sums = torch.empty(len(x), ctx.grid[0], 2, channels, device=x.device)
        groups, vector = _groups(channels)
        sizes = (pixels, groups, ctx.part, ctx.slope, ctx.affine)
        narrow = min(64, ctx.block)
        grid = (ctx.grid[0], -(-channels // narrow), len(x))
        _gradient_sums[grid](x, affine, g, sums, statistics, *sizes, vector, _PIXELS, narrow)
        _gradient[ctx.grid](x, affine, g, out, sums, statistics, *sizes, _PARTS, vector, _PIXELS, ctx.block)
        of_affine = sums.sum(dim=1).flip(1) if ctx.affine else None  # (N, 2, C)
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
        groups, vector = _groups(channels)
        _pad[grid](x, y, height, width, groups, pad, vector, _PIXELS, block)
        ctx.shape, ctx.pad = x.shape, pad
        return y

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        g = _last(outer[0])
        n, channels, height, width = ctx.shape
        out = torch.empty(ctx.shape, dtype=g.dtype, device=g.device, memory_format=torch.channels_last)
        block = _block(channels)
        grid = (n * height, -(-width // _PIXELS), -(-channels // block))
        groups, vector = _groups(channels)
        _pad_gradient[grid](g, out, height, width, groups, ctx.pad, vector, _PIXELS, block)
        return out, None


class BiasFunction(torch.autograd.Function):
    """x (N, C, H, W), each channel times its scale (C,), plus biases and a residual, then the activation.

    The activation is a leaky ReLU of slope `slope`, limited to `cap`. The biases (B, T, T, C) and scales are float32. B
    is 1 or N. The first `first` rows of biases are for the first rows of x, the last `last` for its last ones, and the
    one between them for all others; likewise for columns.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        biases: Tensor,
        residual: Tensor | None,
        slope: float,
        cap: float = math.inf,
        first: int = 0,
        last: int = 0,
        scales: Tensor | None = None,
    ) -> Tensor:
        x, biases = _last(x), biases.contiguous()
        n, channels, height, width = x.shape
        groups, vector = _groups(channels)
        side, stride = biases.shape[1], biases[0].numel() // vector if len(biases) > 1 else 0
        # Lines of pixels with the same biases, except the first and the last ones.
        lines, height, width = (n * height, height, width) if side > 1 else (n, 1, height * width)
        if side == 1 and not stride and x.numel() < 2**31:
            lines, width = 1, n * width
        part, block = _TILES * _PIXELS, 32 if channels <= 32 else 64
        grid = (lines, -(-width // part), -(-channels // block))
        y, added, scaled = torch.empty_like(x), residual is not None, scales is not None
        scales = scales.contiguous() if scales is not None else None
        _activate[grid](
            *(x, x if scales is None else scales, x if residual is None else _last(residual), y, biases),
            *(height, width, groups, part, first, last, stride, slope, cap),
            *(side, scaled, added, vector, _PIXELS, block),
        )
        ctx.save_for_backward(y, scales, x if scaled and any(ctx.needs_input_grad[i] for i in (1, 7)) else None)
        ctx.biases, ctx.slope, ctx.cap, ctx.first, ctx.last = biases.shape, slope, cap, first, last
        ctx.grid, ctx.width, ctx.part, ctx.block = grid, width, part, block
        return y

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        y, scales, x = ctx.saved_tensors
        g, out = _last(outer[0]), torch.empty_like(y)
        n, channels, height, _ = y.shape
        lines, parts, _ = ctx.grid
        scaled, added = scales is not None, ctx.needs_input_grad[2]
        summed = ctx.needs_input_grad[1] or ctx.needs_input_grad[7]
        before = torch.empty_like(y) if scaled and added else out
        sums = torch.empty(1 + scaled, lines, parts, channels, device=y.device) if summed else y
        groups, vector = _groups(channels)
        _activate_gradient[ctx.grid](
            *(y if x is None else x, scales if scaled else y, y, g, out, before, sums),
            *(ctx.width, groups, ctx.part, ctx.slope, ctx.cap, scaled, added, summed, vector, _PIXELS, ctx.block),
        )
        biases = of_scales = None
        if summed and ctx.biases[:2] == (1, 1):
            both = sums.sum(dim=(1, 2))
            biases, of_scales = both[0].view(ctx.biases), both[1] if scaled else None
        elif summed:
            assert not scaled, "scales need biases with B = 1"
            by_row = sums[0].sum(dim=1)
            biases = by_row.view(ctx.biases) if ctx.biases[1] == 1 else None
        if summed and biases is None:
            by_row, ends = by_row.view(n, height, 1, channels), out.permute(0, 2, 3, 1)
            columns = _ends(by_row, ends[:, :, : ctx.first], ends[:, :, ends.shape[2] - ctx.last :], 2)
            total = columns.sum(dim=1, keepdim=True)
            biases = _ends(total, columns[:, : ctx.first], columns[:, height - ctx.last :], 1)
            biases = biases.sum(dim=0, keepdim=True) if ctx.biases[0] == 1 else biases
        return out, biases, before if added else None, None, None, None, None, of_scales


def _ends(total: Tensor, first: Tensor, last: Tensor, dim: int) -> Tensor:
    """The first ones, the sum of those between, and the last ones, from the sum of all."""
    first, last = first.float(), last.float()
    return torch.cat([first, total - first.sum(dim, keepdim=True) - last.sum(dim, keepdim=True), last], dim)


class DepthwiseFunction(torch.autograd.Function):
    """ReLU6, depthwise convolution, bias and ReLU6 of x (N, C, H, W), in one pass; weights and biases get no gradient.

    The weights are (kernel, kernel, C), the biases (C,), both float32. `before` is the zero padding above and left of
    x; the padding below and right follows from the output size, input size over stride.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: int, before: int) -> Tensor:
        x = _last(x)
        n, channels, height, width = x.shape
        shape = (n, channels, height // stride, width // stride)
        y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        groups, vector = _groups(channels)
        sizes = (height, width, *shape[2:], groups, before, 6.0)
        grid, *tile = _tiles(n, shape[2] * shape[3], channels)
        _depthwise[grid](x, weight, bias, y, *sizes, len(weight), stride, vector, *tile)
        ctx.save_for_backward(x, weight, y)
        ctx.sizes, ctx.stride, ctx.vector = sizes, stride, vector
        return y

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, y = ctx.saved_tensors
        g, out, before = _last(outer[0]), torch.empty_like(x), torch.empty_like(y)
        # Compute the gradient before the last activation once, since each value is part of many sums.
        n, channels, height, width = y.shape
        part, block = _TILES * _PIXELS, 32 if channels <= 32 else 64
        grid: tuple[int, int, int] = (n, -(-height * width // part), -(-channels // block))
        groups, cap = ctx.sizes[4], ctx.sizes[-1]
        _activate_gradient[grid](
            *(y, y, y, g, before, before, y, height * width, groups, part, 0.0, cap),
            *(False, False, False, ctx.vector, _PIXELS, block),
        )
        grid, *tile = _tiles(n, x.shape[2] * x.shape[3], channels)
        _depthwise_gradient[grid](x, weight, before, out, *ctx.sizes, len(weight), ctx.stride, ctx.vector, *tile)
        return out, None, None, None, None


class MeanPoolFunction(torch.autograd.Function):
    """Means of 2x2 pixels, at odd edges of fewer: (N, C, H, W) -> (N, C, (H + 1) / 2, (W + 1) / 2)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = _last(x)
        n, channels, height, width = ctx.shape = x.shape
        shape = (n, channels, (height + 1) // 2, (width + 1) // 2)
        y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        grid, *tile = _tiles(n, shape[2] * shape[3], channels)
        groups, vector = _groups(channels)
        _pool[grid](x, y, height, width, groups, vector, *tile)
        return y

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Tensor:
        g = _last(outer[0])
        n, channels, height, width = ctx.shape
        out = torch.empty(ctx.shape, dtype=g.dtype, device=g.device, memory_format=torch.channels_last)
        grid, *tile = _tiles(n, height * width, channels)
        groups, vector = _groups(channels)
        _pool_gradient[grid](g, out, height, width, groups, vector, *tile)
        return out


def _tiles(n: int, pixels: int, channels: int) -> tuple[tuple[int, int, int], int, int]:
    """Grid, pixels and channels of a tile."""
    tile, block = 16 if pixels <= 16 else _PIXELS, 32 if channels <= 32 else 64
    return (-(-pixels // tile), -(-channels // block), n), tile, block
