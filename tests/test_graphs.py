"""CUDA graphs: batches filled up, agreement checked, nothing kept; on a GPU, the same pictures."""

from __future__ import annotations

import gc
import weakref
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import torch

from sr3 import devices, graphs
from sr3.devices import Device, exact, pick_device
from sr3.pipeline import SuperResolver, load
from sr3.unet import UNet
from tests.app_server import make_checkpoints


class Pretended:
    """What CUDA does, on a CPU: what is called under `graph` is computed anew at each replay."""

    def __init__(self, monkeypatch):
        self.recording, self.calls, self.pools = None, 0, []
        for name in ("current_stream", "Stream"):
            monkeypatch.setattr(torch.cuda, name, lambda *_: self)
        monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
        monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", self.Graph)
        monkeypatch.setattr(torch.cuda, "graph", self.graph)

    class Graph:
        program = None

        def replay(self):
            function, inputs, output = self.program
            output.copy_(function(*inputs))

        def pool(self):
            return id(self)

    def wait_stream(self, other):
        assert other is self

    @contextmanager
    def graph(self, graph, pool=None, capture_error_mode="global"):
        assert capture_error_mode == "thread_local"
        self.pools.append(pool)
        self.recording = graph
        yield
        self.recording = None

    def denoiser(self, function):
        """A call that is recorded as CUDA would."""

        def call(*inputs):
            self.calls += 1
            output = function(*inputs)
            if self.recording is not None:
                self.recording.program = function, inputs, output
            return output

        return call


@pytest.fixture
def cuda(monkeypatch):
    return Pretended(monkeypatch)


def mixed(x_t, condition, level):
    return x_t * level.float()[:, None, None, None] + condition


def question(count, seed=0):
    maker = torch.Generator().manual_seed(seed)
    x_t, condition = (torch.rand(count, 3, 4, 4, generator=maker) for _ in range(2))
    return x_t, condition, torch.rand(count, generator=maker, dtype=torch.float64)


def test_a_replay_gives_what_the_call_gives(cuda):
    network, call = torch.nn.Identity(), cuda.denoiser(mixed)
    for count in (1, 3, 4, 2, 3):
        given = question(count, seed=count)
        assert torch.equal(graphs.replayed(network, call, *given), mixed(*given))
    recorded = cuda.calls
    assert recorded == 3 * (graphs.WARM + 2), "sizes 1, 2 and 4: warm, recorded and compared"
    kept = graphs.replayed(network, call, *question(3))
    graphs.replayed(network, call, *question(3, seed=9))
    assert torch.equal(kept, mixed(*question(3))), "a result is the caller's own"
    assert cuda.calls == recorded
    assert cuda.pools[0] is None and len(set(cuda.pools[1:])) == 1, "one memory for all sizes"


def test_a_batch_over_the_largest_runs_without_a_graph(cuda):
    given = question(graphs.SIZES[-1] + 1)
    assert torch.equal(
        graphs.replayed(torch.nn.Identity(), cuda.denoiser(mixed), *given), mixed(*given)
    )
    assert cuda.pools == []


@pytest.mark.parametrize("trouble", ["error", "other values"])
def test_a_graph_that_cannot_be_or_is_wrong_is_not_used(cuda, monkeypatch, caplog, trouble):
    def broken(graph):
        if trouble == "error":
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        graph.program[2].fill_(7)

    monkeypatch.setattr(Pretended.Graph, "replay", broken)
    network, call = torch.nn.Identity(), cuda.denoiser(mixed)
    for count in (1, 2):
        given = question(count)
        assert torch.equal(graphs.replayed(network, call, *given), mixed(*given))
    assert len(cuda.pools) == 1, "it is tried once, at any size"
    assert [r.message for r in caplog.records if "without CUDA graphs" in r.message]


def test_graphs_leave_with_their_network(cuda):
    network = torch.nn.Identity()
    graphs.replayed(network, cuda.denoiser(mixed), *question(1))
    gone, held = weakref.ref(network), len(graphs._held)
    del network
    gc.collect()
    assert gone() is None and len(graphs._held) == held - 1


def test_they_are_used_where_they_were_measured_to_be_faster(cuda, monkeypatch):
    """And never for what must be the same bits in each process."""
    with monkeypatch.context() as pretended:
        pretended.setattr(graphs, "Recorded", lambda call, inputs: call)
        assert 0 < graphs.gain(torch.device("cpu"), torch.float32) < float("inf")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(graphs, "gain", lambda device, precision: 2.5)
    chosen = devices._on_cuda(torch.device("cuda"))
    assert chosen.graphs and chosen.reason == "A GPU, bfloat16, CUDA graphs (2.5x)"
    assert not exact(chosen).graphs
    monkeypatch.setattr(graphs, "gain", lambda device, precision: 1.0)
    assert not devices._on_cuda(torch.device("cuda")).graphs


def test_where_none_can_be_recorded_there_is_no_gain(caplog):
    if torch.cuda.is_available():
        assert graphs.gain(torch.device("cuda"), torch.float32) > 0
    else:
        assert graphs.gain(torch.device("cuda"), torch.float32) == 0
        assert "CUDA graphs are not used" in caplog.text


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return load(str(make_checkpoints(tmp_path_factory.mktemp("checkpoints")) / "tiny"), "cpu")


def test_a_chain_is_replayed(cuda, monkeypatch, tiny):
    """Of a resolver whose device has graphs: each evaluation, and the same pictures."""
    asked = []

    def replayed(network, call, *given):
        assert isinstance(network, UNet)
        asked.append(len(given[0]))
        return call(*given)

    monkeypatch.setattr("sr3.pipeline.replayed", replayed)
    device = Device(torch.device("cpu"), torch.float32, "why", graphs=True)
    quick = SuperResolver(tiny.network, tiny.config, device, "tiny")
    plain = SuperResolver(tiny.network, tiny.config, exact(tiny.device), "tiny")
    face = np.random.default_rng(0).integers(0, 256, (tiny.low_size,) * 2 + (3,), dtype=np.uint8)
    expected = plain.upscale([face], samples=2, steps=3)
    assert np.array_equal(quick.upscale([face], samples=2, steps=3).images, expected.images)
    assert asked == [2, 2, 2]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU here")
def test_on_a_gpu_a_replay_gives_what_its_kernels_give(tiny):
    chosen = pick_device("cuda")
    assert chosen.graphs, chosen.reason
    quick = SuperResolver(tiny.network, tiny.config, chosen, "tiny")
    plain = SuperResolver(tiny.network, tiny.config, exact(chosen), "tiny")
    face = np.random.default_rng(0).integers(0, 256, (tiny.low_size,) * 2 + (3,), dtype=np.uint8)
    found = [each.upscale([face] * 3, steps=4).images.astype(int) for each in (quick, plain)]
    assert np.abs(found[0] - found[1]).max() <= 1
