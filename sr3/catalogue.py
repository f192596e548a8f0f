"""What there is: the `checkpoints` commands and `domains`, for the command line.

Invariant: nothing here changes a checkpoint that exists; an import goes into a new folder.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sr3.cards import NON_COMMERCIAL, make_card
from sr3.errors import CheckpointError, DomainError
from sr3.terminal import Json, print_json

if TYPE_CHECKING:
    from torch import Tensor

    from sr3.checkpoints import RegistryEntry
    from sr3.combine import Recipe

FIELDS = (
    "name", "title", "source", "parent", "domain", "images", "updates", "range", "licence",
    "available",
)  # fmt: skip
PUBLIC_LICENCE = (
    "The file is from Janspiry/Image-Super-Resolution-via-Iterative-Refinement (Apache-2.0). It "
    "was trained on FFHQ, whose images are for non-commercial use."
)

_log = logging.getLogger("sr3.pull")

checkpoints = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="List, inspect, import and check checkpoints."
)


@checkpoints.command("list")
def list_checkpoints(as_json: Json = False) -> None:
    """The registered checkpoints."""
    from sr3.checkpoints import registry

    entries = registry()
    rows = [{name: getattr(entry, name) for name in FIELDS} for entry in entries.values()]
    if as_json:
        print_json(rows)
        return
    if not rows:
        typer.echo("No checkpoint is registered.", err=True)
    for row in rows:
        here = "here" if row["available"] else "not here"
        state = entries[row["name"]].problem or f"{row['title']}  [{here}]"
        typer.echo(f"{row['name']:20} {state}")


@checkpoints.command("show")
def show_checkpoint(
    name: Annotated[str, typer.Argument(help="A registered name, a folder or a public file.")],
    as_json: Json = False,
) -> None:
    """One checkpoint: where it is, its hash, settings and card."""
    from sr3.checkpoints import find_checkpoint, registry
    from sr3.combine import Recipe
    from sr3.config import to_dict
    from sr3.folder import CARD, hash_of, read_config, read_settings

    path = find_checkpoint(name)
    settings = read_settings(path) if path.is_dir() else read_config(path)
    digest = hash_of(path)
    values = settings.to_json() if isinstance(settings, Recipe) else to_dict(settings)
    if as_json:
        entry = registry().get(name)
        known = {field: getattr(entry, field, None) for field in FIELDS}
        known |= {"name": name, "available": True}
        print_json(known | {"sha256": digest, "config": values})
        return
    typer.echo(f"{name}: {path}\nsha256: {digest}\n{json.dumps(values, indent=2)}")
    if (path / CARD).exists():
        typer.echo((path / CARD).read_text(encoding="utf-8"))


@checkpoints.command("import")
def import_checkpoint(
    file: Annotated[Path, typer.Argument(help="A public *_gen.pth file.")],
    out: Annotated[Path, typer.Option(help="The new checkpoint folder.")],
    half: Annotated[bool, typer.Option("--half", help="Store float16, half the size.")] = False,
) -> None:
    """Turn a public SR3 checkpoint into a checkpoint folder."""
    if not file.is_file():
        raise CheckpointError(f"There is no file {file}: give a public *_gen.pth file.")
    _refuse_existing(out)
    import torch

    from sr3.folder import save_checkpoint
    from sr3.public_format import load_public

    config, network = load_public(file)
    dtype = torch.float16 if half else torch.float32
    save_checkpoint(out, config, network.state_dict(), _import_card(file, network, half), dtype)
    typer.echo(f"Imported {file.name} into {out}.", err=True)


def _import_card(file: Path, network: Any, half: bool) -> str:
    from sr3.folder import hash_of

    size = network.config.low_res, network.config.high_res
    facts = {
        "File": f"`{file.name}`",
        "SHA-256": f"`{hash_of(file)}`",
        "Parameters": f"{sum(p.numel() for p in network.parameters()):,}",
        "Stored as": "float16" if half else "float32",
    }
    return make_card(
        f"SR3 {size[0]} to {size[1]}, imported",
        f"A public SR3 checkpoint ({file.name}) in SR3 Lab's form; the weights are unchanged"
        + (" but for rounding to float16." if half else "."),
        {"Import": facts, "Measured": {"All metrics": None}},
        PUBLIC_LICENCE,
    )


@checkpoints.command("shrink")
def shrink_checkpoint(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a tuned checkpoint.")],
    out: Annotated[Path, typer.Option(help="The new checkpoint folder.")],
    parent: Annotated[
        str | None, typer.Option(help="What whole weights, such as a distilled one's, began as.")
    ] = None,
) -> None:
    """Write a checkpoint's change to its parent in 8 bits: half the bytes, or less."""
    from sr3.combine import Recipe, quantize
    from sr3.folder import CARD, hash_of, read_settings, save_checkpoint

    _refuse_existing(out)
    settings = read_settings(checkpoint)
    if isinstance(settings, Recipe):
        recipe, change = _change_of(checkpoint, settings, out)
    elif parent is not None:
        recipe, change = _change_from(checkpoint, parent, out)
    else:
        raise CheckpointError(f"{checkpoint} has whole weights: name its --parent.")
    card = (checkpoint / CARD).read_text().replace(
        "## Licence\n",
        f"## Eight bits\n\nThe change to `{recipe.parents[0].name}` is stored as 8-bit steps, a "
        f"scale an output channel; before, it had the hash `{hash_of(checkpoint)[:12]}`.\n\n"
        "## Licence\n",
    )  # fmt: skip
    save_checkpoint(out, recipe, quantize(change), card)


def _change_of(checkpoint: Path, recipe: Recipe, out: Path) -> tuple[Recipe, dict[str, Tensor]]:
    """A fine-tuned checkpoint's recipe, with its parent named as from `out`, and its change."""
    from sr3.checkpoints import as_parent, registry
    from sr3.folder import read_weights

    if recipe.kind != "delta":
        raise CheckpointError(f"{checkpoint} is {recipe.kind}: only a change to a parent shrinks.")
    parent = recipe.parents[0]
    if parent.name not in registry():
        parent = as_parent(str(checkpoint / parent.name), out)
    return dataclasses.replace(recipe, parents=(parent,)), read_weights(checkpoint)


def _change_from(checkpoint: Path, parent: str, out: Path) -> tuple[Recipe, dict[str, Tensor]]:
    """Whole weights as the change of a parent with the same network."""
    from sr3.checkpoints import as_parent, find_checkpoint, load_whole
    from sr3.combine import Recipe, difference

    model, network = load_whole(checkpoint)
    theirs, before = load_whole(find_checkpoint(parent))
    if (model.network, model.prediction) != (theirs.network, theirs.prediction):
        raise CheckpointError(f"{parent} has another network than {checkpoint}: it is no parent.")
    recipe = Recipe("delta", (as_parent(parent, out),), model=model)
    return recipe, difference(before.state_dict(), network.state_dict())


@checkpoints.command("combine")
def combine_checkpoints(
    parent: Annotated[str, typer.Option(help="The original: a registered name or a folder.")],
    tuned: Annotated[str, typer.Option(help="What was fine-tuned from it.")],
    out: Annotated[Path, typer.Option(help="The new checkpoint folder.")],
    splice: Annotated[
        int | None, typer.Option(help="Time step: the tuned one from it down, the parent above.")
    ] = None,
    weight: Annotated[
        float | None, typer.Option(help="Or interpolate: 0 is the parent, 1 the tuned one.")
    ] = None,
) -> None:
    """Make one checkpoint of two, without copying their weights: spliced or interpolated."""
    from sr3.checkpoints import as_parent, find_checkpoint, load_checkpoint
    from sr3.combine import Kind, Recipe, same_chain, same_network
    from sr3.folder import read_config, save_checkpoint

    if (splice is None) == (weight is None):
        raise CheckpointError("Give either --splice T or --weight W.")
    _refuse_existing(out)
    kind: Kind = "interpolated" if splice is None else "spliced"
    parents = as_parent(parent, out), as_parent(tuned, out)
    config, other = (read_config(find_checkpoint(name)) for name in (parent, tuned))
    if same_network(config, other) and not same_chain(config, other):
        raise CheckpointError(
            f"{parent} and {tuned} learnt different chains, which end at time steps "
            f"{config.sampling.end} and {other.sampling.end}: choose two of one chain."
        )
    recipe = Recipe(kind, parents, splice, weight, config)
    hashes = {each.name: f"sha256 `{each.sha256}`" for each in parents}
    card = make_card(
        f"SR3 Lab: {kind}", recipe.describe(), {"Made of": hashes, "Measured": {"All": None}},
        NON_COMMERCIAL,
    )  # fmt: skip
    save_checkpoint(out, recipe, {}, card)
    try:
        load_checkpoint(out)
    except CheckpointError:
        shutil.rmtree(out)
        raise
    typer.echo(f"{recipe.describe()} It is in {out}.", err=True)


def _refuse_existing(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out} exists already: give the name of a new folder.")


@checkpoints.command("verify")
def verify_checkpoints(
    name: Annotated[
        str | None, typer.Argument(help="One of them; else all, but what was never pulled.")
    ] = None,
) -> None:
    """Check weights against their registered hash, and load them strictly."""
    from sr3.checkpoints import registry

    entries = registry()
    names = [name] if name else [each for each, entry in entries.items() if not entry.unpulled]
    wrong = []
    for each in names:
        try:
            waits = "" if name else _awaited(entries[each])
            typer.echo(f"{each}: {waits or _verify(each, entries.get(each))}")
        except CheckpointError as error:
            wrong.append(str(error))
    if wrong:
        raise CheckpointError(" ".join(wrong))


def _awaited(entry: RegistryEntry) -> str:
    """Which checkpoints one that is whole waits for, if these are only to be pulled; else "".
    Raises CheckpointError where it has another hash than is registered."""
    from sr3.checkpoints import missing_parents, registry

    missing = missing_parents(entry.path) if entry.complete else []
    known = registry()
    if not missing or not all(each in known and known[each].unpulled for each in missing):
        return ""
    entry.check()
    return f"not here yet, since it is made of {', '.join(missing)}"


def _verify(name: str, entry: RegistryEntry | None) -> str:
    """What is right about a checkpoint. Raises CheckpointError for what is wrong."""
    from sr3.checkpoints import find_checkpoint, load_checkpoint

    load_checkpoint(find_checkpoint(name))
    return (
        "hash and weights are right" if entry and entry.sha256 else "loads; no hash is registered"
    )


def list_domains(
    pull: Annotated[
        str | None, typer.Option(help="First fetch this registered data set from the Hub.")
    ] = None,
    as_json: Json = False,
) -> None:
    """The registered face domains: their splits, hash, and whether their images are here."""
    from sr3.domains import fetch_registered, registered

    for name, progress in fetch_registered(pull) if pull else ():
        for each in progress:
            _log.info("%s: %s", name, each.describe())
    rows = [_domain_row(name, known) for name, known in registered().items()]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        state = f"not usable: {row['problem']}"
        if row["available"]:
            counts = "{train} train, {validation} validation, {test} test".format(**row)
            state = f"{counts}, list {row['sha256'][:12]}"
        typer.echo(f"{row['name']:18} {row['title']:30} {state}")


def _domain_row(name: str, known: dict[str, object]) -> dict[str, Any]:
    from sr3.domains import load_domain

    row: dict[str, Any] = {
        **{"name": name, "title": known.get("title", name), "terms": known.get("terms")},
        **dict.fromkeys(("train", "validation", "test", "sha256", "problem")),
        "available": False,
    }
    try:
        domain = load_domain(name)
    except DomainError as error:
        return row | {"problem": str(error)}
    counts = {split: len(getattr(domain, split)) for split in ("train", "validation", "test")}
    return row | counts | {"sha256": domain.sha256, "available": True}
