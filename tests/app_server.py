"""Serve the app with the checkpoints of another folder: `python -m tests.app_server DIR PORT`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from streamlit.web import cli

import sr3.checkpoints
from sr3.checkpoints import save_checkpoint
from sr3.presets import MODELS
from sr3.ui import live
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


def main(folder: str, port: str) -> None:
    sr3.checkpoints.ROOT = Path(folder)
    live.AT_ONCE = False  # tests start their own runs
    sys.argv = [
        "streamlit", "run", str(ROOT / "app.py"), "--server.headless=true",
        f"--server.port={port}", "--server.address=127.0.0.1", "--server.fileWatcherType=none",
    ]  # fmt: skip
    cli.main()


if __name__ == "__main__":
    main(*sys.argv[1:])
