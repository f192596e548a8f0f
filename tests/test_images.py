"""Images in and out: every kind that strangers send, every kind that is refused, the degradation.

Each file is made here. The oracles are numpy, the formats' own definitions, and Pillow called
directly; the profile is sRGB's own with two of its primaries swapped.
"""

from __future__ import annotations

import io
import os
import struct
import sys
import threading
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageFile

from sr3 import images
from sr3.errors import ImageError
from sr3.images import decode, degrade, encode_png, enlarge, to_tensor, to_uint8
from sr3.samplers import reduction_matrix

ORIENTATION = 0x0112
LOSSLESS = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}, "BMP": {}}


def noise(height=24, width=40, channels=3, seed=0):
    """(height, width, channels) uint8, all different enough that no turn maps it to itself."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return pixels[..., 0] if channels == 1 else pixels


def smooth(height=48, width=80):
    """(height, width, 3) uint8 ramps, which lossy codecs keep."""
    y, x = np.mgrid[0:height, 0:width]
    ramps = 20 + 200 * x / width, 20 + 200 * y / height, 60 + 100 * (x + y) / (height + width)
    return np.stack(ramps, axis=-1).astype(np.uint8)


def saved(pixels, kind="PNG", **options) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, depth=8, colour=2, rows: bytes = b"", extra: bytes = b"") -> bytes:
    """A PNG by its specification: `rows` are unfiltered, each after a zero byte."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + extra + body + chunk(b"IEND", b"")


def rows_16(values) -> bytes:
    """Big-endian 16-bit rows for `png`."""
    return b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)


def tiff(width, height, bits, photometric, strip: bytes) -> bytes:
    """A little-endian grey TIFF of one uncompressed strip."""
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1}
    tags |= {278: height, 279: len(strip)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    start = 8 + len(strip)
    return (
        struct.pack("<2sHI", b"II", 42, start) + strip + struct.pack("<H", 9) + entries + b"\0" * 4
    )


def pixels_of(source) -> np.ndarray:
    image = decode(source)
    assert image.mode == "RGB"
    return np.asarray(image)


def distance(a, b) -> int:
    return int(np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)).max())


def refusal(source) -> str:
    """The message of a refusal, after what holds for each of them."""
    with pytest.raises(ImageError) as caught:
        decode(source)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message
    assert "cannot identify" not in message and "0x" not in message  # Pillow's words
    assert "/tmp" not in message and os.sep + "home" not in message
    return message


# --- what is taken ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_kinds_keep_every_pixel(kind, tmp_path):
    data = saved(noise(), kind, **LOSSLESS[kind])
    path = tmp_path / "misnamed.jpg"  # the content counts
    path.write_bytes(data)
    stream = io.BytesIO(data)
    stream.seek(0, io.SEEK_END)  # as a page's second run leaves it
    for source in (data, path, stream):
        assert np.array_equal(pixels_of(source), noise())
    assert not stream.closed


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 100}])
def test_jpeg(options):
    assert distance(pixels_of(saved(smooth(), "JPEG", **options)), smooth()) < 20


UPRIGHT = {  # EXIF 2.3, 4.6.4: which sides of the picture the first row and column are
    1: lambda s: s,  # top, left
    2: lambda s: s[:, ::-1],  # top, right
    3: lambda s: s[::-1, ::-1],  # bottom, right
    4: lambda s: s[::-1],  # bottom, left
    5: lambda s: s.swapaxes(0, 1),  # left, top
    6: lambda s: np.rot90(s, -1),  # right, top
    7: lambda s: s[::-1, ::-1].swapaxes(0, 1),  # right, bottom
    8: lambda s: np.rot90(s, 1),  # left, bottom
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_orientation_exactly(kind, orientation):
    data = saved(noise(), kind, exif=exif(orientation), **LOSSLESS[kind])
    assert np.array_equal(pixels_of(data), UPRIGHT[orientation](noise()))


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_orientation_of_lossy_kinds(orientation):
    expected = UPRIGHT[orientation](smooth())
    jpeg = saved(smooth(), "JPEG", exif=exif(orientation), quality=95)
    for data in (jpeg, heic(exif=exif(orientation).tobytes())):
        upright = pixels_of(data)
        assert upright.shape == expected.shape
        assert np.abs(upright.astype(int) - expected).mean() < 4


def test_an_impossible_orientation_is_ignored():
    assert np.array_equal(pixels_of(saved(noise(), exif=exif(77))), noise())


@pytest.mark.parametrize("cut", [7, 9, 14, 20])
def test_broken_exif_costs_nothing_but_itself(cut):
    data = saved(noise(), "WEBP", lossless=True, exif=exif(3).tobytes()[:cut])
    assert np.array_equal(pixels_of(data), noise())


def heic(pixels=None, **options) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    out = io.BytesIO()
    image = Image.fromarray(smooth() if pixels is None else pixels)
    pillow_heif.from_pillow(image).save(out, quality=95, **options)
    return out.getvalue()


def test_heic_is_read_without_registering_a_reader():
    data = heic()
    before = dict(Image.OPEN)
    assert np.abs(pixels_of(data).astype(int) - smooth()).mean() < 4
    assert Image.OPEN.keys() == before.keys() or "HEIF" not in Image.OPEN


def test_heic_without_its_package(monkeypatch):
    data = heic()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert "pip install pillow-heif" in refusal(data)


# --- pixels of every kind --------------------------------------------------------------------


def test_grey_of_16_bits_is_scaled_and_not_clipped():
    values = np.linspace(0, 65535, 24 * 40).astype(np.uint16).reshape(24, 40)
    expected = np.rint(values / 257).astype(np.uint8)
    big_endian = Image.frombytes("I;16B", (40, 24), values.astype(">u2").tobytes())
    for data in (saved(values), saved(values, "TIFF"), saved(big_endian, "TIFF")):
        assert np.array_equal(pixels_of(data), np.repeat(expected[..., None], 3, axis=2))


def test_colour_of_16_bits_is_scaled():
    values = np.linspace(0, 65535, 24 * 40 * 3).astype(np.uint16).reshape(24, 40, 3)
    data = png(40, 24, depth=16, rows=rows_16(values.reshape(24, 120)))
    assert distance(pixels_of(data), values / 257) <= 1


def test_transparent_grey_of_16_bits_is_white():
    values = np.full((16, 16), 700, dtype=np.uint16)
    values[8:] = 701  # the same level in 8 bits: only the exact value is transparent
    data = png(16, 16, 16, 0, rows_16(values), chunk(b"tRNS", struct.pack(">H", 700)))
    pixels = pixels_of(data)
    assert (pixels[:8] == 255).all() and (pixels[8:] == 3).all()


def test_tiff_of_12_bits_and_white_as_zero():
    values = np.linspace(0, 4095, 16 * 20).astype(np.uint16)
    a, b = values[0::2], values[1::2]  # two values fill three bytes
    strip = np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], axis=1).astype(np.uint8).tobytes()
    twelve = pixels_of(tiff(20, 16, 12, 1, strip))[..., 0]
    assert distance(twelve.ravel(), values * (255 / 4095)) <= 1
    deep = (values.astype(np.uint32) * 16).astype("<u2")
    inverted = pixels_of(tiff(20, 16, 16, 0, deep.tobytes()))[..., 0]
    assert distance(inverted.ravel(), 255 - deep / 257) <= 1


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_without_an_agreed_white_are_refused(dtype):
    assert "32-bit" in refusal(saved(np.ones((16, 16), dtype=dtype), "TIFF"))


def test_cmyk():
    inks = noise(channels=4)
    image = Image.frombytes("CMYK", (40, 24), inks.tobytes())
    paper = 255 - inks.astype(float)
    expected = paper[..., :3] * paper[..., 3:] / 255
    assert distance(pixels_of(saved(image, "TIFF")), expected) <= 1
    flat = Image.new("CMYK", (32, 32), (0, 255, 255, 0))  # red; Adobe's JPEGs store it inverted
    assert distance(pixels_of(saved(flat, "JPEG", quality=95)), (255, 0, 0)) <= 8


def on_white(colour, alpha):
    a = np.asarray(alpha, dtype=float)[..., None] / 255
    return colour * a + 255 * (1 - a)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_alpha_is_laid_on_white(kind):
    rgba = noise(channels=4)
    rgba[0, :, 3] = 0
    data = saved(rgba, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    pixels = pixels_of(data)
    assert distance(pixels, on_white(rgba[..., :3], rgba[..., 3])) <= 1
    assert (pixels[0] == 255).all()


def test_grey_with_alpha():
    grey, alpha = noise(channels=1), noise(channels=1, seed=1)
    image = Image.merge("LA", (Image.fromarray(grey), Image.fromarray(alpha)))
    expected = on_white(np.repeat(grey[..., None], 3, axis=2), alpha)
    assert distance(pixels_of(saved(image)), expected) <= 1


def test_palette_and_its_transparency():
    index = (noise(channels=1) % 4).astype(np.uint8)
    palette = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 99, 199]])
    image = Image.fromarray(index)
    image.putpalette(palette.astype(np.uint8).tobytes())
    assert np.array_equal(pixels_of(saved(image)), palette[index])
    assert np.array_equal(pixels_of(saved(image, "BMP")), palette[index])
    alpha = np.array([255, 0, 128, 255])
    data = saved(image, transparency=bytes(alpha.tolist()))
    assert distance(pixels_of(data), on_white(palette[index], alpha[index])) <= 1
    one = pixels_of(saved(image, transparency=1))
    assert (one[index == 1] == 255).all() and (one[index == 0] == palette[0]).all()


def test_a_transparent_colour():
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[:8] = (10, 20, 30)
    decoded = pixels_of(saved(pixels, transparency=(10, 20, 30)))
    assert (decoded[:8] == 255).all() and (decoded[8:] == 0).all()


def test_one_bit_and_grey():
    bits = noise(channels=1) > 127
    expected = np.repeat(np.where(bits, 255, 0)[..., None], 3, axis=2)
    image = Image.fromarray(bits)
    for kind in ("PNG", "TIFF", "BMP"):
        assert np.array_equal(pixels_of(saved(image, kind)), expected)
    grey = noise(channels=1)
    assert np.array_equal(pixels_of(saved(grey)), np.repeat(grey[..., None], 3, axis=2))


def test_lab():
    spaces = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(Image.fromarray(smooth()), *spaces, outputMode="LAB")
    error = pixels_of(saved(lab, "TIFF")).astype(int) - smooth()
    assert np.abs(error).mean() < 1  # 8 bits of Lab are coarse near black


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "MPO"])
def test_the_first_of_several_frames(kind):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ((250, 0, 0), (0, 0, 250))]
    options = LOSSLESS.get(kind, {"quality": 95})
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(data)) as image:
        assert getattr(image, "n_frames", 1) == 2
    assert distance(pixels_of(data), (250, 0, 0)) <= 4


def swapped_profile() -> bytes:
    """sRGB with the red and blue primaries exchanged: it shows an RGB picture as BGR."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert data.count(b"rXYZ") == data.count(b"bXYZ") == 1
    return data.replace(b"rXYZ", b"----").replace(b"bXYZ", b"rXYZ").replace(b"----", b"bXYZ")


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_a_colour_profile_is_converted_to_srgb(kind):
    data = saved(smooth(), kind, icc_profile=swapped_profile(), **LOSSLESS[kind])
    assert distance(pixels_of(data), smooth()[..., ::-1]) <= 2


def test_a_colour_profile_leaves_alpha_alone():
    rgba = np.dstack([smooth(), np.full(smooth().shape[:2], 128, dtype=np.uint8)])
    expected = on_white(smooth()[..., ::-1], rgba[..., 3])
    assert distance(pixels_of(saved(rgba, icc_profile=swapped_profile())), expected) <= 2


def test_a_grey_picture_may_have_an_rgb_profile():
    gamma = struct.pack(">I", 0x00026666)  # 2.4, in the curve's s15Fixed16
    assert gamma in swapped_profile()
    profile = swapped_profile().replace(gamma, struct.pack(">I", 0x00018000))  # 1.5
    grey = smooth()[..., 0].copy()
    colour = np.repeat(grey[..., None], 3, axis=2)
    decoded = pixels_of(saved(grey, icc_profile=profile))
    assert distance(decoded, pixels_of(saved(colour, icc_profile=profile))) <= 1
    assert distance(decoded, colour) > 20


def test_a_profile_that_is_broken_or_of_another_space_is_ignored():
    good = swapped_profile()
    for profile in (b"no profile", good[:200], good.replace(b"RGB XYZ", b"GRAYXYZ")):
        assert np.array_equal(pixels_of(saved(noise(), icc_profile=profile)), noise())
    image = Image.frombytes("CMYK", (40, 24), noise(channels=4).tobytes())
    plain, tagged = saved(image, "TIFF"), saved(image, "TIFF", icc_profile=good)
    assert np.array_equal(pixels_of(tagged), pixels_of(plain))


def test_only_pixels_come_out():
    tags = exif(6)
    tags[0x010F] = "Secret Camera"
    data = saved(smooth(), "JPEG", exif=tags, comment=b"Secret", icc_profile=swapped_profile())
    assert b"Secret" in data
    image = decode(data)
    assert type(image) is Image.Image
    assert image.info == {} and len(image.getexif()) == 0
    for kind in ("PNG", "JPEG", "WEBP", "TIFF"):
        again = saved(image, kind)
        assert b"Secret" not in again and b"Exif" not in again and b"ICC" not in again


@pytest.mark.parametrize(("side", "decoded"), [(4095, 4095), (4096, 2048)])
def test_huge_jpegs_come_reduced(side, decoded):
    data = saved(Image.new("L", (side, side), 77), "JPEG")
    image = decode(data)
    assert image.size == (decoded, decoded)
    assert image.getpixel((decoded // 2, decoded // 3)) == (77, 77, 77)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "HEIC", "JPEG"])
def test_huge_pictures_of_any_kind_come_reduced(kind):
    """A ramp from left to right, stored on its side: an eighth longer than what is given."""
    ramp = np.tile(np.linspace(0, 255, 4608).astype(np.uint8), (144, 1))
    lying = np.rot90(np.stack([ramp] * 3, axis=-1)).copy()
    if kind == "HEIC":
        data = heic(lying, exif=exif(6).tobytes())
    else:
        data = saved(lying, kind, exif=exif(6), **LOSSLESS.get(kind, {}))
    pixels = pixels_of(data)
    assert pixels.shape == (128, 4096, 3)
    assert np.abs(pixels[64, :, 0] - np.linspace(0, 255, 4096)).max() < 6


def test_a_picture_at_the_limit_is_not_touched_and_a_strip_stays_as_wide_as_is_needed():
    kept = np.random.default_rng(0).integers(0, 256, (16, images.MOST_SIDE, 3), dtype=np.uint8)
    assert np.array_equal(pixels_of(saved(kept)), kept)
    assert decode(saved(Image.new("RGB", (16_384, 16)))).size == (16_384, 16)
    assert decode(saved(Image.new("RGB", (32, 16_384)))).size == (16, 8192)


# --- what is refused -------------------------------------------------------------------------

HOSTILE = {
    "a GIF": saved(noise(channels=1), "GIF"),
    "an SVG drawing": b'<?xml version="1.0"?>\n<!-- x -->\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "a web page": b"\n<!DOCTYPE html><html><body><svg></svg></body></html>",
    "a PostScript drawing": saved(noise(), "EPS"),
    "a FITS image": b"SIMPLE  =                    T".ljust(2880),
    "a Photoshop document": b"8BPS\0\1" + bytes(40),
    "a PDF document": b"%PDF-1.7\n" + bytes(40),
    "a zip archive": b"PK\x03\x04" + bytes(40),
    "an AVIF image": b"\0\0\0\x1cftypavif" + bytes(40),
    "a video": b"\0\0\0\x1cftypisom" + bytes(40),
    "text": b"not a picture, whatever my name says\n" * 3,
    "something that is no image": bytes(range(200, 256)) * 3,
}


@pytest.mark.parametrize("found", HOSTILE)
def test_other_kinds_are_refused_by_name(found, tmp_path):
    path = tmp_path / "face.png"
    path.write_bytes(HOSTILE[found])
    message = refusal(path)
    assert message.startswith(f"face.png holds {found}, ")
    assert images.ALLOWED in message


def test_an_svg_without_a_prologue():
    assert "an SVG drawing" in refusal(b"<svg width='9'></svg>")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_cut_files_are_refused(kind):
    data = saved(noise(), kind)
    for length in (len(data) // 2, 60):
        message = refusal(data[:length])
        assert "damaged" in message and kind.lower() in message.lower()


def test_a_cut_heic_is_refused():
    assert "HEIC but is damaged" in refusal(heic()[:-300])


def test_empty_missing_and_folders(tmp_path):
    assert refusal(b"").startswith("The image is empty (0 bytes)")
    (tmp_path / "void.png").touch()
    assert refusal(tmp_path / "void.png").startswith("void.png is empty")
    assert refusal(tmp_path / "absent.png").startswith("absent.png was not found")
    assert refusal(tmp_path).startswith(f"{tmp_path.name[:60]} is a folder")
    assert "cannot be read" in refusal(tmp_path / ("x" * 5000))
    assert "was not found" in refusal(tmp_path / "a\0b.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with a name on this system")
@pytest.mark.timeout(20)
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert "was not found" in refusal(tmp_path / "pipe.png")


def test_streams_that_cannot_be_read(tmp_path):
    path = tmp_path / "secret-folder" / "face.png"
    path.parent.mkdir()
    path.write_bytes(b"text")
    with path.open() as text:
        message = refusal(text)
    assert message.startswith("face.png was opened as text")
    assert refusal(text).startswith("face.png cannot be read")  # closed by now


def test_a_name_is_made_safe_for_a_message():
    stream = io.BytesIO(b"")
    stream.name = "C:\\Users\\someone\\a\n\x1b[31m" + "b" * 500 + ".png"
    message = refusal(stream)
    assert "someone" not in message and "\x1b" not in message and len(message) < 200
    stream.name = 3  # as a file opened by its number has
    assert refusal(stream).startswith("The image is empty")


def test_too_many_bytes_are_refused_and_not_read(monkeypatch, tmp_path):
    data = saved(noise())
    monkeypatch.setattr(images, "MAX_BYTES", len(data))
    assert decode(data).size == (40, 24)
    monkeypatch.setattr(images, "MAX_BYTES", len(data) - 1)
    path = tmp_path / "big.png"
    path.write_bytes(data + bytes(10**6))
    stream = io.BytesIO(path.read_bytes())
    for source in (data, path, stream):
        assert "larger than" in refusal(source)
    assert stream.tell() == len(data)
    monkeypatch.undo()
    assert "larger than 20 MB" in refusal(bytes(images.MAX_BYTES + 1))


@pytest.mark.parametrize("size", [(1, 1), (15, 400), (400, 15)])
def test_tiny_images_are_refused(size):
    message = refusal(saved(Image.new("RGB", size)))
    assert f"{size[0]} x {size[1]} pixels" in message and "16" in message
    assert decode(saved(Image.new("RGB", (16, 16)))).size == (16, 16)


def patched(data: bytes, offset: int, form: str, *values: int) -> bytes:
    return data[:offset] + struct.pack(form, *values) + data[offset + struct.calcsize(form) :]


def bombs() -> dict[str, bytes]:
    jpeg = saved(smooth(), "JPEG")
    start = jpeg.index(b"\xff\xc0") + 5
    webp = saved(noise(channels=4), "WEBP", exif=exif(1))
    width = (9999).to_bytes(3, "little")
    canvas = webp.index(b"VP8X") + 12
    return {
        "png 20,000 x 20,000": png(20_000, 20_000),
        "png 10,000 x 10,000": png(10_000, 10_000),  # Pillow warns
        "png 7,072 x 7,072": png(7_072, 7_072),  # Pillow says nothing
        "png 16,385 x 16": png(16_385, 16),
        "png 16 x 16,385": png(16, 16_385),
        "bmp 20,000 x 20,000": patched(saved(noise(), "BMP"), 18, "<ii", 20_000, 20_000),
        "tiff 9,000 x 9,000": tiff(9_000, 9_000, 8, 1, bytes(64)),
        "jpeg 60,000 x 60,000": patched(jpeg, start, ">HH", 60_000, 60_000),
        "webp 10,000 x 10,000": webp[:canvas] + width + width + webp[canvas + 6 :],
    }


@pytest.mark.timeout(20)
@pytest.mark.parametrize("bomb", bombs())
def test_bombs_are_refused_before_they_are_decoded(bomb, monkeypatch):
    made = []
    new = Image.core.new
    monkeypatch.setattr(Image.core, "new", lambda *args: made.append(args) or new(*args))
    data = bombs()[bomb]
    assert len(data) < 10_000
    message = refusal(data)
    if bomb.startswith("webp"):  # its container is checked against its one frame first
        assert "damaged" in message or "10,000 x 10,000" in message
    else:
        assert "at most 16,384 a side and 50 million" in message
        assert bomb.split(" ", 1)[1] in message or "178 million" in message
    assert made == []


def test_a_heic_that_turns_out_larger_than_its_header(monkeypatch):
    data = heic()

    def load(self):
        self._size = (9_000, 9_000)

    monkeypatch.setattr("pillow_heif.HeifImageFile.load", load)
    assert "9,000 x 9,000" in refusal(data)


def test_a_jpeg_of_endless_scans_is_refused():
    data = saved(smooth(), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    assert decode(data[:-2] + scan * 20 + b"\xff\xd9").size == (80, 48)
    assert "scans" in refusal(data[:-2] + scan * 100 + b"\xff\xd9")


def test_no_memory_is_told_as_such(monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    assert "memory" in refusal(saved(noise()))


SEEDS = {
    "PNG": {"exif": exif(6), "icc_profile": swapped_profile()},
    "JPEG": {"exif": exif(5), "icc_profile": swapped_profile(), "progressive": True},
    "WEBP": {"exif": exif(8), "lossless": True},
    "TIFF": {"compression": "tiff_lzw", "icc_profile": swapped_profile()},
    "BMP": {},
}


@pytest.mark.parametrize("kind", SEEDS)
def test_damaged_files_give_an_image_or_our_error(kind, capsys):
    """60 files a kind, flipped and cut by a seeded hand; warnings are errors in this suite."""
    rng = np.random.default_rng(sum(kind.encode()))
    original = saved(noise(), kind, **SEEDS[kind])
    decoded = 0
    for case in range(60):
        data = bytearray(original)
        head = len(data) if case % 2 else min(len(data), 200)  # half of them in the header
        for place in rng.integers(0, head, rng.integers(1, 6)):
            data[place] = rng.integers(0, 256)
        if case % 3 == 0:
            del data[rng.integers(1, len(data)) :]
        try:
            image = decode(bytes(data))
        except ImageError:
            refusal(bytes(data))
        else:
            decoded += 1
            assert image.mode == "RGB" and min(image.size) >= 16
    assert decoded < 60
    assert decoded > 0 or kind == "PNG"  # its checksums find every flip
    assert capsys.readouterr() == ("", "")


# --- many visitors ---------------------------------------------------------------------------


def test_threads_share_no_state():
    state = list(warnings.filters), Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    files = [saved(noise(seed=o), "TIFF", exif=exif(o)) for o in UPRIGHT] * 6
    files += [png(10_000, 10_000)] * 6
    barrier = threading.Barrier(6)

    def work(data: bytes) -> np.ndarray | None:
        barrier.wait(timeout=30)
        try:
            return pixels_of(data)
        except ImageError:
            return None

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(work, files))
    for place, result in enumerate(results[:48]):
        orientation = place % 8 + 1
        assert np.array_equal(result, UPRIGHT[orientation](noise(seed=orientation)))
    assert results[48:] == [None] * 6
    after = list(warnings.filters), Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    assert after == state


def test_one_decoding_at_a_time(monkeypatch):
    running, most = [], []
    original = images._decode

    def watched(*arguments):
        running.append(1)
        most.append(len(running))
        time.sleep(0.01)
        running.pop()
        return original(*arguments)

    monkeypatch.setattr(images, "_decode", watched)
    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(decode, [saved(noise())] * 8))) == 8
    assert max(most) == 1


# --- what is given back ----------------------------------------------------------------------


def chunks_of(data: bytes) -> list[bytes]:
    names, place = [], 8
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place)
        names.append(data[place + 4 : place + 8])
        place += 12 + length
    return names


def test_encode_png_holds_pixels_alone():
    data = encode_png(noise())
    assert set(chunks_of(data)) == {b"IHDR", b"IDAT", b"IEND"}
    assert data == encode_png(noise().copy())
    with Image.open(io.BytesIO(data)) as image:
        assert image.info == {} and np.array_equal(np.asarray(image), noise())
    assert np.array_equal(pixels_of(encode_png(noise()[:, ::-1])), noise()[:, ::-1])


@pytest.mark.parametrize(
    "wrong", [noise().astype(np.float32), noise(channels=1), noise(channels=4), noise()[None]]
)
def test_encode_png_refuses_other_arrays(wrong):
    with pytest.raises(ImageError, match=r"uint8 pixels \(height, width, 3\)"):
        encode_png(wrong)


# --- tensors ---------------------------------------------------------------------------------


def test_every_level_survives_the_tensor():
    levels = np.arange(256, dtype=np.uint8)
    pixels = np.stack([levels, levels[::-1], np.roll(levels, 7)], axis=-1).reshape(2, 8, 16, 3)
    tensor = to_tensor(pixels)
    assert tensor.shape == (2, 3, 8, 16) and tensor.dtype == torch.float32
    expected = torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float64) / 255 * 2 - 1)
    assert (tensor.double() - expected).abs().max() < 1e-7
    assert np.array_equal(to_uint8(tensor), pixels)


def test_to_tensor_takes_what_pillow_gives_and_copies_it():
    read_only = np.asarray(Image.fromarray(noise()))[None]
    assert torch.equal(to_tensor(read_only), to_tensor(noise()[None]))
    pixels = noise()[None]
    tensor = to_tensor(pixels)
    before = tensor.clone()
    pixels[:] = 0
    assert torch.equal(tensor, before)


def test_to_uint8_clips_and_rounds():
    values = torch.tensor([-1.5, -1.0, -0.9999, 0.999, 1.0, 1.5, 0.0039, 0.0041])
    pixels = to_uint8(values.view(1, 1, 1, 8).expand(1, 3, 1, 8))
    assert pixels.shape == (1, 1, 8, 3) and pixels.dtype == np.uint8
    assert pixels[0, 0, :, 1].tolist() == [0, 0, 0, 255, 255, 255, 128, 128]
    assert to_uint8(torch.full((1, 3, 1, 1), 0.0117)).ravel().tolist() == [129] * 3  # 128.99


# --- the degradation -------------------------------------------------------------------------


def test_degrade_and_enlarge_are_pillows_bicubic():
    faces = np.stack([noise(128, 128, seed=seed) for seed in range(3)])
    low = degrade(faces)
    assert low.shape == (3, 16, 16, 3) and low.dtype == np.uint8
    for face, small, large in zip(faces, low, enlarge(low), strict=True):
        direct = Image.fromarray(face).resize((16, 16), Image.Resampling.BICUBIC)
        assert np.array_equal(small, np.asarray(direct))
        back = direct.resize((128, 128), Image.Resampling.BICUBIC)
        assert np.array_equal(large, np.asarray(back))
    assert np.array_equal(degrade(faces[0]), low[0])
    assert np.array_equal(degrade(faces.reshape(3, 1, 128, 128, 3))[:, 0], low)
    assert np.array_equal(degrade(low), low)


def test_degrade_takes_pictures_that_are_not_square():
    wide = noise(64, 96)
    expected = Image.fromarray(wide).resize((16, 16), Image.Resampling.BICUBIC)
    assert np.array_equal(degrade(wide), np.asarray(expected))


@pytest.mark.parametrize(("size", "low_res"), [(128, 16), (64, 16), (512, 64), (96, 40)])
def test_the_reduction_is_antialiased(size, low_res):
    image = np.random.default_rng(size).random((size, size), dtype=np.float32)
    matrix = reduction_matrix(size, low_res).numpy()
    pillow = Image.fromarray(image).resize((low_res, low_res), Image.Resampling.BICUBIC)
    assert np.abs(matrix @ image @ matrix.T - np.asarray(pillow)).max() < 1e-6


def test_degrade_is_that_reduction_rounded():
    face = noise(128, 128)
    matrix = reduction_matrix(128, 16).numpy()
    exact = np.einsum("iy,yxc,jx->ijc", matrix, face, matrix).clip(0, 255)
    assert np.abs(degrade(face) - exact).max() <= 1.01  # two passes, each rounded to 8 bit
    stripes = np.zeros((128, 128, 3), dtype=np.uint8)
    stripes[:, ::2] = 255  # a reduction without antialiasing gives black or white
    assert distance(degrade(stripes)[:, 2:-2], 128) <= 1


def test_paths_in_messages_are_names_alone(tmp_path):
    inner = Path(tmp_path / "private")
    inner.mkdir()
    (inner / "x.png").write_bytes(b"hello")
    assert "private" not in refusal(inner / "x.png")
