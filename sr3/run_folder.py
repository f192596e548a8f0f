"""The folder of a training run: what it is of, its state, its logs; safe against being cut short.

It holds `run.json` (what is trained on what), `state.pt` (all that resuming needs), `log.jsonl`
(a line an update) and `curve.jsonl` (a line an evaluation); what else a run writes is its own.

Invariants: a folder never continues another run, and what one made is never written over by one
that begins afresh unasked; what is recorded is never ahead of `state.pt` after a resumption; every
file but the two logs appears whole; a full disk is one sentence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sr3.config import name_changes
from sr3.errors import TrainingError
from sr3.files import write_text
from sr3.train import Trainer, read_state

STATE, RUN, LOG, CURVE = "state.pt", "run.json", "log.jsonl", "curve.jsonl"
CHECKPOINT = "checkpoint"  # what a training makes, once it has a state; a fine-tuning has snapshots


class RunFolder:
    """A run's folder at `path`; of several processes, only one `writes`."""

    def __init__(self, path: Path, writes: bool = True) -> None:
        self.path, self.writes = path, writes

    @property
    def state(self) -> Path:
        """The file that a run resumes from; not there before the first save."""
        return self.path / STATE

    def check(self, identity: Mapping[str, Any], resume: bool) -> None:
        """Raises TrainingError for a folder with another run, with a run and no `resume`, or with
        what a run made whose state is gone.

        With `resume`, snapshots are enough: a run cut short before its first state goes through
        the same updates again.
        """
        started, made = self.state.exists(), self._made()
        if not started and not made:
            return
        if started and not resume:
            raise TrainingError(
                f"{self.path} already holds a run: add --resume to continue it, or choose "
                "another folder."
            )
        if not started and (CHECKPOINT in made or not resume):
            again = "" if CHECKPOINT in made else "add --resume to make the same run again, "
            raise TrainingError(
                f"{self.path} holds {', '.join(made)}, but no {STATE} to continue from: {again}"
                "choose another folder, or move that away to begin afresh."
            )
        theirs = self._known() or identity
        ours = {key: value for key, value in identity.items() if theirs.get(key) != value}
        if ours:
            changes = name_changes({key: theirs[key] for key in ours if key in theirs}, ours)
            raise TrainingError(
                f"{self.path} holds another run ({changes}): give the same settings, or choose "
                "another folder."
            )

    def _made(self) -> list[str]:
        """The names of what runs made here."""
        snapshots = sorted(path.name for path in self.path.glob("step-*[0-9]"))
        return [CHECKPOINT] * (self.path / CHECKPOINT).exists() + snapshots

    def _known(self) -> dict[str, Any]:
        """`run.json`; empty where there is none. Raises TrainingError where it is damaged."""
        path = self.path / RUN
        try:
            known = json.loads(path.read_text())
        except FileNotFoundError:
            return {}
        except ValueError:  # no JSON, or no text at all
            known = None
        if not isinstance(known, dict):
            raise TrainingError(
                f"{path} is damaged, so what its run is of is not known: remove it to continue "
                "with the same command, or choose another folder."
            )
        return known

    def precision(self) -> str | None:
        """What the run here is trained in, as its folder records it; None for no run."""
        try:
            if self.state.exists():
                config = read_state(self.state, mapped=True)["config"]
            else:
                config = self._known()["training"]
            return str(config["precision"])
        except Exception:  # no run, or a damaged one, of which resuming will tell
            return None

    def claim(self, identity: Mapping[str, Any], resume: bool) -> None:
        """`check`, then make the folder and write `run.json`. Raises TrainingError."""
        self.check(identity, resume)
        if not self.writes:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_text(self.path / RUN, json.dumps(identity, indent=2) + "\n")
        except OSError as error:
            raise TrainingError(f"{self.path} cannot be written: {error.strerror}.") from error

    def restore(self, trainer: Trainer) -> None:
        """Continue from the state, if there is one, and forget what was recorded after it."""
        if self.state.exists():
            trainer.resume(self.state)
        # A run without a state begins afresh, its evaluation before the first update too.
        last = trainer.step if trainer.step else -1
        for name in (LOG, CURVE) if self.writes else ():
            _forget_after(self.path / name, last)

    def save_state(self, trainer: Trainer) -> None:
        """Write `state.pt`. Raises TrainingError where the disk is full or gone."""
        if not self.writes:
            return
        try:
            trainer.save(self.state)
        except OSError as error:
            reason = error.strerror or error
            raise TrainingError(f"The state cannot be saved in {self.path}: {reason}.") from error
        except RuntimeError as error:  # how torch.save tells of a write that was cut short
            raise TrainingError(
                f"The state cannot be saved in {self.path}, as on a full disk: make room, then "
                "continue with --resume."
            ) from error

    def record(self, name: str, row: Mapping[str, Any]) -> None:
        """Add a line to a log. Raises TrainingError."""
        if not self.writes:
            return
        try:
            with (self.path / name).open("a") as log:
                log.write(json.dumps(row) + "\n")
        except OSError as error:
            raise TrainingError(
                f"{self.path / name} cannot be written: {error.strerror}."
            ) from error

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The lines of a log."""
        path = self.path / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _forget_after(path: Path, step: int) -> None:
    """Drop the lines of a log that are later than the state, or damaged, or were cut short."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (json.JSONDecodeError, KeyError, TypeError):
            continue
    write_text(path, "".join(kept))
