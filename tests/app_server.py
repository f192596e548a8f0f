"""Serve the app with the checkpoints of another folder: `python -m tests.app_server DIR PORT`.

Files of these names in DIR are moods, each for as long as it is there:

- `slow`: a step takes STEP seconds;
- `held`: a step lasts until the mood ends;
- `crowd`: a step is slow, a forward holds one picture, and whoever starts a run finds CROWD
  visitors in front, at each network, who stay;
- `unlucky`: a run of one step fails;
- `shut`: no checkpoint is read, and those that were are forgotten.

A browser with the cookie FIRST is there for the first time: a run and the tour start by
themselves. DIR/diary.txt gets a line for each visitor who leaves (`left VISITOR TICKS`) and for
each job that ends (`STATUS VISITOR TICKS STEPS`), TICKS being how many ticks the engine had begun.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import streamlit as st
import torch
from streamlit.web import cli

import sr3.checkpoints
from sr3.engine import Engine, Job
from sr3.folder import save_checkpoint
from sr3.pipeline import SuperResolver
from sr3.presets import MODELS
from sr3.shelf import Shelf
from sr3.ui import live, service, tour
from sr3.unet import UNet

ROOT = Path(__file__).resolve().parent.parent
REGISTRY = '[tiny]\ntitle = "Tiny test network"\nsource = "tiny"\ndomain = "noise"\n'
STEP = 0.2  # seconds
LONG = 200  # steps: forty seconds of a slow network
CROWD = 3
FIRST = "sr3-first"


def make_checkpoints(folder: Path) -> Path:
    """A registry of one small, untrained network."""
    torch.manual_seed(0)
    weights = UNet(MODELS["tiny"].network).state_dict()
    save_checkpoint(folder / "tiny", MODELS["tiny"], weights, "A network for tests.")
    (folder / "registry.toml").write_text(REGISTRY)
    return folder


def make_pair(folder: Path) -> Path:
    """A registry of two small networks of one family that draw different pictures."""
    make_checkpoints(folder)
    for seed, name in enumerate(("tiny", "tuned"), 1):
        torch.manual_seed(seed)
        network = UNet(MODELS["tiny"].network)
        for weight in network.parameters():  # the last layer is zero at first
            torch.nn.init.normal_(weight, std=0.2)
        save_checkpoint(folder / name, MODELS["tiny"], network.state_dict(), "A network for tests.")
    whole = REGISTRY + "images = 3\n"
    tuned = 'title = "Tuned"\nsource = "tuned"\nparent = "tiny"\nimages = 3\n'
    (folder / "registry.toml").write_text(f"{whole}\n[tuned]\n{tuned}")
    return folder


class FirstVisit:
    """True for a browser with the cookie."""

    def __bool__(self) -> bool:
        return FIRST in st.context.cookies


class Moods:
    """What the files say, put into the engine, the shelf and the service."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.crowds: dict[str, list[Job]] = {}
        self.estimate, self.submit = SuperResolver.estimate, Engine.submit
        self.get, self.offered = Shelf.get, service.offered
        SuperResolver.estimate = lambda *given: self.slow_estimate(*given)
        Engine.submit = lambda *given, **more: self.submit_behind_others(*given, **more)
        Shelf.get = lambda *given: self.get_when_open(*given)
        service.offered = self.offer_anew

    def __contains__(self, name: str) -> bool:
        return (self.folder / name).exists()

    def slow_estimate(self, *given):
        if "slow" in self or "crowd" in self:
            time.sleep(STEP)
        while "held" in self:
            time.sleep(0.02)
        return self.estimate(*given)

    def submit_behind_others(self, engine, resolver, low_res, settings, **more) -> Job:
        engine.max_batch = 1 if "crowd" in self else Engine.MAX_BATCH
        before = self.crowds.get(resolver.name, [])
        if "crowd" in self and all(job.ended for job in before):
            longer = resolver.settings(steps=LONG)
            self.crowds[resolver.name] = [
                self.stay(self.submit(engine, resolver, low_res, longer, visitor=f"another {k}"))
                for k in range(CROWD)
            ]
        job = self.submit(engine, resolver, low_res, settings, **more)
        if settings.steps == 1 and "unlucky" in self:
            job.answer = fail
        return job

    def stay(self, job: Job) -> Job:
        """Never to the back of the queue, and there until the mood ends, polled or not."""
        job.again = lambda: None
        job.unwanted = lambda _: "crowd" not in self
        return job

    def get_when_open(self, *given):
        while "shut" in self:
            time.sleep(0.05)
        return self.get(*given)

    def offer_anew(self):
        if "shut" in self:
            service.resolver.clear()
        return self.offered()


def fail(_) -> bool:
    raise RuntimeError("made to fail")


def keep_diary(file: Path) -> None:
    end, leave = Engine._end, service.Seat.leave

    def note(line: str) -> None:
        with file.open("a") as diary:
            diary.write(line + "\n")

    def ended(self, job, status, sentence=None):
        note(f"{status} {job.visitor.replace(' ', '-')} {self.ticks} {job.evaluations}")
        end(self, job, status, sentence)

    def left(self):
        note(f"left {self.visitor} {service.engine().ticks}")
        leave(self)

    Engine._end, service.Seat.leave = ended, left


def main(folder: str, port: str) -> None:
    sr3.checkpoints.ROOT = Path(folder)
    live.AT_ONCE = tour.SHOWN = FirstVisit()
    Moods(Path(folder))
    keep_diary(Path(folder) / "diary.txt")
    sys.argv = [
        "streamlit", "run", str(ROOT / "app.py"), "--server.headless=true",
        f"--server.port={port}", "--server.address=127.0.0.1", "--server.fileWatcherType=none",
    ]  # fmt: skip
    cli.main()


if __name__ == "__main__":
    main(*sys.argv[1:])
