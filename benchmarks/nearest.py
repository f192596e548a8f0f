"""Are generated faces copies of training images?

    SR3_DATA=DIR python -m benchmarks.nearest sr3/ui/people

For each picture of a folder, and for the test images as a yardstick: the distance to the nearest
training image or its mirror image, the root mean square over 16x16 pixels in grey levels of 255;
and how many are nearer than COPY, which is a picture's own near duplicate and no other's.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from sr3.domains import load_domain, load_pixels
from sr3.images import degrade

SIDE = 16
COPY = 10.0  # grey levels: test images have none between 5 and 18


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--domain", default="aaf+stylegan2-faces")
    options = parser.parse_args()
    domain = load_domain(options.domain)
    known = degrade(load_pixels(domain.train, 128), SIDE).astype(np.float32)
    known = np.concatenate([known, known[:, :, ::-1]]).reshape(2 * len(known), -1)
    paths = sorted(options.folder.glob("*.png"))
    made = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    unseen = load_pixels(domain.test, 128)
    for name, pictures in (("generated", made), ("test images", unseen)):
        found = distances(degrade(pictures, SIDE).astype(np.float32), known)
        print(
            f"{name:12} n = {len(found):3}   least {found.min():.1f}   "
            f"median {np.median(found):.1f}   {np.sum(found < COPY)} nearer than {COPY:g}"
        )


def distances(pictures: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(n, h, w, 3) against (m, h * w * 3): the least root mean square difference of each, (n,)."""
    flat = pictures.reshape(len(pictures), -1)
    return np.array([np.sqrt(((known - each) ** 2).mean(axis=1).min()) for each in flat])


if __name__ == "__main__":
    main()
