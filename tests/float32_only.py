"""A device without float64, such as Apple's MPS, on any machine.

Within `Float32Only` torch's device "meta" computes, on numbers in the CPU's memory, under the rules
of an accelerator: TypeError for a float64 tensor on it (MPS's own error and words), RuntimeError
where an operation is given tensors of two devices. `torch.autocast` knows no such device: leave it
out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("meta")
CPU = torch.device("cpu")
MOVES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class Placed(Tensor):
    """A tensor on the device; `held` has its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Placed:
        if held.dtype == torch.float64:
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support "
                "float64. Please use float32 instead."
            )
        placed = Tensor._make_wrapper_subclass(
            cls, held.shape, held.stride(), dtype=held.dtype, device=DEVICE
        )
        placed.held = held
        return placed

    def tolist(self) -> Any:  # which torch refuses a subclass
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, given: Any = (), named: Any = None):
        raise AssertionError(f"{function} was called outside of Float32Only.")


class Float32Only(TorchDispatchMode):
    """The context, of one thread, in which the device is there."""

    def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), named: Any = None):
        named = named or {}
        tensors = [each for each in tree_leaves((given, named)) if isinstance(each, Tensor)]
        here = [each for each in tensors if isinstance(each, Placed)]
        if function not in MOVES and here and any(each.ndim for each in set(tensors) - set(here)):
            raise RuntimeError(f"Expected all tensors to be on the same device, in {function}.")
        where = named.get("device") or (tensors[0].device if tensors else CPU)
        if "device" in named:
            named = named | {"device": CPU}
        given, named = tree_map_only(Placed, lambda each: each.held, (given, named))
        out = function(*given, **named)
        if where != DEVICE:
            return out
        known = {id(each.held): each for each in here}  # what an operation in place gives back
        return tree_map_only(
            Tensor, lambda each: known[id(each)] if id(each) in known else Placed(each), out
        )
