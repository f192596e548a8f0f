"""Inside the chain: what each step does, how samples spread, what consistency and steps change.

Each part is one group of chains on one board, explained in three layers (`sr3.ui.words`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import streamlit as st

from sr3.differences import FULL, change_map, error_map, spread
from sr3.engine import MAX_FRAMES, Frame
from sr3.images import Pixels, degrade, enlarge
from sr3.metrics import METRICS, Scores
from sr3.takeaway import Shown
from sr3.ui import keep, links, scoreboard, theatre, words
from sr3.ui.board import Beat, Board
from sr3.ui.frame import small_print
from sr3.ui.group import Group, Task
from sr3.ui.inputs import Face
from sr3.ui.live import step_line
from sr3.ui.settings import Recipe, describe
from sr3.ui.stage import Picture, png, webp

COUNTS = (1, 2, 5, 10, 20, 50, 100)
MOST_SAMPLES = 12
FINE = 4.0  # grey levels at which the map of a 16 x 16 error is light: it is small
LENS = (0.5, 0.45)


def _task(
    recipe: Recipe, title: str, *, sample: int = 0, keep: int = MAX_FRAMES, **changes: object
) -> Task:
    sampling = replace(recipe.sampling, **changes)  # type: ignore[arg-type]
    resolver = recipe.resolver
    return Task(resolver.name, title, resolver, sampling, recipe.seed, sample, keep)


def _original(face: Face) -> list[Picture]:
    if face.original is None:
        return []
    return [Picture("Original", "no network saw it", png(face.original), "The original face")]


# --------------------------------------------------------------------------------------- the chain
def chain(face: Face | None, recipe: Recipe) -> None:
    """One chain, to scrub and play: the noisy image, the clean estimate, what the step changed."""
    words.layers("chain")
    found = theatre.perform(
        "sr3_chain", face, [_task(recipe, recipe.title)], _chain, label="Run the chain",
        icon=":material/play_arrow:",
    )  # fmt: skip
    if found is None:
        return
    small_print(
        "Drag the timeline, or press ▶. The curve is the share of noise in the image, step by "
        "step, on this sampler's path. Change: orange grew lighter, blue darker; full colour at "
        f"{FULL / 4:.0f} of 255 grey levels."
    )
    picture = found.picture(0)
    assert face is not None and picture is not None
    _keep(found, face, recipe, picture)


def _chain(face: Face, found: Group | None, live: bool) -> Board:
    frames: list[Beat] = []
    path: list[float] = []
    total = found.tasks[0].sampling.steps if found else 1
    before: Pixels = enlarge(face.low_res)
    last = Picture("Change", "in this step", alt="What a step changes")
    for index, (frame,) in found.frames() if found else []:
        if frame is None or found is None:
            continue
        change = webp(change_map(before, frame.x0))
        images = (found.encode(0, frame, "x_t"), found.encode(0, frame), change)
        moved = float(np.abs(frame.x0.astype(float) - before).mean())
        notes = (f"noise level {frame.noise_level:.3f}", f"after {frame.evaluations} looks",
                 f"{moved:.1f} grey levels on average")  # fmt: skip
        frames.append(Beat(index, step_line(index, total, frame.noise_level), images, notes))
        path.append(1 - frame.noise_level**2)
        before = frame.x0
        last = Picture("Change", notes[2], change, "What this step changed")
    newest = found.newest(0) if found and not live else None
    shown = [
        Picture("Noisy image", "what the sampler works on", alt="The noisy image"),
        Picture("Clean estimate", "what the network expects", alt="The clean estimate"),
        last,
    ]
    if newest is not None:
        shown[0] = replace(shown[0], image=png(newest.x_t), note="noise level 1.000: clean")
        shown[1] = replace(shown[1], image=png(newest.x0), note="the result")
    ready = "Ready. Run the chain, then take it apart."
    status, left = theatre.status(
        found, live, ready, f"Done: {total} steps. Now scrub through them."
    )
    return Board(
        [*shown, *_original(face)], status, left, status if found else "",
        found.name if found else "", live, frames, frames[-1].index if frames else 0, total,
        lens=LENS, path=() if live else path, label="The chain",
    )  # fmt: skip


# ------------------------------------------------------------------------------------- the samples
def samples(face: Face | None, recipe: Recipe) -> None:
    """Several samples, their mean and their spread, with the metrics of both."""
    words.layers("samples")
    count = st.slider("Samples", 2, MOST_SAMPLES, 6, key="sr3_count")
    tasks = [_task(recipe, f"Sample {k + 1}", sample=k, keep=1) for k in range(count)]
    found = theatre.perform(
        "sr3_samples_run", face, tasks, _samples, label="Draw samples", icon=":material/casino:",
    )  # fmt: skip
    if found is None or face is None:
        return
    drawn = [p for k in range(len(found.tasks)) if (p := found.picture(k)) is not None]
    if len(drawn) < 2:
        return
    spread_ = spread(np.stack(drawn))
    small_print(
        f"Uncertainty: the standard deviation over {len(drawn)} samples, light from "
        f"{FULL / 2:.0f} grey levels; {spread_.level:.1f} on average. {describe(recipe)}."
    )
    each, (mean,) = scoreboard.measure(drawn, face), scoreboard.measure([spread_.mean], face)
    _trade_off(each, mean, face)


def _samples(face: Face, found: Group | None, live: bool) -> Board:
    pictures = []
    drawn: list[Pixels] = []
    for place, task in enumerate(found.tasks if found else ()):
        assert found is not None
        picture = found.picture(place)
        image = "" if picture is None else (webp if live else png)(picture)
        pictures.append(Picture(task.title, f"noise {place}", image, task.title))
        if picture is not None:
            drawn.append(picture)
    mean, uncertainty = (
        Picture("Mean", "of the samples", alt="–"),
        Picture("Uncertainty", "", alt="–"),
    )
    if len(drawn) > 1 and not live:
        made = spread(np.stack(drawn))
        mean = replace(mean, image=png(made.mean), alt="The mean of the samples")
        uncertainty = replace(
            uncertainty, image=png(made.map), note="light: the samples disagree",
            alt="Where the samples disagree",
        )  # fmt: skip
    ready = "Ready. Each sample starts from its own noise."
    status, left = theatre.status(found, live, ready, "Done: all of them fit the same input.")
    return Board(
        [mean, uncertainty, *_original(face), *pictures], status, left, status if found else "",
        found.name if found else "", timeline=False, columns=5, lens=LENS, label="Samples",
    )  # fmt: skip


def _trade_off(each: list[Scores], mean: Scores, face: Face) -> None:
    """A sample's scores, on average, beside those of the mean."""
    rows = []
    for name in scoreboard.SHOWN:
        values = [getattr(scores, name) for scores in each]
        average = None if None in values else float(np.mean(values))
        rows.append(
            (METRICS[name].label, *scoreboard.marked(METRICS[name], [average, getattr(mean, name)]))
        )
    columns = [":gray[Metric]", f":gray[A sample, mean of {len(each)}]", ":gray[The mean picture]"]
    st.table(pd.DataFrame(rows, columns=columns), hide_index=True, border="horizontal",
             alt="Scores of a sample and of the mean picture")  # fmt: skip
    if face.original is not None:
        small_print(
            "The perception-distortion trade-off: a mean comes closer pixel by pixel (PSNR), and "
            "looks less like a photograph (LPIPS). Blau and Michaeli, 2018."
        )


# --------------------------------------------------------------------------------- the consistency
def consistency(face: Face | None, recipe: Recipe) -> None:
    """The same chain with and without the correction that keeps it to its input."""
    words.layers("consistency")
    tasks = [
        _task(recipe, "Free", consistency=False),
        _task(recipe, "Kept to the input", consistency=True),
    ]
    found = theatre.perform(
        "sr3_kept", face, tasks, _consistency, label="Run both", icon=":material/compare_arrows:",
    )  # fmt: skip
    if found is not None and face is not None:
        small_print(
            "The maps: each result is reduced to 16 × 16 again and laid over the input; light from "
            f"{FINE:.0f} of 255 grey levels."
        )
        drawn = {task.title: found.picture(k) for k, task in enumerate(found.tasks)}
        scoreboard.show({title: p for title, p in drawn.items() if p is not None}, face)


def _consistency(face: Face, found: Group | None, live: bool) -> Board:
    frames = [] if found is None else [
        Beat(index, step_line(index, found.tasks[0].sampling.steps, _level(moment)),
             tuple(found.encode(k, frame) for k, frame in enumerate(moment)))
        for index, moment in found.frames()
    ]  # fmt: skip
    titles = ("Free", "Kept to the input")
    pair = [Picture(title, "", alt=title) for title in titles]
    maps = [Picture(f"{title.split()[0]}: error at 16 × 16", "", alt="–") for title in titles]
    for k in range(2):
        picture = found.picture(k) if found and not live else None
        if picture is None:
            continue
        again = degrade(picture, face.low_res.shape[0])
        pair[k] = replace(pair[k], image=png(picture), note="the result")
        wrong = float(np.abs(again.astype(float) - face.low_res).mean())
        maps[k] = replace(
            maps[k], image=png(error_map(again, face.low_res, FINE)), crisp=True,
            note=f"{wrong:.2f} grey levels on average", alt="Error after reducing again",
        )  # fmt: skip
    ready = "Ready. Both start from the same noise."
    status, left = theatre.status(found, live, ready, "Done: reduced again, only one is the input.")
    total = found.tasks[0].sampling.steps if found else 1
    return Board(
        [*pair, *maps], status, left, status if found else "", found.name if found else "", live,
        frames, total, total, lens=LENS, label="With and without consistency",
    )  # fmt: skip


def _level(moment: Sequence[Frame | None]) -> float:
    return next((frame.noise_level for frame in moment if frame), 1.0)


# --------------------------------------------------------------------------------- the step counts
def counts(face: Face | None, recipe: Recipe) -> None:
    """The same noise in 1 to 100 steps."""
    words.layers("counts")
    # No pills: what is chosen there reaches only 4.2:1 in the dark scheme.
    chosen = st.multiselect(
        "Steps", COUNTS, default=COUNTS[:5], key="sr3_step_counts",
        help="50 and 100 take their time.",
    )  # fmt: skip
    tasks = [
        _task(recipe, f"{n} step{'s' if n > 1 else ''}", steps=n, keep=1) for n in sorted(chosen)
    ]
    found = theatre.perform(
        "sr3_counts", face, tasks, _counts, label="Run them", icon=":material/linear_scale:",
    )  # fmt: skip
    if found is not None and face is not None:
        drawn = {task.title: found.picture(k) for k, task in enumerate(found.tasks)}
        scoreboard.show({title: p for title, p in drawn.items() if p is not None}, face)


def _counts(face: Face, found: Group | None, live: bool) -> Board:
    pictures = []
    for place, task in enumerate(found.tasks if found else ()):
        assert found is not None
        frame = found.newest(place)
        done = frame.evaluations if frame else 0
        image = "" if frame is None else (webp if live else png)(frame.x0)
        note = (
            f"{done} of {task.sampling.steps}"
            if live
            else f"{found.jobs[place].seconds:.1f} s"
            if place in found.jobs
            else ""
        )
        pictures.append(Picture(task.title, note, image, task.title))
    status, left = theatre.status(
        found, live, "Ready. All start from the same noise.", "Done: where does more stop helping?"
    )
    return Board(
        [*pictures, *_original(face)], status, left, status if found else "",
        found.name if found else "", timeline=False, lens=LENS, label="Step counts",
    )  # fmt: skip


PARTS: dict[str, Callable[[Face | None, Recipe], None]] = {
    "The chain": chain, "Samples": samples, "Consistency": consistency, "Step counts": counts,
}  # fmt: skip


# ------------------------------------------------------------------------------------ take it home
def _caption(frame: Frame) -> tuple[str, Pixels, str]:
    step = min(frame.index + 1, frame.total)
    return f"Step {step}", frame.x0, f"{100 * (1 - frame.noise_level**2):.0f} % noise"


def _keep(found: Group, face: Face, recipe: Recipe, picture: Pixels) -> None:
    name = recipe.resolver.name
    link = links.make(links.INSIDE, face.identity, [name], recipe.sampling, recipe.seed)
    frames = [moment[0] for _, moment in found.frames()]
    few = [frames[k] for k in np.linspace(0, len(frames) - 1, min(len(frames), 5)).astype(int)]
    shown = [Shown(*_caption(frame)) for frame in few if frame is not None]
    record = {
        "face": face.identity, "seed": recipe.seed, "sampling": vars(recipe.sampling), "link": link,
        "networks": [keep.describe_network(recipe.resolver, name, recipe.title)],
        "levels": [frame.noise_level for frame in frames if frame is not None],
    }  # fmt: skip

    def film() -> list[list[Pixels]]:
        return [[f.x_t, f.x0] for f in frames if f is not None]

    keep.offer(
        keep.Keepsake(
            found.name, f"sr3-chain-seed{recipe.seed}", "SR3 Lab: inside the chain",
            (f"{describe(recipe)}.",), tuple(shown), picture, film, record, link,
        )
    )  # fmt: skip
