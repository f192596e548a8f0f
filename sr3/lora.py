"""Low-rank fine-tuning (LoRA, 2106.09685): each convolution learns a product of two thin matrices.

A convolution's weight, seen as the matrix (outputs, inputs x k x k), becomes W + L R with L
(outputs, rank) from zero and R (rank, inputs x k x k) random; W and all else (biases, norms, the
noise embedding) stay as they are. Deviation: no scale alpha / rank; the learning rate is its job.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sr3.combine import LEFT, RIGHT
from sr3.errors import ConfigError


class LowRank(nn.Module):
    """A weight plus a product of rank at most `rank`, as a parametrization."""

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = weight.flatten(1).shape
        rank = min(rank, rows, columns)
        self.left = nn.Parameter(torch.zeros(rows, rank))
        right = torch.randn(rank, columns, generator=generator) / columns**0.5
        self.right = nn.Parameter(right)

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):  # as precise as what is saved
            return weight + (self.left @ self.right).view_as(weight)


def add_low_rank(network: nn.Module, rank: int, seed: int) -> None:
    """Freeze a network and give each of its convolutions a low-rank change, zero at first."""
    if rank < 1:
        raise ConfigError(f"rank must be at least 1; got {rank}.")
    generator = torch.Generator().manual_seed(seed)
    network.requires_grad_(False)
    for module in list(network.modules()):
        if isinstance(module, nn.Conv2d):
            change = LowRank(module.weight, rank, generator)
            parametrize.register_parametrization(module, "weight", change)


def low_rank_factors(network: nn.Module) -> dict[str, Tensor]:
    """The changes that were learned, as a delta checkpoint stores them: float16 factors by name."""
    factors: dict[str, Tensor] = {}
    for name, module in network.named_modules():
        if isinstance(module, LowRank):
            weight = name.removesuffix(".parametrizations.weight.0") + ".weight"
            factors[weight + LEFT] = module.left.detach().half()
            factors[weight + RIGHT] = module.right.detach().half()
    return factors
