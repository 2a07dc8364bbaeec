"""Balanced batches that depend on the step alone, so that a resumed training draws the same batches; see `Draws`.

On a GPU the pictures lie in its memory and the draws are computed there, see `ResidentPictures`. If they do not fit,
other processes make the batches. On a CPU a thread makes them, and other processes those of shards.
"""

import logging
from collections.abc import Generator, Sequence
from itertools import count, islice, zip_longest

import numpy as np
import torch
from torch import Tensor

from cyclegan_age.data.batches import Batch, prepared, streamed, to_batch
from cyclegan_age.data.cache import PictureCache
from cyclegan_age.data.draws import SOURCE, TARGET, Draws, Pool
from cyclegan_age.data.resident import ResidentPictures
from cyclegan_age.images import to_float

logger = logging.getLogger("cyclegan_age")


class FaceData:
    """The batches of draws.

    Args:
        draws: what is in each batch.
        held_out: indices of the pictures, for each age group, that are in no pool; `fixed` shows them.
    """

    def __init__(self, draws: Draws, *, held_out: Sequence[Pool] = ()) -> None:
        self._draws, self._cache = draws, draws.cache
        self._held_out = [pool for pool in held_out if len(pool)]
        self._resident: dict[torch.device, tuple[Tensor, Pool]] = {}  # (M, C, C, 3) uint8, number of each

    def __len__(self) -> int:
        """Number of distinct source pictures."""
        return len(np.unique(np.concatenate(self._draws.pools[SOURCE])))

    @property
    def bad_files(self) -> int:
        """Number of unreadable files so far."""
        return len(self._cache.bad)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The batch of a step, independent of earlier draws.

        Args:
            step: number of steps before it.
            rank: index of this process.
            world: number of processes.

        Raises:
            UserError: no picture of a group can be read.
        """
        return to_batch(self._draws.fields(step, rank, world))

    def batches(
        self, start_step: int, rank: int = 0, world: int = 1, device: torch.device | None = None
    ) -> Generator[Batch, None, None]:
        """The batches of step `start_step` and of all following ones, without end, prepared ahead.

        On a CPU they equal those of `batch`; one thread makes them, or processes if the pictures are not cached
        decoded. On a GPU with enough memory (at most half of the free memory is used) the pictures are loaded there,
        and order, crops and mirroring differ. Otherwise several processes make the batches of `batch`, and each is
        copied while the one before it is used.

        Close the iterator (or delete it) to end threads and processes.

        Args:
            start_step: number of steps before the first.
            rank: index of this process.
            world: number of processes.
            device: device of the batches; CPU if None.

        Raises:
            UserError: no picture of a group can be read.
        """
        if device is None or device.type != "cuda":
            device = device or torch.device("cpu")
            if isinstance(self._cache, PictureCache):
                return prepared(self._draws, start_step, rank, world, device)
            return streamed(self._draws, start_step, rank, world, device)
        needed, free = len(self._draws.used()) * self._cache.size**2 * 3, torch.cuda.mem_get_info(device)[0]
        fits = device in self._resident or needed <= free // 2
        if rank == 0:
            where = "in GPU memory" if fits else "read from disk"
            logger.info(
                "pictures are %s: they take %.2f GB, %.2f GB of GPU memory are free", where, needed / 1e9, free / 1e9
            )
        if not fits:
            return streamed(self._draws, start_step, rank, world, device)
        pictures = self.resident(device, rank, world)
        return (Batch(*pictures.batch(step)) for step in count(start_step))

    def resident(self, device: torch.device, rank: int = 0, world: int = 1) -> ResidentPictures:
        """The pictures of all pools on a device, loaded at the first call; the draws are computed there.

        Raises:
            UserError: no picture of a group can be read.
        """
        if device not in self._resident:
            self._resident[device] = self._load(device, progress=rank == 0)
        draws, (pictures, loaded) = self._draws, self._resident[device]
        place = np.full(len(self._cache), -1)
        place[loaded] = np.arange(len(loaded))
        pools = {s: [place[pool][place[pool] >= 0] for pool in pools] for s, pools in draws.pools.items()}
        for stream, readable in pools.items():
            for k, pool in enumerate(readable):
                if not len(pool):
                    raise draws.none_readable(draws.pools[stream][k])
        return ResidentPictures(
            pictures=pictures,
            age_years=torch.from_numpy(draws.age_years[loaded]).to(device),
            labels=torch.from_numpy(draws.labels[loaded]).to(device),
            source_pools=pools[SOURCE],
            target_pools=pools[TARGET],
            image_size=draws.image_size,
            flip=draws.flip,
            batch_size=draws.batch_size,
            seed=draws.seed,
            paired=draws.paired,
            rank=rank,
            world=world,
        )

    def fixed(self, per_pool: int = 1, most: int = 16) -> tuple[Tensor, Tensor]:
        """The first readable pictures of the first `most` source pools, centre crops, for sample sheets.

        If pictures are held out: all of them, interleaved over the groups.

        Returns:
            Pictures (M, 3, S, S) float32 in [-1, 1] and their ages (M,) float32 in years.
        """
        margin = self._cache.size - self._draws.image_size
        middle = slice(margin // 2, margin // 2 + self._draws.image_size)
        found = []
        for pool in self._held_out or self._draws.pools[SOURCE][:most]:
            readable = ((int(i), picture) for i in pool if (picture := self._cache.get(int(i))) is not None)
            found.append(list(islice(readable, None if self._held_out else per_pool)))
            if not found[-1]:
                raise self._draws.none_readable(pool)
        if self._held_out:
            found = [[face for face in turn if face] for turn in zip_longest(*found)]
        pictures = [picture[middle, middle] for turn in found for _, picture in turn]
        indices = [i for turn in found for i, _ in turn]
        return to_float(np.stack(pictures)), torch.from_numpy(self._draws.age_years[indices])

    def _load(self, device: torch.device, *, progress: bool) -> tuple[Tensor, Pool]:
        """The readable pictures on a device, uint8 (M, C, C, 3), and their indices (M,)."""
        used, size = self._draws.used(), self._cache.size
        pictures, loaded = torch.empty((len(used), size, size, 3), dtype=torch.uint8, device=device), used[:0]
        for indices, piece in self._cache.pieces(used, progress=progress):
            pictures[len(loaded) : len(loaded) + len(indices)] = torch.from_numpy(piece).to(device)
            loaded = np.concatenate([loaded, indices])
        return pictures[: len(loaded)], loaded
