"""Settings: round trips through JSON, and one clear message for each wrong value."""

from __future__ import annotations

import dataclasses
import json

import pytest

from sr3.combine import Parent
from sr3.config import (
    ModelConfig,
    SamplerConfig,
    ScheduleConfig,
    TrainConfig,
    UNetConfig,
    from_dict,
    name_changes,
    to_dict,
)
from sr3.errors import ConfigError
from sr3.presets import LITE_TRAINING, MODELS, PUBLIC_TRAINING, preset

CONFIGS = [
    UNetConfig(),
    UNetConfig(8, 64, 32, (1, 3), 1, (), norm_groups=16, dropout=0.0, patch=2, embedding="log_snr"),
    ScheduleConfig(),
    ScheduleConfig(1e-4, 0.02, 1000),
    SamplerConfig(),
    SamplerConfig("ddim", 7, "karras", 900, 3, 0.5, clamp=False, consistency=False),
    TrainConfig(steps=5),
    TrainConfig(minutes=0.5, range=(500, 1000), loss="l1", levels="uniform", flips=False, seed=7),
    LITE_TRAINING,
    PUBLIC_TRAINING,
    ModelConfig(),
    ModelConfig(
        UNetConfig(dropout=0.1),
        ScheduleConfig(steps=100),
        "residual",
        0.2,
        SamplerConfig(start=100),
    ),
    *MODELS.values(),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_every_config_comes_back_from_json(config):
    found = from_dict(type(config), json.loads(json.dumps(to_dict(config))))
    assert found == config
    assert hash(found) == hash(config)  # tuples again, not lists
    assert from_dict(type(config), to_dict(config)) == config


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_every_config_is_frozen(config):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, dataclasses.fields(config)[0].name, 1)


@pytest.mark.parametrize("kind", [UNetConfig, ScheduleConfig, SamplerConfig, ModelConfig])
def test_what_is_not_given_is_the_default(kind):
    assert from_dict(kind, {}) == kind()


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (UNetConfig, {"chanels": 64}),
        (SamplerConfig, {"steps": 5, "stepps": 5}),
        (ModelConfig, {"network": {"chanels": 64}}),
        (ModelConfig, {"sampling": {"stepps": 5}}),
    ],
)
def test_an_unknown_key_is_named(kind, values):
    with pytest.raises(ConfigError, match=r"'(chanels|stepps)'"):
        from_dict(kind, values)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (UNetConfig, "channels", "64"),
        (UNetConfig, "channels", 64.0),
        (UNetConfig, "channels", True),
        (UNetConfig, "channels", None),
        (UNetConfig, "multipliers", 3),
        (UNetConfig, "multipliers", "123"),
        (UNetConfig, "multipliers", [1, "2"]),
        (UNetConfig, "dropout", "0.2"),
        (UNetConfig, "dropout", True),
        (UNetConfig, "embedding", 3),
        (ScheduleConfig, "steps", [2000]),
        (SamplerConfig, "clamp", 1),
        (SamplerConfig, "clamp", "yes"),
        (SamplerConfig, "eta", None),
        (SamplerConfig, "sampler", None),
        (ModelConfig, "network", [64]),
        (ModelConfig, "network", None),
        (ModelConfig, "sampling", "dpmpp"),
        (TrainConfig, "steps", "all"),
        (TrainConfig, "range", 500),
        (TrainConfig, "range", [0, 500.5]),
    ],
)
def test_a_wrong_type_is_refused_by_name(kind, name, value):
    with pytest.raises(ConfigError, match="must be") as caught:
        from_dict(kind, {name: value})
    assert name in str(caught.value) or kind is ModelConfig


def test_a_setting_without_a_default_must_be_given():
    with pytest.raises(ConfigError, match="Parent lacks 'name', 'sha256'"):
        from_dict(Parent, {})


@pytest.mark.parametrize("values", [None, 3, "steps", [1], True])
def test_something_other_than_an_object_is_refused(values):
    with pytest.raises(ConfigError, match="SamplerConfig"):
        from_dict(SamplerConfig, values)


def test_a_whole_number_serves_as_a_float():
    found = from_dict(SamplerConfig, {"eta": 1})
    assert found.eta == 1.0 and isinstance(found.eta, float)
    assert from_dict(TrainConfig, {"steps": None, "minutes": 3}).minutes == 3.0


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (UNetConfig, {"channels": 0}, "channels must be at least 1; got 0"),
        (UNetConfig, {"low_res": -16}, "low_res must be at least 1; got -16"),
        (UNetConfig, {"patch": 0}, "patch must be at least 1"),
        (UNetConfig, {"multipliers": ()}, "multipliers"),
        (UNetConfig, {"multipliers": (1, 0)}, "multipliers|width"),
        (UNetConfig, {"dropout": 1.0}, r"dropout must be in \[0, 1\); got 1.0"),
        (UNetConfig, {"dropout": float("nan")}, "dropout"),
        (UNetConfig, {"embedding": "sine"}, "level, log_snr; got 'sine'"),
        (UNetConfig, {"high_res": 120}, "multiple of 16.*got 120"),
        (UNetConfig, {"high_res": 96, "patch": 4}, "multiple of 64.*got 96"),
        (UNetConfig, {"channels": 48}, "multiple of norm_groups=32; got 48"),
        (ScheduleConfig, {"steps": 0}, "steps must be at least 1; got 0"),
        (ScheduleConfig, {"beta_start": 0.0}, "beta_start"),
        (ScheduleConfig, {"beta_start": 0.02}, "0.02 and 0.01"),
        (ScheduleConfig, {"beta_end": 1.0}, "beta_end"),
        (ScheduleConfig, {"beta_end": float("nan")}, "beta_end"),
        (SamplerConfig, {"sampler": "euler"}, "ancestral, ddim, dpmpp; got 'euler'"),
        (SamplerConfig, {"spacing": "even"}, "uniform, log_snr, karras; got 'even'"),
        (SamplerConfig, {"steps": 0}, "steps must be at least 1; got 0"),
        (SamplerConfig, {"start": 5, "end": 6}, "got 5 and 6"),
        (SamplerConfig, {"end": 0}, "end at least 1"),
        (SamplerConfig, {"eta": -0.5}, "eta must be finite, 0 or more; got -0.5"),
        (SamplerConfig, {"eta": float("nan")}, "eta"),
        (SamplerConfig, {"eta": float("inf")}, "eta must be finite"),
        (ModelConfig, {"prediction": "score"}, "eps, v, x0, residual; got 'score'"),
        (ModelConfig, {"residual_scale": 0.0}, "residual_scale"),
        (ModelConfig, {"residual_scale": float("inf")}, "residual_scale must be finite"),
        (ModelConfig, {"schedule": ScheduleConfig(steps=100)}, "100 steps.*got 2000"),
        (TrainConfig, {}, "either steps or minutes"),
        (TrainConfig, {"steps": 5, "minutes": 5.0}, "either steps or minutes"),
        (TrainConfig, {"steps": 0}, "steps must be at least 1; got 0"),
        (TrainConfig, {"minutes": 0.0}, "minutes must be finite and above 0"),
        (TrainConfig, {"minutes": float("inf")}, "minutes must be finite and above 0; got inf"),
        (TrainConfig, {"steps": 1, "learning_rate": -1.0}, "learning_rate must be finite and ab"),
        (TrainConfig, {"steps": 1, "learning_rate": float("nan")}, "learning_rate.*got nan"),
        (TrainConfig, {"steps": 1, "seed": -1}, "a seed must be in 0..2147483647; got -1"),
        (TrainConfig, {"steps": 1, "seed": 2**31}, "a seed must be in .*; got 2147483648"),
        (TrainConfig, {"steps": 1, "warmup": -1}, "warmup must be 0 or more; got -1"),
        (TrainConfig, {"steps": 1, "clip": 0.0}, "clip must be finite and above 0"),
        (TrainConfig, {"steps": 1, "weight_decay": -0.1}, "weight_decay must be finite, 0 or more"),
        (TrainConfig, {"steps": 1, "weight_cap": float("nan")}, "weight_cap must be finite and"),
        (TrainConfig, {"steps": 1, "batch": 0}, "batch must be at least 1; got 0"),
        (TrainConfig, {"steps": 1, "optimizer": "sgd"}, "adamw, muon; got 'sgd'"),
        (TrainConfig, {"steps": 1, "loss": "huber"}, "l1, l2; got 'huber'"),
        (TrainConfig, {"steps": 1, "levels": "cosine"}, "got 'cosine'"),
        (TrainConfig, {"steps": 1, "precision": "float16"}, "float32, bfloat16; got 'float16'"),
        (TrainConfig, {"steps": 1, "ema": 1.0}, r"ema must be in \[0, 1\)"),
        (TrainConfig, {"steps": 1, "decay": 1.5}, r"decay must be in \[0, 1\]; got 1.5"),
        (TrainConfig, {"steps": 1, "range": (500, 500)}, "0 <= A < B; got 500:500"),
        (TrainConfig, {"steps": 1, "range": (-1, 500)}, "got -1:500"),
    ],
)
def test_a_value_out_of_range_says_what_is_allowed(kind, values, message):
    with pytest.raises(ConfigError, match=message):
        kind(**values)


@pytest.mark.parametrize("pair", [[], [5], [0, 500, 1000]])
def test_a_range_of_other_than_two_steps_is_refused(pair):
    with pytest.raises(ConfigError, match="range"):
        from_dict(TrainConfig, {"steps": 1, "range": pair})


def test_presets_are_found_by_name():
    assert preset("lite") == (MODELS["lite"], LITE_TRAINING)
    assert preset("sr3-16-128") == (MODELS["sr3-16-128"], PUBLIC_TRAINING)
    with pytest.raises(ConfigError, match=r"'liet'.*lite"):
        preset("liet")


def test_changes_are_named_with_both_values():
    one = {"batch": 2, "gone": True, "net": {"width": 8, "depth": 1}, "same": [1], "of": "a" * 64}
    two = {"batch": 4, "net": {"width": 16, "depth": 1}, "same": [1], "of": "b" * 64, "new": None}
    assert name_changes(one, two) == (
        "batch 2 there, 4 here; gone True there, missing here; net.width 8 there, 16 here; "
        "of aaaaaaaaaaaa there, bbbbbbbbbbbb here; new missing there, None here"
    )
    assert name_changes(one, one) == ""
