"""One training step on its device: gradients, updates, EMA weights and counts, without synchronisation.

Only `Trainer.read`, `Trainer.state_dict` and the checkpoints read numbers from the device. A phase with a non-finite
loss or gradient, and the phases after it in that step, are skipped and counted, by a flag on the device. Earlier phases
of the step, and what it stored in history buffers, stay. On a GPU the whole step is captured as a CUDA graph after a
few uncaptured ones, and replayed.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from cyclegan_age.config import TrainConfig
from cyclegan_age.data.batches import Batch
from cyclegan_age.devices import Runtime
from cyclegan_age.models.base import Model
from cyclegan_age.training.ema import EMA
from cyclegan_age.training.gradient_reduction import GradientReducer
from cyclegan_age.training.report import Counts, Report

WARMUP_STEPS = 3  # before a capture: they tune convolutions, compile, and allocate persistent memory

logger = logging.getLogger("cyclegan_age")

Paused = frozenset[str]


class Trainer:
    """Runs the steps of a model: each phase, over all micro-batches of a batch.

    Args:
        model: its networks are moved to the device.
        config: optimiser, learning rate, EMA and number of micro-batches.
        runtime: execution settings.
        distributed: whether gradients are averaged over processes.

    Attributes:
        ema_networks: copies of the shipped networks with EMA weights, in eval mode.
    """

    def __init__(self, model: Model, config: TrainConfig, runtime: Runtime, *, distributed: bool = False) -> None:
        self.model, self.config, self.runtime = model, config, runtime
        device = runtime.device
        networks = model.networks | model.frozen
        for network in networks.values():
            network.to(device).to(memory_format=torch.channels_last)
        for network in model.frozen.values():
            runtime.to_inference_form(network)
        self.ema = EMA({name: model.networks[name] for name in model.shipped}, config.ema, device)
        self.ema_networks = model.ema_networks = self.ema.networks
        self.parameters = {
            phase: [w for name in names for w in model.networks[name].parameters()]
            for phase, names in model.phases.items()
        }
        self.optimizers = {phase: self._optimizer(weights) for phase, weights in self.parameters.items()}
        self.reducer = GradientReducer(self.parameters) if distributed else None
        if runtime.compile_networks:
            for network in networks.values():
                network.compile(dynamic=False)
        self.progress = torch.zeros((), device=device)
        self.counts = Counts(device)
        self._capture = runtime.capture
        self._graphs: dict[Paused, torch.cuda.CUDAGraph] = {}
        self._warmups: dict[Paused, int] = {}  # steps before the capture
        self._inputs: Batch | None = None  # input of the graphs

    def __call__(self, batch: Batch, before: float, progress: float) -> None:
        """Do one step.

        Args:
            batch: on the device; with the same shapes in every step.
            before: progress before the previous step, 0 to 1.
            progress: progress before this step, 0 to 1.
        """
        for phase in self.model.reset(before, progress):
            _restart(self.optimizers[phase])
        lr = self.learning_rate(progress)
        for phase, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                own = lr * self.model.lr_factors.get(phase, 1.0)
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(own)
                else:
                    group["lr"] = own
        self.progress.fill_(progress)
        paused = self.model.paused(progress)
        if self._capture:
            self._replay(batch, paused)
        else:
            self._run(batch, paused)

    def learning_rate(self, progress: float) -> float:
        """Learning rate at a given progress: constant, then falling linearly to 0."""
        return self.config.lr * min(1.0, (1 - progress) / max(1 - self.config.lr_constant, 1e-9))

    def read(self) -> Report:
        """Statistics since the last call; waits for the device."""
        return self.counts.read()

    def state_dict(self, *, light: bool = False) -> dict[str, Any]:
        """State for `load_state_dict`.

        Args:
            light: omit the optimisers' states, and store parameters in half precision, for a small file.
        """
        networks = self.model.networks
        state: dict[str, Any] = {
            "networks": {name: _weights(network, light) for name, network in networks.items()},
            "ema": {name: _weights(network, light) for name, network in self.ema_networks.items()},
            "moves": {name: int(n) for name, n in self.ema.updates.items()},  # updates of each EMA
            "skipped": int(self.counts.skipped),
        }
        if not light:
            state["optimizers"] = {name: _portable_state(optimizer) for name, optimizer in self.optimizers.items()}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state, also from another device or a light one."""
        for name, network in self.model.networks.items():
            network.load_state_dict(state["networks"][name])
        for name, network in self.ema_networks.items():
            network.load_state_dict(state["ema"][name])
        for name, n in self.ema.updates.items():
            # Early checkpoints counted only the steps, each of which updated every EMA.
            n.fill_(state["moves"][name] if "moves" in state else state["step"])
        self.counts.skipped.fill_(state["skipped"])
        for name, optimizer in self.optimizers.items():
            if "optimizers" in state:
                own = [dict(group) for group in optimizer.param_groups]
                optimizer.load_state_dict(state["optimizers"][name])
                for group, before in zip(optimizer.param_groups, own, strict=True):
                    group |= {k: before[k] for k in ("lr", "fused", "capturable") if k in before}  # the device's

    def _optimizer(self, weights: list[nn.Parameter]) -> torch.optim.Optimizer:
        config, capture = self.config, self.runtime.capture
        lr = torch.tensor(config.lr, device=self.runtime.device) if capture else config.lr
        if config.optimizer == "sgd":
            return torch.optim.SGD(weights, lr=lr, fused=True)
        return torch.optim.Adam(weights, lr=lr, betas=config.betas, fused=True, capturable=capture)

    def _replay(self, batch: Batch, paused: Paused) -> None:
        """One step by a CUDA graph, captured after a few uncaptured steps."""
        if paused not in self._graphs:
            if self._warmups.get(paused, 0) < WARMUP_STEPS:
                self._warm_up(batch, paused)
                return
            self._capture_graph(batch, paused)
        if paused in self._graphs:
            _copy(batch, self._inputs)
            self._graphs[paused].replay()

    def _warm_up(self, batch: Batch, paused: Paused) -> None:
        """One uncaptured step, on a side stream as captures require."""
        side = torch.cuda.Stream(self.runtime.device)
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self._run(batch, paused)
        torch.cuda.current_stream().wait_stream(side)
        self._warmups[paused] = self._warmups.get(paused, 0) + 1

    def _capture_graph(self, batch: Batch, paused: Paused) -> None:
        """Capture the step with these paused phases. If that fails, do this step, and all later ones, uncaptured."""
        if self._inputs is None:
            self._inputs = Batch(**{f.name: getattr(batch, f.name).clone() for f in fields(Batch)})
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may copy batches meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._run(self._inputs, paused)
        except RuntimeError as e:
            logger.warning(
                "the step cannot be captured as a CUDA graph and runs without one: %s", str(e).splitlines()[0]
            )
            torch.cuda.synchronize()
            self._capture = False
            self._run(batch, paused)
            return
        self._graphs[paused] = graph

    def _run(self, batch: Batch, paused: Paused) -> None:
        """The step itself, the same with and without capture."""
        model, count = self.model, self.config.accumulate
        device = self.runtime.device
        micro_batches = [model.losses(part, self.progress, paused) for part in _split(batch, count)]
        bad = torch.zeros((), dtype=torch.bool, device=device)
        values: list[Tensor] = []
        phase_of: dict[str, str] = {}
        updated: set[str] = set()
        for phase, weights in self.parameters.items():
            self.optimizers[phase].zero_grad(set_to_none=True)
            values_of_each = []
            for i, losses in enumerate(micro_batches):
                with torch.autocast(device.type, torch.bfloat16, enabled=self.runtime.bf16):
                    name, terms = next(losses)
                assert name == phase, f"the model yields phase {name} where it declared {phase}"
                if terms:
                    stacked = torch.stack(list(terms.values())).float()
                    values_of_each.append(stacked.detach())
                    if self.reducer and i == count - 1:
                        self.reducer.watch(phase)
                    (stacked.sum() / count).backward()
            if not values_of_each:  # it is paused
                continue
            phase_of |= dict.fromkeys(terms, phase)
            values.append(torch.stack(values_of_each).mean(dim=0))
            if self.reducer:
                self.reducer.finish(phase)
            gradients = [w.grad for w in weights if w.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
            if self.config.clip:
                torch._foreach_mul_(gradients, (self.config.clip / norm.clamp_min(1e-12)).clamp_max(1))
            bad = bad | ~(norm + values[-1].sum()).isfinite()
            if self.reducer:
                bad = self.reducer.any(bad)
            # If not finite, this phase and those after it in the step update nothing.
            self.optimizers[phase].found_inf = bad.float()  # type: ignore[attr-defined]
            self.optimizers[phase].step()
            updated |= set(model.phases[phase])
        if not values:
            return
        self.counts.add(paused, phase_of, torch.cat(values), bad)
        for name in updated & self.ema_networks.keys():
            self.ema.update(name, model.networks[name], bad)


def _split(batch: Batch, count: int) -> Iterator[Batch]:
    columns = [getattr(batch, f.name).chunk(count) for f in fields(Batch)]
    return (Batch(*part) for part in zip(*columns, strict=True))


def _copy(batch: Batch, into: Batch | None) -> None:
    for f in fields(Batch):
        getattr(into, f.name).copy_(getattr(batch, f.name))


@torch.no_grad()
def _restart(optimizer: torch.optim.Optimizer) -> None:
    """Reset to the first step, in place, since a graph uses these tensors."""
    for state in optimizer.state.values():
        for value in state.values():
            value.zero_()


def _portable_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimiser's state with the learning rate as a number."""
    state: dict[str, Any] = optimizer.state_dict()
    for group in state["param_groups"]:
        group["lr"] = float(group["lr"])
    return state


def _weights(network: nn.Module, light: bool) -> dict[str, Tensor]:
    """State dict; with `light` parameters are in half precision, but not buffers, whose sums may overflow."""
    state: dict[str, Tensor] = network.state_dict()
    if not light:
        return state
    parameters = {name for name, _ in network.named_parameters()}
    return {k: v.half() if k in parameters else v for k, v in state.items()}
