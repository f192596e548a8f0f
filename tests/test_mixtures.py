"""Networks mixed live are those of a checkpoint folder of the same recipe, and on the shelf."""

from __future__ import annotations

import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

import sr3.checkpoints
from sr3.checkpoints import as_parent
from sr3.combine import Recipe
from sr3.errors import CheckpointError, ConfigError
from sr3.folder import save_checkpoint
from sr3.pipeline import load
from sr3.presets import MODELS
from sr3.shelf import Shelf, bytes_of
from sr3.unet import UNet
from tests.test_shelf import EXACT, ONE

FACE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A shelf over two untrained networks that differ, registered."""
    monkeypatch.setattr(sr3.checkpoints, "ROOT", tmp_path)
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        network = UNet(MODELS["tiny"].network)
        for weight in network.parameters():  # the last layer is zero at first
            torch.nn.init.normal_(weight, std=0.2)
        save_checkpoint(tmp_path / name, MODELS["tiny"], network.state_dict(), "For a test.")
    rows = [f'[{name}]\ntitle = "{name}"\nsource = "{name}"\n' for name in ("one", "two")]
    (tmp_path / "registry.toml").write_text("".join(rows))
    full = Shelf(100 * ONE, "cpu")
    full.device = EXACT
    return full


def drawn(resolver) -> np.ndarray:
    return resolver.upscale([FACE], seed=3, steps=3).images[0, 0]


def mixture(shelf, weight):
    return shelf.mixture("interpolated", "one", "two", weight)


def kept(folder, kind, **setting):
    parents = as_parent("one", folder / "made"), as_parent("two", folder / "made")
    recipe = Recipe(kind, parents, model=MODELS["tiny"], **setting)
    save_checkpoint(folder / "made", recipe, {}, "For a test.")
    found = load(folder / "made", "cpu")
    found.device = EXACT  # as the shelf's, whatever is fastest here
    return found


def test_an_interpolation_is_the_folder_s(shelf, tmp_path):
    mixed = drawn(mixture(shelf, 0.3))
    assert np.array_equal(mixed, drawn(kept(tmp_path, "interpolated", weight=0.3)))
    assert not any(np.array_equal(mixed, drawn(shelf.get(name))) for name in ("one", "two"))


def test_a_splice_is_the_folder_s(shelf, tmp_path):
    mixed = drawn(shelf.mixture("spliced", "one", "two", 700))
    assert np.array_equal(mixed, drawn(kept(tmp_path, "spliced", step=700)))
    assert not any(np.array_equal(mixed, drawn(shelf.get(name))) for name in ("one", "two"))


def test_the_ends_are_the_two_themselves_and_neither_is_changed(shelf):
    before = {name: drawn(shelf.get(name)) for name in ("one", "two")}
    for weight, name in ((0.0, "one"), (1.0, "two")):
        assert np.array_equal(drawn(mixture(shelf, weight)), before[name])
    assert shelf.bytes == 2 * ONE  # no copy
    drawn(mixture(shelf, 0.5))
    assert all(np.array_equal(drawn(shelf.get(name)), old) for name, old in before.items())


def test_mixtures_count_and_leave_like_the_rest(shelf):
    shelf.limit = 4 * ONE
    mixed = [mixture(shelf, k / 10) for k in range(1, 6)]
    assert shelf.bytes == 0
    first = weakref.ref(mixed[0].network)
    weights = {name: weight.clone() for name, weight in mixed[0].network.state_dict().items()}
    assert shelf.bytes == 3 * ONE
    for each in mixed[1:]:
        assert each.network is shelf.network(shelf.held[-1])
        assert shelf.bytes <= shelf.limit
    assert shelf.releases > 0 and first() is None  # whoever has a resolver holds no weights
    again = mixed[0].network.state_dict()
    assert all(torch.equal(again[name], weight) for name, weight in weights.items())


def test_a_splice_shares_its_parents_also_after_they_left(shelf):
    shelf.limit = 2 * ONE
    mixed = shelf.mixture("spliced", "one", "two", 500)
    for _ in range(2):
        one, two = mixed.network.parts
        assert shelf.bytes == bytes_of([mixed.network]) == 2 * ONE
        assert shelf.get("one").network is one and shelf.get("two").network is two
        assert mixture(shelf, 0.5).network is not None  # takes the room of one
        assert shelf.bytes <= shelf.limit
        del one, two


def test_splices_cost_nothing_and_are_bounded_all_the_same(shelf, monkeypatch):
    monkeypatch.setattr("sr3.shelf.MOST", 5)
    for step in range(100, 1000, 100):
        assert shelf.mixture("spliced", "one", "two", step).network is not None
    assert len(shelf.held) == 5 and shelf.bytes == 2 * ONE


def test_what_is_in_memory_is_not_read_again(shelf, monkeypatch):
    parts = [shelf.get(name).network for name in ("one", "two")]
    monkeypatch.setattr(sr3.checkpoints, "read_weights", lambda path: pytest.fail(f"read {path}"))
    assert mixture(shelf, 0.4).network is mixture(shelf, 0.4).network
    assert shelf.mixture("spliced", "one", "two", 400).network.parts == tuple(parts)
    assert shelf.bytes == 3 * ONE


def test_what_cannot_be_mixed_is_refused(shelf, tmp_path):
    for step in (0, 2000):
        with pytest.raises(ConfigError, match=r"1\.\.1999"):
            shelf.mixture("spliced", "one", "two", step)
    other = replace(MODELS["tiny"], prediction="v")
    save_checkpoint(tmp_path / "other", other, UNet(other.network).state_dict(), "For a test.")
    with pytest.raises(CheckpointError, match=r"one and .*other are different networks: choose"):
        shelf.mixture("spliced", "one", str(tmp_path / "other"), 500)
    mixed = mixture(shelf, 0.5)
    save_checkpoint(tmp_path / "two", other, UNet(other.network).state_dict(), "Another one.")
    with pytest.raises(CheckpointError, match=r"the mixture is made of .*two with hash .* anew"):
        drawn(mixed)
