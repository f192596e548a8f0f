"""The engine: whose turn it is, what happens when a tick fails, and that nothing is left behind."""

from __future__ import annotations

import gc
import itertools
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sr3.combine import Spliced
from sr3.config import ModelConfig, SamplerConfig, UNetConfig
from sr3.devices import Device
from sr3.engine import MAX_FRAMES, RESTARTED, Engine, EngineBusy, Frame, Job
from sr3.errors import ConfigError, ImageError, SR3Error
from sr3.images import to_uint8
from sr3.jobs import KEPT_BYTES
from sr3.pipeline import SuperResolver
from sr3.presets import MODELS
from sr3.schedule import NoiseSchedule
from sr3.turns import TURN, Pace, in_order, longest_unserved, ticks_to_end
from sr3.unet import UNet

SMALL = UNetConfig(low_res=2, high_res=16, channels=8, multipliers=(1,), blocks=1,
                   attention_sizes=(), norm_groups=4, dropout=0.0, patch=8)  # fmt: skip
CONFIG = ModelConfig(network=SMALL, prediction="x0", sampling=SamplerConfig(sampler="ddim"))
EXACT = Device(torch.device("cpu"), torch.float32, "for the tests")
GREY = np.full((2, 2, 3), 128, np.uint8)
POISON = np.full((2, 2, 3), 255, np.uint8)  # a picture that `Network` can be told to fail on


class Network(nn.Module):
    """Answers with the condition; each forward is recorded, `before` may wait or raise."""

    def __init__(self, before: Callable[[Tensor], None] = lambda _: None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.before = before
        self.batches: list[int] = []

    def forward(self, condition: Tensor, noisy: Tensor, noise_level: Tensor) -> Tensor:
        self.batches.append(len(condition))
        self.before(condition)
        return condition * self.weight


class Gate:
    """Holds each forward until it is let through, so that a test decides what happens when."""

    def __init__(self) -> None:
        self.ticks = threading.Semaphore(0)
        self.inside = threading.Semaphore(0)

    def __call__(self, _: Tensor) -> None:
        self.inside.release()
        assert self.ticks.acquire(timeout=20)

    def let(self, forwards: int = 1) -> None:
        """So many forwards, each begun before the next."""
        for _ in range(forwards):
            self.ticks.release()
            assert self.inside.acquire(timeout=20)


def resolver(network: nn.Module | None = None, name: str = "fake") -> SuperResolver:
    return SuperResolver(network or Network(), CONFIG, EXACT, name)


def steps(count: int) -> SamplerConfig:
    return SamplerConfig(sampler="ddim", steps=count)


def cancel_all(jobs: Sequence[Job], gate: Gate) -> None:
    """Each of them ends so, whether it was in hand or waited."""
    for job in jobs:
        job.cancel()
    gate.ticks.release(10)
    assert set(finished(*jobs)) == {"cancelled"}


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine()
    yield made
    made.close()


@pytest.fixture
def small() -> Iterator[Engine]:
    """Two jobs a forward, four in all, two a visitor."""
    made = Engine(max_batch=2, max_waiting=4, max_per_visitor=2)
    yield made
    made.close()


@pytest.fixture(scope="module")
def tiny() -> SuperResolver:
    """A small network of the real kind."""
    model = MODELS["tiny"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = UNet(model.network)
        for weight in network.parameters():  # the last layer is zero at first
            torch.nn.init.normal_(weight, std=0.1)
    return SuperResolver(network.eval().requires_grad_(False), model, EXACT, "tiny")


class Clock:
    """Time as the forwards of a `Network` make it pass."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        return self.now

    def tick(self, _: Tensor) -> None:
        self.now += self.step


def finished(*jobs: Job) -> list[str]:
    assert all(job.wait(20) for job in jobs)
    return [job.status for job in jobs]


# --------------------------------------------------------------------------------------- the queue
class Place:
    def __init__(self, visitor: str, ticket: int) -> None:
        self.visitor, self.ticket = visitor, ticket


def test_each_visitor_s_first_job_comes_before_anyone_s_second():
    jobs = [Place(visitor, ticket) for ticket, visitor in enumerate("aaabba")]
    assert [job.ticket for job in in_order(jobs[::-1])] == [0, 3, 1, 4, 2, 5]


def test_the_network_whose_tick_is_oldest_is_next():
    assert longest_unserved("aab", {"a": 4, "b": 3}) == "b"
    assert longest_unserved("aab", {"a": 3, "b": 4}) == "a"
    assert longest_unserved("abc", {"a": 1, "b": 0}) == "c"  # it has had none
    assert longest_unserved("ba", {}) == "b"


@pytest.mark.parametrize(
    ("remaining", "places", "ends"),
    [
        ([], 2, []),
        ([10], 2, [10]),
        ([10, 3], 2, [10, 3]),
        ([10, 10, 10], 2, [10, 10, 20]),
        ([10, 4, 3], 2, [10, 4, 7]),
        ([100, 5], 1, [105, 25]),  # the long one gives way after its first turn
    ],
)
def test_the_ticks_to_a_job_s_end(remaining, places, ends):
    assert ticks_to_end(remaining, places) == ends


# ---------------------------------------------------------------------------------------- sharing
def test_jobs_at_different_steps_and_settings_share_a_forward(engine):
    gate = Gate()
    network = Network(gate)
    shared = resolver(network)
    first = engine.submit(shared, GREY, steps(6), visitor="a")
    assert gate.inside.acquire(timeout=20)
    gate.let(2)
    others = [
        engine.submit(shared, GREY, SamplerConfig(sampler="dpmpp", steps=4), visitor="b"),
        engine.submit(shared, GREY, SamplerConfig(sampler="ancestral", steps=3), visitor="c"),
    ]
    gate.ticks.release(20)
    assert finished(first, *others) == ["done"] * 3
    assert network.batches[:3] == [1, 1, 1] and network.batches[3:6] == [3, 3, 3]
    assert len(network.batches) == 7  # 3 alone, then the longest of the rest
    assert [job.evaluations for job in (first, *others)] == [6, 4, 3]


def test_a_crowd_of_sixteen_gets_the_pictures_that_each_would_alone(tiny):
    """And each visitor has a first frame within two ticks of the turn."""
    faces = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), dtype=np.uint8)
    gate, count, engine = Gate(), 3, Engine(max_batch=8)
    try:
        blocker = engine.submit(resolver(Network(gate)), GREY, steps(1), visitor="first")
        assert gate.inside.acquire(timeout=20)
        settings = [
            tiny.settings(sampler=("ancestral", "ddim", "dpmpp")[k % 3], steps=count)
            for k in range(16)
        ]
        jobs = [
            engine.submit(tiny, face, settings[k], seed=k, visitor=str(k))
            for k, face in enumerate(faces)
        ]
        gate.ticks.release()
        assert finished(blocker, *jobs) == ["done"] * 17
        for k, job in enumerate(jobs):
            turn = blocker.tick + (0 if k < 8 else count)  # when its place is free
            assert 0 < job.tick - turn <= 2
            _, alone = pictures_alone(tiny, faces[k], settings[k], seed=k)
            assert np.abs(job.result.astype(int) - alone.astype(int)).max() <= 1
        assert engine.ticks == 1 + 2 * count
        again = engine.submit(tiny, faces[0], settings[0], seed=0)
        assert finished(again) == ["done"]
        noisy, alone = pictures_alone(tiny, faces[0], settings[0], seed=0)
        assert np.array_equal(again.result, alone)  # alone: the same bits
        assert np.array_equal(again.frames[1].x_t, noisy[1])
    finally:
        engine.close()


def pictures_alone(model: SuperResolver, face, settings: SamplerConfig, seed: int):
    """The noisy image of each step, and the result, of a chain without the engine."""
    moments = list(model.stream_batch(face[None], [(seed, 0)], settings))
    return [to_uint8(step.x_t)[0] for step in moments], to_uint8(moments[-1].x0)[0]


def test_a_splice_s_job_and_its_parent_s_each_get_the_network_of_their_own_level():
    """The oldest job of a tick is a splice's at a noisy level; the parent's own is at a clean one,
    where the splice would ask the other network."""
    one, other = Network(), Network()
    other.weight.data.fill_(0.25)
    parent, spliced = resolver(one), resolver(Spliced(one, other, NoiseSchedule(), 500))
    free = SamplerConfig(sampler="ddim", consistency=False)
    few, many = replace(free, steps=4), replace(free, steps=19)
    bright = np.full((2, 2, 3), 200, np.uint8)
    _, own = pictures_alone(parent, bright, few, seed=1)
    _, mixed = pictures_alone(spliced, bright, many, seed=1)
    assert np.abs(own.astype(int) - mixed).max() > 30
    one.batches.clear()
    gate, engine = Gate(), Engine()
    try:
        blocker = engine.submit(resolver(Network(gate)), GREY, steps(1))
        assert gate.inside.acquire(timeout=20)
        slow = engine.submit(spliced, bright, many, seed=1, visitor="splice")
        fast = engine.submit(parent, bright, few, seed=1, visitor="parent")
        gate.ticks.release()
        assert finished(blocker, slow, fast) == ["done"] * 3
    finally:
        engine.close()
    assert one.batches[:4] == [2, 2, 2, 2]  # they shared all forwards of the shorter one
    assert np.array_equal(fast.result, own) and np.array_equal(slow.result, mixed)


def test_networks_take_turns_and_a_splice_rides_with_its_parents():
    order: list[str] = []
    gate = Gate()

    def noted(name: str) -> Network:
        return Network(lambda batch: (order.append(f"{name}{len(batch)}"), gate(batch)))

    one, other = noted("a"), noted("b")
    spliced = Spliced(one, other, NoiseSchedule(), 500)
    resolvers = resolver(one), resolver(other), resolver(spliced)
    levels = NoiseSchedule().levels(4, "log_snr")
    noisy = int((levels[:4].float() < spliced.level).sum())
    assert 0 < noisy < 4  # the chain crosses the splice
    engine = Engine(max_batch=4)
    try:
        blocker = engine.submit(resolver(noted("-")), GREY, steps(1))
        assert gate.inside.acquire(timeout=20)
        jobs = [engine.submit(each, GREY, steps(4), visitor=str(each)) for each in resolvers]
        gate.ticks.release(50)
        assert finished(blocker, *jobs) == ["done"] * 4
    finally:
        engine.close()
    assert Counter(order)["a2"] == noisy  # with the noisier parent's own job
    assert set(order) == {"-1", "a1", "a2", "b1", "b2"} or set(order) == {"-1", "a2", "b1", "a1"}
    assert [mine[0] != next_[0] for mine, next_ in pairwise(order[:7])] == [True] * 6


def test_the_most_of_a_forward_can_be_changed_while_it_serves(engine):
    gate = Gate()
    network = Network(gate)
    shared = resolver(network)
    blocker = engine.submit(shared, GREY, steps(2), visitor="-")
    assert gate.inside.acquire(timeout=20)
    jobs = [engine.submit(shared, GREY, steps(1), visitor=str(k)) for k in range(3)]
    engine.max_batch = 2
    gate.ticks.release(50)
    assert set(finished(blocker, *jobs)) == {"done"}
    assert network.batches == [1, 2, 2]


def test_what_is_submitted_together_begins_in_one_tick_and_holds_nobody_else_up(engine):
    network = Network()
    shared = resolver(network)
    with engine.together("me"):
        mine = [engine.submit(shared, GREY, steps(1), visitor="me") for _ in range(3)]
        assert finished(engine.submit(shared, GREY, steps(1), visitor="other")) == ["done"]
        assert {job.evaluations for job in mine} == {0}
    assert finished(*mine) == ["done"] * 3
    assert network.batches == [1, 3]
    with pytest.raises(ImageError), engine.together("me"):
        engine.submit(shared, GREY[:1], steps(1), visitor="me")
    assert finished(engine.submit(shared, GREY, steps(1), visitor="me")) == ["done"]


# --------------------------------------------------------------------------------------- fairness
def test_a_visitor_with_many_jobs_holds_nobody_up():
    engine = Engine(max_batch=1, max_per_visitor=10)
    gate = Gate()
    shared = resolver(Network(gate))
    try:
        greedy = [engine.submit(shared, GREY, steps(3), visitor="greedy") for _ in range(5)]
        assert gate.inside.acquire(timeout=20)
        modest = engine.submit(shared, GREY, steps(3), visitor="modest")
        assert [greedy[0].position, modest.position, greedy[1].position] == [0, 1, 2]
        gate.ticks.release(50)
        assert set(finished(modest, *greedy)) == {"done"}
        assert modest.tick == 4  # right after the one that was being served
    finally:
        engine.close()


def test_a_long_chain_gives_way_after_a_turn():
    engine = Engine(max_batch=1)
    gate = Gate()
    shared = resolver(Network(gate))
    try:
        long = engine.submit(shared, GREY, steps(3 * TURN), visitor="long")
        assert gate.inside.acquire(timeout=20)
        short = engine.submit(shared, GREY, steps(2), visitor="short")
        gate.ticks.release(4 * TURN)
        assert finished(short, long) == ["done", "done"]
        assert short.tick == TURN + 1
    finally:
        engine.close()


# ----------------------------------------------------------------------------------------- bounds
def test_each_bound_is_a_clear_refusal_with_the_wait(small):
    gate = Gate()
    shared = resolver(Network(gate))
    jobs = [small.submit(shared, GREY, steps(30), visitor="a") for _ in range(2)]
    assert gate.inside.acquire(timeout=20)
    with pytest.raises(EngineBusy, match=r"You have 2 pictures .* end shortly") as refusal:
        small.submit(shared, GREY, steps(3), visitor="a")
    assert refusal.value.wait is None  # nothing has been measured yet
    jobs += [small.submit(shared, GREY, steps(30), visitor=name) for name in "bc"]
    gate.let(2)
    with pytest.raises(EngineBusy, match=r"4 pictures are .* in about \d+ s") as refusal:
        small.submit(shared, GREY, steps(3), visitor="d")
    assert refusal.value.wait is not None and refusal.value.wait > 0
    jobs[3].cancel()
    gate.let(2)
    assert jobs[3].wait(5)
    small.submit(shared, GREY, steps(3), visitor="d").cancel()
    cancel_all(jobs, gate)


def test_a_picture_that_takes_too_long_is_refused_or_stopped():
    clock = Clock(0.03)
    engine = Engine(max_seconds=0.2, clock=clock)
    shared = resolver(Network(clock.tick))
    try:
        running = engine.submit(shared, GREY, steps(100), visitor="a")
        assert finished(running) == ["failed"]
        assert "more than 0 seconds" in running.error and "fewer steps" in running.error
        assert running.evaluations == 7
        for most, told in ((0.2, "at most 6 steps"), (0.05, "a single step"), (0.02, "a smaller")):
            engine.max_seconds = most
            with pytest.raises(ConfigError, match=rf"100 steps would take .* choose {told}"):
                engine.submit(shared, GREY, steps(100), visitor="a")
        engine.max_seconds = 0.2
        assert finished(engine.submit(shared, GREY, steps(3), visitor="a")) == ["done"]
    finally:
        engine.close()


def test_a_refused_visitor_reads_no_weights(small):
    gate, read = Gate(), []
    shared = resolver(Network(gate))
    others = SuperResolver(lambda: read.append(1) or shared.network, CONFIG, EXACT, "on a disk")
    jobs = [small.submit(shared, GREY, steps(30), visitor="a") for _ in range(2)]
    with pytest.raises(EngineBusy, match="You have 2 pictures"):
        small.submit(others, GREY, steps(3), visitor="a")
    with pytest.raises(ImageError, match=r"shape \(2, 2, 3\).*got \(3, 2, 3\).*reduce it"):
        small.submit(others, np.zeros((3, 2, 3), np.uint8), steps(3), visitor="b")
    with pytest.raises(ImageError, match="float32"):
        small.submit(others, GREY.astype(np.float32), steps(3), visitor="b")
    assert not read
    cancel_all(jobs, gate)


def test_the_first_forward_of_a_network_is_not_its_pace():
    """It makes kernels ready: a long chain is not refused for that."""
    clock = Clock(50.0)
    engine = Engine(max_seconds=100, clock=clock)
    shared = resolver(Network(clock.tick))
    try:
        first = engine.submit(shared, GREY, steps(1))
        assert finished(first) == ["done"]
        clock.step = 0.1
        long = engine.submit(shared, GREY, steps(40))
        assert long.seconds_left is None and finished(long) == ["done"]
        with pytest.raises(ConfigError, match="about 200 seconds"):
            engine.submit(shared, GREY, steps(2000))
    finally:
        engine.close()


def test_reading_the_weights_is_not_the_pace():
    clock, network = Clock(0.1), Network()
    network.before = clock.tick

    def read() -> Network:
        clock.now += 1000
        return network

    engine = Engine(clock=clock)
    try:
        job = engine.submit(SuperResolver(read, CONFIG, EXACT, "on a disk"), GREY, steps(5))
        assert finished(job) == ["done"] and job.network_seconds == pytest.approx(0.5)
    finally:
        engine.close()


def test_the_forecast_comes_true():
    clock = Clock(1.0)
    engine = Engine(max_batch=8, clock=clock)
    gate = Gate()
    shared = resolver(Network(lambda batch: (clock.tick(batch), gate(batch))))
    try:
        gate.ticks.release(5)
        assert finished(engine.submit(shared, GREY, steps(5))) == ["done"]
        while gate.inside.acquire(blocking=False):
            pass
        jobs = [engine.submit(shared, GREY, steps(20), visitor=str(k)) for k in range(16)]
        assert gate.inside.acquire(timeout=20)
        began = clock.now - 1  # that of the forward in hand
        forecasts = [job.seconds_left for job in jobs]
        assert forecasts == [20] * 8 + [40] * 8
        gate.ticks.release(60)
        assert finished(*jobs) == ["done"] * 16
        assert abs(clock.now - began - forecasts[-1]) <= 1  # the first forward had one job
        assert jobs[-1].seconds_left == 0
    finally:
        engine.close()


# ------------------------------------------------------------------------------------ kept frames
@pytest.mark.parametrize(
    ("side", "total", "keep", "limit", "indices"),
    [
        (16, 100, MAX_FRAMES, KEPT_BYTES, [*range(100), 100]),
        (16, 200, MAX_FRAMES, KEPT_BYTES, [*range(0, 200, 2), 200]),
        (16, 6, 1, KEPT_BYTES, [6]),
        (16, 6, 3, KEPT_BYTES, [0, 3, 6]),
        (16, 50, MAX_FRAMES, 13 * 6 * 16**2, [*range(0, 50, 5), 50]),
        (16, 5, MAX_FRAMES, 1, [5]),  # the newest stays, whatever its size
        (512, 10, MAX_FRAMES, KEPT_BYTES, [*range(10), 10]),
    ],
)
def test_the_frames_that_stay_are_spread_evenly_and_bounded(
    monkeypatch, side, total, keep, limit, indices
):
    monkeypatch.setattr("sr3.jobs.KEPT_BYTES", limit)
    config = replace(CONFIG, network=replace(SMALL, high_res=side))
    chain = SuperResolver(Network(), config, EXACT, "large")
    engine, most = Engine(), 0
    try:
        job = engine.submit(chain, GREY, steps(total), keep=keep)
        while not job.wait(0.01):
            most = max(most, len(job.frames))
        assert job.status == "done", job.error
    finally:
        engine.close()
    assert [frame.index for frame in job.frames] == indices
    assert max(most, len(indices)) <= keep
    assert np.array_equal(job.result, job.frames[-1].x0)
    size = sum(frame.x_t.nbytes + frame.x0.nbytes for frame in job.frames)
    assert max(size, most * 6 * side**2) <= max(limit, 6 * side**2)


# ---------------------------------------------------------------------------------- cancelled jobs
@pytest.mark.parametrize("how", ["cancel", "abandon"])
def test_an_unwanted_job_is_gone_at_the_next_tick(engine, how):
    gate = Gate()
    shared = resolver(Network(gate))
    job = engine.submit(shared, GREY, steps(50), visitor="a")
    assert gate.inside.acquire(timeout=20)
    gate.let(3)
    if how == "cancel":
        job.cancel()
    else:
        job._polled -= 1000
    gate.ticks.release()
    assert job._ended.wait(20)
    assert (job.status, job.evaluations) == ("cancelled", 4)
    assert len(job.frames) == 4 and job.result is None
    job.cancel()  # harmless


def test_a_job_that_waits_is_cancelled_too(engine):
    gate = Gate()
    first = engine.submit(resolver(Network(gate)), GREY, steps(2), visitor="a")
    assert gate.inside.acquire(timeout=20)
    second = engine.submit(resolver(), GREY, steps(2), visitor="b")
    second.cancel()
    gate.ticks.release(2)
    assert finished(first, second) == ["done", "cancelled"]
    assert second.newest is None and second.seconds < 20


def test_the_worker_is_told_when_the_last_job_has_gone():
    rests, shared = [], resolver()
    engine = Engine(rest=lambda: rests.append(engine.ticks))
    try:
        jobs = [engine.submit(shared, GREY, steps(count)) for count in (60, 2)]
        assert finished(*jobs) == ["done"] * 2
        engine.close()
    finally:
        engine.close()
    assert rests == [engine.ticks], "after the longer one alone"


def test_closing_ends_every_job_and_thread():
    before = threading.active_count()
    engine = Engine()
    job = engine.submit(resolver(Network(lambda _: time.sleep(0.005))), GREY, steps(500))
    engine.close()
    assert job.status == "cancelled" and threading.active_count() == before
    with pytest.raises(SR3Error, match="closed") as refusal:
        engine.submit(resolver(), GREY, steps(2))
    assert not isinstance(refusal.value, EngineBusy), "to wait does not help"


# --------------------------------------------------------------------------------------- failures
def poisoned(condition: Tensor) -> None:
    if bool((condition > 0.9).any()):
        raise ValueError("this picture cannot be drawn")


def test_a_failing_job_fails_alone(engine, caplog):
    gate = Gate()
    network = Network()
    network.before = lambda batch: gate(batch) if len(network.batches) == 1 else poisoned(batch)
    shared = resolver(network)
    blocker = engine.submit(shared, GREY, steps(1), visitor="first")
    assert gate.inside.acquire(timeout=20)
    good = [engine.submit(shared, GREY, steps(3), visitor=str(k)) for k in range(3)]
    bad = engine.submit(shared, POISON, steps(3), visitor="bad")
    gate.ticks.release()
    assert finished(blocker, *good, bad) == ["done"] * 4 + ["failed"]
    assert bad.error == "The network failed on this picture (ValueError): try again."
    # 4 fail; 2 + 2 of which one fails; 1 + 1 of which one fails, again, and is given up
    assert network.batches[1:7] == [4, 2, 2, 1, 1, 1]
    assert "a forward of 4 failed (ValueError)" in caplog.text


def test_a_tick_that_fails_once_costs_nobody_the_picture(engine):
    failures = iter([RuntimeError("a hiccup")])

    def hiccup(_: Tensor) -> None:
        for failure in failures:
            raise failure

    job = engine.submit(resolver(Network(hiccup)), GREY, steps(2))
    assert finished(job) == ["done"] and job.evaluations == 2


def test_invalid_numbers_fail_only_their_picture(engine):
    class Broken(Network):
        def forward(self, condition: Tensor, noisy: Tensor, noise_level: Tensor) -> Tensor:
            return torch.where(condition > 0.9, torch.nan, condition)

    shared = resolver(Broken())
    good = engine.submit(shared, GREY, steps(3), visitor="a")
    bad = engine.submit(shared, POISON, steps(3), visitor="b")
    assert finished(good, bad) == ["done", "failed"]
    assert bad.error == "The network gave a picture with invalid numbers; try another seed."


def test_out_of_memory_makes_the_batches_smaller_for_a_while(engine):
    gate, limit = Gate(), 2

    def full(batch: Tensor) -> None:
        if len(network.batches) == 1:
            gate(batch)
        if len(batch) > limit:
            raise torch.OutOfMemoryError("no memory")

    network = Network(full)
    shared = resolver(network)
    first = engine.submit(shared, GREY, steps(1), visitor="first")
    assert gate.inside.acquire(timeout=20)
    jobs = [engine.submit(shared, GREY, steps(15), visitor=str(k)) for k in range(8)]
    gate.ticks.release()
    assert finished(first, *jobs) == ["done"] * 9
    assert network.batches[1:8] == [8, 4, 2, 2, 4, 2, 2]
    tried = [size for size in network.batches[8:] if size > limit]
    assert 0 < len(network.batches) < 100 and len(tried) <= 2  # a double after 50 good ticks


def test_a_network_without_memory_for_one_says_so(engine):
    def full(_: Tensor) -> None:
        raise torch.OutOfMemoryError("no memory")

    job = engine.submit(resolver(Network(full)), GREY, steps(3))
    assert finished(job) == ["failed"] and "ran out of memory" in job.error


# --------------------------------------------------------------------------------------- watchdog
def test_a_worker_that_dies_is_replaced_and_says_so(engine, caplog, monkeypatch):
    def die(_: Tensor) -> None:
        raise SystemExit("a bug in a driver")

    with caplog.at_level(logging.ERROR, "sr3.engine"):
        lost = engine.submit(resolver(Network(die)), GREY, steps(3), visitor="a")
        assert finished(lost) == ["failed"] and lost.error == RESTARTED
        later = engine.submit(resolver(), GREY, steps(3), visitor="b")
        assert finished(later) == ["done"]
    assert engine.restarts == 1
    assert "died of SystemExit" in engine.notice and engine.notice in caplog.text
    monkeypatch.setattr("sr3.engine.NOTICE", 0.0)
    assert engine.notice is None  # who comes later has lost nothing


def test_a_worker_that_hangs_is_replaced(caplog):
    engine, gate = Engine(stall=0.2), Gate()
    hanging = Network(gate)
    try:
        lost = engine.submit(resolver(hanging), GREY, steps(3), visitor="a")
        assert finished(lost) == ["failed"] and lost.error == RESTARTED
        later = engine.submit(resolver(), GREY, steps(3), visitor="b")
        assert finished(later) == ["done"] and "hung" in engine.notice
        gate.ticks.release()  # the old worker comes back: nobody waits for it
        time.sleep(0.05)
        assert lost.evaluations == 0 and lost.status == "failed" and engine.restarts == 1
    finally:
        engine.close()


def test_a_hang_is_noticed_by_the_network_s_own_pace(monkeypatch):
    monkeypatch.setattr("sr3.turns.LEAST", 0.2)
    gate, network, clock = Gate(), Network(), Clock(0.001)

    def hang(batch: Tensor) -> None:
        clock.tick(batch)
        if len(network.batches) > 3:
            gate(batch)

    network.before = hang
    engine = Engine(clock=clock)  # a tick of unknown pace may take 600 seconds
    try:
        assert finished(engine.submit(resolver(network), GREY, steps(3))) == ["done"]
        old = engine._shift
        lost = engine.submit(resolver(network), GREY, steps(3))
        assert finished(lost) == ["failed"] and lost.error == RESTARTED
        assert engine.restarts == 1 and "hung" in engine.notice
        pace = engine._paces.get(lost.network).tick
        clock.now += 1000
        gate.ticks.release()  # the old worker comes back: what it took is nobody's pace
        old.thread.join(20)
        assert engine._paces.get(lost.network).tick == pace
    finally:
        engine.close()


def test_patience_follows_the_pace():
    pace = Pace(8)
    assert pace.patience(600) == 600
    pace.note(40.0, 1)
    assert pace.patience(600) == 600  # the first one says nothing
    pace.note(0.1, 1)
    assert pace.patience(600) == 30 and pace.patience(5) == 5
    slow = Pace(8)
    slow.note(4.0, 1)
    slow.note(4.0, 1)
    assert slow.patience(600) == 80


def test_a_worker_that_dies_of_the_queue_clears_it(engine, monkeypatch):
    gate = Gate()
    blocker = engine.submit(resolver(Network(gate)), GREY, steps(2), visitor="a")
    assert gate.inside.acquire(timeout=20)
    failures = iter([RuntimeError("a bug of ours")])

    def broken(*arguments):
        for failure in failures:
            raise failure
        return longest_unserved(*arguments)

    monkeypatch.setattr("sr3.engine.longest_unserved", broken)
    gate.ticks.release(2)
    assert finished(blocker) == ["failed"] and blocker.error == RESTARTED
    assert finished(engine.submit(resolver(), GREY, steps(2))) == ["done"]


# ------------------------------------------------------------------------------------------- soak
def held() -> Counter[str]:
    """What lives of the engine's making: jobs, and the bytes of tensors and frames.

    Counted and not read from the system, whose allocator keeps what was freed.
    """
    gc.collect()
    found: Counter[str] = Counter()
    for each in gc.get_objects():
        if type(each) is Job:
            found["jobs"] += 1
        elif type(each) is Frame:
            found["bytes"] += each.x_t.nbytes + each.x0.nbytes
        elif type(each) in (Tensor, nn.Parameter):
            found["bytes"] += each.nbytes
    return found


class Ledger:
    """What became of each job; an ended one is checked and let go."""

    def __init__(self) -> None:
        self.open: list[Job] = []
        self.ends: Counter[str] = Counter()

    def settle(self) -> None:
        for job in [job for job in self.open if job.ended]:
            self.open.remove(job)
            self.ends[job.status] += 1
            assert (job.status == "failed") == (job.error is not None)
            assert (job.status == "done") == (job.result is not None)
            assert job.status != "done" or job.evaluations == job.total

    def drain(self, engine: Engine) -> None:
        """Until every job has ended and the worker has let go of the last."""
        deadline = time.monotonic() + 60
        while (self.open or engine._shift.hand) and time.monotonic() < deadline:
            time.sleep(0.005)
            self.settle()
        assert not self.open


@pytest.fixture
def quiet() -> Iterator[None]:
    log = logging.getLogger("sr3.engine")
    log.disabled = True
    yield
    log.disabled = False


def test_two_thousand_jobs_are_all_accounted_for(quiet):
    """Random cancels, closed tabs, failing ticks, broken pictures and changes of checkpoint."""
    threads = threading.active_count()
    dice, worker_dice, ledger = random.Random(0), random.Random(1), Ledger()
    forwards = itertools.count(1)

    def shaky(condition: Tensor) -> None:
        poisoned(condition)
        if next(forwards) % 300 == 0:
            raise SystemExit  # which no tick survives
        if worker_dice.random() < 0.03:
            raise worker_dice.choice([torch.OutOfMemoryError("no memory"), RuntimeError("why?")])

    networks = [Network(shaky) for _ in range(3)]
    resolvers = [resolver(network) for network in networks]
    resolvers.append(resolver(Spliced(networks[0], networks[1], NoiseSchedule(), 500)))
    engine = Engine(max_waiting=40)
    memory, submitted, refused = [], 0, 0
    try:
        for goal in (200, 2000):
            while submitted < goal:
                sampler = dice.choice(["ancestral", "ddim", "dpmpp"])
                settings = SamplerConfig(sampler=sampler, steps=dice.randint(1, 6))
                picture = POISON if dice.random() < 0.02 else GREY
                visitor = str(dice.randrange(20))
                ledger.settle()
                try:
                    job = engine.submit(
                        dice.choice(resolvers), picture, settings, seed=submitted, visitor=visitor
                    )
                except EngineBusy:
                    refused += 1
                    time.sleep(0.001)
                    continue
                submitted += 1
                ledger.open.append(job)
                if dice.random() < 0.05:
                    dice.choice(ledger.open).cancel()
                if dice.random() < 0.02:
                    dice.choice(ledger.open)._polled -= 1000  # a tab that went without a word
            del job
            ledger.drain(engine)
            memory.append(held())
    finally:
        engine.close()
    ends = ledger.ends
    assert ends["done"] + ends["cancelled"] + ends["failed"] == 2000
    assert ends["done"] > 1400 and ends["cancelled"] > 50 and ends["failed"] > 20 and refused > 0
    assert engine.restarts > 0 and threading.active_count() == threads
    after_200, after_2000 = memory
    assert after_2000["jobs"] == after_200["jobs"] and after_200["bytes"] > 0
    assert after_2000["bytes"] <= 1.05 * after_200["bytes"]
