"""LPIPS, the learned perceptual distance, and the one place that finds and loads its backbone.

Invariants: float32 on the CPU, so no number depends on the device that drew the image; one network
a process; importing this module loads neither lpips nor torchvision. Where the backbone cannot be
had, `load_lpips` raises MetricUnavailable with the reason within seconds.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import pickle
import sys
import threading
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sr3.errors import DownloadError, ImageError, MetricUnavailable
from sr3.hub import download
from sr3.images import Pixels, to_tensor
from sr3.pins import offline

IMAGENET_FILE = "alexnet-owt-7be5be79.pth"  # torchvision's, in the torch hub folder
IMAGENET_BACKBONE = "AlexNet (torchvision IMAGENET1K_V1)"
# SHA-256 over the ten feature tensors of that file (`_digest`): names the backbone by what it is,
# not by where it came from.
IMAGENET_DIGEST = "44534cd66e37ce9a6258bb5e845ef8cd47c33aa68024441c7e616d63c0c1c41a"
SMALLEST = 31  # pixels a side that AlexNet's pooling leaves something of


class Lpips:
    """LPIPS v0.1 (Zhang et al. 2018) with an AlexNet backbone; lower is more alike, 0 the same.

    `lpips(result, reference) -> (batch,)` of uint8 RGB (batch, height, width, 3), `batch_size` at
    a time; raises ImageError. Safe to share between threads. `backbone` belongs beside every
    number; make one with `load_lpips`.
    """

    def __init__(self, network: nn.Module, backbone: str) -> None:
        self.backbone = backbone
        self._network = network.requires_grad_(False).eval()

    @torch.no_grad()
    def __call__(
        self, result: Pixels, reference: Pixels, batch_size: int = 32
    ) -> NDArray[np.float64]:
        _check(result, reference)
        result, reference = (
            images.reshape(-1, *images.shape[-3:]) for images in (result, reference)
        )
        distances = [
            self._network(
                to_tensor(result[start : start + batch_size]),  # (n, 3, h, w) in [-1, 1]
                to_tensor(reference[start : start + batch_size]),
            ).flatten()  # (n, 1, 1, 1) -> (n,)
            for start in range(0, len(result), batch_size)
        ]
        return torch.cat(distances).double().numpy() if distances else np.empty(0)


def _check(result: Pixels, reference: Pixels) -> None:
    kinds = {
        (images.dtype.name, images.ndim in (3, 4), images.shape) for images in (result, reference)
    }
    if kinds != {("uint8", True, result.shape)} or min(result.shape[-3:-1]) < SMALLEST:
        raise ImageError(
            f"LPIPS compares two uint8 (batch, height, width, 3) of {SMALLEST} pixels a side or "
            f"more, not {result.dtype} {result.shape} and {reference.dtype} {reference.shape}"
        )


_loaded: dict[tuple[str, bool, str], Lpips | str] = {}  # an Lpips, or why there is none
_loading = threading.Lock()


def load_lpips() -> Lpips:
    """The process's one LPIPS; raises MetricUnavailable with the reason, quickly, where it cannot.

    The backbone is the file named by SR3_LPIPS_WEIGHTS (a torchvision AlexNet state dict, .pth or
    .safetensors; its features suffice), else torchvision's own file from the torch hub folder,
    fetched once unless offline (`sr3.pins.offline`). The answer, good or bad, is kept until
    one of these settings changes.
    """
    key = (os.environ.get("SR3_LPIPS_WEIGHTS", ""), offline(), torch.hub.get_dir())
    with _loading:
        if key not in _loaded:
            try:
                _loaded[key] = _build_lpips(_find_weights(*key))
            except MetricUnavailable as error:
                _loaded[key] = str(error)
        found = _loaded[key]
    if isinstance(found, str):
        raise MetricUnavailable(found)
    return found


def _build_lpips(path: Path) -> Lpips:
    weights = _read_features(path)
    # `catch_warnings` is process-wide; torchvision's deprecated `pretrained` leaves no other way.
    # The random first weights must not move the caller's random numbers: hence fork_rng.
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        network = _import_lpips().LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False)
    # lpips cuts torchvision's `features.N` into `sliceK.N`.
    renamed = {name: f"features.{name.split('.', 1)[1]}" for name in network.net.state_dict()}
    if missing := sorted(set(renamed.values()) ^ set(weights)):
        raise MetricUnavailable(
            f"LPIPS is not available: {path.name} is not a torchvision AlexNet state dict "
            f"(missing or unknown: {', '.join(missing[:3])})."
        )
    try:
        network.net.load_state_dict({ours: weights[theirs] for ours, theirs in renamed.items()})
    except RuntimeError as error:  # shapes
        raise _unreadable(path, error) from error
    digest = _digest(weights)
    known = digest == IMAGENET_DIGEST
    return Lpips(network, IMAGENET_BACKBONE if known else f"AlexNet (sha256 {digest[:12]})")


def _digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of names and float32 values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _import_lpips() -> Any:
    """lpips imports torchvision, which a CPU-only torch beside a CUDA torchvision cannot."""
    try:
        _define_missing_operators()
        return importlib.import_module("lpips")
    except (ImportError, RuntimeError) as error:
        raise MetricUnavailable(
            f"LPIPS is not available: the lpips package cannot be imported ({_first_line(error)}); "
            "pip install lpips."
        ) from error


def _define_missing_operators() -> None:
    """Declare the operators that torchvision assumes when its compiled library cannot be loaded.

    torchvision then attaches Python code to nms and qnms and dies on import with "operator
    torchvision::nms does not exist". LPIPS calls neither: their schemas are enough.
    """
    spec = None if "torchvision" in sys.modules else importlib.util.find_spec("torchvision")
    if spec is None:
        return
    # An import that failed earlier leaves submodules without their parent, and fails again.
    for name in [name for name in sys.modules if name.startswith("torchvision.")]:
        del sys.modules[name]
    # Where the library does load, its own operators must come first: it would refuse ours.
    for folder in spec.submodule_search_locations or ():
        for library in [*Path(folder).glob("_C*.so"), *Path(folder).glob("_C*.pyd")]:
            with suppress(OSError):
                torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{name}", schema)


def _find_weights(named: str, no_network: bool, hub: str) -> Path:
    if named:
        path = Path(named).expanduser()
        if not path.is_file():
            raise MetricUnavailable(
                f"LPIPS is not available: SR3_LPIPS_WEIGHTS names {path.name}, which is no file."
            )
        return path
    path = Path(hub) / "checkpoints" / IMAGENET_FILE
    if path.is_file():
        return path
    remedy = "set SR3_LPIPS_WEIGHTS to a torchvision AlexNet state dict"
    if no_network:
        raise MetricUnavailable(
            "LPIPS is not available: its AlexNet weights are not here and offline mode is on; "
            f"{remedy}, or run `python -m sr3 checkpoints pull --all` once with a network."
        )
    try:
        download(_imagenet_url(), path)
    except DownloadError as error:
        raise MetricUnavailable(
            f"LPIPS is not available: its AlexNet weights could not be downloaded "
            f"({_first_line(error)}); {remedy}."
        ) from error
    return path


def _imagenet_url() -> str:
    """Where torchvision itself fetches that file."""
    _import_lpips()  # which makes torchvision importable
    weights = importlib.import_module("torchvision.models").AlexNet_Weights.IMAGENET1K_V1
    return str(weights.url)


def _read_features(path: Path) -> dict[str, Tensor]:
    """The `features.*` tensors of a state dict; LPIPS has no use for the classifier's."""
    try:
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
        return {name: value for name, value in weights.items() if name.startswith("features.")}
    except (
        OSError, EOFError, ValueError, RuntimeError, AttributeError, KeyError,
        pickle.UnpicklingError, SafetensorError,
    ) as error:  # fmt: skip
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> MetricUnavailable:
    return MetricUnavailable(
        f"LPIPS is not available: {path.name} cannot be read as AlexNet weights "
        f"({_first_line(error)}); replace or delete it."
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".:")
