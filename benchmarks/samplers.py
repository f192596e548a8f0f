"""Quality against network evaluations for samplers and settings, on validation images.

    SR3_DATA=... SR3_LPIPS_WEIGHTS=... python -m benchmarks.samplers --checkpoint lite

The recommended settings of a checkpoint are chosen from this table; test images are never used.
"""

from __future__ import annotations

import argparse

import numpy as np

import sr3
from sr3.domains import load_domain, load_pixels
from sr3.metrics import Scorer

GRID: dict[str, dict[str, object]] = {
    "dpmpp 10": {"sampler": "dpmpp", "steps": 10},
    "ddim eta 0, 10": {"sampler": "ddim", "eta": 0.0, "steps": 10},
    "ddim eta 0.5, 10": {"sampler": "ddim", "eta": 0.5, "steps": 10},
    "ddim eta 0.8, 10": {"sampler": "ddim", "eta": 0.8, "steps": 10},
    "ddim eta 1, 4": {"sampler": "ddim", "eta": 1.0, "steps": 4},
    "ddim eta 1, 6": {"sampler": "ddim", "eta": 1.0, "steps": 6},
    "ddim eta 1, 10": {"sampler": "ddim", "eta": 1.0, "steps": 10},
    "ddim eta 1, 20": {"sampler": "ddim", "eta": 1.0, "steps": 20},
    "ddim eta 1, 10, karras": {"sampler": "ddim", "eta": 1.0, "steps": 10, "spacing": "karras"},
    "ddim eta 1, 10, uniform": {"sampler": "ddim", "eta": 1.0, "steps": 10, "spacing": "uniform"},
    "ddim eta 1, 10, 600:6": {"sampler": "ddim", "eta": 1.0, "steps": 10, "start": 600},
    "ddim eta 1, 10, 1400:6": {"sampler": "ddim", "eta": 1.0, "steps": 10, "start": 1400},
    "ddim eta 1, 10, 960:20": {"sampler": "ddim", "eta": 1.0, "steps": 10, "end": 20},
    "ddim eta 1, 10, 960:2": {"sampler": "ddim", "eta": 1.0, "steps": 10, "end": 2},
    "ddim eta 1, 10, no consistency": {
        "sampler": "ddim", "eta": 1.0, "steps": 10, "consistency": False,
    },
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="lite")
    parser.add_argument("--domain", default="aaf+stylegan2-faces")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    resolver = sr3.load(arguments.checkpoint, arguments.device)
    held = load_pixels(load_domain(arguments.domain).subset("validation", arguments.images))
    scorer = Scorer.load()
    print(
        f"{arguments.checkpoint} on {len(held)} validation images of {arguments.domain}; ", end=""
    )
    print(f"LPIPS: {scorer.backbone or scorer.lpips_reason}")
    print("| sampling | PSNR dB | SSIM | LPIPS | LR-PSNR dB | s an image |")
    print("|---|---|---|---|---|---|")
    for name, changes in GRID.items():
        result = resolver.upscale(list(held), **changes)
        rows = scorer(result.images[:, 0], held, result.low_res)
        columns = zip(*((r.psnr, r.ssim, r.lpips, r.consistency_psnr) for r in rows), strict=True)
        cells = ["not measured" if None in c else f"{np.mean(c):.4f}" for c in columns]
        print(f"| {name} | {' | '.join(cells)} | {result.seconds / len(held):.3f} |", flush=True)


if __name__ == "__main__":
    main()
