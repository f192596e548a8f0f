"""Checkpoints: what the app offers, found by name, and a folder or file as a network.

A folder (`sr3.folder`) holds a whole network, or is made of others: then it names its parents, and
whoever loads it finds them, checks their hashes and puts the network together.

Invariants: weights are loaded strictly (every tensor present, every shape right), never from code;
a parent that is not the very one recorded is refused. `checkpoints/registry.toml` lists what the
app offers. A source on the Hub is a full commit whose files lie in the Hub's cache; a registered
checkpoint with another hash is never loaded.
"""

from __future__ import annotations

import logging
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from types import UnionType
from typing import Any

from torch import nn

from sr3.combine import Parent, Recipe, Spliced, add_delta, interpolate, same_network
from sr3.config import ModelConfig
from sr3.errors import CheckpointError, SR3Error
from sr3.folder import (
    CARD,
    COLOURS,
    CONFIG,
    INDEX,
    has_files,
    hash_of,
    read_config,
    read_settings,
    read_weights,
    weights_hash,
)
from sr3.hub import fetch, files_of
from sr3.pins import PREFIX, Pin, is_right, parse_pin, safe_name
from sr3.public_format import load_public
from sr3.schedule import NoiseSchedule
from sr3.unet import UNet, with_weights

ROOT = Path(__file__).parent.parent / "checkpoints"
Loader = Callable[[Path], nn.Module]  # the network of a folder or file
# What a push takes from a repository: weights in other parts than the new ones would be loaded.
REPLACED = ("model*.safetensors", INDEX, COLOURS)
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
    def unpulled(self) -> bool:
        """Whether nothing is wrong with its not being here: it is to be fetched from the Hub."""
        return self.pin is not None and not self.path.exists()

    @property
    def sizes(self) -> tuple[int, int]:
        """Sides of its input and its result, pixels: only checkpoints of equal sizes can be given
        one face. Raises CheckpointError where it is not here."""
        network = read_config(self.path).network
        return network.low_res, network.high_res

    def require(self) -> None:
        """Raises CheckpointError, with the remedy, where it is not ready to load, or is another
        than the one registered."""
        if self.problem:
            raise CheckpointError(self.problem)
        pull = f"`python -m sr3 checkpoints pull {self.name}`"
        if not self.path.exists():
            raise CheckpointError(
                f"The checkpoint {self.name} is not here yet: pull it first, with {pull}."
                if self.pin
                else f"The checkpoint {self.name} is to be in {self.path}, which is not there: "
                "restore that folder, or take the entry out of the registry."
            )
        if self.pin and not self.complete:
            raise CheckpointError(
                f"The checkpoint {self.name} is not whole in {self.path}: pull it again, with "
                f"{pull}."
            )
        if missing := missing_parents(self.path):
            raise CheckpointError(
                f"The checkpoint {self.name} is not here yet, since it is made of "
                f"{', '.join(missing)}: pull it first, with {pull}."
            )
        self.check()

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
        entries[name].require()
        return entries[name].path
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


def name_in_tables(name: str) -> str:
    """What tables of measurements call a checkpoint, however its folder or file was spelt.

    A registered one by its name, also where its folder was given, since rows of the same weights
    replace each other; what a run left by the run's name, as all runs call it alike.
    """
    entries, path = registry(), Path(name)
    if name in entries or name.startswith(PREFIX) or not path.exists():
        return name
    path = path.resolve()
    for title, entry in entries.items():
        if entry.path.resolve() == path:
            return title
    if path.name == "checkpoint":
        return path.parent.name
    return f"{path.parent.name}/{path.name}" if path.name.startswith("step-") else path.name


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
