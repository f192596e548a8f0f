"""How long OpenMP's threads should spin: an image's seconds, alone and beside busy processes.

    python -m benchmarks.spin --checkpoint lite

Each policy runs in a process of its own, since the library reads it when it loads.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

POLICIES: dict[str, dict[str, str]] = {
    "default": {"GOMP_SPINCOUNT": "300000"},
    "10000 spins": {"GOMP_SPINCOUNT": "10000"},
    "1000 spins (sr3.cores)": {"GOMP_SPINCOUNT": "1000"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
WORKER = """
import sys, numpy as np, sr3
model = sr3.load(sys.argv[1], "cpu")
grey = np.full((model.low_size, model.low_size, 3), 128, np.uint8)
model.upscale([grey])
print([model.upscale([grey]).seconds for _ in range(int(sys.argv[2]))])
"""
BUSY = "while True: pass"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="lite")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    print("| policy | alone, s | beside a busy process a core, s |\n|---|---|---|")
    for name, variables in POLICIES.items():
        alone = seconds(arguments, variables)
        others = [
            subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(os.cpu_count() or 1)
        ]
        try:
            beside = seconds(arguments, variables)
        finally:
            for other in others:
                other.kill()
                other.wait()
        print(f"| {name} | {alone:.2f} | {beside:.2f} |", flush=True)


def seconds(arguments: argparse.Namespace, variables: dict[str, str]) -> float:
    """The median of a process of its own."""
    known = {name for policy in POLICIES.values() for name in policy}
    environment = {k: v for k, v in os.environ.items() if k not in known} | variables
    done = subprocess.run(
        [sys.executable, "-c", WORKER, arguments.checkpoint, str(arguments.repeats)],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return statistics.median(float(value) for value in done.stdout.strip("[]\n").split(","))


if __name__ == "__main__":
    main()
