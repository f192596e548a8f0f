"""The computed answers on made-up tables whose every gain is known in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sr3 import results
from sr3.answers import (
    Contrast,
    Trade,
    against_scratch,
    least_needed,
    range_effects,
    spared,
    trades,
)
from sr3.cells import Cell
from sr3.gains import Measured, alike
from sr3.metrics import Interval
from sr3.verdicts import moved, signed
from tests import study_table as made

Gain = Callable[[Cell, int], float]  # of a cell on an image, in dB


def measured(tmp_path, gains: dict[Cell, Gain], others: dict[str, float] | None = None) -> Measured:
    """PSNR on the target of the parent, of cells with these gains and of other checkpoints."""
    named: list[tuple[str, str, Gain, Cell]] = [(str(c), made._hash(c), g, c)
                                                for c, g in gains.items()]  # fmt: skip
    named.append((made.PARENT, "p" * 64, lambda cell, k: 0.0, made.plain(1, 1)))
    for name, amount in (others or {}).items():
        named.append((name, name, lambda cell, k, amount=amount: amount, made.plain(1, 1)))
    rows = [
        made.row(name, digest, made.TARGET, k, "psnr", 20 + k + gain(cell, k), "ddim", 10)
        for name, digest, gain, cell in named
        for k in range(made.IMAGES)
    ]
    results.append(rows, tmp_path)
    return Measured(results.read(tmp_path), made.PARENT)


def always(amount: float) -> Gain:
    return lambda cell, k: amount


# -------------------------------------------------------------------------------- the least needed
def test_the_least_is_the_smallest_that_reaches_the_share(tmp_path):
    grid = {(1, 10): 0.3, (1, 100): 0.5, (16, 10): 0.94, (16, 100): 0.95, (None, 10): 0.91,
            (None, 100): 1.0}  # fmt: skip
    gains = {made.plain(*at): always(amount) for at, amount in grid.items()}
    least = least_needed(measured(tmp_path, gains), "psnr", made.TARGET)
    assert least is not None and (least.images, least.updates, least.best) == (16, 10, (None, 100))
    assert [least.share.mean, least.share.low, least.share.high] == pytest.approx([0.94] * 3)
    assert least.gain.mean == pytest.approx(1.0) and least.gain.n == made.IMAGES
    assert least.images_between == (16, 16) and least.updates_between == (10, 10)
    assert least.front == ((16, 10),) and least.elsewhere is None
    assert least.longest and "No longer run with all images was measured" in least.sentence
    assert "16 images and 10 updates reach 94% (95% interval 94% to 94%; 1 seed) of the best gain" \
        in least.sentence  # fmt: skip
    assert "in 95% of resamples the choice is 16 images and 10 updates. No" in least.sentence
    strict = least_needed(measured(tmp_path, gains), "psnr", made.TARGET, share=0.945)
    assert strict is not None and strict.front == ((16, 100),) and strict.shorter == ()


def test_images_that_were_never_tuned_as_long_are_named(tmp_path):
    """They had no chance to be the least."""
    grid = {(1, 10): 0.1, (4, 10): 0.2, (16, 30): 0.3, (64, 100): 0.4, (None, 100): 1.0}
    gains = {made.plain(*at): always(amount) for at, amount in grid.items()}
    least = least_needed(measured(tmp_path, gains), "psnr", made.TARGET)
    assert least is not None and least.shorter == ((1, 10), (4, 10), (16, 30))
    assert (
        "Fewer images were not tuned as long (1 and 4 images, 10 updates; 16 images, 30 updates "
        "at most)." in least.sentence
    )


def test_what_surely_gains_more_than_plain_fine_tuning_is_told_beside_it(tmp_path):
    gains: dict[Cell, Gain] = {
        made.plain(16, 100): lambda cell, k: 1.0 + k,
        made.plain(16, 100, range=(1500, 2000)): lambda cell, k: 1.1 + k,  # a bit more, each time
        made.plain(16, 100, replay=0.5): lambda cell, k: 9.0 if k == 0 else 0.9 + k,  # luck
    }
    least = least_needed(measured(tmp_path, gains), "psnr", made.TARGET)
    assert least is not None and least.best == (16, 100)
    assert least.elsewhere is not None and "steps 1500:2000" in least.elsewhere.name
    assert least.sentence.endswith(
        "Another way gains more: 16 images, 100 updates, steps 1500:2000, "
        f"{signed(least.elsewhere.gain)} (1 seed)."
    )


def test_replay_and_lora_are_compared_with_plain_fine_tuning_of_the_same_seeds(tmp_path):
    """Two plain seeds, of which replay has the better one: it gains nothing over that."""
    gains: dict[Cell, Gain] = {
        made.plain(16, 100, 0): always(2.0),
        made.plain(16, 100, 1): always(0.0),
        made.plain(16, 10, 0): always(9.0),  # other updates
        made.plain(16, 100, 0, replay=0.5): always(1.9),
        made.plain(16, 100, 0, lora=8): always(2.5),
        made.plain(16, 100, 0, range=(0, 500), replay=0.5): always(7.0),  # nothing to compare with
    }
    found = spared(measured(tmp_path, gains), "psnr", made.TARGET, made.TARGET)
    assert [(each.ours, each.baseline, each.seeds) for each in found] == [
        ("replay 0.5", "plain fine-tuning", 1), ("LoRA 8", "plain fine-tuning", 1),
    ]  # fmt: skip
    assert [each.difference.mean for each in found] == pytest.approx([-0.1, 0.5])


def test_the_front_holds_every_choice_that_none_is_below(tmp_path):
    grid = {(1, 10): 0.1, (1, 100): 0.95, (16, 10): 0.96, (16, 100): 0.97, (None, 10): 1.0,
            (None, 100): 0.5}  # fmt: skip
    gains = {made.plain(*at): always(amount) for at, amount in grid.items()}
    least = least_needed(measured(tmp_path, gains), "psnr", made.TARGET)
    assert least is not None and (least.images, least.updates) == (1, 100)
    assert least.front == ((1, 100), (16, 10))
    assert not least.longest and "No longer run" not in least.sentence


def test_the_share_is_of_each_resamples_own_best_and_the_choice_is_made_again(tmp_path):
    """One image gains on the first images alone, all images gain a bit less on the others."""
    gains = {
        made.plain(1, 10): lambda cell, k: 2.0 if k < 3 else 0.1,
        made.plain(None, 10): lambda cell, k: 0.1 if k < 3 else 1.9,
    }
    least = least_needed(measured(tmp_path, gains), "psnr", made.TARGET)
    assert least is not None and least.best == (least.images, least.updates) == (1, 10)
    assert least.share.mean == 1.0 and least.share.high == 1.0
    # At the edge of the 95%, five of the six draws are of the other three images.
    assert least.share.low == pytest.approx((2.0 + 5 * 0.1) / (0.1 + 5 * 1.9), abs=1e-9)
    assert least.images_between == (1, None) and least.updates_between == (10, 10)
    assert "neither fewer images nor, with as many, fewer updates reach 90%" in least.sentence
    assert "the choice is 1 image to all images and 10 updates" in least.sentence


def test_seeds_widen_the_interval(tmp_path):
    gains = {made.plain(16, 10, seed): always(1.0 + 0.1 * seed) for seed in range(3)}
    least = least_needed(measured(tmp_path, gains), "psnr", made.TARGET)
    assert least is not None and (least.seeds, least.best_seeds) == (3, 3)
    assert least.gain.mean == pytest.approx(1.1)
    assert (least.gain.low, least.gain.high) == (pytest.approx(1.0), pytest.approx(1.2))


def test_where_plain_fine_tuning_gains_nothing_what_else_gains_is_told(tmp_path):
    gains: dict[Cell, Gain] = {
        made.plain(16, 10): always(-0.2),
        made.plain(16, 100): lambda cell, k: 1.0 if k == 0 else -0.1,  # not surely
        made.plain(16, 100, range=(1500, 2000)): always(0.8),
        made.plain(16, 100, lora=8): lambda cell, k: 9.0 if k == 0 else -0.1,  # more, not surely
        made.plain(16, 100, replay=0.5): always(-0.5),
    }
    study = measured(tmp_path, gains, {"half-way": 0.3})
    least = least_needed(study, "psnr", made.TARGET)
    assert least is not None and least.updates is None and least.share is None
    assert least.best == (16, 100) and least.gain.low < 0 < least.gain.mean
    assert least.elsewhere is not None and "steps 1500:2000" in least.elsewhere.name
    assert least.elsewhere.gain.mean == pytest.approx(0.8)
    assert "no plain fine-tuning of the whole chain surely gains" in least.sentence
    assert "the best gain is +0.0833 (95% interval -0.1000 to" in least.sentence
    assert "What surely gains: 16 images, 100 updates, steps 1500:2000, +0.8000" in least.sentence
    assert least.longest
    without = {c: g for c, g in gains.items() if c.range == (0, 2000)}
    study = measured(tmp_path / "less", without, {"half-way": 0.3})
    less = least_needed(study, "psnr", made.TARGET)
    assert less is not None and less.elsewhere is not None and less.elsewhere.name == "half-way"
    study = measured(tmp_path / "none", {made.plain(16, 10): always(-0.2)})
    none = least_needed(study, "psnr", made.TARGET)
    assert none is not None and none.elsewhere is None and none.updates is None
    assert least_needed(study, "psnr", "nowhere") is None


def test_a_cell_that_surely_gains_comes_before_a_mean_that_may_be_luck(tmp_path):
    gains: dict[Cell, Gain] = {
        made.plain(1, 10): lambda cell, k: 9.0 if k == 0 else -0.5,
        made.plain(16, 10): always(0.4),
    }
    least = least_needed(measured(tmp_path, gains), "psnr", made.TARGET)
    assert least is not None and least.best == (16, 10) and least.gain.low > 0


# ---------------------------------------------------------------------------------------- trades
@pytest.mark.parametrize(
    ("gain", "told"),
    [
        ((0.0879, 0.0817, 0.0944), "x gains 0.0879 (95% interval 0.0817 to 0.0944, n = 9)"),
        ((-0.0385, -0.0551, -0.0214), "x loses 0.0385 (95% interval 0.0214 to 0.0551, n = 9)"),
        (
            (0.0005, -0.0046, 0.0048),
            "x changes by +0.0005 (95% interval -0.0046 to +0.0048, n = 9; + is better)",
        ),
        (
            (-0.0019, -0.0090, 0.0042),
            "x changes by -0.0019 (95% interval -0.0090 to +0.0042, n = 9; + is better)",
        ),
        ((0.02, math.nan, math.nan), "x changes by +0.0200 (no interval, n = 9; + is better)"),
    ],
)
def test_a_gain_and_a_loss_are_named_and_one_of_either_sign_is_signed(gain, told):
    assert moved("x", Interval(*gain, 9)) == told


def test_a_fall_of_lpips_is_told_as_a_gain(tmp_path):
    """LPIPS falls from 0.40 to 0.30 on the target and rises to 0.44 on the source."""
    cell = made.plain(None, 100)
    results.append(made.rows([cell], gap=False), tmp_path)
    study = Measured(results.read(tmp_path), made.PARENT)
    found: list[Trade] = trades(study, "lpips", made.TARGET, made.SOURCE)
    assert found[0].name == "all images, 100 updates"
    assert found[0].sentence == (
        "LPIPS, all images, 100 updates: anime gains 0.1000 (95% interval 0.1000 to 0.1000, n = 6)"
        ", noise loses 0.0400 (95% interval 0.0400 to 0.0400, n = 6) (1 seed), on the Pareto front."
    )


# ------------------------------------------------------------------------- seeds, plans, baselines
def test_seeds_of_the_parent_alone_shift_no_gain(tmp_path):
    cells = [made.plain(16, 100), made.plain(None, 100)]
    rows = list(made.rows(cells, gap=False))
    more = [row | {"seed": seed, "value": row["value"] + 5 * seed}
            for row in rows if row["checkpoint"] == made.PARENT for seed in (1, 2)]  # fmt: skip
    results.append(rows, tmp_path / "one")
    results.append(rows + more, tmp_path / "three")
    one, three = (
        Measured(results.read(tmp_path / each), made.PARENT).gains("psnr", made.TARGET)
        for each in ("one", "three")
    )
    assert three[str(cells[0])].tolist() == one[str(cells[0])].tolist()
    assert three[str(cells[0])].tolist() == pytest.approx([0.95] * made.IMAGES)


def twin(cell: Cell) -> Cell:
    """The same by name, of a plan with other settings."""
    return replace(cell, digest=cell.digest[::-1])


def run_later(cells: list[Cell], more: float, folder: Any) -> None:
    """The same cells of another plan, whose gains are larger."""
    again = [row for cell in cells for row in made.rows([cell], gap=False)
             if row["checkpoint"] == str(cell)]  # fmt: skip
    for cell in cells:
        for row in again:
            if row["checkpoint"] == str(cell):
                row |= {"checkpoint": str(twin(cell)), "checkpoint_hash": made._hash(twin(cell))}
                row |= {"value": row["value"] + more}
    results.append(again, folder)


def test_two_plans_are_neither_joined_nor_compared(tmp_path):
    """All images over the whole chain, two seeds, and a range; then again, with other settings,
    but for the second seed and the range."""
    cells = [made.plain(None, 100), made.plain(None, 100, 1), made.plain(None, 100, range=(0, 500))]
    results.append(made.rows(cells, gap=False), tmp_path)
    before = Measured(results.read(tmp_path), made.PARENT)
    (contrast,) = range_effects(before, "psnr", made.TARGET, made.TARGET)
    assert contrast.difference.mean == pytest.approx(-0.5)

    run_later(cells[:1], 3.0, tmp_path)
    study = Measured(results.read(tmp_path), made.PARENT)
    gains = study.gains("psnr", made.TARGET)
    groups = alike(gains, {n: c for n, c in study.cells.items() if c.range == (0, 2000)})
    assert list(groups.values()) == [[str(twin(cells[0]))]], "the newest plan's alone"
    assert before.older == 0 and study.older == 2
    least = least_needed(study, "psnr", made.TARGET)
    assert least is not None and least.seeds == 1
    assert least.gain.mean == pytest.approx(4.0), "not the mean of two plans"
    assert list(range_effects(study, "psnr", made.TARGET, made.TARGET)) == []
    run_later(cells[1:], 3.0, tmp_path)
    study = Measured(results.read(tmp_path), made.PARENT)
    (contrast,) = range_effects(study, "psnr", made.TARGET, made.TARGET)
    assert contrast.difference.mean == pytest.approx(-0.5) and contrast.seeds == 1
    least = least_needed(study, "psnr", made.TARGET)
    assert least is not None and least.seeds == 2


def test_other_sampling_seeds_are_another_plan(tmp_path):
    cells = [made.plain(16, 100, seed) for seed in (0, 1)]
    rows = list(made.rows(cells, gap=False))
    more = [row | {"seed": 1} for row in rows if row["checkpoint"] in (str(cells[1]), made.PARENT)]
    results.append(rows + more, tmp_path)
    study = Measured(results.read(tmp_path), made.PARENT)
    assert len(study.cells) == 1, "one seed each is not two of one"


def test_every_rate_from_scratch_is_a_baseline_of_its_own(tmp_path):
    gains = {made.plain(16, 100): always(1.0)}
    gains |= {made.plain(16, 100, scratch=True, rate=rate): always(100 * rate)
              for rate in (1e-3, 3e-3)}  # fmt: skip
    found: list[Contrast] = against_scratch(measured(tmp_path, gains), "psnr", made.TARGET)
    assert {each.baseline: round(each.difference.mean, 6) for each in found} == {
        "training from scratch (rate 0.001)": 0.9,
        "training from scratch (rate 0.003)": 0.7,
    }


def test_lpips_of_another_backbone_is_not_compared(tmp_path):
    cell = made.plain(16, 10)
    for name, digest, backbone in ((str(cell), made._hash(cell), "another"),
                                   (made.PARENT, "p" * 64, "made up")):  # fmt: skip
        rows = [made.row(name, digest, made.TARGET, k, "lpips", 0.2, "ddim", 10) for k in range(3)]
        results.append([row | {"lpips_backbone": backbone} for row in rows], tmp_path)
    assert Measured(results.read(tmp_path), made.PARENT).gains("lpips", made.TARGET).empty
