"""Bring checkpoints here: a registered one or a commit on the Hub, with all that it is made of.

Invariants: what is here with the right hashes is asked for by no request; a checkpoint whose files
are not those that the registry lists, or whose own hash is another, is told of and never loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sr3.checkpoints import hub_files, missing_parents, registry
from sr3.combine import Recipe
from sr3.errors import CheckpointError
from sr3.folder import read_settings
from sr3.hub import fetch
from sr3.pins import PREFIX, Progress, parse_pin


def pull(name: str, token: str | None = None) -> Iterator[Progress]:
    """Fetch what is missing of a registered name or `hub:org/name@commit`, parents included.

    Yields as bytes arrive, nothing where all is here. Raises CheckpointError and HubError.
    """
    entry = registry().get(name)
    if entry is None and not name.startswith(PREFIX):
        raise CheckpointError(
            f"There is no checkpoint {name!r} to pull: give one of {', '.join(registry())}, or "
            "hub:org/name@COMMIT."
        )
    if entry is None:
        pin = parse_pin(name)
        yield from fetch(pin, hub_files(pin, token), token)
        yield from _parents(name, pin.folder, token)
        return
    if entry.problem:
        raise CheckpointError(entry.problem)
    if entry.pin is None:
        if not entry.complete:
            raise CheckpointError(
                f"{name} is to be in {entry.path}, and is not on the Hub: make it, or restore the "
                "folder from the repository."
            )
    else:
        yield from fetch(entry.pin, entry.files or hub_files(entry.pin, token), token)
    entry.check()
    yield from _parents(name, entry.path, token)


def _parents(name: str, folder: Path, token: str | None) -> Iterator[Progress]:
    settings = read_settings(folder)
    known = registry()
    for parent in settings.parents if isinstance(settings, Recipe) else ():
        if parent.name in known and parent.name != name:
            yield from pull(parent.name, token)
    if missing := missing_parents(folder):
        raise CheckpointError(
            f"{name} is made of {', '.join(missing)}, which the registry does not list: it cannot "
            "be loaded here until that is registered or put beside it."
        )
