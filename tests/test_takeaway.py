"""What a visitor takes home: readable files, pixels alone, and no file on the way."""

from __future__ import annotations

import io
import subprocess
import sys
import weakref

import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image

from sr3 import takeaway
from sr3.errors import SR3Error
from sr3.takeaway import SIDE, Shown, card, film_strip, gif, mp4

RED, BLUE = (np.full((16, 16, 3), colour, np.uint8) for colour in ((200, 30, 30), (20, 40, 210)))
FRAMES = list(film_strip([[RED, BLUE], [BLUE, RED], [RED, RED]], 64))


def film(frames, **options) -> bytes:
    return mp4(iter(frames), len(frames), **options)


def commands_of(monkeypatch) -> list[list[str]]:
    """The commands that are begun from now on."""
    commands, real = [], subprocess.Popen

    def watched(command, **options):
        commands.append(command)
        return real(command, **options)

    monkeypatch.setattr(subprocess, "Popen", watched)
    return commands


def test_a_card_shows_every_picture_in_its_place():
    shown = [Shown("Input", RED, "16 × 16", crisp=True), Shown("SR3", BLUE, "seed 3")]
    data = card(shown, "SR3 Lab", ["Lite SR3, 10 steps, seed 3", "word " * 60])
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG" and image.info == {} and not image.getexif()
        pixels = np.asarray(image)
    middle = 40 + 64 + SIDE // 2
    assert tuple(pixels[middle, 40 + SIDE // 2]) == tuple(RED[0, 0])
    assert tuple(pixels[middle, 40 + SIDE + 24 + SIDE // 2]) == tuple(BLUE[0, 0])
    below = pixels[40 + 64 + SIDE + 88 :]
    assert (below.min(axis=-1) < 128).any(), "what made the pictures is written under them"
    assert data == card(shown, "SR3 Lab", ["Lite SR3, 10 steps, seed 3", "word " * 60])


def test_a_card_writes_no_empty_boxes():
    with_cross, with_letter = (card([Shown("A", RED, f"16 {c} 16")], "T", [c]) for c in "×x")
    assert with_cross == with_letter


def test_a_long_line_stays_on_the_card():
    sheets = [
        Image.open(io.BytesIO(card([Shown("T" * 90, RED)], "SR3 Lab", [line])))
        for line in ("w", "word " * 80)
    ]
    assert sheets[0].width == sheets[1].width and sheets[1].height > sheets[0].height
    assert (np.asarray(sheets[1])[40:, -8:] == takeaway.GROUND).all(), "nothing in the margin"


def test_a_gif_holds_every_frame_in_order_and_repeats():
    with Image.open(io.BytesIO(gif(FRAMES, seconds=0.9))) as image:
        assert image.n_frames == 3 and image.info["loop"] == 0
        for number, colours in enumerate([(RED, BLUE), (BLUE, RED), (RED, RED)]):
            image.seek(number)
            shown = np.asarray(image.convert("RGB")).astype(int)
            for half, colour in zip((shown[32, 16], shown[32, 96]), colours, strict=True):
                assert np.abs(half - colour[0, 0]).max() < 40
            assert image.info["duration"] == (1500 if number == 2 else 300)


def test_a_film_can_be_read_and_is_what_browsers_play():
    command = [get_ffmpeg_exe(), "-i", "pipe:0", "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"]
    read = subprocess.run(command, input=film(FRAMES, seconds=0.6), capture_output=True, check=True)
    about = read.stderr.decode()
    assert "h264" in about and "yuv420p" in about and "128x64" in about
    frames = np.frombuffer(read.stdout, np.uint8).reshape(-1, 64, 128, 3).astype(int)
    assert len(frames) == pytest.approx(25 * (0.6 + takeaway.HOLD), abs=3)
    assert np.abs(frames[0][32, 16] - RED[0, 0]).max() < 30
    assert np.abs(frames[-1][32, 96] - RED[0, 0]).max() < 30


def test_a_film_passes_through_no_file(monkeypatch):
    commands = commands_of(monkeypatch)
    film(FRAMES, seconds=0.2)
    assert commands[0][-1] == "pipe:1" and commands[0][commands[0].index("-i") + 1] == "pipe:0"


def test_a_film_made_frame_by_frame_has_the_bytes_of_one_made_at_once(monkeypatch):
    """More frames than a pipe holds, to a rate of 20 a second; the last one rests for 30 more."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    frames = list(film_strip([[each] for each in noise], 96))
    commands = commands_of(monkeypatch)
    found = film(frames)
    whole = b"".join(frame.tobytes() for frame in [*frames, *[frames[-1]] * 30])
    at_once = subprocess.run(commands[0], input=whole, capture_output=True, check=True)
    assert found == at_once.stdout and len(found) > 10_000


def test_no_more_than_a_few_frames_of_a_film_are_held():
    made, alive = [], []

    def frames():
        for k in range(60):
            frame = np.full((64, 64, 3), k, np.uint8)
            made.append(weakref.ref(frame))
            alive.append(sum(each() is not None for each in made))
            yield frame

    mp4(frames(), 60)
    assert len(made) == 60 and max(alive) <= 4


@pytest.mark.parametrize("make", [gif, film])
@pytest.mark.parametrize("frames", [[], [RED, np.zeros((8, 8, 3), np.uint8)]])
def test_frames_that_do_not_fit_are_refused(make, frames):
    with pytest.raises(SR3Error, match="run the chain first"):
        make(frames)


def test_a_frame_that_does_not_fit_is_refused_on_the_way():
    with pytest.raises(SR3Error, match="run the chain first"):
        film([*[np.zeros((64, 62, 3), np.uint8)] * 50, RED])


@pytest.mark.parametrize("program", ["import time; time.sleep(60)", "raise SystemExit(3)"])
def test_a_program_that_hangs_or_fails_is_ended_and_told(monkeypatch, program):
    monkeypatch.setattr(takeaway, "FILM_TIMEOUT", 0.5)
    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_exe", lambda: sys.executable)
    real, begun = subprocess.Popen, []

    def other(command, **options):
        begun.append(real([sys.executable, "-c", program], **options))
        return begun[0]

    monkeypatch.setattr(subprocess, "Popen", other)
    with pytest.raises(SR3Error, match="take the GIF"):
        film([np.zeros((256, 256, 3), np.uint8)] * 20)
    assert begun[0].returncode not in (None, 0)


def test_a_film_that_fails_is_one_sentence(monkeypatch):
    def fail(*_, **__):
        raise OSError("no such program")

    monkeypatch.setattr(subprocess, "Popen", fail)
    with pytest.raises(SR3Error, match="take the GIF"):
        film(FRAMES)
