"""Scores on the page Checkpoints: the checkpoint's own, in one way of sampling."""

from __future__ import annotations

import pandas as pd
import pytest

from sr3 import results
from sr3.hub_card import scores_of
from sr3.ui import collection
from tests import study_table
from tests.study_table import SOURCE, row

HASH = "p" * 64


@pytest.fixture
def table(tmp_path) -> pd.DataFrame:
    """A parent with PSNR 20, its regression with 30, another sampler, a longer list of images."""
    rows = []
    for k in range(3):
        rows.append(row("tiny", HASH, SOURCE, k, "psnr", 20.0, "ddim", 10))
        rows.append(row("regression", HASH, SOURCE, k, "psnr", 30.0, "regression", 1))
        rows.append(row("tiny", HASH, SOURCE, k, "psnr", 10.0, "ddim", 2))
    for k in range(5):
        longer = {"file_list_hash": "longer"}
        rows.append(row("tiny", HASH, SOURCE, k, "psnr", 21.0, "ddim", 10) | longer)
        rows.append(row("tiny", HASH, SOURCE, k, "ssim", 0.5, "ddim", 10) | longer)
        rows.append(row("other", "o" * 64, SOURCE, k, "psnr", 99.0, "ddim", 10) | longer)
    results.append(rows, tmp_path)
    return results.read(tmp_path)


def test_a_card_claims_no_baselines_scores(table):
    found = scores_of(HASH, table)
    assert set(found["checkpoint"]) == {"tiny"} and 30.0 not in set(found["mean"])


def test_scores_are_the_checkpoints_own_and_of_one_sampling(table):
    found = collection.usual(scores_of(HASH, table)).set_index("metric")
    assert found["mean"].to_dict() == {"psnr": 21.0, "ssim": 0.5}
    assert set(found["n"]) == {5} and set(found["checkpoint"]) == {"tiny"}
    assert set(zip(found["sampler"], found["steps"], strict=True)) == {("ddim", 10)}


def test_the_studys_parent_has_its_own_scores(tmp_path):
    study_table.write(tmp_path, "parent")
    table = results.read(tmp_path / "metrics")
    found = collection.usual(scores_of(HASH, table))
    assert len(found) == len(study_table.DOMAINS) * 3
    means = found[found["metric"] == "psnr"]["mean"]
    assert (means - 20.25).abs().max() < 1e-9, "the parent's effect is 0, regression's -0.5"


def test_a_checkpoint_that_only_lent_its_weights_is_unmeasured(table):
    alone = table[table["checkpoint"] == "regression"]
    assert collection.usual(scores_of(HASH, alone)).empty
    assert collection.usual(scores_of("none", table)).empty


def test_sizes_are_told_in_what_fits():
    assert collection._size(18_900_000) == "18.9 MB" and collection._size(1_234) == "1 kB"
