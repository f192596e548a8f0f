"""Threads that share their cores: set before torch loads its OpenMP library, hence at import.

GNU OpenMP's idle threads spin for milliseconds between two parallel regions. Where anything else
wants the cores (Streamlit, a browser, another process) the spinning takes the time that the work
needs, and a network's step becomes several times slower; a short spin then sleep costs an idle
machine little (`python -m benchmarks.spin` measures both). What the environment says goes first.
"""

from __future__ import annotations

import os

SPINS = "1000"  # turns of the waiting loop, about 0.05 ms; the default is 300,000

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
