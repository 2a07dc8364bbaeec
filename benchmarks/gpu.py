"""Time and memory of a training step, its data and rendering on one GPU: `python -m benchmarks.gpu`.

Without a CUDA device it lists the measurements. Steps run as in a training, by `Step` and `runtime_of`.
"""

import gc
import json
import logging
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import count

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.plan import digits, markdown
from benchmarks.processes import PROJECT
from cyclegan_age.config import ModelConfig, TrainConfig, UserError
from cyclegan_age.data.batches import Batch
from cyclegan_age.data.resident import ResidentPictures
from cyclegan_age.devices import runtime_of
from cyclegan_age.inference import Ager
from cyclegan_age.models import SYSTEMS
from cyclegan_age.networks.efficientnet import FeatureMeans
from cyclegan_age.networks.norms import use_kernels
from cyclegan_age.networks.regions import REGIONS, RegionMeans
from cyclegan_age.training.step import PLAIN_STEPS, Step
from options.bench import GPU_ROWS, GPUBenchConfig, parse_gpu_bench
from options.command import command
from options.train import parse_train

PAIR = ("--model", "cyclegan_pair", "--preset", "zhu", "--load_size", "286", "--image_size")
FULL = (
    *("--preset", "shift", "--image_size", "128", "--load_size", "136", "--ngf", "64", "--ndf", "64"),
    *("--inner_size", "0", "--detail", "0", "--lambda_embedding", "2"),
)
HEADS = ("--model", "cyclegan_heads")
CHILD = "import sys; from benchmarks.gpu import start; start(sys.argv[1], float(sys.argv[2]), sys.argv[3:])"


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


def made_up_batch(config: TrainConfig, size: int, device: torch.device, labels: int = 0) -> Batch:
    """`size` pictures of noise with ages between the anchors, and labels of 0 and 1."""
    shape = (size, 3, config.image_size, config.image_size)

    def half() -> tuple[Tensor, Tensor, Tensor]:
        x = (torch.rand(shape, device=device) * 2 - 1).contiguous(memory_format=torch.channels_last)
        age = torch.empty(size, device=device).uniform_(config.ages[0], config.ages[-1])
        return x, age, torch.randint(2, (size, labels), device=device).float()

    (x_source, age_source, label_source), (x_target, age_target, label_target) = half(), half()
    return Batch(x_source, age_source, x_target, age_target, label_source, label_target)


def trainee(config: TrainConfig, net: ModelConfig, device: torch.device, *, plain: bool = False) -> tuple[Step, Batch]:
    """A step of a training with random weights, and a batch for it.

    Args:
        plain: in fp32, neither compiled nor captured.
    """
    torch.manual_seed(config.seed)
    if plain:
        config = replace(config, compile=False, precision="fp32")
    runtime = runtime_of(config, device)
    model = SYSTEMS[config.model].build(config, net)
    means = model.networks.get("means")
    if isinstance(means, FeatureMeans | RegionMeans):  # a face of each kind, or else nothing is finite
        maps, kinds = [torch.randn(means.kinds, *shape) for shape in means.shapes], torch.eye(means.kinds)
        if isinstance(means, RegionMeans):
            parts = torch.rand(means.kinds, len(REGIONS), 64, 64)
            means.add(maps, kinds[:, :, None].expand(-1, -1, len(REGIONS)), parts)
        else:
            means.add(maps, kinds)
        means.finish()
    step = Step(model, config, replace(runtime, capture=False) if plain else runtime)
    labels = isinstance(means, RegionMeans) or getattr(net, "sexes", False)
    batch = made_up_batch(config, config.batch_size, device, int(labels))
    return step, batch


def operations(config: TrainConfig, net: ModelConfig, device: torch.device, counted: int = 8) -> float:
    """Operations per picture of a step's convolutions and matrix products, forward and backward.

    A multiply-add counts as two. Counted in one plain step of `counted` pictures; eight, because some terms are
    computed on eighths of the batch.
    """
    step, batch = trainee(replace(config, batch_size=counted), net, device, plain=True)
    with FlopCounterMode(display=False) as counter:
        step(batch, 0.5, 0.5)
    return float(counter.get_total_flops()) / counted


def kernels(run: Callable[[], object], device: torch.device, most: int = 60) -> str:
    """Kernel times of a call: lines of milliseconds, launches and kernel name, the longest first."""
    cuda = device.type == "cuda"
    activity = torch.profiler.ProfilerActivity.CUDA if cuda else torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[activity], acc_events=True) as profile:
        run()
        if cuda:
            torch.cuda.synchronize()
    each = []
    for event in profile.key_averages():
        us = event.self_device_time_total if cuda else event.self_cpu_time_total
        if us:
            each.append((us / 1000, event.count, event.key[:120]))
    each.sort(reverse=True)
    lines = [f"{sum(ms for ms, _, _ in each):9.3f} {sum(count for _, count, _ in each):6} all {len(each)} kernels"]
    return "\n".join([*lines, *(f"{ms:9.3f} {count:6} {name}" for ms, count, name in each[:most])])


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
        step, made_up = trainee(replace(config, batch_size=batch), net, self.device)

        def run() -> None:
            step(made_up, 0.5, 0.5)

        for _ in range(PLAIN_STEPS + 1):  # the last one is captured
            run()
        seconds = timed(run, self.device, self.plan)
        if self.profile:
            self.profiles[measure] = kernels(run, self.device)
        skipped = step.read().skipped
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


class _Notes(logging.Handler):
    """Keeps the package's warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def measure(jobs: Sequence[Job], plan: Plan, begin: float, say: Callable[[str], None]) -> list[Line]:
    """Do the jobs, one after the other; errors are reported in their own lines.

    Args:
        begin: `time.monotonic()` when all this began.
        say: takes lines of progress.
    """
    logger = logging.getLogger("cyclegan_age")
    lines: list[Line] = []
    for job in jobs:
        notes = _Notes()
        logger.addHandler(notes)
        if time.monotonic() - begin > plan.last_start_s:
            found = [Line(measure=job.measure, note=f"not measured: {plan.last_start_s:g} s were over")]
        else:
            say(job.measure)
            try:
                found = job.run(job.measure)
            except Exception as e:  # any error: the others must still be measured
                found = [Line(measure=job.measure, note=f"{type(e).__name__}: {(str(e).splitlines() or [''])[0]}")]
        logger.removeHandler(notes)
        for line in found:
            texts = dict.fromkeys([line.note, *notes.texts])  # each once
            lines.append(replace(line, note="; ".join(text for text in texts if text)))
    return lines


def table(lines: Sequence[Line]) -> str:
    """Lines as Markdown; there are notes where one says something."""
    heading = ("measure", "value", "unit", "ms", "TFLOP/s", "% of matrix rate", "GiB", "note")
    columns = 8 if any(line.note for line in lines) else 7
    rows = []
    for line in lines:
        ms, tflops, share, gib = ("" if v is None else digits(v) for v in (line.ms, line.tflops, line.share, line.gib))
        value = "" if line.value is None else digits(line.value)
        rows.append((line.measure, value, line.unit, ms, tflops, share, gib, line.note[:120])[:columns])
    return markdown(heading[:columns], rows, numbers={1, 3, 4, 5, 6})


def start(kind: str, begin: float, flags: Sequence[str]) -> None:
    """Run in a separate process: print how long after `begin` (`time.time()`) its first and its captured step end."""
    config, net = parse_train(flags)
    step, batch = trainee(config, net, torch.device(kind))
    seconds = {}
    for i in range(PLAIN_STEPS + 1):
        step(batch, 0.5, 0.5)
        if i in (0, PLAIN_STEPS):
            step.read()  # waits for the device
            seconds["captured" if i else "first"] = time.time() - begin
    print(json.dumps(seconds))


def machine(device: torch.device) -> str:
    """Device and versions in one line."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else "a processor: the numbers mean nothing"
    versions = f"torch {torch.__version__}, CUDA {torch.version.cuda}, Python {platform.python_version()}"
    return f"{name}; {versions}"


def run(config: GPUBenchConfig, plan: Plan, device: torch.device) -> None:
    """Measure, print and write."""
    begin = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - begin:3.0f} s] {text}", file=sys.stderr)

    bench = Bench(device, plan, compile=config.compile, profile=config.profile)
    lines = measure([job for job in bench.jobs() if job.row in (config.rows or GPU_ROWS)], plan, begin, say)
    seconds = time.monotonic() - begin
    print(f"{machine(device)}; measured in {seconds:.0f} s\n\n{table(lines)}")
    for name, profile in bench.profiles.items():
        print(f"\n{name}: ms, launches and kernels of one step\n{profile}")
    if config.json:
        content = {"machine": machine(device), "seconds": seconds, "compile": config.compile}
        config.json.write_text(json.dumps(content | {"lines": [asdict(line) for line in lines]}, indent=1) + "\n")


def announce(rows: Sequence[str], plan: Plan) -> None:
    """Print the planned measurements."""
    print("no CUDA device, so nothing is measured; with one it would be")
    for row in rows:
        measures = [job.measure for job in Bench(torch.device("cpu"), plan).jobs() if job.row == row]
        print(f"\n{row}: {GPU_ROWS[row]}", *(f"- {measure}" for measure in measures), sep="\n")


@command(parse_gpu_bench)
def main(config: GPUBenchConfig) -> None:
    """Measure and print the table."""
    if torch.cuda.is_available():
        run(config, Plan(), torch.device("cuda"))
    else:
        announce(config.rows or tuple(GPU_ROWS), Plan())


if __name__ == "__main__":
    sys.exit(main())
