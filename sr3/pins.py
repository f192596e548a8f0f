"""Pins: a Hub repository at a full commit, its place in the Hub's own cache, its files' hashes.

Invariants: nothing here opens a connection; a pin names 40 hex digits, never a branch, so what it
means cannot change; a file counts as here only while its bytes have the hash that it should have.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from sr3.errors import HubError
from sr3.files import whole, write_text

PREFIX = "hub:"
PART = ".sr3.incomplete"  # behind the name of a file that is being fetched
Kind = Literal["model", "dataset"]
_PIN = re.compile(r"hub:([\w.-]+/[\w.-]+)@([0-9a-f]{40})")
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_GRAIN = 2_000_000_000  # ns: a younger file may change again within its clock's grain
_known: dict[tuple[str, str, int, int, int, int], str] = {}  # hashes by path and state
_MOST_KNOWN = 4096
_local: ContextVar[bool] = ContextVar("sr3_local", default=False)


@dataclass(frozen=True)
class Pin:
    """A repository of the Hub at one commit."""

    repo: str  # org/name
    commit: str  # 40 hex digits
    kind: Kind = "model"
    root: Path | None = None  # another cache than the usual one

    @property
    def storage(self) -> Path:
        """The repository's folder in the Hub's cache, as every Hub client lays it out."""
        return (self.root or cache()) / f"{self.kind}s--{self.repo.replace('/', '--')}"

    @property
    def folder(self) -> Path:
        """The snapshot: the files of this commit that are here."""
        return self.storage / "snapshots" / self.commit

    def __str__(self) -> str:
        return f"{PREFIX}{self.repo}@{self.commit}"


@dataclass(frozen=True)
class Progress:
    """How far a fetch is, in bytes over all of its files."""

    file: str
    done: int
    total: int
    remaining: float | None  # seconds; None while there is nothing to judge by

    @property
    def share(self) -> float:
        """0 to 1."""
        return min(1.0, self.done / self.total) if self.total else 1.0

    def describe(self) -> str:
        """One line, such as "model.safetensors: 3.1 of 18.9 MB, about 12 s left"."""
        left = "" if self.remaining is None else f", about {self.remaining:.0f} s left"
        return f"{self.file}: {self.done / 1e6:.1f} of {self.total / 1e6:.1f} MB{left}"


def parse_pin(text: str, kind: Kind = "model") -> Pin:
    """`hub:org/name@commit` as a Pin. Raises HubError where it is another thing."""
    match = _PIN.fullmatch(text)
    if match is None or ".." in match[1]:
        raise HubError(
            f"{text!r} does not name a commit on the Hub: write hub:org/name@COMMIT with all "
            "40 hex digits of the commit (its page lists them); a branch or tag could change."
        )
    return Pin(match[1], match[2], kind)


def cache() -> Path:
    """Where Hub clients keep what they fetched: HF_HUB_CACHE, HF_HOME/hub, ~/.cache/..."""
    if chosen := os.environ.get("HF_HUB_CACHE"):
        return Path(chosen).expanduser()
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or os.path.join(caches, "huggingface")
    return Path(home).expanduser() / "hub"


def offline() -> bool:
    """Whether the network is not to be used: HF_HUB_OFFLINE=1, or `--offline`, which sets it."""
    return _local.get() or any(
        os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")
        for name in ("HF_HUB_OFFLINE", "SR3_OFFLINE")
    )


@contextmanager
def no_network() -> Iterator[None]:
    """`offline` within the block, for this thread alone."""
    before = _local.set(True)
    try:
        yield
    finally:
        _local.reset(before)


def go_offline() -> None:
    """Use no network from now on, in this process and those that it starts."""
    os.environ["HF_HUB_OFFLINE"] = "1"


# ------------------------------------------------------------------------------------- hashes
def digest_of(file: Path, wanted: str) -> str:
    """A file's hash of the kind of `wanted`: 64 hex digits SHA-256, 40 a git blob's SHA-1.

    Kept by the file's path, size, inode and times, so asking again costs nothing. Raises OSError.
    """
    state = file.stat()
    kind = "sha256" if len(wanted) == 64 else "sha1"
    key = (str(file), kind, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    if (known := _known.get(key)) is not None:
        return known
    digest = hashlib.new(kind)
    if kind == "sha1":
        digest.update(b"blob %d\0" % state.st_size)
    with file.open("rb") as opened:
        while piece := opened.read(1 << 20):
            digest.update(piece)
    if time.time_ns() - max(state.st_mtime_ns, state.st_ctime_ns) > _GRAIN:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[key] = digest.hexdigest()
    return digest.hexdigest()


def is_right(file: Path, wanted: str) -> bool:
    """Whether a file is here with the hash that it should have."""
    try:
        return file.is_file() and digest_of(file, wanted) == wanted
    except OSError:
        return False


# -------------------------------------------------------------------------------------- files
def place(pointer: Path, blob: Path) -> None:
    """Make a snapshot's file of a blob, as the Hub's clients do: a link, or a copy."""
    pointer.parent.mkdir(parents=True, exist_ok=True)
    with whole(pointer) as partial:
        try:
            partial.symlink_to(os.path.relpath(blob, pointer.parent))
        except OSError:  # a file system without links
            shutil.copyfile(blob, partial)


def linked_files(pin: Pin) -> dict[str, str]:
    """The files of a snapshot that links to its blobs, with the hashes that these are named by."""
    links = [path for path in pin.folder.glob("**/*") if path.is_symlink()]
    named = {path.relative_to(pin.folder).as_posix(): path.readlink().name for path in links}
    return {name: digest for name, digest in named.items() if _HASH.fullmatch(digest)}


def make_room(pin: Pin, size: int) -> None:
    """Raises HubError where a fetch would fill the disk."""
    pin.storage.mkdir(parents=True, exist_ok=True)
    kept = sum(part.stat().st_size for part in pin.storage.glob(f"blobs/*{PART}"))
    if (free := shutil.disk_usage(pin.storage).free) < size - kept:
        raise HubError(
            f"The disk is full: {pin} needs {size / 1e6:.0f} MB and {pin.storage} has "
            f"{free / 1e6:.0f} MB left; free some, or set HF_HOME to a folder on another disk."
        )


def safe_name(name: str) -> str:
    """A name inside a repository, unchanged. Raises HubError where it points out of it."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not name:
        raise HubError(f"{name!r} is no name of a file of a repository: correct the registry.")
    return name


def write_note(file: Path, text: str) -> None:
    """Best effort: a cache that cannot be written only costs a request the next time."""
    with suppress(OSError):
        write_text(file, text)
