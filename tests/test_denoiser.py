"""What the network's output means: every kind of prediction, and its loss, written out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sr3.config import ModelConfig
from sr3.denoiser import Denoiser, signal_and_noise
from sr3.schedule import NoiseSchedule

KINDS = ["eps", "v", "x0", "residual"]
TIMES = [1, 2, 50, 526, 1000, 1500, 1999, 2000]
SCALE = 0.2


class Fake(nn.Module):
    """Answers with a function of what it is asked, and remembers the question."""

    def __init__(self, answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, condition: Tensor, noisy: Tensor, noise_level: Tensor) -> Tensor:
        self.noisy = noisy
        return self.answer(condition, noisy, noise_level)


def normal(seed: int, batch: int = len(TIMES)) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, 4, 4, generator=generator, dtype=torch.float64)


X0, EPS, CONDITION = (normal(k).clamp(-b, b) for k, b in enumerate((1, 3, 1)))
LEVEL = NoiseSchedule().level(torch.tensor(TIMES))
A = LEVEL[:, None, None, None]
S = (1 - A**2).sqrt()
X_T = (A * X0 + S * EPS).float()
TARGETS = {"eps": EPS, "v": A * EPS - S * X0, "x0": X0, "residual": (X0 - CONDITION) / SCALE}


def denoiser(kind: str, off_by: float | Tensor = 0.0) -> Denoiser:
    """One whose network gives the exact target, or is off by so much."""
    answer = (TARGETS[kind] + off_by).float()
    return Denoiser(Fake(lambda *_: answer), ModelConfig(prediction=kind, residual_scale=SCALE))


def loss(made: Denoiser, how: str = "l2", cap: float = 25.0) -> Tensor:
    return made.loss(X0.float(), CONDITION.float(), LEVEL, EPS.float(), how, cap)


@pytest.mark.parametrize("kind", KINDS)
def test_the_exact_target_gives_the_clean_image_at_every_level(kind):
    found = denoiser(kind)(X_T, CONDITION.float(), LEVEL)
    assert found.dtype == torch.float32
    assert float((found.double() - X0).abs().max()) < 1e-4


@pytest.mark.parametrize(
    ("kind", "gain"),
    [("eps", -S / A), ("v", -S), ("x0", torch.ones_like(S)), ("residual", SCALE + 0 * S)],
)
def test_an_error_of_the_network_moves_the_estimate_by_its_gain(kind, gain):
    found = denoiser(kind, off_by=0.5)(X_T, CONDITION.float(), LEVEL).double()
    torch.testing.assert_close(found, X0 + 0.5 * gain, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_estimate_is_not_clamped(kind):
    found = denoiser(kind, off_by=1000.0)(X_T, CONDITION.float(), LEVEL)
    assert float(found[3].abs().max()) > 100  # signal and noise equally strong


@pytest.mark.parametrize("kind", ["eps", "v", "x0"])
def test_the_network_sees_the_noisy_image(kind):
    made = denoiser(kind)
    made(X_T, CONDITION.float(), LEVEL)
    assert torch.equal(made.network.noisy, X_T)


def test_the_residual_network_sees_a_noisy_residual_of_unit_variance():
    made = denoiser("residual")
    made(X_T, CONDITION.float(), LEVEL)
    expected = (A * (X0 - CONDITION) + S * EPS) / (A**2 * SCALE**2 + S**2).sqrt()
    assert float((made.network.noisy.double() - expected).abs().max()) < 1e-3  # near clean
    assert float((made.network.noisy[2:].double() - expected[2:]).abs().max()) < 1e-5
    level = LEVEL.repeat_interleave(500)
    noisy_part, clean_part = normal(3, len(level)), SCALE * normal(4, len(level))
    a, s = (part.double() for part in signal_and_noise(level))
    made = Denoiser(
        Fake(lambda condition, *_: condition),
        ModelConfig(prediction="residual", residual_scale=SCALE),
    )
    made((a * clean_part + s * noisy_part), torch.zeros_like(clean_part), level)
    spread = made.network.noisy.view(len(TIMES), -1).std(dim=1)
    assert float((spread - 1).abs().max()) < 0.03


def test_each_image_has_its_own_level():
    made = Denoiser(
        Fake(lambda _, noisy, level: noisy * level.float()[:, None, None, None]),
        ModelConfig(prediction="v"),
    )
    together = made(X_T, CONDITION.float(), LEVEL)
    for k in range(len(TIMES)):
        one = slice(k, k + 1)
        alone = made(X_T[one], CONDITION[one].float(), LEVEL[one])
        assert torch.equal(alone, together[one])


def test_signal_and_noise_keep_their_digits_near_clean():
    a, s = signal_and_noise(LEVEL)
    assert a.shape == s.shape == (len(TIMES), 1, 1, 1)
    torch.testing.assert_close(a.double(), A, rtol=1e-7, atol=0)
    torch.testing.assert_close(s.double(), S, rtol=1e-7, atol=0)
    clean, none = signal_and_noise(torch.ones(1))
    assert float(clean) == 1 and float(none) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_lower_precision_still_gives_float32(kind):
    network = nn.Conv2d(3, 3, 3, padding=1)
    made = [
        Denoiser(Fake(lambda _, noisy, level: network(noisy)), ModelConfig(prediction=kind), dtype)
        for dtype in (torch.float32, torch.bfloat16)
    ]
    level = torch.full((len(TIMES),), 0.8, dtype=torch.float64)
    with torch.no_grad():
        exact, fast = (one(X_T, CONDITION.float(), level) for one in made)
    assert exact.dtype == fast.dtype == torch.float32
    assert not torch.equal(exact, fast)  # it did run in bfloat16
    assert float((exact - fast).abs().max()) < 0.05


def test_weights_and_mode_are_left_alone():
    network = nn.Sequential(nn.Dropout(0.5))
    fake = Fake(lambda _, noisy, level: network(noisy))
    for training in (True, False):
        network.train(training)
        Denoiser(fake, ModelConfig())(X_T, CONDITION.float(), LEVEL)
        assert network.training is training


# ------------------------------------------------------------------------------------------- loss
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["l1", "l2"])
def test_the_exact_target_has_no_loss(kind, how):
    found = loss(denoiser(kind), how)
    assert found.dtype == torch.float32 and found.shape == (len(TIMES),)
    assert float(found.abs().max()) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("how", "plain"), [("l1", 0.2), ("l2", 0.055)])
@pytest.mark.parametrize("cap", [25.0, 3.0, 1.0])
def test_a_known_error_has_the_loss_written_by_hand(kind, how, plain, cap):
    # Off by -0.4, 0.1, 0.1, 0.2 in the four rows: the mean size is 0.2, the mean square 0.055.
    off = torch.tensor([-0.4, 0.1, 0.1, 0.2], dtype=torch.float64)[:, None]
    scale = {"x0": 1.0, "residual": SCALE}.get(kind)
    found = loss(denoiser(kind, off), how, cap).tolist()
    for value, level in zip(found, LEVEL.tolist(), strict=True):
        weight = 1.0
        if scale is not None:
            snr = (level * scale) ** 2 / (1 - level**2)
            weight = min(1 + snr, cap)
        expected = plain * (math.sqrt(weight) if how == "l1" else weight)
        assert value == pytest.approx(expected, rel=1e-4)


def test_the_cap_binds_where_expected():
    off = 0.1
    found = loss(denoiser("residual", off), "l2", cap=25.0) / off**2
    assert float(found[0]) == pytest.approx(25, rel=1e-4)  # t = 1: capped
    assert 1.03 < float(found[3]) < 1.05  # t = 526: SNR 1, times 0.04
    assert float(found[-1]) == pytest.approx(1, rel=1e-4)  # t = 2000: noise


def test_the_loss_passes_gradients_to_the_network():
    weight = nn.Parameter(torch.tensor(0.5))
    made = Denoiser(Fake(lambda _, noisy, level: weight * noisy), ModelConfig(prediction="eps"))
    loss(made).sum().backward()
    # d/dw mean((w x - eps)^2) = 2 mean((w x - eps) x)
    x = X_T.double()
    expected = (2 * (0.5 * x - EPS) * x).mean(dim=(1, 2, 3)).sum()
    assert float(weight.grad) == pytest.approx(float(expected), rel=1e-4)
