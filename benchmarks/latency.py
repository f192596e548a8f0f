"""How long an image takes: one alone, and in batches.

python -m benchmarks.latency --checkpoint lite
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np
from skimage import data

import sr3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="lite")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    resolver = sr3.load(arguments.checkpoint, arguments.device)
    face = np.ascontiguousarray(data.astronaut()[:256, 96:352])
    steps = resolver.config.sampling.steps
    print(f"{arguments.checkpoint}, {resolver.device.reason}, {steps} network evaluations")
    for batch in (1, 2, 4, 8):
        resolver.upscale([face] * batch, batch=batch)  # warm-up
        times = [
            resolver.upscale([face] * batch, batch=batch, seed=seed).seconds
            for seed in range(arguments.repeats)
        ]
        middle = statistics.median(times)
        print(
            f"batch {batch}: median {middle:.3f} s (min {min(times):.3f}, max {max(times):.3f}), "
            f"{batch / middle:.2f} images a second"
        )


if __name__ == "__main__":
    main()
