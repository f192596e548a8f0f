"""One denoiser for every network: `(x_t, condition, noise_level) -> x0`.

It hides what the network predicts, the precision it runs in and its memory layout, so that no
sampler, trainer or page knows. With a = sqrt(alpha_bar), s = sqrt(1 - alpha_bar) and
x_t = a x0 + s eps, the network's output F means:

    eps        F = eps                      x0 = (x_t - s F) / a          (SR3, equation 4)
    v          F = a eps - s x0             x0 = a x_t - s F              (2202.00512, equation 9)
    x0         F = x0                       x0 = F
    residual   F = (x0 - condition) / r     x0 = condition + r F

`residual` is ours: what is diffused is still the image, but the network sees the noisy residual
over the condition at unit variance, (x_t - a condition) / sqrt(a^2 r^2 + s^2), and gives the
clean one, r being its root mean square: a narrow stem need not carry the noise through.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sr3.config import ModelConfig


def signal_and_noise(
    noise_level: Tensor, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """(batch,) levels -> a and s on `device`, each (batch, 1, 1, 1): float32 from float64
    arithmetic, which is done where the levels lie."""
    a = noise_level.double()[:, None, None, None]
    s = (1 - a.square()).clamp(min=0).sqrt()
    return a.float().to(device), s.float().to(device)


class Denoiser:
    """A network adapted to the denoiser contract. Never changes the network's weights or mode."""

    def __init__(
        self, network: nn.Module, config: ModelConfig, precision: torch.dtype = torch.float32
    ) -> None:
        self.network = network
        self.config = config
        self.precision = precision

    @property
    def scale(self) -> float:
        """The size of what the network predicts, in units of the image."""
        return self.config.residual_scale if self.config.prediction == "residual" else 1.0

    def __call__(self, x_t: Tensor, condition: Tensor, noise_level: Tensor) -> Tensor:
        """The clean estimate x0, unclamped.

        `x_t` and `condition` (batch, 3, h, w) in [-1, 1] units, `noise_level` (batch,) =
        sqrt(alpha_bar), one an image, in (0, 1], on a device with float64 -> (batch, 3, h, w)
        float32 where `x_t` is.
        """
        a, s = signal_and_noise(noise_level, x_t.device)
        x_t, condition = x_t.float(), condition.float()
        output = self._predict(x_t, condition, noise_level, a, s)
        match self.config.prediction:
            case "eps":
                return (x_t - s * output) / a
            case "v":
                return a * x_t - s * output
            case "x0":
                return output
            case "residual":
                return condition + self.config.residual_scale * output

    def loss(
        self, x0: Tensor, condition: Tensor, noise_level: Tensor, eps: Tensor, kind: str, cap: float
    ) -> Tensor:
        """Training loss an image: (batch,) float32, the mean over pixels of the weighted error.

        The target is what the network predicts; `kind` is "l1" (the paper's better one) or "l2".
        `residual` and `x0` errors shrink with the noise, so they weigh 1 + SNR, at most `cap`
        times the noisiest level's (Min-SNR, 2303.09556); for "l1" the root of it.
        """
        a, s = signal_and_noise(noise_level, x0.device)
        x_t = a * x0 + s * eps
        scale = self.scale
        match self.config.prediction:
            case "eps":
                target = eps
            case "v":
                target = a * eps - s * x0
            case "x0":
                target = x0
            case "residual":
                target = (x0 - condition) / scale
        error = self._predict(x_t, condition, noise_level, a, s) - target
        values = (error.abs() if kind == "l1" else error.square()).mean(dim=(1, 2, 3))
        if self.config.prediction in ("eps", "v"):
            return values
        weight = (1 + (a * scale / s.clamp(min=1e-6)).square()).clamp(max=cap).flatten()
        return values * (weight.sqrt() if kind == "l1" else weight)

    def _predict(
        self, x_t: Tensor, condition: Tensor, noise_level: Tensor, a: Tensor, s: Tensor
    ) -> Tensor:
        """The network's raw output in float32, from the input that it was trained on."""
        noisy = x_t
        if self.config.prediction == "residual":
            scale = self.config.residual_scale
            noisy = (x_t - a * condition) / (a.square() * scale**2 + s.square()).sqrt()
        enabled = self.precision != torch.float32
        with torch.autocast(x_t.device.type, dtype=self.precision, enabled=enabled):
            output: Tensor = self.network(condition, noisy, noise_level)
        return output.float()
