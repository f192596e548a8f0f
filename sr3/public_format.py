"""The public SR3 checkpoints (`*_gen.pth`, Janspiry, Apache-2.0) as config and network.

Invariant: a file is read as tensors alone; code in it is refused, never run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sr3.config import ModelConfig
from sr3.errors import CheckpointError
from sr3.presets import MODELS
from sr3.unet import UNet, check_fit, with_weights

# Our names -> the public checkpoints' names, in order; each is one `re.sub`.
PUBLIC_NAMES = (
    (r"^embedding\.expand\.", "noise_level_mlp.1."),
    (r"^embedding\.project\.", "noise_level_mlp.3."),
    (r"^head_norm\.", "final_conv.block.0."),
    (r"^head\.", "final_conv.block.3."),
    (r"^down\.", "downs."),
    (r"^middle\.", "mid."),
    (r"^up\.", "ups."),
    (r"\.attention\.", ".attn."),
    (r"\.norm([12])\.", r".res_block.block\1.block.0."),
    (r"\.conv([12])\.", r".res_block.block\1.block.3."),
    (r"\.embed\.", ".res_block.noise_func.noise_func.0."),
    (r"\.skip\.", ".res_block.res_conv."),
    (r"^", "denoise_fn."),
)


def public_name(name: str) -> str:
    """The key that a tensor of ours has in a public `*_gen.pth`."""
    for pattern, replacement in PUBLIC_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def load_public(path: Path) -> tuple[ModelConfig, UNet]:
    """A public `*_gen.pth` (16 -> 128 or 64 -> 512) as config and network.

    The file is a state dict; code in it is refused, its schedule buffers are ignored. Raises
    CheckpointError in one sentence for anything else, which names tensors as the file does.
    """
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle fails in any way: IndexError, struct.error, ...
        raise CheckpointError(
            f"{path} is not a plain PyTorch state dict (damaged, or with code in it, which is "
            "never run); expected a public *_gen.pth file."
        ) from error
    if not isinstance(loaded, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in loaded.items()
    ):
        raise CheckpointError(f"{path} is not a state dict of tensors, as a public *_gen.pth is.")
    theirs = {k: v for k, v in loaded.items() if k.startswith("denoise_fn.")}
    stem = theirs.get("denoise_fn.downs.0.weight")
    if stem is None:
        raise CheckpointError(
            f"{path} is not an SR3 checkpoint: it has no denoise_fn.downs.0.weight. Give the "
            "*_gen.pth file, not the optimizer's *_opt.pth."
        )
    if stem.ndim == 4 and stem.shape[1] == 3:
        raise CheckpointError(
            f"{path} is the unconditional model (3 input channels); super-resolution needs a "
            "conditional one (6 input channels), such as I640000_E37_gen.pth."
        )
    config = _public_config(theirs)
    with torch.device("meta"):
        ours = UNet(config.network).state_dict()
    check_fit({public_name(name): tensor for name, tensor in ours.items()}, theirs, str(path))
    _check_numbers(theirs, str(path))
    # Copies, since tensors of a file may share memory, which safetensors does not write.
    weights = {name: theirs[public_name(name)].to(torch.float32, copy=True) for name in ours}
    return config, with_weights(config.network, weights, str(path))


def _check_numbers(weights: Mapping[str, Tensor], what: str) -> None:
    for name, tensor in weights.items():
        if not bool(tensor.isfinite().all()):
            raise CheckpointError(
                f"{what} cannot be used, since {name} holds NaN or infinite numbers: fetch or "
                "train it again."
            )


def _public_config(theirs: Mapping[str, Tensor]) -> ModelConfig:
    """Which of the two public networks a state dict is: the deepest one is told by its layers."""
    large = "denoise_fn.downs.10.attn.qkv.weight" not in theirs and not any(
        name.startswith("denoise_fn.downs.14.") for name in theirs
    )
    return MODELS["sr3-64-512" if large else "sr3-16-128"]
