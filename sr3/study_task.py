"""One task of a study: a fine-tuning run whose snapshots are measured, or the parent measured.

Invariants: what is done depends on the plan and on what lies in the folders alone, so that a task
that was killed is done again by the same call; a snapshot's rows on a domain are one part of the
table, and a run's state is removed before its snapshots are.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from sr3 import results
from sr3.cards import NON_COMMERCIAL, make_card
from sr3.checkpoints import load_checkpoint
from sr3.devices import exact, pick_device
from sr3.domains import Domain, domain_name, load_domain
from sr3.evaluate import BASELINES, evaluate
from sr3.finetune import FinetuneRun
from sr3.folder import hash_of, save_checkpoint
from sr3.metrics import Scorer
from sr3.pipeline import SuperResolver
from sr3.run_folder import STATE
from sr3.study_plan import Run, StudyPlan, Tested
from sr3.train import read_state
from sr3.training_run import new_network
from sr3.tuning import FinetunePlan

Report = Callable[[str], None]
EVERY = 30.0  # seconds between two lines of progress of a run


@dataclass(frozen=True)
class Workplace:
    """A plan, the folder of its table, and a folder for the runs under way and what is kept."""

    plan: StudyPlan
    table: Path
    work: Path

    def folder(self, run: Run) -> Path:
        """Where a run is under way, and what is kept of it."""
        return self.work / run.cell.digest


@dataclass(frozen=True)
class Task:
    """What one process does at a time: a run's cells that are not in the table."""

    run: Run | None  # None: the parent itself, and the baselines
    pending: tuple[tuple[int, Tested], ...]  # (updates, domain)

    @property
    def title(self) -> str:
        """For a line of progress."""
        return self.run.cell.title.replace("updates=0 ", "") if self.run else "the parent"


def perform(place: Workplace, task: Task, report: Report) -> None:
    """Make the cells of a task, in this process. Raises SR3Error."""
    plan, run = place.plan, task.run
    if run is None:
        for _, tested in task.pending:
            _measure(place, plan.path, plan.parent, tested, BASELINES)
        return
    folder = place.folder(run)
    _tune(place, run, sorted({updates for updates, _ in task.pending}), report)
    for updates, tested in task.pending:
        cell = run.cell.after(updates)
        report(f"{cell.title}: measuring on {domain_name(tested.name)}")
        _measure(place, _snapshot(folder, updates), str(cell), tested, ())
    _tidy(folder, {cell.updates for cell in plan.cells(run) if plan.kept(cell)})


def _tune(place: Workplace, run: Run, snapshots: Sequence[int], report: Report) -> None:
    """Make the snapshots that are not there."""
    plan, cell, folder = place.plan, run.cell, place.folder(run)
    missing = tuple(s for s in snapshots if not _snapshot(folder, s).exists())
    if not missing:
        return
    state = folder / STATE
    if state.exists() and read_state(state, mapped=True)["step"] > missing[0]:
        state.unlink()  # past a snapshot whose rows were deleted: again from the start
    parent = _untrained(place, run) if cell.scratch else plan.checkpoint
    method = "lora" if cell.lora else "full"
    tuned = FinetunePlan(
        parent, domain_of(run.target), cell.images,
        plan.settings(method, cell.range, missing[-1], cell.seed, cell.rate or 0.0), folder, method,
        cell.lora or 8, cell.replay, domain_of(plan.source) if cell.replay else None, plan.device,
        missing, evaluation_images=0, save_every=plan.training.save_every,
    )  # fmt: skip
    shown = time.monotonic()
    for record in FinetuneRun(tuned, resume=True).run():
        if time.monotonic() - shown >= EVERY:
            shown = time.monotonic()
            report(f"{cell.title}: update {record.step} of {missing[-1]}")


def _untrained(place: Workplace, run: Run) -> str:
    """A checkpoint with the parent's architecture and new weights, of the run's seed."""
    path = place.folder(run) / "untrained"
    if not path.exists():
        model, seed = place.plan.model, run.cell.seed
        card = make_card(f"Untrained, seed {seed}", "New weights.", {}, NON_COMMERCIAL)
        weights = new_network(model, seed).state_dict()
        save_checkpoint(path, model, weights, card, torch.float32)
    return str(path)


def _measure(
    place: Workplace, path: Path, name: str, tested: Tested, baselines: Sequence[str]
) -> None:
    """Measure a checkpoint on a domain; its rows are one part of the table."""
    plan = place.plan.evaluation
    config, network = load_checkpoint(path)
    model = SuperResolver(network, config, exact(pick_device(place.plan.device)), name)
    rows = [
        row
        for progress in evaluate(
            model, domain_of(tested.name), hash_of(path), images=tested_images(tested),
            samples=plan.samples, seed=plan.seed, batch=plan.batch, baselines=baselines,
            scorer=scorer(), **plan.changes,
        )
        for row in progress.rows
    ]  # fmt: skip
    results.append(rows, place.table)


def _snapshot(folder: Path, updates: int) -> Path:
    return folder / f"step-{updates:06}"


def _tidy(folder: Path, kept: set[int]) -> None:
    """Remove a run that was measured, but for what is kept of it."""
    (folder / STATE).unlink(missing_ok=True)  # first: a state never outlives its snapshots
    if not kept:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for path in folder.glob("step-*"):
        if path not in {_snapshot(folder, updates) for updates in kept}:
            dropped = path.rename(path.with_name(f"dropped-{path.name}"))  # never half a snapshot
            shutil.rmtree(dropped, ignore_errors=True)


@lru_cache(maxsize=8)
def domain_of(name: str) -> Domain:
    """A domain by its name, listed once a process."""
    return load_domain(name)


@lru_cache(maxsize=1)
def scorer() -> Scorer:
    """The metrics, LPIPS among them where it can be loaded; made once a process."""
    return Scorer.load()


def lpips_reason() -> str:
    """Why LPIPS cannot be measured here; "" where it can."""
    return scorer().lpips_reason


def tested_images(tested: Tested) -> int | None:
    """How many test images; None for all, so that the list has the order that `evaluate` gives."""
    domain = domain_of(tested.name)
    return None if len(domain.subset("test", tested.images)) == len(domain.test) else tested.images
