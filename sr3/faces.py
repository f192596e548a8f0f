"""Find the face in a photograph and crop it as FFHQ does.

Invariants: coordinates are pixels of the photograph given, x to the right and y down; a crop is
square RGB; no face, or no face finder, is never an error (the centre square is used, and the note
says so). The picture is taken as it stands: EXIF orientation and odd modes are `sr3.images`' work.

The finder (`sr3.finder`) gives boxes; an FFHQ square follows from a box by one scale and one upward
shift. All constants below were fitted and measured by `python -m benchmarks.faces DATA`, on faces
pasted at known places.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from sr3.errors import ConfigError
from sr3.finder import finder

Box = tuple[float, float, float, float]
Square = tuple[float, float, float]

# FFHQ square from a box: medians (1.576, 0.053), rounded, over 200 images at four sizes each (100
# All-Age-Faces, 100 StyleGAN2; none of them among those the benchmark reports).
SCALE = 1.58  # side of the square / sqrt(width * height) of the box
RISE = 0.05  # how far the square's centre lies above the box's, as a fraction of the side

# At 0.5 false finds fall on 0.2% of canvases (3% at 0.4), and no real face is lost up to 0.8.
MIN_SCORE = 0.5
MIN_SIDE = 8.0  # px; less than half of a 16 px input holds nothing to resolve

# The finder sees a copy whose long side lies in this range: above, it is slow and its authors warn
# of misses; below, it misses faces (at 16 px it finds none, and nearly all when enlarged).
SMALLEST, LARGEST = 256, 640

# Square images are kept whole where the square found is nearly all of them: an aligned data set
# should not be cropped twice. Up to 256 px, where such images live, the overlap asked for is loose,
# so that anime, whose boxes are smaller, stays whole too (the tests ask for 90%). A larger
# square may as well be a portrait photograph, so it must fit as 95% of genuine FFHQ does.
ALIGNED_SIDE = 256
ALIGNED_SMALL, ALIGNED_LARGE = 0.4, 0.7  # intersection over union


@dataclass(frozen=True)
class Face:
    """One face: its FFHQ-like square (it may reach outside the photograph), in pixels."""

    left: float
    top: float
    side: float
    box: Box  # the finder's own box: x0, y0, x1, y1
    score: float  # the finder's confidence, 0 to 1


@dataclass(frozen=True)
class Crop:
    """What was cut out of a photograph, and why."""

    image: Image.Image  # square, RGB, at the photograph's own resolution
    found: int  # number of faces found
    chosen: int | None  # index among them, largest first; None: no face was used
    note: str  # one plain sentence for the user


def ffhq_square(box: Box, scale: float = SCALE, rise: float = RISE) -> Square:
    """A face box (x0, y0, x1, y1) -> the FFHQ square (left, top, side) around it.

    FFHQ (Karras et al. 2019, arXiv 1812.04948) takes a side of four eye distances for a frontal
    face; a box has no eyes, so the square keeps the picture's own axes and is not turned.
    """
    x0, y0, x1, y1 = box
    side = scale * float(np.sqrt((x1 - x0) * (y1 - y0)))
    return (x0 + x1 - side) / 2, (y0 + y1 - side) / 2 - rise * side, side


def overlap(a: Square, b: Square) -> float:
    """Intersection over union, 0 to 1, of two squares (left, top, side), each side > 0."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[2], b[1] + b[2]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / (a[2] ** 2 + b[2] ** 2 - shared)


def find_faces(image: Image.Image) -> list[Face]:
    """The faces in a photograph of any mode and size, largest first.

    Empty where there is none, and where the finder fails (`detect` tells which).
    """
    return detect(image) or []


def crop_face(image: Image.Image, *, align: bool = True, choose: int = 0) -> Crop:
    """The face `choose` (0: the largest) as FFHQ crops it; the centre square where none is found.

    With `align=False` no face is looked for. Parts outside the photograph are filled by reflection.
    Raises ConfigError where `choose` is not the index of a face that was found.
    """
    if not align:
        return _centre_crop(_rgb(image), "Face alignment is off")
    return crop_found(image, detect(image), choose)


def crop_found(image: Image.Image, faces: list[Face] | None, choose: int) -> Crop:
    """`crop_face` of a photograph whose faces are known, as `detect` gives them."""
    rgb = _rgb(image)
    _check_choice(choose, len(faces or []))
    if faces is None:
        return _centre_crop(rgb, "The face finder failed")
    if not faces:
        return _centre_crop(rgb, "No face was found")
    face = faces[choose]
    if _already_aligned(face, rgb.size):
        note = "The face already fills the image as in FFHQ, so the image was kept whole."
        return Crop(rgb.copy(), len(faces), choose, note)
    return Crop(_cut(rgb, face), len(faces), choose, _describe(face, rgb.size, choose, len(faces)))


def centre_square(image: Image.Image) -> Image.Image:
    """The largest centred square of an image of any mode, RGB; a square image is returned whole."""
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return _rgb(image.crop((left, top, left + side, top + side)))


def detect(image: Image.Image) -> list[Face] | None:
    """The faces in a photograph of any mode, largest first; None where the finder fails."""
    rgb = _rgb(image)
    small = _working_copy(rgb)
    try:
        found = finder()(*small.size, small.tobytes())
    except (RuntimeError, ValueError, MemoryError):
        return None
    zoom_x, zoom_y = rgb.width / small.width, rgb.height / small.height
    faces: list[Face] = []
    for x, y, width, height, score in sorted(found, key=lambda row: -row[4]):
        box = (x * zoom_x, y * zoom_y, (x + width) * zoom_x, (y + height) * zoom_y)
        face = Face(*ffhq_square(box), box, score / 100)
        if _is_usable(face, rgb.size) and not any(_covers(kept, face) for kept in faces):
            faces.append(face)
    return sorted(faces, key=lambda face: -face.side)


def _is_usable(face: Face, size: tuple[int, int]) -> bool:
    x, y = _box_centre(face)
    inside = 0 <= x < size[0] and 0 <= y < size[1]
    return inside and face.score >= MIN_SCORE and face.side >= MIN_SIDE


def _covers(kept: Face, face: Face) -> bool:
    """Whether `face` is a second box on the better-scored `kept` (1% of canvases have one)."""
    x, y = _box_centre(face)
    x0, y0, x1, y1 = kept.box
    return x0 <= x <= x1 and y0 <= y <= y1


def _box_centre(face: Face) -> tuple[float, float]:
    x0, y0, x1, y1 = face.box
    return (x0 + x1) / 2, (y0 + y1) / 2


def _working_copy(rgb: Image.Image) -> Image.Image:
    """The image with its long side brought into SMALLEST to LARGEST px."""
    long_side = max(rgb.size)
    zoom = min(max(long_side, SMALLEST), LARGEST) / long_side
    size = max(1, round(rgb.width * zoom)), max(1, round(rgb.height * zoom))
    return rgb.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)


def _already_aligned(face: Face, size: tuple[int, int]) -> bool:
    width, height = size
    enough = ALIGNED_SMALL if width <= ALIGNED_SIDE else ALIGNED_LARGE
    whole = (0.0, 0.0, float(width))
    return width == height and overlap((face.left, face.top, face.side), whole) >= enough


def _pixel_square(face: Face) -> tuple[int, int, int]:
    return round(face.left), round(face.top), round(face.side)


def _overhang(face: Face, size: tuple[int, int]) -> Box:
    """Whole pixels by which the square leaves the photograph: left, top, right, bottom."""
    left, top, side = _pixel_square(face)
    right, bottom = left + side - size[0], top + side - size[1]
    return max(-left, 0), max(-top, 0), max(right, 0), max(bottom, 0)


def _cut(rgb: Image.Image, face: Face) -> Image.Image:
    """The face's square, whole pixels, reflected at the photograph's edges where it leaves it."""
    left, top, side = _pixel_square(face)
    inside = max(left, 0), max(top, 0), min(left + side, rgb.width), min(top + side, rgb.height)
    before_x, before_y, after_x, after_y = (int(edge) for edge in _overhang(face, rgb.size))
    margins = ((before_y, after_y), (before_x, after_x), (0, 0))
    return Image.fromarray(np.pad(np.asarray(rgb.crop(inside)), margins, mode="reflect"))


def _check_choice(choose: int, found: int) -> None:
    """Raise ConfigError unless `choose` is the index of a face; 0 is always allowed."""
    if choose == 0 or 0 < choose < found:
        return
    if found < 2:
        faces = "One face was" if found else "No face was"
        raise ConfigError(f"{faces} found, so choose must be 0, got {choose}: leave it out.")
    raise ConfigError(
        f"{found} faces were found, so choose must be 0 (the largest) to {found - 1} "
        f"(the smallest), got {choose}: give one of these."
    )


def _describe(face: Face, size: tuple[int, int], choose: int, found: int) -> str:
    rank = "the largest" if choose == 0 else f"number {choose + 1} by size"
    start = "One face was found and" if found == 1 else f"{found} faces were found; {rank} was"
    filled = ", and what lies outside the photograph was filled by reflection"
    return f"{start} cropped as in FFHQ{filled if any(_overhang(face, size)) else ''}."


def _centre_crop(rgb: Image.Image, reason: str) -> Crop:
    square = rgb.width == rgb.height
    what = "the square image was kept whole" if square else "the centre square was used"
    return Crop(centre_square(rgb), 0, None, f"{reason}, so {what}.")


def _rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")
