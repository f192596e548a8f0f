"""The test app on a slow machine with a queue: `python -m tests.crowded_server DIR PORT`.

No checkpoint is read before DIR/go is there; each step takes a while, and whoever starts a run
finds `CROWD` visitors in front, at each network. A run of `UNLUCKY` step fails.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from sr3 import jobs
from sr3.engine import Engine
from sr3.pipeline import SuperResolver
from sr3.shelf import Shelf
from tests import app_server

STEP = 0.06  # seconds
CROWD, EACH = 3, 20  # visitors, and the steps of each
UNLUCKY = 1


def main(folder: str, port: str) -> None:
    estimate, submit, made, get = (
        SuperResolver.estimate, Engine.submit, Engine.__init__, Shelf.get,
    )  # fmt: skip
    crowds: dict[str, list[jobs.Job]] = {}

    def slow(self, *tensors):
        time.sleep(STEP)
        return estimate(self, *tensors)

    def one_at_a_time(self, **bounds):
        made(self, **bounds | {"max_batch": 1})

    def behind_others(self, resolver, low_res, settings, *, visitor="", **more):
        before = crowds.get(resolver.name, [])
        if all(job.ended for job in before) and settings.steps != UNLUCKY:
            longer = resolver.settings(steps=EACH)
            crowds[resolver.name] = [
                submit(self, resolver, low_res, longer, visitor=f"another {k}")
                for k in range(CROWD)
            ]
        job = submit(self, resolver, low_res, settings, visitor=visitor, **more)
        if settings.steps == UNLUCKY:
            job.answer = fail  # type: ignore[method-assign]
        return job

    def when_told(self, name):
        while not (Path(folder) / "go").exists():
            time.sleep(0.05)
        return get(self, name)

    SuperResolver.estimate, Engine.submit = slow, behind_others
    Engine.__init__, Shelf.get = one_at_a_time, when_told
    app_server.main(folder, port)


def fail(*_: Sequence[object]) -> bool:
    raise RuntimeError("made to fail")


if __name__ == "__main__":
    main(*sys.argv[1:])
