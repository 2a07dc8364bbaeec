"""Fault injection for trainings and for their Visdom server: `python -m benchmarks.reliability kills`, `visdom`.

kills: a tiny training is killed (SIGKILL) again and again, at a random moment after its start. In half of the cases the
kill waits for the next write of a file. After each kill every file of the run must be complete. The same command
resumes until the training ends. Then weights, optimisers, history buffers, random numbers and the steps of the metrics
must equal those of an uninterrupted training to the bit. Then the next training begins. A run that differs or is
corrupt is kept in `--results_dir` with the list of its kills, beside the uninterrupted one.

visdom: the Visdom server of a training is killed at random moments, stays down for a while, and is started again.
At the end each point of `metrics.jsonl` must be on its page, once.

Each training and server is a process forked from this one, which has imported all packages; so a kill takes a second.
"""

import os
import random
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.plan import table
from benchmarks.reliability_kills import kills, rows_of_kills
from benchmarks.reliability_visdom import rows_of_visdom, visdom
from options.bench import ReliabilityConfig, parse_reliability
from options.command import command


@command(parse_reliability)
def main(config: ReliabilityConfig) -> int:
    """Run the campaign and print its table; returns 1 if any check failed."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cyclegan-age-kills-") as name:
        os.environ["CYCLEGAN_AGE_CACHE"] = str(Path(name) / "cache")
        limit = config.seconds or float("inf")
        moments = random.Random(config.seed)
        if config.campaign == "kills":
            rows = rows_of_kills(kills(Path(name), config.count, limit, moments, config.results_dir))
        else:
            rows = rows_of_visdom(visdom(Path(name), config.count, limit, moments))
    print(f"{time.monotonic() - begin:.0f} s\n\n{table(rows)}")
    return int(any(row.at_most is not None and row.value > row.at_most for row in rows))


if __name__ == "__main__":
    sys.exit(main())
