"""One network asked in several ways: how samples spread, what consistency and steps change.

Parts of the page Inside. Each is one group of chains on one board, whose place is reserved before
the first of them is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import streamlit as st

from sr3.config import SamplerConfig
from sr3.differences import FULL, Spread, error_map, spread
from sr3.engine import MAX_FRAMES, Frame
from sr3.images import Pixels, degrade
from sr3.metrics import METRICS, Scores
from sr3.takeaway import Shown
from sr3.ui import keep, links, records, scoreboard, theatre, words
from sr3.ui.board import Beat, Board
from sr3.ui.frame import small_print
from sr3.ui.group import Group, Task
from sr3.ui.inputs import Face
from sr3.ui.live import step_line
from sr3.ui.settings import MOST_SAMPLES, STEP_COUNTS, Recipe, carry, describe_chains, step_count
from sr3.ui.stage import Picture, png, webp

FINE = 4.0  # grey levels at which the map of a 16 x 16 error is light: it is small
LENS = (0.5, 0.45)


def task(
    recipe: Recipe, title: str, *, sample: int = 0, keep: int = MAX_FRAMES, **changes: object
) -> Task:
    """A chain of the recipe's network, some of its sampling settings changed, that keeps so many
    of its frames."""
    sampling = replace(recipe.sampling, **changes)  # type: ignore[arg-type]
    resolver = recipe.resolver
    return Task(resolver.name, title, resolver, sampling, recipe.seed, sample, keep, recipe.title)


def original(face: Face) -> list[Picture]:
    """The original, where there is one, as the last square of a board."""
    if face.original is None:
        return []
    return [Picture("Original", "no network saw it", png(face.original), "The original face")]


def _told(found: Group) -> str:
    """What was run, which the recipe may no longer be, in one line for captions."""
    first, chains = found.tasks[0], [each.sampling for each in found.tasks]
    last = first.resolver.schedule.steps
    return f"{first.checkpoint}, {describe_chains(chains, first.seed, last)}{found.early}."


def link(found: Group, sampling: SamplerConfig, part: int, **more: str) -> str | None:
    """A link to a part of the page that was run with these settings; None for a run that was
    stopped, or a visitor's own face."""
    if found.early:
        return None
    first = found.tasks[0]
    return links.make(
        links.INSIDE, found.face.identity, [first.key], sampling, first.seed,
        part=links.PARTS[part], **more,
    )  # fmt: skip


# ------------------------------------------------------------------------------------- the samples
def samples(face: Face | None, recipe: Recipe) -> None:
    """Several samples, their mean and their spread, with the metrics of both."""
    words.layers("samples")
    carry("sr3_count", 6)
    count = st.slider("Samples", 2, MOST_SAMPLES, key="sr3_count", persist_state="session")
    tasks = [task(recipe, f"Sample {k + 1}", sample=k, keep=1) for k in range(count)]
    found = theatre.perform(
        "sr3_samples_run", face, tasks, partial(_samples, tuple(tasks)), label="Draw samples",
        icon=":material/casino:",
    )  # fmt: skip
    if found is None or face is None:
        return
    drawn = pictures_of(found)
    if len(drawn) < 2:
        return
    made = spread(np.stack(list(drawn.values())))
    small_print(
        f"Uncertainty: the standard deviation over {len(drawn)} samples, light from "
        f"{FULL / 2:.0f} grey levels; {made.level:.1f} on average. {_told(found)}"
    )
    each = dict(zip(drawn, scoreboard.measure(list(drawn.values()), face), strict=True))
    (mean,) = scoreboard.measure([made.mean], face)
    sheet = [Shown("Mean", made.mean), Shown("Uncertainty", made.map, "light: they disagree")]
    restores = link(found, found.tasks[0].sampling, 1, samples=str(len(found.tasks)))
    _keep(found, "samples", drawn, sheet, each | {"Mean": mean}, restores)
    _trade_off(list(each.values()), mean, face)


def _samples(tasks: Sequence[Task], face: Face, found: Group | None, live: bool) -> Board:
    pictures = []
    drawn: list[Pixels] = []
    for place, each in enumerate(found.tasks if found else tasks):
        picture = found.picture(place) if found else None
        image = "" if picture is None else (webp if live else png)(picture)
        note = _stopped(found, place, live) or f"noise {place}"
        pictures.append(Picture(each.title, note, image, each.title))
        if picture is not None:
            drawn.append(picture)
    made = spread(np.stack(drawn)) if len(drawn) > 1 and not live else None
    ready = "Ready. Each sample starts from its own noise."
    status, left = theatre.status(found, live, ready, "Done: all of them fit the same input.")
    return Board(
        [*_mean(made), *original(face), *pictures], status, left, status if found else "",
        found.name if found else "", timeline=False, columns=5, lens=LENS, label="Samples",
    )  # fmt: skip


def _mean(made: Spread | None) -> tuple[Picture, Picture]:
    """The squares of the mean and the uncertainty; empty until there are samples."""
    if made is None:
        return Picture("Mean", "of the samples", alt="–"), Picture("Uncertainty", "", alt="–")
    return (
        Picture("Mean", "of the samples", png(made.mean), "The mean of the samples"),
        Picture("Uncertainty", "light: the samples disagree", png(made.map),
                "Where the samples disagree"),
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
        task(recipe, "Free", consistency=False),
        task(recipe, "Consistent", consistency=True),
    ]
    found = theatre.perform(
        "sr3_kept", face, tasks, _consistency, label="Run both", icon=":material/compare_arrows:",
    )  # fmt: skip
    if found is not None and face is not None:
        small_print(
            "The maps: each result is reduced to 16 × 16 again and laid over the input; light from "
            f"{FINE:.0f} of 255 grey levels."
        )
        drawn = pictures_of(found)
        wrong = [error_map(_again(picture, face), face.low_res, FINE) for picture in drawn.values()]
        maps = [Shown(f"{t}: error at 16 × 16", w) for t, w in zip(drawn, wrong, strict=True)]
        kept = recipe.sampling.consistency  # of both chains one has it
        restores = link(found, replace(found.tasks[0].sampling, consistency=kept), 2)
        _finish(found, "consistency", drawn, maps, restores)


def _again(picture: Pixels, face: Face) -> Pixels:
    """A result, reduced as its input was."""
    return degrade(picture, face.low_res.shape[0])


def _consistency(face: Face, found: Group | None, live: bool) -> Board:
    frames = [] if found is None else [
        Beat(index, step_line(index, found.steps, _level(moment)),
             tuple(found.encode(k, frame) for k, frame in enumerate(moment)))
        for index, moment in found.frames()
    ]  # fmt: skip
    titles = ("Free", "Consistent")
    pair = [Picture(title, "", alt=title) for title in titles]
    maps = [Picture(f"{title.split()[0]}: error at 16 × 16", "", alt="–") for title in titles]
    for k in range(2):
        picture = found.picture(k) if found and not live else None
        if picture is None:
            continue
        again = _again(picture, face)
        note = _stopped(found, k, live) or "the result"
        pair[k] = replace(pair[k], image=png(picture), note=note)
        wrong = float(np.abs(again.astype(float) - face.low_res).mean())
        maps[k] = replace(
            maps[k], image=png(error_map(again, face.low_res, FINE)), crisp=True,
            note=f"{wrong:.2f} grey levels on average", alt="Error after reducing again",
        )  # fmt: skip
    ready = "Ready. Both start from the same noise."
    status, left = theatre.status(found, live, ready, "Done: reduced again, only one is the input.")
    total = found.steps if found else 1
    return Board(
        [*pair, *maps], status, left, status if found else "", found.name if found else "", live,
        frames, frames[-1].index if frames else total, total, lens=LENS,
        label="With and without consistency",
    )  # fmt: skip


def _level(moment: Sequence[Frame | None]) -> float:
    return next((frame.noise_level for frame in moment if frame), 1.0)


# --------------------------------------------------------------------------------- the step counts
def counts(face: Face | None, recipe: Recipe) -> None:
    """The same noise in 1 to 100 steps."""
    words.layers("counts")
    carry("sr3_step_counts", list(STEP_COUNTS[:5]))
    # No pills: what is chosen there reaches only 4.2:1 in the dark scheme.
    chosen = st.multiselect(
        "Steps", STEP_COUNTS, key="sr3_step_counts", help="50 and 100 take their time.",
        persist_state="session",
    )  # fmt: skip
    tasks = [task(recipe, step_count(n), steps=n, keep=1) for n in sorted(chosen)]
    found = theatre.perform(
        "sr3_counts", face, tasks, partial(_counts, tuple(tasks)), label="Run them",
        icon=":material/linear_scale:", lacking="" if tasks else "Choose a number of steps.",
    )  # fmt: skip
    if found is not None and face is not None:
        asked = ",".join(str(each.sampling.steps) for each in found.tasks)
        steps = recipe.sampling.steps  # no chain's, but where the visitor's slider stands
        restores = link(found, replace(found.tasks[0].sampling, steps=steps), 3, counts=asked)
        _finish(found, "steps", pictures_of(found), [], restores)


def _counts(tasks: Sequence[Task], face: Face, found: Group | None, live: bool) -> Board:
    pictures = []
    for place, each in enumerate(found.tasks if found else tasks):
        frame = found.newest(place) if found else None
        done = frame.evaluations if frame else 0
        image = "" if frame is None else (webp if live else png)(frame.x0)
        note = f"{done} of {each.sampling.steps}" if live else _stopped(found, place, live)
        if not note and found and place in found.jobs:
            note = f"{found.jobs[place].seconds:.1f} s"
        pictures.append(Picture(each.title, note, image, each.title))
    status, left = theatre.status(
        found, live, "Ready. All start from the same noise.", "Done: where does more stop helping?"
    )
    return Board(
        [*pictures, *original(face)], status, left, status if found else "",
        found.name if found else "", timeline=False, lens=LENS, label="Step counts",
    )  # fmt: skip


# ------------------------------------------------------------------------------------ take it home
def pictures_of(found: Group) -> dict[str, Pixels]:
    """The results, or newest clean estimates, by the tasks' titles."""
    drawn = {each.title: found.picture(k) for k, each in enumerate(found.tasks)}
    return {title: picture for title, picture in drawn.items() if picture is not None}


def _stopped(found: Group | None, place: int, live: bool) -> str:
    """What stands under a picture whose chain was stopped; "" under others."""
    frame = found.newest(place) if found and not live else None
    if frame is None or frame.index == frame.total:
        return ""
    return f"stopped early, after {frame.evaluations} of {step_count(frame.total)}"


def _finish(
    found: Group, name: str, drawn: Mapping[str, Pixels], more: Sequence[Shown],
    restores: str | None,
) -> None:  # fmt: skip
    """The downloads and the scores of some pictures of one face."""
    scores = scoreboard.measure(list(drawn.values()), found.face)
    by_title = dict(zip(drawn, scores, strict=True))
    _keep(found, name, drawn, more, by_title, restores)
    scoreboard.show(drawn, found.face)


def _keep(
    found: Group, name: str, drawn: Mapping[str, Pixels], more: Sequence[Shown],
    scores: Mapping[str, Scores], restores: str | None,
) -> None:  # fmt: skip
    """A sheet of the pictures, the record and the link."""
    face, places = found.face, {each.title: k for k, each in enumerate(found.tasks)}
    shown = [Shown("Input", face.low_res, "16 × 16 pixels", crisp=True)]
    shown += [Shown(t, pixels, _stopped(found, places[t], False)) for t, pixels in drawn.items()]
    shown += more
    if face.original is not None:
        shown.append(Shown("Original", face.original))
    keep.offer(
        keep.Keepsake(
            found.name, f"sr3-{name}-seed{found.tasks[0].seed}", f"SR3 Lab: {name}",
            (_told(found),), tuple(shown), list(drawn.values())[-1],
            records.of_group(found, restores, scores), restores, as_sheet=True,
        )
    )  # fmt: skip
