"""Several networks on one face and one noise, side by side and in step; then told apart.

What is shown while they work is the board; afterwards a before/after slider between any two, an
error map, their scores with the best marked, and one sentence that says what to look at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import streamlit as st

from sr3.combine import same_chain
from sr3.config import SamplerConfig
from sr3.differences import FULL, error_map, place_of_most, zone_of_most
from sr3.images import Pixels, enlarge
from sr3.metrics import METRICS
from sr3.pipeline import SuperResolver
from sr3.takeaway import Shown
from sr3.ui import board, keep, links, records, scoreboard, theatre
from sr3.ui.board import Beat, Board
from sr3.ui.frame import small_print
from sr3.ui.group import Group, Task
from sr3.ui.inputs import Face
from sr3.ui.live import step_line
from sr3.ui.mixing import BICUBIC, Contestant
from sr3.ui.settings import MOST_STEPS, describe_sampling, step_count
from sr3.ui.stage import Picture, png

SLOT = "sr3_duel"
ORIGINAL = "Original"


def tasks_of(rivals: Sequence[Contestant], sampling: SamplerConfig, seed: int) -> list[Task]:
    """A chain for each network; bicubic needs none. All go by the first one's settings, except
    those whose chain is of another kind, which keep their own."""
    networks = [(rival, rival.resolver) for rival in rivals if rival.resolver is not None]
    return [
        Task(rival.key, rival.title, network, own(network, networks[0][1], sampling), seed)
        for rival, network in networks
    ]


def own(network: SuperResolver, lead: SuperResolver, sampling: SamplerConfig) -> SamplerConfig:
    """`sampling`, or a network's own where it cannot follow the lead's."""
    if same_chain(network.config, lead.config):
        return sampling
    usual = network.config.sampling
    return replace(usual, steps=min(usual.steps, MOST_STEPS))


def run(
    face: Face | None, rivals: Sequence[Contestant], sampling: SamplerConfig, seed: int
) -> Group | None:
    """The button and the board; gives the group once it has ended."""
    return theatre.perform(
        SLOT, face, tasks_of(rivals, sampling, seed), partial(_board, tuple(rivals)),
        label="Compare", icon=":material/compare:",
        lacking="" if len(rivals) > 1 else "Choose two to four under Compare: there is "
        + ("nothing to compare yet." if not rivals else f"only {rivals[0].title} so far."),
    )  # fmt: skip


def _board(rivals: tuple[Contestant, ...], face: Face, found: Group | None, live: bool) -> Board:
    side = face.low_res.shape[0]
    bicubic = png(enlarge(face.low_res))
    places = _places(rivals, found)
    given = any(rival.key == BICUBIC for rival in rivals)  # bicubic shows what the input holds
    frames: list[Beat] = []
    total = 1
    if found is not None:
        total = found.steps
        for index, moment in found.frames():
            images = [] if given else [""]
            for rival in rivals:
                place = places.get(rival.key)
                images.append("" if place is None else found.encode(place, moment[place]))
            level = min((frame.noise_level for frame in moment if frame), default=1.0)
            frames.append(Beat(index, step_line(index, total, level), tuple(images)))
    pictures = []
    if not given:
        given_note = f"{side} × {side} pixels"
        pictures.append(Picture("Input", given_note, png(face.low_res), "The input", True))
    for rival in rivals:
        picture = None
        if found is not None and not live and rival.key in places:
            picture = found.picture(places[rival.key])
        if rival.resolver is None:
            pictures.append(Picture("Bicubic", "no network", bicubic, "Bicubic enlargement"))
        elif picture is None:
            pictures.append(
                Picture(rival.title, "clean estimate", bicubic if live else "", "Not drawn yet")
            )
        else:
            assert found is not None
            note = _note(found, places[rival.key])
            pictures.append(Picture(rival.title, note, png(picture), f"By {rival.title}"))
    if face.original is not None:
        pictures.append(
            Picture(ORIGINAL, "no network saw it", png(face.original), "The original face")
        )
    ready = "Ready. One press, and all of them work on the same noise."
    status, left = theatre.status(found, live, ready, _done(found))
    said, name = (status, found.name) if found else ("", "")
    return Board(
        pictures, status, left, said, name, live, frames, total, total, columns=len(pictures),
        lens=_lens(face, found, places), label="Results",
    )  # fmt: skip


def _lens(face: Face, found: Group | None, places: dict[str, int]) -> tuple[float, float]:
    """Where the first two networks differ the most."""
    drawn = [found.picture(place) for place in places.values()] if found and found.ended else []
    seen = [picture for picture in drawn if picture is not None]
    if not seen:
        return 0.5, 0.45
    return place_of_most(
        seen[-1], seen[0] if len(seen) > 1 else enlarge(face.low_res, len(seen[0]))
    )


def _places(rivals: Sequence[Contestant], found: Group | None) -> dict[str, int]:
    keys = {task.key: place for place, task in enumerate(found.tasks)} if found else {}
    return {rival.key: keys[rival.key] for rival in rivals if rival.key in keys}


def _note(found: Group, place: int) -> str:
    """What stands under a network's picture: how far it came, or that its chain is its own."""
    task, frame = found.tasks[place], found.newest(place)
    if frame is not None and frame.index < frame.total:
        return f"stopped early, after {frame.evaluations} of {step_count(frame.total)}"
    if task.sampling == found.tasks[0].sampling:
        return "same noise"
    return f"same noise, in its own {step_count(task.sampling.steps)}"


def _done(found: Group | None) -> str:
    if found is None:
        return ""
    alike = len({task.sampling for task in found.tasks}) == 1
    each = f"{step_count(found.steps)} each" if alike else "each in its own steps"
    return f"Done: same face, same noise, {each}."


# ------------------------------------------------------------------------------------- afterwards
def tell(found: Group, rivals: Sequence[Contestant], seed: int) -> None:
    """What the comparison shows, and what can be taken home."""
    pictures = results(found, rivals)
    if len(pictures) < 2:
        return
    face, titles = found.face, list(pictures)
    made = _made(found)
    small_print(made)
    _keep(found, pictures, rivals, made)
    pair, maps = st.columns([1, 1], gap="medium")
    with pair:
        st.subheader("Before and after", anchor=False)
        choices = [*titles, *([ORIGINAL] if face.original is not None else [])]
        one, other = st.columns(2)
        left = one.selectbox("Left", choices, key="sr3_left")
        right = other.selectbox("Right", choices, len(titles) - 1, key="sr3_right")
        _slider(face, pictures, left, right)
    with maps:
        st.subheader("Error against the original", anchor=False)
        _errors(face, pictures)
    st.subheader("Scores", anchor=False)
    st.markdown(sentence(face, pictures))
    scoreboard.show(pictures, face)


def _made(found: Group) -> str:
    """How the pictures came about: the settings, whose are others, the noise, an early end."""
    first = found.tasks[0]
    parts = [describe_sampling(first.sampling, first.seed, first.resolver.schedule.steps)]
    for task in found.tasks[1:]:
        if task.sampling != first.sampling:
            last = task.resolver.schedule.steps
            parts.append(f"{task.title}: {describe_sampling(task.sampling, task.seed, last)}")
    return f"{'; '.join(parts)}, the same noise for all{found.early}."


def results(found: Group, rivals: Sequence[Contestant]) -> dict[str, Pixels]:
    """The pictures by title, bicubic among them."""
    places = _places(rivals, found)
    made: dict[str, Pixels] = {}
    for rival in rivals:
        if rival.key == BICUBIC:
            made[rival.title] = enlarge(found.face.low_res, found.tasks[0].resolver.high_size)
        elif rival.key in places and (picture := found.picture(places[rival.key])) is not None:
            made[rival.title] = picture
    return made


def _slider(face: Face, pictures: dict[str, Pixels], left: str, right: str) -> None:
    every = dict(pictures)
    if face.original is not None:
        every[ORIGINAL] = face.original
    picture = Picture(
        f"{left} | {right}", "drag the line, or use the arrow keys", png(every[right]), right,
        before=png(every[left]), before_title=left,
    )  # fmt: skip
    board.show(Board([picture], "", timeline=False, run=f"{left}|{right}"), "sr3_duel_pair")


def _errors(face: Face, pictures: dict[str, Pixels]) -> None:
    if face.original is None:
        st.info("There is no original to compare with.", icon=":material/help:")
        return
    shown = [
        Picture(title, "", png(error_map(picture, face.original)), f"Errors of {title}")
        for title, picture in pictures.items()
    ]
    board.show(
        Board(shown, "", timeline=False, columns=2, lens=(0.5, 0.45), label="Error maps",
              run=",".join(pictures)),
        "sr3_duel_errors",
    )  # fmt: skip
    small_print(f"Black: no error; light: {FULL:.0f} of 255 grey levels or more, for all alike.")


def sentence(face: Face, pictures: dict[str, Pixels]) -> str:
    """What to look at, from the pictures and their scores."""
    titles = [title for title in pictures if title != "Bicubic"] or list(pictures)
    one, other = (titles[0], titles[-1]) if len(titles) > 1 else ("Bicubic", titles[0])
    zone = zone_of_most(pictures[one], pictures[other])
    parts = [f"**Look at {zone}**: there {one} and {other} differ the most."]
    found = dict(zip(pictures, scoreboard.measure(list(pictures.values()), face), strict=True))
    best = {}
    for name in ("psnr", "lpips"):
        values = {title: getattr(each, name) for title, each in found.items()}
        if None in values.values():
            continue
        pick = max if METRICS[name].better == "higher" else min
        best[name] = pick(values, key=lambda title: values[title])
    if len(set(best.values())) == 2:
        parts.append(
            f"{best['psnr']} is the closest pixel by pixel (PSNR), {best['lpips']} perceptually "
            "(LPIPS): blur is safe, detail is a risk."
        )
    elif "lpips" in best:
        parts.append(f"{best['lpips']} is the closest, pixel by pixel and perceptually.")
    elif best:
        parts.append(f"Pixel by pixel {best['psnr']} is the closest.")
    return " ".join(parts)


def _keep(
    found: Group, pictures: dict[str, Pixels], rivals: Sequence[Contestant], made: str
) -> None:
    face, task = found.face, found.tasks[0]
    shown = [Shown("Input", face.low_res, "16 × 16 pixels", crisp=True)]
    notes = {task.title: _note(found, place) for place, task in enumerate(found.tasks)}
    shown += [Shown(title, picture, notes.get(title, "")) for title, picture in pictures.items()]
    if face.original is not None:
        shown.append(Shown(ORIGINAL, face.original))
    scores = dict(zip(pictures, scoreboard.measure(list(pictures.values()), face), strict=True))
    keys = [rival.key for rival in rivals if rival.title in pictures]
    link = None
    if not found.early:
        link = links.make(links.COMPARE, face.identity, keys, task.sampling, task.seed)

    def film() -> list[list[Pixels]]:
        return [[f.x0 for f in moment if f is not None] for _, moment in found.frames()]

    last = [title for title in pictures if title != "Bicubic"][-1:]
    keep.offer(
        keep.Keepsake(
            found.name, f"sr3-compare-seed{task.seed}", "SR3 Lab: one face, one noise",
            (f"{' · '.join(pictures)}.", made), tuple(shown),
            pictures[last[0]] if last else next(iter(pictures.values())),
            records.of_group(found, link, scores), link, film, as_sheet=True,
        )
    )  # fmt: skip
