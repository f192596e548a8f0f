"""The checkpoints that are in memory: loaded when asked for, shared, released by age.

`Shelf.get` gives a light `SuperResolver` whose network the shelf holds: it is loaded at first use,
leaves memory when the shelf is over its limit and it was used least recently, and is loaded again
when it is needed. So whoever keeps a resolver (a visitor's session, a job) keeps no weights.

Invariants: the weights on the shelf stay under `limit` bytes, except that the checkpoint in use
stays whatever its size; a splice has no weights of its own, and a small change or a blend shares
every tensor in which it does not differ from its parent; what is loaded has the same bits as by
`sr3.checkpoints.load_checkpoint`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sr3.checkpoints import (
    find_checkpoint,
    find_parent,
    load_checkpoint,
    read_config,
    read_settings,
    read_weights,
)
from sr3.combine import Recipe, Spliced, add_delta, same_network
from sr3.config import ModelConfig
from sr3.convolutions import quick_parts, quicken
from sr3.denoiser import Denoiser
from sr3.devices import Device, pick_device
from sr3.errors import CheckpointError
from sr3.pipeline import SuperResolver
from sr3.schedule import NoiseSchedule
from sr3.unet import UNet, with_weights


class Shelf:
    """Networks by the folder that they are in, on one device; safe to use from any thread."""

    def __init__(self, limit: int, device: str = "auto") -> None:
        """`limit` in bytes of weights."""
        self.limit, self.device = limit, pick_device(device)
        self.releases = 0
        self._held: dict[Path, nn.Module] = {}  # least recently used first
        self._made_of: dict[Path, tuple[Path, ...]] = {}  # of a splice: its two parents
        self._table = threading.RLock()
        self._loading = threading.RLock()

    def get(self, name: str | Path) -> Shelved:
        """A checkpoint by registered name, folder or public file; its weights are not yet read.

        Raises CheckpointError where there is none or its settings are damaged.
        """
        path = find_checkpoint(str(name)).resolve()
        return Shelved(self, path, read_config(path), self.device, str(name))

    def network(self, path: Path) -> nn.Module:
        """The network in a folder, ready on the device, now the most recently used.

        Raises CheckpointError where it cannot be loaded.
        """
        with self._table:
            if (network := self._touch(path)) is not None:
                return network
        with self._loading:
            with self._table:
                if (network := self._touch(path)) is not None:
                    return network
            network = self._load(path)
            with self._table:
                self._held[path] = network
                self._touch(path)
                self._trim(path)
            return network

    @property
    def bytes(self) -> int:
        """What the weights take, shared ones counted once."""
        with self._table:
            return bytes_of(self._held.values())

    @property
    def held(self) -> list[Path]:
        """The folders whose networks are in memory, least recently used first."""
        with self._table:
            return list(self._held)

    def _touch(self, path: Path) -> nn.Module | None:
        """Mark a network, and what it is made of, as used now."""
        for each in (*self._made_of.get(path, ()), path):
            if each in self._held:
                self._held[each] = self._held.pop(each)
        return self._held.get(path)

    def _trim(self, keep: Path) -> None:
        """Release the least recently used until the rest is under the limit."""
        kept = {keep, *self._made_of.get(keep, ())}
        while bytes_of(self._held.values()) > self.limit:
            old = next((path for path in self._held if path not in kept), None)
            if old is None:
                return
            users = [path for path, parents in self._made_of.items() if old in parents]
            for path in (old, *users):
                self._held.pop(path, None)
                self._made_of.pop(path, None)
            self.releases += 1
            if self.device.device.type == "cuda":
                torch.cuda.empty_cache()

    def _load(self, path: Path) -> nn.Module:
        settings = read_settings(path) if path.is_dir() else None
        if isinstance(settings, Recipe):
            network: nn.Module = self._combined(path, settings)
        else:
            network = load_checkpoint(path)[1]
        network = network.to(self.device.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.device.convolutions != "plain" and isinstance(network, UNet):
            self._prepare(network)
        return network

    @torch.no_grad()
    def _prepare(self, network: UNet) -> None:
        """Lay out the weights now, by a forward of nothing, so that they count from the start."""
        nothing = torch.zeros(1, 3, network.config.high_res, network.config.high_res)
        quick = quicken(network, tiles=self.device.convolutions == "tiles")
        quick(nothing, nothing, torch.full((1,), 0.5, dtype=torch.float64))

    def _combined(self, path: Path, recipe: Recipe) -> UNet | Spliced:
        """The network that a recipe describes, over the parents on the shelf."""
        places = tuple(find_parent(path, parent).resolve() for parent in recipe.parents)
        if not all(same_network(read_config(place), recipe.model) for place in places):
            raise CheckpointError(f"{path} and its parents have different networks: make it anew.")
        parents = [self.network(place) for place in places]
        if recipe.kind == "spliced":
            assert recipe.step is not None
            with self._table:  # the second may have pushed out the first
                self._held |= dict(zip(places, parents, strict=True))
                self._made_of[path] = places
            noisier, cleaner = parents
            schedule = NoiseSchedule(recipe.model.schedule)
            return Spliced(noisier, cleaner, schedule, recipe.step).eval()
        if not all(isinstance(parent, UNet) for parent in parents):
            return load_checkpoint(path)[1]  # whose message says why that cannot be
        parent, *tuned = (parent.state_dict() for parent in parents)
        if recipe.kind == "delta":
            change = {name: t.to(self.device.device) for name, t in read_weights(path).items()}
            weights = add_delta(parent, change, str(path))
        else:
            assert recipe.weight is not None
            weights = _blend(parent, tuned[0], recipe.weight)
        return with_weights(recipe.model.network, weights, str(path))


class Shelved(SuperResolver):
    """A checkpoint whose network is on a shelf: `network` loads it where it is not in memory."""

    def __init__(
        self, shelf: Shelf, path: Path, config: ModelConfig, device: Device, name: str
    ) -> None:
        # Without super().__init__, which would keep the network.
        self.name, self.config, self.device = name, config, device
        self.schedule = NoiseSchedule(config.schedule)
        self._shelf, self._path = shelf, path

    def __getattr__(self, name: str) -> Any:
        """What the parent class keeps, made anew at each use."""
        match name:
            case "network":
                return self._shelf.network(self._path)
            case "_exact":
                return Denoiser(self.network, self.config)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")


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


def _blend(parent: dict[str, Tensor], tuned: dict[str, Tensor], weight: float) -> dict[str, Tensor]:
    """`sr3.combine.interpolate`, with the parent's own tensor where the two share it."""
    if weight in (0, 1):
        return tuned if weight else parent
    return {
        name: tensor
        if tensor.data_ptr() == tuned[name].data_ptr()
        else torch.lerp(tensor, tuned[name], weight)
        for name, tensor in parent.items()
    }
