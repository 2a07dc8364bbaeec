"""Gradient reduction (a mean) over processes, overlapped with the backward pass.

Like DistributedDataParallel (Li et al., "PyTorch Distributed", VLDB 2020, section 3.2), but for phases that each update
a part of the networks: parameters are put into buckets in reverse order, and a bucket is reduced as soon as all of its
gradients are available.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

BUCKET_BYTES = 4 << 20


class _Bucket:
    def __init__(self) -> None:
        self.parameters: list[nn.Parameter] = []
        self.missing = 0
        self.flat: Tensor | None = None
        self.work: dist.Work | None = None

    def reduce(self) -> None:
        """Start the sum of the available gradients."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if gradients:
            self.flat = torch.cat([g.flatten() for g in gradients])
            self.work = dist.all_reduce(self.flat, async_op=True)

    def finish(self, processes: int) -> None:
        """Wait for the sum and write the mean into the gradients."""
        if self.work is None or self.flat is None:
            return
        self.work.wait()
        self.flat /= processes
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        for g, mean in zip(gradients, self.flat.split([g.numel() for g in gradients]), strict=True):
            g.copy_(mean.view_as(g))
        self.flat = self.work = None


class GradientReducer:
    """Averages the gradients of a phase over the processes of the default group.

    Call `watch` before the last backward pass of a phase and `finish` after it.

    Args:
        phases: parameters of each phase; no parameter is in two of them.
    """

    def __init__(self, phases: Mapping[str, Sequence[nn.Parameter]]) -> None:
        self._buckets = {name: _buckets(parameters) for name, parameters in phases.items()}
        self._watched: list[_Bucket] = []  # pending ones of the phase, in order
        for buckets in self._buckets.values():
            for bucket in buckets:
                for p in bucket.parameters:
                    p.register_post_accumulate_grad_hook(self._counter(bucket))

    def watch(self, phase: str) -> None:
        """Announce that the next backward pass is the last one of the phase."""
        self._watched = list(self._buckets[phase])
        for bucket in self._watched:
            bucket.missing = len(bucket.parameters)

    def finish(self, phase: str) -> None:
        """Average the gradients of the phase over the processes; those of unused parameters stay None."""
        for bucket in self._watched:
            bucket.reduce()
        self._watched = []
        for bucket in self._buckets[phase]:
            bucket.finish(dist.get_world_size())

    def any(self, flag: Tensor) -> Tensor:
        """Whether a boolean scalar is true in any process."""
        count = flag.float()
        dist.all_reduce(count)
        return count > 0

    def _counter(self, bucket: _Bucket):  # type: ignore[no-untyped-def]
        def count(_: Tensor) -> None:
            bucket.missing -= 1
            while self._watched and self._watched[0].missing == 0:  # in the same order in every process
                self._watched.pop(0).reduce()

        return count


def _buckets(parameters: Sequence[nn.Parameter]) -> list[_Bucket]:
    buckets: list[_Bucket] = []
    room = 0
    for p in reversed(parameters):
        if room <= 0:
            buckets.append(_Bucket())
            room = BUCKET_BYTES
        buckets[-1].parameters.append(p)
        room -= p.numel() * p.element_size()
    return buckets
