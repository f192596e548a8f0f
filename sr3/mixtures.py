"""Networks mixed while the app runs: a splice or an interpolation of two loaded checkpoints.

Invariant: the same bits as loading a checkpoint folder of the same recipe (`sr3.combine`); the two
it is made of are never changed, and a splice shares their weights.
"""

from __future__ import annotations

from sr3.checkpoints import find_checkpoint, load_whole
from sr3.combine import Spliced, interpolate, same_network
from sr3.errors import CheckpointError
from sr3.pipeline import SuperResolver
from sr3.unet import with_weights


def spliced(parent: SuperResolver, tuned: SuperResolver, step: int) -> SuperResolver:
    """`parent` above time step `step` (noisier), `tuned` at and below it; `step` in 1..T-1.

    Raises CheckpointError where the two are different networks or the step is outside.
    """
    _check(parent, tuned)
    if not 1 <= step < parent.schedule.steps:
        raise CheckpointError(
            f"A splice needs a time step in 1..{parent.schedule.steps - 1}; got {step}."
        )
    network = Spliced(parent.network, tuned.network, parent.schedule, step).eval()
    name = f"{tuned.name}-from-{step}-on-{parent.name}"
    return SuperResolver(network, parent.config, parent.device, name)


def interpolated(parent: SuperResolver, tuned: SuperResolver, weight: float) -> SuperResolver:
    """parent + weight (tuned - parent), both read again by their names, in float32.

    Raises CheckpointError where the two are different networks.
    """
    _check(parent, tuned)
    one, other = (load_whole(find_checkpoint(each.name))[1] for each in (parent, tuned))
    weights = interpolate(one.state_dict(), other.state_dict(), weight)
    name = f"{parent.name}-to-{tuned.name}-{weight:g}"
    network = with_weights(parent.config.network, weights, name)
    return SuperResolver(network, parent.config, parent.device, name)


def _check(parent: SuperResolver, tuned: SuperResolver) -> None:
    if not same_network(parent.config, tuned.config):
        raise CheckpointError(
            f"{parent.name} and {tuned.name} are different networks: choose two of one family."
        )
