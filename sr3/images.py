"""Images in and out: decoding what strangers send, tensors, and the one degradation.

Invariants: inside the package an image is uint8 RGB (height, width, 3) or float32
(batch, 3, height, width) in [-1, 1]; the low-resolution image is always made by Pillow's
antialiased bicubic and kept as 8 bit, and the condition is its 8-bit bicubic enlargement, as the
public SR3 code prepares its data.

A stranger's file is read whole, of a bounded size, told by its content and never by its name, and
its pixels are counted before any is decoded. Nothing of it but pixels comes out: no EXIF, no place,
no profile. Pillow's global switches are never touched.
"""

from __future__ import annotations

import io
import re
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms
from torch import Tensor

from sr3.errors import ImageError

Pixels = NDArray[np.uint8]
Source = bytes | Path | BinaryIO

MAX_BYTES = 20 * 1024 * 1024
MAX_PIXELS = 50_000_000  # 200 MB while it is decoded: Pillow keeps RGB in 4 bytes
MAX_SIDE = 16_384
MIN_SIDE = 16  # the smallest low-resolution input
MAX_SCANS = 100  # of a progressive JPEG (10 are usual): each costs a pass over the whole picture
DRAFT_SIDE = 2048  # a JPEG of twice this a side or more is halved while it is decoded
MOST_SIDE = 4096  # of what is given, whatever the kind: at most 67 MB

ALLOWED = "PNG, JPEG, WebP, BMP, TIFF or HEIC"
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")  # what Pillow may open; HEIC is pillow-heif's
WHITE = (255, 255, 255)  # behind transparent pixels, as browsers and most viewers show them

# What a file is by its first bytes, in the order tried: the kinds allowed, then those that people
# send in their place.
KINDS = {
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "JPEG": rb"\xff\xd8\xff",
    "WebP": rb"RIFF....WEBP",
    "BMP": rb"BM....\0{4}",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "HEIC": rb"....ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)",
    "a GIF": rb"GIF8",
    "an AVIF image": rb"....ftypavi[fs]",
    "a video": rb"....ftyp",
    "a Photoshop document": rb"8BPS",
    "a PostScript drawing": rb"%!PS|\xc5\xd0\xd3\xc6",
    "a FITS image": rb"SIMPLE  =",
    "a PDF document": rb"%PDF",
    "a zip archive": rb"PK\x03\x04",
    "a web page": rb"(\xef\xbb\xbf)?\s*(?i:<!doctype\s+html|<html)",
    "an SVG drawing": rb"(\xef\xbb\xbf)?\s*<.*?(?<=<)svg",
    "text": rb"[\t\n\r -~]+\Z",
}

# EXIF orientation (TIFF 6.0, tag 274) -> what sets the picture upright
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# One decoding at a time: it bounds the memory that visitors take together, and
# `warnings.catch_warnings` swaps a list that all threads share.
_one_at_a_time = threading.Lock()


def decode(source: Source) -> Image.Image:
    """A stranger's image (PNG, JPEG, WebP, BMP, TIFF, HEIC) -> RGB, 8 bit, upright, no metadata.

    A stream is read from its start and left open. Of an animation or a stack of pages the first is
    taken; alpha is laid on white; an embedded profile is converted to sRGB, a broken one ignored;
    16-bit grey is scaled. JPEGs of 4096 px a side and more come at half the size or less, and all
    kinds at no more than 4096 px a side. Raises ImageError, naming the file by its last part alone.
    """
    name = _name(source)
    data = _read(source, name)
    with _one_at_a_time, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\b")  # it warns of sizes and of odd EXIF
        try:
            return _decode(data, name)
        except ImageError:
            raise
        except Image.DecompressionBombError as error:
            raise ImageError(_too_large(name, "more than 178 million pixels")) from error
        except MemoryError as error:
            raise ImageError(
                f"{name} needs more memory than is free here; a smaller picture was expected: "
                "reduce it, or try again later."
            ) from error
        except Exception as error:  # Pillow's readers raise nearly anything on a damaged file
            raise ImageError(_unreadable(name, data)) from error


def encode_png(pixels: Pixels) -> bytes:
    """(h, w, 3) uint8 -> PNG: pixels alone, no metadata, the same bytes each time.

    Raises ImageError for another shape or type.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ImageError(
            f"A PNG is made of uint8 pixels (height, width, 3), not {pixels.dtype} {pixels.shape}: "
            "pass one RGB image."
        )
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def resize(image: Pixels, size: int) -> Pixels:
    """(h, w, 3) uint8 -> (size, size, 3) uint8 by Pillow's bicubic, antialiased when reducing."""
    if image.shape[:2] == (size, size):
        return image
    resized = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(resized)


def degrade(image: Pixels, size: int = 16) -> Pixels:
    """The one degradation: (..., h, w, 3) uint8 -> (..., size, size, 3) uint8."""
    return _each(image, size)


def enlarge(low_res: Pixels, size: int = 128) -> Pixels:
    """The bicubic enlargement SR3 is conditioned on: (..., h, w, 3) -> (..., size, size, 3)."""
    return _each(low_res, size)


def _each(images: Pixels, size: int) -> Pixels:
    flat = images.reshape(-1, *images.shape[-3:])
    out = np.stack([resize(image, size) for image in flat])
    return out.reshape(*images.shape[:-3], size, size, 3)


def to_tensor(images: Pixels) -> Tensor:
    """(batch, h, w, 3) uint8 -> (batch, 3, h, w) float32 in [-1, 1]."""
    copy = np.array(images, order="C")  # torch warns of arrays that are read-only, as Pillow's are
    tensor = torch.from_numpy(copy).permute(0, 3, 1, 2)
    return tensor.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Pixels:
    """(batch, 3, h, w) in [-1, 1], clipped and rounded -> (batch, h, w, 3) uint8."""
    scaled = (images.detach().float().clamp(-1, 1) + 1) * 127.5
    return scaled.round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()


def _name(source: Source) -> str:
    """What a message calls the file: no folder, nothing unprintable, at most 60 characters."""
    name = getattr(source, "name", "")
    last = re.split(r"[/\\]", name)[-1] if isinstance(name, str) else ""
    return "".join(letter for letter in last if letter.isprintable())[:60] or "The image"


def _read(source: Source, name: str) -> bytes:
    try:
        data = source if isinstance(source, bytes) else _read_file(source, name)
    except (OSError, ValueError) as error:  # ValueError: a closed stream, or a NUL in a path
        if isinstance(error, ImageError):
            raise
        raise ImageError(
            f"{name} cannot be read from the disk: check that you may open it, then try again."
        ) from error
    if not isinstance(data, bytes):
        raise ImageError(f"{name} was opened as text: open it in binary mode ('rb').")
    if not data:
        raise ImageError(f"{name} is empty (0 bytes): choose a {ALLOWED} file.")
    if len(data) > MAX_BYTES:
        limit = MAX_BYTES // 1024**2
        raise ImageError(
            f"{name} is larger than {limit} MB, the most that is taken: save it smaller, as JPEG "
            "for instance."
        )
    return data


def _read_file(source: Path | BinaryIO, name: str) -> bytes:
    """At most MAX_BYTES + 1 bytes: one more than allowed, which tells that there are more."""
    if not isinstance(source, Path):
        if source.seekable():
            source.seek(0)
        return source.read(MAX_BYTES + 1)
    if source.is_dir():
        raise ImageError(f"{name} is a folder, but one {ALLOWED} file was expected: name a file.")
    if not source.is_file():  # nothing there, or a pipe or device, which might never end
        raise ImageError(f"{name} was not found: give the path of a {ALLOWED} file.")
    with source.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _decode(data: bytes, name: str) -> Image.Image:
    with _open(data, name) as image:
        _check_size(image.size, name)
        if _kind(data) == "JPEG":
            _check_scans(data, name)
            image.draft(None, (DRAFT_SIDE, DRAFT_SIDE))  # keeps at least this much of each side
        image.load()
        _check_size(image.size, name)  # again, for a HEIC's header does not bind its content
        return _reduced(_to_rgb(_upright(image), name))


def _open(data: bytes, name: str) -> Image.Image:
    """The header alone, by the readers allowed."""
    if _kind(data) != "HEIC":
        return Image.open(io.BytesIO(data), formats=FORMATS)
    try:
        from pillow_heif import HeifImageFile  # late: most visitors send no HEIC
    except ImportError as error:
        raise ImageError(
            f"{name} is a HEIC photo, which needs a package that is missing here: "
            "`pip install pillow-heif`, or save the photo as JPEG."
        ) from error
    reader: Callable[[BinaryIO], Image.Image] = HeifImageFile  # used directly, never registered
    return reader(io.BytesIO(data))


def _kind(data: bytes) -> str:
    """The key of KINDS, or a phrase for the rest."""
    head = data[:512]
    for kind, pattern in KINDS.items():
        if re.match(pattern, head, re.DOTALL):
            return kind
    return "something that is no image"


def _unreadable(name: str, data: bytes) -> str:
    kind = _kind(data)
    if kind in ALLOWED:
        return (
            f"{name} begins as {kind} but is damaged, cut short or of a rare variety; a complete "
            "file was expected: copy it again, or open it in an image program and save it as PNG."
        )
    return (
        f"{name} holds {kind}, but a {ALLOWED} image was expected, whatever the file's name: open "
        "it in the program it comes from and save it as PNG."
    )


def _too_large(name: str, size: str) -> str:
    return (
        f"{name} has {size}, but at most {MAX_SIDE:,} a side and {MAX_PIXELS // 10**6} million in "
        "all are taken: reduce it, or cut out the face."
    )


def _check_size(size: tuple[int, int], name: str) -> None:
    """Raise ImageError unless (width, height) lies within the limits."""
    width, height = size
    if min(size) < MIN_SIDE:
        raise ImageError(
            f"{name} has {width} x {height} pixels, but at least {MIN_SIDE} a side are needed: "
            "choose a larger picture."
        )
    if max(size) > MAX_SIDE or width * height > MAX_PIXELS:
        raise ImageError(_too_large(name, f"{width:,} x {height:,} pixels"))


def _check_scans(data: bytes, name: str) -> None:
    """Raise ImageError for a JPEG that asks for a great many passes over the picture."""
    scans = len(re.findall(rb"\xff\xda\0[\x08\x0a\x0c\x0e][\1-\4]", data))  # start-of-scan
    if scans > MAX_SCANS:
        raise ImageError(
            f"{name} is a JPEG of {scans} scans, but at most {MAX_SCANS} are taken: save it again "
            "as an ordinary JPEG."
        )


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF says. Pillow's TIFF reader and libheif have done it, and say so there."""
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken EXIF raises nearly anything, and the picture is good without it
        return image
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Any mode that the readers give -> RGB in sRGB on white, without metadata."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I;16"):
        image = _grey_to_8_bit(image)
    elif image.mode in ("I", "F"):  # no agreed white: 1.0, 255, 65535, ...
        raise ImageError(
            f"{name} has 32-bit or signed pixels, but 8 or 16 bits were expected: open it in an "
            "image program and save it as PNG."
        )
    natural = {"1": "L", "L": "L", "LA": "L", "CMYK": "CMYK"}.get(image.mode, "RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        colour = _to_srgb(rgba.convert("RGB").convert(natural), profile)
        rgb = Image.composite(colour, Image.new("RGB", image.size, WHITE), rgba.getchannel("A"))
    else:
        rgb = _to_srgb(image.convert(natural), profile)
    rgb.info.clear()  # Pillow would write EXIF and text from here into what is saved
    return rgb


def _reduced(image: Image.Image) -> Image.Image:
    """At most MOST_SIDE a side, for pictures stay with their visitors; of a strip as much as leaves
    MIN_SIDE of its width."""
    scale = max(MOST_SIDE / max(image.size), MIN_SIDE / min(image.size))
    if scale >= 1:
        return image
    width, height = (round(side * scale) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _grey_to_8_bit(image: Image.Image) -> Image.Image:
    """I;16 -> L by v * 255 / white; Pillow's own conversion clips at 255."""
    tags = getattr(image, "tag_v2", {})  # a TIFF may hold 12 bits, or count from white to black
    white = 2 ** min(tags.get(ExifTags.Base.BitsPerSample, (16,))[0], 16) - 1
    levels = np.minimum(np.arange(65536), white)
    table = ((levels * 255 + white // 2) // white).astype(np.uint8)
    if tags.get(ExifTags.Base.PhotometricInterpretation) == 0:
        table = 255 - table
    values = np.asarray(image)
    grey = table[values]
    if isinstance(clear := image.info.get("transparency"), int):
        grey[values == clear] = 255
    return Image.fromarray(grey)


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """L, RGB or CMYK -> RGB, through the profile where there is one that fits."""
    if not profile:
        return image.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if image.mode == "L" and source.profile.xcolor_space.strip() == "RGB":
            image = image.convert("RGB")
        target = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
    except (ImageCms.PyCMSError, ImportError, OSError, TypeError, ValueError):
        converted = None  # broken, of another colour space, or Pillow was built without littlecms
    return converted or image.convert("RGB")
