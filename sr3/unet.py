"""The SR3 network: a U-Net that is told the noise level, one class for every size.

With `UNetConfig`'s defaults it is the public 16 -> 128 model, parameter for parameter; the lite
presets are the same network behind a pixel-unshuffle, so that most of its work is done at low
resolution. Only shapes live here: what the output means (noise, image, residual) is
`sr3.denoiser`'s business.

Sources: Saharia et al. 2021 (arXiv 2104.07636), section 2.4 and appendix A; layer order and
normalisation as in the public implementation (Janspiry, Apache-2.0), written anew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr3.config import UNetConfig
from sr3.errors import CheckpointError


class NoiseEmbedding(nn.Module):
    """Sinusoids of the noise level, then two linear layers: (batch,) -> (batch, channels)."""

    def __init__(self, channels: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.channels = channels
        self.expand = nn.Linear(channels, channels * 4)
        self.project = nn.Linear(channels * 4, channels)

    def sinusoids(self, noise_level: Tensor) -> Tensor:
        """`noise_level` (batch,) = sqrt(alpha_bar) -> (batch, channels) float64 where the levels
        lie, sines then cosines."""
        level = noise_level.double()
        if self.kind == "log_snr":
            # sqrt(alpha_bar) crowds against 1 where the image is nearly clean; half the log
            # signal-to-noise spreads those levels evenly (deviation from the paper). The factor
            # puts the schedule's range, about -5 to 7, on the scale of diffusion time steps.
            level = 50.0 * (level / (1 - level.square()).clamp(min=1e-12).sqrt()).log()
        half = self.channels // 2
        rates = torch.arange(half, device=level.device, dtype=level.dtype) / half
        angles = level[:, None] * torch.exp(-math.log(1e4) * rates)  # (batch, half)
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    def forward(self, noise_level: Tensor) -> Tensor:
        values = self.sinusoids(noise_level).to(self.expand.weight)
        out: Tensor = self.project(F.silu(self.expand(values)))
        return out


class Attention(nn.Module):
    """One head over all positions, with a residual path: (batch, c, h, w) -> the same."""

    def __init__(self, channels: int, norm_groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(norm_groups, channels)
        self.qkv = nn.Conv2d(channels, channels * 3, 1, bias=False)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        qkv = self.qkv(self.norm(x)).flatten(2).transpose(1, 2)  # (batch, h*w, 3c)
        q, k, v = (part.unsqueeze(1) for part in qkv.chunk(3, dim=2))  # each (batch, 1, h*w, c)
        mixed = F.scaled_dot_product_attention(q, k, v)  # scale 1/sqrt(c)
        mixed = mixed.squeeze(1).transpose(1, 2).reshape(batch, channels, height, width)
        out: Tensor = x + self.out(mixed)
        return out


class ResidualBlock(nn.Module):
    """Norm-Swish-conv, plus the noise embedding, Norm-Swish-dropout-conv, plus the input."""

    def __init__(
        self, inputs: int, outputs: int, embedding: int, config: UNetConfig, attend: bool
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(config.norm_groups, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.embed = nn.Linear(embedding, outputs)
        self.norm2 = nn.GroupNorm(config.norm_groups, outputs)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        self.attention = Attention(outputs, config.norm_groups) if attend else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.embed(embedding)[:, :, None, None]  # added, no scale
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        out: Tensor = self.attention(h + self.skip(x))
        return out


class Upsample(nn.Module):
    """Nearest x2, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class Downsample(nn.Module):
    """A 3x3 convolution of stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class UNet(nn.Module):
    """(condition, noisy image, noise level) -> the network's raw prediction, three channels.

    Layers are numbered as in the public checkpoints (`down.0` is the stem), which keeps the
    table of names in `sr3.public_format` short.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        c, planes = config.channels, 3 * config.patch**2
        self.embedding = NoiseEmbedding(c, config.embedding)
        self.down = nn.ModuleList([nn.Conv2d(2 * planes, c, 3, padding=1)])
        self.up = nn.ModuleList()
        skips, width, side = [c], c, config.high_res // config.patch

        def block(inputs: int, outputs: int, attend: bool) -> ResidualBlock:
            return ResidualBlock(inputs, outputs, c, config, attend)

        for level, multiplier in enumerate(config.multipliers):
            for _ in range(config.blocks):
                self.down.append(block(width, c * multiplier, side in config.attention_sizes))
                width = c * multiplier
                skips.append(width)
            if level < len(config.multipliers) - 1:
                self.down.append(Downsample(width))
                skips.append(width)
                side //= 2
        self.middle = nn.ModuleList([block(width, width, True), block(width, width, False)])
        for level, multiplier in reversed(list(enumerate(config.multipliers))):
            for _ in range(config.blocks + 1):
                inputs = width + skips.pop()
                self.up.append(block(inputs, c * multiplier, side in config.attention_sizes))
                width = c * multiplier
            if level > 0:
                self.up.append(Upsample(width))
                side *= 2
        self.head_norm = nn.GroupNorm(config.norm_groups, width)
        self.head = nn.Conv2d(width, planes, 3, padding=1)

    def forward(self, condition: Tensor, noisy: Tensor, noise_level: Tensor) -> Tensor:
        """`condition`, `noisy` (batch, 3, h, w); `noise_level` (batch,) -> (batch, 3, h, w)."""
        embedding = self.embedding(noise_level)
        x = torch.cat([condition, noisy], dim=1)  # (batch, 6, h, w)
        x = F.pixel_unshuffle(x, self.config.patch)  # (batch, 6 p^2, h/p, w/p)
        skips = []
        for layer in self.down:
            x = layer(x, embedding) if isinstance(layer, ResidualBlock) else layer(x)
            skips.append(x)
        for layer in self.middle:
            x = layer(x, embedding)
        for layer in self.up:
            if isinstance(layer, ResidualBlock):
                x = layer(torch.cat([x, skips.pop()], dim=1), embedding)
            else:
                x = layer(x)
        x = self.head(F.silu(self.head_norm(x)))
        return F.pixel_shuffle(x, self.config.patch)  # (batch, 3, h, w)

    def zero_residuals(self) -> None:
        """Start each residual path and the output at zero (training from scratch converges
        sooner; the public weights overwrite all of it)."""
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                nn.init.zeros_(module.conv2.weight)
            elif isinstance(module, Attention):
                nn.init.zeros_(module.out.weight)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]


def with_weights(config: UNetConfig, weights: Mapping[str, Tensor], what: str) -> UNet:
    """A network with exactly these weights (float32, eval mode, no grad), told of as `what`.

    Raises CheckpointError for a tensor that is missing, too many or of another shape.
    """
    with torch.device("meta"):
        network = UNet(config)
    check_fit(network.state_dict(), weights, what)
    network.load_state_dict({k: v.float() for k, v in weights.items()}, assign=True)
    return network.eval().requires_grad_(False)


def check_fit(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor], what: str) -> None:
    """Raise CheckpointError, which names the tensor, unless names and shapes are those expected."""
    missing = sorted(set(expected) - set(weights))
    extra = sorted(set(weights) - set(expected))
    if missing or extra:
        problem = f"lacks {missing[0]}" if missing else f"has {extra[0]}, which is not its own"
        raise CheckpointError(
            f"{what} does not fit its config: it {problem} "
            f"({len(missing)} missing, {len(extra)} too many)."
        )
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{what} does not fit its config: {name} has shape {tuple(tensor.shape)}, "
                f"expected {tuple(expected[name].shape)}."
            )
