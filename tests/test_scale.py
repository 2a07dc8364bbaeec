"""That the estimates of large trainings and services follow from their inputs, and that the page shows them."""

from pathlib import Path

import pytest

from benchmarks.scale import efficiency, exchange_seconds, images_per_s, main, serving, training, wait_ms
from options.bench_scale import ScaleBenchConfig

PROJECT = Path(__file__).resolve().parent.parent


def test_the_page_shows_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    page = (PROJECT / "docs" / "scale.md").read_text(encoding="utf-8")
    tables = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(tables) == 9
    assert [line for line in tables if line not in page] == []


def test_a_training_takes_faces_by_epochs_over_images_per_second() -> None:
    config = ScaleBenchConfig(faces=90_000, epochs=10, image_size=512, measured_size=256, measured_per_s=1000.0)
    assert images_per_s(config) == 250
    gpus, rate, share, hours, price, *_ = training(config, 1)
    assert (gpus, rate, share, hours, price) == ("1", "250", "100", "1.00", "4")


def test_gradients_go_twice_around_a_ring_of_the_slowest_link() -> None:
    config = ScaleBenchConfig(parameters=1e9, link_gb_s=100.0, network_gb_s=10.0, gpus_per_machine=8)
    assert exchange_seconds(config, 1) == 0
    assert exchange_seconds(config, 8) == pytest.approx(2 * 7 / 8 * 4e9 / 100e9)
    assert exchange_seconds(config, 16) == pytest.approx(2 * 15 / 16 * 4e9 / 10e9)


def test_only_what_does_not_run_behind_the_step_slows_it() -> None:
    step = {"measured_per_s": 32.0, "measured_size": 512, "batch_size": 32, "uncaptured": 1.0}  # of a second
    link = {"parameters": 1e9, "link_gb_s": 4.0 * 2 / 2}  # GB/s, so that the exchange of two takes a second
    assert exchange_seconds(ScaleBenchConfig(**link), 2) == pytest.approx(1)  # type: ignore[arg-type]
    for overlap, slower in ((0.0, 2.0), (0.75, 1.25)):
        config = ScaleBenchConfig(**step, **link, overlap=overlap)  # type: ignore[arg-type]
        assert efficiency(config, 2) == pytest.approx(1 / slower)
    slow = ScaleBenchConfig(**step, **link | {"link_gb_s": 1.0}, overlap=0.75)  # type: ignore[arg-type]
    assert efficiency(slow, 2) == pytest.approx(1 / (1 + 4 - 0.75))  # four seconds, of which 0.75 are hidden


def test_a_service_has_room_for_its_load() -> None:
    assert wait_ms(0.5, 10) == 5  # half of a service time
    config = ScaleBenchConfig(
        requests_per_s=1000, cache_hits=0.5, gflop=12.0, serving_tflops=4.0, load=0.5, crop_ms=8.0, cache_hours=1.0
    )
    kind, made, gpus, cores, each, *_, cache, _ = serving(config, "crops")
    assert (kind, made, gpus, cores, each) == ("crops", "500", "3", "8", "3")  # 1.5 GPUs and 4 cores are kept busy
    assert float(cache) == pytest.approx(500 * 3600 * 250e3 / 1e12)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--faces 0", "--faces 0: must be above 0"),
        ("--gpus 8 0", "--gpus 8 0: must be numbers, each above 0"),
        ("--load 1", "--load 1: must be above 0 and below 1"),
    ],
)
def test_inputs_that_mean_nothing_are_reported(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 2
    assert capsys.readouterr().err == said + "\n"
