"""SR3 Lab: can a diffusion super-resolver trained on one domain of faces serve another?

The public names; everything else may move. Importing this pulls in neither a user interface nor a
network client.
"""

import sr3.cores  # noqa: F401  before anything that loads torch
from sr3.config import ModelConfig, SamplerConfig, TrainConfig
from sr3.errors import SR3Error
from sr3.pipeline import Result, Step, SuperResolver, load

__all__ = [
    "ModelConfig",
    "Result",
    "SR3Error",
    "SamplerConfig",
    "Step",
    "SuperResolver",
    "TrainConfig",
    "load",
]
__version__ = "0.1.0"
