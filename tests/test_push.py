"""To the Hub and back: checkpoints, cards, measurements and data sets, on a Hub on the loopback."""

# ruff: noqa: F811 (pytest's fixtures are arguments of the same name)
from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from typer.testing import CliRunner

import sr3
from sr3 import checkpoints, domains, pretrained, results
from sr3.cards import CHANGE_ALONE
from sr3.checkpoints import as_parent
from sr3.cli import app
from sr3.combine import Recipe, difference
from sr3.domains import load_domain
from sr3.errors import CheckpointError, DomainError, HubError
from sr3.folder import COLOURS, save_checkpoint, weight_files, weights_hash
from sr3.pins import Pin, parse_pin
from sr3.presets import MODELS
from sr3.pull import pull
from sr3.push import pull_metrics, push_checkpoint, push_metrics, registry_text
from sr3.unet import UNet
from tests.loopback_hub import TOKEN, sha256
from tests.test_hub import drain, folder, server  # noqa: F401

# The client's own upload uses what its HTTP library deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
GREY = np.full((16, 16, 3), 128, np.uint8)
REPO = "lab/pushed"
CARD = f"# Tuned\n\ntiny, fine-tuned: {CHANGE_ALONE}\n\n| `rank` | 4 |\n"


@pytest.fixture
def account(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return server


@pytest.fixture
def delta(folder, tmp_path):
    """A fine-tuned checkpoint beside its parent."""
    torch.manual_seed(1)
    parent = sr3.load(folder, "cpu").network.state_dict()
    tuned = {name: value + 0.01 * torch.randn_like(value) for name, value in parent.items()}
    out = tmp_path / "tuned"
    recipe = Recipe("delta", (as_parent(str(folder), out),), model=MODELS["tiny"])
    save_checkpoint(out, recipe, difference(parent, tuned), CARD)
    return out


def row(digest: str, value: float, **changes) -> dict:
    return {
        "checkpoint": "tiny", "domain": "anime", "image": "a", "seed": 0, "metric": "psnr",
        "value": value, "sampler": "ddim", "steps": 10, "code_commit": "c" * 40,
        "checkpoint_hash": digest, "file_list_hash": "f" * 64,
    } | changes  # fmt: skip


def test_a_card_says_what_the_table_holds_of_its_hash(folder, tmp_path):
    digest = weights_hash(folder)
    blank = "## Measured\n\n| | |\n|---|---|\n| All | unmeasured |\n\n"
    partly = (
        "## Measured on validation images\n\n| | |\n|---|---|\n| a | 2 |\n| b | unmeasured |\n\n"
    )
    card = f"---\nlicense: other\n---\n\n# Tiny\n\n{blank}{partly}## Licence\n\nFree.\n"
    (folder / "README.md").write_text(card)
    results.append([row("f" * 64, 9.0)], tmp_path / "table")
    words = ("checkpoints", "cards", str(folder), "--folder", str(tmp_path / "table"))
    assert call(*words).exit_code == 0
    assert (folder / "README.md").read_text() == card, "nothing of this hash"
    results.append([row(digest, 20.0), row(digest, 30.0, image="b")], tmp_path / "table")
    assert call(*words).exit_code == 0 and weights_hash(folder) == digest
    filled = (folder / "README.md").read_text()
    assert filled.startswith("---\nlicense: other\n---\n\n# Tiny") and blank not in filled
    assert partly in filled and filled.endswith("## Licence\n\nFree.\n")
    assert "| anime | PSNR (dB) ↑ | 25.0000 |" in filled and "9.0000" not in filled
    results.append([row(digest, 40.0)], tmp_path / "table")
    assert "filled in" in call(*words).stderr and "nothing new" in call(*words).stderr
    again = (folder / "README.md").read_text()
    assert again == filled.replace("25.0000", "35.0000").replace(
        "20.0000 to 30.0000", "30.0000 to 40.0000")  # fmt: skip
    own = card.replace(blank, "## Measured on test images\n\nBy hand.\n\n")
    (folder / "README.md").write_text(own)
    assert call(*words).exit_code == 0 and (folder / "README.md").read_text() == own


def images(name: str) -> np.ndarray:
    return sr3.load(name, "cpu").upscale([GREY], steps=2).images


def call(*words: str):
    return CliRunner().invoke(app, [str(word) for word in words])


# --------------------------------------------------------------------------------- checkpoints
def test_pushed_and_pulled_back_it_is_the_same(account, folder, tmp_path):
    pin = push_checkpoint(str(folder), REPO, metrics=tmp_path / "none")
    assert set(account.files(REPO)) >= {"config.json", "model.safetensors", "README.md"}
    drain(pull(str(pin)))
    assert weights_hash(pin.folder) == weights_hash(folder)
    assert (images(str(pin)) == images(str(folder))).all()


def test_a_change_comes_back_beside_its_registered_parent(
    account,
    folder,
    delta,
    tmp_path,
    monkeypatch,
):
    monkeypatch.setattr(checkpoints, "ROOT", tmp_path)
    (tmp_path / "registry.toml").write_text('[base]\ntitle = "Base"\nsource = "local"\n')
    recipe = Recipe("delta", (as_parent("base", delta),), model=MODELS["tiny"])
    config = json.dumps(recipe.to_json())
    (delta / "config.json").write_text(config)
    pin = push_checkpoint(str(delta), REPO, metrics=tmp_path / "none")
    drain(pull(str(pin)))
    assert (images(str(pin)) == images(str(delta))).all()
    assert "add each to the tensor" in account.files(REPO)["README.md"].decode()


def test_put_together_it_needs_no_parent(account, folder, delta, tmp_path):
    pin = push_checkpoint(str(delta), REPO, whole=True, metrics=tmp_path / "none")
    assert "model.safetensors" in account.files(REPO)
    card = account.files(REPO)["README.md"].decode()
    assert "the whole is stored" in card and CHANGE_ALONE not in card
    drain(pull(str(pin)))
    expected = images(str(delta))
    folder.rename(tmp_path / "gone")
    assert (images(str(pin)) == expected).all()


def test_a_change_to_what_is_not_registered_is_not_pushed(account, delta):
    done = call("checkpoints", "push", delta, "--repo", REPO)
    assert done.exit_code == 2 and "--whole" in done.stderr
    assert not any(each.startswith("POST") for each in account.requests)


def test_a_commit_without_its_parent_says_so(account, delta):
    files = {file.name: file.read_bytes() for file in delta.iterdir()}
    with pytest.raises(CheckpointError, match="made of"):
        drain(pull(str(Pin(REPO, account.commit(REPO, files)))))


@pytest.mark.parametrize("shards_first", [True, False])
@pytest.mark.parametrize("how", ["command", "mixin"])
def test_a_second_push_leaves_nothing_of_the_first(account, folder, tmp_path, how, shards_first):
    torch.manual_seed(1)
    weights = UNet(MODELS["tiny"].network).state_dict()
    split = tmp_path / "split"
    save_checkpoint(split, MODELS["tiny"], weights, "# Split", shard_bytes=200_000)
    assert len(weight_files(split)) > 1
    first, second = (split, folder) if shards_first else (folder, split)
    account.commit(REPO, {"notes.txt": b"mine"})
    push_checkpoint(str(first), REPO, metrics=tmp_path / "none")
    if how == "mixin":
        sr3.load(second, "cpu").push_to_hub(REPO)
    else:
        pin = push_checkpoint(str(second), REPO, metrics=tmp_path / "none")
        drain(pull(str(pin)))
        assert weights_hash(pin.folder) == weights_hash(second)
    ours = sr3.load(second, "cpu").network.state_dict()
    theirs = sr3.SuperResolver.from_pretrained(REPO, device="cpu").network.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert "notes.txt" in account.files(REPO)


def test_a_first_stages_colours_go_along(account, folder, tmp_path):
    colours = b'{"mean": [0.5, 0.5, 0.5]}'
    (folder / COLOURS).write_bytes(colours)
    for whole in (False, True):
        pin = push_checkpoint(str(folder), REPO, whole=whole, metrics=tmp_path / "none")
        drain(pull(str(pin)))
        assert (pin.folder / COLOURS).read_bytes() == colours
        assert COLOURS in registry_text("first", pin)
    sr3.load(folder, "cpu").save_pretrained(folder)  # over itself
    assert (folder / COLOURS).read_bytes() == colours


def test_the_lines_for_the_registry_offer_it(account, folder, tmp_path, monkeypatch):
    pin = push_checkpoint(str(folder), REPO, metrics=tmp_path / "none")
    drain(pull(str(pin)))
    root = tmp_path / "elsewhere"
    root.mkdir()
    (root / "registry.toml").write_text(registry_text("theirs", pin))
    monkeypatch.setattr(checkpoints, "ROOT", root)
    entry = checkpoints.registry()["theirs"]
    assert entry.available and entry.pin == pin
    assert (images("theirs") == images(str(folder))).all()


def test_the_card_carries_the_table_and_nothing_else(account, folder, tmp_path):
    digest = weights_hash(folder)
    rows = [row(digest, 24.0), row(digest, 26.0, image="b"), row("0" * 64, 99.0)]
    results.append(rows, tmp_path / "metrics")
    push_checkpoint(str(folder), REPO, metrics=tmp_path / "metrics")
    card = ModelCard(account.files(REPO)["README.md"].decode())
    (found,) = card.data.eval_results
    assert (found.metric_type, found.metric_value) == ("psnr", 25.0)  # the mean of 24 and 26
    assert (found.dataset_type, found.dataset_revision) == ("anime", "f" * 64)
    assert "2 images" in found.metric_name and "ddim 10 steps" in found.metric_name
    assert card.data.license and card.data.library_name == "sr3-lab"
    assert "# A card" in card.text and digest in card.text and "99" not in card.text


def test_a_card_pushed_again_has_each_section_once(account, folder, tmp_path):
    for _ in range(2):
        pin = push_checkpoint(str(folder), REPO, metrics=tmp_path / "none")
        drain(pull(str(pin)))
        text = (pin.folder / "README.md").read_text()
        (folder / "README.md").write_text(text)
    for heading in ("## Load it", "## Measured on test images", "Identity (config", "# A card"):
        assert text.count(heading) == 1, heading


@pytest.mark.parametrize("whole", [False, True])
def test_the_bare_script_of_the_card_loads_it(account, folder, delta, tmp_path, whole):
    pushed = delta if whole else folder
    push_checkpoint(str(pushed), REPO, whole=whole, metrics=tmp_path / "none")
    card = account.files(REPO)["README.md"].decode()
    (script,) = re.findall(r"```python\n(import json.*?)```", card, re.DOTALL)
    script += "\nimport sys, numpy\nprint(json.dumps([sorted(weights), sorted(config), "
    script += "float(sum(numpy.abs(v.astype('f8')).sum() for v in weights.values())),"
    script += "sorted({m.split('.')[0] for m in sys.modules} & {'sr3', 'torch'})]))"
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, text=True, cwd=tmp_path,
        env=os.environ | {"HF_ENDPOINT": account.address, "HF_HUB_DISABLE_XET": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names, config, total, loaded = json.loads(done.stdout.splitlines()[-1])
    expected = sr3.load(pushed, "cpu").network.state_dict()
    assert names == sorted(expected) and "network" in config and loaded == []
    assert total == pytest.approx(sum(v.double().abs().sum().item() for v in expected.values()))


def test_without_a_token_a_push_says_to_log_in(server, folder, tmp_path):
    with pytest.raises(HubError, match="HF_TOKEN"):
        push_checkpoint(str(folder), REPO, metrics=tmp_path / "none")
    assert not any(each.startswith("POST") for each in server.requests)


# --------------------------------------------------------------------------------------- mixin
def test_the_mixin_pushes_and_loads(account, folder, tmp_path, monkeypatch):
    model = sr3.SuperResolver.from_pretrained(folder, device="cpu")
    page = model.push_to_hub(REPO, commit_message="first", private=True)
    commit = page.rsplit("/", 1)[1]
    assert page == f"{account.address}/{REPO}/commit/{commit}"
    assert account.repositories[("model", REPO)].private
    latest = sr3.SuperResolver.from_pretrained(REPO, device="cpu")
    ours = model.upscale([GREY], steps=2).images
    assert (latest.upscale([GREY], steps=2).images == ours).all()
    account.requests.clear()
    pinned = sr3.SuperResolver.from_pretrained(REPO, device="cpu", revision=commit)
    kept = sr3.SuperResolver.from_pretrained(REPO, device="cpu", local_files_only=True)
    assert account.requests == []
    assert pinned.config == kept.config == model.config
    with pytest.raises(HubError, match="offline"):
        sr3.SuperResolver.from_pretrained("lab/other", local_files_only=True)
    elsewhere = tmp_path / "other-cache"
    sr3.SuperResolver.from_pretrained(REPO, device="cpu", cache_dir=elsewhere)
    assert list(elsewhere.glob("models--lab--pushed/snapshots/*/config.json"))
    account.requests.clear()
    sr3.SuperResolver.from_pretrained(REPO, device="cpu", revision=commit, force_download=True)
    assert any("/resolve/" in each for each in account.requests)


def test_a_branch_and_a_folder(account, folder, tmp_path):
    model = sr3.SuperResolver.from_pretrained(folder, device="cpu")
    model.push_to_hub(REPO, branch="trial")
    assert "model.safetensors" not in account.files(REPO)  # main is as it was
    assert sr3.SuperResolver.from_pretrained(REPO, device="cpu", revision="trial")
    assert model.save_pretrained(tmp_path / "saved") is None
    again = sr3.SuperResolver.from_pretrained(tmp_path / "saved", device="cpu")
    ours, theirs = model.network.state_dict(), again.network.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_folder_with_files_of_its_owner_is_not_replaced(account, folder, tmp_path, monkeypatch):
    model = sr3.SuperResolver.from_pretrained(folder, device="cpu")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("weeks of work")
    with pytest.raises(
        CheckpointError, match=r"holds notes\.txt, which is no part of a checkpoint"
    ):
        model.save_pretrained(tmp_path / "mine")
    assert [each.name for each in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    model.save_pretrained(".")
    assert (tmp_path / "here" / "model.safetensors").exists()


def test_what_was_loaded_keeps_its_card_and_scores(account, folder, delta, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "ROOT", tmp_path)
    results.append([row(weights_hash(delta), 24.0)], tmp_path / "metrics")
    push_checkpoint(str(delta), REPO, whole=True, metrics=tmp_path / "metrics")
    model = sr3.SuperResolver.from_pretrained(delta, device="cpu")
    model.save_pretrained(tmp_path / "saved")
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "# Tuned" in card and "| `rank` | 4 |" in card and "24.0000" in card
    model.push_to_hub(REPO)
    again = sr3.load(tmp_path / "saved", "cpu")
    again.save_pretrained(tmp_path / "saved")  # over itself
    assert "# Tuned" in (tmp_path / "saved" / "README.md").read_text()
    pulled = sr3.SuperResolver.from_pretrained(REPO, device="cpu")
    monkeypatch.setattr(pretrained, "ROOT", tmp_path / "without")  # a machine that measured nothing
    pulled.save_pretrained(tmp_path / "pulled")
    card = (tmp_path / "pulled" / "README.md").read_text()
    assert "# Tuned" in card and "24.0000" in card and card.count("## Measured on test") == 1
    assert ModelCard(card).data.eval_results[0].metric_value == 24.0


def test_other_weights_claim_no_scores(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "ROOT", tmp_path)
    results.append([row(weights_hash(folder), 24.0)], tmp_path / "metrics")
    model = sr3.load(folder, "cpu")
    next(iter(model.network.parameters())).data += 1
    model.save_pretrained(tmp_path / "changed")
    card = (tmp_path / "changed" / "README.md").read_text()
    assert "# A card" not in card and "24.0000" not in card and "Unmeasured" in card


# ------------------------------------------------------------------------------------- metrics
def test_measurements_come_back_the_same(account, tmp_path):
    results.append([row("a" * 64, 24.5)], tmp_path / "a")
    results.append([row("a" * 64, 0.5, metric="ssim", image="ö")], tmp_path / "a")
    pin = push_metrics(tmp_path / "a", "lab/metrics")
    assert pin.kind == "dataset"
    drain(pull_metrics(pin, tmp_path / "b"))
    ours, theirs = results.read(tmp_path / "a"), results.read(tmp_path / "b")
    assert ours.equals(theirs)
    account.requests.clear()
    drain(pull_metrics(pin, tmp_path / "b"))
    assert account.requests == [] and len(list((tmp_path / "b").iterdir())) == 1
    card = account.files("lab/metrics", "dataset")["README.md"].decode()
    assert "data/metrics.parquet" in card and "2 measured values" in card


def test_another_table_is_not_added(account, tmp_path):
    out = io.BytesIO()
    pq.write_table(pa.table({"x": [1]}), out)
    commit = account.commit("lab/other", {"x.parquet": out.getvalue()}, "dataset")
    with pytest.raises(sr3.SR3Error, match="other columns"):
        drain(pull_metrics(Pin("lab/other", commit, "dataset"), tmp_path / "b"))
    assert not (tmp_path / "b").exists()


# ------------------------------------------------------------------------------------- domains
def encoded(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (128, 128, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def faces(account) -> Pin:
    """A data set of 20 images in two tables, in the Hub's own form."""
    files = {}
    for part in range(2):
        values = [
            {"bytes": encoded(n), "path": f"{n}.png"} for n in range(10 * part, 10 * part + 10)
        ]
        out = io.BytesIO()
        pq.write_table(pa.table({"face": values, "label": [0] * 10}), out)
        files[f"data/train-{part:05}.parquet"] = out.getvalue()
    return Pin("lab/faces", account.commit("lab/faces", files, "dataset"), "dataset")


def test_a_domain_of_the_hub_is_that_of_the_same_files(account, faces, tmp_path, monkeypatch):
    registry = tmp_path / "domains.toml"
    registry.write_text(f'[faces]\ntitle = "Faces"\nhub = "{faces}"\nimage_column = "face"\n')
    monkeypatch.setattr(domains, "REGISTRY", registry)
    with pytest.raises(DomainError, match="domains --pull faces"):
        load_domain("faces")
    listed = json.loads(call("domains", "--json").stdout)
    assert not listed[0]["available"] and account.requests == []
    done = call("domains", "--pull", "faces", "--json")
    assert json.loads(done.stdout)[0]["available"], done.output
    (tmp_path / "files").mkdir()
    for n in range(20):
        (tmp_path / "files" / f"{n}.png").write_bytes(encoded(n))
    account.requests.clear()
    ours, theirs = load_domain("faces"), load_domain(str(tmp_path / "files"))
    assert ours.sha256 == theirs.sha256 and account.requests == []
    assert (domains.load_pixels(ours.test) == domains.load_pixels(theirs.test)).all()


def test_a_domain_by_its_commit_and_a_wrong_column(account, faces):
    assert len(load_domain(f"{faces}#face").test) == 4
    with pytest.raises(DomainError, match="no column 'image', but face, label"):
        load_domain(str(faces))
    with pytest.raises(DomainError, match="holds no image"):
        load_domain(f"{faces}#label")


# -------------------------------------------------------------------------------- command line
def test_the_commands_push_pull_and_tell(account, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "ROOT", tmp_path / "root")
    (tmp_path / "root").mkdir()
    done = call("checkpoints", "push", folder, "--repo", REPO, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert parse_pin(told["source"]).repo == REPO
    (tmp_path / "root" / "registry.toml").write_text(told["registry"])
    for name in list((tmp_path / "cache").glob("models--*")):
        name.rename(tmp_path / "thrown-away")
    assert "pull local" in call("upscale", folder, "--checkpoint", "local", "--out", "x").output
    monkeypatch.setattr("sr3.metrics.load_lpips", lambda: type("L", (), {"backbone": "none"}))
    pulled = json.loads(call("checkpoints", "pull", "--all", "--json").stdout)
    assert pulled[0]["name"] == "local" and pulled[0]["fetched"]
    account.requests.clear()
    assert not json.loads(call("checkpoints", "pull", "local", "--json").stdout)[0]["fetched"]
    assert call("checkpoints", "verify", "local").exit_code == 0 and account.requests == []


def test_offline_on_the_command_line(account, folder, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "")  # restored after what --offline sets
    wanted = f"hub:lab/other@{'a' * 40}"
    done = call("--offline", "checkpoints", "pull", wanted)
    assert done.exit_code == 2 and "offline" in done.stderr and account.requests == []
    assert "Traceback" not in done.output and done.stderr.count("\n") == 1
    done = call("--offline", "checkpoints", "push", str(folder), "--repo", REPO)
    assert done.exit_code == 2 and "cannot be written, since SR3 Lab is offline" in done.stderr
    assert "fetch" not in done.stderr and account.requests == []


def test_a_mistake_is_one_sentence_and_exit_code_two(account):
    for words in (
        ["checkpoints", "pull"], ["checkpoints", "pull", "nothing"],
        ["checkpoints", "pull", "hub:lab/x@main"], ["metrics", "pull", f"hub:a/b@{'a' * 40}"],
        ["checkpoints", "push", "nothing", "--repo", REPO], ["domains", "--pull", "anime"],
    ):  # fmt: skip
        done = call(*words)
        assert done.exit_code == 2 and done.stderr.startswith("Error: "), (words, done.output)
        assert sha256(b"") not in done.stderr
