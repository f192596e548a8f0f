"""Checkpoints made of others: against arithmetic done here, and the wrong parents refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import sr3
from sr3 import checkpoints
from sr3.checkpoints import as_parent, load_checkpoint, load_whole
from sr3.cli import app
from sr3.combine import Recipe, Spliced, add_delta, difference, quantize
from sr3.config import ModelConfig
from sr3.errors import CheckpointError, ConfigError
from sr3.folder import hash_of, save_checkpoint, weights_hash
from sr3.presets import MODELS
from sr3.unet import UNet
from tests.outcomes import refusal

CONFIG = MODELS["tiny"]


def weights(seed, like=None):
    """Random weights; near `like` where it is given, as fine-tuned ones are."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = UNet(CONFIG.network)
        torch.nn.init.normal_(network.head.weight, std=0.05)
        values = network.state_dict()
        if like is not None:
            values = {k: like[k] + 0.02 * torch.randn_like(v) for k, v in values.items()}
    return values


@pytest.fixture
def pair(tmp_path):
    """Folders `parent` and `tuned`, in float32."""
    original = weights(0)
    for name, values in (("parent", original), ("tuned", weights(1, original))):
        save_checkpoint(tmp_path / name, CONFIG, values, "# A card\n", torch.float32)
    return tmp_path


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def combine(pair, out, *words):
    done = call("checkpoints", "combine", "--parent", pair / "parent", "--tuned", pair / "tuned",
                "--out", pair / out, *words)  # fmt: skip
    assert done.exit_code == 0, done.output
    return pair / out


def test_two_chains_are_not_combined(pair):
    """A distilled network learnt only the levels of its own chain, which ends elsewhere."""
    other = replace(CONFIG, sampling=replace(CONFIG.sampling, end=CONFIG.sampling.end + 100))
    save_checkpoint(pair / "student", other, weights(2), "# A card\n", torch.float32)
    done = call("checkpoints", "combine", "--parent", pair / "parent", "--tuned", pair / "student",
                "--out", pair / "mixed", "--weight", 0.5)  # fmt: skip
    assert "learnt different chains" in refusal(done) and not (pair / "mixed").exists()


def inputs(batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x_t, condition = (torch.randn(batch, 3, 128, 128, generator=generator) for _ in range(2))
    return x_t, condition.clamp(-1, 1)


# ------------------------------------------------------------------------------------ interpolate
@pytest.mark.parametrize("weight", [0, 0.25, 1, 1.5])
def test_interpolated_weights_are_the_formula(pair, weight):
    out = combine(pair, "mixed", "--weight", weight)
    one, other = (load_file(pair / name / "model.safetensors") for name in ("parent", "tuned"))
    found = load_checkpoint(out)[1].state_dict()
    assert found.keys() == one.keys()
    for name, tensor in found.items():
        if weight in (0, 1):
            assert torch.equal(tensor, (one, other)[weight][name])
        expected = one[name].double() + weight * (other[name].double() - one[name].double())
        assert float((tensor.double() - expected).abs().max()) < 1e-6


def test_no_second_copy_and_loadable_everywhere(pair):
    out = combine(pair, "mixed", "--weight", 0.5)
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "config.json"]
    model = sr3.load(out, "cpu")
    assert model.config == CONFIG
    assert "recipe" not in (out / "README.md").read_text()
    assert call("checkpoints", "verify", out).exit_code == 0
    shown = json.loads(call("checkpoints", "show", out, "--json").stdout)
    assert shown["sha256"] == weights_hash(out) and shown["config"]["weight"] == 0.5


# ------------------------------------------------------------------------------------------ splice
def test_a_splice_is_its_parents_bit_for_bit(pair):
    out = combine(pair, "spliced", "--splice", 500)
    spliced, parent, tuned = (
        sr3.load(path, "cpu") for path in (out, pair / "parent", pair / "tuned")
    )
    x_t, condition = inputs(3)
    for time, owner in ((2000, parent), (501, parent), (500.5, parent), (500, tuned), (1, tuned)):
        level = parent.schedule.level(float(time)).expand(3)
        for kind in (torch.float64, torch.float32):  # both reach the network
            found = spliced.denoise(x_t, condition, level.to(kind))
            assert torch.equal(found, owner.denoise(x_t, condition, level.to(kind))), time
    level = parent.schedule.level(1000.0).expand(3)
    assert not torch.equal(
        parent.denoise(x_t, condition, level), tuned.denoise(x_t, condition, level)
    )


def test_each_image_of_a_batch_has_its_own_side(pair):
    out = combine(pair, "spliced", "--splice", 500)
    spliced, parent, tuned = (
        sr3.load(path, "cpu") for path in (out, pair / "parent", pair / "tuned")
    )
    x_t, condition = inputs(5)
    times = torch.tensor([1500.0, 20.0, 501.0, 500.0, 1.0])
    level = parent.schedule.level(times)
    found = spliced.denoise(x_t, condition, level)
    for k, time in enumerate(times.tolist()):
        owner = tuned if time <= 500 else parent
        alone = owner.denoise(x_t[k : k + 1], condition[k : k + 1], level[k : k + 1])
        assert float((found[k] - alone[0]).abs().max()) < 1e-4  # batch size rounds differently


def test_a_splice_samples_and_cannot_be_tuned_or_interpolated(pair, tmp_path):
    out = combine(pair, "spliced", "--splice", 500)
    assert isinstance(load_checkpoint(out)[1], Spliced)
    image = torch.zeros(16, 16, 3, dtype=torch.uint8).numpy()
    assert sr3.load(out, "cpu").upscale([image], steps=3).images.shape == (1, 1, 128, 128, 3)
    with pytest.raises(CheckpointError, match="spliced of two"):
        load_whole(out)
    done = call("checkpoints", "combine", "--parent", out, "--tuned", pair / "tuned", "--weight",
                0.5, "--out", tmp_path / "new")  # fmt: skip
    assert "spliced" in refusal(done) and not (tmp_path / "new").exists()


# ------------------------------------------------------------------------------------------- delta
def test_a_delta_is_the_tuned_weights_within_its_rounding(pair):
    one, other = (load_file(pair / name / "model.safetensors") for name in ("parent", "tuned"))
    parent = as_parent(str(pair / "parent"), pair / "delta")
    assert parent.name == "../parent"
    recipe = Recipe("delta", (parent,), model=CONFIG)
    save_checkpoint(pair / "delta", recipe, difference(one, other), "# A card\n")
    found = load_checkpoint(pair / "delta")[1].state_dict()
    for name, tensor in found.items():
        change = (other[name].double() - one[name].double()).abs()
        # half a unit in the last of float16's 11 bits, its subnormals' spacing, and float32's own
        allowed = change * 2**-11 + 2**-25 + one[name].double().abs() * 2**-23
        assert bool(((tensor.double() - other[name].double()).abs() <= allowed).all()), name
    assert any(not torch.equal(found[name], other[name]) for name in found)


def test_eight_bits_are_within_half_a_step(pair):
    one, other = (load_file(pair / name / "model.safetensors") for name in ("parent", "tuned"))
    change = {name: (other[name] - one[name]) * 1e-3 for name in one}  # as small as a fine-tune's
    small = quantize({name: tensor.half() for name, tensor in change.items()})
    kernels = {name for name, tensor in small.items() if tensor.dtype == torch.int8}
    assert kernels == {name for name in one if one[name].ndim > 1}
    found = add_delta(
        one, {k: v.half() if v.is_floating_point() else v for k, v in small.items()}, ""
    )
    for name, tensor in found.items():
        error = (tensor.double() - one[name].double() - change[name].double()).abs()
        if name in kernels:
            most = change[name].double().flatten(1).abs().amax(dim=1)
            step = most.view(-1, *[1] * (error.ndim - 1)) / 127
            assert bool((error <= 0.51 * step + 1e-7).all()), name
            assert bool((error > 0.1 * step).any()), "it is rounded"
        else:
            assert float(error.max()) < 1e-6
    with pytest.raises(CheckpointError, match="does not fit its parent"):
        add_delta(one, {k: v for k, v in small.items() if not k.endswith(".scale")}, "it")


def test_a_fine_tune_shrinks_to_half(pair, tmp_path):
    one, other = (load_file(pair / name / "model.safetensors") for name in ("parent", "tuned"))
    recipe = Recipe("delta", (as_parent(str(pair / "parent"), pair / "whole"),), model=CONFIG)
    save_checkpoint(pair / "whole", recipe, difference(one, other), "# A card\n\n## Licence\n")
    out = pair / "deep" / "small"
    done = call("checkpoints", "shrink", pair / "whole", "--out", out)
    assert done.exit_code == 0, done.output
    sizes = [(path / "model.safetensors").stat().st_size for path in (pair / "whole", out)]
    assert sizes[1] < 0.65 * sizes[0], "of this tiny network, much is names"
    large, small = (load_checkpoint(path)[1].state_dict() for path in (pair / "whole", out))
    name = "middle.0.conv1.weight"
    gap = (large[name] - small[name]).abs().max() / (large[name] - one[name]).abs().max()
    assert 0 < gap < 1 / 200
    assert hash_of(pair / "whole")[:12] in (out / "README.md").read_text()
    assert "--parent" in refusal(
        call("checkpoints", "shrink", pair / "parent", "--out", tmp_path / "no")
    )
    assert "exists" in refusal(call("checkpoints", "shrink", pair / "whole", "--out", out))


def test_whole_weights_shrink_to_a_change_of_the_parent_that_is_named(pair, tmp_path):
    out = tmp_path / "small"
    done = call("checkpoints", "shrink", pair / "tuned", "--parent", pair / "parent", "--out", out)
    assert done.exit_code == 0, done.output
    tuned = load_file(pair / "tuned" / "model.safetensors")
    small = load_checkpoint(out)[1].state_dict()
    one = load_file(pair / "parent" / "model.safetensors")
    for name in tuned:
        most = float((tuned[name].float() - one[name].float()).abs().max())
        assert float((small[name] - tuned[name].float()).abs().max()) <= most / 200 + 1e-4, name
    other = pair / "other"
    config = replace(CONFIG, network=replace(CONFIG.network, channels=24))
    save_checkpoint(other, config, UNet(config.network).state_dict(), "# A card\n")
    assert "another network" in refusal(
        call("checkpoints", "shrink", pair / "tuned", "--parent", other, "--out", tmp_path / "no")
    )


def test_factors_are_multiplied(pair):
    one = load_file(pair / "parent" / "model.safetensors")
    left, right = torch.randn(16, 2), torch.randn(2, 16 * 9)
    name = "down.1.conv1.weight"
    assert one[name].shape == (16, 16, 3, 3)
    found = add_delta(one, {name + ".left": left, name + ".right": right}, "it")
    change = (left.double() @ right.double()).reshape(16, 16, 3, 3)
    assert float((found[name].double() - one[name].double() - change).abs().max()) < 1e-5
    assert all(torch.equal(found[k], one[k]) for k in one if k != name)


@pytest.mark.parametrize(
    "delta",
    [
        {"nothing.weight": (3,)},
        {"head.bias": (1,)},  # would broadcast
        {"head.weight.left": (192, 2)},
        {"head.weight.left": (192, 2), "head.weight.right": (3, 144)},
        {"head.weight.left": (144, 2), "head.weight.right": (2, 192)},
    ],
)
def test_a_delta_of_another_network_is_refused(pair, delta):
    one = load_file(pair / "parent" / "model.safetensors")
    assert one["head.weight"].flatten(1).shape == (192, 144)
    with pytest.raises(CheckpointError, match="does not fit its parent"):
        add_delta(one, {name: torch.ones(shape) for name, shape in delta.items()}, "it")


# ---------------------------------------------------------------------------------------- parents
def test_another_parent_is_refused(pair):
    out = combine(pair, "mixed", "--weight", 0.5)
    save_checkpoint(pair / "parent", CONFIG, weights(5), "# Another\n", torch.float32)
    for words in (("verify", out), ("verify", combine_of(pair, out))):
        line = refusal(call("checkpoints", *words))
        assert "hash" in line and "../parent" in line
    shutil.rmtree(pair / "parent")
    assert "not here" in refusal(call("checkpoints", "verify", out))


def combine_of(pair, mixed):
    """A splice with the mixture as one of its parents: a parent's parent counts too."""
    recipe = Recipe("spliced", (as_parent(str(mixed), pair / "x"),) * 2, 9, None, CONFIG)
    save_checkpoint(pair / "x", recipe, {}, "")
    return pair / "x"


def test_the_identity_follows_parents_and_parameter_not_names(pair, monkeypatch):
    hashes = {
        words: hash_of(combine(pair, f"c{k}", *words))
        for k, words in enumerate(
            [("--weight", 0.5), ("--weight", 0.25), ("--splice", 500), ("--splice", 501)]
        )
    }
    assert len(set(hashes.values())) == 4
    entry = checkpoints.RegistryEntry("lite", "Lite", str(pair / "parent"))
    monkeypatch.setattr(checkpoints, "registry", lambda: {"lite": entry})
    named = Recipe(
        "interpolated",
        (as_parent("lite", pair / "n"), as_parent(str(pair / "tuned"), pair / "n")),
        None, 0.5, CONFIG,
    )  # fmt: skip
    assert named.parents[0].name == "lite"
    save_checkpoint(pair / "n", named, {}, "")
    assert hash_of(pair / "n") == hashes["--weight", 0.5]
    assert load_checkpoint(pair / "n")[0] == CONFIG
    save_checkpoint(pair / "tuned", CONFIG, weights(7), "", torch.float32)
    other = hash_of(combine(pair, "later", "--weight", 0.5))
    assert other != hashes["--weight", 0.5]


def test_networks_that_differ_cannot_be_combined(pair, tmp_path):
    plain = ModelConfig(network=CONFIG.network, prediction="eps")
    save_checkpoint(pair / "tuned", plain, weights(1), "", torch.float32)
    done = call("checkpoints", "combine", "--parent", pair / "parent", "--tuned", pair / "tuned",
                "--splice", 5, "--out", tmp_path / "new")  # fmt: skip
    assert "different networks" in refusal(done) and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--splice", 5, "--weight", 0.5),
        ("--splice", 0),
        ("--splice", 2000),
        ("--weight", "nan"),
    ],
)
def test_a_combination_needs_one_sound_parameter(pair, words):
    done = call("checkpoints", "combine", "--parent", pair / "parent", "--tuned", pair / "tuned",
                "--out", pair / "new", *words)  # fmt: skip
    refusal(done)
    assert not (pair / "new").exists()


@pytest.mark.parametrize(
    ("kind", "parents", "step", "weight"),
    [("delta", 2, None, None), ("spliced", 1, 5, None), ("interpolated", 2, None, None),
     ("interpolated", 2, 5, 0.5), ("full", 1, None, None)],
)  # fmt: skip
def test_a_recipe_says_all_that_its_kind_needs(kind, parents, step, weight):
    one = checkpoints.Parent("a", "0" * 64)
    with pytest.raises(ConfigError):
        Recipe(kind, (one, one)[:parents], step, weight, CONFIG)


def test_a_change_of_nothing_is_the_parent(pair):
    recipe = Recipe("delta", (as_parent(str(pair / "parent"), pair / "same"),), model=CONFIG)
    one = load_file(pair / "parent" / "model.safetensors")
    save_checkpoint(pair / "same", recipe, difference(one, one), "")
    found = load_checkpoint(pair / "same")[1].state_dict()
    assert all(torch.equal(found[name], one[name]) for name in one)
