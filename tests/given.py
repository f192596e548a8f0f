"""Images and weights that are not in the repository: where a variable names them, or beside it."""

from __future__ import annotations

import os
from pathlib import Path

BESIDE = Path(__file__).resolve().parents[2]  # the folder that the repository lies in


def images(name: str) -> Path | None:
    """The folder of a data set, in SR3_DATA or in a folder `data` near the repository."""
    chosen = os.environ.get("SR3_DATA")
    places = [Path(chosen) / name] if chosen else sorted(BESIDE.glob(f"*/data/{name}"))
    return next((place for place in places if place.is_dir()), None)


def alexnet() -> Path | None:
    """LPIPS's backbone: SR3_LPIPS_WEIGHTS, or in a folder `weights` near the repository."""
    chosen = os.environ.get("SR3_LPIPS_WEIGHTS")
    places = [Path(chosen)] if chosen else sorted(BESIDE.glob("*/weights/alexnet*.safetensors"))
    return next((place for place in places if place.is_file()), None)
