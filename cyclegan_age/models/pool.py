"""The history buffer of generated pictures (Shrivastava et al., CVPR 2017, section 2.3; Zhu et al. 2017, section 4)."""

import torch
from torch import Tensor


class ImagePool:
    """Keeps past fakes, each with the age vector it was meant for.

    Until the buffer is full, new pictures go in and are handed out themselves. Then each new picture is, with
    probability 1/2, exchanged for a random old one, which is handed out in its stead; no two of a batch for the same.
    What the buffer holds changes neither the operations nor the random numbers that an exchange takes. Only the first
    one allocates memory.
    """

    def __init__(self, *, size: int) -> None:
        self.size = size
        # All on the device of the pictures. The last row is no part of the buffer: it takes what is not stored.
        self.pictures: Tensor | None = None  # (size + 1, 3, H, W)
        self.vectors: Tensor | None = None  # (size + 1, K)
        self.filled = torch.zeros((), dtype=torch.int64)

    def exchange(self, x: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        """New fakes (N, 3, H, W) and their vectors (N, K) -> as many, some of them old ones, with theirs."""
        if self.size == 0:
            return x, vector
        pairs = zip(x.split(self.size), vector.split(self.size), strict=True)
        out_x, out_v = zip(*(self._exchange(*pair) for pair in pairs), strict=True)
        return torch.cat(out_x), torch.cat(out_v)

    def _exchange(self, x: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        """The same for at most `size` pictures."""
        pictures, vectors, filled = self._on(x, vector)
        full = filled == self.size
        exchanged = full & (torch.rand(len(x), device=x.device) < 0.5)
        old = torch.rand(self.size, device=x.device).argsort()[: len(x)]
        free = (filled + torch.arange(len(x), device=x.device)).clamp_max(self.size)
        row = torch.where(full, torch.where(exchanged, old, self.size), free)
        # What is not finite is not stored, or else every step that met it again would be skipped.
        finite = x.flatten(1).isfinite().all(dim=1)
        exchanged, row = exchanged & finite, torch.where(finite, row, self.size)
        out_x = torch.where(exchanged[:, None, None, None], pictures[row], x)
        out_v = torch.where(exchanged[:, None], vectors[row], vector)
        pictures[row], vectors[row] = x, vector
        filled.copy_(torch.where(finite.all(), filled + len(x), filled).clamp_max(self.size))
        return out_x, out_v

    def _on(self, x: Tensor, vector: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The buffer, made for pictures and vectors like these, or moved to their device."""
        if self.pictures is None or self.vectors is None:
            self.pictures = x.new_zeros(self.size + 1, *x.shape[1:])
            self.vectors = vector.new_zeros(self.size + 1, *vector.shape[1:])
            if x.is_contiguous(memory_format=torch.channels_last):
                self.pictures = self.pictures.contiguous(memory_format=torch.channels_last)
        self.pictures, self.vectors = self.pictures.to(x.device), self.vectors.to(x.device)
        self.filled = self.filled.to(x.device)
        return self.pictures, self.vectors, self.filled

    def state_dict(self) -> dict[str, Tensor]:
        """What `load_state_dict` needs; empty before the first exchange."""
        if self.pictures is None or self.vectors is None:
            return {}
        filled = int(self.filled)
        return {"pictures": self.pictures[:filled].clone(), "vectors": self.vectors[:filled].clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on with a saved buffer; it goes to the device of the next exchange."""
        if not state:
            return
        self.pictures = self.vectors = None
        filled = len(state["pictures"])
        pictures, vectors, _ = self._on(state["pictures"], state["vectors"])
        pictures[:filled], vectors[:filled] = state["pictures"], state["vectors"]
        self.filled.fill_(filled)
