"""The named networks: the two public ones exactly, and the lite family that two cores can train.

Each preset is a model's config; `python -m sr3 train --preset NAME` trains it. The score of a
preset is that of the checkpoint made with it, in that checkpoint's card; where no checkpoint in
the registry names the preset, it is unmeasured.
"""

from __future__ import annotations

from sr3.config import ModelConfig, SamplerConfig, TrainConfig, UNetConfig
from sr3.errors import ConfigError

# The public samplers run all 2,000 steps, clamp and know no consistency; our defaults do better
# in a few steps and apply to their weights too.
_PUBLIC_SAMPLING = SamplerConfig(steps=20, start=2000)
# Chosen on validation images (`benchmarks/samplers.py`): from the noised low-resolution estimate at
# a noise-to-signal ratio of 25 down to 0.01, without fresh noise (eta 0), which blurs less.
_LITE_SAMPLING = SamplerConfig(sampler="ddim", eta=0.0, steps=10, start=1600, end=6)

MODELS: dict[str, ModelConfig] = {
    "sr3-16-128": ModelConfig(network=UNetConfig(), sampling=_PUBLIC_SAMPLING),
    "sr3-64-512": ModelConfig(
        network=UNetConfig(
            low_res=64,
            high_res=512,
            multipliers=(1, 2, 4, 8, 16),
            blocks=1,
            attention_sizes=(),
            norm_groups=16,
            dropout=0.0,
        ),
        sampling=_PUBLIC_SAMPLING,
    ),
    "lite": ModelConfig(
        network=UNetConfig(
            channels=96,
            multipliers=(1, 2, 2),
            blocks=1,
            attention_sizes=(8,),
            norm_groups=16,
            dropout=0.0,
            patch=4,
            embedding="log_snr",
        ),
        prediction="residual",
        sampling=_LITE_SAMPLING,
    ),
    # Faces from nothing but a mean colour, the cascade's first stage (`sr3.generate`): 1 -> 16.
    "faces-16": ModelConfig(
        network=UNetConfig(
            low_res=1,
            high_res=16,
            channels=64,
            multipliers=(1, 2, 2),
            blocks=1,
            attention_sizes=(8,),
            norm_groups=16,
            dropout=0.1,
            embedding="log_snr",
        ),
        prediction="v",
        sampling=SamplerConfig(sampler="dpmpp", steps=20, start=2000, end=6),
    ),
    "tiny": ModelConfig(  # for tests and first tries: a second an epoch of nothing
        network=UNetConfig(
            channels=16,
            multipliers=(1, 2),
            blocks=1,
            attention_sizes=(),
            norm_groups=8,
            dropout=0.0,
            patch=8,
            embedding="log_snr",
        ),
        prediction="residual",
        sampling=_LITE_SAMPLING,
    ),
}

LITE_TRAINING = TrainConfig(minutes=60, optimizer="muon", learning_rate=1e-3, loss="l1")
GENERATOR_TRAINING = TrainConfig(
    minutes=30, batch=64, optimizer="muon", learning_rate=1e-3, levels="uniform", ema=0.9995
)
PUBLIC_TRAINING = TrainConfig(
    steps=1_000_000,
    batch=4,
    learning_rate=1e-4,
    warmup=5000,
    decay=0.0,
    ema=0.9999,
    loss="l1",
    levels="uniform",
)


def preset(name: str) -> tuple[ModelConfig, TrainConfig]:
    """A preset's model and how it is trained by default. Raises ConfigError for another name."""
    if name not in MODELS:
        raise ConfigError(f"There is no preset {name!r}; there are {', '.join(MODELS)}.")
    trainings = {"sr3-16-128": PUBLIC_TRAINING, "sr3-64-512": PUBLIC_TRAINING,
                 "faces-16": GENERATOR_TRAINING}  # fmt: skip
    return MODELS[name], trainings.get(name, LITE_TRAINING)
