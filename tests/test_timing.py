"""Ways that take turns, by a clock of our own."""

from __future__ import annotations

from sr3 import timing
from sr3.timing import Took, in_turn, shortest


def test_ways_take_turns_and_each_call_is_kept(monkeypatch):
    now, order = [0.0, 0.0], []
    monkeypatch.setattr(timing, "perf_counter", lambda: now[0])
    monkeypatch.setattr(timing, "process_time", lambda: now[1])

    def way(name, seconds):
        left = iter(seconds)

        def call():
            order.append(name)
            spent = next(left)
            now[0] += spent
            now[1] += 2 * spent  # on two cores

        return call

    ways = {"a": way("a", [5.0, 3.0, 4.0]), "b": way("b", [1.0, 7.0, 6.0])}
    assert in_turn(ways, 2) == {
        "a": [Took(5.0, 10.0), Took(3.0, 6.0)],
        "b": [Took(1.0, 2.0), Took(7.0, 14.0)],
    }
    assert order == ["a", "b", "a", "b"]
    assert shortest(ways, 1) == {"a": 4.0, "b": 6.0}
