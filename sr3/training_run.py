"""A training run in a folder: the trainer, driven, recorded, validated and kept safe.

Beside what every run has (`sr3.run_folder`) it holds `sheets/` (validation images as PNG, for the
trainer's own eyes: the data's terms apply to them) and `checkpoint/` (the moving average so far,
with its card).

Invariants: those of `sr3.run_folder`; validation measures the very float16 weights that are saved
and takes at most `COST` of the time; abandoning the generator saves the state, an error does not;
a state is on disk before the first checkpoint, so that only a removed one is missing beside it.
"""

from __future__ import annotations

import copy
import json
import shlex
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sr3.cards import NON_COMMERCIAL, make_card
from sr3.checkpoints import find_checkpoint, load_whole
from sr3.config import ModelConfig, SamplerConfig, TrainConfig, to_dict
from sr3.devices import pick_device
from sr3.distil import Distiller
from sr3.domains import Domain, load_pixels
from sr3.errors import ConfigError, TrainingError
from sr3.files import whole
from sr3.folder import read_config, save_checkpoint
from sr3.images import Pixels, degrade, enlarge
from sr3.metrics import Scorer, mean_scores
from sr3.parallel import Team, join
from sr3.pipeline import SuperResolver
from sr3.run_folder import CHECKPOINT, CURVE, LOG, RunFolder
from sr3.train import Trainer, TrainStep
from sr3.unet import UNet

COST = 0.03  # the largest share of the time that validation may take
SHEET_IMAGES = 12


@dataclass(frozen=True)
class Plan:
    """What a run does; all of it but `out`, `device` and the periods must agree on resuming."""

    preset: str
    model: ModelConfig
    training: TrainConfig
    domain: Domain
    out: Path
    device: str = "auto"
    init: str | None = None  # a checkpoint to begin from
    save_every: float = 180.0  # seconds between states
    validate_every: float = 600.0  # seconds between validations
    validation_images: int = 24
    substeps: int = 0  # the teacher's for each of the student's; 0: no distillation

    @property
    def teacher(self) -> str:
        """What the weights begin as, by a name that does not tell of one machine's folders."""
        path = Path(self.init or self.preset)
        return path.name if path.is_absolute() else str(path)

    @property
    def command(self) -> str:
        """The command that makes this run anew, without its folder and device."""
        training = self.training
        if self.substeps:
            sampling = self.model.sampling
            what = [
                *("distil", "--checkpoint", self.teacher, "--substeps", self.substeps),
                *("--evaluations", sampling.steps, "--start", sampling.start),
                *("--end", sampling.end),
            ]
        else:
            what = ["train", "--preset", self.preset, *(("--init", self.init) if self.init else ())]
        length = ["--steps", training.steps] if training.steps else ["--minutes", training.minutes]
        words = [
            *("python", "-m", "sr3", *what),
            *("--domain", self.domain.name, *length),
            *("--batch", training.batch, "--seed", training.seed),
            *("--precision", training.precision, "--learning-rate", training.learning_rate),
        ]
        return shlex.join(map(str, words))

    @property
    def identity(self) -> dict[str, Any]:
        """`run.json`: what a folder's state belongs to, JSON-ready.

        How images are drawn is no part of it: a preset may come to recommend another sampling.
        """
        model = to_dict(self.model)
        del model["sampling"]
        values: dict[str, Any] = {
            "preset": self.preset,
            "model": model,
            "domain": self.domain.name,
            "file_list_hash": self.domain.sha256,
            "init": self.init,
        }
        if self.substeps:  # then how images are drawn is what is learnt
            values |= {"substeps": self.substeps, "sampling": to_dict(self.model.sampling)}
        return dict(json.loads(json.dumps(values)))


class TrainingRun:
    """A plan under way in its folder. Iterate over `run()`; each record is one update."""

    def __init__(self, plan: Plan, *, resume: bool = False) -> None:
        """Reads everything, then claims the folder; with `resume`, continues from its state (none
        yet: begins afresh).

        Raises SR3Error for whatever the plan asks that is not to be had.
        """
        self.team = join(plan.device)
        self.plan, self.out = plan, plan.out
        self.folder = RunFolder(plan.out, self.team.writes)
        self.folder.check(plan.identity, resume)
        self._device = pick_device(self.team.device(plan.device))
        size = plan.model.network.high_res
        if not plan.domain.train:
            raise TrainingError(
                f"{plan.domain.name} has no training images: choose another domain."
            )
        pixels = load_pixels(plan.domain.train, size)
        self.trainer = _trainer(plan, pixels, self._device.device, self.team)
        count = min(plan.validation_images, len(plan.domain.validation))
        held = plan.domain.subset("validation", count) if count else ()
        self.validation = load_pixels(held, size) if held else None
        self.scorer = Scorer.load()
        self.folder.claim(plan.identity, resume)
        self.folder.restore(self.trainer)

    def run(self) -> Generator[TrainStep, None, None]:
        """Train to the end of the plan, then validate and save the checkpoint.

        Closing the generator (Ctrl-C in the command line) saves the state first.
        """
        saved = validated = time.monotonic()
        pause = self.plan.validate_every
        for record in self.trainer.run():
            self.folder.record(LOG, vars(record))
            try:
                yield record
            except GeneratorExit:
                self.folder.save_state(self.trainer)
                raise
            if self.team.writes and time.monotonic() - validated > pause:
                began = time.monotonic()
                self.folder.save_state(self.trainer)
                self.validate()
                saved = validated = time.monotonic()
                pause = max(self.plan.validate_every, (validated - began) / COST)
            if time.monotonic() - saved > self.plan.save_every:
                self.folder.save_state(self.trainer)
                saved = time.monotonic()
        self.folder.save_state(self.trainer)
        if self.team.writes:
            self.validate()

    def validate(self) -> dict[str, Any]:
        """Score the moving average as it would be saved; add to the curve, draw, save it."""
        # Through float16, as it is saved: the scores are those of the file.
        network = copy.deepcopy(self.trainer.ema).half().float()
        assert isinstance(network, UNet)
        row: dict[str, Any] = {"seconds": self.trainer.seconds, "step": self.trainer.step}
        baseline: dict[str, Any] = {}
        if self.validation is not None:
            model = SuperResolver(network, self.plan.model, self._device)
            result = model.upscale(list(self.validation))
            baseline = self._scores(result.condition, result.low_res)
            row |= self._scores(result.images[:, 0], result.low_res)
            row["images"] = len(self.validation)
            used = result.settings
            row["sampling"] = f"{used.sampler} eta {used.eta:g}, {used.steps} steps"
            self._draw(result.images[:, 0])
        self.folder.record(CURVE, row)
        card = self._card(row, baseline)
        save_checkpoint(self.out / CHECKPOINT, self.plan.model, network.state_dict(), card)
        return row

    def _scores(self, results: Pixels, low_res: Pixels) -> dict[str, float | None]:
        assert self.validation is not None
        return mean_scores(self.scorer(results, self.validation, low_res))

    def _draw(self, results: Pixels) -> None:
        assert self.validation is not None
        path = self.out / "sheets" / f"{self.trainer.step:07}.png"
        path.parent.mkdir(exist_ok=True)
        sheet = contact_sheet(
            self.validation[:SHEET_IMAGES], results[:SHEET_IMAGES], self.plan.model.network.low_res
        )
        with whole(path) as partial:
            Image.fromarray(sheet).save(partial, format="PNG")

    def _card(self, row: dict[str, Any], baseline: dict[str, Any]) -> str:
        plan, domain = self.plan, self.plan.domain
        sections = {
            "Data": {
                "Domain": f"{domain.title} (`{domain.name}`)",
                "Training images": len(domain.train),
                "Validation images": len(domain.validation),
                "Test images (never seen)": len(domain.test),
                "File list (sha256)": f"`{domain.sha256}`",
            },
            "Training": self._training(),
            "Recommended sampling": _settings(plan.model.sampling),
            "Measured on validation images": self._measured(row, baseline),
            "Quality against training time": self._curve(),
        }
        title, what = plan.preset, f"the preset `{plan.preset}`"
        if plan.substeps:
            count = plan.model.sampling.steps
            title = f"{plan.teacher} in {_counted(count, 'step')}"
            what = (
                f"`{plan.teacher}`, distilled to {_counted(count, 'network evaluation')} an image "
                f"from {plan.substeps * count} of its own,"
            )
        parameters = sum(parameter.numel() for parameter in self.trainer.network.parameters())
        summary = (
            f"A diffusion super-resolver of faces, {plan.model.network.low_res} to "
            f"{plan.model.network.high_res} pixels: {what} with {parameters:,} parameters; these "
            "are the moving average of the weights."
        )
        return make_card(f"SR3 Lab: {title}", summary, sections, NON_COMMERCIAL)

    def _training(self) -> dict[str, object]:
        trainer = self.trainer
        done = "finished" if trainer.progress >= 1 else f"{trainer.progress:.0%} of the run"
        return {
            "Command": f"`{self.plan.command}`",
            "Updates": f"{trainer.step:,} ({done})",
            "Time": f"{trainer.seconds / 60:.1f} minutes on {self.team.title}{self._device.title}, "
            f"{self.plan.training.precision}",
        } | _settings(self.plan.training)

    def _curve(self) -> dict[str, object]:
        """The validations so far; `NAME eta E, N steps` is how each was sampled."""
        facts: dict[str, object] = {}
        for row in self.folder.rows(CURVE):
            if row.get("psnr") is None:
                continue
            lpips = "unmeasured" if row["lpips"] is None else f"{row['lpips']:.4f}"
            time = f"{row['seconds'] / 60:.0f} min, update {row['step']:,}"
            sampling = row.get("sampling", "")
            facts[f"{time}{', ' if sampling else ''}{sampling}"] = (
                f"PSNR {row['psnr']:.2f} dB, SSIM {row['ssim']:.4f}, LPIPS {lpips}"
            )
        return facts

    def _measured(self, row: dict[str, Any], baseline: dict[str, Any]) -> dict[str, object]:
        if not baseline:
            return {"All metrics": None}
        names = {"psnr": "PSNR (dB) ↑", "ssim": "SSIM ↑", "lpips": "LPIPS ↓"}
        facts: dict[str, object] = {
            label: "unmeasured" if row[name] is None
            else f"{row[name]:.4f} (bicubic {baseline[name]:.4f})"
            for name, label in names.items()
        }  # fmt: skip
        backbone = self.scorer.backbone or self.scorer.lpips_reason
        return facts | {"Images, samples, seed": f"{row['images']}, 1, 0", "LPIPS with": backbone}


def _settings(config: TrainConfig | SamplerConfig) -> dict[str, object]:
    """Those that are given, for a card."""
    return {f"`{name}`": value for name, value in to_dict(config).items() if value is not None}


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("s" if count > 1 else "")


def contact_sheet(originals: Pixels, results: Pixels, low_res: int) -> Pixels:
    """Four rows, a column an image: low-res (as squares), bicubic, result, original.

    (n, h, w, 3) uint8 twice -> (4 h, n w, 3) uint8.
    """
    size = originals.shape[1]
    small = degrade(originals, low_res)
    squares = small.repeat(size // low_res, axis=1).repeat(size // low_res, axis=2)
    rows = [squares, enlarge(small, size), results, originals]
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows])


def new_network(model: ModelConfig, seed: int) -> UNet:
    """An untrained network, its weights drawn from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = UNet(model.network)
        network.zero_residuals()
        return network


def _trainer(plan: Plan, pixels: Pixels, device: torch.device, team: Team) -> Trainer:
    network = _network(plan)
    if not plan.substeps:
        return Trainer(network, plan.model, plan.training, pixels, device, team)
    assert plan.init is not None
    end = read_config(find_checkpoint(plan.init)).sampling.end
    return Distiller(
        network, plan.model, plan.training, pixels, device, team, substeps=plan.substeps, end=end
    )


def _network(plan: Plan) -> UNet:
    """The network to train: new from the run's seed, or a checkpoint's weights."""
    if plan.init is None:
        return new_network(plan.model, plan.training.seed)
    model, network = load_whole(find_checkpoint(plan.init))
    if model.network != plan.model.network or model.prediction != plan.model.prediction:
        raise ConfigError(
            f"{plan.init} has another network than the preset {plan.preset}: give its own preset."
        )
    return network.requires_grad_(True)
