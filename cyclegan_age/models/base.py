"""The interfaces of a model in training, and of the renderer that inference makes of its networks."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from cyclegan_age.ages import AgeCode
from cyclegan_age.attributes import FaceAttributes
from cyclegan_age.config import ModelConfig, TrainConfig, UserError
from cyclegan_age.data.batches import Batch
from cyclegan_age.data.face_data import FaceData
from cyclegan_age.models.pool import ImagePool
from cyclegan_age.networks.estimators import AgeCalibration
from cyclegan_age.weight_files import Weights

Losses: TypeAlias = Iterator[tuple[str, dict[str, Tensor]]]

# Of a sample sheet, see `training.sheets`: the face at its own age; at each age; cycle: the oldest rendering, back at
# its own age; translations to the other domains and back; two faces from noise; one at each age from noise.
Column = Literal["rebuilt", "ages", "cycle", "translations", "generated", "generated ages"]


class Model(ABC):
    """How one paper combines its networks.

    Attributes:
        networks: all that a checkpoint saves, by name.
        frozen: networks that the losses use as they are.
        phases: for each phase, in order, the names of the networks that its optimiser updates.
        shipped: networks whose (averaged) weights inference loads.
        pools: history buffers, by name.
        rates: factors of the learning rate, for each phase whose rate is another than the configured one.
        columns: what a sample sheet shows beside the faces, by the renderers; may change between stages.
        shows_life: whether the life of one face is shown, too.
        default_layers: layers whose features are shown where `--feature_layers` is not given; by default its default.
        parts: configurations of shipped networks that were trained before, as models of their own, by name.
        averaged: copies of the shipped networks with averaged weights, in eval mode; the loop sets and keeps them.
    """

    networks: dict[str, nn.Module]
    frozen: dict[str, nn.Module]
    phases: dict[str, list[str]]
    shipped: list[str]
    pools: dict[str, ImagePool]
    rates: Mapping[str, float] = MappingProxyType({})
    columns: Sequence[Column] = ()
    shows_life = False
    default_layers: Sequence[str] = ()
    parts: Mapping[str, ModelConfig] = MappingProxyType({})
    averaged: Mapping[str, nn.Module] = MappingProxyType({})

    def prepare(self, data: FaceData, device: torch.device, *, progress: bool = True) -> None:
        """Collect statistics of the data, once before the first step; a resumed training has them in its state.

        Of several processes only one shows its progress.
        """
        return

    @abstractmethod
    def losses(self, batch: Batch, progress: Tensor, paused: frozenset[str]) -> Losses:
        """One step: yields every phase in order with its weighted, named loss terms.

        The loop applies a phase's gradients before it asks for the next one.

        It is captured as a CUDA graph for each value of `paused`, once it has run as it is: shapes are the same in
        every step, random numbers come from the default generator of the batch's device, nothing is copied from or
        to the host, and no branch is taken on the value of a tensor. What the graph works on stays where it is.

        Args:
            batch: pictures in [-1, 1] and ages in years.
            progress: () float32 on the batch's device, share of the training that is done, 0 to 1.
            paused: phases to yield without terms, as `paused` gave them.
        """

    def paused(self, progress: float) -> frozenset[str]:
        """Called before each step, on the host: the phases that are paused in it.

        Their networks and the averages of these stay as they are. So stages that follow each other are phases that
        are paused in turn.
        """
        return frozenset()

    def reset(self, before: float, progress: float) -> Sequence[str]:
        """Called before each step, on the host: the phases whose networks it initialised again, in place.

        Args:
            before: share of the training that was done before the last step; `progress` before the first.
            progress: share of the training that is done.
        """
        return ()

    def renderers(self, networks: Mapping[str, nn.Module]) -> Sequence["Renderer"]:
        """What inference makes of the shipped networks, averaged and in eval mode; nothing of a model without faces.

        It is one renderer, or, where each of two generators translates one way, these two.
        """
        return ()

    def views(self, networks: Mapping[str, nn.Module], x: Tensor) -> dict[str, Tensor]:
        """Columns (N, 3, H, W) by name, for the sheet of pictures x (N, 3, H, W), of a model that renders no faces."""
        return {}

    def measures(self, networks: Mapping[str, nn.Module], x: Tensor, age_years: Tensor) -> dict[str, float]:
        """Numbers to log beside a sample sheet, by name.

        `held_out_NAME` is the loss NAME on faces that are not trained on; it shows over-fitting.
        """
        return {}


def age_and_sex(attributes: Sequence[FaceAttributes], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ages in years and sexes of N faces, (N,) float32 each, NaN where unknown."""
    values = [(one.age_years, one.sex) for one in attributes]
    age_years, sex = torch.tensor(values, dtype=torch.float32, device=device).view(-1, 2).unbind(1)
    return age_years, sex


@dataclass(frozen=True, eq=False)
class Encoding:
    """What a generator takes of a batch of faces.

    Attributes:
        latent: (N, ...), latent vectors, or the pictures themselves where the generator takes pictures.
        measures: (N,) each, by name, for the user: such as the distance of identities.
    """

    latent: Tensor
    measures: dict[str, Tensor] = field(default_factory=dict)


class FaceEncoder(nn.Module, ABC):
    """Encodes faces, once for all ages that they are then rendered at.

    Attributes:
        latent_size: entries of a latent vector, the first columns of `Encoding.latent`; 0 where pictures are encoded.
        encodes: whether it encodes faces; otherwise it only samples.
    """

    latent_size = 0
    encodes = True

    @abstractmethod
    def encode(self, x: Tensor, attributes: Sequence[FaceAttributes]) -> Encoding:
        """Pictures x (N, 3, S, S) in [-1, 1] with N attributes -> the generator's input. Called without gradients.

        Raises:
            UserError: the model generates faces from noise alone.
        """

    def sample(self, count: int, random: torch.Generator) -> Tensor:
        """Generator inputs (count, ...) from the model's prior, sample_latents by a generator on the CPU.

        Raises:
            UserError: the model has no prior.
        """
        raise UserError("must be weights of a gan, cgan or age_cgan to generate faces from noise")


class PictureEncoder(FaceEncoder):
    """For generators of pictures: the pictures themselves."""

    def encode(self, x: Tensor, attributes: Sequence[FaceAttributes]) -> Encoding:
        return Encoding(x)


@dataclass(frozen=True, eq=False, kw_only=True)
class Renderer:
    """The networks that render faces, during training and after.

    Attributes:
        generator: a `latent` (N, ...) of its encoder and age vectors (N, K) -> (N, 3, S, S) in [-1, 1].
        code: how years become its age vectors.
        encoder: how faces are encoded.
        conditional: whether the age vector makes a difference.
        domains: what pictures are translated to, if not to ages: number k stands for k years.
        calibration: of the age vectors, before the generator takes them, if `evaluate.py --fit_ages` fitted one.
    """

    generator: nn.Module
    code: AgeCode
    encoder: FaceEncoder = field(default_factory=PictureEncoder)
    conditional: bool = True
    domains: tuple[str, ...] = ()
    calibration: AgeCalibration | None = None


@dataclass(frozen=True, kw_only=True)
class System:
    """A model's row in the table.

    Attributes:
        config: class of its configuration.
        build: the model, as a training begins it.
        data: what it trains on.
        renderer: how its weights are used; None where it renders no faces.
    """

    config: type[ModelConfig]
    build: Callable[[TrainConfig, Any], Model]
    data: Callable[[TrainConfig, Any], FaceData]
    renderer: Callable[[Weights], Renderer] | None = None
