"""What a visitor takes home: readable files, pixels alone, and no file on the way."""

from __future__ import annotations

import io
import subprocess

import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image

from sr3 import takeaway
from sr3.errors import SR3Error
from sr3.takeaway import SIDE, Shown, card, film_strip, gif, mp4

RED, BLUE = (np.full((16, 16, 3), colour, np.uint8) for colour in ((200, 30, 30), (20, 40, 210)))
FRAMES = film_strip([[RED, BLUE], [BLUE, RED], [RED, RED]], 64)


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
    read = subprocess.run(command, input=mp4(FRAMES, seconds=0.6), capture_output=True, check=True)
    about = read.stderr.decode()
    assert "h264" in about and "yuv420p" in about and "128x64" in about
    frames = np.frombuffer(read.stdout, np.uint8).reshape(-1, 64, 128, 3).astype(int)
    assert len(frames) == pytest.approx(25 * (0.6 + takeaway.HOLD), abs=3)
    assert np.abs(frames[0][32, 16] - RED[0, 0]).max() < 30
    assert np.abs(frames[-1][32, 96] - RED[0, 0]).max() < 30


def test_a_film_passes_through_no_file(monkeypatch):
    commands = []
    real = subprocess.run

    def watched(command, **options):
        commands.append(command)
        return real(command, **options)

    monkeypatch.setattr(subprocess, "run", watched)
    mp4(FRAMES, seconds=0.2)
    assert commands[0][-1] == "pipe:1" and commands[0][commands[0].index("-i") + 1] == "pipe:0"


@pytest.mark.parametrize("make", [gif, mp4])
@pytest.mark.parametrize("frames", [[], [RED, np.zeros((8, 8, 3), np.uint8)]])
def test_frames_that_do_not_fit_are_refused(make, frames):
    with pytest.raises(SR3Error, match="run the chain first"):
        make(frames)


def test_a_film_that_fails_is_one_sentence(monkeypatch):
    def fail(*_, **__):
        raise subprocess.TimeoutExpired("ffmpeg", 60)

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(SR3Error, match="take the GIF"):
        mp4(FRAMES)
