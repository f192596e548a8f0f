"""What the server shares: a seat a visitor, pictures by the engine, nothing for a closed tab."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

import sr3.checkpoints
from sr3.engine import EngineBusy
from sr3.errors import SR3Error
from sr3.ui import service
from tests.app_server import fail, make_checkpoints

LOW = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)


class Work:
    cancelled = 0

    def cancel(self) -> None:
        self.cancelled += 1


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The engine and a shelf over one small network."""
    monkeypatch.setattr(sr3.checkpoints, "ROOT", make_checkpoints(tmp_path))
    seat = service.Seat()
    monkeypatch.setattr(service, "seat", lambda: seat)
    yield service.resolver("tiny")
    for shared in (service.engine, service.resolver, service.shelf):
        shared.clear()


@pytest.fixture
def slow(tiny, monkeypatch):
    """The network, which takes two seconds or more for a picture."""
    estimate, pause = tiny.estimate, 2 / tiny.settings().steps
    monkeypatch.setattr(tiny, "estimate", lambda *given: (time.sleep(pause), estimate(*given))[1])
    return tiny


def test_a_run_that_is_taken_after_the_visitor_left_is_no_orphan():
    seat, early, late = service.Seat(), Work(), Work()
    seat.take(early)
    seat.leave()
    seat.take(late)  # by a script that was still running
    assert (early.cancelled, late.cancelled) == (1, 1)


def test_another_run_takes_the_place_of_the_first():
    seat, first, second = service.Seat(), Work(), Work()
    seat.take(first)
    seat.take(second)
    assert (first.cancelled, second.cancelled) == (1, 0)
    seat.clear()
    seat.clear()
    assert (first.cancelled, second.cancelled) == (1, 1)


def test_pictures_are_drawn_by_the_engine_more_than_a_visitor_may_have_at_once(tiny):
    pictures = service.draw(tiny, LOW, seed=3)
    expected = np.stack([tiny.upscale([low], seed=3).images[0, 0] for low in LOW])
    assert pictures.shape == (5, 128, 128, 3) and service.engine().max_per_visitor < 5
    assert np.abs(pictures.astype(int) - expected.astype(int)).max() <= 1
    assert service.engine().ticks < 5 * tiny.settings().steps  # they shared forwards


def test_one_refused_takes_along_those_before_it(tiny, monkeypatch):
    jobs, submit = [], service.engine().submit

    def full(*given, **settings):
        if len(jobs) == 2:
            raise EngineBusy("No more fit.")
        jobs.append(submit(*given, **settings))
        return jobs[-1]

    monkeypatch.setattr(service.engine(), "submit", full)
    with pytest.raises(EngineBusy):
        service.draw(tiny, LOW)
    assert len(jobs) == 2 and all(job._cancelled for job in jobs)


def test_none_of_the_pictures_is_taken_for_abandoned_while_another_is_waited_for(slow, monkeypatch):
    monkeypatch.setattr(service, "POLL", 0.1)
    monkeypatch.setattr("sr3.jobs.ABANDONED", 1.0)
    pictures = service.draw(slow, LOW[:3])
    assert len(pictures) == 3


def test_one_that_fails_takes_along_those_that_are_not_through(slow, monkeypatch):
    jobs, submit = [], service.engine().submit

    def unlucky(*given, **settings):
        jobs.append(submit(*given, **settings))
        if len(jobs) == 3:
            jobs[-1].answer = fail
        return jobs[-1]

    monkeypatch.setattr(service.engine(), "submit", unlucky)
    with pytest.raises(SR3Error, match="failed on this picture"):
        service.draw(slow, LOW[:3])
    assert all(job.wait(10) for job in jobs)
    assert [job.status for job in jobs] == ["cancelled", "cancelled", "failed"]


def test_drawing_stops_when_the_visitor_leaves(tiny, monkeypatch):
    def leave(*_, **__):
        service.seat().leave()
        return original(*_, **__)

    original = tiny.estimate
    monkeypatch.setattr(tiny, "estimate", leave)
    with pytest.raises(SR3Error, match="Stopped"):
        service.draw(tiny, LOW)
    assert service.engine()._jobs == [] or all(job._cancelled for job in service.engine()._jobs)
    assert service.engine().ticks <= 2


def test_free_memory_goes_back_now_and_then(monkeypatch):
    times, trims = [100.0], []
    monkeypatch.setattr(service.time, "monotonic", lambda: times[-1])
    tidy = service.Tidy()
    tidy._trim = trims.append
    for seconds in (101.0, 159.0, 160.0, 161.0, 220.5):
        times.append(seconds)
        tidy.now_and_then()
    assert len(trims) == 2, "a minute after the start, and a minute after that"


@pytest.mark.skipif(service.Tidy()._trim is None, reason="glibc's allocator alone keeps it")
def test_what_holes_keep_is_given_back(monkeypatch):
    tidy = service.Tidy()
    monkeypatch.setattr(service.Tidy, "PAUSE", 0.0)
    small = [bytearray(50_000) for _ in range(2000)]  # 100 MB, in the heap
    small = small[::40]  # most is free, and what is left holds the heap where it is
    before = resident()
    tidy.now_and_then()
    assert before - resident() > 50 and len(small) == 50


def resident() -> float:
    """This process's memory in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024
