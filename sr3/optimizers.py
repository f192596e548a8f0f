"""Optimizers for training from scratch: AdamW, or Muon for the convolutions.

Muon (Jordan et al. 2024) replaces each weight matrix's momentum by its nearest orthogonal matrix,
found by five Newton-Schulz steps; a convolution counts as the matrix (outputs, inputs x k x k).
torch.optim.Muon takes two-dimensional weights alone, hence this one for convolutions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sr3.config import TrainConfig

QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan's coefficients: singular values to about 0.7..1.2


def orthogonalized(matrix: Tensor) -> Tensor:
    """(m, n) -> about U V^T of its singular value decomposition, same shape."""
    # Newton-Schulz tolerates bfloat16, which GPUs multiply faster; many CPUs multiply it slower.
    x = matrix.bfloat16() if matrix.is_cuda else matrix
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = QUINTIC[0] * x + (QUINTIC[1] * gram + QUINTIC[2] * gram @ gram) @ x
    out: Tensor = (x.T if tall else x).to(matrix.dtype)
    return out


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalized, scaled to AdamW's update size (2502.16982, section 2.2),
    so that one learning rate serves both."""

    def __init__(self, params: Any, lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update from the gradients; `closure` is not supported."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                average = state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                ahead = weight.grad.lerp(average, group["momentum"]).flatten(1)
                scale = 0.2 * max(ahead.shape) ** 0.5
                update = orthogonalized(ahead).view_as(weight)
                weight.add_(update, alpha=-group["lr"] * scale)


def make_optimizers(network: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """The optimizers of a run; with `muon`, convolutions between levels go to it and the stem,
    the head, the embedding, norms and biases to AdamW."""
    weights = [p for p in network.parameters() if p.requires_grad]
    matrices: list[Tensor] = []
    if config.optimizer == "muon":
        edges = {id(network.down[0].weight), id(network.head.weight)}  # type: ignore[union-attr, index]
        matrices = [p for p in weights if p.ndim == 4 and id(p) not in edges]
    chosen = {id(p) for p in matrices}
    rest = [p for p in weights if id(p) not in chosen]
    adamw = torch.optim.AdamW(
        rest, lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay
    )
    return [adamw, Muon(matrices, lr=config.learning_rate)] if matrices else [adamw]
