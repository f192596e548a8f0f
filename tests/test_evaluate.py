"""Evaluation: its rows against numbers made again from the public parts, one image at a time."""

from __future__ import annotations

import io
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import structural_similarity

import sr3.evaluate
from sr3 import results
from sr3.cli import follow
from sr3.devices import Device
from sr3.domains import domain_from_path, list_hash
from sr3.errors import ConfigError, DomainError
from sr3.evaluate import code_commit, evaluate, sampler_label
from sr3.metrics import Scorer
from sr3.pipeline import SuperResolver
from sr3.presets import MODELS
from sr3.unet import UNet

BLIND = Scorer(None, "left out of this test")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = MODELS["tiny"]
    network = UNet(config.network).eval().requires_grad_(False)
    torch.nn.init.normal_(network.head.weight, std=0.05)  # or the untrained output is nearly zero
    device = Device(torch.device("cpu"), torch.float32, "a test")
    return SuperResolver(network, config, device, "mine")


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    generator = np.random.default_rng(0)
    for number in range(10):
        small = generator.integers(0, 256, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(small).resize((128, 128)).save(folder / f"{number}.png")
    return domain_from_path(folder, name="noise", validation=1, test=5)


def collect(model, domain, **options):
    options = {"scorer": BLIND, "steps": 2, **options}
    progress = list(evaluate(model, domain, "hash", **options))
    return progress, [row for part in progress for row in part.rows]


def value(rows, checkpoint, image, seed, metric):
    (found,) = [
        row["value"]
        for row in rows
        if (row["checkpoint"], row["image"], row["seed"], row["metric"])
        == (checkpoint, image, seed, metric)
    ]
    return found


def decibels(a, b):
    return -10 * np.log10(np.mean((a.astype(float) - b.astype(float)) ** 2) / 255**2)


def original(entry):
    return np.asarray(Image.open(io.BytesIO(entry.read())).convert("RGB"))


def test_rows_are_those_of_one_image_at_a_time(model, domain):
    _, rows = collect(model, domain, samples=3, seed=4, batch=1)  # the same bits, then
    assert len(domain.test) == 5
    for entry in domain.test:
        truth = original(entry)
        draws = []
        for seed in (4, 5, 6):
            mine = model.upscale([truth], seed=seed, steps=2).images[0, 0]
            draws.append(mine)
            found = value(rows, "mine", entry.name, seed, "psnr")
            assert found == pytest.approx(decibels(mine, truth), abs=1e-9)
            structure = structural_similarity(
                mine, truth, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
                data_range=255, channel_axis=-1,
            )  # fmt: skip
            assert value(rows, "mine", entry.name, seed, "ssim") == pytest.approx(structure)
        assert not np.array_equal(draws[0], draws[1])
        mean = np.round(np.mean([draw.astype(float) for draw in draws], axis=0))
        found = value(rows, "mine", entry.name, 4, "psnr_of_mean_3")
        assert found == pytest.approx(decibels(mean, truth), abs=1e-9)


def test_a_batch_that_does_not_fit_is_halved(model, domain, monkeypatch):
    _, expected = collect(model, domain, batch=1, images=3)
    run = model._run

    def limited(low_res, seeds, settings):
        if len(seeds) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return run(low_res, seeds, settings)

    monkeypatch.setattr(model, "_run", limited)
    _, found = collect(model, domain, batch=3, images=3)

    def key(row):
        return row["checkpoint"], row["image"], row["metric"]

    assert sorted(found, key=key) == sorted(expected, key=key)


def test_the_baselines(model, domain):
    _, rows = collect(model, domain, samples=2, seed=7)
    schedule = model.schedule
    for entry in domain.test:
        truth = original(entry)
        small = Image.fromarray(truth).resize((16, 16), Image.Resampling.BICUBIC)
        enlarged = np.asarray(small.resize((128, 128), Image.Resampling.BICUBIC))
        found = value(rows, "bicubic", entry.name, 0, "psnr")
        assert found == pytest.approx(decibels(enlarged, truth), abs=1e-9)

        sampler, condition, refine = model.prepare(
            np.asarray(small)[None], [(7, 0)], model.settings(start=schedule.steps)
        )
        noise, _ = next(sampler)
        assert abs(float(noise.std()) - 1) < 0.02, "the chain begins at pure noise"
        x0 = refine(model.denoise(noise, condition, schedule.alpha_bar[-1:].sqrt()))[0]
        drawn = ((x0.clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0).numpy()
        found = value(rows, "regression", entry.name, 7, "psnr")
        # 1e-3 dB: the same level by two formulas may turn a rounding to 8 bit or two.
        assert found == pytest.approx(decibels(drawn, truth), abs=1e-3)


def test_rows_fit_the_table_and_tell_who_made_them(model, domain, tmp_path):
    _, rows = collect(model, domain, samples=2, images=3)
    results.append(rows, tmp_path)
    table = results.read(tmp_path)
    assert len(table) == len(rows), "every row has a key of its own"
    assert set(table["checkpoint"]) == {"mine", "bicubic", "regression"}
    assert set(table["file_list_hash"]) == {list_hash(domain.subset("test", 3))}
    assert set(table[table["checkpoint"] == "mine"]["sampler"]) == {model.config.sampling.sampler}
    assert set(table["code_commit"]) == {code_commit()}
    # mine: 3 images x 2 seeds x 4 metrics + 3 of the mean; 3 x 4 for each baseline
    assert len(rows) == 3 * 2 * 4 + 3 + 2 * 3 * 4


def test_batch_size_and_samples_change_no_row(model, domain):
    _, one = collect(model, domain, samples=2, batch=1)
    _, many = collect(model, domain, samples=2, batch=7)
    key = ("checkpoint", "image", "seed", "metric")
    first, second = ({tuple(r[k] for k in key): r["value"] for r in rows} for rows in (one, many))
    assert first.keys() == second.keys()
    # A batched convolution may round differently in the last bit: seldom one grey level.
    worst = max(abs(first[k] - second[k]) for k in first if k[3] in ("psnr", "ssim"))
    assert worst < 1e-3


def test_progress_ends_complete(model, domain):
    progress, _ = collect(model, domain, samples=2, batch=2)
    assert [part.done for part in progress] == sorted({part.done for part in progress})
    assert progress[-1].done == progress[-1].total == 5 * (2 + 1 + 1)
    assert progress[-1].remaining == 0 < progress[0].remaining
    assert 0 < progress[-1].network_seconds <= progress[-1].seconds


def test_the_share_of_the_time_in_the_network_is_told(model, domain, monkeypatch, capsys):
    """On a clock that only the network and bicubic enlargement move."""
    now = [0.0]
    stream, real = SuperResolver.stream_batch, sr3.evaluate.enlarge

    def four_seconds_an_image(self, low, *arguments):
        now[0] += 4 * len(low)
        yield from stream(self, low, *arguments)

    def one_second(low, size):
        now[0] += 1
        return real(low, size)

    monkeypatch.setattr("sr3.evaluate.time.perf_counter", lambda: now[0])
    monkeypatch.setattr("sr3.evaluate.enlarge", one_second)
    monkeypatch.setattr(SuperResolver, "stream_batch", four_seconds_an_image)
    progress, rows = collect(model, domain, batch=2)  # five images, in three batches
    assert progress[-1].network_seconds == 4 * 5 * 2, "as regression and as itself"
    assert progress[-1].seconds == 4 * 5 * 2 + 3
    assert follow(iter(progress), "measuring") == rows
    assert capsys.readouterr().err.endswith("93% of the time in the network\n")


def test_it_can_be_abandoned(model, domain):
    progress = evaluate(model, domain, "hash", scorer=BLIND, steps=1, batch=1)
    next(progress)
    progress.close()
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"samples": 0}, ConfigError),
        ({"seed": 2**63}, ConfigError),  # no row of the table could hold it
        ({"steps": 0}, ConfigError),
        ({"images": 6}, DomainError),
        ({"baselines": ("oracle",)}, ConfigError),
        ({"sampler": "magic"}, ConfigError),
    ],
)
def test_mistakes_are_told_at_once(model, domain, options, error):
    with pytest.raises(error):
        evaluate(model, domain, "hash", **options)


def test_different_settings_never_share_a_label(model):
    recommended = model.config.sampling
    labels = [
        sampler_label(model.settings(**changes), recommended)
        for changes in ({}, {"start": 2000}, {"eta": 0.75}, {"consistency": False})
    ]
    assert labels[0] == recommended.sampler and len(set(labels)) == 4


def test_the_commit_is_known_in_git_and_unknown_outside(tmp_path):
    assert code_commit(tmp_path) == "unknown"
    run = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    (tmp_path / "sr3").mkdir()
    (tmp_path / "sr3" / "a.py").write_text("1")
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run([*run, *words], check=True)
    clean = code_commit(tmp_path)
    assert len(clean) == 40
    (tmp_path / "notes.txt").write_text("not code")
    assert code_commit(tmp_path) == clean
    (tmp_path / "sr3" / "a.py").write_text("2")
    assert code_commit(tmp_path) == f"{clean}-dirty"
    assert code_commit(tmp_path / "sr3") == "unknown", "somebody else's repository around it"
