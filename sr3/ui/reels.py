"""The attract loop's runs: made once by the server, in the background, one after another.

Invariants: a reel says exactly what it shows; the runs go through the engine as one more visitor,
so that people come first in turn; what is kept is bounded. A run that is refused or fails is tried
again after a pause, a bounded number of times, so that a busy hour does not leave the loop empty.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import dataclass

import numpy as np
import streamlit as st

from sr3.errors import SR3Error
from sr3.images import degrade, resize
from sr3.ui import gallery, mixing, service
from sr3.ui.settings import Recipe, describe
from sr3.ui.stage import png, webp

KINDS = {"photograph": 1, "drawing": 1, "cartoon": 2}  # how many faces of each kind
VISITOR = "the poster's loop"
TRIES = 40  # of each run
PAUSE = 15.0  # seconds before what failed is tried again, when nothing else is left
_log = logging.getLogger("sr3.reels")


@dataclass(frozen=True)
class Reel:
    """One run; images are data URIs."""

    title: str
    caption: str
    credit: str
    low: str
    original: str
    noisy: tuple[str, ...]
    clean: tuple[str, ...]


class Reels:
    """The reels so far, in the order of their making; `done` once all are there."""

    def __init__(self) -> None:
        self.made: tuple[Reel, ...] = ()
        self._closed = threading.Event()
        entries = service.offered()
        # Loaded here: a worker thread must not use Streamlit's caches.
        names = mixing.introduced(entries)
        networks = [(entries[name].title, service.resolver(name)) for name in names]
        recipes = [Recipe(each, title, each.config.sampling, 0) for title, each in networks]
        self._engine = service.engine()
        jobs = [(face, recipe) for face in _faces() for recipe in recipes]
        self._worker = threading.Thread(target=self._make, args=(jobs,), daemon=True)
        self._worker.start()

    @property
    def done(self) -> bool:
        return not self._worker.is_alive()

    def close(self) -> None:
        self._closed.set()

    def _make(self, jobs: list[tuple[gallery.GalleryFace, Recipe]]) -> None:
        waiting = deque((face, recipe, 1) for face, recipe in jobs)
        failed = 0  # since the last one that was made
        while waiting and not self._closed.is_set():
            face, recipe, tries = waiting.popleft()
            if self._tried(face, recipe):
                failed = 0
                continue
            failed += 1
            if tries < TRIES:
                waiting.append((face, recipe, tries + 1))
            if failed >= len(waiting):  # all of them: not at once again
                self._closed.wait(PAUSE)
                failed = 0

    def _tried(self, face: gallery.GalleryFace, recipe: Recipe) -> bool:
        """Whether a run became a reel; whatever goes wrong, the loop goes on with what there is."""
        try:
            return self._add(face, recipe)
        except SR3Error as error:  # busy, or the checkpoint is damaged
            _log.info("A run of the poster's loop comes later: %s", error)
        except Exception:
            _log.exception("A run of the poster's loop failed.")
        return False

    def _add(self, face: gallery.GalleryFace, recipe: Recipe) -> bool:
        """Make one reel; whether it was made."""
        high = resize(face.pixels, recipe.resolver.high_size)
        low = degrade(high, recipe.resolver.low_size)
        job = self._engine.submit(
            recipe.resolver, low, recipe.sampling, seed=recipe.seed, visitor=VISITOR
        )
        while not job.wait(1.0):
            if self._closed.is_set():
                job.cancel()
                return False
        frames = [frame for frame in job.frames if job.status == "done"]
        if not frames:
            return False
        pick = np.unique(np.linspace(0, len(frames) - 1, 20).astype(int))
        few = [frames[k] for k in pick]
        reel = Reel(
            face.name, f"{describe(recipe)}. Shown slower than it ran.", face.credit, png(low),
            webp(high), tuple(webp(f.x_t) for f in few), tuple(webp(f.x0) for f in few),
        )  # fmt: skip
        self.made = (*self.made, reel)
        return True


def _faces() -> list[gallery.GalleryFace]:
    """Some faces of each kind that may be shown with their original."""
    every = list(gallery.own().values())
    return [
        face
        for kind, count in KINDS.items()
        for face in [each for each in every if each.kind == kind][:count]
    ]


@st.cache_resource(max_entries=1, show_spinner=False, on_release=lambda reels: reels.close())
def reels() -> Reels:
    """The server's reels."""
    return Reels()
