"""What a visitor takes home: a card, an animation, a film. Bytes in memory, never files.

Invariants: pictures are uint8 RGB (h, w, 3); what is written holds pixels alone (no EXIF, no
place, no time); the same input gives the same bytes of a card and a GIF; the film goes through
pipes, so no picture of a visitor ever lies on a disk.
"""

from __future__ import annotations

import io
import subprocess
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, repeat

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sr3.background import in_background
from sr3.errors import SR3Error
from sr3.images import Pixels, encode_png

SIDE = 384  # of a picture on a card and in a film, pixels
GAP, MARGIN = 24, 40
GROUND, INK, FAINT, MARK = (252, 251, 248), (27, 37, 48), (90, 96, 104), (0, 114, 178)
PLAIN = str.maketrans(  # what Pillow's own font lacks
    {"×": "x", "–": "-", "—": "-", "→": "to", "≤": "<=", "≥": ">="}
)
HOLD = 1.5  # seconds that the last frame stays
FILM_TIMEOUT = 60  # seconds


@dataclass(frozen=True)
class Shown:
    """A picture on a card."""

    title: str
    pixels: Pixels
    note: str = ""
    crisp: bool = False  # enlarge without smoothing


def card(pictures: Sequence[Shown], title: str, lines: Sequence[str]) -> bytes:
    """A PNG with the pictures side by side, their captions, and what made them under them."""
    width = 2 * MARGIN + len(pictures) * SIDE + (len(pictures) - 1) * GAP
    small, bold = _font(22), _font(26)
    wrapped = [part for line in lines for part in _wrap(line, small, width - 2 * MARGIN)]
    top = MARGIN + 64
    height = top + SIDE + 84 + 32 * len(wrapped) + MARGIN
    sheet = Image.new("RGB", (width, height), GROUND)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN), title, INK, _font(36))
    for place, shown in enumerate(pictures):
        left = MARGIN + place * (SIDE + GAP)
        sheet.paste(Image.fromarray(_scaled(shown.pixels, SIDE, shown.crisp)), (left, top))
        pen.text((left, top + SIDE + 8), _fit(shown.title, bold, SIDE), INK, bold)
        pen.text((left, top + SIDE + 42), _fit(shown.note, small, SIDE), FAINT, small)
    for number, line in enumerate(wrapped):
        pen.text((MARGIN, top + SIDE + 88 + 32 * number), line, FAINT, small)
    pen.rectangle((0, 0, width, 8), MARK)
    return encode_png(np.asarray(sheet))


def sheet(pictures: Sequence[Shown], columns: int = 5) -> bytes:
    """A PNG of all pictures, a label under each; pixel for pixel, smaller ones enlarged by a whole
    number without smoothing."""
    font = _font(13)
    side = max(len(shown.pixels) for shown in pictures)
    labels = [
        [(_fit(line, font, side), ink) for text, ink in ((shown.title, INK), (shown.note, FAINT))
         for line in _wrap(text, font, side)] for shown in pictures
    ]  # fmt: skip
    wide, high = side + GAP // 2, side + GAP + 17 * max(map(len, labels))
    rows = -(-len(pictures) // columns)
    size = (min(columns, len(pictures)) * wide + GAP // 2, rows * high + GAP // 2)
    paper = Image.new("RGB", size, GROUND)
    pen = ImageDraw.Draw(paper)
    for place, (shown, lines) in enumerate(zip(pictures, labels, strict=True)):
        left, top = GAP // 2 + place % columns * wide, GAP // 2 + place // columns * high
        times = side // len(shown.pixels)
        whole = shown.pixels.repeat(times, 0).repeat(times, 1)
        paper.paste(Image.fromarray(whole), (left, top))
        for number, (line, ink) in enumerate(lines):
            pen.text((left, top + side + 5 + 17 * number), line, ink, font)
    return encode_png(np.asarray(paper))


def film_strip(rows: Iterable[Sequence[Pixels]], side: int = SIDE) -> Iterator[Pixels]:
    """Frames (h, w, 3) with the pictures of each row beside one another; `rows` one a frame.

    Even sides, as the film's colour format needs.
    """
    side += side % 2
    for row in rows:
        yield np.concatenate([_scaled(each, side, False) for each in row], axis=1)


def gif(frames: Sequence[Pixels], seconds: float = 2.0) -> bytes:
    """An endless GIF of about `seconds`, and a rest on its last frame. Raises SR3Error if empty."""
    _check(frames)
    images = [Image.fromarray(frame) for frame in frames]
    # One palette for all frames, so that colours do not flicker: of the first, middle and last.
    few = [frames[0], frames[len(frames) // 2], frames[-1]]
    palette = Image.fromarray(np.concatenate(few)).quantize(255, Image.Quantize.MEDIANCUT)
    flat = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    shown = max(round(1000 * seconds / len(frames)), 20)
    out = io.BytesIO()
    flat[0].save(
        out, "GIF", save_all=True, append_images=flat[1:], loop=0, disposal=1,
        duration=[shown] * (len(flat) - 1) + [round(1000 * HOLD)],
    )  # fmt: skip
    return out.getvalue()


def mp4(frames: Iterable[Pixels], count: int, seconds: float = 2.0) -> bytes:
    """An H.264 film of `count` frames, taken one by one, that browsers and phones play. Raises
    SR3Error where it cannot be made."""
    coming = iter(frames)
    head = list(islice(coming, 1))
    _check(head)
    try:
        from imageio_ffmpeg import get_ffmpeg_exe  # late: only who asks for a film pays for it
    except ImportError as error:
        raise SR3Error("A film needs a package: `pip install imageio-ffmpeg`.") from error
    height, width = head[0].shape[:2]
    rate = max(count / seconds, 1)
    command = [
        get_ffmpeg_exe(), "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24",
        "-s", f"{width}x{height}", "-r", f"{rate:.4f}", "-i", "pipe:0", "-an",
        "-c:v", "libx264", "-preset", "veryfast", "-crf", "18", "-pix_fmt", "yuv420p",
        "-r", "25", "-threads", "1", "-map_metadata", "-1", "-fflags", "+bitexact",
        "-movflags", "frag_keyframe+empty_moov+default_base_moof", "-f", "mp4", "pipe:1",
    ]  # fmt: skip
    try:
        return _piped(command, _at_rest(head[0], coming, round(rate * HOLD)))
    except (OSError, subprocess.SubprocessError) as error:
        raise SR3Error("The film could not be made here: take the GIF instead.") from error


def _at_rest(first: Pixels, others: Iterable[Pixels], times: int) -> Iterator[Pixels]:
    """The frames, then the last of them `times` more. Raises SR3Error for one of another size."""
    frame = first
    yield frame
    for frame in others:
        _check([first, frame])
        yield frame
    yield from repeat(frame, times)


def _piped(command: Sequence[str], frames: Iterable[Pixels]) -> bytes:
    """What a program writes that reads frames: one is handed over at a time, for all of them are
    hundreds of megabytes. Raises OSError and SubprocessError."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as program:
        assert program.stdin and program.stdout
        late = threading.Timer(FILM_TIMEOUT, program.kill)
        late.start()
        written = in_background("sr3-film", program.stdout.read)  # or both would wait
        try:
            for frame in frames:
                program.stdin.write(np.ascontiguousarray(frame).data)
            program.stdin.close()
        except BaseException:
            program.kill()
            with suppress(OSError):  # what it was not handed yet
                program.stdin.close()
            raise
        finally:
            data = written.result()
            late.cancel()
    if program.returncode:
        raise subprocess.CalledProcessError(program.returncode, command)
    return data


def _check(frames: Sequence[Pixels]) -> None:
    if not frames or any(frame.shape != frames[0].shape for frame in frames):
        raise SR3Error("An animation needs frames, all of one size: run the chain first.")


def _scaled(pixels: Pixels, side: int, crisp: bool) -> Pixels:
    how = Image.Resampling.NEAREST if crisp else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(pixels).resize((side, side), how))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _fit(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text, cut with an ellipsis where it is wider than `width` pixels."""
    text = text.translate(PLAIN)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    lines, line = [], ""
    for word in text.translate(PLAIN).split():
        longer = f"{line} {word}".strip()
        if line and font.getlength(longer) > width:
            lines.append(line)
            longer = word
        line = longer
    return [*lines, line] if line else lines
