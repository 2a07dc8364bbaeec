"""Loss terms: pure functions from tensors to a scalar; and the weights and gradients that they use."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cyclegan_age.networks.estimators import expected_age

_IRIS = 0.14  # radius of what belongs to an eye, as a share of the eyes' distance


def lsgan(scores: Tensor, target: float, weights: Tensor | None = None) -> Tensor:
    """Least squares GAN term (Mao et al., ICCV 2017, equation 2): the mean of (D(x) - target)^2.

    Args:
        scores: (N, K, ...), one map or list of scores per head.
        target: 1 for "real", 0 for "fake".
        weights: (N, K), weight of each head for each picture; by default all heads count equally.
    """
    per_head = (scores - target).square().flatten(2).mean(dim=2)  # (N, K)
    if weights is None:
        return per_head.mean()
    return (per_head * weights).sum(dim=1).mean()


def wrong_age_weights(age_years: Tensor, anchor_years: Tensor) -> Tensor:
    """Weights of real faces as negative examples of each anchor: (N,), (K,) -> (N, K), each row summing to 1.

    0 up to 5 years away, rising to full weight at 20 years. These are the negative pairs of a matching-aware
    discriminator (Reed et al., "Generative Adversarial Text to Image Synthesis", ICML 2016), without an extra forward
    pass.
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


def r1(logits: Tensor, x_real: Tensor) -> Tensor:
    """R1 gradient penalty (Mescheder et al., ICML 2018, equation 9): half the mean of |dD(x)/dx|^2 over pictures.

    Args:
        logits: (N,), of a discriminator that is not compiled, since the penalty needs second derivatives.
        x_real: (N, 3, H, W), their pictures; requires its gradient.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), x_real, create_graph=True)
    return 0.5 * gradient.float().square().flatten(1).sum(dim=1).mean()


class _Carry(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None]:
        return ctx.saved_tensors[0] * outer[0], None, None


def with_gradient(x: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
    """A scalar with a given value and a given gradient with respect to x, of the shape of x."""
    carried: Tensor = _Carry.apply(x, value, gradient)
    return carried


def clip_gradients(gradient: Tensor, length: Tensor) -> Tensor:
    """Gradients (N, ...), each clipped to a norm (N,)."""
    scale = (length / norms(gradient).clamp_min(1e-12)).clamp_max(1)
    return gradient * scale.view(-1, *[1] * (gradient.dim() - 1))


def norms(x: Tensor) -> Tensor:
    """Euclidean length of each of N tensors: (N, ...) -> (N,)."""
    lengths: Tensor = x.flatten(1).norm(dim=1)
    return lengths


def semi_hard(distances: Tensor, person: Tensor) -> Tensor:
    """For each pair of anchor and positive the distance of the anchor to its negative: (M, M), (M,) -> (M, M).

    The negative is the nearest one farther from the anchor than the positive (Schroff et al., CVPR 2015, section 3.2).
    If there is none, it is the farthest negative; entries of an anchor without negatives are undefined.
    """
    d = distances.detach()
    negative = person[:, None] != person[None, :]
    farther = negative[:, None, :] & (d[:, None, :] > d[:, :, None])  # anchor, positive, negative
    nearest, index = d[:, None, :].masked_fill(~farther, torch.inf).min(dim=2)
    farthest = d.masked_fill(~negative, -torch.inf).argmax(dim=1, keepdim=True)
    return distances.gather(1, torch.where(nearest.isinf(), farthest, index))


def triplet(embeddings: Tensor, person: Tensor, margin: float) -> Tensor:
    """FaceNet's triplet loss (Schroff et al., CVPR 2015, section 3.1) as a mean over the pairs of the batch.

    Each ordered pair of two faces of one person has the term max(0, |a - p|^2 - |a - n|^2 + margin), n by `semi_hard`;
    a batch without such pairs, or of only one person, has loss 0.

    Args:
        embeddings: (M, D).
        person: (M,), equal for the faces of one person.
        margin: minimum difference of the squared distances.
    """
    distances = (embeddings[:, None] - embeddings[None]).square().sum(dim=2)  # (M, M)
    same = person[:, None] == person[None, :]
    pairs = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device) & ~same.all(dim=1, keepdim=True)
    terms = (distances - semi_hard(distances, person) + margin).clamp_min(0)
    return torch.where(pairs, terms, 0.0).sum() / pairs.sum().clamp_min(1)


def group_age(logits: Tensor, group: Tensor, group_of_year: Tensor, nominal_years: Tensor, weights: Tensor) -> Tensor:
    """Age estimation loss of PFA-GAN (Huang et al., IEEE TIFS 2021, equation 5) as a mean over the pictures.

    The squared error in years of the expected age, plus the cross-entropy of the group: -log of the total probability
    of the group's years, where the paper has a separate linear layer.

    Args:
        logits: (N, 101) over years.
        group: (N,), index of the target group, int64.
        group_of_year: (101,), index of the group of each year; each group has at least one year.
        nominal_years: (K,), the age of each group.
        weights: (N,), weight of each picture.
    """
    inside = group_of_year[None, :] == group[:, None]  # (N, 101)
    log_probability = logits.float().log_softmax(dim=1).masked_fill(~inside, -torch.inf).logsumexp(dim=1)
    squared = (expected_age(logits) - nominal_years[group]).square()
    mean: Tensor = ((squared - log_probability) * weights).mean()
    return mean


def dissimilarity(x: Tensor, y: Tensor) -> Tensor:
    """1 - SSIM (Wang et al., IEEE TIP 2004, equation 13) of pictures (N, C, H, W) in [-1, 1], over windows of 7x7."""
    pairs = torch.stack([x, y, x * x, y * y, x * y]).float()  # (5, N, C, H, W)
    mean_x, mean_y, xx, yy, xy = F.avg_pool2d(pairs.flatten(0, 1), 7, stride=1).unflatten(0, (5, len(x)))
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2  # the range is 2
    light = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * (xy - mean_x * mean_y) + c2) / (xx - mean_x**2 + yy - mean_y**2 + c2)
    similarity: Tensor = (light * structure).mean()
    return 1 - similarity


def eye_change(
    x_source: Tensor, x_fake: Tensor, eyes: Sequence[tuple[float, float]], *, patch: float = 0.125
) -> Tensor:
    """Mean change of colour in the eyes, averaged over patches: a scalar, 0 to 2.

    Args:
        x_source: aligned faces (N, 3, S, S) in [-1, 1].
        x_fake: the same faces, changed.
        eyes: positions (x, y) of both eyes in the crop, as shares of its side.
        patch: side of a patch, as a share of the eyes' distance; 0 for single pixels.
    """
    size, distance = x_source.shape[-1], math.dist(*eyes)
    at = (torch.arange(size, device=x_source.device) + 0.5) / size
    away = [(at - x).square()[None, :] + (at - y).square()[:, None] for x, y in eyes]  # squared distances from an eye
    inside = torch.minimum(*away) < (_IRIS * distance) ** 2
    kernel = max(1, round(size * distance * patch))
    # Not padded by the pooling, whose gradient is then wrong on CUDA (github.com/pytorch/pytorch/issues/188344).
    padded = F.pad(x_fake - x_source, [kernel // 2] * 4)
    change = F.avg_pool2d(padded, kernel, 1).abs().mean(dim=1)[:, :size, :size]
    return (change * inside).sum() / (len(change) * inside.sum()).clamp_min(1)


def feature_distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared distance of feature maps (N, C, h, w), normalised to unit length at each position; from 0 to 4.

    The normalisation removes the scale of the features (as in Zhang et al., "The Unreasonable Effectiveness of Deep
    Features as a Perceptual Metric", CVPR 2018).
    """
    a, b = (F.normalize(features.float(), dim=1) for features in (a, b))
    return (a - b).square().sum(dim=1).mean()


def perceptual(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Mean of `feature_distance` over the feature maps of two pictures: 0 to 4."""
    return torch.stack([feature_distance(*maps) for maps in zip(a, b, strict=True)]).mean()


def identity_distance(a: Tensor, b: Tensor) -> Tensor:
    """1 minus the mean cosine of face embeddings (N, D), each of length 1: 0 for equal embeddings, up to 2."""
    return 1 - (a * b).sum(dim=1).mean()


def bce_gan(logits: Tensor, target: float) -> Tensor:
    """Cross-entropy GAN term (Goodfellow et al., NIPS 2014, equation 1): the mean of -t log D - (1 - t) log(1 - D).

    Args:
        logits: (N,), the discriminator's outputs before the sigmoid.
        target: t, 1 for "real", 0 for "fake", or between (Salimans et al., NIPS 2016, section 3.4).
    """
    return F.binary_cross_entropy_with_logits(logits.float(), torch.full_like(logits, target, dtype=torch.float32))


def bce_generator_loss(logits: Tensor, *, saturating: bool = False) -> Tensor:
    """The generator's adversarial loss, from the discriminator's logits (N,) of its pictures.

    -log D(G(z)), or `saturating` log(1 - D(G(z))), whose gradient vanishes when the discriminator is confident
    (Goodfellow et al., NIPS 2014, section 3).
    """
    return -bce_gan(logits, 0) if saturating else bce_gan(logits, 1)


def total_variation(x: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels of x (N, C, H, W): along rows plus along columns."""
    along = (x[..., 1:] - x[..., :-1]).abs().mean()
    down: Tensor = (x[..., 1:, :] - x[..., :-1, :]).abs().mean()
    return along + down
