"""The gap along the chain, recomputed one image at a time; the index, piece by piece."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import integrate, stats
from typer.testing import CliRunner

import sr3
from sr3 import gap, results, srga
from sr3.cli import app
from sr3.domains import domain_from_path
from sr3.errors import ConfigError, DomainError, SR3Error
from sr3.folder import hash_of, save_checkpoint
from sr3.gap import GapSettings, gap_along_chain, measure_gap
from sr3.images import degrade, enlarge, to_tensor
from sr3.presets import MODELS
from sr3.unet import UNet

CONFIG = MODELS["tiny"]


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    torch.manual_seed(0)
    network = UNet(CONFIG.network)
    torch.nn.init.normal_(network.head.weight, std=0.05)
    path = tmp_path_factory.mktemp("parents") / "tiny"
    save_checkpoint(path, CONFIG, network.state_dict(), "# A card\n")
    return path


def pictures(folder, count, seed, detail):
    generator = np.random.default_rng(seed)
    for number in range(count):
        small = generator.integers(0, 256, (detail, detail, 3), dtype=np.uint8)
        Image.fromarray(small).resize((128, 128)).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def smooth(tmp_path_factory):
    """Two thirds of a domain's images are for the test."""
    return pictures(tmp_path_factory.mktemp("smooth"), 16, 0, 5)


@pytest.fixture(scope="module")
def busy(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("busy"), 16, 1, 60)


def domain(folder):
    return domain_from_path(folder, test=16, validation=0)


def measure(parent, folders, **options):
    settings = GapSettings(**{"times": (500,), "draws": 2, "srga": False, **options})
    model = sr3.load(parent, "cpu")
    found = measure_gap(model, hash_of(parent), [domain(folder) for folder in folders], settings)
    return [row for part in found for row in part.rows]


# ----------------------------------------------------------------------------------- the errors
def test_errors_are_those_of_one_image_at_a_time(parent, smooth):
    rows = measure(parent, [smooth], times=(30, 1500), images=3, draws=3, seed=5, batch=2)
    table = {(row["image"], row["metric"]): row["value"] for row in rows}
    assert len(rows) == len(table) == 3 * 2 * 2
    model = sr3.load(parent, "cpu")
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-6, 1e-2, 2000, dtype=torch.float64), 0)
    for place, entry in enumerate(domain(smooth).subset("test", 3)):
        picture = Image.open(smooth / entry.name)
        small = picture.resize((16, 16), Image.Resampling.BICUBIC)
        enlarged = small.resize((128, 128), Image.Resampling.BICUBIC)
        x0, condition = (
            torch.tensor(np.asarray(image) / 127.5 - 1, dtype=torch.float32).permute(2, 0, 1)[None]
            for image in (picture, enlarged)
        )
        for time in (30, 1500):
            absolute, squared = [], []
            for draw in range(3):
                entropy = np.random.SeedSequence([5 + draw, place]).generate_state(1, np.uint64)
                generator = torch.Generator().manual_seed(int(entropy[0] >> 1))
                eps = torch.randn(3, 128, 128, generator=generator)[None]
                signal = float(alpha_bar[time - 1])
                x_t = signal**0.5 * x0 + (1 - signal) ** 0.5 * eps
                level = torch.tensor([signal**0.5], dtype=torch.float64)
                error = (model.denoise(x_t, condition, level).clamp(-1, 1) - x0).numpy()
                absolute.append(np.abs(error).mean())
                squared.append((error**2).mean())
            for name, values in (("x0_mae", absolute), ("x0_mse", squared)):
                found = table[entry.name, f"{name}@t={time}"]
                assert found == pytest.approx(np.mean(values), rel=2e-4)


def test_every_domain_gets_the_same_noise(parent, smooth, busy, monkeypatch):
    seen, real = [], gap.SeededNoise

    def spy(pairs, shape):
        seen.append(tuple(pairs))
        return real(pairs, shape)

    monkeypatch.setattr(gap, "SeededNoise", spy)
    measure(parent, [smooth, busy], times=(10, 900), images=3, draws=2)
    one = [((0, 0), (0, 1), (0, 2)), ((1, 0), (1, 1), (1, 2))]
    assert seen == one * 4


def test_rows_are_a_table_and_the_gap_has_intervals(parent, smooth, busy, tmp_path):
    rows = measure(parent, [smooth, busy], times=(50, 1500))
    results.append(rows, tmp_path)
    table = results.read(tmp_path)
    assert len(table) == len(rows) == 2 * 16 * 2 * 2, "every row has a key of its own"
    found = gap_along_chain(table, "smooth0", "busy0")
    assert list(found["time"]) == [50, 1500]
    for _, row in found.iterrows():
        part = table[table["metric"] == f"x0_mae@t={int(row['time'])}"].groupby("domain")["value"]
        low, high = part.mean()["smooth0"], part.mean()["busy0"]
        assert row["gap"] == pytest.approx(high - low) and row["ratio"] == pytest.approx(high / low)
        error = np.sqrt((part.var() / part.count()).sum())  # the normal approximation
        assert row["high"] - row["low"] == pytest.approx(2 * 1.96 * error, rel=0.15)
        assert 0 < row["low"] < row["gap"] < row["high"]
        assert row["ratio_low"] < row["ratio"] < row["ratio_high"]
    again = pd.concat([table, table.assign(checkpoint_hash="other")])
    with pytest.raises(SR3Error, match="exactly one"):
        gap_along_chain(again, "smooth0", "busy0")
    summary = results.summary(table)
    assert set(summary["n"]) == {16} and (summary["low"] < summary["mean"]).all()


@pytest.mark.parametrize(
    ("options", "error"),
    [({"times": (0,)}, ConfigError), ({"times": (2001,)}, ConfigError),
     ({"times": ()}, ConfigError), ({"images": 17}, DomainError),
     ({"split": "validation"}, DomainError),
     ({"images": 3, "srga": True}, DomainError), ({"draws": 0}, ConfigError)],
)  # fmt: skip
def test_mistakes_are_told_before_anything_runs(parent, smooth, options, error):
    with pytest.raises(error):
        measure(parent, [smooth], **options)


def test_metric_names_are_read_back():
    assert gap.read_metric(gap.metric_name("x0_mae", 500)) == ("x0_mae", 500, None)
    assert gap.read_metric(gap.metric_name("srga", 9, "a+b|c")) == ("srga", 9, "a+b|c")
    assert gap.read_metric("psnr") is None


def test_bounds_are_values_that_a_resample_has():
    """Of 4 images of 1 and 2 in each domain, every resampled gap is a multiple of a quarter."""
    settings = {"checkpoint_hash": "a", "sampler": "s", "seed": 0, "metric": "x0_mae@t=9"}
    rows = [
        settings | {"domain": d, "file_list_hash": d, "image": str(k), "value": 1.0 + k % 2}
        for d in ("one", "other")
        for k in range(4)
    ]
    for seed in range(8):
        (found,) = gap_along_chain(pd.DataFrame(rows), "one", "other", seed=seed).to_dict("records")
        assert found["low"] * 4 == round(found["low"] * 4)
        assert found["high"] * 4 == round(found["high"] * 4)


def test_an_error_leaves_no_hook_on_the_shared_network(parent, smooth, monkeypatch):
    model = sr3.load(parent, "cpu")
    settings = GapSettings((500,), images=4, draws=1, srga=True)
    monkeypatch.setattr(gap, "SeededNoise", None)
    with pytest.raises(TypeError):
        list(measure_gap(model, hash_of(parent), [domain(smooth)], settings))
    assert not [part for part in model.network.modules() if part._forward_pre_hooks]


# ------------------------------------------------------------------------------------- the index
@pytest.mark.parametrize(("shape", "scale"), [(0.6, 0.1), (1.0, 2.0), (2.0, 1.0), (5.0, 30.0)])
def test_the_fit_finds_what_was_sampled(shape, scale):
    sample = stats.gennorm.rvs(shape, scale=scale, size=400_000, random_state=1)
    found = srga.fit(sample)
    assert found.shape == pytest.approx(shape, rel=0.03)
    assert found.scale == pytest.approx(scale, rel=0.03)


@pytest.mark.parametrize(
    ("p", "q"), [((2, 1), (2, 3)), ((1, 1), (2, 1)), ((0.8, 0.5), (1.5, 2)), ((3, 2), (1, 1))]
)
def test_the_divergence_is_the_integral(p, q):
    one, other = (stats.gennorm(shape, scale=scale) for shape, scale in (p, q))

    def integrand(x):
        return one.pdf(x) * (one.logpdf(x) - other.logpdf(x))

    expected = 2 * integrate.quad(integrand, 0, np.inf, limit=500)[0]  # both are even
    found = srga.divergence(*(srga.GeneralizedGaussian(*each) for each in (p, q)))
    assert found == pytest.approx(expected, rel=1e-6)
    assert srga.divergence(*[srga.GeneralizedGaussian(*p)] * 2) == pytest.approx(0, abs=1e-12)


def test_components_are_the_principal_ones():
    features = np.random.default_rng(0).normal(size=(12, 40)) * np.linspace(1, 3, 40)
    u, s, _ = np.linalg.svd(features - features.mean(axis=0), full_matrices=False)
    found = srga.components(features, 5)
    assert np.abs(np.abs(found) - np.abs(u[:, :5] * s[:5])).max() < 1e-9
    assert srga.components(features).shape == (12, 11)


def test_outliers_are_cut_and_the_index_is_the_logarithm():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(60, 300))
    assert len(srga.pooled(features)) == 60 * 59
    assert srga.index(features, features) == 0
    other = features * 1.1
    one = srga.fit(srga.pooled(features))
    kl = srga.divergence(one, srga.fit(srga.pooled(other)))
    assert kl > 1e-4
    assert srga.index(features, other) == pytest.approx(np.log10(kl + 1e-5) + 5)
    assert srga.divergence_of(srga.index(features, other)) == pytest.approx(kl)
    spiked = features.copy()
    spiked[0] += 100
    values = srga.components(spiked).ravel()
    assert np.abs(srga.pooled(spiked)).max() <= 5 * values.std() < np.abs(values).max()
    with pytest.raises(SR3Error):
        srga.index(np.ones((5, 4)), features)
    with pytest.raises(SR3Error):
        srga.index(features[:1], features)


def domains_of(count, mixing):
    """Features of a spiky domain, twice as many, and of a flatter one."""
    values = mixing.shape[0]
    one = stats.gennorm.rvs(0.7, size=(2 * count, values), random_state=1) @ mixing
    return one, 1.5 * stats.gennorm.rvs(3, size=(count, values), random_state=2) @ mixing


def halves_and_across(count, mixing, splits=5):
    """The mean index between halves, and between a half and the other domain."""
    one, other = domains_of(count, mixing)
    halves, across = [], []
    for split in range(splits):
        order = np.random.default_rng(split).permutation(2 * count)
        halves.append(srga.index(one[order[:count]], one[order[count:]]))
        across.append(srga.index(one[order[:count]], other))
    return np.array(halves), np.array(across)


def test_two_halves_of_a_domain_are_nearer_than_another_domain():
    mixing = np.random.default_rng(0).normal(size=(400, 400))
    halves, across = halves_and_across(80, mixing)
    assert halves.max() < across.min() - 1
    assert halves.mean() < 0.5 * across.mean()


def test_between_two_halves_it_is_near_0_with_enough_images():
    """Where many components share the variance a few hundred images are enough."""
    halves, across = halves_and_across(300, np.eye(600))
    assert halves.mean() < 0.8 and halves.max() < 1 and across.min() > 5


def test_what_two_halves_give_falls_with_the_images_and_a_difference_stays():
    """With few strong components, as a network's features have them, the floor is high."""
    mixing = np.eye(400) * 0.97 ** np.arange(400)
    (few, far), (many, still_far) = (halves_and_across(count, mixing) for count in (20, 160))
    assert few.mean() > 2 and many.mean() < few.mean() - 1
    assert min(far.min(), still_far.min()) > 4


def test_the_index_rows_are_the_index_of_the_features(parent, smooth, busy):
    rows = measure(parent, [smooth, busy], times=(50,), images=9, draws=2, seed=3, srga=True)
    model, features = sr3.load(parent, "cpu"), {}
    level = model.schedule.level(50.0)
    for folder in (smooth, busy):
        parts = []
        for place, entry in enumerate(domain(folder).subset("test", 9)):
            truth = np.asarray(Image.open(folder / entry.name))
            x0, c = (to_tensor(x[None]) for x in (truth, enlarge(degrade(truth))))
            eps = gap.SeededNoise([(3, place)], (3, 128, 128))()
            a, s = float(level), float((1 - level**2).sqrt())
            with gap.Features(model.network) as watch:
                model.denoise(a * x0 + s * eps, c, level[None])
            parts.append(watch.take()[0])
        features[folder.name] = np.stack(parts)
    reference = features["smooth0"]
    for name, found in features.items():
        values = {r["seed"]: r["value"] for r in rows
                  if r["metric"] == "srga@t=50|smooth0" and r["domain"] == name}  # fmt: skip
        assert set(values) == set(range(gap.SPLITS))
        generator = np.random.default_rng(2)
        order = generator.permutation(9)
        rest = order[4:8] if name == "smooth0" else generator.permutation(9)[:4]
        expected = srga.index(reference[order[:4]], found[rest])
        assert values[2] == pytest.approx(expected, abs=0.02)
    assert not model.network.head._forward_pre_hooks


def test_features_are_what_the_last_convolution_is_given(parent):
    network = sr3.load(parent, "cpu").network
    x, c = (torch.randn(2, 3, 128, 128) for _ in range(2))
    with gap.Features(network) as features:
        out = network(c, x, torch.tensor([0.5, 0.9]))
    maps = torch.tensor(features.take()).view(2, 16, 16, 16)
    expected = torch.nn.functional.pixel_shuffle(network.head(maps), 8)
    assert float((expected - out).abs().max()) < 1e-5
    network(c, x, torch.tensor([0.5, 0.9]))
    assert len(features.take()) == 2 and not network.head._forward_pre_hooks


def test_the_command(parent, smooth, busy, tmp_path):
    words = ["gap", "--checkpoint", parent, "--domain", smooth, "--domain", busy, "--times", "500",
             "--split", "train", "--images", 4, "--draws", 1, "--device", "cpu", "--json",
             "--out", tmp_path / "gap.parquet"]  # fmt: skip
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    table = results.read(tmp_path / "gap.parquet")
    printed = json.loads(done.stdout)
    assert {row["metric"] for row in printed} == {
        "x0_mae@t=500",
        "x0_mse@t=500",
        "srga@t=500|smooth0",
    }
    mean = table[(table["metric"] == "x0_mae@t=500") & (table["domain"] == "busy0")]["value"].mean()
    assert mean in [row["mean"] for row in printed]
    bad = CliRunner().invoke(
        app, [str(w) for w in words[:7]] + ["--times", "0", "--out", "x.parquet"]
    )
    assert bad.exit_code == 2 and "1..2000" in bad.stderr
