"""What the training loop knows of a model."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from torch import Tensor, nn

from cyclegan_age.data.batches import Batch
from cyclegan_age.models.pool import ImagePool

Losses: TypeAlias = Iterator[tuple[str, dict[str, Tensor]]]


class Model(ABC):
    """How one paper combines its networks.

    Attributes:
        networks: all that is trained, by name.
        frozen: networks that the losses use as they are.
        phases: for each phase, in order, the names of the networks that its optimiser moves.
        shipped: networks whose (averaged) weights make the inference snapshot.
        pools: history buffers, by name.
    """

    networks: dict[str, nn.Module]
    frozen: dict[str, nn.Module]
    phases: dict[str, list[str]]
    shipped: list[str]
    pools: dict[str, ImagePool]

    @abstractmethod
    def losses(self, batch: Batch, progress: float, step: int) -> Losses:
        """One step: yields every phase in order with its weighted, named loss terms.

        The loop applies a phase's gradients before it asks for the next one.

        Args:
            batch: pictures in [-1, 1] and ages in years.
            progress: share of the training that is done, 0 to 1.
            step: steps done before.
        """

    @abstractmethod
    def samples(self, networks: Mapping[str, nn.Module], x: Tensor, age_years: Tensor) -> dict[str, Tensor]:
        """Columns of a sample sheet: name -> (N, 3, H, W) for pictures x (N, 3, H, W) of ages (N,) in years.

        Args:
            networks: the shipped networks, averaged and in eval mode.
        """

    def feature_maps(
        self, networks: Mapping[str, nn.Module], x: Tensor, layers: Sequence[str]
    ) -> dict[str, dict[str, Tensor]]:
        """Feature maps to log beside a sample sheet: layer -> column -> (C, h, w) for one picture x (1, 3, H, W)."""
        return {}

    def measures(self, networks: Mapping[str, nn.Module], x: Tensor, age_years: Tensor) -> dict[str, float]:
        """Numbers to log beside a sample sheet; none where the sheet says it all."""
        return {}
