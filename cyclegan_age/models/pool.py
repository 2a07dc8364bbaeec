"""The history buffer of generated pictures (Shrivastava et al., CVPR 2017, section 2.3; Zhu et al. 2017, section 4)."""

import torch
from torch import Tensor


class ImagePool:
    """Keeps past fakes, each with a row of numbers about it: its age or heads' weights, as the model needs.

    Until the buffer is full, new pictures go in and are handed out themselves. Then each new picture is, with
    probability 1/2, exchanged for a random old one, which is handed out in its stead; no two of a batch for the same.
    What the buffer holds changes neither the operations nor the random numbers that an exchange takes. Only the first
    one allocates memory.
    """

    def __init__(self, *, size: int) -> None:
        self.size = size
        # All on the device of the pictures. The last entry is no part of the buffer: it takes what is not stored.
        self.pictures: Tensor | None = None  # (size + 1, 3, H, W)
        self.rows: Tensor | None = None  # (size + 1, K)
        self.filled = torch.zeros((), dtype=torch.int64)

    def exchange(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """New fakes (N, 3, H, W) and their rows (N, K) -> as many, some of them old ones, with theirs."""
        if self.size == 0:
            return x, rows
        pairs = zip(x.split(self.size), rows.split(self.size), strict=True)
        out_x, out_rows = zip(*(self._exchange(*pair) for pair in pairs), strict=True)
        return torch.cat(out_x), torch.cat(out_rows)

    def _exchange(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The same for at most `size` pictures."""
        pictures, stored, filled = self._on(x, rows)
        full = filled == self.size
        exchanged = full & (torch.rand(len(x), device=x.device) < 0.5)
        old = torch.rand(self.size, device=x.device).argsort()[: len(x)]
        free = (filled + torch.arange(len(x), device=x.device)).clamp_max(self.size)
        at = torch.where(full, torch.where(exchanged, old, self.size), free)
        # What is not finite is not stored, or else every step that met it again would be skipped.
        finite = x.flatten(1).isfinite().all(dim=1)
        exchanged, at = exchanged & finite, torch.where(finite, at, self.size)
        out_x = torch.where(exchanged[:, None, None, None], pictures[at], x)
        out_rows = torch.where(exchanged[:, None], stored[at], rows)
        pictures[at], stored[at] = x, rows
        filled.copy_(torch.where(finite.all(), filled + len(x), filled).clamp_max(self.size))
        return out_x, out_rows

    def _on(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The buffer, made for pictures and rows like these, or moved to their device."""
        if self.pictures is None or self.rows is None:
            self.pictures = x.new_zeros(self.size + 1, *x.shape[1:])
            self.rows = rows.new_zeros(self.size + 1, *rows.shape[1:])
            if x.is_contiguous(memory_format=torch.channels_last):
                self.pictures = self.pictures.contiguous(memory_format=torch.channels_last)
        self.pictures, self.rows = self.pictures.to(x.device), self.rows.to(x.device)
        self.filled = self.filled.to(x.device)
        return self.pictures, self.rows, self.filled

    def state_dict(self) -> dict[str, Tensor]:
        """What `load_state_dict` needs; empty before the first exchange."""
        if self.pictures is None or self.rows is None:
            return {}
        filled = int(self.filled)
        return {"pictures": self.pictures[:filled].clone(), "vectors": self.rows[:filled].clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on with a saved buffer; it goes to the device of the next exchange."""
        if not state:
            return
        self.pictures = self.rows = None
        filled = len(state["pictures"])
        pictures, rows, _ = self._on(state["pictures"], state["vectors"])
        pictures[:filled], rows[:filled] = state["pictures"], state["vectors"]
        self.filled.fill_(filled)
