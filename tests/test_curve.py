"""Quality against evaluations: measured once, drawn from the table, compared in pairs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from sr3 import report, results
from sr3.curve import COLUMNS, Line, compare, curve, lines, measure
from sr3.devices import Device
from sr3.domains import load_domain
from sr3.effort import effort
from sr3.evaluate import sampler_label
from sr3.looks import look
from sr3.metrics import Scorer
from sr3.pipeline import SuperResolver
from sr3.presets import MODELS
from sr3.unet import UNet
from sr3.views import Story

CONFIG = MODELS["tiny"]
EXACT = Device(torch.device("cpu"), torch.float32, "for the tests")
WHAT = [Line("recommended", {}, (1, 2)), Line("ancestral", {"sampler": "ancestral"}, (2,))]
LIGHT = look("light")
BLIND = Scorer(None, "not in this test")


@pytest.fixture(scope="module")
def model() -> SuperResolver:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SuperResolver(UNet(CONFIG.network).eval(), CONFIG, EXACT, "tiny")


@pytest.fixture
def domain(tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (6, 128, 128, 3), dtype=np.uint8)
    for number, pixels in enumerate(noise):
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return load_domain(str(folder))


def measured(model, domain, folder, what=WHAT):
    return list(
        measure(model, domain, "f" * 64, what, split="train", images=2, folder=folder, scorer=BLIND)
    )


def test_settings_are_measured_once_and_told_apart(model, domain, tmp_path, monkeypatch):
    table = tmp_path / "curves"
    expected = [("recommended", 1), ("recommended", 2), ("ancestral", 2)]
    assert measured(model, domain, table) == expected
    rows = results.read(table)
    assert set(zip(rows["sampler"], rows["steps"], strict=True)) == {
        ("ddim", 1), ("ddim", 2), ("ancestral", 2),
    }  # fmt: skip
    monkeypatch.setattr("sr3.curve.evaluate", None)  # nothing is left to measure
    assert measured(model, domain, table) == expected
    with pytest.raises(TypeError):
        measured(model, domain, table, [Line("recommended", {}, (3,))])


def test_another_domain_with_the_same_file_names_is_measured_too(model, domain, tmp_path):
    table = tmp_path / "curves"
    for each in (domain, replace(domain, name="others")):
        assert len(measured(model, each, table)) == 3
    counts = results.read(table).groupby("domain").size()
    assert set(counts.index) == {"faces", "others"} and counts.nunique() == 1


def test_the_curve_is_the_table_s_means(model, domain, tmp_path):
    table = tmp_path / "curves"
    measured(model, domain, table)
    rows = results.read(table)
    found = curve(rows, CONFIG, "f" * 64, "psnr", domain.name)
    assert list(found.columns) == COLUMNS
    first = found[found["line"] == "recommended"]
    assert first["steps"].tolist() == [1, 2] and set(found["n"]) == {2}
    ours = rows[(rows["sampler"] == "ddim") & (rows["steps"] == 2) & (rows["metric"] == "psnr")]
    assert first["mean"].iloc[1] == pytest.approx(ours["value"].mean())
    assert curve(rows, CONFIG, "0" * 64, "psnr", domain.name).empty
    assert curve(rows, CONFIG, "f" * 64, "lpips", domain.name).empty


def test_few_and_many_are_compared_in_pairs(model, domain, tmp_path):
    table = tmp_path / "curves"
    measured(model, domain, table)
    rows = results.read(table)
    found = compare(rows, "f" * 64, ("ddim", 2), ("ancestral", 2))
    assert set(found) == {"psnr", "ssim"}  # no LPIPS was measured
    values = [
        rows[(rows["sampler"] == name) & (rows["steps"] == 2) & (rows["metric"] == "ssim")]
        for name in ("ddim", "ancestral")
    ]
    gap = values[0]["value"].mean() - values[1]["value"].mean()
    assert found["ssim"].mean == pytest.approx(gap)


@pytest.mark.parametrize("name", ["lite", "sr3-16-128"])
def test_every_line_is_its_own_setting_or_the_recommended_one(name):
    config = MODELS[name]
    model = SuperResolver(torch.nn.Identity(), config, EXACT)
    made = lines(config.sampling, 2000)
    labels = {}
    for line in made:
        label = sampler_label(model.settings(**line.changes), config.sampling)
        labels.setdefault(label, []).append(line.title)
    plain = labels.pop(config.sampling.sampler)
    assert "recommended" in plain  # and what is recommended goes by its own name too
    assert all(len(titles) == 1 for titles in labels.values()), labels
    assert max(made[-1].steps) == 2000


def test_the_chart_tells_only_what_the_table_holds(model, domain, tmp_path):
    table = tmp_path / "curves"
    empty = effort(results.read(table), CONFIG, "f" * 64, domain.name, LIGHT)
    assert not empty.figures and "benchmarks.samplers" in empty.missing
    measured(model, domain, table)
    rows = results.read(table)
    chart = effort(rows, CONFIG, "f" * 64, domain.name, LIGHT)
    assert [figure.layout.title.text for figure in chart.figures] == ["PSNR (dB) ↑", "SSIM ↑"]
    drawn = {trace.name: trace for trace in chart.figures[0].data}
    means = rows[rows["metric"] == "psnr"].groupby(["sampler", "steps"])["value"].mean()
    assert list(drawn["recommended"].x) == [1, 2]
    assert list(drawn["recommended"].y) == pytest.approx([means["ddim", 1], means["ddim", 2]])
    best = max(means.items(), key=lambda each: each[1])
    assert f"{best[1]:.3f}" in chart.sentences[-1] and str(best[0][1]) in chart.sentences[-1]
    assert "n = 2 images, one seed" in chart.caption and not chart.more
    assert chart.title in report.html(Story(rows.iloc[:0], "", None), chart)


def test_the_chart_tells_of_the_whole_chain_on_the_same_images(model, domain, tmp_path):
    """Rows of other images, measured on the same settings, neither count nor stand in the way."""
    table = tmp_path / "curves"
    last = lines(CONFIG.sampling, 2000)[-1]
    chain = [Line("recommended", {}, (2,)), Line("the paper's chain", last.changes, (20,))]
    measured(model, domain, table)
    list(
        measure(model, domain, "f" * 64, chain, split="train", images=3, folder=table, scorer=BLIND)
    )
    rows = results.read(table)
    rows.loc[rows["steps"] == 20, "steps"] = 2000  # as if it had been measured
    chart = effort(rows, CONFIG, "f" * 64, domain.name, LIGHT)
    assert len(chart.more) == 1 and "same 3 images" in chart.more[0]
    psnr = rows[(rows["metric"] == "psnr") & (rows["file_list_hash"].map(
        rows.groupby("file_list_hash")["image"].nunique()) == 3)]  # fmt: skip
    means = psnr.groupby("steps")["value"].mean()
    assert f"PSNR {means[2] - means[2000]:+.4f}" in chart.more[0]
    both = pd.concat([rows, rows.assign(domain="others")])
    assert effort(both, CONFIG, "f" * 64, domain.name, LIGHT).more == chart.more
