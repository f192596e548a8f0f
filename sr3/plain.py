"""The yardstick: SR3 as the public code runs it, a plain float32 loop over all 2,000 steps.

Same architecture and same weights as `sr3.unet`, but attention by explicit products and a softmax,
the activation as x * sigmoid(x), the usual memory format, no autocast, one image at a time. For
benchmarks alone; nothing else uses it.

Source: Saharia et al. 2021 (arXiv 2104.07636), algorithm 2, with the clamp and the posterior
variance of the public implementation (Janspiry, Apache-2.0), written anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sr3.schedule import NoiseSchedule, level_device
from sr3.unet import Attention, ResidualBlock, UNet


def plain_forward(network: UNet, condition: Tensor, noisy: Tensor, level: Tensor) -> Tensor:
    """`UNet.forward` without a patch, operation by operation: (batch, 3, h, w)."""
    assert network.config.patch == 1
    embedding = network.embedding(level)
    x = torch.cat([condition, noisy], dim=1)
    skips = []
    for layer in network.down:
        x = _block(layer, x, embedding) if isinstance(layer, ResidualBlock) else layer(x)
        skips.append(x)
    for layer in network.middle:
        x = _block(layer, x, embedding)
    for layer in network.up:
        if isinstance(layer, ResidualBlock):
            x = _block(layer, torch.cat([x, skips.pop()], dim=1), embedding)
        else:
            x = layer(x)
    out: Tensor = network.head(_swish(network.head_norm(x)))
    return out


def _swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def _block(layer: nn.Module, x: Tensor, embedding: Tensor) -> Tensor:
    assert isinstance(layer, ResidualBlock)
    h = layer.conv1(_swish(layer.norm1(x)))
    h = h + layer.embed(embedding)[:, :, None, None]
    h = layer.conv2(layer.dropout(_swish(layer.norm2(h)))) + layer.skip(x)
    return _attend(layer.attention, h) if isinstance(layer.attention, Attention) else h


def _attend(layer: Attention, x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    q, k, v = layer.qkv(layer.norm(x)).chunk(3, dim=1)
    weights = torch.einsum("nchw,ncyx->nhwyx", q, k).contiguous() / math.sqrt(channels)
    weights = torch.softmax(weights.view(batch, height, width, -1), -1)
    weights = weights.view(batch, height, width, height, width)
    mixed = torch.einsum("nhwyx,ncyx->nchw", weights, v).contiguous()
    out: Tensor = x + layer.out(mixed)
    return out


@torch.no_grad()
def plain_chain(
    network: UNet, schedule: NoiseSchedule, condition: Tensor, generator: torch.Generator
) -> Iterator[Tensor]:
    """Ancestral sampling of an eps-predicting network: x after each of the 2,000 steps."""
    bars = schedule.alpha_bar.float()
    x = torch.randn(condition.shape, generator=generator).to(condition.device)
    for t in range(schedule.steps, 0, -1):
        bar, before = float(bars[t]), float(bars[t - 1])
        beta = 1 - bar / before
        level = torch.full((len(x),), math.sqrt(bar), device=level_device(x.device))
        eps = plain_forward(network, condition, x, level)
        x0 = ((x - math.sqrt(1 - bar) * eps) / math.sqrt(bar)).clamp(-1, 1)
        x = (beta * math.sqrt(before) * x0 + (1 - before) * math.sqrt(1 - beta) * x) / (1 - bar)
        if t > 1:
            noise = torch.randn(x.shape, generator=generator).to(x.device)
            x = x + math.sqrt(beta * (1 - before) / (1 - bar)) * noise
        yield x
