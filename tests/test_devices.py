"""The device is chosen in one place, by what it can do."""

import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import train as train_command
from cyclegan_age import devices
from cyclegan_age.config import TrainConfig
from cyclegan_age.devices import best_device, fork_rng, has_bf16, rng_state, runtime_of, set_rng_state, widest_float
from cyclegan_age.models import augmentation
from cyclegan_age.training import report
from cyclegan_age.training.trainer import Trainer

PACKAGE = Path(devices.__file__).parent
CPU, MPS = torch.device("cpu"), torch.device("mps")
ASKS = re.compile(r"is_available\(|current_device\(|device_count\(|\.cuda\(\)|torch\.device\(\"(?:cuda|mps)")


def test_nothing_else_asks_which_devices_there_are() -> None:
    assert ASKS.search("torch.cuda.is_available()") and ASKS.search('torch.device("cuda")')
    asking = [p.name for p in PACKAGE.rglob("*.py") if ASKS.search(p.read_text(encoding="utf-8"))]
    assert asking == ["devices.py"]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_large_tensors_of_a_training_reuse_memory() -> None:
    script = """
import resource, torch
from cyclegan_age.config import TrainConfig
from cyclegan_age.devices import runtime_of
runtime_of(TrainConfig(compile=False), torch.device("cpu"))
torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    torch.ones(2**24)  # 64 MiB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    out = subprocess.run([sys.executable, "-c", script], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert int(out.stdout) < 3 * 16_384  # pages of 4 KiB; new ones for all eight would be 131,072


@pytest.mark.parametrize(
    ("cuda", "mps", "asked", "device"),
    [
        (True, False, "", "cuda"),
        (True, True, "", "cuda"),
        (False, True, "", "mps"),
        (False, False, "", "cpu"),
        (False, True, "true", "cpu"),
        (True, False, "1", "cpu"),
        (False, True, "false", "mps"),
    ],
)
def test_the_best_device(cuda: bool, mps: bool, asked: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setenv("ACCELERATE_USE_CPU", asked)
    assert best_device().type == device


def test_precision_follows_what_the_device_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    capabilities: dict[str, bool] = {"avx512_bf16": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert has_bf16(CPU) and not has_bf16(MPS)
    assert runtime_of(TrainConfig(), CPU).bf16
    assert not runtime_of(TrainConfig(precision="fp32"), CPU).bf16
    capabilities.clear()
    assert not has_bf16(CPU) and not runtime_of(TrainConfig(), CPU).bf16
    assert runtime_of(TrainConfig(precision="bf16"), CPU).bf16  # emulated, where asked for
    apple = runtime_of(TrainConfig(), MPS)
    assert (apple.bf16, apple.compile_networks, apple.capture, apple.kernels) == (False, False, False, False)


def test_the_rng_state_is_preserved() -> None:
    state = rng_state(CPU)
    expected = torch.rand(3)
    set_rng_state(state)
    with fork_rng(CPU):
        torch.rand(5)
    assert torch.equal(torch.rand(3), expected)


class NoDoubles(TorchDispatchMode):
    """Fails where a tensor in double precision would be made, as Apple's GPUs do."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else (out,):
            assert not (isinstance(one, torch.Tensor) and one.dtype == torch.float64), func
        return out


def test_a_training_step_needs_no_double_precision(
    tiny_faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (widest_float(CPU), widest_float(torch.device("cuda")), widest_float(MPS)) == (
        torch.float64,
        torch.float64,
        torch.float32,
    )
    for module in (report, augmentation):
        monkeypatch.setattr(module, "widest_float", lambda device: widest_float(MPS))
    steps = 0

    def watched(method: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal steps
            steps += 1
            with NoDoubles():
                return method(*args, **kwargs)

        return call

    monkeypatch.setattr(Trainer, "__call__", watched(Trainer.__call__))
    monkeypatch.setattr(Trainer, "read", watched(Trainer.read))
    flags = ["--dataroot", str(tiny_faces), "--results_dir", str(tmp_path), "--epochs", "0.2", "--batch_size", "4"]
    flags += ["--ngf", "4", "--ndf", "4", "--blocks", "3", "--image_size", "32", "--load_size", "36", "--no_compile"]
    assert train_command.main([*flags, "--precision", "fp32", "--monitor", "none", "--log_every", "1"]) == 0
    assert steps > 2
