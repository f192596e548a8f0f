"""Links that restore a run: the gallery's face, checkpoints, sampler, steps and seed.

Invariants: a visitor's own picture is never in a link; what a link says is checked against what
the app offers before anything is done with it, and a part that does not fit is left out; none of
its text is shown, since a toast renders Markdown; a checkpoint that has changed since is named.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping

import streamlit as st

from sr3.config import MOST_SEED, SAMPLERS, SamplerConfig
from sr3.ui import gallery, mixing, records, service
from sr3.ui.settings import MOST_SAMPLES, MOST_STEPS, STEP_COUNTS

GALLERY = "gallery-"  # how the identity of a face of the gallery begins
COMPARE, INSIDE, POSTER = "compare", "inside", "poster"
PARTS = ("The chain", "Samples", "Consistency", "Step counts")  # of the page Inside
PART = "sr3_inside"  # key of the session
PAGES = {COMPARE: "pages/1_Compare.py", INSIDE: "pages/5_Inside.py", POSTER: "pages/6_Poster.py"}


def make(page: str, identity: str, models: list[str], sampling: SamplerConfig, seed: int,
         **more: str) -> str | None:  # fmt: skip
    """A link to a run on a page of `PAGES` ("": the first one); None for a visitor's own picture.

    Every link goes to the app's root, which opens the page: a deep address makes Streamlit ask for
    its own files in the wrong place first, and a browser logs that as errors.
    """
    if not identity.startswith(GALLERY):
        return None
    values = {
        **({"page": page} if page else {}),
        "face": identity.removeprefix(GALLERY), "models": ",".join(models),
        "sampler": sampling.sampler, "steps": str(sampling.steps), "start": str(sampling.start),
        "keep": str(int(sampling.consistency)), "seed": str(seed),
        "version": records.versions(models), **more,
    }  # fmt: skip
    return f"{address()}?{urllib.parse.urlencode(values)}"


def address() -> str:
    """The app's own address, with a slash at its end, as this visitor reached it."""
    parts = urllib.parse.urlsplit(st.context.url or "http://localhost:8501/")
    folder = parts.path.rsplit("/", 1)[0]
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, f"{folder}/", "", ""))


def restore() -> None:
    """Take the settings of a link into the session, once, and clear it from the address.

    `?page=poster` alone opens that page.
    """
    given = {name: str(value) for name, value in st.query_params.to_dict().items()}
    if not {"face", "page"} & set(given):
        return
    st.query_params.clear()
    if "face" in given:
        lacking = _apply(given)
        st.session_state["sr3_arrived"] = True
        if lacking:
            st.toast(f"Not here, and left out: {', '.join(lacking)}.", icon=":material/link_off:")
        if others := records.changed(given.get("version", "")):
            st.toast(
                f"This link was made with another version of {' and '.join(others)}: the pixels "
                "may differ.", icon=":material/difference:", duration="long",
            )  # fmt: skip
    if given.get("page") in PAGES:
        st.switch_page(PAGES[given["page"]])


def _apply(given: Mapping[str, str]) -> list[str]:
    """Set what fits; give what does not, in our own words."""
    state, lacking = st.session_state, []
    if gallery.find(given["face"]) is not None:
        state["sr3_source"] = "Gallery"
        state["sr3_gallery"] = {"chosen": given["face"]}
    else:
        lacking.append("the face")
    models = [name for name in given.get("models", "").split(",") if name][:4]
    wanted = mixing.restore(models)
    if unknown := len([name for name in models if name not in wanted]):
        lacking.append(f"{unknown} checkpoint{'s' if unknown > 1 else ''}")
    lead = next((mixing.lead(name) for name in wanted if name != mixing.BICUBIC), None)
    if lead is None:
        return lacking
    state["sr3_checkpoint"] = lead
    resolver = service.resolver(lead)
    last = resolver.schedule.steps
    usual = resolver.config.sampling
    if given.get("sampler") in SAMPLERS:
        state[f"sr3_sampler_{lead}"] = given["sampler"]
    if (steps := _number(given.get("steps"), 1, MOST_STEPS)) is not None:
        state[f"sr3_steps_{lead}"] = steps
    starts = {last, usual.start if usual.start < last else last // 2}
    if (start := _number(given.get("start"), 1, last)) in starts:
        state[f"sr3_start_{lead}"] = start
    if given.get("keep") in ("0", "1"):
        state[f"sr3_consistency_{lead}"] = given["keep"] == "1"
    if (seed := _number(given.get("seed"), 0, MOST_SEED)) is not None:
        state["sr3_seed"] = seed
    _apply_part(given)
    return lacking


def _apply_part(given: Mapping[str, str]) -> None:
    """The part of the page Inside, with how many samples, or which step counts, it is about."""
    if given.get("part") not in PARTS:
        return
    state = st.session_state
    state[PART] = given["part"]
    if (count := _number(given.get("samples"), 2, MOST_SAMPLES)) is not None:
        state["sr3_count"] = count
    counts = [_number(text, 1, MOST_STEPS) for text in given.get("counts", "").split(",")[:9]]
    if fit := [count for count in STEP_COUNTS if count in counts]:
        state["sr3_step_counts"] = fit


def _number(text: str | None, least: int, most: int) -> int | None:
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 12:
        return None
    return min(max(int(text), least), most)
