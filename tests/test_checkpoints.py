"""Checkpoint folders: round trips, shards, damage, and what a failed write leaves behind."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from sr3 import checkpoints
from sr3 import folder as folder_format
from sr3.checkpoints import find_checkpoint, load_checkpoint, name_in_tables, registry
from sr3.cli import app
from sr3.combine import Parent, Recipe
from sr3.errors import CheckpointError
from sr3.folder import save_checkpoint, weights_hash
from sr3.presets import MODELS
from sr3.pull import pull
from sr3.unet import UNet
from tests.outcomes import contents

CONFIG = MODELS["tiny"]
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet(CONFIG.network).state_dict()


@pytest.fixture
def folder(tmp_path, weights) -> Path:
    """One file of weights."""
    save_checkpoint(tmp_path / "tiny", CONFIG, weights, "# A card\n")
    return tmp_path / "tiny"


@pytest.fixture
def sharded(tmp_path, weights, monkeypatch) -> Path:
    """The same in shards of at most 100 kB, but for larger tensors."""
    monkeypatch.setattr(folder_format, "SHARD_BYTES", 100_000)
    save_checkpoint(tmp_path / "sharded", CONFIG, weights, "# A card\n")
    return tmp_path / "sharded"


def shards(path: Path) -> list[Path]:
    return sorted(path.glob("model-*.safetensors"))


# ------------------------------------------------------------------------------------ round trips
def test_a_folder_has_the_hubs_shape(folder):
    assert set(contents(folder)) == {"config.json", "model.safetensors", "README.md"}
    assert (folder / "README.md").read_text() == "# A card\n"
    assert json.loads((folder / "config.json").read_text())["network"]["channels"] == 16


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_weights_come_back_in_float32(tmp_path, weights, dtype):
    save_checkpoint(tmp_path / "x", CONFIG, weights, "", dtype)
    config, network = load_checkpoint(tmp_path / "x")
    assert config == CONFIG
    assert not network.training
    found = network.state_dict()
    assert list(found) == list(weights)
    for name, tensor in weights.items():
        assert found[name].dtype == torch.float32 and not found[name].requires_grad
        assert torch.equal(found[name], tensor.to(dtype).float())
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-7)


def test_shards_follow_the_hubs_index(sharded, weights):
    index = json.loads((sharded / INDEX).read_text())
    files = shards(sharded)
    assert len(files) > 1 and not (sharded / "model.safetensors").exists()
    assert [file.name for file in files] == [
        f"model-{k:05}-of-{len(files):05}.safetensors" for k in range(1, len(files) + 1)
    ]
    assert index["metadata"]["total_size"] == sum(2 * tensor.numel() for tensor in weights.values())
    assert set(index["weight_map"]) == set(weights)
    for file in files:
        with safe_open(file, "pt") as opened:
            names = set(opened.keys())
            assert opened.metadata() == {"format": "pt"}
        assert names == {name for name, place in index["weight_map"].items() if place == file.name}
        size = sum(2 * weights[name].numel() for name in names)
        assert size <= 100_000 or len(names) == 1


def test_shards_hold_what_one_file_holds(folder, sharded):
    whole = load_file(folder / "model.safetensors")
    parts: dict[str, Tensor] = {}
    for file in shards(sharded):
        parts |= load_file(file)
    assert set(parts) == set(whole)
    assert all(torch.equal(parts[name], whole[name]) for name in whole)
    ours, theirs = (load_checkpoint(path)[1].state_dict() for path in (folder, sharded))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_largest_published_tensor_fits_a_file_of_10_megabytes():
    assert folder_format.SHARD_BYTES < 10_000_000 - 100_000  # room for the header


# ----------------------------------------------------------------------------------------- damage
def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert path.name in str(caught.value)
    return str(caught.value)


def test_a_folder_without_config_is_refused(folder):
    (folder / "config.json").unlink()
    assert "config.json" in refusal(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"colour": 1}',
        b'{"network": {"chanels": 2}}',
        b'{"network": {"channels": "many"}}',
        b'{"prediction": "score"}',
        b'{"kind": "delta"}',
        b'{"kind": "delta", "parents": [{"name": "lite"}]}',
        b'{"kind": ["delta"]}',
        b'{"kind": "blend", "parents": [], "weight": 0.5}',
    ],
)
def test_a_config_that_cannot_be_used_is_refused(folder, content):
    (folder / "config.json").write_bytes(content)
    assert "config.json" in refusal(folder)
    assert not folder_format.has_files(folder) and checkpoints.missing_parents(folder) == []


def test_an_unknown_setting_is_named(folder):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"colour": "red"}))
    assert "'colour'" in refusal(folder)


def test_a_setting_that_a_recipe_lacks_is_named(folder):
    (folder / "config.json").write_text('{"kind": "delta"}')
    assert "Recipe lacks 'parents': add it." in refusal(folder)


def test_weights_of_another_network_are_refused(folder):
    values = json.loads((folder / "config.json").read_text())
    values["network"]["channels"] = 24
    (folder / "config.json").write_text(json.dumps(values))
    assert "expected" in refusal(folder)


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_weights_are_loaded_strictly(folder, change):
    tensors = load_file(folder / "model.safetensors")
    if change == "missing":
        del tensors["head.bias"]
    elif change == "extra":
        tensors["tail.bias"] = torch.zeros(3)
    else:
        tensors["head.bias"] = tensors["head.bias"][None].contiguous()
    save_file(tensors, folder / "model.safetensors")
    message = refusal(folder)
    assert ("tail.bias" if change == "extra" else "head.bias") in message


def damage(file: Path, how: str) -> None:
    content = file.read_bytes()
    match how:
        case "missing":
            file.unlink()
        case "empty":
            file.write_bytes(b"")
        case "cut":
            file.write_bytes(content[: len(content) // 2])
        case "header":
            file.write_bytes(content[:20] + b"\xff" + content[21:])
        case "longer":
            file.write_bytes(content + b"\0")


DAMAGE = ["missing", "empty", "cut", "header", "longer"]


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_file_is_refused(folder, how):
    damage(folder / "model.safetensors", how)
    assert "missing or damaged" in refusal(folder)


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_shard_is_refused_by_name(sharded, how):
    damage(shards(sharded)[1], how)
    assert shards(sharded)[-1].name.startswith("model-")
    assert "model-00002-of-" in refusal(sharded)


@pytest.mark.parametrize(
    "place", ["../tiny/model.safetensors", "/etc/hostname", "a/../b", "..", "", "x/"]
)
def test_an_index_that_leaves_its_folder_is_refused(sharded, folder, place):
    index = json.loads((sharded / INDEX).read_text())
    index["weight_map"]["head.bias"] = place
    (sharded / INDEX).write_text(json.dumps(index))
    assert "outside its own folder" in refusal(sharded)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"weight_map": 3}',
        b'{"weight_map": {"a": 3}}',
        b'{"weight_map": {"a": 3, "b": "x"}}',
        b'{"weight_map": {"a": []}}',
        b"\xff\xfe",
    ],
)
def test_a_broken_index_is_refused(sharded, content):
    (sharded / INDEX).write_bytes(content)
    assert INDEX in refusal(sharded)


# ---------------------------------------------------------------------------------------- writing
def no_space(*_args, **_settings):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("moment", ["weights", "second shard", "rename"])
def test_a_failed_write_leaves_the_old_folder(folder, weights, monkeypatch, moment):
    before = contents(folder)
    if moment == "weights":
        monkeypatch.setattr(folder_format, "save_file", no_space)
    elif moment == "second shard":
        monkeypatch.setattr(folder_format, "SHARD_BYTES", 10_000)
        saved: list[Path] = []

        def once(tensors, path, **settings):
            saved.append(path)
            return (save_file if len(saved) == 1 else no_space)(tensors, path, **settings)

        monkeypatch.setattr(folder_format, "save_file", once)
    else:
        replace = os.replace

        def refuse(source, target):
            return no_space() if str(source).endswith(".partial") else replace(source, target)

        monkeypatch.setattr(folder_format.os, "replace", refuse)
    with pytest.raises(CheckpointError, match="No space left"):
        save_checkpoint(folder, CONFIG, weights, "another card")
    assert contents(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


@pytest.mark.parametrize("moment", ["weights", "rename"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_write_that_ends_in_any_way_leaves_the_old_folder(
    folder, weights, monkeypatch, moment, error
):
    def end(*_args, **_settings):
        raise error

    def refuse(source, target):
        return end() if str(source).endswith(".partial") else replace(source, target)

    before, replace = contents(folder), os.replace
    if moment == "weights":
        monkeypatch.setattr(folder_format, "save_file", end)
    else:
        monkeypatch.setattr(folder_format.os, "replace", refuse)
    with pytest.raises(error):
        save_checkpoint(folder, CONFIG, weights, "another card")
    assert contents(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


def test_saving_again_replaces_the_whole_folder(folder, weights, monkeypatch):
    monkeypatch.setattr(folder_format, "SHARD_BYTES", 100_000)
    save_checkpoint(folder, CONFIG, weights, "another card")
    assert not (folder / "model.safetensors").exists()  # else two sets of weights
    assert (folder / "README.md").read_text() == "another card"
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]
    load_checkpoint(folder)


def test_what_an_interrupted_write_left_is_cleared(folder, weights):
    partial = folder.with_name("tiny.partial")
    partial.mkdir()
    (partial / "stale").write_text("x")
    save_checkpoint(folder, CONFIG, weights, "")
    assert not partial.exists() and not (folder / "stale").exists()


# --------------------------------------------------------------------------------------- identity
@pytest.mark.parametrize("which", ["folder", "sharded"])
def test_the_hash_changes_with_one_bit(request, which):
    path = request.getfixturevalue(which)
    before = weights_hash(path)
    assert len(before) == 64 and weights_hash(path) == before
    for file in [*path.glob("*.safetensors"), path / "config.json"]:
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        assert weights_hash(path) != before
        content[-1] ^= 1
        file.write_bytes(content)
        assert weights_hash(path) == before
    (path / "README.md").write_text("a better card")
    assert weights_hash(path) == before  # scores may be added later


def test_the_hash_of_a_missing_file_is_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        weights_hash(folder)


# --------------------------------------------------------------------------------------- registry
def test_the_registry_lists_what_is_offered(tmp_path, monkeypatch, folder):
    monkeypatch.setattr(checkpoints, "ROOT", tmp_path)
    (tmp_path / "registry.toml").write_text(
        '[lite]\ntitle = "Lite"\nsource = "tiny"\nimages = 64\nrange = "0:500"\n\n'
        '[far]\ntitle = "Far"\nsource = "elsewhere"\n'
    )
    entries = registry()
    assert list(entries) == ["lite", "far"]
    assert (entries["lite"].images, entries["lite"].range) == (64, "0:500")
    assert entries["far"].parent is None
    assert (entries["lite"].available, entries["far"].available) == (True, False)
    assert entries["lite"].sizes == (16, 128)
    with pytest.raises(CheckpointError, match="elsewhere"):
        _ = entries["far"].sizes
    assert find_checkpoint("lite") == tmp_path / "tiny"
    assert find_checkpoint(str(folder)) == folder
    with pytest.raises(CheckpointError, match="far"):
        find_checkpoint("far")
    with pytest.raises(CheckpointError, match="lite, far"):
        find_checkpoint("lihgt")


def test_a_change_of_the_registry_is_seen(tmp_path):
    file = tmp_path / "registry.toml"
    file.write_text('[lite]\ntitle = "Lite"\nsource = "tiny"\n')
    registry(file).clear()  # what is given out is the caller's own
    assert list(registry(file)) == ["lite"]
    file.write_text('[lite]\ntitle = "Lite"\nsource = "tiny"\n[far]\ntitle = "Far"\nsource = "x"\n')
    assert list(registry(file)) == ["lite", "far"]
    times = file.stat().st_mtime_ns
    file.write_text(file.read_text().replace("far", "fur"))  # as long as before, and as old
    os.utime(file, ns=(times, times))
    assert list(registry(file)) == ["lite", "fur"]
    file.write_text("[lite")
    with pytest.raises(CheckpointError, match="not a valid registry"):
        registry(file)
    file.unlink()
    assert registry(file) == {}


def test_a_checkpoint_made_of_itself_is_never_complete(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_checkpoint(Path("ring"), Recipe("delta", (Parent("../ring", "0" * 64),)), {}, "")
    assert checkpoints.missing_parents(Path("ring")) == ["../ring"]
    for name, parent in (("one", "../two"), ("two", "../one")):
        save_checkpoint(Path(name), Recipe("delta", (Parent(parent, "0" * 64),)), {}, "")
    assert checkpoints.missing_parents(Path("one")) == ["../one"]


def test_without_a_registry_nothing_is_offered(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "ROOT", tmp_path)
    assert registry() == {}
    with pytest.raises(CheckpointError, match="none registered"):
        find_checkpoint("lite")


def test_a_registry_that_is_no_toml_is_refused(tmp_path):
    (tmp_path / "registry.toml").write_text("[")
    with pytest.raises(CheckpointError, match="registry"):
        registry(tmp_path / "registry.toml")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ('title = "no source"', "source"),
        ('title = "a"\nsource = "b"\ncolour = "red"', "colour"),
        ('title = "a"\nsource = "hub:lab/x@main"', "40 hex digits"),
        ('title = "a"\nsource = 3', "source"),
        ('title = "a"\nsource = "b"\nimages = "many"', "images"),
        ('title = "a"\nsource = "b"\nfiles = { "../x" = "0" }', r"\.\./x"),
    ],
)
def test_a_broken_entry_says_so_and_the_others_serve(tmp_path, monkeypatch, folder, values, told):
    monkeypatch.setattr(checkpoints, "ROOT", tmp_path)
    good = '[good]\ntitle = "Good"\nsource = "tiny"\n'
    (tmp_path / "registry.toml").write_text(f"[bad]\n{values}\n\n{good}")
    entries = registry()
    assert re.search(rf"\[bad\].*{told}", entries["bad"].problem)
    assert not entries["bad"].available and entries["bad"].pin is None
    assert not entries["good"].problem and find_checkpoint("good") == tmp_path / "tiny"
    with pytest.raises(CheckpointError, match=r"\[bad\]"):
        find_checkpoint("bad")
    with pytest.raises(CheckpointError, match=r"\[bad\]"):
        list(pull("bad"))
    listed = CliRunner().invoke(app, ["checkpoints", "list"])
    assert listed.exit_code == 0 and "[bad]" in listed.stdout and "[here]" in listed.stdout


HUB = "hub:org/name@" + "a" * 40


def test_tables_call_a_checkpoint_by_one_name(tmp_path, monkeypatch):
    """However it was spelt; and runs, all of whose folders are called alike, by their own names."""
    for folder in ("here/lite", "runs/mine/checkpoint", "runs/mine/step-000010", "others"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(checkpoints, "ROOT", tmp_path / "here")
    (tmp_path / "here" / "registry.toml").write_text('[small]\ntitle = "S"\nsource = "lite"\n')
    monkeypatch.chdir(tmp_path / "runs")
    for spelt, known in {
        "small": "small", "../here/lite": "small", str(tmp_path / "here" / "lite"): "small",
        "mine/checkpoint": "mine", "../runs/mine/checkpoint/": "mine", "../others": "others",
        "mine/step-000010": "mine/step-000010", HUB: HUB,
    }.items():  # fmt: skip
        assert name_in_tables(spelt) == known
