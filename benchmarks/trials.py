"""Short trials of architecture, optimizer and loss for the lite network, each of equal time.

    SR3_DATA=... SR3_LPIPS_WEIGHTS=... python -m benchmarks.trials --minutes 8

Each arm trains from scratch on one thread with the learning rate falling to zero at the end, and is
scored on the same validation images in 20 DDIM steps (eta 1) with consistency, whatever the preset
`lite` samples with by now. The table belongs in the checkpoint's card. Arms run one after another:
on an idle machine they compare.
"""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import replace

import numpy as np
import torch

from sr3.config import ModelConfig, TrainConfig, UNetConfig
from sr3.devices import pick_device
from sr3.domains import load_domain, load_pixels
from sr3.metrics import Scorer
from sr3.pipeline import SuperResolver
from sr3.presets import preset
from sr3.train import Trainer
from sr3.unet import UNet

SAMPLING = {"sampler": "ddim", "eta": 1.0, "steps": 20, "start": 960, "end": 6}


def arms() -> dict[str, tuple[UNetConfig, dict[str, object]]]:
    """Name -> network and training settings that differ from the first arm's."""
    wide = preset("lite")[0].network
    deep = replace(wide, channels=64, multipliers=(1, 2, 3), blocks=2)
    muon = {"optimizer": "muon", "learning_rate": 1e-3}
    return {
        "64 x (1,2,3), 2 blocks, AdamW, L2": (deep, {"optimizer": "adamw", "learning_rate": 4e-4}),
        "64 x (1,2,3), 2 blocks, Muon, L2": (deep, muon),
        "64 x (1,2,3), 2 blocks, Muon, L1": (deep, muon | {"loss": "l1"}),
        "96 x (1,2,2), 1 block, Muon, L2": (wide, muon),
        "96 x (1,2,2), 1 block, Muon, L1": (wide, muon | {"loss": "l1"}),
        "96 x (1,2,3), 1 block, Muon, L1": (
            replace(wide, multipliers=(1, 2, 3)),
            muon | {"loss": "l1"},
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--domain", default="aaf+stylegan2-faces")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--images", type=int, default=48)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    domain = load_domain(arguments.domain)
    pixels, held = (
        load_pixels(domain.train),
        load_pixels(domain.subset("validation", arguments.images)),
    )
    scorer = Scorer.load()
    print("| network and training | parameters | updates | PSNR dB | SSIM | LPIPS |")
    print("|---|---|---|---|---|---|")
    for name, (network, changes) in arms().items():
        print(trial(name, network, changes, pixels, held, scorer, arguments.minutes), flush=True)


def trial(
    name: str,
    network: UNetConfig,
    changes: dict[str, object],
    pixels: np.ndarray,
    held: np.ndarray,
    scorer: Scorer,
    minutes: float,
) -> str:
    """One row of the table."""
    model = replace(preset("lite")[0], network=network)
    settings = {"ema": 0.998, "warmup": 50, "precision": "float32", **changes}
    torch.manual_seed(0)
    net = UNet(network)
    net.zero_residuals()
    trainer = Trainer(net, model, TrainConfig(minutes=minutes, **settings), pixels)
    for _ in trainer.run():
        pass
    scores = score(model, trainer.ema, held, scorer)
    count = sum(p.numel() for p in net.parameters()) / 1e6
    return f"| {name} | {count:.1f}M | {trainer.step} | {' | '.join(scores)} |"


def score(model: ModelConfig, network: UNet, held: np.ndarray, scorer: Scorer) -> list[str]:
    """PSNR, SSIM and LPIPS of 20-step results, as text."""
    resolver = SuperResolver(
        network, model, dataclasses.replace(pick_device("cpu"), precision=torch.float32)
    )
    result = resolver.upscale(list(held), **SAMPLING)
    rows = scorer(result.images[:, 0], held, result.low_res)
    means = [np.mean([getattr(row, m) for row in rows]) for m in ("psnr", "ssim")]
    lpips = "not measured" if rows[0].lpips is None else f"{np.mean([r.lpips for r in rows]):.4f}"
    return [f"{means[0]:.2f}", f"{means[1]:.4f}", lpips]


if __name__ == "__main__":
    main()
