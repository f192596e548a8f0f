"""Domains: who is in which split is decided by the bytes of an image and by nothing else."""

from __future__ import annotations

import hashlib
import io
import random
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lmdb
import numpy as np
import pytest
from PIL import ExifTags, Image

from sr3 import domains
from sr3.domains import (
    Domain,
    Entry,
    domain_from_path,
    domain_name,
    list_hash,
    load_domain,
    load_pixels,
)
from sr3.errors import DomainError

SPLITS = ("train", "validation", "test")


def png(number: int, size: int = 128, mode: str = "RGB") -> bytes:
    """A small file, different for each number."""
    stream = io.BytesIO()
    image = Image.new("RGB", (size, size), (number % 256, number // 256, 77)).convert(mode)
    image.save(stream, "PNG")
    return stream.getvalue()


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def numbered(count: int) -> dict[str, bytes]:
    return {f"{k:05}.png": png(k) for k in range(count)}


def hashes(domain: Domain, split: str) -> list[str]:
    return [entry.sha256 for entry in domain.entries(split)]


@pytest.fixture
def folder(tmp_path) -> Path:
    return write(tmp_path / "faces", numbered(60))


# ----------------------------------------------------------------------------------------- splits
def test_splits_are_cut_from_the_sorted_hashes(folder):
    domain = domain_from_path(folder)
    order = sorted(hashlib.sha256(png(k)).hexdigest() for k in range(60))
    assert hashes(domain, "test") == order[:12]  # a fifth
    assert hashes(domain, "validation") == order[12:18]  # a tenth
    assert hashes(domain, "train") == order[18:]
    assert (domain.name, domain.title, domain.may_show) == ("faces", "faces", False)


def test_split_sizes_may_be_given(folder):
    domain = domain_from_path(folder, validation=5, test=0)
    assert [len(domain.entries(split)) for split in SPLITS] == [55, 5, 0]


def test_renaming_and_reordering_move_no_image(folder, tmp_path):
    contents = list(numbered(60).values())
    random.Random(0).shuffle(contents)
    other = write(
        tmp_path / "other", {f"sub{k % 3}/{99 - k}.PNG": c for k, c in enumerate(contents)}
    )
    one, two = domain_from_path(folder), domain_from_path(other)
    assert one.sha256 == two.sha256
    assert all(hashes(one, split) == hashes(two, split) for split in SPLITS)


def test_identical_images_count_once(folder):
    before = domain_from_path(folder)
    write(folder, {f"copies/{k}.png": png(k) for k in range(30)})
    after = domain_from_path(folder)
    assert after.sha256 == before.sha256
    every = [digest for split in SPLITS for digest in hashes(after, split)]
    assert len(every) == len(set(every)) == 60


def test_another_image_changes_the_hash(folder):
    before = domain_from_path(folder).sha256
    write(folder, {"new.png": png(999)})
    assert domain_from_path(folder).sha256 != before


def test_moving_an_image_between_splits_changes_the_hash(folder):
    sizes = [(6, 12), (7, 12), (6, 13), (0, 18), (18, 0)]
    found = {domain_from_path(folder, validation=v, test=t).sha256 for v, t in sizes}
    assert len(found) == len(sizes)


def test_the_list_hash_is_written_out(folder):
    entries = domain_from_path(folder).entries("test")
    text = "\n".join(entry.sha256 for entry in entries)
    assert list_hash(entries) == hashlib.sha256(text.encode()).hexdigest()
    joined = f"{text}\n\n{entries[0].sha256}"
    assert list_hash(entries, entries[:1]) == hashlib.sha256(joined.encode()).hexdigest()


# ---------------------------------------------------------------------------------------- subsets
@pytest.mark.parametrize("seed", [0, 1, 7])
def test_subsets_are_nested(folder, seed):
    domain = domain_from_path(folder)
    largest = domain.subset("train", 42, seed)
    assert len({entry.sha256 for entry in largest}) == 42
    for count in (1, 16, 41):
        assert domain.subset("train", count, seed) == largest[:count]
    assert domain.subset("train") == domain.train


def test_subsets_of_other_seeds_differ(folder):
    domain = domain_from_path(folder)
    assert len({domain.subset("train", 8, seed) for seed in range(5)}) == 5


@pytest.mark.parametrize("count", [0, -1, 43])
def test_a_subset_of_the_wrong_size_is_refused(folder, count):
    with pytest.raises(DomainError, match=f"42 train images; {count} were asked"):
        domain_from_path(folder).subset("train", count)


# ---------------------------------------------------------------------------------------- sources
def test_every_kind_of_source_gives_the_same_domain(folder, tmp_path):
    expected = domain_from_path(folder)
    archive = tmp_path / "faces.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("readme.txt", "not an image")
        for name, content in numbered(60).items():
            opened.writestr(f"deep/{name}", content)
    layout = tmp_path / "layout"
    write(layout / "hr_128", numbered(60))
    write(layout / "lr_16", {name: png(k + 500, 16) for k, name in enumerate(numbered(60))})
    write(layout / "sr_16_128", {name: png(k + 800) for k, name in enumerate(numbered(60))})
    # A Mac adds a hidden file to each in a zip, and on foreign disks.
    write(layout / "hr_128", {f"._{name}": b"\0\5\x16\7" for name in numbered(60)})
    zipped = tmp_path / "layout.zip"
    with zipfile.ZipFile(zipped, "w") as opened:
        for file in sorted(layout.rglob("*.png")):
            opened.write(file, file.relative_to(tmp_path))
            opened.writestr(f"__MACOSX/{file.relative_to(tmp_path)}", b"\0\5\x16\7")
    base = lmdb_of(tmp_path / "lmdb", 60)
    for path in (archive, layout, zipped, base):
        domain = domain_from_path(path)
        assert domain.sha256 == expected.sha256, path
        assert np.array_equal(load_pixels(domain.test), load_pixels(expected.test))


def lmdb_of(path: Path, count: int) -> Path:
    opened = lmdb.open(str(path), map_size=2**24)
    with opened as environment, environment.begin(write=True) as transaction:
        for k in range(count):
            transaction.put(f"hr_128_{k:05}".encode(), png(k))
            transaction.put(f"sr_16_128_{k:05}".encode(), png(k + 800))
            transaction.put(f"lr_16_{k:05}".encode(), png(k + 500, 16))
        transaction.put(b"length", str(count).encode())
    return path


def test_an_lmdb_can_be_opened_again_while_in_use(tmp_path):
    path = lmdb_of(tmp_path / "lmdb", 12)
    one, two = domain_from_path(path), domain_from_path(path)
    assert np.array_equal(load_pixels(one.train), load_pixels(two.train))


def test_pixels_are_read_in_order_and_reduced(tmp_path):
    rng = np.random.default_rng(0)
    large = rng.integers(0, 256, (200, 200, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(large).save(stream, "PNG")
    write(tmp_path / "x", {"a.png": stream.getvalue(), "grey.png": png(9, mode="L")})
    domain = domain_from_path(tmp_path / "x")
    pixels = load_pixels(domain.train)
    assert pixels.shape == (2, 128, 128, 3) and pixels.dtype == np.uint8
    names = [entry.name for entry in domain.train]
    expected = Image.fromarray(large).resize((128, 128), Image.Resampling.BICUBIC)
    assert np.array_equal(pixels[names.index("a.png")], np.asarray(expected))
    assert len(np.unique(pixels[names.index("grey.png")])) == 1


def test_images_of_one_place_are_read_one_after_another(monkeypatch):
    """A domain's order is that of hashes; from table to table at each image would take for ever."""
    data, read = png(3), []
    names = [f"part-{k % 5}-{k:03}" for k in range(40)]

    def reader(name):
        return lambda: read.append(name) or data

    monkeypatch.setattr(domains, "ThreadPoolExecutor", lambda _: ThreadPoolExecutor(1))
    found = load_pixels(tuple(Entry(name, name, reader(name)) for name in names))
    assert read == sorted(names) and len(found) == 40


def test_a_zip_is_opened_once(tmp_path, monkeypatch):
    archive, opened = tmp_path / "many.zip", []
    with zipfile.ZipFile(archive, "w") as made:
        for k in range(12):
            made.writestr(f"{k}.png", png(k))

    class Counted(zipfile.ZipFile):
        def __init__(self, *args, **more):
            opened.append(args)
            super().__init__(*args, **more)

    monkeypatch.setattr(zipfile, "ZipFile", Counted)
    domain = domain_from_path(archive)
    assert len(load_pixels(domain.train)) == len(domain.train)
    assert len(opened) == 1


def test_a_picture_on_its_side_is_set_upright(tmp_path):
    upright = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    stream, exif = io.BytesIO(), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned clockwise
    Image.fromarray(np.rot90(upright).copy()).save(stream, "PNG", exif=exif)
    (entry,) = domain_from_path(write(tmp_path / "x", {"a.png": stream.getvalue()})).train
    assert np.array_equal(load_pixels((entry,))[0], upright)


@pytest.mark.parametrize("kind", ["EPS", "GIF", "PPM"])
def test_other_readers_than_those_allowed_are_never_tried(tmp_path, kind):
    stream = io.BytesIO()
    Image.new("RGB", (128, 128)).save(stream, kind)
    domain = domain_from_path(write(tmp_path / "x", {"face.png": stream.getvalue()}))
    with pytest.raises(DomainError, match=r"face\.png"):
        load_pixels(domain.train)


def test_pixels_of_no_images_are_none(folder):
    assert load_pixels(()).shape == (0, 128, 128, 3)


# ----------------------------------------------------------------------------------------- errors
def test_a_folder_without_images_is_refused(tmp_path):
    write(tmp_path / "x", {"notes.txt": b"no image"})
    with pytest.raises(DomainError, match="No images"):
        domain_from_path(tmp_path / "x")


def test_a_place_that_is_not_there_is_refused(tmp_path):
    for name in ("nowhere", "notes.txt"):
        (tmp_path / "notes.txt").write_text("no zip")
        with pytest.raises(DomainError, match=name):
            load_domain(str(tmp_path / name))


def checksum_broken() -> bytes:
    content = bytearray(png(1))
    content[content.index(b"IDAT") + 6] ^= 0xFF
    return bytes(content)


@pytest.mark.parametrize(
    "content",
    [b"", b"not an image", b"<svg/>", png(1)[:60], checksum_broken()],
    ids=["empty", "text", "svg", "cut", "checksum"],
)
def test_an_unreadable_image_is_refused_by_name(tmp_path, content):
    write(tmp_path / "x", {"good.png": png(0), "bad.png": content})
    domain = domain_from_path(tmp_path / "x")
    with pytest.raises(DomainError, match=r"bad\.png"):
        load_pixels(domain.train)


@pytest.mark.parametrize("size", [(127, 127), (128, 200), (16, 16)])
def test_a_small_or_oblong_image_is_refused_by_name(tmp_path, size):
    stream = io.BytesIO()
    Image.new("RGB", size).save(stream, "PNG")
    domain = domain_from_path(write(tmp_path / "x", {"odd.png": stream.getvalue()}))
    with pytest.raises(DomainError, match=rf"odd\.png is {size[0]}x{size[1]}"):
        load_pixels(domain.train)


def test_a_damaged_zip_is_refused(tmp_path):
    archive = tmp_path / "faces.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("a.png", png(1))
    content = bytearray(archive.read_bytes())
    content[50] ^= 0xFF  # inside the stored image
    archive.write_bytes(content)
    with pytest.raises(DomainError, match="faces"):
        domain_from_path(archive)


def test_a_zip_with_a_damaged_directory_is_refused(tmp_path):
    archive = tmp_path / "faces.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("a.png", png(1))
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\1\2")] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(DomainError, match=r"faces.*damaged"):
        domain_from_path(archive)


@pytest.mark.parametrize("damage", ["text", "cut", "pages"])
def test_a_damaged_lmdb_is_refused(tmp_path, damage):
    file = lmdb_of(tmp_path / "lmdb", 12) / "data.mdb"
    content = bytearray(file.read_bytes())
    if damage == "pages":
        content[2 * 4096 :] = bytes(len(content) - 2 * 4096)
    # Cut short, reading its end would kill the process: there is no such page.
    file.write_bytes({"text": b"no database", "cut": content[:9000]}.get(damage, content))
    with pytest.raises(DomainError, match="lmdb is damaged"):
        domain_from_path(tmp_path / "lmdb")


# --------------------------------------------------------------------------------------- registry
@pytest.fixture
def registered(folder, tmp_path, monkeypatch) -> Path:
    """`domains.toml` with one right entry and one whose images have changed."""
    expected = domain_from_path(folder, validation=4, test=9).sha256
    path = tmp_path / "domains.toml"
    settings = 'folder = "faces"\nvalidation = 4\ntest = 9\nmay_show = true\n'
    path.write_text(
        f'[source]\ntitle = "Source faces"\n{settings}sha256 = "{expected}"\n'
        f'[changed]\n{settings}sha256 = "{"0" * 64}"\n'
        '[absent]\nfolder = "not-downloaded"\n'
    )
    monkeypatch.setattr(domains, "REGISTRY", path)
    monkeypatch.setenv("SR3_DATA", str(tmp_path))
    return path


def test_a_registered_domain_is_read_as_registered(registered):
    domain = load_domain("source")
    assert (domain.name, domain.title, domain.may_show) == ("source", "Source faces", True)
    assert [len(domain.entries(split)) for split in SPLITS] == [47, 4, 9]


def test_other_images_than_the_registered_ones_are_refused(registered):
    with pytest.raises(DomainError, match="not the registered list"):
        load_domain("changed")


def test_absent_images_say_where_they_should_be(registered):
    with pytest.raises(DomainError, match=r"not-downloaded.*SR3_DATA"):
        load_domain("absent")


def test_the_table_s_name_is_known_without_reading(folder, tmp_path, registered, monkeypatch):
    with zipfile.ZipFile(tmp_path / "some.faces.zip", "w") as opened:
        opened.writestr("0.png", png(0))
    pin = f"hub:lab/faces@{'a' * 40}"
    write(tmp_path / "a+b", numbered(12))
    monkeypatch.setattr(domains, "fetch_images", lambda pin: ())
    monkeypatch.setattr("sr3.pins.Pin.folder", folder)
    names = {"source": "source", str(folder): "faces", str(tmp_path / "some.faces.zip"):
             "some.faces", str(tmp_path / "a+b"): "a+b", pin: pin, f"{pin}#face": f"{pin}#face",
             f"source+{folder}": f"source+{folder}"}  # fmt: skip
    assert {name: domain_name(name) for name in names} == names
    assert {name: load_domain(name).name for name in names} == names


# ---------------------------------------------------------------------------------------- joining
def test_joined_domains_join_split_by_split(folder, tmp_path, registered):
    other = write(tmp_path / "other", {f"{k}.png": png(k) for k in range(100, 130)})
    one, two = load_domain("source"), domain_from_path(other)
    joined = load_domain(f"source+{other}")
    for split in SPLITS:
        assert hashes(joined, split) == hashes(one, split) + hashes(two, split)
    assert joined.title == "Source faces + other"
    assert not joined.may_show  # the other one may not be shown


def test_no_image_of_joined_domains_is_in_two_splits(folder, tmp_path):
    overlapping = write(tmp_path / "other", {f"{k}.png": png(k) for k in range(30, 90)})
    joined = load_domain(f"{folder}+{overlapping}")
    every = [digest for split in SPLITS for digest in hashes(joined, split)]
    assert len(every) == len(set(every)) == 90
    tests = {d for path in (folder, overlapping) for d in hashes(domain_from_path(path), "test")}
    assert set(hashes(joined, "test")) == tests  # the test is what must not leak


def test_a_path_with_a_plus_is_one_domain(tmp_path):
    path = write(tmp_path / "a+b", numbered(12))
    assert load_domain(str(path)).sha256 == domain_from_path(path).sha256
