"""The pages Domains and Fine-tuning, driven without a browser, over a made-up table."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

import sr3.checkpoints
import sr3.domains
from sr3 import results
from sr3.ui import deck, measured, reels, samples, shelves
from tests import study_table as made
from tests.app_server import make_checkpoints

ROOT = Path(__file__).resolve().parent.parent
DOMAINS, TUNING = "pages/2_Domains.py", "pages/3_Fine-tuning.py"
QUESTIONS = {
    "How little?": ["How little is enough for anime?", "How many updates? Measured on anime",
                    "From scratch, with as many updates"],
    "Which time steps?": ["Which time steps? Measured on anime", "The gap along the chain",
                          "The generalization index"],
    "What does it cost?": ["What does anime cost on noise?"],
}  # fmt: skip


@pytest.fixture(autouse=True)
def _nothing_kept(fresh_app):
    yield
    for cached in (measured._table, measured._story, measured._chart, samples.faces, reels.reels,
                   samples.resolved):  # fmt: skip
        cached.clear()


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(sr3.checkpoints, "ROOT", make_checkpoints(tmp_path))
    return tmp_path


def opened(page: str, **state: object) -> AppTest:
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120)
    for key, value in state.items():
        app.session_state[key] = value
    app = app.switch_page(page).run()
    assert not app.exception and not app.error, [box.value for box in app.error]
    return app


def headings(app: AppTest) -> list[str]:
    return [each.value for each in app.subheader]


@pytest.mark.parametrize("kind", ["empty", "partial", "whole"])
def test_domains_at_every_state_of_the_table(folder, kind):
    made.write(folder, kind)
    app = opened(DOMAINS)
    assert headings(app) == ["Does it generalize?", "Sample faces"]
    if kind == "empty":
        assert "was measured on any domain yet" in app.info[0].value and not app.dataframe
        return
    assert not app.info
    assert {"bicubic", "regression", "parent"} <= set(app.dataframe[0].value["kind"])
    app.multiselect(key="sr3_shown").set_value([]).run()
    assert set(app.dataframe[0].value["kind"]) == {"bicubic", "regression"}  # always shown


@pytest.mark.parametrize("kind", ["empty", "partial", "whole"])
def test_fine_tuning_at_every_state_of_the_table(folder, kind):
    made.write(folder, kind)
    drawn = {"empty": (0, 0, 0), "partial": (2, 0, 1), "whole": (3, 3, 1)}[kind]
    for (question, titles), count in zip(QUESTIONS.items(), drawn, strict=True):
        app = opened(TUNING, sr3_question=question)
        assert len(app.dataframe) == count
        assert len(app.info) == len(titles) - count
        assert all("yet: `python -m sr3" in box.value for box in app.info)
        if kind != "empty":
            assert headings(app) == titles


@pytest.mark.parametrize("page", [DOMAINS, TUNING])
def test_the_metrics_are_explained_where_they_are_told(folder, page):
    made.write(folder, "whole")
    told = [each.value for each in opened(page).markdown]
    (line,) = [each for each in told if "LPIPS: perceptual distance; lower is better." in each]
    assert "PSNR: closeness" in line and "SSIM: closeness" in line and "LR-PSNR" not in line
    assert "A gain is always better." in line and line.startswith(":small[")


def test_a_stand_explains_the_metrics_beside_each_question(folder, monkeypatch):
    made.write(folder, "whole")
    drawn = []
    monkeypatch.setattr(deck, "_deck", lambda **given: drawn.append(given["data"]))
    for at in range(6):
        opened("pages/6_Poster.py", sr3_deck={"at": at, "scale": 1})
    assert [each["at"] for each in drawn] == list(range(6))
    assert [each["meaning"] for each in drawn] == ["", *[measured.MEANT] * 4, ""]


def test_the_domain_of_a_chart_can_be_chosen(folder):
    made.write(folder, "whole")
    app = opened(TUNING, sr3_question="How little?", sr3_curves_on=made.SOURCE)
    frame = app.dataframe[1].value
    assert set(frame["domain"]) == {made.SOURCE}
    best = frame[(frame["metric"] == "psnr") & (frame["updates"] == 100)]
    assert best["gain"].min() == pytest.approx(-0.4)  # forgotten


def test_a_chosen_checkpoint_tells_its_settings_and_whether_it_is_in_the_app(folder):
    cell = made.plain(16, 100, replay=0.25)
    rows = pd.DataFrame(made.rows(made.cells()))
    results.append(rows, folder / "metrics")
    registry = folder / "registry.toml"
    digest = rows.loc[rows["checkpoint"] == str(cell), "checkpoint_hash"].iloc[0]
    text = '\n[kept]\ntitle = "The kept one"\nsource = "kept"\ndomain = "anime"\n'
    registry.write_text(registry.read_text() + text + f'sha256 = "{digest:0<64}"\n')
    app = opened(TUNING, sr3_question="What does it cost?")
    app.selectbox(key="sr3_trade_choice").set_value("16 images, 100 updates, replay 0.25").run()
    assert not app.exception
    told = " ".join(each.value for each in app.markdown)
    assert "replay 0.25: anime gains 0.0950 (" in told and str(cell)[:40] in told
    settings = app.table[0].value.to_string()
    assert "25% of each batch" in settings and "16 images" in settings
    assert "in the app: The kept one" in told


def test_a_changed_table_is_read_again_and_an_unchanged_one_is_not(folder, monkeypatch):
    made.write(folder, "parent")
    reads = []
    read = results.read
    monkeypatch.setattr(results, "read", lambda path: reads.append(path) or read(path))
    opened(DOMAINS)
    app = opened(DOMAINS)
    assert len(reads) == 1 and len(app.multiselect(key="sr3_shown").options) == 1
    results.append(made.rows(made.cells()[:1]), folder / "metrics")
    app = opened(DOMAINS)
    assert len(reads) == 2 and len(app.multiselect(key="sr3_shown").options) == 3


def test_a_parent_of_unknown_origin_asks_for_its_source(folder):
    made.write(folder, "whole")
    (folder / "registry.toml").write_text("")
    with pytest.raises(AssertionError, match="No checkpoint is available"):
        opened(DOMAINS)  # its chart is there; the samples need a checkpoint, and say so
    app = opened(TUNING, sr3_question="What does it cost?", sr3_source_domain="ffhq")
    assert headings(app) == ["What does anime cost on ffhq?"]


def test_sample_faces_are_drawn_ones_unless_a_domain_may_be_shown(folder, monkeypatch, tmp_path):
    data = tmp_path / "data"
    for name in ("aaf", "anime", "ffhq", "celebahq", "stylegan2-faces"):
        (data / name).mkdir(parents=True)
    monkeypatch.setenv("SR3_DATA", str(data))
    assert shelves.allowed() == ["stylegan2-faces"]
    shown = {name for name, entry in sr3.domains.registered().items() if entry.get("may_show")}
    assert not shown & {"aaf", "anime", "ffhq", "celebahq"}
    shutil.rmtree(data)
    assert shelves.allowed() == []
    made.write(folder, "empty")
    app = opened(DOMAINS)
    app.toggle(key="sr3_samples").set_value(True).run()
    assert not app.exception and not app.error
    images = app.get("image")
    assert images[0].captions == ["Input", "Bicubic", "tiny", "Original"]
    assert len(images) == samples.FACES
    assert any("Drawn by this program" in each.value for each in app.markdown)


def test_sr3_data_is_what_names_the_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("SR3_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    assert shelves.allowed() == [] and "SR3_DATA" not in os.environ
