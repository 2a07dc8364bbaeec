"""What is warned of, and how often."""

import torch

from cyclegan_age.watchdog import Watchdog


def _sheet(render: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.rand(6, 3, 8, 8) * 2 - 1
    old = {"copy": x + 0.001, "collapse": torch.rand(1, 3, 8, 8).expand(6, -1, -1, -1), "fine": -x}[render]
    return {"source": x, "60": old, "cycle": x}


def test_copying_is_reported_once_and_again_only_after_it_was_over() -> None:
    dog = Watchdog(patience=2)
    told = [bool(dog.samples(_sheet(s))) for s in ("copy", "copy", "copy", "fine", "copy", "copy")]
    assert told == [False, True, False, False, False, True]
    (warning,) = Watchdog(patience=1).samples(_sheet("copy"))
    assert "output equals input" in warning
    assert "a higher --lambda_age" in warning


def test_collapse_names_the_column() -> None:
    (warning,) = Watchdog(patience=1).samples(_sheet("collapse"))
    assert "outputs at 60" in warning


def test_a_dead_loss_is_named() -> None:
    dog = Watchdog(patience=1)
    assert dog.losses({"d_real": 0.2, "cycle": 0.0}) == [
        "loss cycle has vanished (0.0e+00); harmless if it measures an error; else use a lower --lr"
    ]
    assert dog.losses({"d_real": 0.2, "cycle": 0.1}) == []
