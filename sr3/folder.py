"""A checkpoint's folder: `config.json`, safetensors weights and a card, in the Hub's own shape.

`config.json` is a ModelConfig, or the `sr3.combine.Recipe` of a checkpoint that is made of others;
weights over `SHARD_BYTES` are split into shards with the Hub's index file.

Invariants: a folder is written whole or not at all, and never over what is no checkpoint's; its
hash changes with anything that its pictures depend on; nothing in it is code.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sr3.combine import Recipe
from sr3.config import ModelConfig, from_dict, to_dict
from sr3.errors import CheckpointError, ConfigError
from sr3.pins import digest_of
from sr3.public_format import load_public

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
INDEX = "model.safetensors.index.json"
COLOURS = "colours.json"  # beside a first stage's weights (`sr3.generate`)
SHARD_BYTES = 9_500_000  # every file of this repository stays under 10 MB


def has_files(path: Path) -> bool:
    """Whether a folder has its settings and the weights that they ask for."""
    try:
        settings = read_settings(path)
        bare = isinstance(settings, Recipe) and settings.kind != "delta"
        return bare or all(file.is_file() for file in weight_files(path))
    except CheckpointError:
        return False


def read_settings(path: Path) -> ModelConfig | Recipe:
    """`config.json` of a checkpoint folder. Raises CheckpointError."""
    try:
        return _settings((path / CONFIG).read_text())
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} is not a checkpoint: it has no {CONFIG}. Import a public file with "
            "`python -m sr3 checkpoints import`."
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError, ConfigError) as error:
        raise CheckpointError(f"{path / CONFIG} cannot be used: {error}") from error


@lru_cache(maxsize=64)  # by their text, which is never stale: pages ask at every rerun
def _settings(text: str) -> ModelConfig | Recipe:
    values = json.loads(text)
    if isinstance(values, dict) and values.get("kind", "full") != "full":
        return from_dict(Recipe, values)
    if isinstance(values, dict):
        values.pop("kind", None)
    return from_dict(ModelConfig, values)


def read_config(path: Path) -> ModelConfig:
    """The model's settings of a folder of any kind or a public file. Raises CheckpointError."""
    if path.is_file():
        return load_public(path)[0]
    settings = read_settings(path)
    return settings if isinstance(settings, ModelConfig) else settings.model


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
    """A folder's identity in every table: SHA-256 over its config and weight files, or over its
    recipe (which holds its parents' hashes) and what weights it has of its own."""
    digest = hashlib.sha256()
    try:
        settings = read_settings(path)
    except CheckpointError:  # damaged: the hash of what is there tells so
        settings = None
    if isinstance(settings, Recipe):
        digest.update(settings.identity.encode())
        files = weight_files(path) if settings.kind == "delta" else []
    else:
        files = [path / CONFIG, *weight_files(path)]
    for file in files:
        try:
            digest.update(bytes.fromhex(digest_of(file, "0" * 64)))
        except OSError as error:
            raise CheckpointError(f"{file} is missing: fetch the checkpoint again.") from error
    return digest.hexdigest()


def hash_of(path: Path) -> str:
    """A checkpoint's identity: `weights_hash` of a folder, or a public file's SHA-256."""
    if path.is_dir():
        return weights_hash(path)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error


def save_checkpoint(
    path: Path,
    config: ModelConfig | Recipe,
    weights: Mapping[str, Tensor],
    card: str,
    dtype: torch.dtype = torch.float16,
    shard_bytes: int | None = None,
) -> None:
    """Write a folder atomically (a sibling is filled, then renamed over it); shards if large.

    With a recipe, `weights` are the change (delta) or nothing (spliced, interpolated).

    Raises CheckpointError where it cannot be written, or the folder holds what is no checkpoint's;
    what stood there before then stays.
    """
    if strange := _strangers(path):
        raise CheckpointError(
            f"{path} holds {strange[0]}, which is no part of a checkpoint and would be lost: "
            "choose a new folder."
        )
    partial = path.with_name(path.name + ".partial")
    before = path.with_name(path.name + ".before")
    values = config.to_json() if isinstance(config, Recipe) else to_dict(config)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        (partial / CONFIG).write_text(json.dumps(values, indent=2) + "\n")
        (partial / CARD).write_text(card)
        if isinstance(config, ModelConfig) or config.kind == "delta":
            stored = {name: _as_stored(tensor, dtype) for name, tensor in weights.items()}
            _write_weights(partial, stored, shard_bytes or SHARD_BYTES)
        shutil.rmtree(before, ignore_errors=True)
        if path.exists():
            os.replace(path, before)
        os.replace(partial, path)
        shutil.rmtree(before, ignore_errors=True)
    except (OSError, SafetensorError) as error:  # the latter: a disk that fills up half-way
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CheckpointError(f"{path} cannot be written: {reason}.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if before.exists() and not path.exists():
            before.rename(path)


def _strangers(path: Path) -> list[str]:
    """What lies in a folder that no checkpoint has."""
    own = (CONFIG, CARD, INDEX, COLOURS)
    names = sorted(each.name for each in path.iterdir()) if path.is_dir() else []
    return [name for name in names if name not in own and not name.endswith(".safetensors")]


def _as_stored(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """On the CPU, floating point numbers as `dtype`."""
    kept = dtype if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to("cpu", kept).contiguous()


def _write_shard(tensors: dict[str, Tensor], file: Path) -> None:
    save_file(tensors, file, metadata={"format": "pt"})
    file.chmod(0o644)  # safetensors leaves it to its owner alone


def _write_weights(path: Path, weights: dict[str, Tensor], limit: int) -> None:
    shards: list[dict[str, Tensor]] = [{}]
    filled = 0
    for name, tensor in weights.items():
        size = tensor.numel() * tensor.element_size()
        if filled and filled + size > limit:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor
        filled += size
    if len(shards) == 1:
        _write_shard(shards[0], path / WEIGHTS)
        return
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write_shard(shard, path / file)
        places.update(dict.fromkeys(shard, file))
    total = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (path / INDEX).write_text(json.dumps(index, indent=2) + "\n")
