"""The gallery's shelves, what is pasted, the stand's loop, and what a stand forgets."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import streamlit as st
from PIL import Image
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.runtime.uploaded_file_manager import UploadedFileRec

import sr3.checkpoints
import sr3.domains
from sr3.engine import EngineBusy
from sr3.ui import cartoons, deck, gallery, inputs, keep, paste, reels, service, shelves
from tests.app_server import make_pair
from tests.test_app import linked

FACES = 9


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Path:
    return make_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(autouse=True)
def _small(pair, fresh_app, monkeypatch, tmp_path):
    """Two small networks, no data but a test's, and no shelf left of an earlier test."""
    monkeypatch.setattr(sr3.checkpoints, "ROOT", pair)
    monkeypatch.setenv("SR3_DATA", str(tmp_path / "data"))
    shelves._filling.clear()
    yield
    shelves._filling.clear()
    reels.reels.clear()


@pytest.fixture
def domain(monkeypatch, tmp_path) -> str:
    """A user's own domain, which may be shown, beside one that may not."""
    generator = np.random.default_rng(0)
    for folder in ("mine", "theirs"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for number in range(FACES):
            small = generator.integers(0, 256, (9, 9, 3), dtype=np.uint8)
            picture = Image.fromarray(small).resize((160, 160))
            picture.save(tmp_path / "data" / folder / f"{number}.png")
    text = '[mine]\ntitle = "My faces"\nfolder = "mine"\nmay_show = true\ntest = 9\n'
    text += 'validation = 0\nterms = "mine alone"\n\n[theirs]\nfolder = "theirs"\n'
    (tmp_path / "domains.toml").write_text(text)
    monkeypatch.setattr(sr3.domains, "REGISTRY", tmp_path / "domains.toml")
    return "mine"


# -------------------------------------------------------------------------------------- shelves
def test_a_domain_that_may_be_shown_has_a_bounded_shelf_and_another_none(domain):
    assert shelves.allowed() == [domain]
    assert shelves.shelf(domain).shape == (shelves.FACES, 128, 128, 3)
    names = [name for name, face in gallery.faces().items() if face.kind == "domain"]
    assert names == [f"mine-{k}" for k in range(1, shelves.FACES + 1)]
    face = gallery.faces()["mine-1"]
    assert face.credit == "My faces: mine alone." and face.shelf == "My faces"
    tiles = {tile.value: tile for tile in gallery.tiles()}
    assert tiles["mine-1"].folded and not tiles["Astronaut"].folded
    assert tiles["mine-1"].image.startswith("data:image/webp")
    with pytest.raises(sr3.errors.DomainError, match="may not be shown"):
        shelves.shelf("theirs")
    assert gallery.find("theirs-1") is None and gallery.find("mine-7") is None


def test_a_link_restores_a_face_of_a_domain_and_says_where_there_is_none(domain, tmp_path):
    shown = gallery.find("mine-2")
    app = linked(face="mine-2", models="tiny", steps="2")
    run = app.session_state["sr3_run"]
    assert run.job.wait(30) and run.face.identity == "gallery-mine-2"
    assert np.array_equal(run.face.original, shown.pixels)
    app.run()
    assert "face=mine-2&" in app.session_state[keep.PAST][-1].link
    shutil.rmtree(tmp_path / "data")
    app = linked(face="mine-2", models="tiny", steps="2")
    assert [toast.value for toast in app.toast] == ["Not here, and left out: the face."]


def test_a_domain_that_cannot_be_read_is_no_shelf(domain, tmp_path):
    for file in (tmp_path / "data" / "mine").iterdir():
        file.write_bytes(b"no picture")
    with pytest.raises(sr3.errors.DomainError):
        shelves.shelf(domain)
    assert shelves.filled() == {} and gallery.find("mine-1") is None
    assert set(gallery.faces()) == set(gallery.own())


def test_cartoons_are_the_same_each_time_and_differ():
    drawn = [np.asarray(cartoons.draw(person)) for person in cartoons.CARTOONS]
    assert len({picture.tobytes() for picture in drawn}) == len(drawn) >= 2
    assert np.array_equal(drawn[0], np.asarray(cartoons.draw(cartoons.CARTOONS[0])))
    kinds = [face.kind for face in gallery.own().values()]
    assert kinds.count("cartoon") == len(drawn)


# ---------------------------------------------------------------------------------------- paste
def test_a_paste_becomes_the_choice_and_a_bad_one_a_sentence():
    data = "data:image/png;base64,AAAA"
    paste.choose(data)
    state = st.session_state
    assert state["sr3_source"] == "Upload" and state[paste.WHICH] == paste.CLIPBOARD
    assert paste.pasted() == b"\0\0\0"
    paste.choose("data:text/html;base64,AAAA")
    with pytest.raises(sr3.errors.ImageError, match="copy an image"):
        paste.pasted()
    assert paste.pasted() == b"\0\0\0", "told once; the earlier picture stays"
    for key in (paste.SOURCE, paste.WHICH, paste.PASTED):
        del state[key]


def test_the_page_listens_for_a_paste_with_every_tab(monkeypatch):
    heard = []
    monkeypatch.setattr(inputs, "listen", lambda: heard.append(True))
    linked()
    assert heard == [True]


# ------------------------------------------------------------------------------------- the stand
def test_the_loop_outlives_refusals_and_surprises(monkeypatch):
    monkeypatch.setattr(reels, "PAUSE", 0.0)
    failures = iter([EngineBusy("full"), RuntimeError("a surprise"), EngineBusy("full")] * 5)
    submit = service.Engine.submit

    def moody(self, *given, **more):
        if (error := next(failures, None)) is not None:
            raise error
        return submit(self, *given, **more)

    monkeypatch.setattr(service.Engine, "submit", moody)
    made = reels.Reels()
    made._worker.join(60)
    assert made.done and len(made.made) == 2 * sum(reels.KINDS.values())
    assert {"Hana", "Astronaut"} <= {reel.title for reel in made.made}


def test_the_loop_gives_up_at_last(monkeypatch):
    monkeypatch.setattr(reels, "PAUSE", 0.0)
    monkeypatch.setattr(reels, "TRIES", 3)
    tried = []

    def refuse(self, *_, **__):
        tried.append(threading.current_thread().name)
        raise EngineBusy("full")

    monkeypatch.setattr(service.Engine, "submit", refuse)
    made = reels.Reels()
    made._worker.join(30)
    assert made.done and made.made == () and len(tried) == 3 * 2 * sum(reels.KINDS.values())


def test_a_stand_forgets_every_visitor(monkeypatch):
    app = linked()
    left = ("sr3_duel", "sr3_chain", "sr3_kept", "sr3_counts", "sr3_samples_run", "sr3_pasted")
    for key in left:
        app.session_state[key] = None
    app.session_state["sr3_seed"] = 77
    forgotten = []
    monkeypatch.setattr(deck, "forget_files", lambda: forgotten.append("files"))
    app.switch_page("pages/6_Poster.py").run()
    assert not app.exception and not forgotten, "whoever comes from another page is still there"
    assert [key for key in left if key not in app.session_state] == []
    app.session_state[deck.GONE] = True
    app.run()
    assert not app.exception and forgotten == ["files"] and deck.GONE not in app.session_state
    assert [key for key in (*left, "sr3_seed") if key in app.session_state] == []
    assert app.session_state["sr3_been_here"]
    assert deck.KEY in deck.STAY


def test_a_visitors_files_are_let_go_of(monkeypatch):
    """Of this session alone."""
    files = MemoryUploadedFileManager("/upload")
    for session in ("here", "elsewhere"):
        files.add_file(session, UploadedFileRec("one", "face.png", "image/png", b"picture"))
    context = SimpleNamespace(uploaded_file_mgr=files, session_id="here")
    monkeypatch.setattr("sr3.ui.brought.get_script_run_ctx", lambda: context)
    deck.forget_files()
    assert files.get_files("here", ["one"]) == []
    assert [record.data for record in files.get_files("elsewhere", ["one"])] == [b"picture"]
    monkeypatch.setattr("sr3.ui.brought.get_script_run_ctx", lambda: None)
    deck.forget_files()  # outside a run of a page
