"""The page Checkpoints, and the whole app with the network cut."""

# ruff: noqa: F811 (pytest's fixtures are arguments of the same name)
from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import expect
from streamlit.testing.v1 import AppTest

from sr3 import checkpoints, results
from sr3.checkpoints import as_parent
from sr3.combine import Recipe
from sr3.folder import save_checkpoint, weights_hash
from sr3.pins import Pin
from sr3.presets import MODELS
from sr3.ui import collection, fetching
from sr3.ui.frame import PAGES
from tests.app_server import make_checkpoints
from tests.browsing import Watch, free_port, new_context, serving, turn_to
from tests.loopback_hub import sha256
from tests.test_hub import server  # noqa: F401
from tests.test_push import row
from tests.test_space import start_and_finish

ROOT = Path(__file__).resolve().parent.parent
# Every look-up and connection that leaves the machine fails as without a network.
CUT = """
import socket
_connect, _look_up = socket.socket.connect, socket.getaddrinfo
def connect(self, address):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1"):
        raise OSError(101, "Network is unreachable")
    return _connect(self, address)
def look_up(host, *rest, **more):
    if host not in (None, "", "localhost", "127.0.0.1", "::1", "0.0.0.0"):
        raise socket.gaierror(-3, "Temporary failure in name resolution")
    return _look_up(host, *rest, **more)
socket.socket.connect, socket.getaddrinfo = connect, look_up
"""


@pytest.fixture
def family(tmp_path, monkeypatch, server):
    """A parent, a splice of it, and one on the Hub that is not here."""
    root = make_checkpoints(tmp_path / "root")
    monkeypatch.setattr(checkpoints, "ROOT", root)
    parent = as_parent("tiny", root / "mix")
    recipe = Recipe("spliced", (parent, parent), step=500, model=MODELS["tiny"])
    save_checkpoint(root / "mix", recipe, {}, "# Mixed")
    files = {f.name: f.read_bytes() for f in (root / "tiny").iterdir()}
    pin = Pin("lab/far", server.commit("lab/far", files))
    listed = {name: sha256(data) for name, data in files.items() if name != "README.md"}
    lines = ", ".join(f'"{name}" = "{digest}"' for name, digest in listed.items())
    with (root / "registry.toml").open("a") as registry:
        registry.write('[mix]\ntitle = "Mixed"\nsource = "mix"\n')
        registry.write(f'[far]\ntitle = "Far"\nsource = "{pin}"\nfiles = {{ {lines} }}\n')
    results.append([row(weights_hash(root / "tiny"), 24.0)], root / "metrics")
    fetching.fetches.clear()
    return root


@pytest.fixture
def shown(family):
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=90)
    app.switch_page("pages/4_Checkpoints.py").run()
    assert not app.exception and not app.error
    return app


def test_the_page_lists_what_there_is(shown):
    table = shown.dataframe[0].value.set_index("Name")
    assert table["Where"].to_dict() == {"tiny": "here", "mix": "here", "far": "on the Hub"}
    assert table.loc["tiny", "PSNR ↑ by domain"] == [24.0]
    assert table.loc["mix", "PSNR ↑ by domain"] == [0.0]  # no bar: unmeasured
    text = " ".join(element.value for element in shown.markdown)
    assert "mix: spliced from tiny and tiny" in text and "Networks run here on" in text


def test_a_broken_entry_is_shown_as_broken_beside_the_others(family):
    with (family / "registry.toml").open("a") as registry:
        registry.write('[bad]\ntitle = "Bad"\nsource = "hub:lab/bad@main"\n')
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=90)
    app.switch_page("pages/4_Checkpoints.py").run()
    assert not app.exception and not app.error
    where = app.dataframe[0].value.set_index("Name")["Where"].to_dict()
    assert where["bad"] == "broken entry" and where["tiny"] == "here"
    app.selectbox(key="sr3_card_of").select("bad").run()
    assert "40 hex digits" in app.error[0].value


def test_settings_and_sizes_are_told_where_they_are_known(family):
    text = (family / "registry.toml").read_text()
    how = 'method = "lora"\nrank = 8\nreplay = 0.5\nrate = 0.003\nsize = 9100000\n'
    entries = checkpoints.registry()
    assert collection.size(entries["far"]) == "size shown when fetched"
    assert collection.tuning(entries["far"])["Method"] == "not known"
    (family / "registry.toml").write_text(text + how)
    far = collection.facts(checkpoints.registry()["far"])
    assert far["Size"] == "9.1 MB to fetch" and far["Method"] == "lora of rank 8"
    assert far["Replay"] == "50% of each batch" and far["Learning rate"] == "0.003"


def test_a_pull_from_the_page_ends_here(shown):
    shown.selectbox(key="sr3_card_of").select("far").run()
    shown.button(key="sr3_fetch_far").click().run()
    for _ in range(100):
        if fetching.fetches()["far"].ended:
            break
        fetching.threading.Event().wait(0.1)
    assert fetching.fetches()["far"].error == ""
    shown.run()
    assert shown.dataframe[0].value.set_index("Name").loc["far", "Where"] == "here"


def test_a_pull_that_fails_says_why(shown, server):
    server.repositories[("model", "lab/far")].gated = True
    shown.selectbox(key="sr3_card_of").select("far").run()
    shown.button(key="sr3_fetch_far").click().run()
    fetching.threading.Event().wait(1.0)
    shown.run()
    assert "gated" in shown.error[0].value and "HF_TOKEN" in shown.error[0].value


def test_a_delta_is_not_available_without_its_parent(family):
    assert checkpoints.registry()["mix"].available
    (family / "tiny" / "model.safetensors").unlink()
    entry = checkpoints.registry()["mix"]
    assert entry.complete and not entry.available
    with pytest.raises(checkpoints.CheckpointError, match="made of tiny"):
        checkpoints.find_checkpoint("mix")


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize("how", ["flag", "cut"])
def test_the_whole_app_without_a_network(how, chromium, tmp_path):
    """`flag`: --offline. `cut`: nothing was said, and no look-up or connection succeeds."""
    port = free_port()
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(CUT)
    environment = os.environ | {
        "PORT": str(port), "SR3_ADDRESS": "127.0.0.1",
        "PYTHONPATH": f"{tmp_path / 'site'}", "TORCH_HOME": str(tmp_path / "torch"),
    }  # fmt: skip
    for name in ("SR3_LPIPS_WEIGHTS", "HF_HUB_OFFLINE", "SR3_OFFLINE"):
        environment.pop(name, None)
    log = tmp_path / "log"
    words = ["--offline"] if how == "flag" else []
    with log.open("w") as out:
        app = subprocess.Popen(
            [sys.executable, "-m", "sr3.ui.space", *words], cwd=ROOT, env=environment,
            stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
        address = f"http://127.0.0.1:{port}"
        with serving(app, address, log):
            context = new_context(chromium)
            page = context.new_page()
            watch = Watch(page)
            page.goto(address)
            start_and_finish(page)  # its scores look for LPIPS, and find that there is no network
            expect(page.get_by_text("not available").first).to_be_visible(timeout=90_000)
            framed = [label for _, label, _ in PAGES if label != "Poster"]
            if how == "flag":  # which is asked at one place
                framed = ["Checkpoints", "Super-resolve"]
            for label in framed:  # the stand's page comes last: it has neither frame nor links
                turn_to(page, label)
                label = page.get_by_text(re.compile("cloud_off *offline")).first
                expect(label).to_be_visible(timeout=60_000)
                expect(page.get_by_role("alert")).to_have_count(0)
            if how == "cut":
                turn_to(page, "Poster")
                expect(page.get_by_text("All that is given").first).to_be_visible(timeout=90_000)
            context.close()
            assert watch.faults == []
    assert "Traceback" not in log.read_text()
