"""What an age estimator is shown while it learns, and how it is asked when it judges."""

from pathlib import Path

import pytest
import torch

from cyclegan_age.config import AgeEstimatorConfig, UserError
from cyclegan_age.data.batches import Batch
from cyclegan_age.evaluation.evaluators import load_evaluators
from cyclegan_age.images import to_uint8
from cyclegan_age.losses import label_distribution
from cyclegan_age.models import age_estimator
from cyclegan_age.models.age_estimator import AgeEstimatorModel
from cyclegan_age.models.augmentation import augment

SMALL = {"width": 4, "depth": (1,), "input_size": 16}


def test_undisturbed_faces_are_only_mirrored() -> None:
    torch.manual_seed(0)
    x = torch.rand(16, 3, 16, 16) * 2 - 1
    seen = augment(x, 0)
    mirrored = [bool((y - face.flip(2)).abs().max() < 1e-4) for y, face in zip(seen, x, strict=True)]
    same = [bool((y - face).abs().max() < 1e-4) for y, face in zip(seen, x, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert any(mirrored) and any(same)


def test_faces_are_disturbed_the_more_the_greater_the_strength() -> None:
    x = torch.linspace(-0.5, 0.5, 16).expand(200, 3, 16, 16).contiguous()
    x = torch.maximum(x, x.flip(3))  # its own mirror image
    far = []
    for strength in (0.2, 0.5, 1.0):
        torch.manual_seed(0)
        far.append((augment(x, strength) - x).abs().mean().item())
    assert 0 < 2 * far[0] < far[1] < far[2] / 1.5


def test_with_mixup_a_blend_of_two_faces_is_to_be_as_old_as_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(age_estimator, "augment", lambda x, strength: x)
    torch.manual_seed(0)
    model = AgeEstimatorModel(net=AgeEstimatorConfig(mixup=0.2, **SMALL))  # type: ignore[arg-type]
    logits = torch.randn(2, 101)
    shown = []
    model.estimator.forward = lambda x: shown.append(x) or logits  # type: ignore[method-assign, func-returns-value]
    dark, light = torch.full((1, 3, 16, 16), -1.0), torch.full((1, 3, 16, 16), 1.0)
    batch = Batch(dark, torch.tensor([20.0]), light, torch.tensor([60.0]))
    shares = []
    for _ in range(8):
        _, terms = next(model.losses(batch, torch.tensor(0.0), frozenset()))
        share = (1 - shown[-1][0].mean().item()) / 2  # of the dark face in the first blend
        torch.testing.assert_close(shown[-1][1], -shown[-1][0])
        straight = label_distribution(logits, torch.tensor([20.0, 60.0]), 2.5)
        crossed = label_distribution(logits, torch.tensor([60.0, 20.0]), 2.5)
        torch.testing.assert_close(terms["age"], share * straight + (1 - share) * crossed, rtol=1e-4, atol=1e-4)
        shares.append(share)
    assert max(shares) - min(shares) > 0.3


@pytest.mark.parametrize("wrong", [{"disturb": 1.5}, {"mixup": -0.1}])
def test_shares_that_are_none_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"--{next(iter(wrong))}"):
        AgeEstimatorConfig(**wrong)  # type: ignore[arg-type]


def test_an_estimator_averages_a_face_and_its_mirror_image() -> None:
    torch.manual_seed(0)
    faces = to_uint8(torch.rand(3, 3, 64, 64) * 2 - 1)
    (judge,) = (j for j in load_evaluators("age_loss_a", Path("results")) if j.name == "age_judge")
    assert judge.look
    read = judge.look(faces)
    assert read.shape == (3, 1)
    assert read == pytest.approx(judge.look(faces[:, :, ::-1].copy()), abs=1e-3)
    assert len(set(read[:, 0].round(2))) == 3
