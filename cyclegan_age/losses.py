"""Loss terms: pure functions from tensors to a scalar."""

import torch
from torch import Tensor
from torch.nn import functional as F

from cyclegan_age.networks.estimators import expected_age


def lsgan(scores: Tensor, goal: float, weights: Tensor | None = None) -> Tensor:
    """Least squares GAN term (Mao et al., ICCV 2017, equation 2): the mean of (D(x) - goal)^2.

    Args:
        scores: maps (N, K, h, w), one per head.
        goal: 1 for "real", 0 for "fake".
        weights: (N, K), how much each head counts for each picture; without it all heads count alike.
    """
    per_head = (scores - goal).square().mean(dim=(2, 3))  # (N, K)
    if weights is None:
        return per_head.mean()
    return (per_head * weights).sum(dim=1).mean()


def wrong_age_weights(age_years: Tensor, anchor_years: Tensor) -> Tensor:
    """How surely a real face is no example of each anchor: (N,), (K,) -> (N, K), each row summing to 1.

    0 up to 5 years away, rising to full weight at 20 years; the negative pairs of a matching-aware discriminator (Reed
    et al., "Generative Adversarial Text to Image Synthesis", ICML 2016), here at no extra forward pass.
    """
    distance = (age_years[:, None] - anchor_years[None, :]).abs()
    weight = ((distance - 5) / 15).clamp(0, 1)
    return weight / weight.sum(dim=1, keepdim=True).clamp_min(1e-6)


def age_hinge(logits: Tensor, target_years: Tensor, tolerance_years: float) -> Tensor:
    """Mean of max(0, |expected age - target| - tolerance), in years, from (N, 101) logits and (N,) years."""
    return ((expected_age(logits) - target_years).abs() - tolerance_years).clamp_min(0).mean()


def label_distribution(logits: Tensor, age_years: Tensor, sigma_years: float) -> Tensor:
    """DLDL-v2's two terms for an age estimator (Gao et al., IJCAI 2018, equations 3 and 6) as one scalar.

    Cross-entropy to a Gaussian of `sigma_years` around the label, plus 0.3 times the smooth L1 of the expected age.
    """
    years = torch.arange(logits.shape[1], device=logits.device, dtype=torch.float32)
    target = torch.softmax(-((years - age_years[:, None]) ** 2) / (2 * sigma_years**2), dim=1)
    return F.cross_entropy(logits.float(), target) + 0.3 * F.smooth_l1_loss(expected_age(logits), age_years)
