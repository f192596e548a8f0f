"""Which device: chosen with a reason, in a precision that it is fast in; what happens without."""

from __future__ import annotations

import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from sr3 import devices, pipeline
from sr3.bench import AGREES
from sr3.devices import Device, exact, for_tables, pick_device
from sr3.errors import ConfigError
from sr3.metrics import psnr
from sr3.pipeline import SuperResolver, load
from tests.app_server import make_checkpoints

pytestmark = pytest.mark.usefixtures("measured_anew")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_checkpoints(tmp_path_factory.mktemp("checkpoints")) / "tiny"


@pytest.mark.parametrize(
    ("native", "capability", "precision"),
    [
        (True, (8, 0), torch.bfloat16),
        (False, (7, 5), torch.float16),
        (False, (6, 1), torch.float32),
    ],
)
def test_a_gpu_computes_in_what_it_has_itself(monkeypatch, native, capability, precision):
    def supported(including_emulation=True):
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    found = devices._on_cuda(torch.device("cuda"))
    assert found.precision == precision and found.reason.startswith("A GPU, ")


def test_a_driver_that_is_too_old_is_told(monkeypatch):
    def available():
        warnings.warn("The NVIDIA driver on your system is too old (found 1). More.", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", available)
    found = pick_device("auto")
    assert found.device.type != "cuda"
    assert "driver on your system is too old" in found.reason and "update" in found.reason


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB."), "out of memory"),
        (RuntimeError("CUDA error: no kernel image is available for execution on the device\nx"),
         "no kernel image is available"),
    ],
)  # fmt: skip
def test_a_gpu_that_cannot_compute_is_left_for_the_cpu_unless_asked_for(monkeypatch, error, told):
    ones = torch.ones

    def fails_on_a_gpu(*size, device=None, **settings):
        if torch.device(device or "cpu").type == "cuda":
            raise error
        return ones(*size, device=device, **settings)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(devices, "_has_mps", lambda: False)
    monkeypatch.setattr(torch, "ones", fails_on_a_gpu)
    found = pick_device("auto")
    assert found.device.type == "cpu" and "the GPU is not used: CUDA" in found.reason
    assert told in found.reason and "\n" not in found.reason
    with pytest.raises(ConfigError, match=told):
        pick_device("cuda")


def test_a_gpu_that_fills_up_later_changes_no_choice(monkeypatch):
    monkeypatch.setattr(devices, "_has_cuda", lambda: (True, ""))
    monkeypatch.setattr(devices, "_problem", lambda name: "")
    monkeypatch.setattr(devices, "_on_cuda", lambda device: Device(device, torch.bfloat16, "A GPU"))
    chosen = pick_device("auto")
    monkeypatch.setattr(devices, "_problem", lambda name: "out of memory")
    assert chosen.device.type == "cuda" and pick_device("auto") == pick_device("cuda") == chosen


def test_a_device_that_is_not_there_is_one_sentence():
    with pytest.raises(ConfigError, match=r"\(torch knows no such device\); use auto, cpu") as told:
        pick_device("nonsense")
    assert len(str(told.value)) < 120, "not all that torch was ever built for"


def test_a_full_gpu_is_left_for_the_cpu_unless_it_was_asked_for(monkeypatch, tiny):
    made = SuperResolver.__init__
    calls = []

    def first_fails(self, network, config, device, name="unnamed"):
        calls.append(device)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        made(self, network, config, device, name)

    monkeypatch.setattr(pipeline.SuperResolver, "__init__", first_fails)
    assert "out of memory" in load(tiny).device.reason and len(calls) == 2
    calls.clear()
    with pytest.raises(ConfigError, match="--device cpu"):
        load(tiny, "cpu")


def test_a_batch_that_does_not_fit_is_halved_to_the_same_images(monkeypatch, tiny):
    model = SuperResolver.from_pretrained(tiny, device="cpu")
    model = SuperResolver(
        model.network, model.config, Device(torch.device("cpu"), torch.float32, "a test"), "tiny"
    )
    faces = list(np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8))
    whole = model.upscale(faces, steps=2, batch=5).images
    run, sizes, room = model._run, [], 2

    def limited(low_res, seeds, settings):
        sizes.append(len(seeds))
        if len(seeds) > room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return run(low_res, seeds, settings)

    monkeypatch.setattr(model, "_run", limited)
    halved = model.upscale(faces, steps=2, batch=5).images
    assert sizes == [5, 2, 3, 1, 2]
    assert np.abs(halved.astype(int) - whole.astype(int)).max() <= 1  # another batch size
    room = 0
    with pytest.raises(ConfigError, match="one image"):
        model.upscale(faces, steps=2)


@pytest.mark.parametrize(("ratio", "precision"), [(2.0, torch.bfloat16), (1.2, torch.float32)])
def test_a_cpu_runs_in_the_precision_that_was_measured_faster(monkeypatch, ratio, precision):
    monkeypatch.setattr("sr3.convolutions.gain_of_bfloat16", lambda: ratio)
    chosen = pick_device("cpu")
    assert chosen.precision == precision and f"{ratio:.2g}x" in chosen.reason
    assert pick_device("cpu") is chosen  # once a process, so that reruns agree


def test_a_process_makes_one_choice_whoever_asks_by_whichever_name(monkeypatch):
    measured = []

    def gain() -> float:
        measured.append(1)
        time.sleep(0.05)  # long enough for all to ask meanwhile
        return 2.0 * len(measured)

    monkeypatch.setattr("sr3.convolutions.gain_of_bfloat16", gain)
    monkeypatch.setattr("sr3.devices._has_cuda", lambda: (False, ""))
    monkeypatch.setattr("sr3.devices._has_mps", lambda: False)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(pick_device, ["auto", "cpu"] * 3))
    assert measured == [1] and all(each is found[0] for each in found)


def test_a_study_depends_on_no_timing(monkeypatch):
    for kind in ("packed", "tiles"):
        cpu = Device(torch.device("cpu"), torch.bfloat16, "why", kind)
        assert exact(cpu) == Device(torch.device("cpu"), torch.float32, "why", "plain")
    gpu = Device(torch.device("cuda"), torch.bfloat16, "why")
    assert exact(gpu) == exact(replace(gpu, graphs=True)) == gpu


def test_the_rows_of_a_table_are_of_float32_on_every_cpu(monkeypatch):
    monkeypatch.setattr("sr3.convolutions.supported", lambda: True)
    monkeypatch.setattr("sr3.convolutions.gain_of_tiles", lambda: 2.0)
    cpu = Device(torch.device("cpu"), torch.bfloat16, "why", "packed")
    found = for_tables(cpu)
    assert found.precision == torch.float32 and found.convolutions == "tiles"
    assert "float32" in found.reason and for_tables(found) is found
    gpu = Device(torch.device("cuda"), torch.bfloat16, "why", graphs=True)
    assert for_tables(gpu) is gpu


def test_the_fast_precision_gives_the_same_picture_within_45_db(tiny):
    model = load(tiny, device="cpu")
    low = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    pictures = [
        SuperResolver(model.network, model.config, Device(torch.device("cpu"), precision, ""))
        .upscale(list(low), steps=5).images[:, 0]
        for precision in (torch.float32, torch.bfloat16)
    ]  # fmt: skip
    assert psnr(*pictures).min() >= AGREES
    assert not np.array_equal(*pictures)  # it did run in another precision
