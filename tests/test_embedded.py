"""The checkpoints of this repository: each is the registered one, and `lite` resolves a face."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from sr3.checkpoints import find_checkpoint, load_checkpoint, registry
from sr3.devices import exact, pick_device
from sr3.images import degrade, enlarge
from sr3.metrics import psnr, ssim
from sr3.pipeline import SuperResolver

HERE = [name for name, entry in registry().items() if entry.available]
FACE = (136, 17, 315, 196)  # the astronaut's, by FFHQ's rule (tests/test_faces.py)


def test_the_default_checkpoint_is_here():
    assert "lite" in HERE


@pytest.mark.parametrize("name", HERE)
def test_every_checkpoint_here_is_the_registered_one_and_loads(name):
    assert registry()[name].sha256
    _, network = load_checkpoint(find_checkpoint(name))  # checks the hash
    tensors = list(network.state_dict().values())
    assert tensors and all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def test_lite_resolves_a_face_better_than_bicubic():
    whole = Image.fromarray(skimage.data.astronaut())
    face = np.asarray(whole.crop(FACE).resize((128, 128), Image.Resampling.BICUBIC))[None]
    config, network = load_checkpoint(find_checkpoint("lite"))
    model = SuperResolver(network, config, exact(pick_device("cpu")))
    result, again = (model.upscale(list(face)) for _ in range(2))
    assert config.sampling.steps == 10
    drawn = result.images[:, 0]
    assert np.array_equal(drawn, again.images[:, 0]), "the same seed gives the same bits"
    low = degrade(face)
    bicubic = enlarge(low)
    assert psnr(drawn, face)[0] > psnr(bicubic, face)[0]
    assert ssim(drawn, face)[0] > ssim(bicubic, face)[0]
    shift = drawn.mean(axis=(1, 2), dtype=float) - low.mean(axis=(1, 2), dtype=float)
    assert np.abs(shift).max() < 1, "no colour moves by a level of 255"
