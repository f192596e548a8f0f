"""Calls fanned out over a Ray cluster: the only module that knows Ray, an optional install.

Every machine of the cluster must see this repository, the images and the folders that the calls
name at the same paths (a shared file system), with the same requirements installed: what a call
makes it leaves there, so that it goes on from there wherever it is run again.

Invariants: a call finds the caller's folder, import path, SR3_* settings and number of torch
threads, never the cluster's own; the first error ends all calls, and they end with the caller; Ray
reports no usage, serves no dashboard and, started here, admits only who has this user's token.
"""

from __future__ import annotations

import os
import pickle
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sr3.errors import ConfigError, SR3Error, TrainingError

LOCAL = "local"  # an address: a cluster of this machine alone, for as long as the calls take
FORWARDED = ("SR3_", "HF_", "PYTHONPATH")  # beginnings of the settings that calls see


@dataclass(frozen=True)
class Place:
    """What a call finds around it."""

    folder: str
    paths: tuple[str, ...]
    settings: tuple[tuple[str, str], ...]
    threads: int

    @classmethod
    def here(cls, threads: int) -> Place:
        """This process's own."""
        # An empty entry is the folder that Python was started in.
        paths = tuple(os.path.abspath(path) for path in sys.path)
        settings = tuple((k, v) for k, v in os.environ.items() if k.startswith(FORWARDED))
        return cls(os.getcwd(), paths, settings, threads)

    def enter(self) -> None:
        """Make them this process's own."""
        os.chdir(self.folder)
        sys.path[:] = [*self.paths, *(path for path in sys.path if path not in self.paths)]
        for name in [name for name in os.environ if name.startswith(FORWARDED)]:
            del os.environ[name]
        os.environ.update(self.settings)
        import torch

        torch.set_num_threads(self.threads)


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster that this process is part of."""

    ray: Any
    needs: dict[str, float]  # what each call asks of its machine
    threads: int

    def fan_out(
        self, function: Callable[..., None], calls: Sequence[tuple[Any, ...]]
    ) -> Iterator[int]:
        """Make the calls; yields the index of each as it is done.

        Raises TrainingError for a process that died, and whatever SR3Error a call raises.
        """
        # No second try by Ray: two processes must never be at work in one folder.
        work = self.ray.remote(max_retries=0, **self.needs)(_by_value())
        place = Place.here(self.threads)
        waiting = {
            work.remote(place.paths, pickle.dumps((place, function, call))): index
            for index, call in enumerate(calls)
        }
        while waiting:
            (done,), _ = self.ray.wait(list(waiting))
            _result(self.ray, done)
            yield waiting.pop(done)


@contextmanager
def joined(address: str, *, threads: int, gpu: bool | None) -> Iterator[Cluster]:
    """The cluster at `address`: `auto` (the one that this machine belongs to), `host:port`, or
    LOCAL; our calls there end on leaving.

    Each call takes `threads` CPUs and, if `gpu` (None: if the cluster has any), a GPU of its own.
    Raises ConfigError for a cluster that is not there or too small.
    """
    ray = _ray()
    _connect(ray, address)
    try:
        yield Cluster(ray, _needs(ray, address, threads, gpu), threads)
    finally:
        ray.shutdown()


def _by_value() -> Callable[[tuple[str, ...], bytes], None]:
    """What a process of the cluster runs, made so that it needs no module to be found there."""

    def work(paths: tuple[str, ...], call: bytes) -> None:
        import pickle
        import sys

        sys.path[:0] = [path for path in paths if path not in sys.path]
        place, function, arguments = pickle.loads(call)  # our own bytes, from the caller
        place.enter()
        function(*arguments)

    work.__module__ = "__main__"  # cloudpickle sends a function of __main__ as its code
    return work


def _result(ray: Any, done: Any) -> None:
    try:
        ray.get(done)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, SR3Error):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise TrainingError(
            "A process of the Ray cluster died (out of memory, or its machine left): see "
            "`ray status`, then continue with --resume."
        ) from error


def _needs(ray: Any, address: str, threads: int, gpu: bool | None) -> dict[str, float]:
    """What each call asks of its machine. Raises ConfigError where no machine ever has it."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    has_gpu = any(machine.get("GPU", 0) >= 1 for machine in machines)
    gpus = 1 if gpu or (gpu is None and has_gpu) else 0
    fits = [m for m in machines if m.get("CPU", 0) >= threads and m.get("GPU", 0) >= gpus]
    if not fits:
        wanted = f"{threads} CPUs{' and a GPU' if gpus else ''}"
        raise ConfigError(
            f"No machine of the Ray cluster {address} has {wanted}, which each run of the plan "
            "takes: add one, or change `threads` or `device` in the plan."
        )
    return {"num_cpus": threads, "num_gpus": gpus}


# ------------------------------------------------------------------------------------ connecting
def _ray() -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when Ray starts
    os.environ.setdefault("RAY_COLOR_PREFIX", "0")  # no colours in lines of progress
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # as Ray's next version does
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "--ray needs the package ray: pip install -r requirements-scale.txt, on every "
            "machine of the cluster."
        ) from error
    return ray


def _connect(ray: Any, address: str) -> None:
    quiet: dict[str, Any] = {"logging_level": "ERROR", "include_dashboard": False}
    if address == LOCAL:
        os.environ.setdefault("RAY_worker_niceness", "0")  # as other processes; else they starve
        ray.init(address=LOCAL, **quiet)  # without an address it would look for one to join
        return
    _check(address)
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ConfigError(
            f"The Ray cluster {address!r} cannot be joined ({reason}): start one with "
            "`ray start --head`, or use --ray local."
        ) from error


def _check(address: str) -> None:
    """Refuse an address that nobody answers at: Ray itself would wait long, then die of it."""
    if address == "auto":  # where Ray notes it, even of a cluster that was killed
        noted = Path("/tmp/ray/ray_current_cluster")
        address = os.environ.get("RAY_ADDRESS") or (noted.read_text() if noted.exists() else "")
        if not address:
            raise ConfigError(
                "This machine belongs to no Ray cluster: start one with `ray start --head`, or "
                "use --ray local."
            )
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in address:
        raise ConfigError(f"--ray takes auto, local or host:port; got {address!r}.")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"No Ray cluster answers at {address} ({error}): start one there with "
            f"`ray start --head --port={port}`, or use --ray local."
        ) from error
