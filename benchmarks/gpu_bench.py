"""The measurements of benchmarks.gpu."""

import gc
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count

import numpy as np
import torch

from benchmarks.gpu_training import CHILD, FULL, HEADS, PAIR, kernels, operations, trainer_of
from benchmarks.processes import PROJECT
from cyclegan_age.config import UserError
from cyclegan_age.data.resident import ResidentPictures
from cyclegan_age.inference import Ager
from cyclegan_age.networks.norms import use_kernels
from cyclegan_age.training.trainer import WARMUP_STEPS
from options.train import parse_train


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Sizes of the measurements; the defaults give valid numbers."""

    matrix: int = 8192  # side of the matrices multiplied
    copied: int = 1 << 30  # bytes copied
    pictures: int = 10_000
    side: int = 144  # of each, in pixels
    crop: int = 128
    data_batch: int = 32
    pair: tuple[tuple[int, tuple[int, ...]], ...] = ((128, (1, 8, 32, 64)), (256, (1, 8, 32)))  # pixels, batches
    pair_flags: tuple[str, ...] = ()  # of train.py, besides PAIR
    full: tuple[int, ...] = (32, 64, 128)  # batches
    full_flags: tuple[str, ...] = FULL
    heads: tuple[int, ...] = (16, 32, 64)  # batches
    heads_flags: tuple[str, ...] = HEADS
    start: tuple[int, int] = (128, 8)  # pixels, batch
    start_full: int = 32  # batch
    render: tuple[tuple[int, tuple[int, ...]], ...] = ((128, (1, 32)), (256, (1, 32)))  # pixels, batches
    windows: int = 5  # the median counts
    window_s: float = 0.3  # each at least
    last_start_s: float = 240.0  # no measurement starts later


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the table; a column that does not apply is None.

    Attributes:
        ms: milliseconds of one step or call.
        tflops: operations per second in the step, in units of 10^12.
        share: percentage of the matrix rate measured before.
        gib: peak memory held by PyTorch.
        note: the first line of an error, or a warning.
    """

    measure: str
    value: float | None = None
    unit: str = ""
    ms: float | None = None
    tflops: float | None = None
    share: float | None = None
    gib: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Job:
    """One measurement: its row of --rows, its name in the table, and the function."""

    row: str
    measure: str
    run: Callable[[str], list[Line]]  # called with that name


def timed(run: Callable[[], object], device: torch.device, plan: Plan) -> float:
    """Seconds per call, after warm-up: the median over windows, each filled with as many calls as fit."""

    def window(calls: int) -> float:
        if device.type != "cuda":
            begin_s = time.perf_counter()
            for _ in range(calls):
                run()
            return (time.perf_counter() - begin_s) / calls
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(calls):
            run()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1000 / calls

    calls = 3
    for _ in range(2):  # the first ones may be slower
        calls = max(1, math.ceil(plan.window_s / max(window(calls), 1e-6)))
    return statistics.median(window(calls) for _ in range(plan.windows))


class Bench:
    """Measures on one device.

    Args:
        device: CUDA, or CPU for tests, where memory is not measured.
        plan: sizes.
        compile: use torch.compile, as train.py does.
        profile: profile one training step.

    """

    def __init__(self, device: torch.device, plan: Plan, *, compile: bool = True, profile: bool = False) -> None:
        self.device, self.plan = device, plan
        self.profile, self.profiles = profile, dict[str, str]()
        self._common = ["--dataroot", "made-up", *([] if compile else ["--no_compile"])]  # flags of every training
        self._rate: float | None = None  # operations per second of the matrix product
        self._operations: dict[tuple[str, ...], float] = {}

    def jobs(self) -> list[Job]:
        """All there is to measure, in order."""
        plan = self.plan
        jobs = [
            Job("matrix", f"matrix rate, bf16, {plan.matrix} x {plan.matrix}", self.matrix),
            Job("matrix", "copy bandwidth", self.copy),
            Job("data", f"data, {plan.crop} px, batch {plan.data_batch}", self.data),
        ]
        for size, batches in plan.pair:
            for batch in batches:
                pair = partial(self.train, flags=self._pair(size), batch=batch, unit="pairs/s")
                jobs.append(Job("pair", f"pair, {size} px, batch {batch}", pair))
        for batch in plan.full:
            full = partial(self.train, flags=plan.full_flags, batch=batch, unit="sources/s")
            jobs.append(Job("full", f"full, batch {batch}", full))
        size, batch = plan.start
        for name, flags in (
            (f"pair, {size} px, batch {batch}", (*self._pair(size), "--batch_size", str(batch))),
            (f"full, batch {plan.start_full}", (*plan.full_flags, "--batch_size", str(plan.start_full))),
        ):
            jobs.append(Job("start", f"start, {name}", partial(self.starts, flags=flags)))
        for size, batches in plan.render:
            for batch in batches:
                for bf16 in (False, True):
                    name = f"rendering, {size} px, batch {batch}, {'bf16' if bf16 else 'fp32'}"
                    jobs.append(Job("render", name, partial(self.render, size=size, batch=batch, bf16=bf16)))
        for batch in plan.heads:
            heads = partial(self.train, flags=plan.heads_flags, batch=batch, unit="sources/s")
            jobs.append(Job("heads", f"heads, batch {batch}", heads))
        return jobs

    def matrix(self, measure: str) -> list[Line]:
        """How fast the device multiplies random matrices in bf16."""
        side = self.plan.matrix
        a, b = (torch.randn(side, side, device=self.device).bfloat16() for _ in range(2))
        torch.mm(a, b)
        seconds = timed(lambda: torch.mm(a, b), self.device, self.plan)
        self._rate = 2 * side**3 / seconds
        return [Line(measure=measure, value=self._rate / 1e12, unit="TFLOP/s", ms=seconds * 1000)]

    def copy(self, measure: str) -> list[Line]:
        """How fast it reads and writes its memory, both counted."""
        a, b = (torch.empty(self.plan.copied, dtype=torch.uint8, device=self.device) for _ in range(2))
        a.random_()
        b.copy_(a)
        seconds = timed(lambda: b.copy_(a), self.device, self.plan)
        return [Line(measure=measure, value=2 * self.plan.copied / seconds / 1e9, unit="GB/s", ms=seconds * 1000)]

    def data(self, measure: str) -> list[Line]:
        """Pictures, sources and targets together, that batches take from a data set on the device."""
        plan, device = self.plan, self.device
        shape = (plan.pictures, plan.side, plan.side, 3)
        pools = np.array_split(np.arange(plan.pictures), 6)
        pictures = ResidentPictures(
            pictures=torch.randint(256, shape, dtype=torch.uint8, device=device),
            age_years=torch.rand(plan.pictures, device=device),
            labels=torch.zeros(plan.pictures, 0, device=device),
            source_pools=pools,
            target_pools=pools,
            image_size=plan.crop,
            flip=True,
            batch_size=plan.data_batch,
            seed=0,
        )
        steps = count()
        seconds = timed(lambda: pictures.batch(next(steps)), device, plan)
        return [Line(measure=measure, value=2 * plan.data_batch / seconds, unit="pictures/s", ms=seconds * 1000)]

    def train(self, measure: str, flags: Sequence[str], batch: int, unit: str) -> list[Line]:
        """Steps of the training that flags of train.py describe."""
        config, net = parse_train([*self._common, *flags])
        key = tuple(flags)
        if key not in self._operations:
            self._operations[key] = operations(config, net, torch.device("cpu"))  # where no kernels are chosen first
        self.clear()
        trainer, made_up = trainer_of(replace(config, batch_size=batch), net, self.device)

        def run() -> None:
            trainer(made_up, 0.5, 0.5)

        for _ in range(WARMUP_STEPS + 1):  # the last one is captured
            run()
        seconds = timed(run, self.device, self.plan)
        if self.profile:
            self.profiles[measure] = kernels(run, self.device)
        skipped = trainer.read().skipped
        used = batch * self._operations[key] / seconds
        line = Line(
            measure=measure,
            value=batch / seconds,
            unit=unit,
            ms=seconds * 1000,
            tflops=used / 1e12,
            share=100 * used / self._rate if self._rate else None,
            gib=self.peak_gib(),
            note=f"{skipped} steps were not finite" if skipped else "",
        )
        return [line]

    def starts(self, measure: str, flags: Sequence[str]) -> list[Line]:
        """Seconds from the start of a process to its first and its captured step, without compiled code and with it.

        Raises:
            UserError: the process fails.
        """
        lines = []
        with tempfile.TemporaryDirectory(prefix="cyclegan-age-bench-") as folder:
            environment = os.environ | {"TRITON_CACHE_DIR": folder}
            for cache in ("cold", "warm"):
                command = [sys.executable, "-c", CHILD, self.device.type, str(time.time()), *self._common, *flags]
                done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)
                if done.returncode:
                    raise UserError((done.stderr.strip().splitlines() or ["no reason given"])[-1])
                for name, seconds in json.loads(done.stdout.splitlines()[-1]).items():
                    lines.append(Line(measure=f"{measure}, {cache} cache: {name} step", value=seconds, unit="s"))
        return lines

    def render(self, measure: str, size: int, batch: int, bf16: bool) -> list[Line]:
        """The shipped generator alone."""
        self.clear()
        use_kernels(False)  # these two are on after a training
        torch.backends.cudnn.benchmark = False
        ager = Ager.load()
        network = ager.engine.network.to(self.device)
        shape = (batch, 3, size, size)
        x = (torch.rand(shape, device=self.device) * 2 - 1).contiguous(memory_format=torch.channels_last)
        vectors = ager.code.encode([60.0]).to(self.device).expand(batch, -1)

        def run() -> None:
            with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
                network(x, vectors)

        run()
        seconds = timed(run, self.device, self.plan)
        each_ms = seconds * 1000 / batch
        return [Line(measure=measure, value=each_ms, unit="ms/face", ms=seconds * 1000, gib=self.peak_gib())]

    def clear(self) -> None:
        """Free memory and the code compiled for previous shapes."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_gib(self) -> float | None:
        """The most memory that PyTorch held since `clear`; None on a processor."""
        return torch.cuda.max_memory_reserved() / 2**30 if self.device.type == "cuda" else None

    def _pair(self, size: int) -> tuple[str, ...]:
        return (*PAIR, str(size), *self.plan.pair_flags)
