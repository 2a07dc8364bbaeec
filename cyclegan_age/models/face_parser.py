"""Face parser: semantic segmentation of whole heads, learnt by cross-entropy from pictures with masks.

Pictures and masks are turned, shifted, scaled and mirrored together; pictures are blurred and recoloured besides, and
rectangles are cut out of some (Zhong et al., "Random Erasing Data Augmentation", AAAI 2020), the masks being kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclegan_age.config import FaceParserConfig, TrainConfig
from cyclegan_age.data import recipes
from cyclegan_age.data.batches import Batch
from cyclegan_age.models.augmentation import move, recolour
from cyclegan_age.models.base import Losses, Model, System
from cyclegan_age.networks.parsers import PARTS, FaceParser

COLOURS = ((40, 40, 40), (240, 170, 90), (80, 110, 255), (90, 220, 120), (230, 60, 160))  # of PARTS


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Heads that the training never sees.

    Attributes:
        x: (M, 3, S, S) in [-1, 1].
        masks: (M, S, S) int64, numbers of `PARTS`.
    """

    x: Tensor
    masks: Tensor


def build_parser(net: FaceParserConfig) -> FaceParser:
    """The network that a configuration describes."""
    return FaceParser(version=int(net.backbone[-1]), channels=net.channels, input_size=net.input_size)


class FaceParserModel(Model):
    """Network and phase `parser`; it learns from the batch's source and target heads alike.

    The batch's label is the mask (N, S * S), numbers of `PARTS`.
    """

    def __init__(self, *, net: FaceParserConfig, held_out: HeldOut) -> None:
        self.held_out = held_out
        self.parser = build_parser(net)
        self.parser.load_imagenet()
        self.networks = {"parser": self.parser}
        self.frozen = {}
        self.phases = {"parser": ["parser"]}
        self.shipped = ["parser"]
        self.pools = {}

    def losses(self, batch: Batch, progress: Tensor, paused: frozenset[str]) -> Losses:
        x = torch.cat([batch.x_source, batch.x_target])
        masks = torch.cat([batch.label_source, batch.label_target]).view(len(x), 1, *x.shape[2:])
        x, masks = augment(x, masks.float())
        yield "parser", {"parts": _cross_entropy(self.parser(x), masks[:, 0].long())}

    def views(self, networks: Mapping[str, nn.Module], x: Tensor) -> dict[str, Tensor]:
        """Of each head its parts in colours, an augmented view of it, and the parts of this."""
        augmented, _ = augment(x, x[:, :1])
        parts, of_augmented = (painted(view, networks["parser"](view).softmax(dim=1)) for view in (x, augmented))
        return {"source parts": parts, "augmented": augmented, "augmented parts": of_augmented}

    def measures(self, networks: Mapping[str, nn.Module], x: Tensor, age_years: Tensor) -> dict[str, float]:
        """Intersection over union of each part, and the loss, on the heads held out, which are not augmented."""
        masks = self.held_out.masks.to(x.device)
        logits = torch.cat([networks["parser"](part.to(x.device)) for part in self.held_out.x.split(32)])
        probabilities = F.interpolate(logits.softmax(dim=1), size=masks.shape[1:], mode="bilinear")
        ious = intersection_over_union(confusion(probabilities.argmax(dim=1), masks))
        out = {f"iou_{part}": iou for part, iou in zip(PARTS, ious, strict=True)}
        return out | {"held_out_parts": float(_cross_entropy(logits, masks))}


def confusion(found: Tensor, masks: Tensor) -> Tensor:
    """How many pixels of each part (rows) were taken for each part: (M, S, S) integers each -> (5, 5) int64."""
    count = len(PARTS)
    return torch.bincount((masks.long() * count + found).flatten(), minlength=count**2).view(count, count)


def intersection_over_union(pixels: Tensor) -> list[float]:
    """Of each of `PARTS`, from their confusion (5, 5); NaN where there is none of it."""
    both = pixels.diagonal()
    ious: list[float] = (both / (pixels.sum(dim=0) + pixels.sum(dim=1) - both)).tolist()
    return ious


def painted(x: Tensor, probabilities: Tensor) -> Tensor:
    """Pictures (N, 3, S, S) in [-1, 1], tinted by the probabilities (N, 5, s, s) of their parts -> same as pictures."""
    colours = torch.tensor(COLOURS, device=x.device) / 127.5 - 1  # (5, 3)
    probabilities = F.interpolate(probabilities, size=x.shape[2:], mode="bilinear")
    return (x + torch.einsum("nkhw,kc->nchw", probabilities, colours)) / 2


def augment(x: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Random views of pictures (N, 3, S, S) in [-1, 1], and what their masks (N, 1, S, S) become in these."""
    x, masks = move(x, masks)
    return _cut_out(recolour(x)), masks


def _cut_out(x: Tensor) -> Tensor:
    """In half of the pictures a rectangle of an even colour, 10 to 40 % of the side long and wide."""
    n, size, device = len(x), x.shape[-1], x.device
    place = (torch.arange(size, device=device) + 0.5) / size  # (S,)
    middle, side = torch.rand(n, 2, 1, device=device), torch.rand(n, 2, 1, device=device) * 0.3 + 0.1
    inside = (place - middle).abs() < side / 2  # (N, 2, S): rows, columns
    cut = inside[:, 0, :, None] & inside[:, 1, None] & (torch.rand(n, 1, 1, device=device) < 0.5)  # (N, S, S)
    return torch.where(cut[:, None], torch.rand(n, 3, 1, 1, device=device) * 2 - 1, x)


def _cross_entropy(logits: Tensor, masks: Tensor) -> Tensor:
    """Mean over pixels, at the size of the masks (N, S, S) int64."""
    return F.cross_entropy(F.interpolate(logits, size=masks.shape[1:], mode="bilinear"), masks)


def build(config: TrainConfig, net: FaceParserConfig) -> FaceParserModel:
    """The model with the heads that it is tested on."""
    return FaceParserModel(net=net, held_out=HeldOut(*recipes.held_out_masks(config)))


SYSTEM = System(config=FaceParserConfig, build=build, data=recipes.face_parser)
