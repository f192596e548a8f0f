"""Serve the app with the checkpoints of another folder: `python -m tests.app_server DIR PORT`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from streamlit.web import cli

import sr3.checkpoints
from sr3.checkpoints import save_checkpoint
from sr3.presets import MODELS
from sr3.ui import live, tour
from sr3.unet import UNet

ROOT = Path(__file__).resolve().parent.parent
REGISTRY = '[tiny]\ntitle = "Tiny test network"\nsource = "tiny"\ndomain = "noise"\n'


def make_checkpoints(folder: Path) -> Path:
    """A registry of one small, untrained network."""
    torch.manual_seed(0)
    weights = UNet(MODELS["tiny"].network).state_dict()
    save_checkpoint(folder / "tiny", MODELS["tiny"], weights, "A network for tests.")
    (folder / "registry.toml").write_text(REGISTRY)
    return folder


def make_pair(folder: Path) -> Path:
    """A registry of two small networks of one family that draw different pictures."""
    make_checkpoints(folder)
    for seed, name in enumerate(("tiny", "tuned"), 1):
        torch.manual_seed(seed)
        network = UNet(MODELS["tiny"].network)
        for weight in network.parameters():  # the last layer is zero at first
            torch.nn.init.normal_(weight, std=0.2)
        save_checkpoint(folder / name, MODELS["tiny"], network.state_dict(), "A network for tests.")
    whole = REGISTRY + "images = 3\n"
    tuned = 'title = "Tuned"\nsource = "tuned"\nparent = "tiny"\nimages = 3\n'
    (folder / "registry.toml").write_text(f"{whole}\n[tuned]\n{tuned}")
    return folder


def main(folder: str, port: str) -> None:
    sr3.checkpoints.ROOT = Path(folder)
    live.AT_ONCE = tour.SHOWN = os.environ.get("SR3_FIRST_VISIT") == "1"  # tests start their runs
    sys.argv = [
        "streamlit", "run", str(ROOT / "app.py"), "--server.headless=true",
        f"--server.port={port}", "--server.address=127.0.0.1", "--server.fileWatcherType=none",
    ]  # fmt: skip
    cli.main()


if __name__ == "__main__":
    main(*sys.argv[1:])
