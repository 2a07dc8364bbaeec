"""The kernels for GPUs, run here by Triton's interpreter on the processor, against PyTorch's own operations."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import torch
from torch.nn import functional as F
from cyclegan_age.networks.blocks import InstanceNorm
from cyclegan_age.networks.kernels import InstanceNormFunction, ReflectionPadFunction

torch.manual_seed(0)
eager = InstanceNorm()
for shape in ((2, 5, 9, 7), (1, 130, 4, 4), (3, 8, 24, 24)):
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
print("equal")
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton does not come with this PyTorch")
def test_kernels_do_what_pytorch_does() -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    project = Path(__file__).resolve().parent.parent
    out = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=project, env=environment, capture_output=True, text=True, timeout=300
    )
    assert out.stdout == "equal\n", out.stderr
