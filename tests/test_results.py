"""The table of measurements: nothing invented, lost, counted twice or averaged across settings."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sr3 import results
from sr3.errors import SR3Error
from sr3.metrics import bootstrap_mean

ROOT = Path(__file__).resolve().parents[1]


def row(**changes: Any) -> dict[str, Any]:
    return {
        "checkpoint": "faces",
        "domain": "anime",
        "image": "00000.png",
        "seed": 0,
        "metric": "psnr",
        "value": 23.5,
        "sampler": "dpmpp",
        "steps": 10,
        "lpips_backbone": None,
        "code_commit": "c0ffee",
        "checkpoint_hash": "abc",
        "file_list_hash": "def",
    } | changes


# ------------------------------------------------------------------------------ write and read
def test_rows_come_back_with_their_types(tmp_path: Path) -> None:
    backbone = "AlexNet (torchvision IMAGENET1K_V1)"
    start = datetime.now(UTC)
    part = results.append(
        [row(), row(metric="lpips", value=0.25, lpips_backbone=backbone)], tmp_path / "metrics"
    )
    assert part.parent == tmp_path / "metrics"
    assert pq.read_schema(part).equals(results.SCHEMA)
    table = results.read(tmp_path / "metrics")
    assert tuple(table.columns) == results.COLUMNS
    assert table["metric"].tolist() == ["lpips", "psnr"]
    assert table["value"].tolist() == [0.25, 23.5]
    assert table["lpips_backbone"].isna().tolist() == [False, True]
    assert table["steps"].dtype == table["seed"].dtype == np.int64
    assert (table["created"] >= pd.Timestamp(start)).all()


def test_what_was_not_measured_is_an_empty_table(tmp_path: Path) -> None:
    for table in (results.read(tmp_path / "absent"), results.read(tmp_path)):
        assert tuple(table.columns) == results.COLUMNS
        assert table.empty
        assert results.summary(table).empty
    assert results.summary(results.read(tmp_path)).columns[-3:].tolist() == ["n", "seeds", "spread"]


def test_the_newest_row_of_a_key_wins(tmp_path: Path) -> None:
    results.append([row(value=1), row(value=2)], tmp_path)
    assert results.read(tmp_path)["value"].tolist() == [2]
    results.append([row(value=3, code_commit="later", checkpoint="renamed")], tmp_path)
    assert results.read(tmp_path)["value"].tolist() == [3]
    # Older by its own date, though written last, as when tables are merged.
    results.append([row(value=4, created=datetime(2020, 1, 1, tzinfo=UTC))], tmp_path)
    assert results.read(tmp_path)["value"].tolist() == [3]


@pytest.mark.parametrize("name", results.KEY)
def test_each_part_of_the_key_tells_rows_apart(name: str, tmp_path: Path) -> None:
    other: Any = 7 if name in ("seed", "steps") else "other"
    results.append([row(), row(**{name: other})], tmp_path)
    assert len(results.read(tmp_path)) == 2


def test_a_table_can_be_merged_into_one_file(tmp_path: Path) -> None:
    for seed in range(3):
        results.append([row(seed=seed)], tmp_path / "parts")
    table = results.read(tmp_path / "parts")
    results.write(table, tmp_path / "one.parquet")
    pd.testing.assert_frame_equal(results.read(tmp_path / "one.parquet"), table)
    results.append(table, tmp_path / "parts")
    pd.testing.assert_frame_equal(results.read(tmp_path / "parts"), table)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": None}, "lacks value"),
        ({"value": float("nan")}, "nan"),
        ({"value": -np.inf}, "-inf"),
        ({"value": "23"}, "'23'"),
        ({"image": None}, "lacks image"),
        ({"psnr": 3}, "unknown columns: psnr"),
        ({"metric": "lpips"}, "lpips_backbone"),
        ({"lpips_backbone": "AlexNet"}, "lpips_backbone"),
        ({"steps": "ten"}, "wrong type"),
        ({"steps": 2.5}, "wrong type"),
        ({"metric": 1}, "wrong type"),
        ({"domain": 1}, "wrong type"),
    ],
)
def test_rows_that_do_not_fit_write_nothing(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(SR3Error, match=message):
        results.append([row(), row(**changes)], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    short = row()
    del short["sampler"]
    with pytest.raises(SR3Error, match=r"row 0 .* sampler"):
        results.append([short], tmp_path)


def test_an_exact_image_may_be_recorded(tmp_path: Path) -> None:
    results.append([row(value=float("inf"))], tmp_path)
    assert results.read(tmp_path)["value"].tolist() == [np.inf]


def test_append_refuses_a_file(tmp_path: Path) -> None:
    with pytest.raises(SR3Error, match="use write"):
        results.append([row()], tmp_path / "table.parquet")


def test_a_foreign_or_damaged_part_is_named(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.parquet"
    pq.write_table(pa.table({"checkpoint": ["a"], "value": [1]}), foreign)
    with pytest.raises(SR3Error, match=r"foreign\.parquet has other columns"):
        results.read(tmp_path)
    foreign.write_bytes(b"PAR1 cut off")
    with pytest.raises(SR3Error, match=r"foreign\.parquet is not a table"):
        results.read(tmp_path)


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = results.write([row()], tmp_path / "one.parquet")
    before = file.read_bytes()

    def half(table: pa.Table, where: Path, **_: object) -> None:
        Path(where).write_bytes(b"PAR1")
        raise OSError("disk full")

    monkeypatch.setattr(results.pq, "write_table", half)
    with pytest.raises(SR3Error, match="disk full"):
        results.write([row(value=9)], file)
    assert file.read_bytes() == before
    monkeypatch.undo()

    def refuse(*_: object) -> None:
        raise OSError("no rename")

    monkeypatch.setattr(results.os, "replace", refuse)
    with pytest.raises(SR3Error, match="no rename"):  # the only way in is a rename
        results.write([row(value=9)], file)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["one.parquet"]


def test_processes_append_at_once_while_another_reads(tmp_path: Path) -> None:
    code = f"""
from tests.test_results import row, results
import sys
for image in range(25):
    results.append([row(image=str(image), seed=int(sys.argv[1]))], {str(tmp_path)!r})
"""
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(seed)], cwd=ROOT) for seed in range(2)
    ]
    seen = 0
    while any(writer.poll() is None for writer in writers):
        count = len(results.read(tmp_path))  # never fails on a half-written part
        assert count >= seen
        seen = count
    assert [writer.returncode for writer in writers] == [0, 0]
    table = results.read(tmp_path)
    assert len(table) == 50
    assert table.groupby("seed")["image"].nunique().tolist() == [25, 25]


def test_a_reader_follows_a_compaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for image in "ab":
        results.append([row(image=image)], tmp_path)
    real = results._read_part

    def compacted_meanwhile(file: Path) -> pa.Table:
        monkeypatch.setattr(results, "_read_part", real)
        results.compact(tmp_path)
        return real(file)

    monkeypatch.setattr(results, "_read_part", compacted_meanwhile)
    assert results.read(tmp_path)["image"].tolist() == ["a", "b"]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SR3Error, match=r"There is no table of results .*lost\.parquet"):
        results.read(tmp_path / "lost.parquet")
    (tmp_path / "link.parquet").symlink_to("nowhere")
    with pytest.raises(SR3Error, match=r"There is no table of results .*link\.parquet"):
        results.read(tmp_path)


# -------------------------------------------------------------------------------------- derive
def test_the_summary_averages_seeds_first_and_counts_images(tmp_path: Path) -> None:
    # One image has three seeds: averaged by rows the mean would be 18, not 20.
    values = {"a": [9, 10, 11], "b": [20], "c": [30]}
    results.append(
        [row(image=i, seed=s, value=v) for i, vs in values.items() for s, v in enumerate(vs)],
        tmp_path,
    )
    [line] = results.summary(results.read(tmp_path), seed=4).to_dict("records")
    expected = bootstrap_mean([10, 20, 30], seed=4)
    assert (line["mean"], line["low"], line["high"]) == (20, expected.low, expected.high)
    assert (line["n"], line["seeds"]) == (3, 3)
    assert line["spread"] == pytest.approx(1)  # of "a", the only image with several seeds


@pytest.mark.parametrize("name", ["checkpoint", "domain", "metric", "sampler", "steps"])
def test_settings_are_never_averaged_together(name: str, tmp_path: Path) -> None:
    other: Any = 25 if name == "steps" else "other"
    changed = {name: other} | ({"checkpoint_hash": "xyz"} if name == "checkpoint" else {})
    results.append([row(value=1), row(value=3, **changed)], tmp_path)
    summary = results.summary(results.read(tmp_path))
    assert sorted(summary["mean"]) == [1, 3]
    assert set(summary[name]) == {row()[name], other}
    assert summary["low"].isna().all()  # one image has no interval


def test_a_difference_pairs_the_images_both_have(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    hardness, gain = generator.normal(20, 5, 60), generator.normal(1, 0.1, 60)
    before = [row(image=f"{i:03}", value=hardness[i]) for i in range(60)]
    after = [
        row(image=f"{i:03}", value=hardness[i] + gain[i] + sign, seed=seed, checkpoint_hash="new")
        for i in reversed(range(10, 60))
        for seed, sign in ((0, -2), (1, 2))
    ]
    results.append(before + after, tmp_path)
    table = results.read(tmp_path)
    new = table["checkpoint_hash"] == "new"
    interval = results.difference(table[new], table[~new])
    assert interval.n == 50
    assert interval.mean == pytest.approx(gain[10:].mean(), abs=1e-9)
    assert 0.9 < interval.low < interval.mean < interval.high < 1.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "ssim"}, "one metric"),
        ({"domain": "ffhq"}, "one domain"),
        ({"file_list_hash": "other"}, "one file_list_hash"),
        ({"image": "other"}, "there are none"),
    ],
)
def test_a_difference_of_unlike_things_is_refused(
    change: dict[str, Any], message: str, frame: Callable[..., pd.DataFrame]
) -> None:
    with pytest.raises(SR3Error, match=message):
        results.difference(frame(row()), frame(row(**change)))


@pytest.mark.parametrize("name", ["checkpoint_hash", "sampler", "steps"])
def test_a_side_that_mixes_settings_is_refused(
    name: str, frame: Callable[..., pd.DataFrame]
) -> None:
    other: Any = 2 if name == "steps" else "other"
    one, changed = frame(row()), frame(row(**{name: other}))
    assert results.difference(one, changed).n == 1  # the two sides may differ in it
    mixed = frame(row(), row(**{name: other}))
    for sides in ((mixed, one), (one, mixed)):
        with pytest.raises(SR3Error, match=f"one {name}"):
            results.difference(*sides)


@pytest.fixture
def frame(tmp_path: Path) -> Callable[..., pd.DataFrame]:
    def make(*rows: dict[str, Any]) -> pd.DataFrame:
        return results.read(results.write(rows, tmp_path / "frame.parquet"))

    return make
