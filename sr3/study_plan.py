"""The plan of a study as TOML: what is tuned on what, in which grids, and how it is measured.

    checkpoint = "lite"                        the parent
    source = "aaf+stylegan2-faces"             its domain: replayed, and measured for forgetting
    keep = ["anime images=16 updates=100 range=0:2000 seed=0"]    checkpoints to keep
    [training]                                 what all runs share
    [evaluation.domains]                       test images of each domain that is measured
    [[grid]]                                   every combination of the values in its lists

Invariants: a plan is checked whole when it is made, before any image is read or anything written;
combinations that several grids hold are one run, with the snapshots of all of them.
"""

from __future__ import annotations

import itertools
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from sr3.cells import Cell
from sr3.checkpoints import ROOT, find_checkpoint, name_in_tables
from sr3.config import ModelConfig, SamplerConfig, TrainConfig, check_seed, from_dict, to_dict
from sr3.domains import domain_name
from sr3.errors import ConfigError
from sr3.folder import hash_of, read_config
from sr3.tuning import parse_images, parse_range, tuning_config

PLANS = ROOT / "plans"


@dataclass(frozen=True)
class Training:
    """What all runs share."""

    batch: int = 16
    precision: Literal["float32", "bfloat16"] = "float32"
    save_every: float = 120.0  # seconds between states


@dataclass(frozen=True)
class Tested:
    """A domain that is measured, on so many of its test images."""

    name: str
    images: int


@dataclass(frozen=True)
class Evaluation:
    """How each snapshot is measured; settings that are None are the parent's recommended ones."""

    domains: tuple[Tested, ...]
    samples: int = 1
    seed: int = 0
    batch: int = 8
    sampler: str | None = None
    steps: int | None = None
    start: int | None = None
    spacing: str | None = None
    eta: float | None = None
    consistency: bool | None = None

    @property
    def changes(self) -> dict[str, Any]:
        """The sampling settings that are not the recommended ones."""
        names = ("sampler", "steps", "start", "spacing", "eta", "consistency")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


@dataclass(frozen=True)
class Grid:
    """Every combination of these values is a run, which gives all the snapshots."""

    target: tuple[str, ...]
    images: tuple[str, ...]  # numbers, or all
    snapshots: tuple[int, ...]  # update counts
    range: tuple[str, ...] = ("all",)  # A:B, or all
    seed: tuple[int, ...] = (0,)
    method: tuple[str, ...] = ("full",)
    rank: tuple[int, ...] = (8,)  # lora
    replay: tuple[float, ...] = (0.0,)
    rate: tuple[float, ...] = (0.0,)  # the learning rate; 0: the method's
    start: tuple[Literal["parent", "scratch"], ...] = ("parent",)


@dataclass(frozen=True)
class Run:
    """One fine-tuning of a study: `cell` tells its settings (its updates mean nothing)."""

    cell: Cell
    target: str  # as `load_domain` takes it
    snapshots: tuple[int, ...]


@dataclass(frozen=True)
class StudyPlan:
    """A study, declared. Made by `read_plan`."""

    name: str
    checkpoint: str
    source: str
    training: Training
    evaluation: Evaluation
    grid: tuple[Grid, ...]
    keep: tuple[str, ...] = ()
    device: str = "auto"
    threads: int = 1  # a process on a CPU: fixed, since sums depend on it
    title: str = ""

    def __post_init__(self) -> None:
        odd = [tested for tested in self.evaluation.domains if tested.images < 1]
        if odd or not self.evaluation.domains:
            raise ConfigError("evaluation.domains must name at least one domain, with 1 image.")
        if min(self.evaluation.samples, self.evaluation.batch, self.threads) < 1:
            raise ConfigError("samples, batch and threads must be at least 1.")
        check_seed(self.evaluation.seed)
        if not self.runs:
            raise ConfigError(f"The plan {self.name} has no [[grid]] with a run in it: add one.")
        known = {cell.title.split(" on ", 1)[1] for run in self.runs for cell in self.cells(run)}
        if lost := [title for title in self.keep if title not in known]:
            raise ConfigError(
                f"keep names {lost[0]!r}, which is no cell of this plan; one is {min(known)!r}."
            )
        if self.evaluation.changes:  # as `SuperResolver.settings` checks them, but sooner
            settings = SamplerConfig(**(to_dict(self.model.sampling) | self.evaluation.changes))
            if settings.start > self.model.schedule.steps:
                raise ConfigError(f"start must be within 1..{self.model.schedule.steps}.")

    @cached_property
    def path(self) -> Path:
        """The parent's folder or file. Raises CheckpointError."""
        return find_checkpoint(self.checkpoint)

    @cached_property
    def parent(self) -> str:
        """The parent's name in the table."""
        return name_in_tables(self.checkpoint)

    @cached_property
    def parent_hash(self) -> str:
        """The parent's identity."""
        return hash_of(self.path)

    @cached_property
    def model(self) -> ModelConfig:
        """The parent's settings."""
        return read_config(self.path)

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """What is to be tuned, in the plan's order. Raises ConfigError for a bad setting."""
        runs: dict[Cell, Run] = {}
        for grid in self.grid:
            if not grid.snapshots or min(grid.snapshots) < 1:
                raise ConfigError("snapshots must be update counts of at least 1.")
            values = (grid.target, grid.images, grid.range, grid.seed, grid.method, grid.rank,
                      grid.replay, grid.rate, grid.start)  # fmt: skip
            for combination in itertools.product(*values):
                run = self._run(grid.snapshots, *combination)
                before = runs[run.cell].snapshots if run.cell in runs else ()
                snapshots = tuple(sorted({*before, *run.snapshots}))
                runs[run.cell] = Run(run.cell, run.target, snapshots)
        return tuple(runs.values())

    def _run(
        self, snapshots: tuple[int, ...], target: str, images: str, time_range: str, seed: int,
        method: str, rank: int, replay: float, rate: float, start: str,
    ) -> Run:  # fmt: skip
        if not 0 <= replay < 1:
            raise ConfigError(f"replay must be a fraction in [0, 1); got {replay}.")
        if rank < 1:
            raise ConfigError(f"rank must be at least 1; got {rank}.")
        check_seed(seed)
        if start == "scratch" and method != "full":
            raise ConfigError("A run from scratch tunes every weight: use method full.")
        if start not in ("parent", "scratch"):
            raise ConfigError(f"start must be parent or scratch; got {start!r}.")
        count = parse_images(images)
        if count == 0:
            raise ConfigError("images must be at least 1, or all.")
        parsed = None if time_range == "all" else parse_range(time_range)
        training = self.settings(method, parsed, max(snapshots), seed, rate)
        cell = Cell(
            self.parent, domain_name(target), count, 0, training.range, seed,
            rank if method == "lora" else None, replay, rate or None, start == "scratch",
        )  # fmt: skip
        return Run(cell.with_digest(self._identity(cell, training)), target, snapshots)

    def settings(
        self, method: str, time_range: tuple[int, int] | None, steps: int, seed: int, rate: float
    ) -> TrainConfig:
        """How a run is trained. Raises ConfigError."""
        return tuning_config(
            self.model, method, time_range, steps=steps, seed=seed, batch=self.training.batch,
            precision=self.training.precision, learning_rate=rate or None,
        )  # fmt: skip

    def _identity(self, cell: Cell, training: TrainConfig) -> dict[str, Any]:
        """All that decides the numbers of a run's cells, JSON-ready."""
        settings = {name: v for name, v in to_dict(training).items() if name != "steps"}
        sampling = to_dict(self.model.sampling) | self.evaluation.changes
        return {
            "parent": self.parent_hash, "cell": cell.title, "training": settings,
            "source": domain_name(self.source) if cell.replay else None,
            "sampling": sampling, "samples": self.evaluation.samples,
            "sampling_seed": self.evaluation.seed,
        }  # fmt: skip

    def cells(self, run: Run) -> tuple[Cell, ...]:
        """A run's snapshots."""
        return tuple(run.cell.after(updates) for updates in run.snapshots)

    def kept(self, cell: Cell) -> bool:
        """Whether the checkpoint of a cell stays after it was measured."""
        return cell.title.split(" on ", 1)[1] in self.keep


def read_plan(name: str) -> StudyPlan:
    """A plan of `checkpoints/plans/` by name, or a TOML file. Raises SR3Error, in one sentence."""
    path = PLANS / f"{name}.toml"
    if not path.exists():
        path = Path(name)
    try:
        values = tomllib.loads(path.read_text())
    except (FileNotFoundError, IsADirectoryError) as error:
        known = ", ".join(sorted(file.stem for file in PLANS.glob("*.toml")))
        raise ConfigError(
            f"There is no plan {name!r}: give a TOML file, or one of {known or '(none)'}."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from error
    return from_dict(StudyPlan, _as_fields(values, path.stem))


def _as_fields(values: dict[str, Any], name: str) -> dict[str, Any]:
    """A plan as written -> as the dataclasses have it: a lone value is a list of one."""
    values = {"name": name, "training": {}} | values
    evaluation = values.get("evaluation")
    if isinstance(evaluation, dict) and isinstance(evaluation.get("domains"), dict):
        tested = [{"name": name, "images": count} for name, count in evaluation["domains"].items()]
        values["evaluation"] = evaluation | {"domains": tested}
    if isinstance(grids := values.get("grid"), list):
        values["grid"] = [_as_lists(grid) if isinstance(grid, dict) else grid for grid in grids]
    return values


def _as_lists(grid: dict[str, Any]) -> dict[str, Any]:
    lists = {key: value if isinstance(value, list) else [value] for key, value in grid.items()}
    if "images" in lists:  # numbers, or all
        lists["images"] = [str(value) for value in lists["images"]]
    return lists
