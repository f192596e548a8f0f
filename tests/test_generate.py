"""The cascade: faces from a mean colour, each by its own seed and index."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from sr3.cli import app
from sr3.config import ModelConfig, SamplerConfig, UNetConfig
from sr3.devices import exact, pick_device
from sr3.errors import CheckpointError, ConfigError
from sr3.folder import save_checkpoint
from sr3.generate import COLOURS, Colours, fit_colours, generate, load_colours
from sr3.images import degrade
from sr3.pipeline import SuperResolver
from sr3.unet import UNet

FAST = SamplerConfig(sampler="ddim", steps=2, start=2000, end=6)


def stage(low, high, patch):
    network = UNetConfig(low, high, 16, (1,), 1, (), 8, 0.0, patch, "log_snr")
    model = ModelConfig(network, prediction="residual", residual_scale=0.3, sampling=FAST)
    torch.manual_seed(low)
    made = UNet(network)
    torch.nn.init.normal_(made.head.weight, std=0.05)
    return SuperResolver(made.eval().requires_grad_(False), model, pick_device("cpu"), f"{low}")


@pytest.fixture(scope="module")
def stages():
    return stage(1, 16, 1), stage(16, 128, 8)


COLOUR = Colours(np.array([0.5, 0.4, 0.3]), np.diag([0.01, 0.02, 0.005]))


def test_colours_follow_their_gaussian():
    drawn = np.stack([COLOUR.draw(3, k)[0, 0] for k in range(4000)]) / 255
    assert np.abs(drawn.mean(axis=0) - COLOUR.mean).max() < 0.01
    assert np.abs(drawn.std(axis=0) - np.sqrt(np.diag(COLOUR.covariance))).max() < 0.01
    assert COLOUR.draw(3, 7).shape == (1, 1, 3) and COLOUR.draw(3, 7).dtype == np.uint8
    assert (COLOUR.draw(3, 7) != COLOUR.draw(4, 7)).any()


def test_the_fit_finds_what_was_drawn():
    generator = np.random.default_rng(0)
    truth = np.array([[4e-3, 1e-3, 0], [1e-3, 5e-3, 5e-4], [0, 5e-4, 3e-3]])
    means = generator.multivariate_normal([0.5, 0.4, 0.45], truth, 20_000)
    pixels = np.rint(means * 255).astype(np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
    found = fit_colours(pixels)
    assert np.abs(found.mean - [0.5, 0.4, 0.45]).max() < 0.002
    assert np.abs(found.covariance - truth).max() < 2e-4


def test_each_stage_keeps_what_it_was_given(stages):
    for face in generate(*stages, COLOUR, 3, seed=1):
        assert face.image.shape == (128, 128, 3) and face.low_res.shape == (16, 16, 3)
        assert np.abs(degrade(face.image, 16).astype(int) - face.low_res).max() <= 6
        mean = face.low_res.reshape(-1, 3).mean(axis=0)
        assert np.abs(mean - face.colour[0, 0]).max() < 16, "clamping may move it a little"


def test_a_face_depends_on_its_seed_and_index_alone(stages):
    # In float32: two stages on end make more of a batch's rounding in 16 bits.
    stages = [SuperResolver(each.network, each.config, exact(each.device)) for each in stages]
    together = list(generate(*stages, COLOUR, 3, seed=5, batch=3))
    alone = list(generate(*stages, COLOUR, 3, seed=5, batch=1))
    assert [face.index for face in alone] == [0, 1, 2]
    for one, other in zip(together, alone, strict=True):
        assert (one.colour == other.colour).all()
        assert np.abs(one.image.astype(int) - other.image).max() <= 1
    assert np.abs(alone[0].image.astype(int) - alone[1].image).mean() > 1
    (other,) = generate(*stages, COLOUR, 1, seed=6)
    assert np.abs(other.image.astype(int) - alone[0].image).mean() > 1


def test_a_batch_that_does_not_fit_is_halved(stages, monkeypatch):
    expected = list(generate(*stages, COLOUR, 2, seed=5, batch=1))
    for model in stages:
        monkeypatch.setattr(model, "_run", limited(model._run))
    found = list(generate(*stages, COLOUR, 2, seed=5, batch=2))
    for one, other in zip(found, expected, strict=True):
        assert (one.image == other.image).all() and (one.low_res == other.low_res).all()


def limited(run):
    def one_at_most(low_res, seeds, settings):
        if len(seeds) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return run(low_res, seeds, settings)

    return one_at_most


def test_stages_that_do_not_fit_are_refused_at_once(stages):
    first, second = stages
    for words, told in (
        ((second, second, COLOUR, 1), "one pixel"),
        ((first, first, COLOUR, 1), "choose stages that fit"),
        ((first, second, COLOUR, 0), "at least 1"),
        ((first, second, COLOUR, 1, -1), "0 or more"),
    ):
        with pytest.raises(ConfigError, match=told):
            generate(*words)


@pytest.mark.parametrize(
    "text",
    [
        None, "[]", "{}", '{"mean": [0, 0], "covariance": [[1, 0], [0, 1]]}',
        '{"mean": [0, 0, 0], "covariance": [[1, 0, 0], [0, -1, 0], [0, 0, 1]]}',
        '{"mean": [0, 0, NaN], "covariance": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}',
    ],
)  # fmt: skip
def test_bad_colours_are_one_sentence(tmp_path, text):
    if text is not None:
        (tmp_path / COLOURS).write_text(text)
    with pytest.raises(CheckpointError, match=COLOURS):
        load_colours(tmp_path)


def test_the_command(stages, tmp_path):
    for name, model in zip(("first", "second"), stages, strict=True):
        weights = model.network.state_dict()
        save_checkpoint(tmp_path / name, model.config, weights, "# A card\n", torch.float32)
    values = {"mean": COLOUR.mean.tolist(), "covariance": COLOUR.covariance.tolist()}
    (tmp_path / "first" / COLOURS).write_text(json.dumps(values))
    words = ["generate", "--first", str(tmp_path / "first"), "--count", "2", "--low-res", "--json",
             "--checkpoint", str(tmp_path / "second"), "--out", str(tmp_path / "out"), "--device",
             "cpu"]  # fmt: skip
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert [row["index"] for row in rows] == [0, 1]
    assert {row["first"] for row in rows} == {str(tmp_path / "first")}
    faces = list(generate(*stages, COLOUR, 2))
    for row, face in zip(rows, faces, strict=True):
        with Image.open(row["output"]) as image, Image.open(row["low_res"]) as small:
            assert np.abs(np.asarray(image).astype(int) - face.image).max() <= 1
            assert (np.asarray(small) == face.low_res).all()
    (tmp_path / "first" / COLOURS).unlink()
    refused = CliRunner().invoke(app, [*words[:-4], "--out", str(tmp_path / "no")])
    assert refused.exit_code == 2 and COLOURS in refused.stderr
    unknown = CliRunner().invoke(
        app, ["generate", "--first", "nowhere", "--out", str(tmp_path / "no")]
    )
    assert unknown.exit_code == 2 and "no checkpoint 'nowhere'" in unknown.stderr
    assert not (tmp_path / "no").exists()
