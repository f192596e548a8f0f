"""Networks mixed in memory are those that a checkpoint folder of the same recipe gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sr3.checkpoints
from sr3.checkpoints import as_parent, save_checkpoint
from sr3.combine import Recipe
from sr3.errors import CheckpointError
from sr3.mixtures import interpolated, spliced
from sr3.pipeline import load
from sr3.presets import MODELS
from sr3.unet import UNet

FACE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """Two untrained networks that differ, registered."""
    monkeypatch.setattr(sr3.checkpoints, "ROOT", tmp_path)
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        network = UNet(MODELS["tiny"].network)
        for weight in network.parameters():  # the last layer is zero at first
            torch.nn.init.normal_(weight, std=0.2)
        save_checkpoint(tmp_path / name, MODELS["tiny"], network.state_dict(), "For a test.")
    rows = [f'[{name}]\ntitle = "{name}"\nsource = "{name}"\n' for name in ("one", "two")]
    (tmp_path / "registry.toml").write_text("".join(rows))
    return load("one", "cpu"), load("two", "cpu")


def drawn(resolver) -> np.ndarray:
    return resolver.upscale([FACE], seed=3, steps=6).images[0, 0]


def kept(folder, kind, **setting):
    parents = as_parent("one", folder / "made"), as_parent("two", folder / "made")
    recipe = Recipe(kind, parents, model=MODELS["tiny"], **setting)
    save_checkpoint(folder / "made", recipe, {}, "For a test.")
    return load(folder / "made", "cpu")


def test_an_interpolation_is_the_folder_s(pair, tmp_path):
    mixed = drawn(interpolated(*pair, 0.3))
    assert np.array_equal(mixed, drawn(kept(tmp_path, "interpolated", weight=0.3)))
    assert not np.array_equal(mixed, drawn(pair[0])) and not np.array_equal(mixed, drawn(pair[1]))


def test_a_splice_is_the_folder_s(pair, tmp_path):
    mixed = drawn(spliced(*pair, 700))
    assert np.array_equal(mixed, drawn(kept(tmp_path, "spliced", step=700)))
    assert not np.array_equal(mixed, drawn(pair[0])) and not np.array_equal(mixed, drawn(pair[1]))


def test_the_ends_are_the_two_themselves_and_neither_is_changed(pair):
    before = [drawn(each) for each in pair]
    assert np.array_equal(drawn(interpolated(*pair, 0.0)), before[0])
    assert np.array_equal(drawn(interpolated(*pair, 1.0)), before[1])
    assert all(np.array_equal(drawn(e), old) for e, old in zip(pair, before, strict=True))


def test_a_wrong_step_is_refused(pair):
    for step in (0, 2000):
        with pytest.raises(CheckpointError, match=r"1\.\.1999"):
            spliced(*pair, step)
