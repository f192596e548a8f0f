"""Files that are whole or not there at all: written beside their place, then renamed into it.

Invariant: nobody ever sees a part of a file; whatever goes wrong, also an interruption, what stood
there before stays, and nothing is left beside it but by a process that was killed.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path, alone: bool = False) -> Iterator[Path]:
    """Where to write a file, beside `path`: it is renamed to that if the block ends well.

    Others may write the same file at once, unless this process is `alone` with it: then what a
    killed one left is written over. Raises OSError.
    """
    # No longer than a name may be: 40 characters are at most 160 bytes.
    own = path.name if alone else f"{path.name[:40]}.{uuid.uuid4().hex}"
    partial = path.with_name(f".{own}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole, and the folders that it needs. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8."""
    write_bytes(path, text.encode())
