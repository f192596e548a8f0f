"""Fine-tuning: what it draws, changes and leaves alone; killed and resumed, it is the same."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

import sr3
from sr3.batches import REPLAYED, Epochs, Replay
from sr3.checkpoints import load_checkpoint
from sr3.cli import app
from sr3.config import ModelConfig, SamplerConfig, ScheduleConfig
from sr3.domains import list_hash, load_domain
from sr3.errors import ConfigError
from sr3.finetune import FinetuneRun
from sr3.folder import hash_of, save_checkpoint
from sr3.presets import MODELS
from sr3.schedule import NoiseSchedule
from sr3.tuning import FinetunePlan, tuning_config
from sr3.unet import UNet
from tests.outcomes import contents, refusal

ROOT = Path(__file__).resolve().parent.parent
CONFIG = MODELS["tiny"]


@pytest.fixture(autouse=True)
def _without_lpips(monkeypatch):
    monkeypatch.setenv("SR3_OFFLINE", "1")
    monkeypatch.setenv("SR3_LPIPS_WEIGHTS", "nowhere")


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    """A checkpoint of random weights that does something."""
    torch.manual_seed(0)
    network = UNet(CONFIG.network)
    torch.nn.init.normal_(network.head.weight, std=0.05)
    path = tmp_path_factory.mktemp("parents") / "tiny"
    save_checkpoint(path, CONFIG, network.state_dict(), "# A card\n")
    return path


def pictures(folder, count, seed):
    generator = np.random.default_rng(seed)
    for number in range(count):
        small = generator.integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(small).resize((128, 128)).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("faces"), 20, 0)


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("others"), 20, 1)


def plan(parent, faces, out, *, method="full", time_range=None, domain=None, **changes):
    training = tuning_config(
        CONFIG, method, time_range, batch=4, precision="float32",
        steps=changes.pop("steps", 3), seed=changes.pop("seed", 0),
    )  # fmt: skip
    settings = {"images": 8, "device": "cpu", "evaluation_images": 0} | changes
    domain = domain or load_domain(str(faces))
    return FinetunePlan(str(parent), domain, training=training, out=out, method=method, **settings)


def tune(*arguments, resume=False, **options):
    made = plan(*arguments, **options)
    return list(FinetuneRun(made, resume=resume).run())


def call(parent, faces, out, *words):
    given = ["finetune", "--checkpoint", parent, "--domain", faces, "--out", out, "--device", "cpu",
             "--batch", 2, "--precision", "float32", *words]  # fmt: skip
    return CliRunner().invoke(app, [str(word) for word in given])


# ------------------------------------------------------------------------------------------ range
@pytest.mark.parametrize("model", ["tiny", "sr3-16-128"])
@pytest.mark.parametrize("time_range", [(0, 500), (500, 2000), (1500, 2000), (0, 2000)])
def test_every_kind_of_draw_keeps_to_the_range(model, time_range):
    config = tuning_config(MODELS[model], "full", time_range, steps=1)
    assert config.range == time_range
    schedule = NoiseSchedule()
    generator = torch.Generator().manual_seed(1)
    level = schedule.draw(20_000, generator, config.levels, config.range)
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-6, 1e-2, 2000, dtype=torch.float64), 0)
    bounds = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar]).sqrt()
    first, last = time_range
    assert float(level.max()) <= bounds[first] and float(level.min()) >= bounds[last]
    times = schedule.time(level)
    middle = (first + last) / 2
    assert float(times.min()) < middle < float(times.max()), "both halves are visited"


def test_training_sees_no_level_outside_the_range(parent, faces, tmp_path, monkeypatch):
    """What reaches the network itself is watched, not what was asked of the schedule."""
    seen, forward = [], UNet.forward

    def spy(self, condition, noisy, noise_level):
        if torch.is_grad_enabled():
            seen.append(noise_level.clone())
        return forward(self, condition, noisy, noise_level)

    monkeypatch.setattr(UNet, "forward", spy)
    tune(parent, faces, tmp_path / "run", time_range=(300, 700), steps=6)
    levels = torch.cat(seen)
    assert len(levels) == 6 * 4 and len(levels.unique()) == 24
    time = NoiseSchedule().time(levels)
    assert float(time.min()) > 300 - 1e-6 and float(time.max()) < 700 + 1e-6


def test_outside_the_range_the_output_moves_too_and_a_splice_stops_that(parent, faces, tmp_path):
    """One set of weights serves all levels: what a range leaves alone is the training, no more."""
    tune(parent, faces, tmp_path / "run", time_range=(0, 300), steps=8)
    tuned_path = tmp_path / "run" / "step-000008"
    done = CliRunner().invoke(
        app,
        ["checkpoints", "combine", "--parent", str(parent), "--tuned", str(tuned_path),
         "--splice", "300", "--out", str(tmp_path / "spliced")],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    before, after, spliced = (
        sr3.load(path, "cpu") for path in (parent, tuned_path, tmp_path / "spliced")
    )
    generator = torch.Generator().manual_seed(0)
    x_t, condition = (torch.randn(2, 3, 128, 128, generator=generator) for _ in range(2))
    change = {}
    for step in (100, 300, 301, 1000, 2000):
        level = before.schedule.level(float(step)).expand(2)
        old, new, both = (
            model.denoise(x_t, condition, level) for model in (before, after, spliced)
        )
        change[step] = float((new - old).abs().mean())
        assert torch.equal(both, new if step <= 300 else old)
    assert all(value > 0 for value in change.values())


# -------------------------------------------------------------------------------- images, replay
def test_subsets_are_nested_and_follow_the_seed(parent, faces, tmp_path):
    domain = load_domain(str(faces))
    lists = {}
    for seed in (0, 1):
        for count in (2, 5, None):
            made = plan(parent, faces, tmp_path / "x", domain=domain, images=count, seed=seed)
            lists[seed, count] = {entry.sha256 for entry in made.entries}
    for seed in (0, 1):
        assert lists[seed, 2] < lists[seed, 5] < lists[seed, None]
        assert len(lists[seed, 5]) == 5
    assert lists[0, None] == lists[1, None] == {entry.sha256 for entry in domain.train}
    assert lists[0, 5] != lists[1, 5]
    held = {entry.sha256 for entry in (*domain.test, *domain.validation)}
    assert not held & lists[0, None]


def coloured(count, first):
    return np.stack([np.full((2, 2, 3), first + k, np.uint8) for k in range(count)])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 1 / 3, 0.5, 0.9])
def test_replay_holds_its_share_in_any_number_of_batches(share):
    source = Replay(Epochs(coloured(7, 0), 4), Epochs(coloured(5, 100), 4, REPLAYED), share)
    exact, old, new = Fraction(share).limit_denominator(100), [], []
    for step in range(60):
        batch = source(step, 6)[:, 0, 0, 0].tolist()
        assert len(batch) == 6
        old += [value for value in batch if value >= 100]
        new += [value for value in batch if value < 100]
        count = sum(value >= 100 for value in batch)
        assert abs(count - 6 * exact) < 1, "each batch, to a rounding"
        assert 0 <= (step + 1) * 6 * exact - len(old) < 1, "and all batches so far"
    for values, size in ((old, 5), (new, 7)):  # each image once an epoch
        for start in range(0, len(values) - size + 1, size):
            assert len(set(values[start : start + size])) == size
    again = Replay(Epochs(coloured(7, 0), 4), Epochs(coloured(5, 100), 4, REPLAYED), share)
    assert np.array_equal(again(33, 6), source(33, 6)), "whatever was asked before"


def test_replayed_images_reach_the_network(parent, faces, others, tmp_path, monkeypatch):
    made = plan(parent, faces, tmp_path / "run", replay=0.5, source=load_domain(str(others)))
    run = FinetuneRun(made)
    batch = run.trainer.source(0, 4)
    truth = [np.asarray(Image.open(path)) for path in sorted(others.iterdir())]
    assert [any(np.array_equal(image, known) for known in truth) for image in batch] == [
        True, True, False, False,
    ]  # fmt: skip
    train = {entry.sha256 for entry in made.source.train}
    assert {entry.sha256 for entry in made.replayed} == train, "never its test images"


# ------------------------------------------------------------------------------- what it changes
def test_lora_changes_convolutions_alone_and_by_its_rank(parent, faces, tmp_path):
    before_bytes = contents(parent)
    tune(parent, faces, tmp_path / "run", method="lora", rank=3, steps=4)
    assert contents(parent) == before_bytes
    before = load_checkpoint(parent)[1].state_dict()
    after = load_checkpoint(tmp_path / "run" / "step-000004")[1].state_dict()
    stored = load_file(tmp_path / "run" / "step-000004" / "model.safetensors")
    convolutions = [name for name, tensor in before.items() if tensor.ndim == 4]
    assert {name.rsplit(".", 1)[0] for name in stored} == set(convolutions)
    assert any("attention.qkv" in name for name in convolutions)
    for name, tensor in after.items():
        change = (tensor.double() - before[name].double()).flatten(1) if tensor.ndim == 4 else None
        if change is None:
            assert torch.equal(tensor, before[name]), name
            continue
        values = torch.linalg.svdvals(change)
        assert values[0] > 1e-6, f"{name} learns"
        assert float(values[3:].max()) < 1e-3 * float(values[0]), name
        assert float(values[2]) > 1e-2 * float(values[3:].max()), name


def test_lora_trains_the_network_that_it_saves(parent, faces, tmp_path):
    made = plan(parent, faces, tmp_path / "run", method="lora", rank=2, steps=3)
    run = FinetuneRun(made)
    list(run.run())
    _, saved = load_checkpoint(made.folder(3))
    generator = torch.Generator().manual_seed(0)
    x, c = (torch.randn(1, 3, 128, 128, generator=generator) for _ in range(2))
    level = torch.tensor([0.7])
    with torch.no_grad():
        live, loaded = run.trainer.ema(c, x, level), saved(c, x, level)
    parent_out = load_checkpoint(parent)[1](c, x, level)
    assert float((live - loaded).abs().max()) < 1e-3
    assert float((live - parent_out).abs().max()) > 10 * float((live - loaded).abs().max())


def test_snapshots_are_what_a_shorter_run_gives(parent, faces, tmp_path):
    records = tune(parent, faces, tmp_path / "long", steps=5, snapshots=(2,))
    tune(parent, faces, tmp_path / "short", steps=2)
    one, two = (load_file(tmp_path / run / "step-000002" / "model.safetensors")
                for run in ("long", "short"))  # fmt: skip
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    names = sorted(path.name for path in (tmp_path / "long").glob("step-*"))
    assert names == ["step-000002", "step-000005"]
    rates = [record.learning_rate for record in records]
    assert rates == pytest.approx([3e-4 * k / 10 for k in range(1, 6)]), "a short warm-up"
    long = plan(parent, faces, tmp_path / "x", steps=500)
    run = FinetuneRun(long)
    run.trainer.step = 400
    assert run.trainer.learning_rate() == 3e-4, "then constant"


def test_the_moving_average_forgets_the_parent_fast(parent, faces, tmp_path):
    """Early memory (1 + k) / (10 + k), as training from scratch has it, worked out by hand."""
    run = FinetuneRun(plan(parent, faces, tmp_path / "run", steps=4))
    name = "head.weight"
    average = load_checkpoint(parent)[1].state_dict()[name].double()
    for k, _ in enumerate(run.run()):
        keep = (1 + k) / (10 + k)
        live = run.trainer.network.state_dict()[name].double()
        average = keep * average + (1 - keep) * live
    found = run.trainer.ema.state_dict()[name].double()
    assert float((found - average).abs().max()) < 1e-6


def test_the_curve_scores_what_is_stored_on_both_domains(parent, faces, others, tmp_path):
    out = tmp_path / "run"
    tune(parent, faces, out, steps=2, evaluate_every=1, evaluation_images=2,
         source=load_domain(str(others)))  # fmt: skip
    rows = [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2]
    for step, path in ((0, parent), (2, out / "step-000002")):
        model = sr3.load(path, "cpu")
        for side, folder in (("target", faces), ("source", others)):
            domain = load_domain(str(folder))
            (entry,) = entries = domain.subset("validation", 1)
            assert len(domain.validation) == 2 and rows[step][f"{side}_images"] == 2
            values = []
            for entry in domain.subset("validation", 2):
                truth = np.asarray(Image.open(folder / entry.name)).astype(float)
                drawn = model.upscale([truth.astype(np.uint8)]).images[0, 0].astype(float)
                values.append(-10 * np.log10(((drawn - truth) ** 2).mean() / 255**2))
            assert rows[step][f"{side}_psnr"] == pytest.approx(np.mean(values), abs=0.01), entries
    assert rows[0]["target_lpips"] is None
    card = (out / "step-000002" / "README.md").read_text()
    domain = load_domain(str(faces))
    scores = f"{rows[2]['source_psnr']:.4f} (parent {rows[0]['source_psnr']:.4f})"
    files = list_hash(domain.subset("train", 8))
    for fact in (hash_of(parent), files, "--steps 2 --range 0:2000", scores):
        assert fact in card, fact


# ---------------------------------------------------------------------------- killed and resumed
def test_kill_9_changes_nothing(parent, faces, others, tmp_path):
    words = ("--images", 6, "--steps", 7, "--snapshots", 2, "--evaluate-every", 4,
             "--evaluation-images", 1, "--replay", 0.25, "--replay-domain", others,
             "--save-every", 0)  # fmt: skip
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert call(parent, faces, whole, *words).exit_code == 0
    given = ["finetune", "--checkpoint", parent, "--domain", faces, "--out", parts, "--device",
             "cpu", "--batch", 2, "--precision", "float32", *words]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "sr3", *map(str, given)], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    log, deadline = parts / "log.jsonl", time.monotonic() + 100
    while time.monotonic() < deadline and process.poll() is None:
        if log.exists() and len(log.read_text().splitlines()) >= 3:
            break
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (parts / "step-000007").exists(), "it was killed in the middle"
    assert torch.load(parts / "state.pt", weights_only=True)["step"] >= 2
    assert "--resume" in refusal(call(parent, faces, parts, *words))
    assert "another" in refusal(call(parent, faces, parts, *words, "--seed", 1, "--resume"))
    resumed = call(parent, faces, parts, *words, "--resume")
    assert resumed.exit_code == 0, resumed.output
    for name in ("step-000002", "step-000007"):
        one, two = (load_file(run / name / "model.safetensors") for run in (whole, parts))
        assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one), name
    states = [torch.load(run / "state.pt", weights_only=True) for run in (whole, parts)]
    assert all(torch.equal(states[0]["network"][k], v) for k, v in states[1]["network"].items())
    for name, dropped in (("log.jsonl", ("seconds", "remaining")), ("curve.jsonl", ("seconds",))):
        one, two = (
            [{k: v for k, v in json.loads(line).items() if k not in dropped}
             for line in (run / name).read_text().splitlines()]
            for run in (whole, parts)
        )  # fmt: skip
        assert one == two and len({row["step"] for row in one}) == len(one)
    before = contents(parts / "step-000007")
    assert call(parent, faces, parts, *words, "--resume").exit_code == 0
    assert contents(parts / "step-000007") == before, "a finished run has nothing left to do"


def test_a_finished_run_can_go_on(parent, faces, tmp_path):
    tune(parent, faces, tmp_path / "parts", steps=2)
    tune(parent, faces, tmp_path / "parts", steps=4, resume=True)
    tune(parent, faces, tmp_path / "whole", steps=4)
    one, two = (load_file(tmp_path / run / "step-000004" / "model.safetensors")
                for run in ("whole", "parts"))  # fmt: skip
    assert all(torch.equal(one[k], two[k]) for k in one)
    with pytest.raises(sr3.SR3Error, match="past update 3"):
        tune(parent, faces, tmp_path / "parts", steps=6, snapshots=(3,), resume=True)


# ------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--images", 500), "500 were asked for"),
        (("--images", "few"), "'few'"),
        (("--range", "0:2001"), "2000"),
        (("--range", "700:300"), "700:300"),
        (("--range", "5"), "0:500"),
        (("--checkpoint", "nowhere"), "nowhere"),
        (("--domain", "nowhere"), "nowhere"),
        (("--method", "magic"), "magic"),
        (("--replay", 0.5), "Replay needs the domain"),
        (("--replay", 1.0), "[0, 1)"),
        (("--snapshots", "9"), "1..3"),
        (("--learning-rate", -1), "learning_rate"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(parent, faces, tmp_path, words, told):
    result = call(parent, faces, tmp_path / "run", "--images", 4, "--steps", 3, *words)
    assert told in refusal(result)
    assert not (tmp_path / "run").exists()


def test_an_unreadable_image_is_named(parent, tmp_path):
    folder = tmp_path / "bad"
    folder.mkdir()
    pictures(folder, 3, 3)
    (folder / "broken.png").write_bytes(b"no")
    words = ("--images", "all", "--steps", 1)
    assert "broken.png" in refusal(call(parent, folder, tmp_path / "run", *words))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("what", ["sr3.train.torch.save", "sr3.folder.save_file"])
def test_a_full_disk_is_one_sentence_and_leaves_no_part(parent, faces, tmp_path, monkeypatch, what):
    def full(contents, path, *rest, **more):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(what, full)
    out = tmp_path / "run"
    words = ("--images", 2, "--steps", 1, "--evaluation-images", 0)
    assert "No space left" in refusal(call(parent, faces, out, *words))
    left = sorted(path.name for path in out.iterdir())
    assert not [name for name in left if "partial" in name or name == "state.pt"], left


def test_a_plan_is_checked_when_it_is_made(parent, faces, tmp_path):
    for changes in ({"snapshots": (0,)}, {"replay": -0.1}, {"evaluate_every": 0}):
        with pytest.raises(ConfigError):
            plan(parent, faces, tmp_path / "run", **changes)
    short = ModelConfig(
        network=CONFIG.network, schedule=ScheduleConfig(steps=10), sampling=SamplerConfig(start=10)
    )
    with pytest.raises(ConfigError, match="1 to 10"):
        tuning_config(short, "full", (0, 11), steps=1)
