"""Measure, and print the table; progress goes to stderr."""

import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import processes
from benchmarks.plan import QUICK, Plan, table
from cyclegan_age.config import CycleGANConfig
from options.bench import BenchConfig, parse_bench
from options.command import command
from options.train import parse_train


@command(parse_bench)
def main(bench: BenchConfig) -> None:
    """Measure and print the table."""
    begin = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - begin:3.0f} s] {text}", file=sys.stderr)

    plan = QUICK if bench.quick else Plan()
    config, net = parse_train(["--dataroot", "made-up", *plan.flags])
    assert isinstance(net, CycleGANConfig)
    with tempfile.TemporaryDirectory(prefix="cyclegan-age-bench-") as name:
        folder = Path(name)
        # CPU only. The cache of torch.compile lies here, so the first training compiles.
        os.environ |= {"CUDA_VISIBLE_DEVICES": "", "TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled")}
        outside = processes.measure(plan, config, folder, say)
        from benchmarks import inside  # torch must not be here before: see processes.py

        rows = inside.measure_training(plan, config, net, say)
        rows += outside
        rows += inside.measure_rendering(plan, config, net, folder, say)
        machine = inside.machine()
    recipe = f"{config.image_size} px, ngf {net.ngf}, batches of {config.batch_size} (test.py: {plan.batch_size})"
    print(f"{machine}; {recipe}{'; --quick: the numbers mean nothing' if bench.quick else ''}\n\n{table(rows)}")


if __name__ == "__main__":
    sys.exit(main())
