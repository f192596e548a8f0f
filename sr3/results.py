"""The one table of measurements: a row per checkpoint x domain x image x seed x metric.

Invariants: a row holds a measured number, so what was not measured has no row; summaries are
derived here, never stored. The table is a folder of Parquet parts, one per `append`, each put in
place by a rename: any number of processes and machines may append and read at once without a
lock, and a crash loses only what was being written. Measuring again appends again; `read` keeps
the newest row of each KEY.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sr3.errors import SR3Error
from sr3.files import whole
from sr3.metrics import Interval, bootstrap_mean, paired_difference

SCHEMA = pa.schema([
    pa.field("checkpoint", pa.string(), nullable=False),  # its name, or a baseline's: "bicubic"
    pa.field("domain", pa.string(), nullable=False),
    pa.field("image", pa.string(), nullable=False),  # its name in the domain's list of files
    pa.field("seed", pa.int64(), nullable=False),
    pa.field("metric", pa.string(), nullable=False),  # a name in sr3.metrics.METRICS, or another
    pa.field("value", pa.float64(), nullable=False),  # +inf: PSNR of an exact image
    pa.field("sampler", pa.string(), nullable=False),
    pa.field("steps", pa.int64(), nullable=False),
    pa.field("lpips_backbone", pa.string(), nullable=True),  # on rows of LPIPS, and only there
    pa.field("code_commit", pa.string(), nullable=False),
    pa.field("checkpoint_hash", pa.string(), nullable=False),
    pa.field("file_list_hash", pa.string(), nullable=False),  # of the images, in their order
    pa.field("created", pa.timestamp("us", tz="UTC"), nullable=False),  # filled in where missing
])  # fmt: skip
COLUMNS: tuple[str, ...] = tuple(SCHEMA.names)
KEY = (
    "checkpoint_hash", "domain", "file_list_hash", "image", "seed", "metric", "sampler", "steps",
)  # fmt: skip
# What one summary is of: numbers made with other settings are never averaged together.
GROUP = (
    "checkpoint", "checkpoint_hash", "domain", "file_list_hash", "metric", "sampler", "steps",
    "lpips_backbone",
)  # fmt: skip

Rows = Iterable[Mapping[str, Any]] | pd.DataFrame


# ------------------------------------------------------------------------------ write and read
def append(rows: Rows, folder: str | Path) -> Path:
    """Add rows as one new part of the table in `folder`, all or none; returns the part's path.

    A row maps each of COLUMNS, `created` and a null `lpips_backbone` being optional. SR3Error
    for rows that do not fit, and then nothing is written.
    """
    folder = Path(folder)
    if folder.is_file() or folder.suffix == ".parquet":
        raise SR3Error(
            f"append needs a folder of parts, not the file {folder}: use write for a file"
        )
    # Names sort by time; the random part keeps two processes from one name.
    return write(rows, folder / f"part-{time.time_ns():019d}-{uuid.uuid4().hex[:8]}.parquet")


def write(rows: Rows, file: str | Path) -> Path:
    """Write rows as one Parquet file, atomically, replacing what was there; raises SR3Error."""
    file = Path(file)
    table = _to_arrow(rows)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole(file) as partial:
            pq.write_table(table, partial, compression="zstd")
    except OSError as error:  # pyarrow's have no file name, and a long text
        reason = os.strerror(error.errno) if error.errno else error
        raise SR3Error(f"{file} cannot be written: {reason}.") from error
    return file


def compact(folder: str | Path, rows: int = 400_000) -> None:
    """Put the parts of a table together, at most `rows` in each (some MB); it reads the same.

    Others may append and read meanwhile; cut short, nothing is lost. Raises SR3Error.
    """
    parts = _read_parts(Path(folder))
    if len(parts) < 2:
        return
    table = _newest(pa.concat_tables(parts.values()).to_pandas())
    for start in range(0, len(table), rows):
        append(table.iloc[start : start + rows], folder)
    for part in parts:
        part.unlink(missing_ok=True)


def read(path: str | Path) -> pd.DataFrame:
    """The table in a folder of parts, or in one file, with the newest row of each KEY.

    Columns as in SCHEMA, sorted by KEY. A folder that is empty or absent is an empty table:
    nothing was measured. SR3Error for a part that is damaged or has other columns.
    """
    tables = [SCHEMA.empty_table(), *_read_parts(Path(path)).values()]
    frame: pd.DataFrame = pa.concat_tables(tables).to_pandas()
    return _newest(frame)


def _newest(frame: pd.DataFrame) -> pd.DataFrame:
    """The newest row of each KEY, sorted by KEY."""
    rows = frame.sort_values("created", kind="stable").drop_duplicates(list(KEY), keep="last")
    return rows.sort_values(list(KEY), kind="stable").reset_index(drop=True)


def newest_weights(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of each checkpoint's newest hash, in order: the same name may have named others."""
    newest = rows.sort_values("created").groupby("checkpoint")["checkpoint_hash"].last()
    return rows[rows["checkpoint_hash"] == rows["checkpoint"].map(newest)]


def _read_parts(path: Path) -> dict[Path, pa.Table]:
    """The parts of a table by file; listed again where one went meanwhile, since whoever compacts
    removes a part only when its rows are in another."""
    before: list[Path] = []
    while True:
        files = [path] if path.suffix == ".parquet" else sorted(path.glob("*.parquet"))
        try:
            return {file: _read_part(file) for file in files}
        except FileNotFoundError as error:
            if files == before or files == [path]:
                raise SR3Error(f"There is no table of results {error}.") from error
            before = files


def _read_part(file: Path) -> pa.Table:
    """One part. Raises FileNotFoundError, and SR3Error where it is no such part."""
    try:
        # ParquetFile, since read_table would take folder names such as "run=3" for columns.
        with pq.ParquetFile(file) as part:
            table = part.read()
    except FileNotFoundError as error:
        raise FileNotFoundError(file) from error  # pyarrow's has no file name
    except (OSError, pa.ArrowException) as error:
        raise SR3Error(f"{file} is not a table of results ({error}): remove it") from error
    if not table.schema.equals(SCHEMA):
        odd = set(map(str, table.schema)) ^ set(map(str, SCHEMA))
        raise SR3Error(f"{file} has other columns than a table of results: {sorted(odd)}")
    return table


def _to_arrow(rows: Rows) -> pa.Table:
    records: list[dict[str, Any]]
    if isinstance(rows, pd.DataFrame):
        # Through objects, so that pandas' NaN for a missing string becomes None again.
        records = rows.astype(object).where(rows.notna(), None).to_dict("records")  # type: ignore[assignment]
    else:
        records = [dict(row) for row in rows]
    now = datetime.now(UTC)
    for number, row in enumerate(records):
        row.setdefault("created", now)
        row.setdefault("lpips_backbone", None)
        if fault := _fault(row):
            raise SR3Error(f"row {number} of the results {fault}")
    try:
        return pa.Table.from_pylist(records, schema=SCHEMA)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise SR3Error(f"a row of the results has a value of the wrong type: {error}") from error


def _fault(row: Mapping[str, Any]) -> str:
    """What is wrong with a row, as the end of a sentence; "" where nothing is."""
    if odd := set(row) ^ set(COLUMNS):
        return f"has missing or unknown columns: {', '.join(sorted(odd))}"
    if absent := [name for name in COLUMNS if row[name] is None and name != "lpips_backbone"]:
        return f"lacks {', '.join(absent)}: a thing that was not measured has no row"
    if not isinstance(row["value"], int | float | np.floating) or not row["value"] > -np.inf:
        return f"has the value {row['value']!r}: a thing that was not measured has no row"
    if not all(isinstance(row[name], int | np.integer) for name in ("seed", "steps")):
        return "has a seed or steps of the wrong type: both are whole numbers"  # Arrow truncates
    if not isinstance(row["metric"], str):
        return f"has a metric of the wrong type: {row['metric']!r}"
    if row["metric"].startswith("lpips") != bool(row["lpips_backbone"]):
        return f"({row['metric']}) must name lpips_backbone if, and only if, it is of LPIPS"
    return ""


def check_place(place: Path) -> None:
    """SR3Error unless a table can be written to `place`, FILE.parquet or a folder of parts: to be
    asked before measuring. Nothing is made."""
    single = place.suffix == ".parquet"
    known = place.is_file() if single else place.is_dir()
    if not known and (place.exists() or (not single and place.suffix[1:2].isalpha())):
        raise SR3Error(f"A table is a FILE.parquet or a folder of parts, not {place}: name one.")
    above = next((each for each in place.absolute().parents if each.exists()), place)
    there = place if place.exists() and not single else above
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise SR3Error(f"{place} cannot be written, as {there} takes no files: choose another.")


# -------------------------------------------------------------------------------------- derive
def summary(table: pd.DataFrame, seed: int = 0, confidence: float = 0.95) -> pd.DataFrame:
    """One row per checkpoint x domain x metric, and settings (GROUP).

    Columns: GROUP, `mean`, `low`, `high` (bootstrap over images of each image's mean over seeds),
    `n` images, `seeds`, and `spread`: the standard deviation over an image's seeds, averaged over
    images (NaN with one seed). `low`, `high` are NaN for one image.
    """
    rows = []
    for settings, group in table.groupby(list(GROUP), dropna=False, sort=True):
        images = group.groupby("image")["value"]
        # Errors of one image's samples are not independent: images, not rows, are resampled.
        interval = bootstrap_mean(images.mean(), seed, confidence)
        spread = images.std().mean() if np.isfinite(group["value"]).all() else float("nan")
        rows.append({
            **dict(zip(GROUP, settings, strict=True)),
            "mean": interval.mean, "low": interval.low, "high": interval.high, "n": interval.n,
            "seeds": group["seed"].nunique(), "spread": spread,
        })  # fmt: skip
    return pd.DataFrame(rows, columns=[*GROUP, "mean", "low", "high", "n", "seeds", "spread"])


def difference(
    ours: pd.DataFrame, baseline: pd.DataFrame, seed: int = 0, confidence: float = 0.95
) -> Interval:
    """Mean of `ours - baseline` over the images both have, with a paired bootstrap interval.

    Each is the part of a table that holds one metric with one setting, such as two checkpoints'
    "psnr" on one domain. SR3Error where they differ in metric or files, where one of them mixes
    checkpoints or ways of sampling, or where they share no image.
    """
    for rows in (ours, baseline):
        for name in ("checkpoint_hash", "sampler", "steps"):
            if len(mixed := rows[name].unique()) > 1:
                raise SR3Error(
                    f"each side of a difference needs one {name}, not {sorted(map(str, mixed))}: "
                    "choose the rows of one."
                )
    for name in ("metric", "domain", "file_list_hash", "lpips_backbone"):
        both = pd.concat([ours[name], baseline[name]])
        if both.nunique(dropna=False) > 1:
            raise SR3Error(f"a difference needs one {name}, not {sorted(map(str, both.unique()))}")
    first, second = (rows.groupby("image")["value"].mean() for rows in (ours, baseline))
    images = first.index.intersection(second.index)
    if images.empty:
        raise SR3Error("a difference needs images that both were measured on; there are none")
    return paired_difference(first[images], second[images], seed, confidence)
