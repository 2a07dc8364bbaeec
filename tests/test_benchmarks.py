"""That the benchmarks run, count right and fail clearly; never how fast anything is."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks import inside, mutations, processes, shards
from benchmarks.__main__ import main
from benchmarks.plan import Row, table
from cyclegan_age.config import CycleGANConfig, TrainConfig, UserError
from cyclegan_age.models import SYSTEMS

CONFIG = TrainConfig(image_size=32, load_size=32, batch_size=2, ages=(10, 30, 60), compile=False)
NET = CycleGANConfig(ngf=4, ndf=4, blocks=1, lambda_age=0.0, cycle_share=0.5)


def convolutions(network: nn.Module, *inputs: Tensor) -> list[int]:
    """Operations of each convolution of a forward pass, in order: a multiply-add is two."""
    found: list[int] = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda m, _, out: found.append(2 * m.weight.numel() * out.shape[2] * out.shape[3])
            )
    with torch.no_grad():
        network(*inputs)
    return found


def test_operations_of_a_step_are_those_of_its_convolutions() -> None:
    x = torch.zeros(1, 3, 32, 32)
    networks = SYSTEMS["cyclegan"].build(CONFIG, NET).networks
    g = convolutions(networks["generator"], x, torch.eye(3)[:1])
    d = convolutions(networks["discriminator"], x)
    flops = inside.flops_per_image(CONFIG, NET)
    # Forward, gradient of the weights, gradient of the input, which a real picture at the first layer needs not.
    aged, back, same = 3 * sum(g) - g[0], 3 * sum(g), 3 * sum(g) - g[0]
    assert flops.generator == aged + back / 2 + same / 2  # of one of two pictures
    judge, real_and_fake = 2 * sum(d), 2 * (3 * sum(d) - d[0])
    assert flops.discriminator == judge + real_and_fake
    assert flops.critics == 0
    assert flops.total == flops.generator + flops.discriminator


def test_operations_of_critics_are_counted_separately() -> None:
    without = inside.flops_per_image(CONFIG, NET)
    one, two = ("age_loss_b",), ("age_loss_b", "age_loss_b")
    costs = [inside.flops_per_image(CONFIG, replace(NET, lambda_age=0.1, estimators=e)) for e in (one, two)]
    assert 0 < costs[1].critics == pytest.approx(2 * costs[0].critics, rel=1e-3)  # both see one view
    assert costs[0].generator == costs[1].generator == pytest.approx(without.generator, rel=0.03)  # which it makes
    assert {c.discriminator for c in costs} == {without.discriminator}


@pytest.mark.parametrize("fast", [True, False])
def test_a_step_moves_every_network_and_its_average(fast: bool) -> None:
    trainer = inside.SingleBatchTrainer(config=CONFIG, net=NET, fast=fast)
    networks = {**trainer.model.networks, "average": trainer.ema["generator"].module}
    before = {name: [w.detach().clone() for w in network.parameters()] for name, network in networks.items()}
    for _ in range(2):  # in the first the discriminator's head, which begins at zero, holds back the gradient
        trainer.step()
    for name, network in networks.items():
        moved = [not torch.equal(w, old) for w, old in zip(network.parameters(), before[name], strict=True)]
        assert sum(moved) > 0.9 * len(moved), name
    wide = next(w for w in networks["discriminator"].parameters() if w.ndim == 4 and min(w.shape) > 1)
    assert wide.is_contiguous() is not fast
    assert trainer.bf16 is (fast and inside.has_bf16(inside.CPU))
    assert trainer.model.pools["fakes"].filled == 2 * CONFIG.batch_size


def test_the_fastest_of_all_rounds_counts() -> None:
    order: list[str] = []
    tasks = {name: inside.Task(lambda name=name: order.append(name), times) for name, times in (("a", 2), ("b", 1))}
    inside.take_turns(tasks, 2)
    assert order == ["a", "a", "b"] * 2
    tasks["a"].seconds = -1.0
    inside.take_turns(tasks, 1)
    assert tasks["a"].seconds == -1.0


def test_the_table_says_which_goals_are_met() -> None:
    rows = [
        Row(measure="ratio", value=4.004, unit="x", at_least=4),
        Row(measure="share", value=44.9, unit="%", at_least=45),
        Row(measure="memory", value=4.5, unit="GiB", at_most=4),
        Row(measure="speed", value=1234.4, unit="images/s"),
        Row(measure="rate", value=0.67, unit="TFLOPS"),
    ]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table(rows).splitlines()]
    assert [len(line) for line in cells] == [4] * 7
    assert re.fullmatch(r"-+:", cells[1][1])
    assert cells[2:] == [
        ["ratio", "4.00", "x", "at least 4, met"],
        ["share", "44.9", "%", "at least 45, missed"],
        ["memory", "4.50", "GiB", "at most 4, missed"],
        ["speed", "1234", "images/s", ""],
        ["rate", "0.670", "TFLOPS", ""],
    ]


def test_peak_memory_is_the_childs_own() -> None:
    code = """
import sys, tempfile
from pathlib import Path
from benchmarks.processes import run_child
folder = Path(tempfile.mkdtemp())
for megabytes in (0, 300):
    child = f"x = bytearray(b'1') * ({megabytes} << 20); open({str(folder / 'file')!r}, 'w').close()"
    print(run_child([sys.executable, "-c", child], folder / "file", folder / "log", {}).peak_bytes >> 20)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=processes.PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    small, large = map(int, done.stdout.split())
    # The small one may show the size of the process that started it.
    assert 300 <= large < 400
    assert 5 < small < 200


@pytest.mark.parametrize("code", ["import sys; print('first'); sys.exit('no luck')", "print('no luck')"])
def test_a_child_that_fails_or_makes_nothing_is_reported(code: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no luck"):
        processes.run_child([sys.executable, "-c", code], tmp_path / "file", tmp_path / "log", {})


def test_quick_measures_everything(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.setenv(name, "")  # so that they are put back
    assert main(["--quick"]) == 0
    out, err = capsys.readouterr()
    heading, _, *lines = out.splitlines()
    assert f"torch {torch.__version__}" in heading and "mean nothing" in heading
    values = {cells[1].strip(): float(cells[2]) for line in lines[2:] if (cells := line.split("|"))}
    assert min(values.values()) > 0, out
    parts = sum(value for name, value in values.items() if name in ("- generator", "- discriminator", "- age critics"))
    assert parts == pytest.approx(values["operations per image"], rel=0.02)
    assert [name for name in values if "train.py" in name or "test.py" in name] == [
        "train.py as a whole",
        "train.py: peak memory",
        "train.py --no_compile: first batch after",
        "test.py, per image",
        "test.py, times generator",
    ]
    assert err.count("\n") == len(re.findall(r"^\[ *\d+ s\] ", err, re.MULTILINE)) >= 5


def test_an_unknown_flag_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--slow"]) == 2
    assert "--slow" in capsys.readouterr().err


def test_the_benchmark_of_shards_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "PICTURES", 60)
    monkeypatch.setattr(shards, "SIDE", 32)
    monkeypatch.setattr(shards, "MANY", 1000)
    assert shards.main(["--seconds", "1", "--samples", "640"]) == 0
    assert "| after 640 " in capsys.readouterr().out
    assert shards.main(["--seconds", "0"]) == 2
    assert capsys.readouterr().err == "--seconds 0: must be at least 1\n"


def test_mutated_files_of_trainings_raise_nothing_but_errors_of_the_project(tmp_path: Path) -> None:
    rows, lines = mutations.run(30, 120, 1, tmp_path, lambda line: None, data=True)
    assert lines == []
    assert [row.value for row in rows if row.measure.startswith("mutated ")] == [10, 10, 10]
