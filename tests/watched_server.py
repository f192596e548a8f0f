"""The test app with a slow network and a diary: `python -m tests.watched_server DIR PORT DIARY`.

A line for each visitor who leaves (`left TICKS`) and for each job that ends (`STATUS TICKS STEPS`),
TICKS being how many ticks the engine had begun by then.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from sr3.engine import Engine
from sr3.pipeline import SuperResolver
from sr3.ui import service
from tests import app_server

STEP = 0.05  # seconds


def main(folder: str, port: str, diary: str) -> None:
    estimate, end, leave = SuperResolver.estimate, Engine._end, service.Seat.leave

    def note(line: str) -> None:
        with Path(diary).open("a") as file:
            file.write(line + "\n")

    def slow(self, *tensors):
        time.sleep(STEP)
        return estimate(self, *tensors)

    def ended(self, job, status, sentence=None):
        note(f"{status} {self.ticks} {job.evaluations}")
        end(self, job, status, sentence)

    def left(self):
        note(f"left {service.engine().ticks}")
        leave(self)

    SuperResolver.estimate, Engine._end, service.Seat.leave = slow, ended, left
    app_server.main(folder, port)


if __name__ == "__main__":
    main(*sys.argv[1:])
