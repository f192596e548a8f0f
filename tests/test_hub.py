"""Pulling from the Hub: the real client against a Hub on the loopback."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

import sr3
from sr3 import checkpoints, hub, pins
from sr3.checkpoints import find_checkpoint, registry
from sr3.errors import CheckpointError, HubBusy, HubError, HubUnreachable
from sr3.folder import save_checkpoint, weights_hash
from sr3.hub import fetch, files_of, resolve
from sr3.pins import Pin, parse_pin
from sr3.presets import MODELS
from sr3.pull import pull
from sr3.unet import UNet
from tests.loopback_hub import TOKEN, Hub, git_blob, running, sha256

REPO = "lab/tiny"
WEIGHTS = "model.safetensors"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A Hub that the client is pointed at, and an empty cache."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    for name in ("HF_HUB_OFFLINE", "SR3_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    # Xet is a protocol of its own, which the loopback does not speak: plain HTTP instead.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(hub, "_state", {"silent": False})
    with running() as started:
        monkeypatch.setenv("HF_ENDPOINT", started.address)
        yield started


@pytest.fixture
def folder(tmp_path) -> Path:
    torch.manual_seed(0)
    weights = UNet(MODELS["tiny"].network).state_dict()
    save_checkpoint(tmp_path / "local", MODELS["tiny"], weights, "# A card\n")
    return tmp_path / "local"


@pytest.fixture
def pin(server, folder) -> Pin:
    """The folder on the Hub, with files that are no part of a checkpoint beside it."""
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    return Pin(REPO, server.commit(REPO, files | {"evil.bin": b"pickle", "train.py": b"import os"}))


@pytest.fixture
def register(tmp_path, monkeypatch, folder):
    """Write a registry with one entry of the Hub."""
    root = tmp_path / "registered"
    root.mkdir()
    monkeypatch.setattr(checkpoints, "ROOT", root)

    def write(pin: Pin, **changes: str) -> None:
        files = {name: sha256((folder / name).read_bytes()) for name in ("config.json", WEIGHTS)}
        files |= changes.pop("files", {})
        values = {"title": "Tiny", "source": str(pin), "sha256": weights_hash(folder)} | changes
        lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
        listed = ", ".join(f'"{name}" = "{digest}"' for name, digest in files.items())
        text = "\n".join(["[tiny]", *lines, f"files = {{ {listed} }}"])
        (root / "registry.toml").write_text(text + "\n")

    return write


def drain(iterator) -> list:
    return list(iterator)


def downloads(server: Hub) -> list[str]:
    return [each for each in server.requests if each.startswith("GET ") and "/api/" not in each]


# --------------------------------------------------------------------------------------- pins
@pytest.mark.parametrize(
    "text",
    ["hub:lab/tiny", "hub:lab/tiny@main", f"hub:tiny@{'a' * 40}", f"hub:../x@{'a' * 40}",
     f"hub:lab/tiny@{'A' * 40}", f"hub:lab/tiny@{'a' * 39}", f"hub:lab/tiny@{'a' * 40}/x"],
)  # fmt: skip
def test_only_a_full_commit_is_a_pin(text):
    with pytest.raises(HubError, match="40 hex digits"):
        parse_pin(text)


def test_the_cache_is_the_one_that_every_client_uses(monkeypatch, tmp_path):
    code = "from huggingface_hub.constants import HF_HUB_CACHE; print(HF_HUB_CACHE)"
    for settings in ({"HF_HUB_CACHE": "/a/b"}, {"HF_HOME": "/c"}, {"XDG_CACHE_HOME": "/d"}, {}):
        for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        theirs = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert str(pins.cache()) == theirs.stdout.strip()


def test_hashes_are_those_of_git_and_of_sha256(tmp_path):
    file = tmp_path / "x"
    file.write_bytes(b"what is up, doc?")
    # The example of the Git book, chapter 10.2.
    assert pins.digest_of(file, "0" * 40) == "bd9dbf5aae1a3862dd1526723246b20206e5fc37"
    assert pins.digest_of(file, "0" * 64) == sha256(b"what is up, doc?")


def test_a_hash_that_is_kept_follows_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(pins, "_GRAIN", 0)
    file = tmp_path / "x"
    for content in (b"one", b"two"):
        file.write_bytes(content)
        os.utime(file, ns=(content[0], content[0]))
        assert pins.digest_of(file, "0" * 64) == sha256(content)


# --------------------------------------------------------------------------------------- pull
def test_a_pull_verifies_and_loads(server, pin, folder, register):
    register(pin)
    entry = registry()["tiny"]
    assert not entry.available
    with pytest.raises(CheckpointError, match="checkpoints pull tiny"):
        find_checkpoint("tiny")
    seen = drain(pull("tiny"))
    assert (
        seen[-1].done
        == seen[-1].total
        == sum((folder / name).stat().st_size for name in ("config.json", WEIGHTS))
    )
    assert registry()["tiny"].available
    assert weights_hash(entry.path) == weights_hash(folder)
    grey = torch.full((16, 16, 3), 128, dtype=torch.uint8).numpy()
    ours, theirs = (sr3.load(name, "cpu").upscale([grey], steps=2) for name in ("tiny", folder))
    assert (ours.images == theirs.images).all()


def test_a_cached_pin_makes_no_request(server, pin, register):
    register(pin)
    drain(pull("tiny"))
    assert downloads(server)
    server.requests.clear()
    assert drain(pull("tiny")) == []
    sr3.load("tiny", "cpu")
    assert server.requests == []


def test_the_ordinary_client_finds_what_was_pulled(server, pin, register):
    from huggingface_hub import hf_hub_download, scan_cache_dir

    register(pin)
    drain(pull("tiny"))
    server.requests.clear()
    found = hf_hub_download(REPO, WEIGHTS, revision=pin.commit, cache_dir=pins.cache())
    assert Path(found) == pin.folder / WEIGHTS
    assert server.requests == []
    assert scan_cache_dir(pins.cache()).warnings == []


def test_what_the_ordinary_client_fetched_is_not_fetched_again(server, pin, register):
    from huggingface_hub import snapshot_download

    register(pin)
    snapshot_download(REPO, revision=pin.commit, cache_dir=pins.cache(), endpoint=server.address)
    server.requests.clear()
    assert drain(pull("tiny")) == []
    assert server.requests == []


def test_any_commit_loads_by_its_name_and_brings_no_code(server, pin, folder):
    model = sr3.load(str(pin), "cpu")
    assert model.name == str(pin)
    assert sorted(file.name for file in pin.folder.iterdir()) == [
        "README.md", "config.json", WEIGHTS,
    ]  # fmt: skip
    server.requests.clear()
    assert find_checkpoint(str(pin)) == pin.folder
    assert server.requests == []


def test_files_are_listed_with_their_hashes(server, pin, folder):
    files = files_of(pin)
    assert files[WEIGHTS] == sha256((folder / WEIGHTS).read_bytes())
    assert files["config.json"] == git_blob((folder / "config.json").read_bytes())


# ---------------------------------------------------------------------------- broken and wrong
def test_a_broken_connection_is_taken_up_within_a_pull(server, pin, folder):
    server.cut, server.cuts = 50_000, 2
    drain(fetch(pin, {WEIGHTS: sha256((folder / WEIGHTS).read_bytes())}))
    assert server.ranges == ["bytes=50000-", "bytes=100000-"]
    assert (pin.folder / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()


def test_a_server_that_always_begins_anew_and_ends_early_is_given_up(server, pin, folder):
    server.whole, server.cut, server.cuts = True, 50_000, 100
    with pytest.raises(HubError):
        drain(fetch(pin, {WEIGHTS: sha256((folder / WEIGHTS).read_bytes())}))
    assert 100 - server.cuts == hub.TRIES and not (pin.folder / WEIGHTS).exists()


def test_an_interrupted_pull_resumes(server, pin, folder):
    whole = (folder / WEIGHTS).read_bytes()
    server.pace = 0.05
    progress = fetch(pin, {WEIGHTS: sha256(whole)})
    while next(progress).done < len(whole) // 3:
        pass
    progress.close()  # what Ctrl-C does
    server.pace = 0.0
    assert not (pin.folder / WEIGHTS).exists()
    kept = next(pin.storage.glob(f"blobs/*{pins.PART}")).stat().st_size
    assert 0 < kept < len(whole)
    seen = drain(fetch(pin, {WEIGHTS: sha256(whole)}))
    assert server.ranges == [f"bytes={kept}-"]
    assert seen[0].done > kept and (pin.folder / WEIGHTS).read_bytes() == whole


def test_a_damaged_partial_file_is_thrown_away(server, pin, folder):
    whole = (folder / WEIGHTS).read_bytes()
    part = pin.storage / "blobs" / f"{sha256(whole)}{pins.PART}"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"another file's beginning")
    drain(fetch(pin, {WEIGHTS: sha256(whole)}))
    assert (pin.folder / WEIGHTS).read_bytes() == whole
    assert not part.exists()


@pytest.mark.parametrize("size", ["same", "shorter"])
def test_a_corrupted_cache_file_is_detected_and_fetched_again(server, pin, register, folder, size):
    register(pin)
    drain(pull("tiny"))
    cached = (pin.folder / WEIGHTS).resolve()
    good = cached.read_bytes()
    cached.write_bytes(good[:-9] + (b"X" * 9 if size == "same" else b""))
    assert not registry()["tiny"].available
    with pytest.raises(CheckpointError, match="pull"):
        sr3.load("tiny", "cpu")
    server.requests.clear()
    drain(pull("tiny"))
    assert downloads(server) and cached.read_bytes() == good
    assert registry()["tiny"].available


def test_a_wrong_hash_in_the_registry_never_loads(server, pin, register):
    register(pin, files={WEIGHTS: "0" * 64})
    with pytest.raises(HubError, match="expected is 000000000000"):
        drain(pull("tiny"))
    assert not (pin.folder / WEIGHTS).exists() and not registry()["tiny"].available
    register(pin, sha256="0" * 64)
    with pytest.raises(CheckpointError, match="registered is 000000000000"):
        drain(pull("tiny"))
    with pytest.raises(CheckpointError, match="registered is 000000000000"):
        sr3.load("tiny", "cpu")


def test_other_bytes_than_promised_are_not_kept(server, pin, folder):
    server.spoil = True
    with pytest.raises(HubError, match="was not kept"):
        drain(fetch(pin, {WEIGHTS: sha256((folder / WEIGHTS).read_bytes())}))
    assert not (pin.folder / WEIGHTS).exists()
    assert list(pin.storage.glob("blobs/*")) == []


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "a/../../b", ""])
def test_a_file_name_that_points_out_of_the_folder_is_refused(server, pin, name):
    with pytest.raises(HubError, match="no name of a file"):
        drain(fetch(pin, {name: "0" * 64}))
    assert server.requests == []


# ------------------------------------------------------------------------------------ sentences
def test_private_and_gated_say_to_log_in(server, pin, monkeypatch):
    repository = server.repositories[("model", REPO)]
    repository.private = True
    with pytest.raises(HubError, match=r"private: check the name.*HF_TOKEN"):
        files_of(pin)
    repository.private, repository.gated = False, True
    with pytest.raises(HubError, match=r"gated: accept its terms.*HF_TOKEN"):
        files_of(pin)
    with pytest.raises(HubError, match="gated"):
        drain(fetch(pin, {WEIGHTS: "0" * 64}))
    assert files_of(pin, token=TOKEN)


def test_not_found_and_gone_say_so(server, pin):
    with pytest.raises(HubError, match="not found on the Hub"):
        files_of(Pin("lab/nothing", pin.commit))
    with pytest.raises(HubError, match="commit is gone"):
        files_of(Pin(REPO, "b" * 40))
    with pytest.raises(HubError, match="not in the repository"):
        drain(fetch(pin, {"absent.safetensors": "0" * 64}))


def test_a_full_disk_is_told_before_and_during(server, pin, folder, monkeypatch):
    digest = sha256((folder / WEIGHTS).read_bytes())
    usage = os.statvfs("/")
    monkeypatch.setattr(
        "sr3.pins.shutil.disk_usage", lambda _: type("U", (), {"free": 1000, "total": usage})
    )
    with pytest.raises(HubError, match=r"disk is full.*HF_HOME"):
        drain(fetch(pin, {WEIGHTS: digest}))
    assert downloads(server) == []
    monkeypatch.undo()
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setenv("HF_HUB_CACHE", str(folder.parent / "cache"))

    def full(*_args, **_settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hub, "_append", full)
    with pytest.raises(HubError, match="disk is full"):
        drain(fetch(pin, {WEIGHTS: digest}))


@pytest.mark.parametrize("kind", ["EROFS", "ENOTDIR", "EIO", "ENAMETOOLONG", "EACCES"])
def test_a_disk_that_fails_is_not_taken_for_the_network(server, pin, folder, monkeypatch, kind):
    number = getattr(errno, kind)

    def broken(*_args, **_settings):
        raise OSError(number, os.strerror(number))  # as a write does: without a name

    monkeypatch.setattr(hub, "_append", broken)
    with pytest.raises(HubError, match=f"{os.strerror(number)}.*HF_HOME") as told:
        drain(fetch(pin, {WEIGHTS: sha256((folder / WEIGHTS).read_bytes())}))
    assert not isinstance(told.value, HubUnreachable) and not hub.silent()


@pytest.mark.parametrize("place", ["file", "x" * 300])
def test_a_cache_that_cannot_be_there_is_named(server, pin, folder, monkeypatch, tmp_path, place):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / place / "hub"))
    with pytest.raises(HubError, match=f"{place}.* cannot be used.*HF_HOME") as told:
        drain(fetch(pin, {WEIGHTS: sha256((folder / WEIGHTS).read_bytes())}))
    assert not isinstance(told.value, HubUnreachable) and not hub.silent()


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "SR3_OFFLINE"])
def test_offline_asks_nothing_and_says_so(server, pin, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    with pytest.raises(HubUnreachable, match=r"offline \(--offline or HF_HUB_OFFLINE=1\)"):
        files_of(pin)
    with pytest.raises(HubUnreachable, match="pull --all"):
        drain(fetch(pin, {WEIGHTS: "0" * 64}))
    assert server.requests == [] and hub.silent()


def unreachable(kind: str) -> str:
    """An address where nothing listens, or where what listens never answers."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    if kind == "mute":
        listener.listen()
        MUTE.append(listener)
    else:
        port = listener.getsockname()[1]
        listener.close()
        return f"http://127.0.0.1:{port}"
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


MUTE: list[socket.socket] = []  # kept open


@pytest.mark.parametrize("kind", ["closed", "mute"])
def test_an_unreachable_hub_is_told_within_three_seconds(server, pin, register, monkeypatch, kind):
    register(pin)
    drain(pull("tiny"))
    monkeypatch.setenv("HF_ENDPOINT", unreachable(kind))
    began = time.monotonic()
    with pytest.raises(HubUnreachable, match=r"does not answer.*works on"):
        files_of(Pin("lab/other", pin.commit))
    assert time.monotonic() - began < 3.2
    assert hub.silent()
    assert sr3.load("tiny", "cpu").name == "tiny"  # what is here goes on
    while MUTE:
        MUTE.pop().close()


def test_a_name_server_that_never_answers_is_told_as_soon(server, pin, monkeypatch):
    def hang(*_args, **_settings):
        time.sleep(8)
        raise OSError("too late")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    began = time.monotonic()
    with pytest.raises(HubUnreachable, match="does not answer"):
        files_of(pin)
    assert time.monotonic() - began < 3.3


def test_a_silent_host_of_files_is_told_at_the_first_try(server, pin, folder, monkeypatch):
    digest = sha256((folder / WEIGHTS).read_bytes())
    monkeypatch.setattr(hub, "PATIENCE", 1.0)
    server.mute = threading.Event()
    with pytest.raises(HubUnreachable, match="does not answer"):
        drain(fetch(pin, {WEIGHTS: digest}))
    server.mute.set()
    asked = [each for each in server.requests if each.startswith("GET /large/")]
    assert len(asked) == 1 and hub.silent()
    drain(fetch(pin, {WEIGHTS: digest}))
    assert (pin.folder / WEIGHTS).is_file() and not hub.silent()


def test_a_hub_in_trouble_is_unreachable_and_then_reachable_again(server, pin):
    server.status = 503
    with pytest.raises(HubUnreachable, match="503"):
        files_of(pin)
    assert hub.silent()
    server.status = None
    assert files_of(pin) and not hub.silent()


def test_a_hub_that_was_asked_too_often_says_to_wait(server, pin):
    assert resolve(REPO) == pin
    server.status = 429
    for ask in (lambda: files_of(pin), lambda: drain(fetch(pin, {WEIGHTS: "0" * 64}))):
        with pytest.raises(HubBusy, match=r"429.*wait a few minutes"):
            ask()
    assert resolve(REPO) == pin and not hub.silent()  # what is known is used


def test_a_token_that_is_wrong_says_so(server, pin):
    server.status = 401
    with pytest.raises(HubError, match="HF_TOKEN"):
        files_of(pin)


# ------------------------------------------------------------------------------------- branches
def test_a_branch_resolves_and_is_remembered(server, pin, monkeypatch):
    assert resolve(REPO) == pin
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert resolve(REPO) == pin
    with pytest.raises(HubUnreachable):
        resolve(REPO, "another")
