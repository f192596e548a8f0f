"""Checkpoints: folders of `config.json`, safetensors weights and a card, in the Hub's own shape.

Invariants: weights are loaded strictly (every tensor present, every shape right), never from code;
a folder is written whole or not at all; weights over `SHARD_BYTES` are split into shards with the
Hub's index file. `checkpoints/registry.toml` lists what the app offers.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sr3.config import ModelConfig, from_dict, to_dict
from sr3.errors import CheckpointError, ConfigError
from sr3.presets import MODELS
from sr3.unet import UNet

ROOT = Path(__file__).parent.parent / "checkpoints"
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 9_500_000  # the Hub keeps files up to 10 MB as they are

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


@dataclass(frozen=True)
class RegistryEntry:
    """One checkpoint that the app offers. `None` where a thing is not known."""

    name: str
    title: str
    source: str  # a folder under checkpoints/, or a Hub repository at a full commit
    parent: str | None = None
    domain: str | None = None
    images: int | None = None
    updates: int | None = None
    range: str | None = None
    licence: str | None = None
    sha256: str | None = None  # of the weights (`weights_hash`)

    @property
    def path(self) -> Path:
        """The folder that holds it here."""
        return ROOT / self.source

    @property
    def available(self) -> bool:
        """Whether it is here, ready to load."""
        return (self.path / CONFIG).exists()


def registry(path: Path | None = None) -> dict[str, RegistryEntry]:
    """The entries of `registry.toml` by name, in its order. Raises CheckpointError if malformed."""
    path = path or ROOT / "registry.toml"
    try:
        table = tomllib.loads(path.read_text())
        return {name: RegistryEntry(name=name, **entry) for name, entry in table.items()}
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, TypeError) as error:
        raise CheckpointError(f"{path} is not a valid registry: {error}.") from error


def find_checkpoint(name: str) -> Path:
    """The folder of a registered name, or a path itself. Raises CheckpointError if neither."""
    entries = registry()
    if name in entries:
        entry = entries[name]
        if not entry.available:
            raise CheckpointError(f"The checkpoint {name} is not here yet: pull it first.")
        return entry.path
    path = Path(name)
    if path.is_dir() or path.is_file():
        return path
    raise CheckpointError(
        f"There is no checkpoint {name!r}: give a folder, a public *_gen.pth file or one of "
        f"{', '.join(entries) or '(none registered)'}."
    )


def load_checkpoint(path: Path) -> tuple[ModelConfig, UNet]:
    """A folder, or a public `*_gen.pth` file, as config and network (float32, eval mode, no grad).

    Raises CheckpointError where a file is missing, damaged or does not fit the config.
    """
    if path.is_file():
        return load_public(path)
    config = read_config(path)
    return config, _fill(config, read_weights(path), str(path))


def read_config(path: Path) -> ModelConfig:
    """`config.json` of a checkpoint folder. Raises CheckpointError."""
    try:
        values = json.loads((path / CONFIG).read_text())
        return from_dict(ModelConfig, values)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} is not a checkpoint: it has no {CONFIG}. Import a public file with "
            "`python -m sr3 checkpoints import`."
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError, ConfigError) as error:
        raise CheckpointError(f"{path / CONFIG} cannot be used: {error}") from error


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of a folder, one or the shards that its index names."""
    if not (path / INDEX).exists():
        return [path / WEIGHTS]
    try:
        names = sorted(set(json.loads((path / INDEX).read_text())["weight_map"].values()))
        outside = any(Path(name).name != name or name in ("", "..") for name in names)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path / INDEX} is not a valid index of shards.") from error
    if outside:
        raise CheckpointError(f"{path / INDEX} names a file outside its own folder.")
    return [path / name for name in names]


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a folder's weights. Raises CheckpointError."""
    tensors: dict[str, Tensor] = {}
    for file in weight_files(path):
        try:
            tensors.update(load_file(file))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{file} is missing or damaged ({error}): fetch the checkpoint again."
            ) from error
    return tensors


def weights_hash(path: Path) -> str:
    """SHA-256 over a folder's config and weight files: a checkpoint's identity in every table."""
    digest = hashlib.sha256()
    for file in [path / CONFIG, *weight_files(path)]:
        try:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        except OSError as error:
            raise CheckpointError(f"{file} is missing: fetch the checkpoint again.") from error
    return digest.hexdigest()


def save_checkpoint(
    path: Path,
    config: ModelConfig,
    weights: Mapping[str, Tensor],
    card: str,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a folder atomically (a sibling is filled, then renamed over it); shards if large.

    Raises CheckpointError where it cannot be written; what stood there before then stays.
    """
    partial = path.with_name(path.name + ".partial")
    before = path.with_name(path.name + ".before")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        (partial / CONFIG).write_text(json.dumps(to_dict(config), indent=2) + "\n")
        (partial / CARD).write_text(card)
        stored = {k: v.detach().to("cpu", dtype).contiguous() for k, v in weights.items()}
        _write_weights(partial, stored)
        shutil.rmtree(before, ignore_errors=True)
        if path.exists():
            os.replace(path, before)
        os.replace(partial, path)
        shutil.rmtree(before, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if before.exists() and not path.exists():
            before.rename(path)
        raise CheckpointError(f"{path} cannot be written: {error.strerror}.") from error


def _write_weights(path: Path, weights: dict[str, Tensor]) -> None:
    shards: list[dict[str, Tensor]] = [{}]
    filled = 0
    for name, tensor in weights.items():
        size = tensor.numel() * tensor.element_size()
        if filled and filled + size > SHARD_BYTES:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor
        filled += size
    if len(shards) == 1:
        save_file(shards[0], path / WEIGHTS, metadata={"format": "pt"})
        return
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file(shard, path / file, metadata={"format": "pt"})
        places.update(dict.fromkeys(shard, file))
    total = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (path / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _fill(config: ModelConfig, weights: Mapping[str, Tensor], what: str) -> UNet:
    """A network with exactly these weights."""
    with torch.device("meta"):
        network = UNet(config.network)
    expected = network.state_dict()
    missing = sorted(set(expected) - set(weights))
    extra = sorted(set(weights) - set(expected))
    if missing or extra:
        problem = f"lacks {missing[0]}" if missing else f"has {extra[0]}, which is not its own"
        raise CheckpointError(
            f"{what} does not fit its config: it {problem} "
            f"({len(missing)} missing, {len(extra)} too many)."
        )
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{what} does not fit its config: {name} has shape {tuple(tensor.shape)}, "
                f"expected {tuple(expected[name].shape)}."
            )
    network.load_state_dict({k: v.float() for k, v in weights.items()}, assign=True)
    return network.eval().requires_grad_(False)


def public_name(name: str) -> str:
    """The key that a tensor of ours has in a public `*_gen.pth`."""
    for pattern, replacement in PUBLIC_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def load_public(path: Path) -> tuple[ModelConfig, UNet]:
    """A public `*_gen.pth` (16 -> 128 or 64 -> 512) as config and network.

    The file is a state dict; code in it is refused, its schedule buffers are ignored. Raises
    CheckpointError in one sentence for anything else.
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
        names = {public_name(name): name for name in UNet(config.network).state_dict()}
    weights = {names.get(name, name): tensor for name, tensor in theirs.items()}
    return config, _fill(config, weights, str(path))


def _public_config(theirs: Mapping[str, Tensor]) -> ModelConfig:
    """Which of the two public networks a state dict is: the deepest one is told by its layers."""
    large = "denoise_fn.downs.10.attn.qkv.weight" not in theirs and not any(
        name.startswith("denoise_fn.downs.14.") for name in theirs
    )
    return MODELS["sr3-64-512" if large else "sr3-16-128"]
