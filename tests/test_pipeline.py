"""Image in, steps out: streamed and one-shot results agree, and nothing leaks while paused."""

from __future__ import annotations

import dataclasses
import gc
import math
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sr3
from sr3.config import SamplerConfig
from sr3.devices import Device
from sr3.errors import CheckpointError, ConfigError, ImageError, SR3Error
from sr3.folder import save_checkpoint
from sr3.images import degrade, enlarge, to_tensor, to_uint8
from sr3.pipeline import SuperResolver, load
from sr3.presets import MODELS
from sr3.samplers import reduction_matrix
from sr3.unet import UNet

CONFIG = MODELS["tiny"]
EXACT = Device(torch.device("cpu"), torch.float32, "for the tests")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A checkpoint of the `tiny` preset with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = UNet(CONFIG.network).state_dict()
    path = tmp_path_factory.mktemp("checkpoints") / "tiny"
    save_checkpoint(path, CONFIG, weights, "# tiny\n")
    return path


@pytest.fixture(scope="module")
def resolver(folder) -> SuperResolver:
    """It, in float32 whatever is fastest here."""
    made = load(folder, device="cpu")
    return SuperResolver(made.network, made.config, EXACT, "tiny")


def images(count: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


# ----------------------------------------------------------------------------- stream and upscale
@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpmpp"])
@pytest.mark.parametrize("start", [2000, 700])
def test_the_last_step_of_a_stream_is_the_upscaled_image(resolver, sampler, start):
    image = images(1)[0]
    changes = {"sampler": sampler, "start": start, "steps": 4}
    changes |= {"eta": 0.5} if sampler == "ddim" else {}
    *_, last = resolver.stream(image, seed=3, samples=2, **changes)
    result = resolver.upscale([image], seed=3, samples=2, **changes)
    assert np.array_equal(to_uint8(last.x0), result.images[0])
    assert result.images.shape == (1, 2, 128, 128, 3)
    assert not np.array_equal(result.images[0, 0], result.images[0, 1])


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpmpp"])
@pytest.mark.parametrize("steps", [1, 6])
def test_steps_keep_their_contract(resolver, sampler, steps):
    made = list(resolver.stream(images(1)[0], sampler=sampler, steps=steps, samples=2))
    assert [step.index for step in made] == list(range(steps + 1))
    assert [step.total for step in made] == [steps] * (steps + 1)
    assert [step.evaluations for step in made] == [*range(1, steps + 1), steps]
    assert [step.final for step in made] == [False] * steps + [True]
    levels = [step.noise_level for step in made]
    assert levels == sorted(set(levels)) and levels[-1] == 1
    expected = resolver.schedule.levels(
        steps, "log_snr", CONFIG.sampling.start, CONFIG.sampling.end
    )
    np.testing.assert_allclose(levels, expected.tolist(), rtol=1e-12)
    for step in made:
        assert step.x_t.shape == step.x0.shape == (2, 3, 128, 128)
        assert step.x_t.dtype == step.x0.dtype == torch.float32
        assert not step.x0.requires_grad
        with pytest.raises(dataclasses.FrozenInstanceError):
            step.index = 0
    assert torch.equal(made[-1].x_t, made[-1].x0)
    assert torch.equal(made[-1].x0, made[-2].x0)  # the result is the last estimate


def test_every_estimate_is_the_refined_one(resolver):
    image = images(1)[0]
    reduce = reduction_matrix(128, 16).float()
    for step in resolver.stream(image, steps=3, consistency=True):
        reduced = reduce @ step.x0 @ reduce.T
        assert float((reduced - to_tensor(image[None])).abs().max()) < 1e-5
    for step in resolver.stream(image, steps=3, consistency=False, clamp=True):
        assert float(step.x0.abs().max()) <= 1
    plain = next(iter(resolver.stream(image, steps=3, consistency=False, clamp=False)))
    condition = to_tensor(enlarge(image[None]))
    asked = resolver.denoise(plain.x_t, condition, torch.tensor([plain.noise_level]).double())
    assert float((asked - plain.x0).abs().max()) < 1e-5


def test_a_stream_keeps_its_past_unchanged(resolver):
    kept = [
        (tensor, tensor.clone())
        for step in resolver.stream(images(1)[0], steps=4, sampler="ancestral")
        for tensor in (step.x_t, step.x0)
    ]
    assert all(torch.equal(tensor, copy) for tensor, copy in kept)


@pytest.mark.parametrize("enabled", [True, False])
def test_grad_mode_is_left_alone_while_a_stream_is_paused(resolver, enabled):
    with torch.set_grad_enabled(enabled):
        stream = resolver.stream(images(1)[0], steps=3)
        assert torch.is_grad_enabled() is enabled
        for _ in stream:
            assert torch.is_grad_enabled() is enabled
        assert torch.is_grad_enabled() is enabled
        stream = resolver.stream(images(1)[0], steps=3)
        next(iter(stream))
        del stream  # abandoned
        gc.collect()
        assert torch.is_grad_enabled() is enabled


@pytest.mark.parametrize("taken", [1, 3, 4])
def test_an_abandoned_stream_frees_what_it_held(resolver, taken):
    stream = iter(resolver.stream(images(1)[0], steps=3))
    refs = []
    for _ in range(taken):
        step = next(stream)
        refs += [weakref.ref(step.x_t), weakref.ref(step.x0)]
    del step
    gc.collect()
    assert refs[-1]() is not None  # the paused chain still needs it
    del stream
    gc.collect()
    assert [ref() for ref in refs] == [None] * len(refs)


def test_a_stream_holds_no_past(resolver):
    stream = iter(resolver.stream(images(1)[0], steps=8, sampler="ddim"))
    step = next(stream)
    first = weakref.ref(step.x_t)
    for _ in range(4):
        step = next(stream)
    gc.collect()
    assert step.index == 4 and first() is None


# ---------------------------------------------------------------------------------------- batches
def test_a_seed_gives_the_same_image_in_any_batch(resolver):
    faces = images(5)
    alone = resolver.upscale(faces, seed=5, batch=1, steps=3, sampler="ancestral")
    for batch in (2, 5):
        together = resolver.upscale(faces, seed=5, batch=batch, steps=3, sampler="ancestral")
        gap = np.abs(together.images.astype(int) - alone.images.astype(int))
        assert gap.max() <= 1
    last = resolver.upscale(faces[4:], seed=5, steps=3, sampler="ancestral")
    assert np.abs(last.images[0].astype(int) - alone.images[4].astype(int)).max() <= 1


def test_results_are_in_order_of_image_then_sample(resolver):
    faces = images(3)
    result = resolver.upscale(faces, seed=1, samples=2, batch=4, steps=2)
    assert result.images.shape == (3, 2, 128, 128, 3)
    for k in range(3):
        alone = resolver.upscale([faces[k]], seed=1, samples=2, steps=2)
        assert np.abs(alone.images[0].astype(int) - result.images[k].astype(int)).max() <= 1


def test_seeds_differ(resolver):
    face = images(1)
    one, two = (resolver.upscale(face, seed=seed, steps=2).images for seed in (1, 2))
    assert np.abs(one.astype(int) - two.astype(int)).max() > 1


def test_a_result_says_how_it_was_made(resolver):
    large = images(2, 128)
    result = resolver.upscale([Image.fromarray(large[0]), large[1]], seed=9, steps=2, eta=0.25)
    assert np.array_equal(result.low_res, degrade(large))
    assert np.array_equal(result.condition, enlarge(degrade(large)))
    assert result.settings == dataclasses.replace(CONFIG.sampling, steps=2, eta=0.25)
    assert (result.checkpoint, result.seed) == ("tiny", 9)
    assert result.images.dtype == np.uint8
    assert result.seconds > 0


# ---------------------------------------------------------------------------------------- denoise
@pytest.mark.parametrize("enabled", [True, False])
def test_denoise_keeps_its_contract(resolver, enabled):
    generator = torch.Generator().manual_seed(0)
    x_t = torch.randn(3, 3, 128, 128, generator=generator)
    condition = torch.rand(3, 3, 128, 128, generator=generator) * 2 - 1
    level = torch.tensor([0.99, 0.5, 0.01], dtype=torch.float64)
    with torch.set_grad_enabled(enabled):
        together = resolver.denoise(x_t, condition, level)
        assert torch.is_grad_enabled() is enabled
    assert together.shape == x_t.shape and together.dtype == torch.float32
    assert not together.requires_grad
    for k in range(3):
        alone = resolver.denoise(x_t[k : k + 1], condition[k : k + 1], level[k : k + 1])
        assert float((alone - together[k : k + 1]).abs().max()) < 1e-5


@pytest.mark.parametrize(
    ("level", "told"),
    [([0.0, 0.5], "got 0, 0.5"), ([1.5, 0.5], "at most 1"), ([math.nan, 0.5], "got nan"),
     ([0.5], r"\(2,\); got shape \(1,\)"), ([[0.5, 0.5]], "one level an image")],
)  # fmt: skip
def test_denoise_refuses_levels_that_are_none(resolver, level, told):
    x_t = torch.zeros(2, 3, 128, 128)
    with pytest.raises(ConfigError, match=told):
        resolver.denoise(x_t, x_t, torch.tensor(level))


def test_denoise_refuses_a_condition_of_another_shape(resolver):
    with pytest.raises(ConfigError, match="one shape"):
        resolver.denoise(
            torch.zeros(1, 3, 128, 128), torch.zeros(1, 3, 16, 16), torch.tensor([0.5])
        )


def test_denoise_does_not_clamp(resolver):
    image = torch.full((1, 3, 128, 128), 3.0)  # the residual of a network is added to it
    assert float(resolver.denoise(image, image, torch.tensor([0.9])).max()) > 1.5


def test_the_network_is_never_switched(resolver):
    before = {name: tensor.clone() for name, tensor in resolver.network.state_dict().items()}
    resolver.upscale(images(1), steps=2)
    assert not resolver.network.training
    after = resolver.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


# ---------------------------------------------------------------------------------------- loading
def test_load_is_public_and_reads_folders_by_text_or_path(folder):
    for name in (folder, str(folder)):
        made = sr3.load(name, device="cpu")
        assert made.config == CONFIG
        assert (made.low_size, made.high_size) == (16, 128)
        assert made.name == str(name)


def test_load_refuses_what_is_not_there(tmp_path):
    with pytest.raises(CheckpointError, match="nothing-here"):
        sr3.load(tmp_path / "nothing-here", device="cpu")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        sr3.load(tmp_path, device="cpu")


def test_load_refuses_a_device_that_is_not_there(folder):
    with pytest.raises(ConfigError, match="no-such-device"):
        sr3.load(folder, device="no-such-device")


# ----------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    "image",
    [
        np.zeros((16, 20, 3), np.uint8),
        np.zeros((128, 100, 3), np.uint8),
        np.zeros((16, 16, 3), np.float32),
        np.zeros((16, 16, 3), np.int64),
        np.zeros((16, 16, 4), np.uint8),
        np.zeros((16, 16), np.uint8),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((0, 0, 3), np.uint8),
        Image.new("L", (16, 16)),
        Image.new("RGBA", (16, 16)),
        Image.new("RGB", (15, 16)),
    ],
    ids=[
        *("wide", "tall", "float", "int64", "alpha", "grey", "8px", "empty"),
        *("pil-grey", "pil-alpha", "pil-narrow"),
    ],
)
def test_a_wrong_image_is_refused_at_once(resolver, image):
    with pytest.raises(ImageError):
        resolver.upscale([image])
    with pytest.raises(ImageError):
        resolver.stream(image)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"colour": "red"}, "colour"),
        ({"sampler": "euler"}, "euler"),
        ({"spacing": "even"}, "even"),
        ({"steps": 0}, "steps"),
        ({"start": 2001}, "2001"),
        ({"start": 0}, "start"),
        ({"start": 3, "end": 7}, "start"),
        ({"eta": -0.1}, "eta"),
    ],
)
def test_a_wrong_setting_is_refused_at_once(resolver, changes, names):
    with pytest.raises(ConfigError, match=names):
        resolver.stream(images(1)[0], **changes)
    with pytest.raises(ConfigError, match=names):
        resolver.upscale(images(1), **changes)


@pytest.mark.parametrize("changes", [{"samples": 0}, {"batch": 0}, {"samples": -1}])
def test_no_samples_are_refused(resolver, changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        resolver.upscale(images(1), **changes)


def test_no_images_are_refused(resolver):
    with pytest.raises(SR3Error):
        resolver.upscale([])


@pytest.mark.parametrize("changes", [{"samples": 0}, {"seed": -1}])
def test_a_stream_refuses_no_samples_and_a_negative_seed(resolver, changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        resolver.stream(images(1)[0], **changes)


def test_none_leaves_a_setting_as_recommended(resolver):
    assert resolver.settings(steps=None, sampler=None) == CONFIG.sampling
    assert resolver.settings(steps=3) == dataclasses.replace(CONFIG.sampling, steps=3)
    assert isinstance(resolver.settings(), SamplerConfig)
