"""Files that are whole or not there: under a failure at any point, and with several writers."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from sr3 import files
from sr3.files import whole, write_bytes, write_text


def test_a_file_and_its_folders_are_made(tmp_path):
    write_text(tmp_path / "a" / "b.txt", "Straße ↑\n")
    assert (tmp_path / "a" / "b.txt").read_bytes() == "Straße ↑\n".encode()
    write_bytes(tmp_path / "a" / "b.txt", b"anew")
    assert [path.read_bytes() for path in (tmp_path / "a").iterdir()] == [b"anew"]


def write_half(file, alone, error):
    with whole(file, alone) as partial:
        assert partial.parent == file.parent and partial.suffix == ".partial"
        partial.write_bytes(b"half")
        raise error


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path):
    for name in ("a" * 255, "↑" * 85):
        write_text(tmp_path / name, "text")
        assert (tmp_path / name).read_text() == "text"


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("error", [OSError("full"), RuntimeError("cut"), KeyboardInterrupt()])
def test_what_was_there_stays_whatever_happens(tmp_path, error, alone):
    file = tmp_path / "state.pt"
    file.write_bytes(b"before")
    with pytest.raises(type(error)):
        write_half(file, alone, error)
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]
    assert file.read_bytes() == b"before"


def test_a_rename_that_fails_leaves_nothing_else(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError("no rename")

    monkeypatch.setattr(files.os, "replace", refuse)
    with pytest.raises(OSError, match="no rename"):  # the only way in is a rename
        write_text(tmp_path / "a.txt", "text")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_written_over(tmp_path):
    (tmp_path / ".state.pt.partial").write_bytes(b"of one that was killed")
    with whole(tmp_path / "state.pt", alone=True) as partial:
        partial.write_bytes(b"mine")
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_several_may_write_one_file_at_once(tmp_path):
    file = tmp_path / "list.json"
    contents = [bytes([k]) * 50_000 for k in range(4)]
    seen: set[bytes] = set()

    def write(content: bytes) -> None:
        for _ in range(20):
            write_bytes(file, content)
            seen.add(Path(file).read_bytes())

    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert seen <= set(contents) and [path.name for path in tmp_path.iterdir()] == ["list.json"]
