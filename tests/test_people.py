"""The shelf of people who do not exist: as the command makes it, listed, and unchanged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest
from typer.testing import CliRunner

import sr3.checkpoints
from sr3 import people
from sr3.cli import app
from sr3.errors import ImageError
from sr3.folder import hash_of, save_checkpoint
from sr3.images import degrade
from sr3.ui import gallery, service
from tests.app_server import make_checkpoints
from tests.test_generate import COLOUR, COLOURS, stages  # noqa: F401  a fixture

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def folder(stages, tmp_path, monkeypatch) -> Path:  # noqa: F811
    """Three people as the command makes them, and the gallery that shows them."""
    for name, model in zip(("first", "second"), stages, strict=True):
        save_checkpoint(tmp_path / name, model.config, model.network.state_dict(), "# A card\n")
    values = {"mean": COLOUR.mean.tolist(), "covariance": COLOUR.covariance.tolist()}
    (tmp_path / "first" / COLOURS).write_text(json.dumps(values))
    out = tmp_path / "people"
    for seed, count in ((1, 2), (2, 1)):
        words = ["generate", "--first", str(tmp_path / "first"), "--count", str(count), "--seed",
                 str(seed), "--checkpoint", str(tmp_path / "second"), "--out", str(out),
                 "--gallery", "--device", "cpu"]  # fmt: skip
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
    monkeypatch.setattr(gallery, "PEOPLE", out)
    forget()
    yield out
    forget()


def forget() -> None:
    for shared in (gallery.own, service.engine, service.resolver, service.shelf):
        shared.clear()


def test_the_command_lists_how_each_was_made(folder):
    found = people.read(folder)
    assert [each.origin.file for each in found] == [
        "face-1-0.png", "face-1-1.png", "face-2-0.png",
    ]  # fmt: skip
    for each in found:
        assert each.origin.first_hash == hash_of(folder.parent / "first")
        assert each.origin.second_hash == hash_of(folder.parent / "second")
        assert (each.origin.first, each.origin.second) == ("first", "second")
        assert each.pixels.shape == (128, 128, 3) and each.pixels.dtype == np.uint8
    assert [(each.origin.seed, each.origin.index) for each in found] == [(1, 0), (1, 1), (2, 0)]


def test_a_deleted_picture_is_gone_and_a_changed_one_is_refused(folder):
    (folder / "face-1-0.png").unlink()
    assert [each.origin.file for each in people.read(folder)] == ["face-1-1.png", "face-2-0.png"]
    people.add(folder, [])
    assert len(json.loads((folder / people.LIST).read_text())) == 2
    (folder / "face-1-1.png").write_bytes((folder / "face-2-0.png").read_bytes())
    with pytest.raises(ImageError, match=r"face-1-1\.png is not the 128x128 picture"):
        people.read(folder)


@pytest.mark.parametrize("text", ["{", "[1]", '[{"file": "a.png"}]', "../a.png"])
def test_a_bad_list_is_one_sentence(tmp_path, text):
    if text.startswith(".."):
        origin = people.Origin(text, "", 0, 0, "", "", "", "")
        text = json.dumps([vars(origin)])
    (tmp_path / people.LIST).write_text(text)
    with pytest.raises(ImageError, match="generate --count 8"):
        people.read(tmp_path)


def test_an_empty_folder_is_no_shelf(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "PEOPLE", tmp_path)
    forget()
    assert {tile.shelf for tile in gallery.tiles()} == {"", gallery.SHELVES["cartoon"]}
    kinds = {face.kind for face in gallery.faces().values()}
    assert kinds == {"photograph", "drawing", "cartoon"}
    forget()


def test_a_person_of_the_shelf_is_resolved_and_has_no_original(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(sr3.checkpoints, "ROOT", make_checkpoints(tmp_path / "root"))
    shelves = [tile.shelf for tile in gallery.tiles()]
    assert shelves[-4:] == [gallery.SHELVES["cartoon"], *[gallery.SHELVES["generated"]] * 3]
    page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=90)
    page.session_state["sr3_gallery"] = {"chosen": "face-1-1"}
    page.run()
    assert not page.exception and not page.error
    page.button(key="sr3_main").click().run()
    run = page.session_state["sr3_run"]
    assert run.face.identity == "gallery-face-1-1" and run.face.original is None
    shown = gallery.faces()["face-1-1"]
    assert (run.face.low_res == degrade(shown.pixels, 16)).all()
    assert "seed 1, face 1" in " ".join(each.value for each in page.markdown)
    run.job.cancel()
    assert run.job.wait(30)


def test_what_the_repository_holds_is_listed_and_unchanged():
    found = {each.origin.file for each in people.read(gallery.PEOPLE)}
    assert found == {path.name for path in gallery.PEOPLE.glob("*.png")}
