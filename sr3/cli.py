"""The command line: `python -m sr3 COMMAND`.

Invariants: results go to standard output, progress and errors to standard error; a user's mistake
is one sentence and exit code 2, never a traceback; each command imports what it needs when it
runs, so that `--help` does not wait for it.
"""

from __future__ import annotations

import dataclasses
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from sr3.catalogue import Json, checkpoints, list_domains, print_json
from sr3.errors import ConfigError, SR3Error

if TYPE_CHECKING:
    from sr3.evaluate import Progress
    from sr3.finetune import FinetuneRun
    from sr3.train import TrainStep
    from sr3.training_run import TrainingRun

EVERY = 5.0  # seconds between two lines of progress


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
Steps = Annotated[int | None, typer.Option(help="Network evaluations an image.")]
Start = Annotated[int | None, typer.Option(help="First time step; the last one: pure noise.")]
Spacing = Annotated[str | None, typer.Option(help="uniform, log_snr or karras.")]
Eta = Annotated[float | None, typer.Option(help="Noise added on the way (ddim).")]
Consistency = Annotated[
    bool | None, typer.Option("--consistency/--no-consistency", help="Reduce to the exact input.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of all randomness.")]
DeviceName = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]


app.add_typer(checkpoints, name="checkpoints")
app.command("domains")(list_domains)


def say(message: str) -> None:
    """A line of progress."""
    typer.echo(message, err=True)


def duration(seconds: float) -> str:
    """Seconds for people: `42 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


# -------------------------------------------------------------------------------------- upscale
@app.command()
def upscale(
    images: Annotated[list[Path], typer.Argument(help="Image files, and folders of them.")],
    out: Annotated[Path, typer.Option(help="Folder for NAME.png, 128x128.")],
    checkpoint: Annotated[str, typer.Option(help="Name, folder or public file.")] = "lite",
    sampler: Sampler = None,
    steps: Steps = None,
    start: Start = None,
    spacing: Spacing = None,
    eta: Eta = None,
    consistency: Consistency = None,
    seed: Seed = 0,
    samples: Annotated[int, typer.Option(help="Results an image: NAME-0.png, ...")] = 1,
    device: DeviceName = "auto",
    align: Annotated[
        bool, typer.Option("--align/--no-align", help="Find the face and crop it as FFHQ.")
    ] = True,
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
        "consistency": consistency,
    }  # fmt: skip
    model, scorer = load(checkpoint, device), Scorer.load()
    settings = model.settings(**changes)
    if scorer.lpips_reason:
        say(scorer.lpips_reason)
    rows, failed = [], 0
    for record in upscale_files(
        model, images, out, seed=seed, samples=samples, align=align, low_res=low_res,
        scorer=scorer, **changes,
    ):  # fmt: skip
        if isinstance(record, Failed):
            say(f"Error: {record.error}")
            failed += 1
        else:
            say(f"{record.source} -> {record.output}: {record.note}")
            rows.append(json_row(record, checkpoint, settings.sampler, settings.steps, seed))
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
    images: Annotated[int | None, typer.Option(help="So many images of the split.")] = None,
    samples: Annotated[int, typer.Option(help="Draws an image, seeds SEED, SEED + 1, ...")] = 1,
    sampler: Sampler = None,
    steps: Steps = None,
    start: Start = None,
    spacing: Spacing = None,
    eta: Eta = None,
    consistency: Consistency = None,
    seed: Seed = 0,
    batch: Annotated[int, typer.Option(help="Images a forward pass.")] = 8,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Bicubic and one-step rows too.")
    ] = True,
    device: DeviceName = "auto",
    as_json: Json = False,
) -> None:
    """Measure checkpoints on domains: PSNR, SSIM, LPIPS, consistency, a row each image and seed."""
    from sr3 import results
    from sr3.checkpoints import find_checkpoint, hash_of
    from sr3.domains import load_domain
    from sr3.evaluate import BASELINES, split_named
    from sr3.evaluate import evaluate as measure
    from sr3.metrics import Scorer
    from sr3.pipeline import load

    changes: dict[str, Any] = {
        "sampler": sampler, "steps": steps, "start": start, "spacing": spacing, "eta": eta,
        "consistency": consistency,
    }  # fmt: skip
    domains = [load_domain(name) for name in domain]
    hashes = [hash_of(find_checkpoint(name)) for name in checkpoint]
    scorer = Scorer.load()
    if scorer.lpips_reason:
        say(scorer.lpips_reason)
    single, rows = out.suffix == ".parquet", []
    for number, (name, digest) in enumerate(zip(checkpoint, hashes, strict=True)):
        model = load(name, device)
        wanted = BASELINES[number > 0 :] if baselines else ()  # bicubic is the same for all
        for each in domains:
            progress = measure(
                model, each, digest, split=split_named(split), images=images, samples=samples,
                seed=seed, batch=batch, baselines=wanted, scorer=scorer, **changes,
            )  # fmt: skip
            found = follow(progress, f"{name} on {each.name}")
            if not single:
                results.append(found, out)
            rows += found
    if single:
        results.write(rows, out)
    print_summary(rows, as_json)


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
        typer.echo(
            f"{row['checkpoint']:16} {row['domain']:16} {row['sampler']:12} {row['steps']:4} "
            f"{row['metric']:18} {row['mean']:9.4f}{interval}  n={row['n']} seeds={row['seeds']}"
        )


def _finite(row: dict[Any, Any]) -> dict[str, Any]:
    """NaN and infinities as null, which JSON has."""
    return {
        str(key): None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }


# ---------------------------------------------------------------------------------------- train
@app.command()
def train(
    domain: Annotated[str, typer.Option(help="Name, folder, zip or LMDB; several joined by +.")],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    preset: Annotated[str, typer.Option(help="Network and how it is trained.")] = "lite",
    steps: Annotated[int | None, typer.Option(help="Updates to run.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Or training time.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in OUT.")] = False,
    batch: Annotated[int | None, typer.Option(help="Images an update.")] = None,
    seed: Seed = 0,
    device: DeviceName = "auto",
    precision: Annotated[str | None, typer.Option(help="float32 or bfloat16.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Highest rate.")] = None,
    init: Annotated[str | None, typer.Option(help="Checkpoint to begin from.")] = None,
    save_every: Annotated[float, typer.Option(help="Seconds between saved states.")] = 180.0,
    validate_every: Annotated[float, typer.Option(help="Seconds between validations.")] = 600.0,
) -> None:
    """Train a network; OUT gets the logs, sample sheets, state and checkpoint."""
    from sr3.domains import load_domain
    from sr3.presets import preset as find_preset
    from sr3.training_run import Plan, TrainingRun

    if steps is not None and minutes is not None:
        raise ConfigError("Give either --steps or --minutes, and not both.")
    model, training = find_preset(preset)
    given = {"batch": batch, "precision": precision, "learning_rate": learning_rate, "seed": seed}
    changes: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    if steps is not None or minutes is not None:  # else the preset's own length
        changes |= {"steps": steps, "minutes": minutes}
    training = dataclasses.replace(training, **changes)
    plan = Plan(preset, model, training, load_domain(domain), out, device, init,
                save_every, validate_every)  # fmt: skip
    say(f"Reading {len(plan.domain.train)} training images of {plan.domain.title} ...")
    drive(TrainingRun(plan, resume=resume))
    say(f"The checkpoint is in {out / 'checkpoint'}.")


# ------------------------------------------------------------------------------------- finetune
@app.command()
def finetune(
    checkpoint: Annotated[str, typer.Option(help="The parent: name, folder or public file.")],
    domain: Annotated[str, typer.Option(help="Name, folder, zip or LMDB of the new faces.")],
    images: Annotated[str, typer.Option(help="So many of its training images, or all.")],
    steps: Annotated[int, typer.Option(min=1, help="Updates to run.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; snapshots are OUT/step-000100.")],
    time_range: Annotated[
        str | None, typer.Option("--range", help="Time steps A:B; levels in (A, B] alone.")
    ] = None,
    method: Annotated[str, typer.Option(help="full or lora.")] = "full",
    rank: Annotated[int, typer.Option(min=1, help="Rank of the change (lora).")] = 8,
    replay: Annotated[float, typer.Option(help="Share of source images in each batch.")] = 0.0,
    replay_domain: Annotated[
        str | None, typer.Option(help="The source: replayed, and watched for forgetting.")
    ] = None,
    seed: Seed = 0,
    learning_rate: Annotated[float | None, typer.Option(help="Constant rate.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images an update.")] = None,
    precision: Annotated[str | None, typer.Option(help="float32 or bfloat16.")] = None,
    snapshots: Annotated[str, typer.Option(help="Updates to keep too, such as 10,30,100.")] = "",
    evaluate_every: Annotated[int | None, typer.Option(help="Updates; else at snapshots.")] = None,
    evaluation_images: Annotated[int, typer.Option(help="Of each domain's validation split.")] = 16,
    save_every: Annotated[float, typer.Option(help="Seconds between saved states.")] = 120.0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in OUT.")] = False,
    device: DeviceName = "auto",
) -> None:
    """Fine-tune a copy of a checkpoint on few images; the parent stays as it is."""
    from sr3.checkpoints import find_checkpoint, read_config
    from sr3.domains import load_domain
    from sr3.finetune import FinetuneRun
    from sr3.tuning import FinetunePlan, parse_images, parse_range, parse_steps, tuning_config

    model = read_config(find_checkpoint(checkpoint))
    training = tuning_config(
        model, method, parse_range(time_range), steps=steps, batch=batch, seed=seed,
        learning_rate=learning_rate, precision=precision,
    )  # fmt: skip
    source = load_domain(replay_domain) if replay_domain else None
    plan = FinetunePlan(
        checkpoint, load_domain(domain), parse_images(images), training, out, method, rank, replay,
        source, device, parse_steps(snapshots), evaluate_every, evaluation_images, save_every,
    )  # fmt: skip
    say(f"Reading {len(plan.entries)} images of {plan.domain.title} ...")
    drive(FinetuneRun(plan, resume=resume))
    say(f"The checkpoint is in {plan.folder(steps)}.")


# ------------------------------------------------------------------------------------------ gap
@app.command()
def gap(
    checkpoint: Annotated[list[str], typer.Option(help="Name, folder or file; may be repeated.")],
    domain: Annotated[list[str], typer.Option(help="The first one is the reference; repeat.")],
    out: Annotated[Path, typer.Option(help="FILE.parquet to write, or a table's folder.")],
    times: Annotated[str, typer.Option(help="Time steps.")] = "10,50,200,500,1000,1356,1500,2000",
    split: Annotated[str, typer.Option(help="test, validation or train.")] = "test",
    images: Annotated[int | None, typer.Option(help="So many of each split.")] = None,
    draws: Annotated[int, typer.Option(min=1, help="Noise draws an image and level.")] = 8,
    seed: Seed = 0,
    batch: Annotated[int, typer.Option(min=1, help="Images a forward pass.")] = 16,
    srga: Annotated[bool, typer.Option("--srga/--no-srga", help="The index too.")] = True,
    device: DeviceName = "auto",
    as_json: Json = False,
) -> None:
    """Measure the denoising error along the chain on each domain, and the generalization index."""
    from sr3 import results
    from sr3.checkpoints import find_checkpoint, hash_of
    from sr3.domains import load_domain
    from sr3.evaluate import split_named
    from sr3.gap import GapSettings, measure_gap
    from sr3.pipeline import load
    from sr3.tuning import parse_steps

    domains = [load_domain(name) for name in domain]
    settings = GapSettings(parse_steps(times), split_named(split), images, draws, seed, batch, srga)
    rows: list[dict[str, Any]] = []
    for name in checkpoint:
        digest = hash_of(find_checkpoint(name))
        for found in measure_gap(load(name, device), digest, domains, settings):
            rows += found.rows
            say(f"{name} on {found.domain}: {found.what}")
    results.write(rows, out) if out.suffix == ".parquet" else results.append(rows, out)
    print_summary(rows, as_json)


def drive(run: TrainingRun | FinetuneRun) -> None:
    """Run to the end, or to the first Ctrl-C or SIGTERM, after which the state is saved."""
    with stop_signals() as received:
        records = run.run()
        shown = -EVERY
        for record in records:
            now = time.monotonic()
            if now - shown >= EVERY:
                shown = now
                say(progress_line(record))
            if received:
                records.close()  # saves the state
                say(f"Stopped after update {record.step}; add --resume to continue.")
                raise typer.Exit(128 + received[0])


def progress_line(record: TrainStep) -> str:
    """What a training record looks like on a terminal."""
    return (
        f"update {record.step}  loss {record.loss:.4f}  rate {record.learning_rate:.2g}  "
        f"{record.step / record.seconds:.2f} updates/s  {duration(record.seconds)} done, "
        f"{duration(record.remaining)} left"
    )


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
