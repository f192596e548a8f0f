"""The attract loop's runs: made once by the server, in the background, one after another.

Invariants: a reel says exactly what it shows; the runs go through the engine as one more visitor,
so that people come first in turn; what is kept is bounded.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from itertools import islice

import numpy as np
import streamlit as st

from sr3.errors import SR3Error
from sr3.images import degrade, resize
from sr3.ui import gallery, service
from sr3.ui.settings import Recipe, describe
from sr3.ui.stage import png, webp

FACES = 4
CHECKPOINTS = 2
VISITOR = "the poster's loop"


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
        networks = [(entries[n].title, service.resolver(n)) for n in islice(entries, CHECKPOINTS)]
        recipes = [Recipe(each, title, each.config.sampling, 0) for title, each in networks]
        faces = list(islice(gallery.faces().values(), FACES))
        self._engine = service.engine()
        jobs = [(face, recipe) for face in faces for recipe in recipes]
        self._count = len(jobs)
        self._worker = threading.Thread(target=self._make, args=(jobs,), daemon=True)
        self._worker.start()

    @property
    def done(self) -> bool:
        return not self._worker.is_alive()

    def close(self) -> None:
        self._closed.set()

    def _make(self, jobs: list[tuple[gallery.GalleryFace, Recipe]]) -> None:
        for face, recipe in jobs:
            try:
                self._add(face, recipe)
            except SR3Error:  # busy or failed: the loop goes on with what there is
                continue
            if self._closed.is_set():
                return

    def _add(self, face: gallery.GalleryFace, recipe: Recipe) -> None:
        high = resize(face.pixels, recipe.resolver.high_size)
        low = degrade(high, recipe.resolver.low_size)
        job = self._engine.submit(
            recipe.resolver, low, recipe.sampling, seed=recipe.seed, visitor=VISITOR
        )
        while not job.wait(1.0):
            if self._closed.is_set():
                job.cancel()
                return
        frames = [frame for frame in job.frames if job.status == "done"]
        if not frames:
            return
        pick = np.unique(np.linspace(0, len(frames) - 1, 20).astype(int))
        few = [frames[k] for k in pick]
        reel = Reel(
            face.name, f"{describe(recipe)}. Shown slower than it ran.", face.credit, png(low),
            webp(high), tuple(webp(f.x_t) for f in few), tuple(webp(f.x0) for f in few),
        )  # fmt: skip
        self.made = (*self.made, reel)


@st.cache_resource(max_entries=1, show_spinner=False, on_release=lambda reels: reels.close())
def reels() -> Reels:
    """The server's reels."""
    return Reels()
