"""The JSON of a run: all that its pictures depend on, and what was measured of them.

Invariant: a visitor's picture is not in it, only its hash as the face's identity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

import sr3
from sr3.checkpoints import find_checkpoint, registry
from sr3.config import SamplerConfig, to_dict
from sr3.evaluate import code_commit
from sr3.folder import hash_of
from sr3.metrics import Scores
from sr3.pipeline import SuperResolver
from sr3.ui import scoreboard
from sr3.ui.group import Group
from sr3.ui.inputs import Face

SHORT = 8  # hex digits of a hash in a link


def names(key: str) -> list[str]:
    """The registered checkpoints in a contestant's key: one, or a mixture's two."""
    return key.split(":")[1:3] if ":" in key else [key]


def digest(name: str) -> str:
    """A checkpoint's identity, as in every table of measurements. Raises CheckpointError."""
    return hash_of(find_checkpoint(name))


def versions(keys: Sequence[str]) -> str:
    """`lite.620b8fb6,...`: each checkpoint once, with the beginning of its hash, for a link."""
    known = dict.fromkeys(name for key in keys if key != "bicubic" for name in names(key))
    return ",".join(f"{name}.{digest(name)[:SHORT]}" for name in known)


def changed(text: str) -> list[str]:
    """The checkpoints among `versions` that are others here; names alone, no stranger's text."""
    pairs = [part.rpartition(".") for part in text.split(",")[:8]]
    offered = registry()
    here = [(name, mark) for name, _, mark in pairs if name in offered and offered[name].available]
    return [name for name, mark in here if digest(name)[:SHORT] != mark]


def network(
    resolver: SuperResolver, key: str, title: str, sampling: SamplerConfig, evaluations: int
) -> dict[str, Any]:
    """A network as a record names it, with how it was asked."""
    return {
        "checkpoint": key, "title": title, "sha256": {name: digest(name) for name in names(key)},
        "sampling": to_dict(sampling), "evaluations": evaluations,
        "device": str(resolver.device.device),
        "precision": str(resolver.device.precision).removeprefix("torch."),
        "config": to_dict(resolver.config),
    }  # fmt: skip


def record(
    face: Face, seed: int, networks: Sequence[dict[str, Any]], link: str | None, *,
    stopped: bool, seconds: float, scores: Mapping[str, Scores], **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """The record of a run; `scores` by the pictures' titles."""
    return {
        "product": "SR3 Lab", "version": sr3.__version__, "code": _code(),
        "face": face.identity, "low_res": len(face.low_res), "seed": seed, "link": link,
        "stopped": stopped, "seconds": round(seconds, 3), "networks": list(networks),
        "scores": {title: scoreboard.as_record(each) for title, each in scores.items()}, **more,
    }  # fmt: skip


def of_group(
    found: Group, link: str | None, scores: Mapping[str, Scores], **more: Any
) -> dict[str, Any]:
    """The record of a group of chains; each says of which sample it is."""
    made = []
    for place, task in enumerate(found.tasks):
        newest = found.newest(place)
        taken = newest.evaluations if newest else 0
        each = network(task.resolver, task.key, task.title, task.sampling, taken)
        made.append(each | {"sample": task.sample})
    return record(
        found.face, found.tasks[0].seed, made, link, stopped=bool(found.early),
        seconds=found.seconds, scores=scores, **more,
    )  # fmt: skip


@st.cache_resource(max_entries=1, show_spinner=False)
def _code() -> str:
    return code_commit()
