"""A folder with what studies, fine-tunings and distillations name: a tiny checkpoint, domains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sr3.folder import save_checkpoint
from sr3.presets import MODELS
from sr3.unet import UNet


def drawn_network(seed: int = 0) -> UNet:
    """A tiny network that answers something."""
    torch.manual_seed(seed)
    network = UNet(MODELS["tiny"].network)
    torch.nn.init.normal_(network.head.weight, std=0.05)
    return network


def furnish(place: Path, domains: Sequence[str], images: int = 20, parent: str = "parent") -> Path:
    """Put the checkpoint and the domains into a folder; gives the folder."""
    save_checkpoint(place / parent, MODELS["tiny"], drawn_network().state_dict(), "# A card\n")
    generator = np.random.default_rng(0)
    for domain in domains:
        (place / domain).mkdir()
        for number in range(images):
            small = generator.integers(0, 256, (9, 9, 3), dtype=np.uint8)
            Image.fromarray(small).resize((128, 128)).save(place / domain / f"{number:02}.png")
    return place
