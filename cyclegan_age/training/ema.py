"""Exponential moving averages (EMA) of network weights, kept on the device."""

from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn


class EMA:
    """Averaged copies of networks.

    Args:
        networks: on their device.
        decay: maximum share of the average that an update keeps, 0 to below 1; the first updates keep less.
        device: of the networks.

    Attributes:
        networks: the copies, in eval mode, by name.
        updates: () float32 for each network, number of updates so far.
    """

    def __init__(self, networks: Mapping[str, nn.Module], decay: float, device: torch.device) -> None:
        self.decay = decay
        self.networks = {name: deepcopy(network).eval().requires_grad_(False) for name, network in networks.items()}
        self.updates = {name: torch.zeros((), device=device) for name in networks}

    @torch.no_grad()
    def update(self, name: str, network: nn.Module, skip: Tensor) -> None:
        """Update the average of a network with its new weights; buffers that are not floats are copied.

        Args:
            name: of the average.
            network: with the new weights.
            skip: () bool on the device; if true nothing changes.
        """
        updates = self.updates[name]
        updates += ~skip
        rate = (1 - (updates / (updates + 10)).clamp_max(self.decay)) * ~skip
        new = network.state_dict()
        pairs = [(a, new[k]) for k, a in self.networks[name].state_dict().items()]
        floats = [(a, b) for a, b in pairs if a.is_floating_point()]
        steps = torch._foreach_sub([b for _, b in floats], [a for a, _ in floats])
        torch._foreach_mul_(steps, rate)
        torch._foreach_add_([a for a, _ in floats], steps)
        for a, b in pairs:
            if not a.is_floating_point():
                a.copy_(b)
