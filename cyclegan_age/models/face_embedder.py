"""Face embedding trained with the triplet loss (Schroff et al., "FaceNet: A Unified Embedding for Face Recognition and
Clustering", CVPR 2015), as the AI2100 project report names it for Age-cGAN's identity-preserving optimisation.

There are two ways to train it, and weights say by their configuration which one they went:

- On faces with names (no `teacher`): triplets of two pictures of one person and one of another, the semi-hard ones of
  each batch. FaceNet had 200 million faces; what a few thousand give is for experiments.
- On faces without names (`teacher`): a ready-made recogniser (`data.teacher`) gives each face a target once, and the
  network learns to point the same way. The triplet term takes two augmented views of one picture for the positive pair
  and other pictures for the negatives. So the network knows of identity what its teacher knows, at a fraction of its
  cost and differentiable. It has never seen one person twice, and must not evaluate a model that resembles the
  teacher.

Both see the faces through the age estimator's augmentation of place, light, colour and sharpness.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cyclegan_age.config import FaceEmbedderConfig, TrainConfig
from cyclegan_age.data import recipes
from cyclegan_age.data.batches import Batch
from cyclegan_age.losses import triplet
from cyclegan_age.models.augmentation import augment
from cyclegan_age.models.base import Losses, Model, System
from cyclegan_age.networks.embedders import FaceEmbedder

FAR = (0.01, 0.001)  # false acceptance rates of the reported verification
YEARS_APART = 10.0


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Faces that the training never sees.

    Attributes:
        x: (M, 3, S, S) in [-1, 1].
        label: (M, L), the number of the person (L = 1), or the teacher's embedding.
        age_years: (M,), NaN where not known.
    """

    x: Tensor
    label: Tensor
    age_years: Tensor


def build_embedder(net: FaceEmbedderConfig) -> FaceEmbedder:
    """The network that a configuration describes."""
    return FaceEmbedder(
        width=net.width,
        blocks=net.depth,
        input_size=net.input_size,
        dimensions=net.dimensions,
        window=net.window,
    )


class FaceEmbedderModel(Model):
    """Network and phase `embedder`; it learns from the batch's source and target faces alike.

    The batch's label is the number of the person, or the teacher's embedding, which also identifies a picture.
    """

    def __init__(self, *, net: FaceEmbedderConfig, held_out: HeldOut) -> None:
        self.net = net
        self.held_out = held_out
        self.embedder = build_embedder(net)
        self.networks = {"embedder": self.embedder}
        self.frozen = {}
        self.phases = {"embedder": ["embedder"]}
        self.shipped = ["embedder"]
        self.pools = {}

    def losses(self, batch: Batch, progress: Tensor, paused: frozenset[str]) -> Losses:
        net = self.net
        x = torch.cat([batch.x_source, batch.x_target])
        label = torch.cat([batch.label_source, batch.label_target])
        person = (label[:, None] == label[None]).all(dim=2).int().argmax(dim=1)  # (M,), the first with this label
        terms = {}
        if net.teacher != "none":
            embeddings = self.embedder(torch.cat([augment(x), augment(x)]))
            person = person.repeat(2)
            terms["teacher"] = (1 - (embeddings * label.repeat(2, 1)).sum(dim=1)).mean()
        else:
            embeddings = self.embedder(augment(x))
        terms["triplet"] = net.lambda_triplet * triplet(embeddings, person, net.margin)
        yield "embedder", terms

    def views(self, networks: Mapping[str, nn.Module], x: Tensor) -> dict[str, Tensor]:
        """Of each face an augmented view, and the other face of the sheet that the network finds most alike."""
        embeddings = networks["embedder"](x)
        alike = (embeddings @ embeddings.T).fill_diagonal_(-2).argmax(dim=1)
        return {"augmented": augment(x), "most alike": x[alike]}

    def measures(self, networks: Mapping[str, nn.Module], x: Tensor, age_years: Tensor) -> dict[str, float]:
        """Verification on the held-out faces.

        With names the pairs are those of one person, also those at least ten years apart alone, against all others.
        With a teacher they are two augmented views of one face, against other faces; beside them stand the mean cosine
        to the teacher, and the correlation of both networks' similarities over pairs of different faces. The
        loss is reported for them, too.
        """
        held, embedder = self.held_out, networks["embedder"]
        first = _embed(embedder, held.x.to(x.device))
        label = held.label.to(x.device)
        upper = torch.ones(len(first), len(first), dtype=torch.bool, device=x.device).triu(1)
        similar = first @ first.T
        if self.net.teacher == "none":
            same = (label == label.T) & upper
            different = similar[(label != label.T) & upper]
            out = verification(similar[same], different)
            age = held.age_years.to(x.device)
            apart = same & ((age[:, None] - age[None]).abs() >= YEARS_APART)
            if apart.any():
                years = f"_{YEARS_APART:g}_years_apart"
                out |= {k + years: v for k, v in verification(similar[apart], different).items()}
            few = slice(0, 64)
            loss = self.net.lambda_triplet * triplet(first[few], label[few, 0], self.net.margin)
            return out | {"held_out_triplet": float(loss)}
        views = _embed(embedder, augment(held.x.to(x.device)))
        out = verification((first * views).sum(dim=1), (first @ views.T)[upper])
        out["cosine_to_teacher"] = float((first * label).sum(dim=1).mean())
        out["held_out_teacher"] = 1 - float((views * label).sum(dim=1).mean())
        pairs = torch.stack([similar[upper], (label @ label.T)[upper]])
        return out | {"correlation_with_teacher": float(torch.corrcoef(pairs)[0, 1])}


def verification(same: Tensor, different: Tensor) -> dict[str, float]:
    """How well similarities separate pairs of one person (P,) from pairs of two (Q,).

    Returns:
        `auc`, the area under the ROC curve: the share of (same, different) where the first is more alike, ties counted
        half; and `tar_at_far_1_percent` and so on: the share of `same` above the lowest threshold that at most this
        share of `different` is above.
    """
    ordered = different.sort().values
    below, upto = (torch.searchsorted(ordered, same.contiguous(), right=r).float() for r in (False, True))
    out = {"auc": float((below + upto).mean() / (2 * len(ordered)))}
    for rate in FAR:
        threshold = ordered[len(ordered) - 1 - int(rate * len(ordered))]
        out[f"tar_at_far_{100 * rate:g}_percent"] = float((same > threshold).float().mean())
    return out


def _embed(embedder: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([embedder(part) for part in x.split(64)])


def build(config: TrainConfig, net: FaceEmbedderConfig) -> FaceEmbedderModel:
    """The model with the faces that it is tested on."""
    return FaceEmbedderModel(net=net, held_out=HeldOut(*recipes.held_out_people(config, net)))


SYSTEM = System(config=FaceEmbedderConfig, build=build, data=recipes.face_embedder)
