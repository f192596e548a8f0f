"""What the commands share: progress on standard error, JSON, options of one meaning."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from sr3.config import MOST_SEED

EVERY = 5.0  # seconds between two lines of progress

Seed = Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of all randomness.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
DeviceName = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]


def say(message: str) -> None:
    """A line of progress; of several launched processes the first alone says it."""
    if os.environ.get("RANK", "0") == "0":
        typer.echo(message, err=True)


def print_json(value: object) -> None:
    """JSON on standard output, for another program."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def duration(seconds: float) -> str:
    """Seconds for people: `42 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect the first Ctrl-C or SIGTERM instead of dying of it; a second one kills as usual."""
    received: list[int] = []
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = {kind: signal.getsignal(kind) for kind in kinds}

    def note(number: int, frame: object) -> None:
        received.append(number)
        for kind in kinds:
            signal.signal(kind, before[kind])

    for kind in kinds:
        signal.signal(kind, note)
    try:
        yield received
    finally:
        for kind in kinds:
            signal.signal(kind, before[kind])
