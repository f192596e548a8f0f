"""Pictures of people who do not exist, kept in a folder with how each was made.

The folder holds PNG files of 128x128 pixels and `people.json`, a list: of each file its SHA-256,
the seed and index it was drawn with, and of both stages the name and the hash of the weights.
Invariants: only a file that is listed is read, and only unchanged; a listed file that was deleted
is no longer offered; without the list the folder is empty.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sr3.errors import ImageError
from sr3.files import write_text
from sr3.images import Pixels, decode

LIST = "people.json"
SIDE = 128  # pixels
AGAIN = (
    "make the folder anew with `python -m sr3 generate --count 8 --seed 1 --out sr3/ui/people "
    "--gallery`"
)


@dataclass(frozen=True)
class Origin:
    """How one picture was made."""

    file: str  # its name in the folder
    sha256: str  # of the file
    seed: int
    index: int
    first: str  # the name of the stage that made 16x16 pixels of one
    first_hash: str  # of its weights
    second: str  # of the one that made 128x128 of these
    second_hash: str


@dataclass(frozen=True)
class Person:
    """One picture of the folder."""

    origin: Origin
    pixels: Pixels  # (128, 128, 3) uint8


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def add(folder: Path, made: Iterable[Origin]) -> Path:
    """List new pictures beside those that are listed already and still there; gives the list."""
    listed = {each.file: each for each in _listed(folder)} | {each.file: each for each in made}
    kept = [each for name, each in sorted(listed.items()) if (folder / name).is_file()]
    text = json.dumps([dataclasses.asdict(each) for each in kept], indent=1)
    write_text(folder / LIST, f"{text}\n")
    return folder / LIST


def read(folder: Path) -> list[Person]:
    """The folder's people in the list's order.

    Raises ImageError for a list that cannot be read and for a picture that was changed.
    """
    return [
        Person(each, _pixels(folder / each.file, each))
        for each in _listed(folder)
        if (folder / each.file).is_file()
    ]


def _listed(folder: Path) -> list[Origin]:
    path = folder / LIST
    if not path.exists():
        return []
    try:
        origins = [Origin(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise ImageError(f"{path} is no list of generated people: {AGAIN}.") from error
    if odd := [each.file for each in origins if Path(each.file).name != each.file]:
        raise ImageError(f"{path} names {odd[0]!r}, which is no file of its folder: {AGAIN}.")
    return origins


def _pixels(path: Path, origin: Origin) -> Pixels:
    data = path.read_bytes()
    pixels = np.asarray(decode(data)) if digest(data) == origin.sha256 else None
    if pixels is None or pixels.shape != (SIDE, SIDE, 3):
        raise ImageError(
            f"{path} is not the {SIDE}x{SIDE} picture that {LIST} lists: delete it, or {AGAIN}."
        )
    return pixels
