"""The metrics against formulas written out here; LPIPS with and without its backbone."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d, relu

from sr3 import hub, metrics, perceptual
from sr3.errors import ImageError, MetricUnavailable, SR3Error
from sr3.images import Pixels, degrade
from tests import given

ROOT = Path(__file__).resolve().parents[1]
SHAPES = {
    "features.0": (64, 3, 11, 11),
    "features.3": (192, 64, 5, 5),
    "features.6": (384, 192, 3, 3),
    "features.8": (256, 384, 3, 3),
    "features.10": (256, 256, 3, 3),
}


def faces(count: int = 2, size: int = 64, seed: int = 0) -> Pixels:
    """Smooth colour patterns with a little noise: (count, size, size, 3)."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    waves = generator.uniform(2, 9, (count, 1, 1, 3, 2))
    phase = waves[..., 0] * x[..., None] + waves[..., 1] * y[..., None]
    noisy = 128 + 90 * np.sin(phase) + generator.normal(0, 6, phase.shape)
    return noisy.clip(0, 255).round().astype(np.uint8)


def shaken(images: Pixels, sigma: float, seed: int = 1) -> Pixels:
    noise = np.random.default_rng(seed).normal(0, sigma, images.shape)
    return (images + noise).clip(0, 255).round().astype(np.uint8)


# ------------------------------------------------------------------------------- psnr and ssim
def test_psnr_is_the_closed_form_for_each_image() -> None:
    reference = np.full((3, 8, 8, 3), 100, np.uint8)
    result = reference.copy()
    result[1] += 5
    result[2, :4] -= 10  # below the reference: uint8 arithmetic would wrap
    expected = [np.inf, 20 * np.log10(255 / 5), 10 * np.log10(255**2 / 50)]
    np.testing.assert_allclose(metrics.psnr(result, reference), expected, rtol=1e-12)
    assert metrics.psnr(result[1], reference[1]).shape == (1,)


def test_psnr_averages_squares_over_channels_not_decibels() -> None:
    reference = np.zeros((1, 4, 4, 3), np.uint8)
    result = reference.copy()
    result[..., 0], result[..., 1] = 30, 3
    expected = 10 * np.log10(255**2 * 3 / (30**2 + 3**2))
    assert metrics.psnr(result, reference)[0] == pytest.approx(expected, abs=1e-12)


def slow_ssim(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Wang et al. 2004, equation 13, one window at a time."""
    axis = np.arange(-5, 6)
    window = np.exp(-(axis[:, None] ** 2 + axis[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for channel in range(3):
        for y in range(5, a.shape[0] - 5):
            for x in range(5, a.shape[1] - 5):
                p = a[y - 5 : y + 6, x - 5 : x + 6, channel]
                q = b[y - 5 : y + 6, x - 5 : x + 6, channel]
                mean_p, mean_q = (window * p).sum(), (window * q).sum()
                var_p = (window * (p - mean_p) ** 2).sum()
                var_q = (window * (q - mean_q) ** 2).sum()
                cov = (window * (p - mean_p) * (q - mean_q)).sum()
                values.append(
                    (2 * mean_p * mean_q + c1)
                    * (2 * cov + c2)
                    / ((mean_p**2 + mean_q**2 + c1) * (var_p + var_q + c2))
                )
    return float(np.mean(values))


def test_ssim_is_the_published_formula() -> None:
    reference = faces(2, 20)
    result = np.concatenate([shaken(reference[:1], 20), shaken(reference[1:], 4)])
    expected = [slow_ssim(*map(np.float64, pair)) for pair in zip(result, reference, strict=True)]
    np.testing.assert_allclose(metrics.ssim(result, reference), expected, atol=1e-9)
    np.testing.assert_allclose(metrics.ssim(reference, reference), 1, atol=1e-12)


# --------------------------------------------------------------------------------- consistency
def bicubic_matrix(large: int, small: int) -> NDArray[np.float64]:
    """Antialiased bicubic reduction (Keys' kernel, a = -0.5) of one axis: (small, large)."""
    scale = large / small
    centres = (np.arange(small) + 0.5) * scale
    t = np.abs((np.arange(large) + 0.5 - centres[:, None]) / scale)
    near = 1.5 * t**3 - 2.5 * t**2 + 1
    far = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    weights = np.where(t < 1, near, np.where(t < 2, far, 0))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def test_consistency_is_the_error_of_the_unrounded_antialiased_reduction() -> None:
    result, low_res = shaken(faces(2, 128), 30), degrade(faces(2, 128), 16)
    low_res[1] = 255 - low_res[1]
    matrix = bicubic_matrix(128, 16)
    reduced = np.einsum("ay,bx,nyxc->nabc", matrix, matrix, result.astype(float)).clip(0, 255)
    expected = ((reduced - low_res) ** 2).mean(axis=(1, 2, 3)) / 255**2
    mse, decibels = metrics.consistency(result, low_res)
    np.testing.assert_allclose(mse, expected * 1e5, rtol=1e-4)
    np.testing.assert_allclose(decibels, -10 * np.log10(expected), atol=1e-3)


def test_consistency_of_the_original_is_the_rounding_error_alone() -> None:
    image = faces(8, 128)
    _, decibels = metrics.consistency(image, degrade(image, 16))
    # Uniform rounding, 1/12 of a level squared: 58.9 dB. Pillow rounds once an axis, so a little
    # less; an error after rounding would be 0 here, and infinite decibels.
    assert (np.abs(decibels - 58.9) < 3.5).all()


def test_units_agree_with_the_paper() -> None:
    grey = np.full((1, 128, 128, 3), 100, np.uint8)
    mse, decibels = metrics.consistency(grey, np.full((1, 16, 16, 3), 102, np.uint8))
    assert mse[0] == pytest.approx((2 / 255) ** 2 * 1e5, rel=1e-6)
    assert decibels[0] == pytest.approx(20 * np.log10(255 / 2), abs=1e-6)
    # 2.68 of these units are 45.7 dB.
    assert -10 * np.log10(2.68e-5) == pytest.approx(45.7, abs=0.05)


def test_an_overshoot_that_eight_bits_cannot_hold_is_no_error() -> None:
    image = np.zeros((1, 128, 128, 3), np.uint8)
    image[:, :, 40:] = 255
    mse, _ = metrics.consistency(image, degrade(image, 16))
    assert mse[0] < 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.psnr(faces(1).astype(np.float32), faces(1)), "uint8 RGB"),  # type: ignore[arg-type]
        (lambda: metrics.psnr(faces(1)[..., :1], faces(1)[..., :1]), "uint8 RGB"),
        (lambda: metrics.psnr(faces(2), faces(1)), "differ in shape"),
        (lambda: metrics.ssim(faces(1, 10), faces(1, 10)), "11 a side"),
        (lambda: metrics.consistency(faces(1, 16), faces(1, 32)), "larger than the result"),
        (lambda: metrics.consistency(faces(2, 32), faces(1, 16)), "2 results came with 1"),
    ],
)
def test_unfit_images_are_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ImageError, match=message):
        call()


# --------------------------------------------------------------------------------------- LPIPS
def random_weights(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in SHAPES.items():
        fan_in = shape[1] * shape[2] * shape[3]
        weights[f"{name}.weight"] = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
        weights[f"{name}.bias"] = torch.randn(shape[0], generator=generator) * 0.1
    return weights


def lpips_by_hand(weights: dict[str, Tensor], result: Pixels, reference: Pixels) -> list[float]:
    """Zhang et al. 2018, equation 1, in float64; the linear weights are the package's."""
    package = Path(str(perceptual._import_lpips().__file__)).parent
    linear = torch.load(package / "weights/v0.1/alex.pth", "cpu", weights_only=True)
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])

    def features(images: Pixels) -> list[Tensor]:
        x = (torch.from_numpy(images).double() / 127.5 - 1 - shift) / scale
        x, out = x.permute(0, 3, 1, 2), []
        for number, name in enumerate(SHAPES):
            stride, padding = [(4, 2), (1, 2), (1, 1), (1, 1), (1, 1)][number]
            if number in (1, 2):
                x = max_pool2d(x, 3, 2)
            kernel, bias = weights[f"{name}.weight"].double(), weights[f"{name}.bias"].double()
            x = relu(conv2d(x, kernel, bias, stride=stride, padding=padding))
            out.append(x / (x.norm(dim=1, keepdim=True) + 1e-10))
        return out

    total = torch.zeros(len(result), dtype=torch.float64)
    for level, (ours, truth) in enumerate(zip(features(result), features(reference), strict=True)):
        importance = linear[f"lin{level}.model.1.weight"].double()  # (1, channels, 1, 1)
        total += ((ours - truth) ** 2 * importance).sum(1).mean((1, 2))
    return [float(value) for value in total]


@pytest.fixture
def weights_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A random backbone, so that the code is exercised where the true one is not at hand."""
    path = tmp_path / "alexnet.safetensors"
    save_file(random_weights(), path)
    monkeypatch.setenv("SR3_LPIPS_WEIGHTS", str(path))
    return path


@pytest.fixture
def true_weights(monkeypatch: pytest.MonkeyPatch) -> Path:
    path = given.alexnet()
    if path is None:
        pytest.skip("no AlexNet weights: name a state dict in SR3_LPIPS_WEIGHTS")
    monkeypatch.setenv("SR3_LPIPS_WEIGHTS", str(path))
    return path


def test_lpips_is_the_published_formula(weights_file: Path) -> None:
    reference = faces(3)
    result = shaken(reference, 25)
    lpips = metrics.load_lpips()
    expected = lpips_by_hand(load_file(weights_file), result, reference)
    np.testing.assert_allclose(lpips(result, reference), expected, rtol=1e-4)
    np.testing.assert_allclose(lpips(result, reference, batch_size=2), expected, rtol=1e-4)
    np.testing.assert_allclose(lpips(result[0], reference[0]), expected[:1], rtol=1e-4)
    assert (lpips(reference, reference) == 0).all()
    assert lpips.backbone.startswith("AlexNet (sha256 ")


def test_lpips_with_the_imagenet_backbone(true_weights: Path) -> None:
    lpips = metrics.load_lpips()
    assert lpips.backbone == "AlexNet (torchvision IMAGENET1K_V1)"
    reference = faces(2, 64)
    result = np.concatenate([shaken(reference[:1], 40), shaken(reference[1:], 4)])
    features = perceptual._read_features(true_weights)
    values = lpips(result, reference)
    np.testing.assert_allclose(values, lpips_by_hand(features, result, reference), rtol=1e-4)
    assert values[0] > 2 * values[1] > 0


def test_lpips_loads_a_whole_pth_file_and_leaves_the_random_numbers_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = random_weights(1) | {"classifier.1.weight": torch.zeros(2, 2)}
    torch.save(whole, tmp_path / "alexnet.pth")
    monkeypatch.setenv("SR3_LPIPS_WEIGHTS", str(tmp_path / "alexnet.pth"))
    before = torch.get_rng_state()
    lpips = metrics.load_lpips()
    assert torch.equal(torch.get_rng_state(), before)
    assert capsys.readouterr().out == ""
    assert not any(weight.requires_grad for weight in lpips._network.parameters())


def test_one_network_a_process_whatever_the_threads(weights_file: Path) -> None:
    found: list[object] = []
    threads = [
        threading.Thread(target=lambda: found.append(metrics.load_lpips())) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(map(id, found))) == 1


def test_small_or_wrong_images_are_refused_by_lpips(weights_file: Path) -> None:
    lpips = metrics.load_lpips()
    lpips(faces(1, 31), faces(1, 31))
    for result, reference in [
        (faces(1, 30), faces(1, 30)),
        (faces(2), faces(1)),
        (faces(1).astype(np.float32), faces(1)),
    ]:
        with pytest.raises(ImageError, match="LPIPS compares"):
            lpips(result, reference)  # type: ignore[arg-type]


# ---------------------------------------------------------------------- LPIPS, not to be had
@pytest.fixture
def nothing_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("SR3_LPIPS_WEIGHTS", "SR3_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return tmp_path / "torch/hub/checkpoints" / "alexnet-owt-7be5be79.pth"


@pytest.mark.parametrize(
    ("switch", "on"), [("SR3_OFFLINE", "1"), ("HF_HUB_OFFLINE", "1"), ("HF_HUB_OFFLINE", "true")]
)
def test_offline_nothing_is_tried_and_nothing_else_fails(
    switch: str, on: str, nothing_cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(hub.urllib.request, "urlopen", refuse)
    monkeypatch.setenv(switch, on)
    scorer = metrics.Scorer.load()
    assert (scorer.lpips, scorer.backbone) == (None, None)
    assert "not available" in scorer.lpips_reason
    assert "are not here and offline mode is on" in scorer.lpips_reason
    reference = faces(2)
    [first, _] = scorer(shaken(reference, 9), reference, degrade(reference, 16))
    assert first.lpips is None
    assert None not in (first.psnr, first.ssim, first.consistency_mse, first.consistency_psnr)


def test_a_cached_file_serves_offline(
    nothing_cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SR3_OFFLINE", "1")
    nothing_cached.parent.mkdir(parents=True)
    torch.save(random_weights(2), nothing_cached)
    assert metrics.Scorer.load().lpips is not None


def test_a_server_that_never_answers_is_given_up(
    nothing_cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = threading.Event()
    monkeypatch.setattr(hub, "PATIENCE", -0.8)
    monkeypatch.setattr(hub.urllib.request, "urlopen", lambda *_, **__: stuck.wait(30))
    start = time.monotonic()
    with pytest.raises(MetricUnavailable, match=r"no answer.*SR3_LPIPS_WEIGHTS"):
        metrics.load_lpips()
    assert time.monotonic() - start < 5
    with pytest.raises(MetricUnavailable, match="no answer"):  # kept, not tried again
        metrics.load_lpips()
    stuck.set()


def test_a_download_is_checked_before_it_is_kept(
    nothing_cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "served.pth"
    torch.save(random_weights(3), source)
    monkeypatch.setattr(hub, "_open", lambda url: source.open("rb"))
    with pytest.raises(MetricUnavailable, match="wrong SHA-256"):
        metrics.load_lpips()
    assert list(nothing_cached.parent.iterdir()) == []
    honest = hub.hashlib.sha256(source.read_bytes()).hexdigest()[:8]
    target = nothing_cached.with_name(f"alexnet-owt-{honest}.pth")
    hub.download(f"https://example.org/{target.name}", target)
    assert target.read_bytes() == source.read_bytes()
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def _lacking() -> dict[str, Tensor]:
    weights = random_weights()
    del weights["features.8.bias"]
    return weights


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.pth", None, "is no file"),
        ("text.pth", b"not a file of weights", "cannot be read"),
        ("empty.pth", b"", "cannot be read"),
        ("text.safetensors", b"not a file of weights", "cannot be read"),
        ("lacking.safetensors", _lacking, r"features\.8\.bias"),
        (
            "odd.safetensors",
            lambda: random_weights() | {"features.3.bias": torch.zeros(7)},
            "cannot be read",
        ),
    ],
)
def test_unusable_weights_are_explained(
    name: str, content: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        save_file(content(), path)
    monkeypatch.setenv("SR3_LPIPS_WEIGHTS", str(path))
    with pytest.raises(MetricUnavailable, match=message) as caught:
        metrics.load_lpips()
    assert str(caught.value).startswith("LPIPS is not available: ")


def in_a_new_process(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_metrics_is_light() -> None:
    code = "import sys, sr3.metrics; print({'lpips', 'torchvision'} & set(sys.modules))"
    assert in_a_new_process(code) == "set()"


@pytest.mark.parametrize(
    "before",
    [
        "",
        # Another library tried torchvision first, and may have failed.
        """
        try: import torchvision
        except RuntimeError: pass
        """,
        # torchvision's own operators are there: nothing may be declared twice.
        """
        import torch
        if not hasattr(torch.ops.torchvision, "nms"):
            for name in ("nms", "qnms"):
                schema = "(Tensor a, Tensor b, float c) -> Tensor"
                torch.library.define(f"torchvision::{name}", schema)
        """,
    ],
    ids=["first", "after a failed import", "beside its own operators"],
)
def test_lpips_loads_whatever_torchvision_does(before: str, weights_file: Path) -> None:
    code = textwrap.dedent(before) + textwrap.dedent(
        """
        from sr3.metrics import load_lpips
        import torch
        print(load_lpips().backbone[:7], hasattr(torch.ops.torchvision, "nms"))
        """
    )
    assert in_a_new_process(code, SR3_LPIPS_WEIGHTS=str(weights_file)) == "AlexNet True"


# -------------------------------------------------------------------------- scores and registry
def test_score_gives_each_image_its_own_numbers(weights_file: Path) -> None:
    reference = faces(3, 64)
    result, low_res = shaken(reference, 12), degrade(reference, 16)
    lpips = metrics.load_lpips()
    scores = metrics.score(result, reference, low_res, lpips)
    assert [s.psnr for s in scores] == metrics.psnr(result, reference).tolist()
    assert [s.ssim for s in scores] == metrics.ssim(result, reference).tolist()
    assert [s.lpips for s in scores] == lpips(result, reference).tolist()
    mse, decibels = metrics.consistency(result, low_res)
    assert [s.consistency_mse for s in scores] == mse.tolist()
    assert [s.consistency_psnr for s in scores] == decibels.tolist()
    assert set(metrics.METRICS) == set(metrics.Scores.__dataclass_fields__)


def test_score_without_a_reference_or_an_input() -> None:
    image = faces(1, 64)
    [score] = metrics.score(image, None, degrade(image, 16), None)
    assert (score.psnr, score.ssim, score.lpips) == (None, None, None)
    assert score.consistency_psnr is not None
    [score] = metrics.score(image[0], image[0], None, None)
    assert (score.psnr, score.consistency_mse) == (np.inf, None)


def test_arrows_point_to_better() -> None:
    arrows = {name: metric.arrow for name, metric in metrics.METRICS.items()}
    assert arrows == {
        "psnr": "↑",
        "ssim": "↑",
        "lpips": "↓",
        "consistency_psnr": "↑",
        "consistency_mse": "↓",
    }
    assert metrics.METRICS["psnr"].label == "PSNR (dB) ↑"
    assert metrics.METRICS["ssim"].label == "SSIM ↑"


# ----------------------------------------------------------------------------------- intervals
@pytest.mark.parametrize(("confidence", "z"), [(0.95, 1.95996), (0.8, 1.28155)])
def test_the_interval_is_the_normal_one_for_many_images(confidence: float, z: float) -> None:
    values = np.random.default_rng(5).normal(20, 3, 800)
    interval = metrics.bootstrap_mean(values, seed=1, confidence=confidence)
    half = z * values.std() / 800**0.5
    assert interval.mean == pytest.approx(values.mean(), abs=1e-12)
    assert interval.n == 800
    assert interval.low == pytest.approx(values.mean() - half, abs=0.08 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.08 * half)


def test_the_interval_is_exact_for_two_values() -> None:
    # Means of two draws from {0, 1}: 0, 1/2, 1 with chances 1/4, 1/2, 1/4.
    assert metrics.bootstrap_mean([0, 1], confidence=0.95) == metrics.Interval(0.5, 0, 1, 2)
    assert metrics.bootstrap_mean([0, 1], confidence=0.4) == metrics.Interval(0.5, 0.5, 0.5, 2)


def test_the_interval_depends_on_its_seed_alone() -> None:
    values = np.random.default_rng(0).normal(size=300)
    again = [metrics.bootstrap_mean(values, seed) for seed in (3, 3, 4)]
    assert again[0] == again[1] != again[2]
    # Split into several batches of draws: the same law.
    many = metrics.bootstrap_mean(np.tile(values, 20), 0)
    few = metrics.bootstrap_mean(values, 0)
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(20**0.5, rel=0.1)


def test_pairing_removes_what_images_share() -> None:
    generator = np.random.default_rng(2)
    hardness = generator.normal(23, 5, 200)
    gain = generator.normal(0.3, 0.2, 200)
    interval = metrics.paired_difference(hardness + gain, hardness, seed=0)
    half = 1.95996 * gain.std() / 200**0.5
    assert interval.mean == pytest.approx(gain.mean(), abs=1e-9)
    assert interval.low == pytest.approx(gain.mean() - half, abs=0.12 * half)
    assert interval.high == pytest.approx(gain.mean() + half, abs=0.12 * half)
    assert interval.low > 0  # unpaired it would be about +-1


def test_one_image_has_no_interval_and_infinity_no_nan() -> None:
    alone = metrics.bootstrap_mean([4.0])
    assert alone.mean == 4
    assert np.isnan([alone.low, alone.high]).all()
    exact = metrics.bootstrap_mean([np.inf] * 3)
    assert (exact.mean, exact.low, exact.high) == (np.inf, np.inf, np.inf)


@pytest.mark.parametrize(
    "call",
    [
        lambda: metrics.bootstrap_mean([]),
        lambda: metrics.bootstrap_mean([1, float("nan")]),
        lambda: metrics.bootstrap_mean([1, 2], confidence=95),
        lambda: metrics.paired_difference([1, 2], [1, 2, 3]),
        lambda: metrics.paired_difference([1, np.inf], [1, np.inf]),
    ],
)
def test_what_has_no_interval_is_refused(call: Callable[[], object]) -> None:
    with pytest.raises(SR3Error):
        call()
