"""The Gaussian of a domain's mean colours, that the first stage of the cascade begins with.

    SR3_DATA=DIR python -m benchmarks.colours --out checkpoints/faces-16/colours.json

Mean colours of training images alone; the list of images is named by its hash.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from sr3.domains import list_hash, load_domain, load_pixels
from sr3.generate import fit_colours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--domain", default="aaf+stylegan2-faces")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    images = load_domain(arguments.domain).train
    colours = fit_colours(load_pixels(images, 16))
    values = {
        "mean": colours.mean.round(5).tolist(),
        "covariance": colours.covariance.round(7).tolist(),
        "domain": arguments.domain,
        "images": len(images),
        "file_list_hash": list_hash(images),
    }
    arguments.out.write_text(json.dumps(values, indent=2) + "\n")


if __name__ == "__main__":
    main()
