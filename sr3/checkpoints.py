"""Checkpoints: folders of `config.json`, safetensors weights and a card, in the Hub's own shape.

A folder holds a whole network (`config.json` is its ModelConfig), or is made of others
(`config.json` is a `sr3.combine.Recipe`): then it names its parents, and whoever loads it finds
them, checks their hashes and puts the network together.

Invariants: weights are loaded strictly (every tensor present, every shape right), never from code;
a parent that is not the very one recorded is refused; a folder is written whole or not at all;
weights over `SHARD_BYTES` are split into shards with the Hub's index file.
`checkpoints/registry.toml` lists what the app offers. A source on the Hub is a full commit whose
files lie in the Hub's cache; a registered checkpoint with another hash is never loaded.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from types import UnionType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sr3.combine import Parent, Recipe, Spliced, add_delta, interpolate, same_network
from sr3.config import ModelConfig, from_dict, to_dict
from sr3.errors import CheckpointError, ConfigError, SR3Error
from sr3.hub import fetch, files_of
from sr3.pins import PREFIX, Pin, digest_of, is_right, parse_pin, safe_name
from sr3.public_format import load_public
from sr3.schedule import NoiseSchedule
from sr3.unet import UNet, with_weights

ROOT = Path(__file__).parent.parent / "checkpoints"
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
INDEX = "model.safetensors.index.json"
Loader = Callable[[Path], nn.Module]  # the network of a folder or file
COLOURS = "colours.json"  # beside a first stage's weights (`sr3.generate`)
# What a push takes from a repository: weights in other parts than the new ones would be loaded.
REPLACED = ("model*.safetensors", INDEX, COLOURS)
SHARD_BYTES = 9_500_000  # every file of this repository stays under 10 MB
_KINDS: dict[str, UnionType | type] = {  # of a registry's values; the others are text
    "images": int, "updates": int, "rank": int, "size": int, "replay": int | float,
    "rate": int | float, "files": dict,
}  # fmt: skip
_log = logging.getLogger("sr3.pull")  # downloads that a name asks for; the command line shows them


@dataclass(frozen=True)
class RegistryEntry:
    """One checkpoint that the app offers. `None` where a thing is not known.

    Raises CheckpointError or HubError for a value that cannot be.
    """

    name: str
    title: str
    source: str  # a folder under checkpoints/, or hub:org/name@COMMIT
    parent: str | None = None
    domain: str | None = None
    images: int | None = None
    updates: int | None = None
    range: str | None = None
    method: str | None = None  # how it was made of its parent: full, lora, distilled, ...
    rank: int | None = None  # of lora
    replay: float | None = None  # the share of a batch that was of the parent's domain
    rate: float | None = None  # the learning rate
    licence: str | None = None
    size: int | None = None  # bytes of one that is on the Hub
    sha256: str | None = None  # of the weights (`weights_hash`)

    files: Mapping[str, str] | None = field(default=None, hash=False)  # of a Hub's: name -> sha256
    problem: str = ""  # why the registry's entry cannot be used; then nothing else counts

    def __post_init__(self) -> None:
        for each in fields(self):
            value, kind = getattr(self, each.name), _KINDS.get(each.name, str)
            needed = each.name in ("name", "title", "source")
            if (value is None and needed) or not isinstance(value, kind | None):
                raise CheckpointError(f"{each.name} must not be {value!r}")
        if self.source.startswith(PREFIX):
            parse_pin(self.source)
        for name, digest in (self.files or {}).items():
            if not isinstance(digest, str):
                raise CheckpointError(f"the hash of {safe_name(name)} must not be {digest!r}")
            safe_name(name)

    @property
    def pin(self) -> Pin | None:
        """Where it is on the Hub."""
        return parse_pin(self.source) if self.source.startswith(PREFIX) else None

    @property
    def path(self) -> Path:
        """The folder that holds it here, or would."""
        return self.pin.folder if self.pin else ROOT / (self.source or ".none")

    @property
    def available(self) -> bool:
        """Whether it is here and, if made of others, they are: ready to load."""
        return self.complete and not missing_parents(self.path)

    @property
    def complete(self) -> bool:
        """Whether its own files are here, those of the Hub with the right hashes."""
        if self.pin and self.files:
            return all(is_right(self.path / name, digest) for name, digest in self.files.items())
        return has_files(self.path)

    @property
    def sizes(self) -> tuple[int, int]:
        """Sides of its input and its result, pixels: only checkpoints of equal sizes can be given
        one face. Raises CheckpointError where it is not here."""
        network = read_config(self.path).network
        return network.low_res, network.high_res

    def check(self) -> None:
        """Raises CheckpointError where the folder's hash is not the registered one."""
        if self.sha256 and (found := weights_hash(self.path)) != self.sha256:
            raise CheckpointError(
                f"The weights of {self.name} have hash {found[:12]}, registered is "
                f"{self.sha256[:12]}: fetch the checkpoint again, or correct the registry."
            )


def registry(path: Path | None = None) -> dict[str, RegistryEntry]:
    """The entries of `registry.toml` by name, in its order; a malformed one has a `problem`.

    Raises CheckpointError for a file that is no TOML.
    """
    path = path or ROOT / "registry.toml"
    try:
        return dict(_entries(path.read_text()))
    except FileNotFoundError:
        return {}
    except tomllib.TOMLDecodeError as error:
        raise CheckpointError(f"{path} is not a valid registry: {error}.") from error


def _entry(name: str, values: Any) -> RegistryEntry:
    """An entry, or what is wrong with it, so that the others still serve."""
    try:
        return RegistryEntry(name=name, **values)
    except (TypeError, SR3Error) as error:
        reason = str(error).removeprefix("RegistryEntry.__init__() ").rstrip(".")
        problem = f"The entry [{name}] of the registry cannot be used: {reason}."
        return RegistryEntry(name, name, "", problem=problem)


@lru_cache(maxsize=4)  # by its text, which is never stale: pages ask at every rerun
def _entries(text: str) -> dict[str, RegistryEntry]:
    return {name: _entry(name, values) for name, values in tomllib.loads(text).items()}


def find_checkpoint(name: str) -> Path:
    """The folder of a registered name, a path itself, or `hub:org/name@commit`, which is fetched.

    Raises CheckpointError where there is none, or a registered one is not here or is another
    than the one registered; HubError where it cannot be fetched.
    """
    entries = registry()
    if name in entries:
        entry = entries[name]
        if entry.problem:
            raise CheckpointError(entry.problem)
        if not entry.available:
            lacking = ", ".join(missing_parents(entry.path)) if entry.complete else ""
            raise CheckpointError(
                f"The checkpoint {name} is not here yet"
                + (f", since it is made of {lacking}" if lacking else "")
                + f": pull it first, with `python -m sr3 checkpoints pull {name}`."
            )
        entry.check()
        return entry.path
    if name.startswith(PREFIX):
        pin = parse_pin(name)
        for progress in fetch(pin, hub_files(pin)):
            _log.info("%s", progress.describe())
        return pin.folder
    path = Path(name)
    if path.is_dir() or path.is_file():
        return path
    raise CheckpointError(
        f"There is no checkpoint {name!r}: give a folder, a public *_gen.pth file or one of "
        f"{', '.join(entries) or '(none registered)'}."
    )


def hub_files(pin: Pin, token: str | None = None) -> dict[str, str]:
    """The files of a checkpoint on the Hub with their hashes; code and pickles are left there.

    Raises HubError.
    """
    found = files_of(pin, token)
    return {
        name: digest
        for name, digest in found.items()
        if name in (CONFIG, CARD, INDEX, COLOURS)
        or ("/" not in name and name.endswith(".safetensors"))
    }


def has_files(path: Path) -> bool:
    """Whether a folder has its settings and the weights that they ask for."""
    try:
        settings = read_settings(path)
        bare = isinstance(settings, Recipe) and settings.kind != "delta"
        return bare or all(file.is_file() for file in weight_files(path))
    except CheckpointError:
        return False


def missing_parents(path: Path, above: frozenset[Path] = frozenset()) -> list[str]:
    """The names of the checkpoints that one in a folder is made of, at any depth, not here."""
    try:
        settings = read_settings(path)
    except CheckpointError:
        return []
    missing = []
    above |= {path.resolve()}  # a folder made of itself would never end
    for parent in settings.parents if isinstance(settings, Recipe) else ():
        place = parent_path(path, parent).resolve()
        if place in above or not (place.is_file() or has_files(place)):
            missing.append(parent.name)
        else:
            missing += missing_parents(place, above)
    return missing


def load_checkpoint(
    path: Path, parents: Loader | None = None
) -> tuple[ModelConfig, UNet | Spliced]:
    """A folder, or a public `*_gen.pth` file, as config and network (float32, eval mode, no grad).

    `parents` gives the networks of what it is made of; without it they are loaded too. Raises
    CheckpointError where a file is missing, damaged or does not fit the config, and where a parent
    is not here or is not the one that the checkpoint was made of.
    """
    if path.is_file():
        return load_public(path)
    settings = read_settings(path)
    if isinstance(settings, ModelConfig):
        return settings, with_weights(settings.network, read_weights(path), str(path))
    return settings.model, combined(settings, path, parents or _loaded)


def _loaded(path: Path) -> nn.Module:
    return load_checkpoint(path)[1]


def load_whole(path: Path) -> tuple[ModelConfig, UNet]:
    """`load_checkpoint` for what needs one set of weights. Raises CheckpointError for a splice."""
    config, network = load_checkpoint(path)
    return config, _whole(network, path)


def _whole(network: nn.Module, path: Path) -> UNet:
    if isinstance(network, UNet):
        return network
    raise CheckpointError(
        f"{path} is spliced of two networks: give one of its parents instead, or interpolate them."
    )


def combined(recipe: Recipe, folder: Path, parents: Loader) -> UNet | Spliced:
    """The network that a recipe describes, over the networks of its parents: what does not differ
    from them is shared. `folder` is where it is, or, but for a delta, would be.

    Raises CheckpointError.
    """
    places = [find_parent(folder, parent) for parent in recipe.parents]
    if not all(same_network(read_config(place), recipe.model) for place in places):
        raise CheckpointError(f"{folder} and its parents have different networks: make it anew.")
    networks = [parents(place) for place in places]
    if recipe.kind == "spliced":
        assert recipe.step is not None
        noisier, cleaner = networks
        return Spliced(noisier, cleaner, NoiseSchedule(recipe.model.schedule), recipe.step).eval()
    whole = [_whole(*each).state_dict() for each in zip(networks, places, strict=True)]
    if recipe.kind == "delta":
        weights = add_delta(whole[0], read_weights(folder), str(folder))
    else:
        assert recipe.weight is not None
        weights = interpolate(whole[0], whole[1], recipe.weight)
    return with_weights(recipe.model.network, weights, str(folder))


def find_parent(folder: Path, parent: Parent) -> Path:
    """Where a parent of the checkpoint in `folder` is. Raises CheckpointError, also for a parent
    that is not the one recorded."""
    found = parent_path(folder, parent)
    if not found.exists():
        raise CheckpointError(
            f"{folder} is made of {parent.name}, which is not here: pull or make that first."
        )
    if (digest := hash_of(found)) != parent.sha256:
        raise CheckpointError(
            f"{folder} is made of {parent.name} with hash {parent.sha256[:12]}; the one here has "
            f"{digest[:12]}: fetch the right one, or make {folder.name} anew."
        )
    return found


def parent_path(folder: Path, parent: Parent) -> Path:
    """Where a parent is to be: by its registered name, else by its path from the folder."""
    entry = registry().get(parent.name)
    return entry.path if entry else folder / parent.name


def as_parent(name: str, folder: Path) -> Parent:
    """How the checkpoint that is to be in `folder` records another: by registered name, else by
    the path from there. Raises CheckpointError where there is none."""
    path = find_checkpoint(name)
    if name not in registry():
        name = Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    return Parent(name, hash_of(path))


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


@lru_cache(maxsize=64)  # by their text, as `_entries`
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
