"""Images of a Hub data set: Parquet files of one commit, with a column that holds encoded images.

Invariants: files are verified as every file of the Hub; an image is its bytes as they are in the
table, so a domain's hash is the same here and elsewhere; pyarrow is loaded only where it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from sr3.errors import DomainError, HubError, SR3Error
from sr3.hub import fetch, files_of
from sr3.pins import Pin, Progress, is_right, no_network

IMAGE_COLUMN = "image"  # as the Hub's own image data sets name it


def fetch_images(pin: Pin, token: str | None = None) -> Iterator[Progress]:
    """Bring the Parquet files of a data set's commit here. Raises HubError."""
    yield from fetch(pin, _tables(pin, token), token)


def images_here(pin: Pin) -> bool:
    """Whether all of them are here and right, without asking the Hub."""
    try:
        with no_network():
            return all(is_right(pin.folder / name, sha) for name, sha in _tables(pin).items())
    except SR3Error:
        return False


def _tables(pin: Pin, token: str | None = None) -> dict[str, str]:
    files = files_of(pin, token)
    tables = {name: digest for name, digest in files.items() if name.endswith(".parquet")}
    if not tables:
        raise HubError(
            f"{pin} has no Parquet files: choose a commit of the data set that has (its branch "
            "refs/convert/parquet)."
        )
    return tables


def parquet_images(folder: Path, column: str) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """(name, reader) of each image in the tables under `folder`, sorted by file, then row.

    The column holds bytes, or the Hub's struct of `bytes` and `path`. Raises DomainError.
    """
    for file in sorted(folder.rglob("*.parquet")):
        for row in range(len(_column(file, column))):
            name = f"{file.relative_to(folder).with_suffix('')}-{row:06}"
            yield name, _reader(file, column, row)


def _reader(file: Path, column: str, row: int) -> Callable[[], bytes]:
    def read() -> bytes:
        value = _column(file, column)[row].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise DomainError(
                f"Row {row} of {file.name} holds no image in its column {column!r}: name the "
                "column of images (`image_column`, or `#column` behind the commit)."
            )
        return data

    return read


@lru_cache(maxsize=4)  # tables that are read row by row; a shard of the Hub has some hundred MB
def _column(file: Path, column: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file)
        if column in table.schema_arrow.names:
            return table.read([column]).column(0)
    except (OSError, pa.ArrowException) as error:
        raise DomainError(f"{file} is damaged ({error}): fetch the data set again.") from error
    raise DomainError(
        f"{file.name} has no column {column!r}, but {', '.join(table.schema_arrow.names)}: name "
        "the column of images (`image_column`, or `#column` behind the commit)."
    )
