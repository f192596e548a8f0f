"""The card of a checkpoint with what the table holds of it: its own, in its folder, and that on the
Hub, with metrics that machines read, and how to load it.

Invariant: every number comes from the table of measurements, of exactly this checkpoint's hash, or
stands where the table here has none in an earlier card of that hash; a card that is made again
replaces what was made before and keeps what its author wrote.
"""

from __future__ import annotations

import math
import re
from typing import Any

import pandas as pd

from sr3.cards import CHANGE_ALONE, NON_COMMERCIAL, make_card
from sr3.combine import UNIT, Recipe
from sr3.config import ModelConfig
from sr3.domains import registered
from sr3.hub import INDEXED, front_matter, metadata_of
from sr3.metrics import METRICS
from sr3.results import summary

MADE = "Filled in from the table of measurements by `python -m sr3 checkpoints cards`."
LICENCE = "## Licence"
MEASURED, LOAD = "## Measured on test images", "## Load it"
IDENTITY = "Identity (config and weights): sha256 `{}`"
RELATION = {"delta": "finetune", "spliced": "merge", "interpolated": "merge"}
_LOAD = """\
With SR3 Lab:

```python
import sr3
model = sr3.SuperResolver.from_pretrained("{repo}")
faces = model.upscale([face]).images  # face: a square RGB image, uint8
```

With `huggingface_hub` and `safetensors` alone:

```python
import json, pathlib
from huggingface_hub import snapshot_download
from safetensors.numpy import load_file

folder = pathlib.Path(snapshot_download("{repo}"))
config = json.loads((folder / "config.json").read_text())
weights = {{k: v for f in sorted(folder.glob("*.safetensors")) for k, v in load_file(f).items()}}
```
"""
_KINDS = {
    "delta": "The tensors are changes: add each to the tensor of that name of the parent, whose "
    "hash `config.json` names. `NAME.left` and `NAME.right` are factors: add their product, in the "
    "shape of NAME. `NAME.scale` belongs to an 8-bit change: multiply, a number an output channel, "
    f"and by {UNIT:g}.",
    "spliced": "`config.json` names two parents and the time step at which one takes over from the "
    "other; there are no tensors here.",
    "interpolated": "`config.json` names two parents and a weight: parent + weight (tuned - "
    "parent); there are no tensors here.",
}


def hub_card(
    repo: str,
    card: str,
    settings: ModelConfig | Recipe,
    digest: str,
    table: pd.DataFrame,
    base_models: tuple[str, ...] = (),
) -> str:
    """A card in the Hub's form. `card` is the folder's own, `digest` its hash, `table` all rows of
    measurements (of which this checkpoint's count), `base_models` its parents on the Hub."""
    if not card.strip():
        card = make_card(repo.split("/")[-1], "A checkpoint of SR3 Lab.", {}, NON_COMMERCIAL)
    if isinstance(settings, ModelConfig):  # what was a change is put together
        card = card.replace(CHANGE_ALONE, "the change is added to the parent, the whole is stored.")
    header, body = _split(card)
    known = {name: header.pop(name) for name in (INDEXED, "metrics") if name in header}
    kind = settings.kind if isinstance(settings, Recipe) else None
    values = (
        {"license": "other"}
        | header
        | {"library_name": "sr3-lab", "pipeline_tag": "image-to-image"}
    )
    values["tags"] = sorted({*header.get("tags", []), "super-resolution", "diffusion", "sr3"})
    if base_models and kind:
        values |= {"base_model": list(base_models), "base_model_relation": RELATION[kind]}
    scores = scores_of(digest, table)
    measured = _table(scores)
    if not scores.empty:
        values["metrics"] = sorted(set(scores["metric"]))
        values[INDEXED] = [{"name": repo.split("/")[-1], "results": _results(scores)}]
    elif identity_of(card) == digest:  # measured elsewhere, with another table
        values |= known
        measured = _section(body, MEASURED) or measured
    load = _LOAD.format(repo=repo) + (f"\n{_KINDS[kind]}\n" if kind else "")
    if not scores.empty:
        body = "".join(part for part in _sections(body) if not _says_nothing(part))
    parts = [_without(body).strip(), f"{MEASURED}\n\n{measured}", f"{LOAD}\n\n{load}"]
    parts.append(f"{IDENTITY.format(digest)}\n")
    return front_matter(values) + "\n" + "\n\n".join(parts)


def identity_of(card: str) -> str | None:
    """The checkpoint's hash that a card made here names, whatever parts the weights are in."""
    found = re.findall(re.escape(IDENTITY).replace(r"\{\}", "([0-9a-f]{64})"), card)
    return found[-1] if found else None


def filled_card(card: str, digest: str, table: pd.DataFrame) -> str:
    """A folder's own card with what the table holds of its hash, instead of what was filled in
    before and of sections that say nothing but "unmeasured".

    Unchanged where the table holds nothing, or its author wrote such a section.
    """
    scores = scores_of(digest, table)
    header, body = re.match(r"(---\n.*?\n---\n|)(.*)", card, re.DOTALL).groups()  # type: ignore[union-attr]
    sections = _sections(body)
    own = [part for part in sections if part.startswith(MEASURED) and MADE not in part]
    if scores.empty or own:
        return card
    kept = [part for part in sections if not part.startswith(MEASURED) and not _says_nothing(part)]
    place = next((k for k, part in enumerate(kept) if part.startswith(LICENCE)), len(kept))
    made = f"{MEASURED}\n\n{MADE}\n\n{_table(scores)}\n"
    return header + "".join([*kept[:place], made, *kept[place:]])


def _says_nothing(section: str) -> bool:
    """Whether every row of a section of measurements is unmeasured."""
    rows = [line for line in section.splitlines() if re.match(r"\| *[^|\s-]", line)]
    measured = section.startswith("## Measured")
    return measured and bool(rows) and all(row.endswith("| unmeasured |") for row in rows)


def scores_of(digest: str, table: pd.DataFrame) -> pd.DataFrame:
    """Summaries (`results.summary`) of one checkpoint's image metrics, finite ones; one-step
    regression, a baseline that has the same weights, is left out."""
    ours = (table["checkpoint_hash"] == digest) & (table["checkpoint"] != "regression")
    rows = table[ours & table["metric"].isin(list(METRICS))]
    found = summary(rows) if not rows.empty else rows.assign(mean=0.0)
    return found[found["mean"].map(math.isfinite).astype(bool)]


def _results(scores: pd.DataFrame) -> list[dict[str, Any]]:
    """The `results` of a model-index: one entry a domain."""
    titles = registered()
    return [
        {
            "task": {"type": "image-to-image", "name": "Face super-resolution"},
            "dataset": {
                "type": str(domain), "name": str(titles.get(str(domain), {}).get("title", domain)),
                "split": "test", "revision": str(rows["file_list_hash"].iloc[0]),
            },
            "metrics": [
                {"type": row["metric"], "value": round(float(row["mean"]), 6), "name": _how(row)}
                for _, row in rows.iterrows()
            ],
        }
        for domain, rows in scores.groupby("domain", sort=True)
    ]  # fmt: skip


def _how(row: pd.Series[Any]) -> str:
    backbone = f", {row['lpips_backbone']}" if isinstance(row["lpips_backbone"], str) else ""
    return (
        f"{METRICS[row['metric']].label}, {row['sampler']} {row['steps']} steps, {row['n']} "
        f"images x {row['seeds']}{backbone}"
    )


def _table(scores: pd.DataFrame) -> str:
    if scores.empty:
        return "Unmeasured.\n"
    lines = ["| Domain | Metric | Mean | 95 % interval | Images x seeds | Sampler, steps |"]
    lines.append("|---|---|---|---|---|---|")
    for _, row in scores.iterrows():
        interval = "" if pd.isna(row["low"]) else f"{row['low']:.4f} to {row['high']:.4f}"
        lines.append(
            f"| {row['domain']} | {METRICS[row['metric']].label} | {row['mean']:.4f} | {interval} "
            f"| {row['n']} x {row['seeds']} | {row['sampler']}, {row['steps']} |"
        )
    return "\n".join(lines) + "\n"


def _split(card: str) -> tuple[dict[str, Any], str]:
    """A card's metadata and the text after it."""
    match = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    return (metadata_of(card), card[match.end() :]) if match else ({}, card)


def _section(body: str, heading: str) -> str:
    """The text under a heading; empty where there is none."""
    parts = [part for part in _sections(body) if part.startswith(heading)]
    return parts[0].removeprefix(heading).strip() + "\n" if parts else ""


def _without(body: str) -> str:
    """A card's text without the sections that are made here."""
    return "".join(part for part in _sections(body) if not part.startswith((MEASURED, LOAD)))


def _sections(body: str) -> list[str]:
    """A card's text, cut before each heading of the second order."""
    return re.split(r"(?m)^(?=## )", body)
