"""The shelf: what is shared is in memory once, what is least used leaves, and the bits stay."""

from __future__ import annotations

import threading
import weakref

import numpy as np
import pytest
import torch

from sr3.checkpoints import load_checkpoint
from sr3.combine import Parent, Recipe, Spliced, difference
from sr3.devices import Device
from sr3.engine import Engine
from sr3.errors import CheckpointError
from sr3.folder import hash_of, save_checkpoint
from sr3.pipeline import SuperResolver
from sr3.presets import MODELS
from sr3.shelf import Shelf, bytes_of
from sr3.unet import UNet

CONFIG = MODELS["tiny"]
ONE = sum(4 * p.numel() for p in UNet(CONFIG.network).parameters())  # bytes of a network
GREY = np.full((16, 16, 3), 128, np.uint8)
EXACT = Device(torch.device("cpu"), torch.float32, "for the tests")


@pytest.fixture
def folder(tmp_path):
    """`a`, `b`, `c` whole; `patched` = a with another head; `spliced` of a and b; `blend` of a and
    `patched`; `half` of a and b."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        nets = {name: UNet(CONFIG.network).state_dict() for name in "abc"}
    for name, values in nets.items():
        save_checkpoint(tmp_path / name, CONFIG, values, "# A card\n", torch.float32)
    patched = nets["a"] | {"head.weight": nets["b"]["head.weight"]}
    a, b = (Parent(f"../{name}", hash_of(tmp_path / name)) for name in "ab")
    change = difference(nets["a"], patched)
    save_checkpoint(tmp_path / "patched", Recipe("delta", (a,), model=CONFIG), change, "# A card\n")
    p = Parent("../patched", hash_of(tmp_path / "patched"))
    recipes = {
        "spliced": Recipe("spliced", (a, b), step=500, model=CONFIG),
        "blend": Recipe("interpolated", (a, p), weight=0.5, model=CONFIG),
        "half": Recipe("interpolated", (a, b), weight=0.5, model=CONFIG),
        "whole": Recipe("interpolated", (a, b), weight=1.0, model=CONFIG),
    }
    for name, recipe in recipes.items():
        save_checkpoint(tmp_path / name, recipe, {}, "# A card\n")
    return tmp_path


def shelf(networks: float = 100) -> Shelf:
    made = Shelf(int(networks * ONE), "cpu")
    made.device = EXACT
    return made


def picture(resolver) -> np.ndarray:
    return resolver.upscale([GREY], steps=3).images


def test_nothing_is_read_before_it_is_used(folder):
    full = shelf()
    resolver = full.get(folder / "a")
    assert (full.bytes, full.held, resolver.low_size) == (0, [], 16)
    picture(resolver)
    assert full.bytes == ONE and full.held == [folder / "a"]


@pytest.mark.parametrize("name", ["a", "patched", "spliced", "blend", "half", "whole"])
def test_the_bits_are_those_of_loading_the_folder(folder, name):
    config, network = load_checkpoint(folder / name)
    expected = picture(SuperResolver(network, config, EXACT))
    full = shelf()
    assert np.array_equal(picture(full.get(folder / name)), expected)


@pytest.mark.parametrize(
    ("names", "networks"),
    [("a spliced", 2), ("a b spliced", 2), ("a b whole", 2), ("a b half", 3), ("a c", 2)],
)
def test_what_can_be_shared_is_there_once(folder, names, networks):
    full = shelf()
    for name in names.split():
        picture(full.get(folder / name))
    assert full.bytes == networks * ONE


def test_a_small_change_and_a_blend_cost_what_they_change(folder):
    full = shelf()
    for name in ("a", "patched", "blend"):
        picture(full.get(folder / name))
    head = 4 * full.network(folder / "a").head.weight.numel()
    assert full.bytes == ONE + 2 * head


def test_the_least_recently_used_leaves_and_comes_back(folder):
    full = shelf(2)
    a, b, c = (full.get(folder / name) for name in "abc")
    first = picture(a)
    picture(b)
    picture(a)
    picture(c)
    assert full.held == [folder / "a", folder / "c"] and full.releases == 1
    assert full.bytes <= full.limit
    assert np.array_equal(picture(a), first)
    picture(b)
    assert full.held == [folder / "a", folder / "b"] and full.bytes <= full.limit


def test_a_released_network_is_gone_from_memory(folder):
    full = shelf(1)
    a, b = full.get(folder / "a"), full.get(folder / "b")
    gone = weakref.ref(full.network(folder / "a"))
    picture(b)
    assert gone() is None and a.low_size == 16


def test_a_splice_keeps_its_parents(folder):
    full = shelf(2)
    spliced = full.get(folder / "spliced")
    picture(spliced)
    assert full.bytes == 2 * ONE
    picture(full.get(folder / "c"))  # needs the room of one of them: the splice goes with it
    assert folder / "spliced" not in full.held and full.bytes <= full.limit
    assert isinstance(spliced.network, Spliced)
    assert full.bytes == bytes_of([spliced.network]) == 2 * ONE


def test_one_over_the_limit_is_kept(folder):
    full = shelf(0.5)
    picture(full.get(folder / "a"))
    assert full.held == [folder / "a"]
    picture(full.get(folder / "b"))
    assert full.held == [folder / "b"]


def test_threads_load_a_network_once(folder, monkeypatch):
    loads = []
    original = Shelf._load
    monkeypatch.setattr(Shelf, "_load", lambda self, p: (loads.append(p), original(self, p))[1])
    full = shelf()
    threads = [threading.Thread(target=full.network, args=(folder / "a",)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loads == [folder / "a"]


def test_what_is_not_there_is_said(folder):
    full = shelf()
    with pytest.raises(CheckpointError, match="nothing"):
        full.get(folder / "nothing")
    with pytest.raises(AttributeError):
        _ = full.get(folder / "a").nothing


def test_jobs_of_a_splice_and_its_parents_through_the_engine(folder):
    """More checkpoints than fit, at once: all end, each with its own picture."""
    full = shelf(2)
    names = ("a", "b", "spliced", "c")
    expected = {name: picture(full.get(folder / name))[0, 0] for name in names}
    engine = Engine()
    try:
        jobs = {}
        for name in names:
            resolver = full.get(folder / name)
            settings = resolver.settings(steps=3)
            jobs[name] = engine.submit(resolver, GREY, settings, visitor=name)
        for name, job in jobs.items():
            assert job.wait(30) and job.status == "done", job.error
            assert np.abs(job.result.astype(int) - expected[name].astype(int)).max() <= 1
    finally:
        engine.close()
