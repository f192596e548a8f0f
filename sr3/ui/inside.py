"""Inside the chain: what each step does; its other parts are in `sr3.ui.variants`.

Each part is one group of chains on one board, explained in three layers (`sr3.ui.words`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from sr3.differences import FULL, change_map
from sr3.engine import Frame
from sr3.images import Pixels, enlarge
from sr3.takeaway import Shown
from sr3.ui import keep, links, records, scoreboard, theatre, variants, words
from sr3.ui.board import Beat, Board
from sr3.ui.frame import small_print
from sr3.ui.group import Group
from sr3.ui.inputs import Face
from sr3.ui.live import step_line
from sr3.ui.settings import Recipe, describe, step_count
from sr3.ui.stage import Picture, png, webp


def chain(face: Face | None, recipe: Recipe) -> None:
    """One chain, to scrub and play: the noisy image, the clean estimate, what the step changed."""
    words.layers("chain")
    found = theatre.perform(
        "sr3_chain", face, [variants.task(recipe, recipe.title)], _chain, label="Run the chain",
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
    path: list[tuple[float, float]] = []
    total = found.steps if found else 1
    size = found.tasks[0].resolver.high_size if found else 128  # nothing is compared with it then
    before: Pixels = enlarge(face.low_res, size)
    last = Picture("Change", "in this step", alt="What a step changes")
    for index, (frame,) in found.frames() if found else []:
        if frame is None or found is None:
            continue
        change = webp(change_map(before, frame.x0))
        images = (found.encode(0, frame, "x_t"), found.encode(0, frame), change)
        moved = float(np.abs(frame.x0.astype(float) - before).mean())
        asked = f"{frame.evaluations} evaluation{'s' * (frame.evaluations != 1)}"
        notes = (f"noise level {frame.noise_level:.3f}", f"after {asked}",
                 f"{moved:.1f} grey levels on average")  # fmt: skip
        frames.append(Beat(index, step_line(index, total, frame.noise_level), images, notes))
        path.append((index / total, 1 - frame.noise_level**2))
        before = frame.x0
        last = Picture("Change", notes[2], change, "What this step changed")
    newest = found.newest(0) if found and not live else None
    shown = [
        Picture("Noisy image", "what the sampler works on", alt="The noisy image"),
        Picture("Clean estimate", "what the network expects", alt="The clean estimate"),
        last,
    ]
    if newest is not None:
        level, after = _end(newest)
        shown[0] = replace(shown[0], image=png(newest.x_t), note=level)
        shown[1] = replace(shown[1], image=png(newest.x0), note=after)
    ready = "Ready. Run the chain, then take it apart."
    status, left = theatre.status(
        found, live, ready, f"Done: {step_count(total)}. Now scrub through them."
    )
    return Board(
        [*shown, *variants.original(face)], status, left, status if found else "",
        found.name if found else "", live, frames, frames[-1].index if frames else 0, total,
        lens=variants.LENS, path=path, label="The chain",
    )  # fmt: skip


def _end(newest: Frame) -> tuple[str, str]:
    """What stands under the noisy image and the clean estimate where the chain ended."""
    level = f"noise level {newest.noise_level:.3f}"
    if newest.index == newest.total:
        return f"{level}: clean", "the result"
    return level, f"stopped early, after {newest.evaluations} of {step_count(newest.total)}"


PARTS: dict[str, Callable[[Face | None, Recipe], None]] = dict(
    zip(
        links.PARTS, (chain, variants.samples, variants.consistency, variants.counts), strict=True
    )
)  # fmt: skip


# ------------------------------------------------------------------------------------ take it home
def _caption(frame: Frame) -> tuple[str, Pixels, str]:
    step = min(frame.index + 1, frame.total)
    return f"Step {step}", frame.x0, f"{100 * (1 - frame.noise_level**2):.0f} % noise"


def _keep(found: Group, face: Face, recipe: Recipe, picture: Pixels) -> None:
    link = variants.link(found, recipe.sampling, 0)
    frames = [frame for _, (frame,) in found.frames() if frame is not None]
    few = [frames[k] for k in np.linspace(0, len(frames) - 1, min(len(frames), 5)).astype(int)]
    (scores,) = scoreboard.measure([picture], face)
    record = records.of_group(
        found, link, {recipe.title: scores}, levels=[frame.noise_level for frame in frames]
    )
    keep.offer(
        keep.Keepsake(
            found.name, f"sr3-chain-seed{recipe.seed}", "SR3 Lab: inside the chain",
            (f"{describe(recipe)}{found.early}.",),
            tuple(Shown(*_caption(frame)) for frame in few), picture, record, link,
            lambda: [[frame.x_t, frame.x0] for frame in frames],
        )
    )  # fmt: skip
