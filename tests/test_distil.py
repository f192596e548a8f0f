"""Distillation: where a step must land, the teacher's chain, and a student that learns it."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from sr3.cli import app
from sr3.config import SamplerConfig
from sr3.devices import Device
from sr3.distil import TRAINING, Distiller, landing, student_of, teacher_levels
from sr3.errors import ConfigError
from sr3.folder import read_config
from sr3.images import degrade, enlarge, to_tensor
from sr3.pipeline import SuperResolver
from sr3.presets import MODELS
from sr3.samplers import SeededNoise, ddim
from sr3.schedule import NoiseSchedule
from tests.outcomes import refusal
from tests.places import drawn_network, furnish

SCHEDULE = NoiseSchedule()


@pytest.fixture(scope="module")
def pictures():
    generator = np.random.default_rng(0)
    small = generator.integers(0, 256, (4, 9, 9, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize((128, 128))) for one in small])


def test_the_teacher_visits_every_level_of_the_student():
    student = SamplerConfig(sampler="ddim", eta=0.0, steps=3, start=1500, end=40)
    levels = teacher_levels(SCHEDULE, student, 4, end=6)
    assert len(levels) == 13 and levels[-1] == 1
    assert bool((levels.diff() > 0).all()), "always less noise"
    theirs = SCHEDULE.levels(3, "log_snr", 1500, 40)
    assert torch.allclose(levels[::4], theirs, atol=1e-12)
    assert float(levels[-2]) == pytest.approx(float(SCHEDULE.level(6)), abs=1e-12)
    alone = teacher_levels(SCHEDULE, student, 1, end=6)
    assert torch.allclose(alone, theirs, atol=1e-12)


def test_one_step_of_the_landing_estimate_is_the_teachers_way():
    generator = torch.Generator().manual_seed(0)
    x, after = (torch.randn((2, 3, 4, 4), generator=generator) for _ in range(2))
    levels = SCHEDULE.levels(2, "log_snr", 1500, 40)
    for now, then in ((levels[0], levels[1]), (levels[1], torch.ones(()).double())):
        x0 = landing(x, after, now.expand(2), then.expand(2))
        step = ddim(x, torch.stack([now, then]), noise=lambda: x)
        next(step)
        with pytest.raises(StopIteration) as stop:
            step.send(x0)
        assert torch.allclose(stop.value.value, after, atol=1e-4)


def test_the_teachers_chain_is_the_one_that_sampling_goes(pictures):
    model = student_of(MODELS["tiny"], 2, start=1500, end=40)
    network = drawn_network()
    trainer = Distiller(network, model, TRAINING, pictures, substeps=3, end=6)
    low = degrade(pictures[:2], 16)
    noise = SeededNoise([(5, 0), (5, 1)], (3, 128, 128))()
    chain = trainer.chain(to_tensor(low), to_tensor(enlarge(low, 128)), noise)
    assert len(chain) == 3
    cpu = Device(torch.device("cpu"), torch.float32, "the test's")
    resolver = SuperResolver(drawn_network(), model, cpu)
    sampler, condition, refine = resolver.prepare(low, [(5, 0), (5, 1)], model.sampling)
    first, _ = next(sampler)
    assert torch.equal(first, chain[0])
    x = first
    for now, then in zip(trainer.levels[:-1], trainer.levels[1:], strict=True):
        x0 = refine(resolver.denoise(x, condition, now.expand(2)))
        a, s, b, u = now, (1 - now**2).sqrt(), then, (1 - then**2).sqrt()
        x = (b * x0.double() + u * (x.double() - a * x0.double()) / s).float()
    assert torch.allclose(x, chain[-1], atol=1e-4)


def test_with_one_substep_there_is_nothing_to_learn(pictures):
    """The student's own step is the teacher's, but for clamping and consistency."""
    model = student_of(MODELS["tiny"], 2, start=1500, end=40)
    sampling = dataclasses.replace(model.sampling, clamp=False, consistency=False)
    model = dataclasses.replace(model, sampling=sampling)
    config = dataclasses.replace(TRAINING, minutes=None, steps=1, batch=2)
    trainer = Distiller(drawn_network(), model, config, pictures, substeps=1, end=40)
    assert next(trainer.run()).loss < 1e-4
    longer = Distiller(drawn_network(), model, config, pictures, substeps=3, end=6)
    assert next(longer.run()).loss > 1e-3


def test_a_student_learns_the_teachers_way(pictures):
    model = student_of(MODELS["tiny"], 1, start=1500, end=1500)
    config = dataclasses.replace(
        TRAINING, minutes=None, steps=20, batch=2, warmup=1, learning_rate=2e-3,
    )  # fmt: skip
    trainer = Distiller(drawn_network(), model, config, pictures, substeps=4, end=6)
    before = {k: v.clone() for k, v in trainer.teacher.network.state_dict().items()}
    losses = [record.loss for record in trainer.run()]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    after = trainer.teacher.network.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before), "the teacher stays as it is"


@pytest.mark.parametrize(
    ("evaluations", "start", "end"), [(4, 1600, 2), (4, 3000, 40), (4, 20, 40)]
)
def test_chains_that_are_none(evaluations, start, end):
    with pytest.raises(ConfigError):
        student_of(MODELS["tiny"], evaluations, start, end)


def test_only_deterministic_chains_are_distilled(pictures):
    with pytest.raises(ConfigError, match="deterministic"):
        Distiller(drawn_network(), MODELS["tiny"], TRAINING, pictures, substeps=0, end=6)


# ------------------------------------------------------------------------------- the command line
@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return furnish(tmp_path_factory.mktemp("distil"), ["faces"], images=12, parent="teacher")


def distil(out, *words):
    given = ["distil", "--checkpoint", "teacher", "--domain", "faces", "--out", out, "--batch", 2,
             "--evaluations", 2, "--substeps", 2, "--device", "cpu", "--precision", "float32",
             *words]  # fmt: skip
    return CliRunner().invoke(app, [str(word) for word in given])


def test_a_student_is_a_checkpoint_of_few_steps(place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("SR3_LPIPS_WEIGHTS", "nowhere")
    out = tmp_path / "run"
    result = distil(out, "--steps", 2)
    assert result.exit_code == 0, result.output
    sampling = read_config(out / "checkpoint").sampling
    assert (sampling.sampler, sampling.steps, sampling.end, sampling.eta) == ("ddim", 2, 20, 0)
    card = (out / "checkpoint" / "README.md").read_text()
    assert "distilled to 2 network evaluations an image from 4 of its own" in card
    assert "python -m sr3 distil --checkpoint teacher --substeps 2 --evaluations 2" in card
    again = distil(out, "--steps", 3, "--resume")
    assert again.exit_code == 0, again.output
    whole = tmp_path / "whole"
    assert distil(whole, "--steps", 3).exit_code == 0
    rows = [[json.loads(line)["loss"] for line in (each / "log.jsonl").read_text().splitlines()]
            for each in (out, whole)]  # fmt: skip
    assert len(rows[0]) == 3 and rows[0][0] == rows[1][0]
    refusal(distil(out, "--steps", 4, "--resume", "--end", 80))
    weights = load_file(out / "checkpoint" / "model.safetensors")
    parent = load_file(place / "teacher" / "model.safetensors")
    assert any(not torch.equal(weights[k], parent[k]) for k in weights)
