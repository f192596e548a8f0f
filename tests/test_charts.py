"""Views, figures and the report, from a made-up table whose every mean is known."""

from __future__ import annotations

import ast
import dataclasses
import math
import os
import re
import shutil
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import sr3.checkpoints
from benchmarks.tables import shown
from sr3 import charts, figures, poster, report, results
from sr3.answers import answer_all, range_effects
from sr3.cli import app
from sr3.combine import Parent, Recipe
from sr3.folder import save_checkpoint
from sr3.looks import SYMBOLS, contrast, enlarged, look, mixed
from sr3.metrics import Interval
from sr3.observations import Level, drifts, fadings, flattenings, levels, shifts, transfers
from sr3.presets import MODELS
from sr3.unet import UNet
from sr3.verdicts import verdict
from sr3.views import Story, made_as, parents, source_of
from tests import study_table as made
from tests.app_server import make_checkpoints

ROOT = Path(__file__).resolve().parent.parent
LIGHT = look("light")
OF_TARGET = ("grid", "curves", "ranges", "trade", "scratch")


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tables")
    return {k: made.write(folder / k, k) for k in ("empty", "parent", "partial", "whole")}


@pytest.fixture(scope="module", autouse=True)
def registered(tmp_path_factory):
    """The parent and a splice, which the table has under a name that does not tell what it is."""
    folder = make_checkpoints(tmp_path_factory.mktemp("checkpoints"))
    parents = (Parent(made.PARENT, "p" * 64), Parent("tuned", "t" * 64))
    save_checkpoint(folder / "half", Recipe("spliced", parents, step=500), {}, "")
    with (folder / "registry.toml").open("a") as file:
        file.write(f'[{made.SPLICED}]\ntitle = "Two halves"\nsource = "half"\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sr3.checkpoints, "ROOT", folder)
        yield


def told(path: Path, source: str | None = made.SOURCE) -> Story:
    table = results.read(path)
    names = parents(table)
    return Story(table, names[0] if names else "", source if names else None)


@pytest.fixture(scope="module")
def story(tables) -> Story:
    return told(tables["whole"])


def every_chart(story: Story) -> list[charts.Chart]:
    target = made.TARGET
    return [
        charts.quality(story, LIGHT), charts.grid(story, LIGHT, target),
        charts.curves(story, LIGHT, target, target), charts.scratch(story, LIGHT, target),
        charts.ranges(story, LIGHT, target, made.SOURCE), charts.chain(story, LIGHT),
        charts.index(story, LIGHT), charts.trade(story, LIGHT, target),
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------- views
def test_gains_are_those_that_were_put_in(story):
    view = story.gains(made.TARGET, [made.TARGET, made.SOURCE])
    assert len(view) == 3 * 2 * len(made.COUNTS) * len(made.UPDATES)
    counts = {"all images": None, "16 images": 16, "1 image": 1}
    for row in view.to_dict("records"):
        cell = made.plain(counts[row["images"]], row["updates"])
        expected = made.gain(cell, row["domain"]) * made.SCALE[row["metric"]]
        assert row["gain"] == pytest.approx(expected, abs=1e-12)
        assert row["low"] <= row["gain"] + 1e-9 and row["high"] >= row["gain"] - 1e-9
        assert row["n"] == made.IMAGES and row["seeds"] == 2


def test_ranges_stand_beside_the_whole_chain(story):
    view = story.gains(made.TARGET, [made.TARGET], ranges=True)
    assert set(view["range"]) == {"0:2000", "0:500", "1500:2000"}
    assert set(view["images"]) == {"all images"}  # no range was tried with fewer
    half = view[view["metric"] == "psnr"].set_index(["range", "updates"])["gain"]
    assert half["0:500", 100] == pytest.approx(0.5) and half["0:2000", 100] == pytest.approx(1.0)


def test_quality_is_of_absolute_means_with_baselines_first(story):
    view = story.quality(story.highlights)
    part = view[(view["metric"] == "lpips") & (view["domain"] == made.TARGET)]
    means = part.set_index("checkpoint")["mean"]
    difficulty = 0.1 * np.arange(made.IMAGES).mean()
    assert list(means.index[:3]) == ["bicubic enlargement", "one-step regression", "tiny (parent)"]
    for label, effect in zip(means.index[:3], (-1.0, -0.5, 0.0), strict=True):
        assert means[label] == pytest.approx(0.4 - 0.1 * (effect + difficulty))
    assert means["all images, 100 updates"] == pytest.approx(0.4 - 0.1 * (1.0 + difficulty))
    assert list(dict.fromkeys(view["domain"])) == [made.SOURCE, "celebahq", "ffhq", made.TARGET]


def test_means_are_over_the_images_that_all_were_measured_on(tmp_path):
    rows = pd.DataFrame(made.rows(made.cells()[:2]))
    few = (rows["checkpoint"] == str(made.cells()[0])) & rows["image"].isin(["4.png", "5.png"])
    more = rows[(rows["checkpoint"] == made.PARENT) & rows["metric"].isin(made.BASE)].copy()
    more["file_list_hash"], more["image"] = "a longer list", "other " + more["image"]
    more["value"] += 5
    results.append(pd.concat([rows[~few], more]), tmp_path)
    story = told(tmp_path)
    view = story.quality()
    assert set(view["n"]) == {made.IMAGES - 2}
    means = view[(view["metric"] == "psnr") & (view["domain"] == "ffhq")].set_index("checkpoint")
    difficulty = 0.1 * np.arange(made.IMAGES - 2).mean()
    assert means.loc["tiny (parent)", "mean"] == pytest.approx(20 + difficulty)
    assert means.loc["bicubic enlargement", "mean"] == pytest.approx(19 + difficulty)


def test_trades_are_gain_and_change_without_from_scratch(story):
    view = story.trades(made.TARGET)
    psnr = view[view["metric"] == "psnr"].set_index("checkpoint")
    replayed = psnr.loc["16 images, 100 updates, replay 0.25"]
    assert (replayed["gain"], replayed["change"]) == (pytest.approx(0.95), pytest.approx(-0.095))
    assert replayed["kind"] == "replay" and replayed["front"]
    assert psnr.loc[made.SPLICED, "kind"] == "spliced"
    assert not psnr.loc["16 images, 100 updates", "front"]  # replay gains as much, forgets less
    assert "scratch" not in set(view["kind"])
    assert len(psnr.loc["all images, 100 updates", "names"].split("\n")) == 2


def test_the_gap_is_a_ratio_of_errors_and_is_told(story):
    view = story.gap()
    ratios = view.set_index(["domain", "time"])["ratio"]
    for number, domain in enumerate(made.DOMAINS[1:], 1):
        for time in made.TIMES:
            assert ratios[domain, time] == pytest.approx(1 + number * 10 / time)
    for number, domain in enumerate(made.DOMAINS[1:], 1):
        (found,) = (each for each in fadings(story) if each.domain == domain)
        change = (1 + number * 10 / 2000) / (1 + number)
        assert found.times == (10, 2000, 2000)
        # In pairs it is the same on every image, however the images differ.
        assert [found.whole.mean, found.whole.low, found.whole.high] == pytest.approx([change] * 3)
        assert found.ratios[0].low < found.ratios[0].high
        assert found.sentence.endswith("the gap fades with the noise.")
    index = story.index().set_index("domain")["index"]
    assert index[made.SOURCE] == 0 and index[made.TARGET] == 3
    assert set(story.index()["n"]) == {3} and set(story.index()["floor"]) == {0.0}


def test_the_index_is_told_beside_two_halves_with_as_many_images(tmp_path):
    """Earlier, with fewer images, both stood higher; one domain is no farther than the halves."""
    for n, floor in ((3, 5.0), (30, 2.0)):
        values = {made.SOURCE: (floor, floor + 0.1), made.TARGET: (floor + 1, floor + 1.5),
                  "ffhq": (floor + 0.05, floor + 1.2)}  # fmt: skip
        results.append([
            made.row(made.PARENT, "p" * 64, domain, -1, f"srga@t={time}|{made.SOURCE}",
                     value - time / 1e4, f"srga n={n}", 1) | {"seed": split}
            for domain, pair in values.items() for split, value in enumerate(pair)
            for time in (10, 500)
        ], tmp_path)  # fmt: skip
    results.append(made.rows([], gap=False), tmp_path)
    view = told(tmp_path).index()
    assert set(view["n"]) == {30}
    assert view["floor"].tolist() == pytest.approx([2.099, 2.05] * 3)
    said = {each.domain: each for each in drifts(view)}
    assert set(said) == {made.TARGET, "ffhq"} and said["ffhq"].time == 10
    assert "3.25 (3.00 to 3.50" in said[made.TARGET].sentence
    assert "2.05 (2.00 to 2.10" in said[made.TARGET].sentence
    assert "a divergence of 0.0177 nats" in said[made.TARGET].sentence  # 10^-5 (10^3.249 - 1)
    assert said[made.TARGET].sentence.endswith("(n = 30 images a side): it is above that floor.")
    assert said["ffhq"].sentence.endswith("it is not to be told from that floor.")
    drawn = charts.index(told(tmp_path), LIGHT).figures[0].data
    assert f"two halves of {made.SOURCE}" in {trace.name for trace in drawn}


def along(time: int, factor: float, domain: str, **changes) -> list[dict]:
    """Rows of the gap with images that differ far more than time steps do."""
    return [
        made.row(made.PARENT, "p" * 64, domain, k, f"x0_mae@t={time}", 0.1 * (1 + k) * factor,
                 "one-step draws=2", 1) | changes
        for k in range(made.IMAGES)
    ]  # fmt: skip


def test_a_dip_of_the_gap_and_what_fine_tuning_makes_of_it_are_told_in_pairs(tmp_path):
    cell = made.plain(None, 100, range=(0, 500))
    other = {"checkpoint": "step-000100", "checkpoint_hash": made._hash(cell)}
    ratios = {10: 2.0, 500: 1.5, 2000: 1.9}
    rows = list(made.rows([cell], gap=False))
    for time, ratio in ratios.items():
        inside = time <= 500
        rows += along(time, 1, made.SOURCE) + along(time, ratio, made.TARGET)
        rows += along(time, 1, made.SOURCE, **other)
        rows += along(time, ratio * (0.8 if inside else 1.1), made.TARGET, **other)
    results.append(rows, tmp_path)
    story = told(tmp_path)
    (fading,) = fadings(story)
    assert fading.times == (10, 500, 2000)
    assert [fading.rise.low, fading.rise.high] == pytest.approx([1.9 / 1.5] * 2)
    assert [fading.whole.low, fading.whole.high] == pytest.approx([0.95] * 2)
    assert fading.ratios[0].high > 2 * fading.ratios[0].low, "which images were drawn matters"
    assert "fades with the noise; from its least it grows again by a factor of 1.27" in (
        fading.sentence
    )
    (shift,) = shifts(story)
    assert [shift.inside.low, shift.inside.high] == pytest.approx([0.8] * 2)
    assert shift.outside is not None
    assert [shift.outside.low, shift.outside.high] == pytest.approx([1.1] * 2)
    assert "all images, 100 updates" in shift.sentence and "(0:500)" in shift.sentence
    assert shift.sentence in charts.chain(story, LIGHT).more


def test_a_gap_under_a_folders_name_is_known_by_its_weights(tmp_path):
    cell = made.cells()[0]
    rows = pd.DataFrame(made.rows([cell]))
    tuned = rows[rows["metric"].str.startswith("x0_mae")].copy()
    digest = rows.loc[rows["checkpoint"] == str(cell), "checkpoint_hash"].iloc[0]
    tuned["checkpoint"], tuned["checkpoint_hash"] = "step-000010", digest
    results.append(pd.concat([rows, tuned]), tmp_path)
    assert "1 image, 10 updates" in set(told(tmp_path).gap()["checkpoint"])


def test_images_that_the_parent_alone_was_measured_on_hide_no_checkpoint(tables, story):
    table = results.read(tables["whole"])
    more = table[(table["checkpoint"] == made.PARENT) & (table["domain"] == made.SOURCE)]
    longer = pd.concat([table, more.assign(image=more["image"] + "-more")])
    names = set(story.trades(made.TARGET)["checkpoint"])
    assert made.SPLICED in names
    told_more = Story(longer, made.PARENT, made.SOURCE).trades(made.TARGET)
    assert set(told_more["checkpoint"]) == names
    part = table[table["checkpoint"] == made.SPLICED]["image"].unique()
    fewer = table[(table["checkpoint"] != made.SPLICED) | (table["image"] != part[0])]
    told_less = Story(fewer, made.PARENT, made.SOURCE).trades(made.TARGET)
    assert set(told_less["checkpoint"]) == names - {made.SPLICED}, "its images are fewer"


def test_observations(story):
    wins = transfers(story, "lpips")
    assert [each.difference.mean for each in wins] == pytest.approx([0.1, 0.05] * 4)
    assert all(" beats " in each.sentence for each in wins)
    (last,) = flattenings(story, "psnr", made.TARGET, made.TARGET)
    assert last.updates == (10, 100)
    assert last.difference.mean == pytest.approx(0.5) and last.images == "all images"
    assert dataclasses.replace(last, later=0.3).sentence.endswith(": more still helps."), (
        "of a loss"
    )
    share = 1 - last.difference.mean / last.later
    assert 0 < share < 1
    assert last.sentence.endswith(
        f": more still helps, although {share:.0%} of it had been reached."
    )


def test_the_parent_on_its_own_domain_and_on_others(story):
    found = levels(story, "lpips")
    assert [each.domain for each in found] == [made.SOURCE, "celebahq", "ffhq", made.TARGET]
    assert [each.own for each in found] == [True, False, False, False]
    difficulty = 0.1 * np.arange(made.IMAGES).mean()
    for each in found:
        assert each.value.mean == pytest.approx(0.4 - 0.1 * difficulty)
        assert each.bicubic == pytest.approx(0.4 - 0.1 * (difficulty - 1.0))
    assert levels(Story(story.table, made.PARENT, None), "lpips")[0].home is None


@pytest.mark.parametrize(
    ("metric", "at", "told"),
    [
        ("lpips", (0.29, 0.28, 0.30), "0.290 (95% interval 0.280 to 0.300, n = 9), worse than on"),
        ("lpips", (0.15, 0.14, 0.16), "0.150 (95% interval 0.140 to 0.160, n = 9), better than on"),
        ("psnr", (0.29, 0.28, 0.30), "0.29 (95% interval 0.28 to 0.30, n = 9), better than on"),
        ("ssim", (0.15, 0.14, 0.16), "0.150 (95% interval 0.140 to 0.160, n = 9), worse than on"),
        ("ssim", (0.22, 0.21, 0.23), "n = 9), not told apart from that on its own domain;"),
        ("ssim", (0.22, math.nan, math.nan), "(no interval, n = 9), not told apart from that on"),
    ],
)
def test_another_domain_is_told_beside_the_own_one(metric, at, told):
    home = Interval(0.2, 0.19, 0.21, 7)
    level = Level(metric, "far", "lite", Interval(*at, 9), 0.7, False, home)
    assert told in level.sentence and level.sentence.startswith(f"{metric.upper()} of lite on far:")
    alone = Level(metric, "near", "lite", home, 0.7, True, home)
    assert "on its own domain, near: 0.2" in alone.sentence and "than" not in alone.sentence


def test_a_curve_that_goes_on_for_longer_than_others_is_told(tables):
    table = results.read(tables["whole"])
    shorter = table[~table["checkpoint"].str.contains(r"images=1 updates=100 ")]
    assert len(shorter) < len(table)
    found = flattenings(Story(shorter, made.PARENT, made.SOURCE), "psnr", made.TARGET, made.TARGET)
    assert [each.images for each in found] == ["all images", "16 images"]
    assert {each.updates for each in found} == {(10, 100)}


@pytest.mark.parametrize(
    ("bounds", "told"),
    [
        ((0.02, 0.01, 0.03), "a beats b by 0.0200 (95% interval 0.0100 to 0.0300, n = 9)"),
        ((-0.02, -0.03, -0.01), "a loses to b by 0.0200 (95% interval 0.0100 to 0.0300, n = 9)"),
        (
            (-0.02, -0.03, 0.01),
            "a is not told apart from b: the difference is -0.0200 "
            "(95% interval -0.0300 to +0.0100, n = 9)",
        ),
        (
            (0.02, math.nan, math.nan),
            "a is not told apart from b: the difference is +0.0200 (no interval, n = 9)",
        ),
    ],
)
def test_which_of_two_is_better_is_told_with_its_size(bounds, told):
    assert verdict("a", Interval(*bounds, 9), "b") == told


def test_what_a_checkpoint_is_comes_from_its_settings_not_its_name():
    assert made_as(made.SPLICED) == "spliced"
    assert made_as("tiny") == made_as("interpreted") == made_as("a-splice-of-life") == "other"


def test_parent_and_source_come_from_table_and_registry(tables, tmp_path, monkeypatch):
    monkeypatch.setattr(sr3.checkpoints, "ROOT", make_checkpoints(tmp_path))
    table = results.read(tables["whole"])
    assert parents(table) == [made.PARENT] and source_of(table, made.PARENT) == made.SOURCE
    assert source_of(table, "stranger") is None
    assert parents(results.read(tables["parent"])) == [made.PARENT]


def test_bicubic_is_that_of_the_parents_sizes(tables, tmp_path, monkeypatch):
    table = results.read(tables["whole"])
    ours = table[table["checkpoint"] == "bicubic"]
    other = ours.assign(checkpoint_hash="bicubic 32-128", value=ours["value"] + 1)
    both, means = pd.concat([table, other], ignore_index=True), {}
    for low in (16, 32, None):  # of a parent that is not here nobody knows which is its own
        monkeypatch.setattr(sr3.checkpoints, "ROOT", folder := tmp_path / str(low))
        if low:
            network = dataclasses.replace(MODELS["tiny"].network, low_res=low)
            config = dataclasses.replace(MODELS["tiny"], network=network)
            save_checkpoint(folder / "tiny", config, UNet(network).state_dict(), "")
            (folder / "registry.toml").write_text('[tiny]\ntitle = "T"\nsource = "tiny"\n')
        values = Story(both, made.PARENT, made.SOURCE).values("psnr", made.TARGET)
        assert made.PARENT in values
        means[low] = values["bicubic"].mean() if "bicubic" in values else None
        rows = shown(both, made.PARENT)
        hashes = set(rows.loc[rows["checkpoint"] == "bicubic", "checkpoint_hash"])
        assert hashes == {16: {"bicubic"}, 32: {"bicubic 32-128"}, None: set()}[low]
    here = (ours["metric"] == "psnr") & (ours["domain"] == made.TARGET)
    mean = ours.loc[here, "value"].mean()
    assert means == {16: pytest.approx(mean), 32: pytest.approx(mean + 1), None: None}
    alone = Story(table, made.PARENT, made.SOURCE).values("psnr", made.TARGET)
    assert alone["bicubic"].mean() == pytest.approx(mean), "where there is but one, it is that"


# ----------------------------------------------------------------------------------------- figures
def test_the_heat_map_holds_the_view_and_marks_the_least(story):
    chart = charts.grid(story, LIGHT, made.TARGET)
    heat, numbers, best, least = chart.figures[story.metrics.index("psnr")].data
    expected = [
        [made.gain(made.plain(n, k), made.TARGET) for k in made.UPDATES] for n in (1, 16, None)
    ]
    assert np.allclose(np.array(heat.z, float), expected)
    assert np.allclose([float(text) for text in numbers.text], np.ravel(expected), atol=0.0051)
    assert (round(best.x[0]), round(best.y[0])) == (1, 2)  # all images, 100 updates
    assert (round(least.x[0]), round(least.y[0])) == (1, 1)  # 16 images reach 0.95 of it


def test_names_of_updates_do_not_crowd():
    counts = [10, 30, 100, 300, 1000, 2000, 3000]
    view = pd.DataFrame(
        {
            "metric": "ssim", "domain": made.TARGET, "images": "16 images", "updates": counts,
            "gain": 0.1, "low": 0.0, "high": 0.2, "n": 8, "seeds": 1,
        }
    )  # fmt: skip
    axis = figures.curves(view, "ssim", made.TARGET, LIGHT).layout.xaxis
    assert sorted(axis.tickvals) == counts, "each count keeps its tick"
    assert set(axis.ticktext) == {"10", "30", "100", "300", "1,000", "", "3,000"}


def test_bars_are_the_intervals(story):
    view = story.quality(["tiny (parent)"])
    drawn = figures.quality(view, "psnr", {}, LIGHT).data[0]
    part = view[view["metric"] == "psnr"]
    assert np.allclose(np.add(drawn.y, drawn.error_y.array), part["high"])
    assert np.allclose(np.subtract(drawn.y, drawn.error_y.arrayminus), part["low"])
    assert all(f"n = {made.IMAGES} images, 1 seed" in text for text in drawn.text)


def test_trade_figure_has_front_kinds_and_labels(story):
    drawn = charts.trade(story, LIGHT, made.TARGET, made.SPLICED).figures[0]
    by_name = {trace.name: trace for trace in drawn.data}
    assert {"Pareto front", "parent", "with replay", "LoRA", "spliced"} <= set(by_name)
    assert list(by_name["Pareto front"].x) == sorted(by_name["Pareto front"].x)
    assert list(by_name["spliced"].customdata) == [made.SPLICED]
    assert by_name["spliced"].marker.size[0] > by_name["LoRA"].marker.size[0]


def test_a_checkpoint_has_one_colour_everywhere(story):
    few = story.quality(["all images, 100 updates"])
    many = story.quality(list(story.identities))
    label = "all images, 100 updates"
    colours = [
        next(t for t in figures.quality(v, "ssim", {label: None}, LIGHT).data if t.name == label)
        for v in (few, many)
    ]
    assert colours[0].marker.color == colours[1].marker.color == LIGHT.colour("plain")
    assert len(set(SYMBOLS.values())) == len(SYMBOLS)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_lines_and_numbers_can_be_read_on_their_ground(scheme):
    colours = look(scheme)
    for images in (1, 16, 256, None):
        assert contrast(colours.colour("plain", images), colours.background) >= 3
    for share in np.linspace(-1, 1, 21):
        place = (share + 1) / 2 * (len(colours.diverging) - 1)
        left = min(int(place), len(colours.diverging) - 2)
        ground = mixed(colours.diverging[left], colours.diverging[left + 1], place - left)
        assert contrast(colours.readable(share), ground) >= 4.5
    assert contrast("#FFFFFF", "#000000") == pytest.approx(21)


@pytest.mark.parametrize("kind", ["empty", "parent", "partial", "whole"])
def test_every_chart_is_drawn_or_says_what_is_missing(tables, kind):
    drawn = every_chart(told(tables[kind]))
    for chart in drawn:
        assert bool(chart.figures) != bool(chart.missing)
        assert chart.missing or (chart.caption and len(chart.data) and chart.sentences)
        assert not chart.missing or chart.missing.endswith("measures it.")
    counts = {"empty": 0, "parent": 1, "partial": 4, "whole": 8}
    assert sum(bool(chart.figures) for chart in drawn) == counts[kind]


def test_charts_say_what_the_answers_say(story):
    said = " ".join(s for c in every_chart(story) for s in (*c.sentences, *c.more))
    for answer in answer_all(story.table, made.PARENT, made.SOURCE):
        domain = getattr(answer, "domain", None)
        if domain != made.TARGET or "time steps" not in answer.sentence:  # ranges: on the source
            assert answer.sentence in said
    for answer in range_effects(story.study, "ssim", made.TARGET, made.SOURCE):
        assert answer.sentence in said


# ------------------------------------------------------------------------------------------ report
def numbers(text: str) -> set[str]:
    return set(re.findall(r"\d+(?:[.,]\d+)*", text))


def list_items(page: str) -> list[str]:
    return [unescape(re.sub(r"<[^>]+>", "", each)) for each in re.findall(r"<li>(.*?)</li>", page)]


def assert_alone(page: str) -> None:
    """Nothing in the page's own markup asks for another file."""
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert re.findall(r"(?:src|href)=[\"'](?!data:)", markup) == []
    assert "@import" not in markup and "url(" not in markup and "<link" not in markup
    assert re.findall(r"<script[^>]+src", page) == []
    assert page.count("plotly.js v") == 1


@pytest.mark.parametrize("kind", ["empty", "partial", "whole"])
def test_the_report_is_one_file_and_every_number_is_an_answers(tables, kind):
    story = told(tables[kind])
    page = report.html(story)
    assert_alone(page)
    assert ("The table holds no study yet" in page) == (kind == "empty")
    known = {s for _, part in report.sections(story, LIGHT) for c in part
             for s in (*c.sentences, *c.more)}  # fmt: skip
    said = list_items(page)
    assert len(said) >= len(known)
    allowed = set().union(*map(numbers, known), numbers(" ".join(report.LIMITS)))
    assert set().union(*map(numbers, said)) <= allowed


def test_the_poster_tells_the_four_answers(tables, story):
    page = poster.html(story)
    assert_alone(page)
    assert page.count("Plotly.newPlot(") - page.split("<body>")[0].count("Plotly.newPlot(") == 4
    least = charts.grid(story, LIGHT, made.TARGET).sentences[0]
    assert least.replace("'", "&#x27;") in page and "Limits." in page
    empty = poster.html(told(tables["empty"]))
    assert "The table holds no study yet" in empty and empty.count('class="missing"') == 4


def test_two_sentences_tell_of_the_own_domain_and_of_the_far_one(story):
    """A stand's slide has room for no more."""
    question, said, *_ = poster.answered(story, made.TARGET, LIGHT)[0]
    assert question == "Does it generalize?" and len(said) == 2
    for domain, sentence in zip((made.SOURCE, made.TARGET), said, strict=True):
        assert domain in sentence and "; bicubic enlargement: 0." in sentence


def test_without_a_browser_the_page_is_written_and_one_sentence_says_why(
    tables, tmp_path, monkeypatch
):
    monkeypatch.delenv("SR3_CHROMIUM", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    arguments = ["report", "--out", str(tmp_path / "out"), "--table", str(tables["empty"])]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    assert "no Chromium or Chrome is on the PATH" in done.stderr and not done.stdout
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"report.html", "poster.html"}


def test_a_table_that_is_not_there_is_one_sentence(tmp_path):
    out, there = tmp_path / "out", tmp_path / "mistyped"
    done = CliRunner().invoke(app, ["report", "--out", str(out), "--table", str(there)])
    assert done.exit_code == 2 and f"There is no table at {there}" in done.stderr
    assert not out.exists()


def test_a_wrong_choice_is_one_sentence(tables, tmp_path):
    for name, value in (("--checkpoint", "nobody"), ("--source", "nowhere")):
        arguments = ["--out", str(tmp_path / "no"), "--table", str(tables["whole"]), name, value]
        done = CliRunner().invoke(app, ["report", *arguments])
        assert done.exit_code == 2 and done.stderr.count("\n") == 1
        assert value in done.stderr and not (tmp_path / "no").exists()


@pytest.mark.browser
def test_the_poster_is_one_a1_sheet(tables, tmp_path):
    if poster.find_browser() is None:
        if os.environ.get("SR3_REQUIRE_BROWSER") == "1":
            pytest.fail("Chromium is missing: install it, or set SR3_CHROMIUM.")
        pytest.skip("no Chromium")
    arguments = ["--out", str(tmp_path), "--table", str(tables["parent"])]
    done = CliRunner().invoke(app, ["report", *arguments])
    assert done.exit_code == 0 and "poster.pdf" in done.stderr
    data = (tmp_path / "poster.pdf").read_bytes()
    boxes = re.findall(rb"/MediaBox ?\[0 0 ([\d.]+) ([\d.]+)\]", data)
    assert len(boxes) == 1  # one page
    millimetres = [float(side) / 72 * 25.4 for side in boxes[0]]
    assert millimetres == pytest.approx([594, 841], abs=0.5)


@pytest.mark.browser
def test_long_sentences_are_written_smaller_and_nothing_lies_on_another(
    chromium, tables, tmp_path, monkeypatch
):
    page = chromium.new_page()
    letters = []
    for times in (1, 30):
        told_at_length = ["What was found is told at length. " * times] * 3
        monkeypatch.setattr(poster, "_range_headlines", lambda *_, said=told_at_length: said)
        page.goto(poster.write(told(tables["whole"]), tmp_path).as_uri())
        size, ends, limits = page.evaluate("""[
            parseFloat(getComputedStyle(document.querySelector('li')).fontSize),
            [...document.querySelectorAll('.plot, li')].map(
                each => each.getBoundingClientRect().bottom),
            document.querySelector('.limits').getBoundingClientRect().top]""")
        assert max(ends) <= limits
        letters.append(size)
    assert letters[1] < letters[0]
    page.close()


# ------------------------------------------------------------------------------ no number is typed
WRITTEN = ("sr3/charts.py", "sr3/report.py", "sr3/poster.py", "sr3/observations.py",
           "sr3/ui/chosen.py", "sr3/ui/measured.py", "sr3/ui/samples.py",
           "pages/2_Domains.py", "pages/3_Fine-tuning.py")  # fmt: skip
NAMES = ("SR3", "sr3", "95%", "#x27", "h1", "h2", "h3")  # words with a digit, and the confidence


@pytest.mark.parametrize("file", WRITTEN)
def test_no_sentence_has_a_typed_number(file):
    tree = ast.parse((ROOT / file).read_text())
    formats = {id(part) for node in ast.walk(tree) if isinstance(node, ast.FormattedValue)
               and node.format_spec for part in ast.walk(node.format_spec)}  # fmt: skip
    found = []
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in formats
        ):
            text = node.value
            for name in NAMES:
                text = text.replace(name, "")
            if " " in text.strip() and re.search(r"\d", text):
                found.append(node.value)
    assert [text for text in found if not _a_docstring(tree, text)] == []


def _a_docstring(tree: ast.AST, text: str) -> bool:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = (node for node in ast.walk(tree) if isinstance(node, kinds))
    return any(ast.get_docstring(node, clean=False) == text for node in nodes)


def test_a_figure_for_a_stand_is_larger_in_letters_marks_and_height_alone(story):
    usual = charts.trade(story, look("light"), made.TARGET).figures[0]
    large = enlarged(usual, 2)
    assert enlarged(usual, 1) is usual
    assert large.layout.height == 2 * usual.layout.height
    assert large.layout.margin.b == 2 * usual.layout.margin.b
    assert large.layout.template.layout.font.size == 2 * usual.layout.template.layout.font.size
    places = [
        [(each["x"], each["y"]) for each in figure.to_plotly_json()["data"]]
        for figure in (usual, large)
    ]
    assert str(places[0]) == str(places[1]) and len(places[0]) > 3
    for one, other in zip(usual.data, large.data, strict=True):
        assert one.name == other.name
        assert one.line.width is None or other.line.width == 2 * one.line.width
        if one.marker.size is not None:
            assert (np.array(other.marker.size) == 2 * np.array(one.marker.size)).all()
