"""The command line: `python -m sr3 COMMAND`.

Invariants: results go to standard output, progress and errors to standard error; a user's mistake
is one sentence and exit code 2, never a traceback; each command imports what it needs when it
runs, so that `--help` does not wait for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from sr3.catalogue import checkpoints, list_domains
from sr3.cli_bench import bench
from sr3.cli_checkpoints import metrics, prepare
from sr3.cli_generate import generate
from sr3.cli_report import report
from sr3.cli_training import distil, finetune, study, train
from sr3.errors import SR3Error
from sr3.terminal import EVERY, DeviceName, Json, Seed, duration, print_json, say

if TYPE_CHECKING:
    from sr3.evaluate import Progress
    from sr3.pipeline import SuperResolver


class Commands(TyperGroup):
    """Commands whose own errors become one sentence and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SR3Error as error:
            message = str(error)
        except OSError as error:
            if error.filename is None or error.strerror is None:
                raise
            message = f"{error.filename} cannot be used: {error.strerror}."
            if isinstance(error, FileExistsError):
                message = f"{error.filename} is a file, and a folder is needed: name another one."
        typer.echo(f"Error: {message}", err=True)
        raise typer.Exit(2)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="SR3 Lab: diffusion super-resolution of faces, and how well it moves between domains.",
)

Sampler = Annotated[str | None, typer.Option(help="dpmpp, ddim or ancestral.")]
Steps = Annotated[int | None, typer.Option(help="Network evaluations per image.")]
Start = Annotated[
    int | None, typer.Option(help="Time step to start at; the highest is pure noise.")
]
Spacing = Annotated[str | None, typer.Option(help="uniform, log_snr or karras.")]
Eta = Annotated[float | None, typer.Option(help="Noise added on the way (ddim).")]
Clamp = Annotated[
    bool | None, typer.Option("--clamp/--no-clamp", help="Hold the clean estimate in [-1, 1].")
]
Consistency = Annotated[
    bool | None,
    typer.Option(
        "--consistency/--no-consistency", help="Make each estimate reduce exactly to the input."
    ),
]


@app.callback()
def begin(
    offline: Annotated[
        bool, typer.Option("--offline", help="Use no network: as HF_HUB_OFFLINE=1.")
    ] = False,
) -> None:
    prepare(offline)


app.add_typer(checkpoints, name="checkpoints")
app.add_typer(metrics, name="metrics")
app.command("domains")(list_domains)
app.command()(train)
app.command()(distil)
app.command()(finetune)
app.command()(study)
app.command()(report)
app.command()(bench)
app.command()(generate)


# -------------------------------------------------------------------------------------- upscale
@app.command()
def upscale(
    images: Annotated[list[Path], typer.Argument(help="Image files, and folders of them.")],
    out: Annotated[Path, typer.Option(help="Folder for NAME.png, 128x128.")],
    checkpoint: Annotated[str, typer.Option(help="Name, folder, public file or hub:...")] = "lite",
    sampler: Sampler = None,
    steps: Steps = None,
    start: Start = None,
    spacing: Spacing = None,
    eta: Eta = None,
    clamp: Clamp = None,
    consistency: Consistency = None,
    seed: Seed = 0,
    samples: Annotated[int, typer.Option(help="Results per image: NAME-0.png, ...")] = 1,
    device: DeviceName = "auto",
    align: Annotated[
        bool, typer.Option("--align/--no-align", help="Find the face and crop it as FFHQ.")
    ] = True,
    face: Annotated[
        int, typer.Option(min=1, help="Of several faces: 1 the largest, 2 the next, ...")
    ] = 1,
    low_res: Annotated[
        bool, typer.Option("--low-res", help="The images are 16x16 inputs themselves.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Super-resolve faces; larger images are reduced first and scored against themselves.

    Sampling settings that are not given are the checkpoint's recommended ones.
    """
    from sr3.metrics import Scorer
    from sr3.pipeline import load
    from sr3.upscale import Failed, json_row, upscale_files

    changes: dict[str, Any] = {
        "sampler": sampler, "steps": steps, "start": start, "spacing": spacing, "eta": eta,
        "clamp": clamp, "consistency": consistency,
    }  # fmt: skip
    model, scorer = load(checkpoint, device), Scorer.load()
    settings = model.settings(**changes)
    say(f"Running on {model.device.reason}.")
    if scorer.lpips_reason:
        say(scorer.lpips_reason)
    rows, failed = [], 0
    try:
        for record in upscale_files(
            model, images, out, seed=seed, samples=samples, align=align, face=face,
            low_res=low_res, scorer=scorer, **changes,
        ):  # fmt: skip
            if isinstance(record, Failed):
                say(f"Error: {record.error}")
                failed += 1
            else:
                say(f"{record.source} -> {record.output}: {record.note}; {record.scores.told}")
                rows.append(json_row(record, checkpoint, settings.sampler, settings.steps, seed))
    finally:  # what was written is told, also where the next one cannot be
        if as_json:
            print_json(rows)
    if failed:
        raise typer.Exit(2)


# ------------------------------------------------------------------------------------- evaluate
@app.command()
def evaluate(
    checkpoint: Annotated[list[str], typer.Option(help="Name, folder or file; may be repeated.")],
    domain: Annotated[list[str], typer.Option(help="Name, folder, ...; may be repeated.")],
    out: Annotated[Path, typer.Option(help="FILE.parquet to write, or a table's folder.")],
    split: Annotated[str, typer.Option(help="test, validation or train.")] = "test",
    images: Annotated[
        int | None, typer.Option(help="How many images of the split; else all.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Samples per image, seeds SEED, SEED + 1, ...")] = 1,
    sampler: Sampler = None,
    steps: Steps = None,
    start: Start = None,
    spacing: Spacing = None,
    eta: Eta = None,
    clamp: Clamp = None,
    consistency: Consistency = None,
    seed: Seed = 0,
    batch: Annotated[int, typer.Option(help="Images per forward pass.")] = 8,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Bicubic and one-step rows too.")
    ] = True,
    device: DeviceName = "auto",
    as_json: Json = False,
) -> None:
    """Measure checkpoints on domains: PSNR, SSIM, LPIPS, consistency, a row each image and seed.

    Each checkpoint's rows on a domain are written as soon as they are complete.
    """
    from sr3 import results
    from sr3.checkpoints import find_checkpoint
    from sr3.devices import for_tables
    from sr3.domains import load_domain
    from sr3.evaluate import BASELINES, split_named
    from sr3.evaluate import evaluate as measure
    from sr3.folder import hash_of
    from sr3.metrics import Scorer
    from sr3.pipeline import load

    changes: dict[str, Any] = {
        "sampler": sampler, "steps": steps, "start": start, "spacing": spacing, "eta": eta,
        "clamp": clamp, "consistency": consistency,
    }  # fmt: skip
    results.check_place(out)
    domains = [load_domain(name) for name in domain]
    hashes = {name: hash_of(find_checkpoint(name)) for name in checkpoint}
    scorer = Scorer.load()
    if scorer.lpips_reason:
        say(scorer.lpips_reason)
    how = changes | {
        "split": split_named(split), "images": images, "samples": samples, "seed": seed,
        "batch": batch, "scorer": scorer,
    }  # fmt: skip

    def loaded(name: str) -> SuperResolver:
        model = load(name, device)
        model.device = for_tables(model.device)
        return model

    for name in checkpoint:  # a fault in the last one is told now, not hours later
        model = loaded(name)
        for each in domains:
            measure(model, each, hashes[name], **how)
    say(f"Running on {model.device.reason}.")
    rows: list[dict[str, Any]] = []
    enlarged: set[tuple[int, int]] = set()  # sizes whose bicubic rows are measured
    for name in checkpoint:
        model = loaded(name)
        sizes = model.low_size, model.high_size
        wanted = BASELINES[sizes in enlarged :] if baselines else ()  # bicubic asks no network
        enlarged.add(sizes)
        for each in domains:
            progress = measure(model, each, hashes[name], baselines=wanted, **how)
            keep(follow(progress, f"{name} on {each.name}"), rows, out)
    print_summary(rows, as_json)


def keep(found: list[dict[str, Any]], rows: list[dict[str, Any]], out: Path) -> None:
    """Add what was measured to all `rows` of a command and to the table at `out`, as a new part of
    its folder or by writing its file anew: whatever comes next, these rows are not lost."""
    from sr3 import results

    rows += found
    if out.suffix == ".parquet":
        results.write(rows, out)
    else:
        results.append(found, out)


def follow(evaluation: Iterator[Progress], what: str) -> list[dict[str, Any]]:
    """All rows of an evaluation, with lines of progress."""
    rows: list[dict[str, Any]] = []
    shown = 0.0
    for progress in evaluation:
        rows += progress.rows
        if progress.seconds - shown >= EVERY or progress.done == progress.total:
            shown = progress.seconds
            share = progress.network_seconds / max(progress.seconds, 1e-9)
            say(
                f"{what}: {progress.done} of {progress.total} samples, "
                f"{duration(progress.remaining)} left, {share:.0%} of the time in the network"
            )
    return rows


def print_summary(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Means and intervals of what was just measured, on standard output."""
    import pandas as pd

    from sr3.results import summary

    table = summary(pd.DataFrame(rows))
    if as_json:
        print_json([_finite(row) for row in table.to_dict("records")])
        return
    for _, row in table.iterrows():
        interval = "" if pd.isna(row["low"]) else f"  [{row['low']:.4f}, {row['high']:.4f}]"
        # Bicubic's hash tells its sizes.
        name = row["checkpoint_hash" if row["checkpoint"] == "bicubic" else "checkpoint"]
        typer.echo(
            f"{name:16} {row['domain']:16} {row['sampler']:12} {row['steps']:4} "
            f"{row['metric']:18} {row['mean']:9.4f}{interval}  n={row['n']} seeds={row['seeds']}"
        )


def _finite(row: dict[Any, Any]) -> dict[str, Any]:
    """NaN and infinities as null, which JSON has."""
    return {
        str(key): None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }


# ------------------------------------------------------------------------------------------ gap
@app.command()
def gap(
    checkpoint: Annotated[list[str], typer.Option(help="Name, folder or file; may be repeated.")],
    domain: Annotated[list[str], typer.Option(help="The first one is the reference; repeat.")],
    out: Annotated[Path, typer.Option(help="FILE.parquet to write, or a table's folder.")],
    times: Annotated[str, typer.Option(help="Time steps.")] = "10,50,200,500,1000,1356,1500,2000",
    split: Annotated[str, typer.Option(help="test, validation or train.")] = "test",
    images: Annotated[
        int | None, typer.Option(help="How many images of each split; else all.")
    ] = None,
    draws: Annotated[int, typer.Option(min=1, help="Noise draws per image and level.")] = 8,
    seed: Seed = 0,
    batch: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 16,
    srga: Annotated[
        bool, typer.Option("--srga/--no-srga", help="Measure the SRGA-style index too.")
    ] = True,
    device: DeviceName = "auto",
    as_json: Json = False,
) -> None:
    """Measure the denoising error along the chain on each domain, and the generalization index.

    A checkpoint's rows are written when it is measured; of one that is cut short, those of the
    time steps that are complete.
    """
    from sr3 import results
    from sr3.checkpoints import find_checkpoint
    from sr3.domains import load_domain
    from sr3.evaluate import split_named
    from sr3.folder import hash_of
    from sr3.gap import GapSettings, measure_gap
    from sr3.pipeline import load
    from sr3.tuning import parse_steps

    results.check_place(out)
    domains = [load_domain(name) for name in domain]
    settings = GapSettings(parse_steps(times), split_named(split), images, draws, seed, batch, srga)
    hashes = {name: hash_of(find_checkpoint(name)) for name in checkpoint}
    for name in checkpoint:  # a fault in the last one is told now, not hours later
        measure_gap(load(name, device), hashes[name], domains, settings)
    rows: list[dict[str, Any]] = []
    for name in checkpoint:
        parts: dict[str, list[dict[str, Any]]] = {each.name: [] for each in domains}
        try:
            for found in measure_gap(load(name, device), hashes[name], domains, settings):
                parts[found.domain] += found.rows
                say(f"{name} on {found.domain}: {found.what}")
        finally:  # what is complete stays, also where the rest cannot be measured
            for part in parts.values():
                if part:
                    keep(part, rows, out)
    print_summary(rows, as_json)
