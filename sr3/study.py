"""A study: every run of a plan, each snapshot measured on each domain, as rows of the one table.

A cell (a snapshot on a domain) is written as one part of the table, by one rename: its rows are
its own mark of being done. So a study that is killed goes on where it was, a complete one has
nothing to do, and a cell whose rows are deleted is made again.

Invariants: a cell's numbers depend on the plan alone, not on the number of processes or on what
was interrupted: on a CPU it is measured in float32 with a fixed number of threads, and a run cut
short ends with the very weights of one that was not. A process dies with the study.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from sr3 import results, study_task
from sr3.cells import Cell
from sr3.cluster import Cluster, joined
from sr3.config import SamplerConfig
from sr3.domains import Entry, domain_name, list_hash, load_pixels
from sr3.errors import DomainError, SR3Error, TrainingError
from sr3.evaluate import bicubic_hash, image_names, sampler_label
from sr3.metrics import SMALLEST
from sr3.study_plan import StudyPlan, Tested
from sr3.study_task import Report, Task, Workplace, perform
from sr3.tuning import replayed

BARE = ("psnr",)  # what every measured image has a row of
SCORED = ("psnr", "lpips")


@dataclass(frozen=True)
class Finished:
    """A task whose cells are in the table, and how far the study is."""

    task: Task
    done: int  # cells, of those that were missing at the start
    total: int
    seconds: float


class Study(Workplace):
    """The tasks of a plan, and what does them."""

    # -------------------------------------------------------------------------------- what is left
    @property
    def total(self) -> int:
        """How many cells the plan has, the parent's among them."""
        snapshots = 1 + sum(len(run.snapshots) for run in self.plan.runs)
        return snapshots * len(self.plan.evaluation.domains)

    def tasks(self) -> tuple[Task, ...]:
        """What is not in the table, in the plan's order. Reads no image, and lists those of a
        domain only while no cell was measured on it.

        A cell that lacks LPIPS is to be measured again where LPIPS can be measured, and so is the
        parent where its rows are of other images: of another split, or of a folder that changed.
        """
        table = results.read(self.table)
        scored, bare = self._missing(table, self._scored), self._missing(table, BARE)
        return bare if scored == bare or study_task.lpips_reason() else scored

    def without_lpips(self) -> int:
        """How many cells are in the table but for their LPIPS."""
        table = results.read(self.table)
        scored, bare = (
            sum(len(task.pending) for task in self._missing(table, metrics))
            for metrics in (self._scored, BARE)
        )
        return scored - bare

    @property
    def _scored(self) -> tuple[str, ...]:
        """The metrics of a whole cell; LPIPS is not of the smallest images."""
        return SCORED if self.plan.model.network.high_res >= SMALLEST else BARE

    def _missing(self, table: pd.DataFrame, metrics: Sequence[str]) -> tuple[Task, ...]:
        """What a table does not hold with all of some metrics."""
        known = _Known(self.plan, table, metrics)
        domains = self.plan.evaluation.domains
        found = [Task(None, tuple((0, each) for each in domains if not known.parent(each)))]
        for run in self.plan.runs:
            missing = [
                (cell.updates, each)
                for cell in self.plan.cells(run)
                for each in domains
                if not known.cell(cell, each)
            ]
            found.append(Task(run, tuple(missing)))
        return tuple(task for task in found if task.pending)

    def begun(self) -> bool:
        """Whether a run of this plan is in the table or under way."""
        names = {str(cell) for run in self.plan.runs for cell in self.plan.cells(run)}
        return bool(names & set(results.read(self.table)["checkpoint"])) or any(
            self.folder(run).exists() for run in self.plan.runs
        )

    def check(self, tasks: Sequence[Task]) -> None:
        """Read the images that the tasks need. Raises DomainError and TrainingError for too few of
        them, one that cannot be read, and a domain that is not the one in the table; SR3Error for
        a table that cannot be written."""
        results.check_place(self.table)
        table, size = results.read(self.table), self.plan.model.network.high_res
        for tested in {tested for task in tasks for _, tested in task.pending}:
            chosen = _tested(tested)
            load_pixels(chosen, size)
            if set(table.loc[self._ours(table, tested), "file_list_hash"]) - {list_hash(chosen)}:
                raise DomainError(
                    f"{tested.name} is not the list of images that the table in {self.table} was "
                    "measured on: bring that one, or choose another table."
                )
        read: set[str] = set()
        for run in (task.run for task in tasks if task.run):
            chosen = study_task.domain_of(run.target).subset(
                "train", run.cell.images, run.cell.seed
            )
            load_pixels(tuple(entry for entry in chosen if entry.sha256 not in read), size)
            read |= {entry.sha256 for entry in chosen}
            if not chosen:
                raise TrainingError(f"{run.target} has no training images: choose another target.")
            if run.cell.replay:
                again = replayed(study_task.domain_of(self.plan.source), run.cell.seed)
                load_pixels(tuple(entry for entry in again if entry.sha256 not in read), size)
                read |= {entry.sha256 for entry in again}

    def _ours(self, table: pd.DataFrame, tested: Tested) -> pd.Series[bool]:
        """The rows of this plan's cells on a domain; the gap along the chain, measured under a
        cell's name on as many images as one likes, is not the study's."""
        names = {str(cell) for run in self.plan.runs for cell in self.plan.cells(run)}
        here = table["checkpoint"].isin(names) & (table["domain"] == domain_name(tested.name))
        return here & table["metric"].isin(SCORED)

    # ------------------------------------------------------------------------------------- the work
    def run(
        self, tasks: Sequence[Task], workers: int, report: Report, ray: str | None = None
    ) -> Iterator[Finished]:
        """Do the tasks in `workers` processes, or in the cluster at `ray` (`sr3.cluster`); a line
        of progress now and then goes to `report` (of one process; several write theirs to
        standard error). Raises SR3Error."""
        if not tasks:
            return
        began, done = time.monotonic(), 0
        total = sum(len(task.pending) for task in tasks)
        with self._cluster(ray) as cluster, _alone(self.work):
            on_ray = self._on(cluster, tasks) if cluster else None
            for task in on_ray or self._each(tasks, workers, report):
                done += len(task.pending)
                yield Finished(task, done, total, time.monotonic() - began)
            results.compact(self.table)

    def _each(self, tasks: Sequence[Task], workers: int, report: Report) -> Iterator[Task]:
        if workers == 1:
            for task in tasks:
                with _threads(self.plan.threads):
                    perform(self, task, report)
                yield task
            return
        context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads' locks
        pool = ProcessPoolExecutor(workers, context, _start, (self.plan.threads,))
        try:
            futures = {pool.submit(perform, self, task, _to_stderr): task for task in tasks}
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        except BrokenProcessPool as error:
            raise TrainingError(
                "A process of the study died (out of memory?): use fewer --workers and --resume."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)

    @contextmanager
    def _cluster(self, address: str | None) -> Iterator[Cluster | None]:
        if address is None:
            yield None
            return
        gpu = {"cpu": False, "auto": None}.get(self.plan.device, True)
        with joined(address, threads=self.plan.threads, gpu=gpu) as cluster:
            yield cluster

    def _on(self, cluster: Cluster, tasks: Sequence[Task]) -> Iterator[Task]:
        for index in cluster.fan_out(perform, [(self, task, _to_stderr) for task in tasks]):
            yield tasks[index]


class _Known:
    """Which cells a table holds whole, with all of some metrics."""

    def __init__(self, plan: StudyPlan, table: pd.DataFrame, metrics: Sequence[str]) -> None:
        self.plan = plan
        recommended = plan.model.sampling
        settings: SamplerConfig = dataclasses.replace(recommended, **plan.evaluation.changes)
        self.sampling = sampler_label(settings, recommended), settings.steps
        first = plan.evaluation.seed
        self.seeds = range(first, first + plan.evaluation.samples)
        columns = ["checkpoint", "domain", "sampler", "steps", "checkpoint_hash", "seed"]
        rows = table[table["metric"].isin(metrics)]
        counts = rows.groupby([*columns, "image"])["metric"].nunique()
        complete = counts[counts == len(metrics)].reset_index()
        self.images: dict[Any, set[str]] = {
            key: set(images) for key, images in complete.groupby(columns)["image"]
        }
        self.hashes: dict[str, set[str]] = {}
        for name, digest in set(zip(rows["checkpoint"], rows["checkpoint_hash"], strict=True)):
            self.hashes.setdefault(name, set()).add(digest)

    def _measured(
        self, name: str, digest: str, tested: Tested, sampling: tuple[str, int], seed: int
    ) -> set[str]:
        """The images with all metrics."""
        key = (name, domain_name(tested.name), *sampling, digest, seed)
        return self.images.get(key, set())

    def cell(self, cell: Cell, tested: Tested) -> bool:
        """Whether a tuned checkpoint was measured on a domain."""
        return any(
            all(
                len(self._measured(str(cell), digest, tested, self.sampling, seed)) >= tested.images
                for seed in self.seeds
            )
            for digest in self.hashes.get(str(cell), ())
        )

    def parent(self, tested: Tested) -> bool:
        """Whether the parent and the baselines were, on the images of the cells."""
        plan, digest, first = self.plan, self.plan.parent_hash, self.seeds[0]
        wanted = self._wanted(tested)
        network = plan.model.network
        enlargement = bicubic_hash(network.low_res, network.high_res)
        needed = [
            *((plan.parent, digest, tested, self.sampling, seed) for seed in self.seeds),
            ("bicubic", enlargement, tested, ("none", 0), 0),
            ("regression", digest, tested, ("regression", 1), first),
        ]
        found = [self._measured(*each) for each in needed]
        return all(len(images) >= tested.images and images >= wanted for images in found)

    def _wanted(self, tested: Tested) -> set[str]:
        """The test images that cells were measured on; before any was, those that are here."""
        ours = [
            self._measured(str(cell), digest, tested, self.sampling, seed)
            for run in self.plan.runs
            for cell in self.plan.cells(run)
            for digest in self.hashes.get(str(cell), ())
            for seed in self.seeds
        ]
        if found := set().union(*ours):
            return found
        try:
            return set(image_names(study_task.domain_of(tested.name), _tested(tested)))
        except SR3Error:  # its images are not here
            return set()


def _tested(tested: Tested) -> tuple[Entry, ...]:
    """The images that a domain's cells are measured on."""
    return study_task.domain_of(tested.name).subset("test", study_task.tested_images(tested))


# --------------------------------------------------------------------------------------- processes
def _start(threads: int) -> None:
    """What a process of the study does first."""
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def die_with_it() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=die_with_it, daemon=True).start()


def _to_stderr(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Hold the folder of runs; freed by the system when the process dies. Raises TrainingError."""
    try:
        import fcntl
    except ImportError:  # not a POSIX system: nothing holds the folder
        yield
        return
    try:
        work.mkdir(parents=True, exist_ok=True)
        lock = (work / ".lock").open("w")
    except OSError as error:
        raise TrainingError(f"{work} cannot be written: {error.strerror}.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise TrainingError(
                f"Another study is at work in {work}: wait for it, or choose another --work."
            ) from error
        yield
