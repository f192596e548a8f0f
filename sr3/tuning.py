"""What a fine-tuning is: the parent, the images, the updates, and the settings that suit them.

Invariants: the images of one seed are nested (the 16 of "16" are among the 64 of "64"); settings
that cannot work are refused when a plan is made, before anything is written.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sr3.checkpoints import as_parent, find_checkpoint
from sr3.combine import Recipe
from sr3.config import ModelConfig, TrainConfig, to_dict
from sr3.domains import Domain, Entry, list_hash
from sr3.errors import ConfigError, TrainingError
from sr3.folder import read_config

# AdamW's rate by method: the best LPIPS on 32 validation images of anime faces after 100 updates of
# 8 of the embedded checkpoint, of 1e-4, 3e-4 and 1e-3 (full; at 30 too) and 1e-3 and 3e-3 (lora).
LEARNING_RATES: Mapping[str, float] = {"full": 3e-4, "lora": 3e-3}
WARMUP = 10  # updates
REPLAY_IMAGES = 2048  # of the source domain at most, so that reading them takes seconds


def tuning_config(
    model: ModelConfig,
    method: str,
    time_range: tuple[int, int] | None = None,
    **changes: Any,
) -> TrainConfig:
    """How a model is fine-tuned unless told otherwise (`changes`; None: not changed).

    Noise levels are drawn as its kind of network was trained, cut to `time_range` (A, B] (None:
    all). In float32, which is quick on any device, as bfloat16 is on some alone. Raises
    ConfigError, also for a range that leaves the schedule.
    """
    if method not in LEARNING_RATES:
        raise ConfigError(f"method must be one of {', '.join(LEARNING_RATES)}; got {method!r}.")
    last = model.schedule.steps
    time_range = time_range or (0, last)
    if time_range[1] > last:
        raise ConfigError(
            f"The range {time_range[0]}:{time_range[1]} leaves the schedule, whose time steps "
            f"are 1 to {last}: give A:B with 0 <= A < B <= {last}."
        )
    settings: dict[str, Any] = {
        "learning_rate": LEARNING_RATES[method], "warmup": WARMUP, "decay": 0.0, "loss": "l1",
        "levels": "uniform" if model.prediction in ("eps", "v") else "focused",
        "range": time_range, "precision": "float32",
    }  # fmt: skip
    settings |= {name: value for name, value in changes.items() if value is not None}
    return TrainConfig(**settings)


def replayed(source: Domain, seed: int) -> tuple[Entry, ...]:
    """The training images of a source that are shown again, at most REPLAY_IMAGES. Raises
    TrainingError for none."""
    if not source.train:
        raise TrainingError(f"{source.name} has no training images to replay.")
    return source.subset("train", min(len(source.train), REPLAY_IMAGES), seed)


@dataclass(frozen=True)
class FinetunePlan:
    """What is tuned on what. `out` and the fields from `device` on may differ on resuming, and so
    may the number of updates; all else must agree."""

    checkpoint: str  # the parent
    domain: Domain
    images: int | None  # of its training split, the same for one seed, nested; None: all
    training: TrainConfig
    out: Path
    method: str = "full"  # or "lora"
    rank: int = 8  # lora
    replay: float = 0.0  # the share of source images in each batch
    source: Domain | None = None  # the parent's own domain: replayed, and watched for forgetting
    device: str = "auto"
    snapshots: tuple[int, ...] = ()  # update counts; the last update always is one
    evaluate_every: int | None = None  # updates; None: at snapshots alone
    evaluation_images: int = 16  # of each domain's validation split
    save_every: float = 120.0  # seconds between states

    def __post_init__(self) -> None:
        steps = self.training.steps
        if steps is None or self.training.decay != 0:
            raise ConfigError("Fine-tuning needs a number of steps and a constant learning rate.")
        if not 0 <= self.replay < 1:
            raise ConfigError(f"replay must be a fraction in [0, 1); got {self.replay}.")
        if self.replay > 0 and self.source is None:
            raise ConfigError("Replay needs the domain whose images are shown again: name it.")
        if odd := [step for step in self.snapshots if not 1 <= step <= steps]:
            raise ConfigError(f"snapshots must lie in 1..{steps}, the updates; got {odd[0]}.")
        if self.evaluate_every is not None and self.evaluate_every < 1:
            raise ConfigError(f"evaluate_every must be at least 1; got {self.evaluate_every}.")
        if self.evaluation_images < 0:
            raise ConfigError(f"evaluation_images must not be negative: {self.evaluation_images}.")

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """The images tuned on. Raises DomainError for too few."""
        entries = self.domain.subset("train", self.images, self.training.seed)
        if not entries:
            raise TrainingError(
                f"{self.domain.name} has no training images: choose another domain."
            )
        return entries

    @cached_property
    def replayed(self) -> tuple[Entry, ...]:
        """The source images shown again, at most REPLAY_IMAGES. Raises TrainingError for none."""
        if not self.replay or self.source is None:
            return ()
        return replayed(self.source, self.training.seed)

    @cached_property
    def recipe(self) -> Recipe:
        """What the snapshots are: changes of the parent."""
        path = find_checkpoint(self.checkpoint)
        parent = as_parent(self.checkpoint, self.folder(0))
        return Recipe("delta", (parent,), model=read_config(path))

    def folder(self, step: int) -> Path:
        """Where the snapshot of an update count is."""
        return self.out / f"step-{step:06}"

    @property
    def milestones(self) -> frozenset[int]:
        """The update counts that are kept."""
        assert self.training.steps is not None
        return frozenset(self.snapshots) | {self.training.steps}

    @property
    def identity(self) -> dict[str, Any]:
        """`run.json`: what a folder's state belongs to, JSON-ready."""
        training = to_dict(dataclasses.replace(self.training, steps=1))
        values = {
            "parent": self.recipe.parents[0].sha256,
            "domain": self.domain.name,
            "images": len(self.entries),
            "file_list_hash": list_hash(self.entries),
            "method": self.method,
            "rank": self.rank if self.method == "lora" else None,
            "replay": self.replay,
            "replay_list_hash": list_hash(self.replayed) if self.replayed else None,
            "training": {name: value for name, value in training.items() if name != "steps"},
        }
        return dict(json.loads(json.dumps(values)))

    def command(self, step: int) -> str:
        """The command that makes the snapshot of an update count anew, without its folder."""
        training = self.training
        # A path from the root tells of one machine: the card names the parent as its folder does.
        rooted = Path(self.checkpoint).is_absolute()
        parent = self.recipe.parents[0].name if rooted else self.checkpoint
        words = [
            *("finetune", "--checkpoint", parent, "--domain", self.domain.name),
            *("--images", "all" if self.images is None else self.images, "--steps", step),
            *("--range", "{}:{}".format(*training.range), "--method", self.method),
            *(("--rank", self.rank) if self.method == "lora" else ()),
            *(("--replay", self.replay) if self.replay else ()),
            *(("--replay-domain", self.source.name) if self.source else ()),
            *("--seed", training.seed, "--learning-rate", training.learning_rate),
            *("--batch", training.batch, "--precision", training.precision),
        ]
        return shlex.join(["python", "-m", "sr3", *map(str, words)])


# ------------------------------------------------------------------- words of the command line
def parse_range(text: str | None) -> tuple[int, int] | None:
    """`A:B` as two time steps; None for None. Raises ConfigError."""
    if text is None:
        return None
    try:
        first, last = (int(part) for part in text.split(":"))
    except ValueError as error:
        raise ConfigError(f"A range is two time steps such as 0:500; got {text!r}.") from error
    return first, last


def parse_images(text: str) -> int | None:
    """A number of images; None for `all`. Raises ConfigError."""
    if text == "all":
        return None
    if not text.isdecimal():
        raise ConfigError(f"images must be a number or all; got {text!r}.")
    return int(text)


def parse_steps(text: str) -> tuple[int, ...]:
    """Whole numbers with commas between them. Raises ConfigError."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if odd := [word for word in words if not word.isdecimal()]:
        raise ConfigError(f"{odd[0]!r} is not a whole number: give some such as 10,30,100.")
    return tuple(int(word) for word in words)
