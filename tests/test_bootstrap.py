"""The bootstrap against a loop that does as the words say; its drawings are shared, not changed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from sr3 import bootstrap as module
from sr3 import results
from sr3.bootstrap import RESAMPLES, bootstrap, bounds_of, interval_of
from sr3.errors import SR3Error
from sr3.gains import commonest_sampling
from sr3.views import Story
from tests import study_table

GROUPS = (("a", "b", "c"), ("d",), ("e", "f"))
FEW = 100  # draws that the loop makes


@pytest.fixture(scope="module")
def gains() -> pd.DataFrame:
    values = np.random.default_rng(5).normal(0.3, 1.0, (9, 6))
    frame = pd.DataFrame(values, columns=list("abcdef"))
    frame.loc[3, "e"] = np.nan  # left out of all
    return frame


def looped(gains: pd.DataFrame, groups, seed: int) -> np.ndarray:
    """Draw after draw: some images, as often as drawn; some seeds, by their places; the mean."""
    rows = gains.dropna()
    n = len(rows)
    generator = np.random.default_rng(seed)
    often = generator.multinomial(n, np.full(n, 1 / n), RESAMPLES)
    places = generator.random((RESAMPLES, max(map(len, groups))))
    draws = np.empty((FEW, len(groups)))
    for draw in range(FEW):
        images = np.repeat(np.arange(n), often[draw])
        for k, names in enumerate(groups):
            seeds = [names[int(place * len(names))] for place in places[draw, : len(names)]]
            draws[draw, k] = np.mean([rows[name].to_numpy()[images].mean() for name in seeds])
    return draws


@pytest.mark.parametrize("seed", [0, 3])
def test_it_is_the_loop(gains, seed):
    means, draws, n = bootstrap(gains, GROUPS, seed)
    assert n == 8 and draws.shape == (RESAMPLES, 3)
    assert np.abs(draws[:FEW] - looped(gains, GROUPS, seed)).max() < 1e-12
    rows = gains.dropna()
    assert np.abs(means - [rows[list(names)].to_numpy().mean() for names in GROUPS]).max() < 1e-12


def test_a_shared_drawing_changes_no_number(gains):
    alone = bootstrap(gains, GROUPS, 0)[1]
    module._drawing.cache_clear()
    for groups in (GROUPS[1:], GROUPS, GROUPS):  # another shape draws first
        draws = bootstrap(gains, groups, 0)[1]
    assert (draws == alone).all()
    assert module._drawing.cache_info().misses == 2 and module._drawing.cache_info().hits == 1
    with pytest.raises(ValueError, match="read-only"):
        module._drawing(8, 3, 0)[0][0] = 1


def test_intervals_are_of_order_statistics(gains):
    assert bounds_of(np.arange(101)[::-1]) == (2, 98)
    one = interval_of(0.5, np.full(RESAMPLES, 0.5), 1)
    assert one.mean == 0.5 and np.isnan(one.low) and np.isnan(one.high)
    with pytest.raises(SR3Error, match="share no image"):
        bootstrap(gains.iloc[3:4], GROUPS, 0)


def test_the_commonest_sampling_is_the_first_of_equals():
    rows = pd.DataFrame({"sampler": list("xyyx"), "steps": [5, 9, 9, 5]})
    assert commonest_sampling(rows) == ("x", 5)
    assert commonest_sampling(rows.iloc[1:]) == ("y", 9)
    assert commonest_sampling(rows.iloc[:0]) is None


def test_values_are_means_over_seeds_where_all_images_have_them(tmp_path):
    rows = [row | {"seed": seed, "value": row["value"] + seed}
            for row in study_table.rows(study_table.cells()) for seed in (0, 1)]  # fmt: skip
    lost = str(study_table.cells()[0]), "4.png", "psnr", study_table.TARGET
    rows = [r for r in rows if (r["checkpoint"], r["image"], r["metric"], r["domain"]) != lost]
    results.append(rows, tmp_path)
    story = Story(results.read(tmp_path), study_table.PARENT, study_table.SOURCE)
    found = story.values("psnr", study_table.TARGET)
    assert lost[0] not in found and len(found) == study_table.IMAGES
    for name in ("bicubic", study_table.PARENT, str(study_table.cells()[1])):
        for image in found.index:
            mine = [r["value"] for r in rows if (r["checkpoint"], r["image"], r["metric"],
                    r["domain"]) == (name, image, "psnr", study_table.TARGET)]  # fmt: skip
            assert len(mine) == 2 and abs(found.loc[image, name] - sum(mine) / 2) < 1e-9
    assert story.values("psnr", "nowhere").empty
