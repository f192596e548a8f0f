"""Domains: named, hashed lists of face images with fixed splits and nested subsets.

Invariants: an image belongs to a split by the SHA-256 of its bytes, so neither its name nor the
order of a folder moves it; byte-identical images count once, so no image is in two splits; the
subset of n images is the first n of one seeded shuffle, so that the 16 images of "16" are among
the 64 of "64"; `Domain.sha256` identifies the whole list.

A domain is read from a folder or a zip, also in the public SR3 layout (of which the `hr_SIZE`
images are taken), an LMDB of that layout, or a Hub data set at a full commit (Parquet with a column
of images). What is hidden (dot-names, `__MACOSX`) is no image. Pixels come by `sr3.images.decode`,
as a stranger's do. Well-known domains are named in `checkpoints/domains.toml`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import tomllib
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from sr3.errors import DomainError, ImageError
from sr3.hub_images import IMAGE_COLUMN, fetch_images, images_here, parquet_images
from sr3.images import Pixels, decode, resize
from sr3.pins import PREFIX, Progress, parse_pin

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("test", "validation", "train")  # who keeps an image that two claim
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
_log = logging.getLogger("sr3.pull")  # downloads that a name asks for; the command line shows them
REGISTRY = Path(__file__).parent.parent / "checkpoints" / "domains.toml"


@dataclass(frozen=True)
class Entry:
    """One image of a domain: where it is read from, and what it is."""

    name: str
    sha256: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Domain:
    """A named list of images in three fixed splits."""

    name: str
    title: str
    train: tuple[Entry, ...]
    validation: tuple[Entry, ...]
    test: tuple[Entry, ...]
    may_show: bool = False  # whether its images may appear on a screen or in a local report

    @property
    def sha256(self) -> str:
        """The hash of the whole list: every split's image hashes in order."""
        return list_hash(*(self.entries(split) for split in ("train", "validation", "test")))

    def entries(self, split: Split) -> tuple[Entry, ...]:
        """The images of one split, in their fixed order."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[split]

    def subset(self, split: Split, count: int | None = None, seed: int = 0) -> tuple[Entry, ...]:
        """`count` images of a split (None: all), nested for one seed.

        Raises DomainError when the split has fewer.
        """
        entries = self.entries(split)
        if count is None:
            return entries
        if not 1 <= count <= len(entries):
            raise DomainError(
                f"{self.name} has {len(entries)} {split} images; {count} were asked for: choose "
                f"between 1 and {len(entries)}."
            )
        order = np.random.default_rng(seed).permutation(len(entries))
        return tuple(entries[i] for i in order[:count])


def list_hash(*lists: tuple[Entry, ...]) -> str:
    """SHA-256 over the image hashes of one or several lists, in order: the same images in another
    order are another list, since an image's noise may follow its place (`sr3.gap`)."""
    text = "\n\n".join("\n".join(entry.sha256 for entry in entries) for entries in lists)
    return hashlib.sha256(text.encode()).hexdigest()


def load_pixels(entries: tuple[Entry, ...], size: int = 128) -> Pixels:
    """The images themselves: (n, size, size, 3) uint8, reduced by Pillow's bicubic if larger.

    Raises DomainError for an image that cannot be read, is not square or is smaller than `size`.
    """
    found = np.empty((len(entries), size, size, 3), np.uint8)
    # By name, so that of a data set in many tables each is opened once.
    order = sorted(range(len(entries)), key=lambda place: entries[place].name)
    with ThreadPoolExecutor(4) as pool:
        images = pool.map(lambda place: _pixels(entries[place], size), order)
        for place, image in zip(order, images, strict=True):
            found[place] = image
    return found


def _pixels(entry: Entry, size: int) -> Pixels:
    try:
        image = np.asarray(decode(entry.read()))
    except ImageError as error:
        raise DomainError(f"{entry.name} cannot be used. {error}") from error
    height, width, _ = image.shape
    if height != width or height < size:
        raise DomainError(
            f"{entry.name} is {width}x{height}; a domain needs square faces of at least "
            f"{size}x{size} pixels."
        )
    return resize(image, size)


def domain_name(name: str) -> str:
    """What the table calls the domain that `load_domain` gives for a name, without reading it."""
    joined = "+" in name and not Path(name).exists()
    if joined or name in registered() or name.startswith(PREFIX):
        return name
    return Path(name).stem


def load_domain(name: str) -> Domain:
    """A domain by its registered name, by path, or several joined by `+` (splits are joined; an
    image that several hold counts once, for the test first, so that it is still in one split).

    Registered folders are looked for in the folder named by SR3_DATA (default `data`).
    Raises DomainError when there is none, or its images are not those that were registered.
    """
    if "+" not in name or Path(name).exists():
        return _load_one(name)
    parts = [_load_one(part) for part in name.split("+")]
    splits: dict[Split, tuple[Entry, ...]] = {}
    seen: set[str] = set()
    for split in SPLITS:
        unique = {e.sha256: e for part in parts for e in part.entries(split)}
        splits[split] = tuple(e for digest, e in unique.items() if digest not in seen)
        seen |= unique.keys()
    title = " + ".join(part.title for part in parts)
    may_show = all(part.may_show for part in parts)
    return Domain(domain_name(name), title, **splits, may_show=may_show)


def registered() -> dict[str, dict[str, object]]:
    """The entries of `checkpoints/domains.toml` by name; empty when there is no such file."""
    if not REGISTRY.exists():
        return {}
    return dict(tomllib.loads(REGISTRY.read_text()))


def _load_one(name: str) -> Domain:
    known = registered().get(name)
    if known is None and name.startswith(PREFIX):
        address, _, column = name.partition("#")
        for progress in fetch_images(pin := parse_pin(address, "dataset")):
            _log.info("%s", progress.describe())
        return domain_from_path(pin.folder, name=domain_name(name), column=column or IMAGE_COLUMN)
    if known is None:
        return domain_from_path(Path(name), name=domain_name(name))
    path = place(name, known)
    validation, test = known.get("validation"), known.get("test")
    domain = domain_from_path(
        path,
        name=domain_name(name),
        title=str(known.get("title", name)),
        validation=validation if isinstance(validation, int) else None,
        test=test if isinstance(test, int) else None,
        may_show=bool(known.get("may_show", False)),
        column=str(known.get("image_column", IMAGE_COLUMN)),
    )
    expected = known.get("sha256")
    if expected and expected != domain.sha256:
        raise DomainError(
            f"The images of {name} at {path} are not the registered list (hash "
            f"{domain.sha256[:12]}, registered {str(expected)[:12]}): figures would not compare."
        )
    return domain


def place(name: str, known: Mapping[str, object]) -> Path:
    """Where the images of a registered domain are. Raises DomainError where they are not."""
    if "hub" in known:
        pin = parse_pin(str(known["hub"]), "dataset")
        if not images_here(pin):
            raise DomainError(
                f"The images of {name} are on the Hub and not here yet: fetch them with "
                f"`python -m sr3 domains --pull {name}`."
            )
        return pin.folder
    path = Path(os.environ.get("SR3_DATA", "data")) / str(known.get("folder", name))
    if not path.exists():
        raise DomainError(
            f"The images of {name} are not at {path}; set SR3_DATA to the folder that holds them."
        )
    return path


def fetch_registered(name: str | None = None) -> Iterator[tuple[str, Iterator[Progress]]]:
    """(name, fetch) of each registered domain of the Hub, or of one. Raises DomainError."""
    for each, known in registered().items():
        if "hub" in known and name in (None, each):
            yield each, fetch_images(parse_pin(str(known["hub"]), "dataset"))
    if name is not None and "hub" not in registered().get(name, {}):
        raise DomainError(f"{name} has no `hub` entry in domains.toml: nothing is to be fetched.")


def domain_from_path(
    path: Path,
    *,
    name: str | None = None,
    title: str | None = None,
    validation: int | None = None,
    test: int | None = None,
    may_show: bool = False,
    column: str = IMAGE_COLUMN,
) -> Domain:
    """A domain from a folder, zip, LMDB or the `column` of a folder of Parquet files. Splits
    default to a fifth (at most 200) for the test and a tenth (at most 64) for validation; `test`
    of 0 or more fixes the number.

    Raises DomainError when there are no images there.
    """
    unique: dict[str, Entry] = {}
    for file, read in _sources(path, column):
        digest = hashlib.sha256(read()).hexdigest()
        unique.setdefault(digest, Entry(file, digest, read))
    if not unique:
        raise DomainError(f"No images were found in {path}: it needs PNG, JPEG, WebP or BMP files.")
    entries = tuple(unique[digest] for digest in sorted(unique))
    tests = min(200, len(entries) // 5) if test is None else min(test, len(entries))
    held = min(64, len(entries) // 10) if validation is None else validation
    return Domain(
        name or path.stem,
        title or name or path.stem,
        train=entries[tests + held :],
        validation=entries[tests : tests + held],
        test=entries[:tests],
        may_show=may_show,
    )


def _sources(path: Path, column: str = IMAGE_COLUMN) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """(name, reader) of each image under `path`, sorted by name."""
    if path.is_dir() and (path / "data.mdb").exists():
        yield from _lmdb_sources(path)
    elif path.is_dir() and any(path.rglob("*.parquet")):
        yield from parquet_images(path, column)
    elif path.is_dir():
        for place, name in _images_among(f.relative_to(path).as_posix() for f in _files(path)):
            yield name, (path / place).read_bytes
    elif zipfile.is_zipfile(path):
        for member, name in _images_among(_members(path)):
            yield name, _zip_reader(path, member)
    else:
        raise DomainError(
            f"There is no domain at {path}: expected a folder, a zip or an LMDB of face images, "
            f"or one of the names {', '.join(registered()) or '(none registered)'}."
        )


def _files(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.rglob("*")) if file.suffix and file.is_file()]


def _images_among(places: Iterable[str]) -> list[tuple[str, str]]:
    """(place, name) of the images among paths with `/`, in their order.

    Of the public SR3 layout (hr_128/ lr_16/ sr_16_128/, at any depth) those in the first hr_SIZE
    folder are taken, and named from there.
    """
    images = [
        place
        for place in places
        if PurePosixPath(place).suffix.lower() in SUFFIXES
        and not any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(place).parts)
    ]
    layouts = [found[0] for place in images if (found := re.match(r"(?:.*?/)??hr_\d+/", place))]
    root = min(layouts, default="")
    return [(place, place.removeprefix(root)) for place in images if place.startswith(root)]


def _members(path: Path) -> list[str]:
    """The files in a zip, sorted. Raises DomainError where its directory is damaged."""
    try:
        members = _archive(path, path.stat().st_mtime_ns).infolist()
        return sorted(entry.filename for entry in members if not entry.is_dir())
    except Exception as error:  # zipfile raises nearly anything on a damaged file
        raise DomainError(f"The zip {path} is damaged ({error}): copy it again.") from error


@lru_cache(maxsize=4)  # opening one reads its whole directory
def _archive(path: Path, changed: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def _zip_reader(path: Path, member: str) -> Callable[[], bytes]:
    def read() -> bytes:
        try:
            return _archive(path, path.stat().st_mtime_ns).read(member)
        except Exception as error:
            raise DomainError(f"{member} in {path} cannot be read ({error}): mend it.") from error

    return read


@cache  # LMDB refuses to open one environment twice in a process
def _lmdb_environment(path: Path) -> Any:
    import lmdb  # only those who bring an LMDB pay for it

    environment = lmdb.open(str(path), readonly=True, lock=False)
    size = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if (path / "data.mdb").stat().st_size < size:  # reading past its end would kill the process
        environment.close()
        raise ValueError("it is cut short")
    return environment


@contextmanager
def _lmdb_damage(path: Path) -> Iterator[None]:
    """What a damaged LMDB raises, as DomainError."""
    import lmdb

    try:
        yield
    except (lmdb.Error, ValueError) as error:
        raise DomainError(f"The LMDB {path} is damaged ({error}): copy it again.") from error


def _lmdb_sources(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Keys `hr_SIZE_00000` of an LMDB in the public layout."""

    def reader(key: bytes) -> Callable[[], bytes]:
        def read() -> bytes:
            with _lmdb_damage(path), environment.begin() as transaction:
                if (value := transaction.get(key)) is None:
                    raise ValueError(f"{key!r} is listed but not there")
                return bytes(value)

        return read

    with _lmdb_damage(path):
        environment = _lmdb_environment(path.resolve())
        with environment.begin() as transaction:
            found = [bytes(key) for key, _ in transaction.cursor()]
        keys = {key.decode(): key for key in found if key.startswith(b"hr_")}
    for name, key in keys.items():
        yield name, reader(key)
