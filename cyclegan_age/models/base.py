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
from cyclegan_age.config import ModelConfig, TrainConfig, WrongWeights
from cyclegan_age.data.batches import Batch
from cyclegan_age.data.face_data import FaceData
from cyclegan_age.models.pool import ImagePool
from cyclegan_age.networks.estimators import AgeCalibration
from cyclegan_age.weight_files import Weights

Losses: TypeAlias = Iterator[tuple[str, dict[str, Tensor]]]

# Columns of a sample sheet, see `training.sheets`. rebuilt: the face at its own age; ages: at each age; cycle: from the
# oldest age back to its own; translations: to the other domain and back; generated: two faces from noise;
# generated ages: one face from noise at each age.
Column = Literal["rebuilt", "ages", "cycle", "translations", "generated", "generated ages"]


class Model(ABC):
    """How one paper combines its networks.

    Attributes:
        networks: all that a checkpoint saves, by name.
        frozen: networks that the losses use as they are.
        phases: for each phase, in order, the names of the networks that its optimiser updates.
        shipped: networks whose EMA weights inference loads.
        pools: history buffers, by name.
        lr_factors: factors of the learning rate, for each phase whose rate is another than the configured one.
        columns: what the renderers draw on a sample sheet; may change between the stages of a training.
        shows_life: whether the life of one face is shown, too.
        default_layers: layers whose features are shown instead of the default of `--feature_layers`; empty for none.
        pretrained: configurations of shipped networks that were trained before as separate models, by name.
        ema_networks: copies of the shipped networks with EMA weights, in eval mode; the trainer sets and updates them.
    """

    networks: dict[str, nn.Module]
    frozen: dict[str, nn.Module]
    phases: dict[str, list[str]]
    shipped: list[str]
    pools: dict[str, ImagePool]
    lr_factors: Mapping[str, float] = MappingProxyType({})
    columns: Sequence[Column] = ()
    shows_life = False
    default_layers: Sequence[str] = ()
    pretrained: Mapping[str, ModelConfig] = MappingProxyType({})
    ema_networks: Mapping[str, nn.Module] = MappingProxyType({})

    def prepare(self, data: FaceData, device: torch.device, *, progress: bool = True) -> None:
        """Collect statistics of the data before the first step; later processes read them from the checkpoint.

        Args:
            data: the training data.
            device: where the networks are.
            progress: whether to show a progress bar.
        """
        return

    def initial(self, name: str, weights: Weights) -> dict[str, Tensor]:
        """State dict of a network to start from, of the weights of `--init`, which may be of another model."""
        return weights.network(name)

    @abstractmethod
    def losses(self, batch: Batch, progress: Tensor, paused: frozenset[str]) -> Losses:
        """One step: yields every phase in order with its weighted, named loss terms.

        The trainer updates a phase's networks before it asks for the next one. With `--accumulate` one generator per
        part of the batch runs, phase by phase in turn. So set `requires_grad` of the networks at the start of each
        phase.

        On a GPU it is captured as a CUDA graph for each value of `paused`, after some uncaptured steps. So every
        step must have the same shapes. Random numbers must come from the default generator of the batch's device.
        Nothing may be copied from or to the host, and no branch may depend on the value of a tensor. Tensors that
        outlive a step must be changed in place.

        Args:
            batch: pictures in [-1, 1] and ages in years.
            progress: () float32 on the batch's device, share of the training that is done, 0 to 1.
            paused: phases to yield without terms, as `paused` gave them.
        """

    def paused(self, progress: float) -> frozenset[str]:
        """Phases to pause in the next step; called on the host before each step.

        The networks of a paused phase and their averages do not change. A training in stages pauses the phases of its
        other stages.
        """
        return frozenset()

    def reset(self, before: float, progress: float) -> Sequence[str]:
        """Reinitialise networks in place, if due, and return their phases; called on the host before each step.

        Args:
            before: share of the training that was done before the last step; `progress` before the first.
            progress: share of the training that is done.
        """
        return ()

    def renderers(self, networks: Mapping[str, nn.Module]) -> Sequence["Renderer"]:
        """Renderers of the shipped networks, as inference builds them; none for a model that renders no faces.

        Two generators that translate in opposite directions have a renderer each.

        Args:
            networks: with EMA weights, in eval mode.
        """
        return ()

    def views(self, networks: Mapping[str, nn.Module], x: Tensor) -> dict[str, Tensor]:
        """Sample columns (N, 3, H, W) by name, for pictures x (N, 3, H, W), of a model that renders no faces."""
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
        measures: numbers for the user by name, (N,) each, such as the identity distance.
    """

    latent: Tensor
    measures: dict[str, Tensor] = field(default_factory=dict)


class FaceEncoder(nn.Module, ABC):
    """Encodes a face once; it is then rendered at any number of ages.

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
            WrongWeights: the model generates faces from noise alone.
        """

    def sample(self, count: int, random: torch.Generator) -> Tensor:
        """Generator inputs (count, ...) from the model's prior, drawn by a random generator on the CPU.

        Raises:
            WrongWeights: the model has no prior.
        """
        raise WrongWeights("must be weights of a gan, cgan or age_cgan to generate faces from noise")


class PictureEncoder(FaceEncoder):
    """For generators of pictures: the pictures themselves."""

    def encode(self, x: Tensor, attributes: Sequence[FaceAttributes]) -> Encoding:
        return Encoding(x)


@dataclass(frozen=True, eq=False, kw_only=True)
class Renderer:
    """The networks that render faces, during training and after.

    Attributes:
        generator: inputs (N, ...) of the encoder, pictures or latent vectors, and age vectors (N, K) -> pictures
            (N, 3, S, S) in [-1, 1].
        code: how years become its age vectors.
        encoder: how faces are encoded.
        conditional: whether the output depends on the age vector.
        domains: names of the target domains of a model that translates instead of aging; see `Ager`.
        calibration: of the age input, if `evaluate.py --fit_ages` fitted one.
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
        build: makes the model for a new training.
        data: opens its training data.
        renderer: makes the renderer of its weights; None for a model that renders no faces.
    """

    config: type[ModelConfig]
    build: Callable[[TrainConfig, Any], Model]
    data: Callable[[TrainConfig, Any], FaceData]
    renderer: Callable[[Weights], Renderer] | None = None
