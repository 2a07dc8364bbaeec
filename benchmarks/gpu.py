"""Time and memory of a training step, its data and rendering on one GPU: `python -m benchmarks.gpu`.

Without a CUDA device it lists the measurements. Steps run as in a training, by `Trainer` and `runtime_of`.
"""

import json
import logging
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import torch

from benchmarks.gpu_bench import Bench, Job, Line, Plan
from benchmarks.plan import digits, markdown
from options.bench import GPU_ROWS, GPUBenchConfig, parse_gpu_bench
from options.command import command


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
