"""The checkpoints that are in memory: loaded when asked for, shared, released by age.

`Shelf.get` gives a light `SuperResolver` whose network the shelf holds: it is loaded at first use,
leaves memory when the shelf is over its limit and it was used least recently, and is loaded again
when it is needed. So whoever keeps a resolver (a visitor's session, a job) keeps no weights.
`Shelf.mixture` gives the same of a recipe that has no folder, for two checkpoints mixed live.

Invariants: the weights on the shelf stay under `limit` bytes, except that the checkpoint in use
stays whatever its size; a splice has no weights of its own, and a small change or a blend shares
every tensor in which it does not differ from its parent; what is loaded has the same bits as by
`sr3.checkpoints.load_checkpoint`, a mixture those of a folder of the same recipe.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from sr3.checkpoints import combined, find_checkpoint, load_checkpoint
from sr3.combine import Parent, Recipe, Spliced, same_network
from sr3.config import ModelConfig
from sr3.devices import pick_device
from sr3.errors import CheckpointError
from sr3.folder import hash_of, read_config
from sr3.pipeline import SuperResolver
from sr3.quick import quick_parts, quicken
from sr3.unet import UNet

Key = Path | Recipe  # a folder or public file; or what has no folder
MOST = 256  # networks: a splice takes no bytes of its own


class Shelf:
    """Networks by the folder or the recipe that they come from, on one device; safe to use from
    any thread."""

    def __init__(self, limit: int, device: str = "auto") -> None:
        """`limit` in bytes of weights."""
        self.limit, self.device = limit, pick_device(device)
        self.releases = 0
        self._held: dict[Key, nn.Module] = {}  # least recently used first
        self._table = threading.RLock()
        self._loading = threading.RLock()

    def get(self, name: str | Path) -> SuperResolver:
        """A checkpoint by registered name, folder or public file; its weights are not yet read.

        Raises CheckpointError where there is none or its settings are damaged.
        """
        path = find_checkpoint(str(name)).resolve()
        return self._resolver(path, read_config(path), str(name))

    def mixture(self, kind: str, parent: str, tuned: str, value: float) -> SuperResolver:
        """Two checkpoints as one: "interpolated" by a weight (0 is `parent`), or "spliced", with
        `tuned` at and below a time step; no weights are read yet.

        Raises CheckpointError where the two are different networks, ConfigError for a step or
        weight that cannot be.
        """
        places = [find_checkpoint(name).resolve() for name in (parent, tuned)]
        config, other = map(read_config, places)
        if not same_network(config, other):
            raise CheckpointError(
                f"{parent} and {tuned} are different networks: choose two of one family."
            )
        parents = tuple(Parent(str(place), hash_of(place)) for place in places)
        if kind == "spliced":
            recipe = Recipe("spliced", parents, step=round(value), model=config)
            return self._resolver(recipe, config, f"{tuned}-from-{recipe.step}-on-{parent}")
        recipe = Recipe("interpolated", parents, weight=value, model=config)
        return self._resolver(recipe, config, f"{parent}-to-{tuned}-{value:g}")

    def _resolver(self, key: Key, config: ModelConfig, name: str) -> SuperResolver:
        return SuperResolver(partial(self.network, key), config, self.device, name)

    def network(self, key: Key) -> nn.Module:
        """The network of a folder or recipe, ready on the device, now the most recently used.

        Raises CheckpointError where it cannot be loaded.
        """
        with self._table:
            if (network := self._touch(key)) is not None:
                return network
        with self._loading:
            network = self._fetch(key)
            with self._table:
                self._trim(network)
            return network

    @property
    def bytes(self) -> int:
        """What the weights take, shared ones counted once."""
        with self._table:
            return bytes_of(self._held.values())

    @property
    def held(self) -> list[Key]:
        """Whose networks are in memory, least recently used first."""
        with self._table:
            return list(self._held)

    def _touch(self, key: Key) -> nn.Module | None:
        """Mark a network, and what it is made of, as used now."""
        network = self._held.get(key)
        for part in _parts(network) if network is not None else ():
            for each in [each for each, other in self._held.items() if other is part]:
                self._held[each] = self._held.pop(each)
        return network

    def _trim(self, keep: nn.Module) -> None:
        """Release the least recently used until the rest is under the limit."""
        kept = _parts(keep)
        while bytes_of(self._held.values()) > self.limit or len(self._held) > MOST:
            old = next((network for network in self._held.values() if network not in kept), None)
            if old is None:
                return
            # With a splice of it, which would keep it.
            self._held = {key: net for key, net in self._held.items() if old not in _parts(net)}
            self.releases += 1
            if self.device.device.type == "cuda":
                torch.cuda.empty_cache()

    def _fetch(self, key: Key) -> nn.Module:
        """From memory, else loaded, over parents that come the same way. Nothing is released until
        all of them are here. Under the lock of loading."""
        with self._table:
            if (network := self._touch(key)) is not None:
                return network
        loaded = self._load(key)
        loaded.to(self.device.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.device.convolutions != "plain" and isinstance(loaded, UNet):
            self._prepare(loaded)
        with self._table:
            self._held[key] = loaded
            self._touch(key)
        return loaded

    def _load(self, key: Key) -> nn.Module:
        if isinstance(key, Recipe):
            return combined(key, Path("the mixture"), self._parent)
        return load_checkpoint(key, self._parent)[1]

    def _parent(self, path: Path) -> nn.Module:
        return self._fetch(path.resolve())

    @torch.no_grad()
    def _prepare(self, network: UNet) -> None:
        """Lay out the weights now, by a forward of nothing, so that they count from the start."""
        nothing = torch.zeros(1, 3, network.config.high_res, network.config.high_res)
        precision = self.device.precision
        quick = quicken(network, self.device.convolutions == "tiles", precision)
        with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
            quick(nothing, nothing, torch.full((1,), 0.5, dtype=torch.float64))


def room_for_weights(device: str = "auto") -> int:
    """Bytes that weights may take: half of a GPU's memory; an eighth of the machine's, at most
    4 GB, since others live there too."""
    place = pick_device(device).device
    if place.type == "cuda":
        return int(torch.cuda.get_device_properties(place).total_memory) // 2
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(machine // 8, 4 << 30)


def bytes_of(networks: Iterable[nn.Module]) -> int:
    """The memory of all weights, as they are and as laid out for speed, each counted once."""
    storages: dict[int, int] = {}
    for network in networks:
        for tensor in (*network.parameters(), *network.buffers()):
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        storages |= {id(part): part.nbytes for part in quick_parts(network)}
    return sum(storages.values())


def _parts(network: nn.Module) -> tuple[nn.Module, ...]:
    """What a network keeps in memory: of a splice the networks that it is made of, then itself."""
    return (*network.parts, network) if isinstance(network, Spliced) else (network,)
