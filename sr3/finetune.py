"""Fine-tuning in a folder: a copy of any checkpoint, on few images of another domain.

One run gives a snapshot at each of several update counts, since the learning rate is constant
after a short warm-up: `step-000100/` is the very checkpoint that a run of 100 updates would give.
Snapshots are delta checkpoints (`sr3.combine`), and `curve.jsonl` holds what those weights score
on a few validation images of the new domain and of the old one.

Invariants: the parent is never written to; whatever can be refused is, before the folder is made;
beyond that those of `sr3.run_folder`, and a snapshot is on disk before a state that is past it.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sr3.batches import REPLAYED, Epochs, Replay
from sr3.cards import CHANGE_ALONE, NON_COMMERCIAL, make_card
from sr3.checkpoints import find_checkpoint, load_whole
from sr3.combine import add_delta, difference
from sr3.devices import exact, pick_device
from sr3.domains import Entry, list_hash, load_pixels
from sr3.errors import TrainingError
from sr3.folder import has_files, save_checkpoint
from sr3.images import Pixels, degrade
from sr3.lora import add_low_rank, low_rank_factors
from sr3.metrics import Scorer, mean_scores
from sr3.parallel import join
from sr3.pipeline import SuperResolver
from sr3.run_folder import CURVE, LOG, RunFolder
from sr3.train import Trainer, TrainStep
from sr3.tuning import FinetunePlan
from sr3.unet import with_weights


class FinetuneRun:
    """A plan under way in its folder. Iterate over `run()`; each record is one update."""

    def __init__(self, plan: FinetunePlan, *, resume: bool = False) -> None:
        """Reads everything, then claims the folder; with `resume`, continues from its state.

        Raises SR3Error for whatever the plan asks that is not to be had.
        """
        self.team = join(plan.device)
        self.plan, self.recipe = plan, plan.recipe
        self.folder = RunFolder(plan.out, self.team.writes)
        self.folder.check(plan.identity, resume)
        self._device = pick_device(self.team.device(plan.device))
        self._scoring = exact(self._device)  # a resumed run's curve depends on no timing
        _, network = load_whole(find_checkpoint(plan.checkpoint))
        self.parent = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        if plan.method == "lora":
            add_low_rank(network, plan.rank, plan.training.seed)
        else:
            network.requires_grad_(True)
        self.trainer = Trainer(
            network,
            self.recipe.model,
            plan.training,
            self._batches(),
            self._device.device,
            self.team,
        )
        self.validation = {
            side: self._pixels(domain.subset("validation", count))
            for side, domain in (("target", plan.domain), ("source", plan.source))
            if domain and (count := min(plan.evaluation_images, len(domain.validation)))
        }
        self.scorer = Scorer.load()
        self.folder.claim(plan.identity, resume)
        self.folder.restore(self.trainer)
        self._check_snapshots()

    def _pixels(self, entries: tuple[Entry, ...]) -> Pixels:
        return load_pixels(entries, self.recipe.model.network.high_res)

    def _batches(self) -> Epochs | Replay:
        plan, seed = self.plan, self.plan.training.seed
        new = Epochs(self._pixels(plan.entries), seed)
        if not plan.replayed:
            return new
        return Replay(new, Epochs(self._pixels(plan.replayed), seed, REPLAYED), plan.replay)

    def _check_snapshots(self) -> None:
        """A snapshot asked for after the run is past it can no longer be had."""
        done = self.trainer.step
        for step in sorted(self.plan.milestones):
            if step < done and not self.plan.folder(step).exists():
                raise TrainingError(
                    f"The run in {self.plan.out} is past update {step} (it is at {done}), whose "
                    "snapshot was not asked for then: leave it out, or start afresh elsewhere."
                )

    def run(self) -> Generator[TrainStep, None, None]:
        """Tune to the last update; snapshots and evaluations on their schedule.

        Closing the generator (Ctrl-C in the command line) saves the state first.
        """
        if self.trainer.step == 0:
            if self.team.writes:
                self.evaluate({})
        elif not self.plan.folder(self.trainer.step).exists():
            self._keep()  # a snapshot that was asked for just now
        saved = time.monotonic()
        for record in self.trainer.run():
            self.folder.record(LOG, vars(record))
            self._keep()
            try:
                yield record
            except GeneratorExit:
                self.folder.save_state(self.trainer)
                raise
            if time.monotonic() - saved >= self.plan.save_every:
                self.folder.save_state(self.trainer)
                saved = time.monotonic()
        self.folder.save_state(self.trainer)

    def _keep(self) -> None:
        """The snapshot and evaluation that are due after this update, if any is."""
        if not self.team.writes:
            return
        step, every = self.trainer.step, self.plan.evaluate_every
        kept = step in self.plan.milestones
        if kept or (every and step % every == 0):
            change = self.change()
            card = self._card(self.evaluate(change))
            if kept and not has_files(self.plan.folder(step)):  # of this run, cut short since
                save_checkpoint(self.plan.folder(step), self.recipe, change, card)

    def change(self) -> dict[str, Tensor]:
        """What the moving average of the weights differs in from the parent, as it is stored."""
        if self.plan.method == "lora":
            return {name: t.cpu() for name, t in low_rank_factors(self.trainer.ema).items()}
        ema = {name: tensor.cpu() for name, tensor in self.trainer.ema.state_dict().items()}
        return difference(self.parent, ema)

    def evaluate(self, change: Mapping[str, Tensor]) -> dict[str, Any]:
        """Score parent + change, the very weights that are stored; add a row to the curve."""
        row: dict[str, Any] = {"step": self.trainer.step, "seconds": self.trainer.seconds}
        weights = add_delta(self.parent, change, "the change")
        model = self.recipe.model
        network = with_weights(model.network, weights, "the tuned network")
        resolver = SuperResolver(network, model, self._scoring)
        for side, originals in self.validation.items():
            low_res = degrade(originals, model.network.low_res)
            results = resolver.upscale(list(originals)).images[:, 0]
            scores = mean_scores(self.scorer(results, originals, low_res))
            row |= {f"{side}_{name}": value for name, value in scores.items()}
            row[f"{side}_images"] = len(originals)
        if row["step"] not in [known["step"] for known in self.folder.rows(CURVE)]:
            self.folder.record(CURVE, row)
        return row

    def _card(self, row: Mapping[str, Any]) -> str:
        plan, trainer = self.plan, self.trainer
        parent = self.recipe.parents[0]
        data: dict[str, object] = {
            "Domain": f"{plan.domain.title} (`{plan.domain.name}`)",
            "Training images": len(plan.entries),
            "File list (sha256)": f"`{list_hash(plan.entries)}`",
            "Replayed": f"{plan.replay:.0%} of each batch, `{plan.source.name}`"
            if plan.source and plan.replay
            else "none",
        }
        training: dict[str, object] = {
            "Command": f"`{plan.command(trainer.step)}`",
            "Parent": f"`{parent.name}`, sha256 `{parent.sha256}`",
            "Method": plan.method + (f", rank {plan.rank}" if plan.method == "lora" else ""),
            "Updates": f"{trainer.step:,}",
            "Time steps": "{}:{}".format(*plan.training.range),
            "Time": f"{trainer.seconds / 60:.1f} minutes on {self.team.title}{self._device.title}, "
            f"{plan.training.precision}",
        }
        before = next((r for r in self.folder.rows(CURVE) if r["step"] == 0), {})
        measured: dict[str, object] = {
            name.replace("_", " "): f"{value:.4f} (parent {before[name]:.4f})"
            for name, value in row.items()
            if isinstance(value, float) and name != "seconds" and before.get(name) is not None
        }
        if not measured:
            measured["All metrics"] = None
        sections: dict[str, dict[str, object]] = {
            "Data": data,
            "Training": training,
            "Measured on a few validation images": measured,
        }
        name = Path(parent.name).name
        summary = (
            f"{name}, fine-tuned on {len(plan.entries)} images of {plan.domain.title}: "
            f"{CHANGE_ALONE}"
        )
        title = f"SR3 Lab: {name} on {plan.domain.name}"
        return make_card(title, summary, sections, NON_COMMERCIAL)
