"""Each term against a number worked out by hand."""

import math

import pytest
import torch

from cyclegan_age.losses import (
    age_hinge,
    clip_gradients,
    label_distribution,
    lsgan,
    norms,
    with_gradient,
    wrong_age_weights,
)


def test_lsgan_is_the_mean_square_to_the_goal() -> None:
    scores = torch.tensor([0.0, 2.0]).view(2, 1, 1, 1)
    assert lsgan(scores, 1).item() == 1.0
    assert lsgan(scores, 0).item() == 2.0


def test_weighted_lsgan_asks_each_head_as_far_as_the_age_vector_says() -> None:
    scores = torch.zeros(1, 3, 2, 2)
    scores[0, 1], scores[0, 2] = 3.0, -1.0
    # 0.25 * (3 - 1)^2 + 0.75 * (-1 - 1)^2
    assert lsgan(scores, 1, torch.tensor([[0.0, 0.25, 0.75]])).item() == pytest.approx(4.0)


def test_wrong_age_weights_grow_with_the_distance_and_sum_to_one() -> None:
    weights = wrong_age_weights(torch.tensor([30.0]), torch.tensor([10.0, 20.0, 30.0, 40.0, 60.0]))
    # Distances 20, 10, 0, 10, 30 -> 1, 1/3, 0, 1/3, 1 before they are made to sum to 1.
    torch.testing.assert_close(weights, torch.tensor([[1, 1 / 3, 0, 1 / 3, 1]]) / (8 / 3))


def test_age_hinge_costs_nothing_within_the_tolerance() -> None:
    logits = torch.full((2, 101), -100.0)
    logits[0, 50] = logits[1, 50] = 0.0
    assert age_hinge(logits, torch.tensor([48.0, 60.0]), 3.0).item() == pytest.approx((0 + 7) / 2)


def test_label_distribution_of_a_uniform_guess() -> None:
    # Cross-entropy of a uniform guess is log(101); its expected age is 50, so the smooth L1 to 40 is 10 - 0.5.
    value = label_distribution(torch.zeros(1, 101), torch.tensor([40.0]), 2.0)
    assert value.item() == pytest.approx(math.log(101) + 0.3 * 9.5, rel=1e-5)


def test_a_carried_value_passes_on_the_gradient_it_was_given() -> None:
    x = torch.tensor([[1.0, 2.0]], requires_grad=True)
    carried = with_gradient(2 * x, torch.tensor(7.0), torch.tensor([[3.0, -1.0]]))
    assert carried.item() == 7
    (5 * carried).backward()
    torch.testing.assert_close(x.grad, torch.tensor([[30.0, -10.0]]))


def test_gradients_are_shortened_one_by_one_and_never_lengthened() -> None:
    gradient = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    torch.testing.assert_close(norms(gradient), torch.tensor([5.0, 0.5, 0.0]))
    shortened = clip_gradients(gradient, torch.tensor([1.0, 1.0, 0.0]))
    torch.testing.assert_close(shortened, torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))
