"""A device without float64 does all that a CPU does; one that fails at a part of it is left."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from sr3 import devices, schedule
from sr3.config import TrainConfig
from sr3.devices import Device, pick_device
from sr3.distil import TRAINING, Distiller, student_of
from sr3.engine import Engine
from sr3.errors import ConfigError
from sr3.floor import work_of
from sr3.pipeline import SuperResolver
from sr3.plain import plain_chain
from sr3.presets import MODELS
from sr3.schedule import NoiseSchedule
from sr3.train import Trainer
from sr3.unet import UNet
from tests.float32_only import CPU, DEVICE, Float32Only
from tests.places import drawn_network

TINY = MODELS["tiny"]
BOTH = (DEVICE, CPU)


@pytest.fixture
def there(monkeypatch):
    """The device is there, in this thread."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    with Float32Only():
        yield


def resolver(device: torch.device) -> SuperResolver:
    return SuperResolver(drawn_network(), TINY, Device(device, torch.float32, "the test's"))


def faces(size: int, count: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


@pytest.mark.parametrize("wrong", [
    lambda x: x.double(),
    lambda x: torch.ones(2, dtype=torch.float64).to(x.device),
    lambda x: torch.full((2,), 0.5, dtype=torch.float64, device=x.device),
])  # fmt: skip
def test_the_stand_in_has_no_float64(there, wrong):
    x = torch.full((2,), 0.5).to(DEVICE)
    assert float((2 * x).sum()) == 2
    with pytest.raises(TypeError, match="float64"):
        wrong(x)
    with pytest.raises(RuntimeError, match="same device"):
        x * torch.ones(2)


# ------------------------------------------------------------------------------------- what it does
@pytest.mark.parametrize("kind", [torch.float64, torch.float32])
def test_it_denoises(there, kind):
    x_t, condition = torch.randn((2, 2, 3, 128, 128), generator=torch.Generator().manual_seed(0))
    level = torch.tensor([0.3, 0.9999], dtype=kind)
    found, expected = (resolver(each).denoise(x_t, condition, level) for each in BOTH)
    assert found.device == DEVICE
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-5)
    again = resolver(DEVICE).denoise(x_t.to(DEVICE), condition.to(DEVICE), level.float().to(DEVICE))
    torch.testing.assert_close(again.cpu(), found.cpu(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpmpp"])
def test_it_samples(there, sampler):
    chains = [
        list(resolver(each).stream(faces(16)[0], samples=2, sampler=sampler, steps=4))
        for each in BOTH
    ]
    for found, expected in zip(*chains, strict=True):
        assert found.noise_level == expected.noise_level
        torch.testing.assert_close(found.x_t.cpu(), expected.x_t, rtol=0, atol=1e-4)
        torch.testing.assert_close(found.x0.cpu(), expected.x0, rtol=0, atol=1e-4)


def test_it_serves_visitors(there, monkeypatch):
    serve = Engine._serve

    def with_the_device(self, shift):
        with Float32Only():
            serve(self, shift)

    monkeypatch.setattr(Engine, "_serve", with_the_device)
    engine, model = Engine(), resolver(DEVICE)
    try:
        jobs = [engine.submit(model, face, model.settings(steps=3)) for face in faces(16)]
        assert all(job.wait(60) for job in jobs)
    finally:
        engine.close()
    expected = resolver(CPU).upscale(list(faces(16)), steps=3).images[:, 0]
    for job, alone in zip(jobs, expected, strict=True):
        assert job.error is None
        assert np.abs(job.result.astype(int) - alone.astype(int)).max() <= 1


@pytest.mark.parametrize("prediction", ["eps", "residual"])  # one for each kind of weight
def test_it_trains(there, prediction):
    model = dataclasses.replace(TINY, prediction=prediction)
    config = TrainConfig(steps=2, minutes=None, batch=2, warmup=1)
    found, expected = (
        [step.loss for step in Trainer(drawn_network(), model, config, faces(128), each).run()]
        for each in BOTH
    )
    assert found == pytest.approx(expected, rel=1e-4)


def test_it_distils(there):
    model = student_of(TINY, 2, start=1500, end=40)
    config = dataclasses.replace(TRAINING, minutes=None, steps=2, batch=2)
    found, expected = (
        [step.loss for step in Distiller(
            drawn_network(), model, config, faces(128), each, substeps=2, end=6).run()]
        for each in BOTH
    )  # fmt: skip
    assert found == pytest.approx(expected, rel=1e-4)


def test_it_is_measured(there):
    config = dataclasses.replace(TINY.network, high_res=16, patch=1)
    images, works = [], []
    for device in BOTH:
        torch.manual_seed(0)
        network = UNet(config).eval().to(device)
        works.append(work_of(network, config, torch.float32))
        condition = torch.zeros(1, 3, 16, 16).to(device)
        chain = plain_chain(network, NoiseSchedule(), condition, torch.Generator().manual_seed(0))
        images.append(next(chain).cpu())
    torch.testing.assert_close(*images, rtol=0, atol=1e-5)
    assert works[0] == works[1]


# --------------------------------------------------------------------------------- how it is chosen
@pytest.fixture
def offered(there, measured_anew, monkeypatch):
    """A Mac's choice: what is asked of "mps" is asked of the device."""
    ask = devices._ask
    monkeypatch.setattr(devices, "_has_cuda", lambda: (False, ""))
    monkeypatch.setattr(devices, "_has_mps", lambda: True)
    monkeypatch.setattr(
        devices, "_ask", lambda device: ask(DEVICE if device.type == "mps" else device)
    )


def test_it_is_chosen_where_it_answers(offered):
    assert pick_device("auto") == Device(torch.device("mps"), torch.float32, "mps, float32")


def levels_beside(monkeypatch):
    monkeypatch.setattr(schedule, "level_device", lambda device: device)


def a_kernel_missing(monkeypatch):
    def missing(*_):
        raise NotImplementedError("The operator 'aten::silu' is not there for float64. More.")

    monkeypatch.setattr(torch.nn.functional, "silu", missing)


@pytest.mark.parametrize("fails", [levels_beside, a_kernel_missing])
def test_it_is_left_for_the_cpu_where_a_part_of_sampling_fails(offered, monkeypatch, fails):
    pick_device("cpu")  # which is sound
    fails(monkeypatch)
    found = pick_device("auto")
    assert found.device == CPU
    assert "; the GPU is not used: " in found.reason and "float64" in found.reason
    with pytest.raises(ConfigError, match="float64"):
        pick_device("mps")


def test_to_ask_a_device_draws_nothing(measured_anew):
    torch.manual_seed(0)
    expected = torch.rand(())
    torch.manual_seed(0)
    assert devices._problem("cpu") == "" and torch.rand(()) == expected
