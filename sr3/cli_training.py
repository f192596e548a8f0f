"""The commands that train: `train`, `distil`, `finetune` and `study`."""

from __future__ import annotations

import dataclasses
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sr3.errors import ConfigError, TrainingError
from sr3.terminal import (
    EVERY,
    DeviceName,
    Json,
    Seed,
    duration,
    print_json,
    say,
    stop_signals,
)

if TYPE_CHECKING:
    from sr3.config import TrainConfig
    from sr3.finetune import FinetuneRun
    from sr3.train import TrainStep
    from sr3.training_run import TrainingRun

Precision = Annotated[
    str, typer.Option(help="float32, bfloat16, or auto: the one measured faster on the device.")
]


# ---------------------------------------------------------------------------------------- train
def train(
    domain: Annotated[str, typer.Option(help="Name, folder, zip or LMDB; several joined by +.")],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    preset: Annotated[str, typer.Option(help="Network and how it is trained.")] = "lite",
    steps: Annotated[int | None, typer.Option(help="Updates to run.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Or training time.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in OUT, if there is one.")
    ] = False,
    batch: Annotated[int | None, typer.Option(help="Images per update.")] = None,
    seed: Seed = 0,
    device: DeviceName = "auto",
    precision: Precision = "auto",
    learning_rate: Annotated[float | None, typer.Option(help="Highest rate.")] = None,
    init: Annotated[str | None, typer.Option(help="Checkpoint to begin from.")] = None,
    save_every: Annotated[float, typer.Option(help="Seconds between saved states.")] = 180.0,
    validate_every: Annotated[float, typer.Option(help="Seconds between validations.")] = 600.0,
) -> None:
    """Train a network; OUT gets the logs, sample sheets, state and checkpoint."""
    from sr3.domains import load_domain
    from sr3.presets import preset as find_preset
    from sr3.training_run import Plan, TrainingRun

    model, training = find_preset(preset)
    precision = _resolved(precision, device, out if resume else None)
    training = _changed(training, steps, minutes, batch, precision, learning_rate, seed)
    plan = Plan(preset, model, training, load_domain(domain), out, device, init,
                save_every, validate_every)  # fmt: skip
    say(f"Reading {len(plan.domain.train)} training images of {plan.domain.title} ...")
    drive(TrainingRun(plan, resume=resume))
    say(f"The checkpoint is in {out / 'checkpoint'}.")


# --------------------------------------------------------------------------------------- distil
def distil(
    domain: Annotated[str, typer.Option(help="Name, folder, zip or LMDB; several joined by +.")],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    checkpoint: Annotated[str, typer.Option(help="The teacher: name or folder.")] = "lite",
    evaluations: Annotated[
        int, typer.Option(min=1, help="The student's network evaluations per image.")
    ] = 4,
    start: Annotated[int | None, typer.Option(help="First time step; else the teacher's.")] = None,
    end: Annotated[int, typer.Option(help="The student's last time step.")] = 20,
    substeps: Annotated[
        int, typer.Option(min=1, help="Teacher's steps per step of the student.")
    ] = 3,
    steps: Annotated[int | None, typer.Option(help="Updates to run.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Or training time.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in OUT.")] = False,
    batch: Annotated[int | None, typer.Option(help="Chains per update.")] = None,
    seed: Seed = 0,
    device: DeviceName = "auto",
    precision: Annotated[str | None, typer.Option(help="float32 or bfloat16.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Highest rate.")] = None,
    save_every: Annotated[float, typer.Option(help="Seconds between saved states.")] = 180.0,
    validate_every: Annotated[float, typer.Option(help="Seconds between validations.")] = 600.0,
) -> None:
    """Distil a checkpoint: a copy that goes the same chain in a few long steps."""
    from sr3.checkpoints import find_checkpoint
    from sr3.distil import TRAINING, student_of
    from sr3.domains import load_domain
    from sr3.folder import read_config
    from sr3.training_run import Plan, TrainingRun

    teacher = read_config(find_checkpoint(checkpoint))
    model = student_of(teacher, evaluations, start or teacher.sampling.start, end)
    training = _changed(TRAINING, steps, minutes, batch, precision, learning_rate, seed)
    plan = Plan(checkpoint, model, training, load_domain(domain), out, device, checkpoint,
                save_every, validate_every, substeps=substeps)  # fmt: skip
    say(f"Reading {len(plan.domain.train)} training images of {plan.domain.title} ...")
    drive(TrainingRun(plan, resume=resume))
    say(f"The checkpoint is in {out / 'checkpoint'}.")


def _resolved(precision: str, device: str, begun: Path | None) -> str:
    """What `auto` comes to: the precision of the run in the folder `begun`, if there is one, else
    that in which every process's device is fast. Other names are left as they are."""
    from sr3.devices import pick_device
    from sr3.parallel import join
    from sr3.run_folder import RunFolder
    from sr3.train import PRECISIONS

    if precision != "auto":
        return precision
    if begun is not None and (own := RunFolder(begun).precision()):
        return own
    team = join(device)
    fast = pick_device(team.device(device)).precision
    found = "float32" if team.any(fast != PRECISIONS["bfloat16"]) else "bfloat16"
    say(f"Training in {found}, which is fast here; --precision chooses another.")
    return found


def _changed(
    training: TrainConfig,
    steps: int | None,
    minutes: float | None,
    batch: int | None,
    precision: str | None,
    learning_rate: float | None,
    seed: int,
) -> TrainConfig:
    if steps is not None and minutes is not None:
        raise ConfigError("Give either --steps or --minutes, and not both.")
    given = {"batch": batch, "precision": precision, "learning_rate": learning_rate, "seed": seed}
    changes: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    if steps is not None or minutes is not None:  # else the default length
        changes |= {"steps": steps, "minutes": minutes}
    return dataclasses.replace(training, **changes)


# ------------------------------------------------------------------------------------- finetune
def finetune(
    checkpoint: Annotated[str, typer.Option(help="The parent: name, folder or public file.")],
    domain: Annotated[str, typer.Option(help="Name, folder, zip or LMDB of the new faces.")],
    images: Annotated[str, typer.Option(help="How many of its training images, or all.")],
    steps: Annotated[int, typer.Option(min=1, help="Updates to run.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; snapshots are OUT/step-000100.")],
    time_range: Annotated[
        str | None, typer.Option("--range", help="Time steps A:B; levels in (A, B] alone.")
    ] = None,
    method: Annotated[str, typer.Option(help="full or lora.")] = "full",
    rank: Annotated[
        int | None, typer.Option(min=1, help="Rank of the change (lora); else 8.")
    ] = None,
    replay: Annotated[float, typer.Option(help="Share of source images in each batch.")] = 0.0,
    replay_domain: Annotated[
        str | None, typer.Option(help="The source: replayed, and watched for forgetting.")
    ] = None,
    seed: Seed = 0,
    learning_rate: Annotated[float | None, typer.Option(help="Constant rate.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images per update.")] = None,
    precision: Precision = "auto",
    snapshots: Annotated[str, typer.Option(help="Updates to keep too, such as 10,30,100.")] = "",
    evaluate_every: Annotated[
        int | None, typer.Option(help="Updates between evaluations; else at snapshots.")
    ] = None,
    evaluation_images: Annotated[int, typer.Option(help="Of each domain's validation split.")] = 16,
    save_every: Annotated[float, typer.Option(help="Seconds between saved states.")] = 120.0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in OUT.")] = False,
    device: DeviceName = "auto",
) -> None:
    """Fine-tune a copy of a checkpoint on few images; the parent stays as it is."""
    from sr3.checkpoints import find_checkpoint
    from sr3.domains import load_domain
    from sr3.finetune import FinetuneRun
    from sr3.folder import read_config
    from sr3.tuning import FinetunePlan, parse_images, parse_range, parse_steps, tuning_config

    if rank is not None and method != "lora":
        raise ConfigError("--rank is of --method lora alone: leave one out or give both.")
    model = read_config(find_checkpoint(checkpoint))
    precision = _resolved(precision, device, out if resume else None)
    training = tuning_config(
        model, method, parse_range(time_range), steps=steps, batch=batch, seed=seed,
        learning_rate=learning_rate, precision=precision,
    )  # fmt: skip
    source = load_domain(replay_domain) if replay_domain else None
    plan = FinetunePlan(
        checkpoint, load_domain(domain), parse_images(images), training, out, method, rank or 8,
        replay, source, device, parse_steps(snapshots), evaluate_every, evaluation_images,
        save_every,
    )  # fmt: skip
    say(f"Reading {len(plan.entries)} images of {plan.domain.title} ...")
    drive(FinetuneRun(plan, resume=resume))
    say(f"The checkpoint is in {plan.folder(steps)}.")


# ---------------------------------------------------------------------------------------- study
def study(
    plan: Annotated[
        str, typer.Option(help="Name in checkpoints/plans, or a TOML file.")
    ] = "poster",
    out: Annotated[
        Path | None, typer.Option(help="Folder of the table; else checkpoints/metrics.")
    ] = None,
    work: Annotated[
        Path, typer.Option(help="Folder of the runs under way and of what is kept.")
    ] = Path("runs/study"),
    workers: Annotated[int, typer.Option(min=1, help="Processes; the numbers are the same.")] = 1,
    ray: Annotated[
        str | None, typer.Option(help="Or a Ray cluster: auto, host:port, or local to start one.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue what was begun.")] = False,
    as_json: Json = False,
) -> None:
    """Run a plan: fine-tune, measure every snapshot on every domain, and tell the answers.

    What the table holds already is not done again; --plan NAME --resume on a complete one does
    nothing.
    """
    from sr3 import answers, results
    from sr3.checkpoints import ROOT
    from sr3.domains import domain_name
    from sr3.study import Study
    from sr3.study_plan import read_plan
    from sr3.study_task import lpips_reason

    if ray is not None and workers > 1:
        raise ConfigError("Give either --workers or --ray, and not both.")
    table = out or ROOT / "metrics"
    if table.suffix == ".parquet" or table.is_file():
        raise ConfigError(f"The table of a study is a folder of parts, not {table}: name one.")
    made = Study(read_plan(plan), table, work)
    tasks = made.tasks()
    missing = sum(len(task.pending) for task in tasks)
    if not tasks:
        say(f"All {made.total} cells of {made.plan.name} are in {made.table}: nothing to do.")
    elif made.begun() and not resume:
        raise TrainingError(
            f"{made.total - missing} of {made.total} cells of {made.plan.name} are done, and runs "
            "may be under way: add --resume to continue, or choose other folders."
        )
    else:
        say(f"{missing} of {made.total} cells of {made.plan.name} are to be measured.")
        made.check(tasks)
        if reason := lpips_reason():
            say(reason)
    if lacking := made.without_lpips():
        again = "it cannot be measured here" if lpips_reason() else "they are measured again"
        say(f"{lacking} of the cells in the table lack LPIPS: {again}.")
    for finished in made.run(tasks, workers, say, ray):
        left = finished.seconds * (finished.total - finished.done) / finished.done
        say(
            f"{finished.done} of {finished.total} cells, about {duration(left)} left: "
            f"{finished.task.title}"
        )
    told = answers.answer_all(
        results.read(made.table), made.plan.parent, domain_name(made.plan.source)
    )
    if as_json:
        print_json({
            "plan": made.plan.name, "table": str(made.table), "cells": made.total,
            "measured": missing, "answers": [answer.sentence for answer in told],
        })  # fmt: skip
        return
    for answer in told:
        typer.echo(answer.sentence)


def drive(run: TrainingRun | FinetuneRun) -> None:
    """Run to the end, or to the first Ctrl-C or SIGTERM, after which the state is saved."""
    with stop_signals() as received:
        records, team = run.run(), run.team
        shown = -EVERY
        for record in records:
            now = time.monotonic()
            if team.writes and now - shown >= EVERY:
                shown = now
                say(progress_line(record))
            if team.any(bool(received)):  # all processes of a team stop after the same update
                records.close()  # saves the state
                if team.writes:
                    say(f"Stopped after update {record.step}; add --resume to continue.")
                raise typer.Exit(128 + (received or [signal.SIGTERM])[0])
        team.leave()


def progress_line(record: TrainStep) -> str:
    """What a training record looks like on a terminal."""
    return (
        f"update {record.step}  loss {record.loss:.4f}  rate {record.learning_rate:.2g}  "
        f"{record.step / record.seconds:.2f} updates/s  {duration(record.seconds)} done, "
        f"{duration(record.remaining)} left"
    )
