"""Distribute items over the processes of this machine or of a cluster, by Ray Data."""

import logging
import os
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cyclegan_age import files
from cyclegan_age.batch.items import FAILURES, Failures, Item, all_items, check_output, to_do
from cyclegan_age.batch.storage import below, is_remote, joined
from cyclegan_age.batch.work import Report, Worker
from cyclegan_age.config import BatchConfig, UserError, install_extra, needs
from cyclegan_age.faces.detection import detector
from cyclegan_age.images import counted
from cyclegan_age.inference import Ager
from cyclegan_age.rendering.gallery import wanted_ages
from cyclegan_age.runs import CROP_WEIGHTS, PHOTO_WEIGHTS, find_weights

_BLOCK = 64  # items per task; those of a killed worker are repeated
_RETRIES = 2  # of a task whose worker died
_STORE_BYTES = 200 << 20  # memory that the processes share
_SAVE_S = 30.0  # seconds between two writes of the failures

Reports = Callable[[Sequence[Item], int], Iterator[Report]]  # items, items per task -> reports in order of completion


def run(config: BatchConfig, say: Callable[[str], None], worker: type[Worker] = Worker) -> None:
    """Render every picture of the input that is not in the output yet.

    Args:
        config: input, output and rendering.
        say: called with progress lines for the user.
        worker: class that each process creates.

    Raises:
        UserError: no input, no readable one, no such weights, a missing package, or no writable output.
    """
    check_output(config)
    items = all_items(config, say)
    weights = find_weights(
        config.weights, config.results_dir, CROP_WEIGHTS if config.aligned else PHOTO_WEIGHTS
    ).resolve()
    ager = Ager.load(weights)
    if ager.domains:
        raise UserError(
            f"--weights {config.weights}: must be weights with ages; use test.py to translate between domains"
        )
    if not config.aligned:
        detector()
        ager.photo_faces.check(config.rendering.strengths)
    ages = wanted_ages(config.rendering, ager, say)
    address = _settle()
    with needs("ray[data]", install=install_extra("ray")):
        import ray.data  # noqa: F401 - fails early where it is missing
    output = config.output if is_remote(config.output) else str(Path(config.output).resolve())
    with ExitStack() as stack:
        try:
            if not is_remote(output):
                Path(output).mkdir(parents=True, exist_ok=True)
                stack.enter_context(
                    closing(
                        files.lock(Path(output), activity="is writing to it", remedy=", or choose another --output")
                    )
                )
                files.remove_partial_files(Path(output))
            waiting = to_do(items, ages, below(output))
            if len(waiting) < len(items):
                say(f"{counted(len(items) - len(waiting), 'picture')} done already")
            failures = Failures(joined(output, FAILURES))
            reports = stack.enter_context(
                _cluster(address, config, worker, (weights, config.rendering, ages, output), say)
            )
            done, written, seconds = _collect(waiting, reports, failures)
            if not is_remote(output):
                files.remove_partial_files(Path(output))  # files of killed workers
        except OSError as e:
            raise files.write_error(f"--output {config.output}", e, "or choose another folder") from e
    result = f"{counted(written, 'picture')} of {counted(done, 'file')} in {seconds:.1f} s"
    result += f", {written / max(seconds, 1e-9):.1f} pictures/s"
    if failures.rows:
        result += f"; {counted(len(failures.rows), 'file')} failed, listed in {failures.address}"
    if failures.rows and len(failures.rows) == len(items):
        raise UserError(f"--input {config.input}: no picture could be aged; {failures.address} lists the causes")
    say(result)


def _collect(items: Sequence[Item], reports: Reports, failures: Failures) -> tuple[int, int, float]:
    """Collect the reports; returns files done, pictures written and seconds.

    Items without a report were in a task whose workers died; each is retried in a separate task.
    """
    waiting = {item.stem: item for item in items}
    done = written = 0
    begin = saved = time.perf_counter()
    with tqdm(total=len(items), unit="file", disable=None) as bar:
        try:
            for block in (_BLOCK, 1):
                for report in reports(list(waiting.values()), block) if waiting else ():
                    item = waiting.pop(report.stem, None)
                    if item is None:  # a task that ran twice
                        continue
                    bar.update()
                    done += not report.cause
                    written += report.pictures
                    if report.cause:
                        failures.rows.append((item.source, report.cause))
                    if time.perf_counter() - saved > _SAVE_S:
                        failures.save()
                        saved = time.perf_counter()
            died = f"its process died {_RETRIES + 1} times"
            failures.rows += [(item.source, died) for item in waiting.values()]
        finally:
            failures.save()
    return done, written, time.perf_counter() - begin


@contextmanager
def _cluster(
    address: str, config: BatchConfig, worker: type[Worker], arguments: tuple[Any, ...], say: Callable[[str], None]
) -> Iterator[Reports]:
    """Ray: the cluster at RAY_ADDRESS, or local processes that are not reachable from other machines."""
    ray = _start(address)
    try:
        resources = ray.cluster_resources()
        gpus, cores = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
        workers = config.workers or gpus or cores
        threads = max(1, cores // workers)
        place = address or "this machine"
        say(f"{place}: {counted(gpus, 'GPU')}, {counted(cores, 'core')}; {counted(workers, 'worker')}")

        def reports(items: Sequence[Item], block: int) -> Iterator[Report]:
            block = max(1, min(block, len(items) // (4 * workers)))
            columns = {
                "source": [os.fsencode(item.source) for item in items],
                "stem": [os.fsencode(item.stem) for item in items],
            }
            import pyarrow as pa

            table = pa.table(columns)
            blocks = [table.slice(i, block) for i in range(0, len(table), block)]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a deprecation of `max_task_retries`
                data = ray.data.from_arrow(blocks).map_batches(
                    worker,
                    fn_constructor_args=(*arguments, threads),
                    batch_size=None,
                    compute=ray.data.ActorPoolStrategy(size=min(workers, len(blocks))),
                    num_cpus=threads,
                    num_gpus=min(1.0, gpus / workers) if gpus else None,
                    max_restarts=-1,
                    max_task_retries=_RETRIES,
                )
            for out in data.iter_batches(batch_size=None, prefetch_batches=0):
                columns_out = (out[name] for name in ("stem", "pictures", "cause", "fault"))
                for stem, pictures, cause, fault in zip(*columns_out, strict=True):
                    if fault:
                        raise UserError(fault.decode())
                    yield Report(os.fsdecode(stem), int(pictures), cause.decode())

        yield reports
    finally:
        ray.shutdown()


def _settle() -> str:
    """Set the environment variables that Ray reads on import; returns the address of a cluster, or an empty string."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # tasks of dead workers are retried
    address = os.environ.get("RAY_ADDRESS", "")
    if not address:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # without it Ray listens on every address of the machine
    return address


@contextmanager
def _without_log_lines() -> Iterator[None]:
    """Context that drops information and warnings of Ray's C++ code on stderr; all else follows at the end."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            caught.seek(0)
            for line in caught:
                if not re.match(rb"\[[^]]* [IW] [^]]*\] ", line):
                    os.write(2, line)


def _start(address: str) -> Any:
    """Initialise Ray without its output."""
    import ray
    import ray.data

    place: dict[str, Any] = {"address": address}
    if not address:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        place = {"address": "local", "num_cpus": cores, "object_store_memory": _STORE_BYTES, "include_dashboard": False}
    for left in (0,) if address else (2, 1, 0):
        try:
            with _without_log_lines():
                ray.init(**place, log_to_driver=False, logging_level=logging.CRITICAL)
            break
        except Exception as e:  # of various types; on a busy machine Ray times out after 30 s
            ray.shutdown()
            if not left:
                what = f"RAY_ADDRESS {address}: not reached" if address else "Ray: did not start"
                cause = (str(e).splitlines() or [type(e).__name__])[0]
                remedy = "check it; for a cluster with a token, set RAY_AUTH_MODE=token" if address else "try again"
                raise UserError(f"{what} ({cause}); {remedy}") from None
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1
    return ray
