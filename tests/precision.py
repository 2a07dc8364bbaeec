"""Steps of a training in double precision: what single precision rounds depends on the processor."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from cyclegan_age.ages import constant
from cyclegan_age.models.cyclegan import outside

DRAWS: dict[Callable[..., Tensor], Callable[..., Tensor]] = {
    torch.rand_like: torch.rand,
    torch.randn_like: torch.randn,
}


def doubled(value: object) -> object:
    """A tensor of single precision in double, anything else as it is."""
    return value.double() if isinstance(value, Tensor) and value.dtype == torch.float32 else value


class InDouble(TorchFunctionMode):
    """Every function of torch gets and gives double instead of single precision, and draws the same numbers as before.

    The parameters of trained networks must be doubles already.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.float:
            return args[0].double()
        if func in DRAWS:
            return DRAWS[func](args[0].shape).double()
        return tree_map(doubled, func(*tree_map(doubled, args), **tree_map(doubled, kwargs or {})))

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for made in (constant, outside):  # in double
            made.cache_clear()
