"""All differences between CPUs and GPUs; no other module distinguishes them."""

import ctypes
import importlib.util
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cyclegan_age.config import TrainConfig
from cyclegan_age.networks.blocks import Freezable
from cyclegan_age.networks.norms import use_kernels

logger = logging.getLogger("cyclegan_age")


def best_device() -> torch.device:
    """A CUDA GPU, else Apple's by MPS, else the CPU; `ACCELERATE_USE_CPU=true` forces the CPU."""
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() not in ("1", "t", "true", "y", "yes", "on"):
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
    return torch.device("cpu")


@dataclass(frozen=True)
class Runtime:
    """Execution settings of a training on its device.

    Attributes:
        device: of networks and batches.
        bf16: whether forward passes are autocast to bfloat16.
        compile_networks: whether whole networks use torch.compile, which pays on a CPU. On a GPU the project's kernels
            replace the slow operations (`networks.kernels`), and cuDNN runs the convolutions.
        capture: whether steps are captured as CUDA graphs and replayed.
        kernels: whether those kernels run.
    """

    device: torch.device
    bf16: bool = False
    compile_networks: bool = False
    capture: bool = False
    kernels: bool = False

    def to_inference_form(self, network: nn.Module) -> None:
        """Convert a frozen network, already on the device, to the fastest inference form, irreversibly."""
        if self.kernels and self.bf16 and isinstance(network, Freezable):
            network.freeze()


def runtime_of(config: TrainConfig, device: torch.device, processes: int = 1) -> Runtime:
    """The fastest runtime for a device; sets the global switches of cuDNN, the compiler and the allocator for it.

    Args:
        config: its `precision` and `compile`, unless automatic.
        device: CPU, CUDA or MPS.
        processes: number of processes that train together.
    """
    bf16 = config.precision == "bf16" or (config.precision == "auto" and has_bf16(device))
    if device.type != "cuda":
        use_kernels(False)
        if device.type == "cpu":
            _keep_freed_memory()
        return Runtime(device, bf16, compile_networks=config.compile and device.type == "cpu" and has_compiler())
    kernels = config.compile and importlib.util.find_spec("triton") is not None
    use_kernels(kernels)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("high")
    if processes > 1:
        logger.info("%d processes: steps are not captured as CUDA graphs, which support only one process", processes)
    return Runtime(device, bf16, capture=processes == 1, kernels=kernels)


def _keep_freed_memory() -> None:
    """Let glibc reuse freed memory for large tensors; else each gets new pages, which the kernel has to zero."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):  # musl has none
        libc.mallopt(-4, 0)  # M_MMAP_MAX, see malloc.h
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD in bytes


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 natively."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def widest_float(device: torch.device) -> torch.dtype:
    """The widest floating-point type of a device."""
    return torch.float32 if device.type == "mps" else torch.float64


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """RNG state of the CPU and of a device, by their types."""
    state = {"cpu": torch.get_rng_state()}
    return state if device.type == "cpu" else state | {device.type: torch.get_device_module(device).get_rng_state()}


def set_rng_state(state: Mapping[str, Tensor]) -> None:
    """Restore an RNG state from `rng_state`."""
    for kind, one in state.items():
        torch.get_device_module(kind).set_rng_state(one) if kind != "cpu" else torch.set_rng_state(one)


@contextmanager
def fork_rng(device: torch.device) -> Iterator[None]:
    """Context that preserves the RNG state."""
    state = rng_state(device)
    try:
        yield
    finally:
        set_rng_state(state)


def has_compiler() -> bool:
    """Whether torch.compile can generate code for a CPU; logs a warning if not."""
    if any(shutil.which(c) for c in ("c++", "g++", "clang++")):
        return True
    logger.warning("no C++ compiler found: training without torch.compile")
    return False
