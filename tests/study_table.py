"""A made-up table of a study whose every mean is known in closed form; never a result.

An image's value is BASE of its metric, plus a difficulty of the image, plus the checkpoint's own
effect: so a gain over the parent is `gain(...)` exactly, on every image.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sr3 import results
from sr3.cells import Cell

PARENT, SOURCE, TARGET = "tiny", "noise", "anime"  # as tests.app_server registers it
SPLICED = "tiny-halves"  # made of two, where it is registered
DOMAINS = (SOURCE, "ffhq", "celebahq", TARGET)
BASE = {"psnr": 20.0, "ssim": 0.5, "lpips": 0.4}
SIGN = {"psnr": 1.0, "ssim": 1.0, "lpips": -1.0}
SCALE = {"psnr": 1.0, "ssim": 0.05, "lpips": 0.1}
COUNTS, UPDATES = (1, 16, None), (10, 100)
RANGES = ((0, 500), (1500, 2000))
TIMES = (10, 500, 2000)
IMAGES = 6


def plain(images: int | None, updates: int, seed: int = 0, **changes: Any) -> Cell:
    settings: dict[str, Any] = {"range": (0, 2000)} | changes
    digest = {"settings": [images, seed, sorted(map(str, changes.items()))]}
    cell = Cell(PARENT, TARGET, images, updates, seed=seed, **settings)
    return cell.with_digest(digest)


def cells() -> list[Cell]:
    """Every fine-tune of the table."""
    found = [plain(count, k, seed) for count in COUNTS for k in UPDATES for seed in (0, 1)]
    found += [plain(None, k, range=span) for span in RANGES for k in UPDATES]
    found += [plain(16, 100, replay=0.25), plain(16, 100, lora=8)]
    return found + [plain(None, k, scratch=True, rate=1e-3) for k in UPDATES]


def gain(cell: Cell, domain: str) -> float:
    """In units of SCALE: what a cell gains on a domain. The best is all images, 100 updates; 16
    images reach 0.95 of it with 100 updates, and nothing smaller 0.9; ranges gain half."""
    if cell.scratch:
        return -2.0
    size = {1: 0.2, 16: 0.95, None: 1.0}[cell.images]
    amount = size * (1.0 if cell.updates == 100 else 0.5)
    amount *= 0.5 if cell.range != (0, 2000) else 0.9 if cell.lora else 1.0
    if domain == TARGET:
        return amount
    return -0.4 * amount * (0.25 if cell.replay else 1.0)


def rows(cells: list[Cell], gap: bool = True) -> Iterator[dict[str, Any]]:
    """Rows of the parent, the baselines and some cells; with the gap along the chain."""
    named = [("bicubic", "bicubic", "none", 0, -1.0), (PARENT, "p" * 64, "ddim", 10, 0.0),
             ("regression", "p" * 64, "regression", 1, -0.5)]  # fmt: skip
    for domain in DOMAINS:
        tuned = [(str(c), _hash(c), "ddim", 10, gain(c, domain)) for c in cells]
        tuned += [(SPLICED, "s" * 64, "ddim", 10, 0.3)] if cells else []
        for name, digest, sampler, steps, effect in [*named, *tuned]:
            for k in range(IMAGES):
                for metric, base in BASE.items():
                    value = base + SIGN[metric] * SCALE[metric] * (effect + 0.1 * k)
                    yield row(name, digest, domain, k, metric, value, sampler, steps)
    for number, domain in enumerate(DOMAINS if gap else ()):
        for time in TIMES:
            for k in range(IMAGES):
                error = (0.1 + 0.01 * (k - IMAGES / 2 + 0.5)) * (1 + number * 10 / time)
                name = f"x0_mae@t={time}"
                yield row(PARENT, "p" * 64, domain, k, name, error, "one-step draws=2", 1)
        name = f"srga@t={TIMES[0]}|{SOURCE}"
        yield row(PARENT, "p" * 64, domain, -1, name, float(number), "srga n=3", 1)


def row(
    name: str, digest: str, domain: str, image: int, metric: str, value: float, sampler: str,
    steps: int,
) -> dict[str, Any]:  # fmt: skip
    return {
        "checkpoint": name, "checkpoint_hash": digest, "domain": domain,
        "image": "all" if image < 0 else f"{image}.png", "seed": 0, "metric": metric,
        "value": value, "sampler": sampler, "steps": steps, "code_commit": "c" * 40,
        "file_list_hash": domain, "lpips_backbone": "made up" if metric == "lpips" else None,
    }  # fmt: skip


def write(folder: Path, kind: str) -> Path:
    """An `empty`, `parent` (no fine-tune), `partial` or `whole` table in folder / "metrics"."""
    chosen = {"empty": None, "parent": [], "partial": cells()[:3], "whole": cells()}[kind]
    table = folder / "metrics"
    table.mkdir(parents=True, exist_ok=True)
    if chosen is not None:
        results.append(rows(chosen, gap=kind == "whole"), table)
    return table


def _hash(cell: Cell) -> str:
    return (cell.digest + f"{cell.updates:08}") * 4
