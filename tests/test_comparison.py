"""Who is compared and how, what a stopped run says of itself, and what can be taken home."""

from __future__ import annotations

import io
import time
import urllib.parse
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

import sr3
import sr3.checkpoints
from sr3.engine import Engine
from sr3.images import degrade, resize
from sr3.takeaway import Shown, sheet
from sr3.ui import duel, gallery, inside, keep, links, live, mixing, records, service, theatre
from sr3.ui.group import Group, Task
from sr3.ui.inputs import Face
from sr3.ui.mixing import Contestant
from tests.app_server import make_pair

ROOT = Path(__file__).resolve().parent.parent
COMPARE, INSIDE = "pages/1_Compare.py", "pages/5_Inside.py"


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Path:
    return make_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def two(pair, fresh_app, monkeypatch):
    """Two small networks of one family, and what was offered to be taken home."""
    offered: list[keep.Keepsake] = []
    offer = keep.offer
    monkeypatch.setattr(sr3.checkpoints, "ROOT", pair)
    monkeypatch.setattr(keep, "offer", lambda each: (offered.append(each), offer(each))[1])
    return offered


def opened(page: str, **state: object) -> AppTest:
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()
    for key, value in state.items():
        app.session_state[key] = value
    return checked(app.switch_page(page).run())


def checked(app: AppTest) -> AppTest:
    assert not app.exception and not app.error
    return app


def until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def run_to_end(app: AppTest, slot: str) -> Group:
    app.button(key=f"{slot}_main").click().run()
    found: Group = app.session_state[slot]
    until(lambda: found.ended)
    checked(app.run())
    return found


def stopped(app: AppTest, slot: str, steps: int = 3) -> Group:
    """Run it for a few steps and stop it."""
    app.button(key=f"{slot}_main").click().run()
    found: Group = app.session_state[slot]
    until(lambda: found.newest(0) is not None and found.newest(0).index >= steps)
    app.button(key=f"{slot}_main").click().run()
    until(lambda: found.ended)
    checked(app.run())
    return found


def told(app: AppTest) -> str:
    return " ".join(each.value for each in app.markdown)


# ------------------------------------------------------------------------------- who is compared
def test_a_comparison_opens_on_a_fine_tune_elsewhere_and_no_student_is_mixed():
    entries = service.offered()
    pairs = mixing._pairs(entries)
    parent, tuned = mixing.introduced(entries)
    assert entries[parent].domain != entries[tuned].domain and entries[tuned].parent == parent
    assert {"lite-1", "lite-2"} <= set(entries), "students are registered, and offered"
    assert not {"lite-1", "lite-2"} & {name for pair in pairs for name in pair}


def test_networks_of_another_size_are_not_offered_beside_the_first():
    entries = {
        name: SimpleNamespace(sizes=sizes)
        for name, sizes in (("a", (16, 128)), ("b", (64, 512)), ("c", (16, 128)))
    }
    assert list(mixing.of_one_size(entries)) == ["a", "c"]
    assert mixing.of_one_size({}) == {}


def test_a_student_keeps_its_own_chain_beside_its_teacher_and_draws_as_well():
    teacher, student = (sr3.load(name, "cpu") for name in ("lite", "lite-1"))
    rivals = [Contestant("lite", "A", teacher), Contestant("lite-1", "B", student)]
    asked = replace(teacher.config.sampling, steps=4)
    tasks = duel.tasks_of(rivals, asked, 0)
    assert [task.sampling for task in tasks] == [asked, student.config.sampling]
    turned = duel.tasks_of(rivals[::-1], student.config.sampling, 0)
    assert [t.sampling for t in turned] == [student.config.sampling, teacher.config.sampling]
    face = resize(gallery.faces()["Astronaut"].pixels, 128)
    drawn = student.upscale([degrade(face, 16)], **vars(tasks[1].sampling)).images[0, 0]
    error = np.mean((drawn.astype(float) - face) ** 2)
    assert 10 * np.log10(255**2 / error) > 20, "in its teacher's recipe it has 16 dB"


def test_a_comparison_says_whose_chain_is_another(two):
    app = opened(COMPARE)
    student = service.resolver("tuned")
    usual = replace(student.config.sampling, steps=1, start=900, end=900)
    student.config = replace(student.config, sampling=usual)
    found = run_to_end(app, "sr3_duel")
    assert [task.sampling.steps for task in found.tasks] == [found.steps, 1]
    moments = found.frames()
    assert [index for index, _ in moments] == list(range(found.steps + 1))
    assert all(frame.index == 1 for _, (_, frame) in moments[1:]), "the shorter one has ended"
    board = duel._board(_rivals(app), found.face, found, False)
    assert board.status.endswith("each in its own steps.")
    assert [each.note for each in board.pictures][1:3] == [
        "same noise",
        "same noise, in its own 1 step",
    ]
    assert "Tuned: " in told(app) and "1 step from" in told(app)
    kept = two[-1].record["networks"]
    assert [each["sampling"]["end"] for each in kept] == [found.tasks[0].sampling.end, 900]
    assert "in its own 1 step" in [shown.note for shown in two[-1].shown][3]


def _rivals(app: AppTest) -> tuple[Contestant, ...]:
    names = app.session_state[mixing.RIVALS]
    titles = {"bicubic": "Bicubic", "tiny": "Tiny test network", "tuned": "Tuned"}
    return tuple(
        Contestant(name, titles[name], None if name == "bicubic" else service.resolver(name))
        for name in names
    )


def test_too_few_to_compare_is_said(two):
    app = opened(COMPARE)
    app.multiselect(key=mixing.RIVALS).set_value([]).run()
    assert "nothing to compare yet" in told(app) and app.button(key="sr3_duel_main").disabled
    app.multiselect(key=mixing.RIVALS).set_value(["bicubic"]).run()
    assert "only Bicubic so far" in told(app)


# --------------------------------------------------------------------------------- stopped early
def test_a_stopped_chain_shows_its_own_noise_level_and_has_no_link(two):
    found = stopped(opened(INSIDE, sr3_steps_tiny=200), "sr3_chain")
    newest = found.newest(0)
    assert newest.index < newest.total
    noisy, clean = inside._chain(found.face, found, False).pictures[:2]
    assert noisy.note == f"noise level {newest.noise_level:.3f}" != "noise level 1.000"
    assert clean.note == f"stopped early, after {newest.evaluations} of 200 steps"
    kept = two[-1]
    assert kept.link is None and kept.record["link"] is None and kept.record["stopped"]
    assert f"stopped early after {newest.evaluations} steps" in kept.lines[0]
    assert kept.record["networks"][0]["evaluations"] == newest.evaluations


def test_a_stopped_comparison_and_a_stopped_run_say_after_how_many_steps(two):
    app = opened(COMPARE, sr3_steps_tiny=200)
    found = stopped(app, "sr3_duel")
    early = found.early
    assert early.startswith(", stopped early after ") and f"for all{early}." in told(app)
    kept = two[-1]
    assert early in kept.lines[1] and kept.link is None and kept.record["stopped"]
    app = checked(app.switch_page("app.py").run())
    app.button(key="sr3_main").click().run()
    run: live.Run = app.session_state["sr3_run"]
    until(lambda: run.job.newest is not None and run.job.seconds > live.DOUBLE_CLICK)
    app.button(key="sr3_main").click().run()
    assert run.job.wait(10)
    checked(app.run())
    assert f"stopped early after {run.job.evaluations} step" in two[-1].lines[0]
    assert two[-1].link is None and two[-1].record["stopped"]


def test_a_finished_group_is_not_called_stopped_when_another_run_begins(two):
    app = opened(COMPARE, sr3_steps_tiny=2)
    found = run_to_end(app, "sr3_duel")
    app = checked(app.switch_page("app.py").run())
    app.button(key="sr3_main").click().run()
    assert not found.stopped and found.early == ""


# ------------------------------------------------------------------------------------ the queue
def test_one_s_own_chains_are_nobody_ahead():
    engine = Engine(max_batch=1)
    model = sr3.load("lite-2", "cpu")
    low = np.full((16, 16, 3), 128, np.uint8)
    slow = model.settings(steps=60)
    try:
        others = [engine.submit(model, low, slow, visitor=f"other {k}") for k in range(2)]
        group = Group(Face("x", low, None), tuple(
            Task("lite-2", str(k), model, slow, 0, k) for k in range(3)
        ))  # fmt: skip
        for place in range(3):
            group.jobs[place] = engine.submit(model, low, slow, visitor="me", sample=place)
        assert [job.position for job in group.jobs.values()] == [2, 3, 4]
        assert theatre.status(group, True, "", "")[0] == "Waiting: 2 ahead of you."
        for job in others:
            job.cancel()
        assert all(job.wait(10) for job in others)
        assert "ahead" not in theatre.status(group, True, "", "")[0]
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("page", "slot", "steps"),
    [(COMPARE, "sr3_duel", {"sr3_steps_tiny": 2}),
     (INSIDE, "sr3_counts", {"sr3_inside": "Step counts", "sr3_step_counts": [1, 2]})],
)  # fmt: skip
def test_a_chain_over_the_limit_ends_its_group_with_the_sentence(two, page, slot, steps):
    app = opened(page, **steps)
    run_to_end(app, slot)
    service.engine().max_seconds = 1e-6
    if page == INSIDE:
        app.multiselect(key="sr3_step_counts").set_value([1, 2, 100]).run()
    else:
        app.button(key="sr3_duel_main").click().run()
    found: Group = app.session_state[slot]
    assert found.ended, "nobody waits for a place: there will be none"
    (box,) = app.error
    assert "steps would take" in box.value and "choose a smaller checkpoint" in box.value
    assert [found.picture(k) is not None for k in range(len(found.tasks))] == (
        [True, True, False] if page == INSIDE else [False, False]
    )


# ------------------------------------------------------------------------------------ taken home
@pytest.mark.parametrize(
    ("part", "slot", "pictures"),
    [("Samples", "sr3_samples_run", ["Input", "Sample 1", "Sample 2", "Mean", "Uncertainty"]),
     ("Consistency", "sr3_kept", ["Input", "Free", "Consistent", "Free: error at 16 × 16",
                                  "Consistent: error at 16 × 16"]),
     ("Step counts", "sr3_counts", ["Input", "1 step", "2 steps"])],
)  # fmt: skip
def test_every_part_of_the_inside_has_a_sheet_a_record_and_a_link(two, part, slot, pictures):
    choice = {"sr3_count": 2, "sr3_step_counts": [1, 2], "sr3_steps_tiny": 2}
    found = run_to_end(opened(INSIDE, sr3_inside=part, **choice), slot)
    kept = two[-1]
    assert [shown.title for shown in kept.shown] == [*pictures, "Original"]
    with Image.open(io.BytesIO(kept.png)) as image:
        assert image.width >= 128 * len(pictures[:5]) and image.info == {}
    record = kept.record
    expected = {"tiny": sr3.folder.weights_hash(sr3.checkpoints.ROOT / "tiny")}
    assert all(each["sha256"] == expected for each in record["networks"])
    assert record["version"] == sr3.__version__ and record["code"] and not record["stopped"]
    assert record["seconds"] > 0 and len(record["networks"]) == len(found.tasks)
    where = found.tasks[0].resolver.device
    assert {(each["device"], each["precision"]) for each in record["networks"]} == {
        (str(where.device), str(where.precision).removeprefix("torch."))
    }
    assert set(record["scores"]) <= set(pictures) and record["scores"]
    assert all("psnr" in values for values in record["scores"].values())
    assert keep._json(record)
    again = linked(kept.link)
    assert again.session_state[links.PART] == part
    other: Group = again.session_state[slot]
    until(lambda: other.ended)
    assert other.tasks == found.tasks
    for place in range(len(found.tasks)):
        assert np.array_equal(other.picture(place), found.picture(place))


@pytest.mark.parametrize(
    ("part", "slot", "settings", "told_of"),
    [("Step counts", "sr3_counts", {"sr3_step_counts": [1, 2, 5]},
      "1, 2 and 5 steps from pure noise (t = 2000), without data consistency, seed 0."),
     ("Consistency", "sr3_kept", {},
      "7 steps from pure noise (t = 2000), with and without data consistency, seed 0.")],
)  # fmt: skip
def test_a_caption_tells_of_every_chain_on_the_sheet(two, part, slot, settings, told_of):
    here = {"sr3_steps_tiny": 7, "sr3_consistency_tiny": False, "sr3_start_tiny": 2000}
    app = opened(INSIDE, sr3_inside=part, **here, **settings)
    run_to_end(app, slot)
    (line,) = two[-1].lines
    assert line.startswith("Tiny test network, ") and line.endswith(told_of)
    assert app.session_state[keep.PAST][-1].line == line
    query = dict(urllib.parse.parse_qsl(two[-1].link))
    assert (query["steps"], query["keep"]) == ("7", "0"), "the visitor's own settings"


def test_what_is_taken_home_is_what_was_run_not_what_is_set_since(two):
    choice = {"sr3_step_counts": [1, 2], "sr3_steps_tiny": 2}
    app = opened(INSIDE, sr3_inside="Step counts", **choice)
    run_to_end(app, "sr3_counts")
    first = two[-1]
    checked(app.multiselect(key="sr3_step_counts").set_value([]).run())
    checked(app.number_input(key="sr3_seed").set_value(7).run())
    checked(app.selectbox(key="sr3_checkpoint").set_value("tuned").run())
    kept = two[-1]
    assert kept.name == first.name and len(two) > 1, "it is still shown"
    assert (kept.stem, kept.lines) == ("sr3-steps-seed0", first.lines)
    again = linked(kept.link).session_state["sr3_counts"]
    assert {(task.key, task.seed) for task in again.tasks} == {("tiny", 0)}


def linked(link: str) -> AppTest:
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    for name, value in urllib.parse.parse_qsl(urllib.parse.urlsplit(link).query):
        app.query_params[name] = value
    return checked(app.run())


def test_a_link_tells_of_another_version(two):
    app = opened(COMPARE, sr3_steps_tiny=2)
    run_to_end(app, "sr3_duel")
    link = two[-1].link
    versions = dict(urllib.parse.parse_qsl(link))["version"]
    assert versions == records.versions(["tiny", "tuned"])
    assert records.changed(versions) == []
    assert records.changed("tiny.00000000,nobody.12345678,<b>.1") == ["tiny"]
    other = linked(link.replace(records.digest("tuned")[:8], "01234567"))
    assert any("another version of tuned" in toast.value for toast in other.toast)


def test_a_comparison_s_png_holds_every_network(two):
    app = opened(COMPARE, sr3_steps_tiny=2)
    found = run_to_end(app, "sr3_duel")
    with Image.open(io.BytesIO(two[-1].png)) as image:
        pixels = np.asarray(image)
    for place in range(2):
        assert holds(pixels, found.picture(place))


def holds(paper: np.ndarray, picture: np.ndarray) -> bool:
    """Whether a picture is somewhere on a sheet, pixel for pixel."""
    side = len(picture)
    starts = np.argwhere((paper[: -side + 1, : -side + 1] == picture[0, 0]).all(-1))
    return any(np.array_equal(paper[y : y + side, x : x + side], picture) for y, x in starts)


def test_a_sheet_has_rows_and_labels():
    red, low = np.full((64, 64, 3), (200, 30, 30), np.uint8), np.zeros((16, 16, 3), np.uint8)
    with Image.open(
        io.BytesIO(sheet([Shown("Input", low)] + [Shown("A long label " * 3, red)] * 6))
    ) as image:
        pixels = np.asarray(image)
    assert (pixels == (200, 30, 30)).all(-1).sum() == 6 * 64 * 64
    assert (pixels[:110] == 0).all(-1).sum() == 64 * 64
    assert pixels.shape[0] > 2 * 64 and pixels.shape[1] < 6 * 80


def test_where_no_film_can_be_made_the_button_says_so_before_the_click(two, monkeypatch):
    keep.film_trouble.clear()
    monkeypatch.setattr(keep, "_try_film", lambda: "The film could not be made here: take the GIF.")
    try:
        keep.film_trouble().result(10)
        app = opened(COMPARE, sr3_steps_tiny=2)
        run_to_end(app, "sr3_duel")
        button = next(b for b in app.get("download_button") if b.proto.label == "MP4")
        assert button.proto.disabled and "take the GIF" in button.proto.help
    finally:
        keep.film_trouble.clear()


def test_past_runs_show_their_link(two):
    app = opened(COMPARE, sr3_steps_tiny=2)
    run_to_end(app, "sr3_duel")
    link = app.session_state[keep.PAST][-1].link
    assert sum(code.value == link for code in app.code) == 2, "under the result and in Your runs"
