"""The history buffer of generated pictures (Shrivastava et al., CVPR 2017, section 2.3; Zhu et al. 2017, section 4)."""

import torch
from torch import Tensor


class ImagePool:
    """Keeps past fakes, each with the age vector it was meant for.

    Once the buffer is full, each new picture is, with probability 1/2, exchanged for a random old one, which is handed
    out in its stead.
    """

    def __init__(self, *, size: int) -> None:
        self.size = size
        self.pictures: Tensor | None = None  # (size, 3, H, W)
        self.vectors: Tensor | None = None  # (size, K)
        self.filled = 0

    def exchange(self, x: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        """New fakes (N, 3, H, W) and their vectors (N, K) -> as many, some of them old ones, with theirs."""
        if self.size == 0:
            return x, vector
        if self.pictures is None or self.vectors is None:
            self.pictures = x.new_zeros(self.size, *x.shape[1:])
            self.vectors = vector.new_zeros(self.size, *vector.shape[1:])
        out_x, out_v = x.clone(), vector.clone()
        for i in range(len(x)):
            if self.filled < self.size:
                self.pictures[self.filled], self.vectors[self.filled] = x[i], vector[i]
                self.filled += 1
            elif torch.rand(()).item() < 0.5:
                j = int(torch.randint(self.size, ()))
                out_x[i], out_v[i] = self.pictures[j], self.vectors[j]
                self.pictures[j], self.vectors[j] = x[i], vector[i]
        return out_x, out_v

    def state_dict(self) -> dict[str, Tensor]:
        """What `load_state_dict` needs; empty before the first exchange."""
        if self.pictures is None or self.vectors is None:
            return {}
        return {"pictures": self.pictures[: self.filled].clone(), "vectors": self.vectors[: self.filled].clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on with a saved buffer."""
        if not state:
            return
        x, vector = state["pictures"], state["vectors"]
        self.pictures = x.new_zeros(self.size, *x.shape[1:])
        self.vectors = vector.new_zeros(self.size, *vector.shape[1:])
        self.filled = len(x)
        self.pictures[: self.filled], self.vectors[: self.filled] = x, vector
