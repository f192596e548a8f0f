"""What is said about a result: its scores beside bicubic's, how it was made, and a download."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import streamlit as st

from sr3.images import encode_png, enlarge
from sr3.metrics import METRICS, Metric, Scorer, Scores, score
from sr3.ui import live, service
from sr3.ui.frame import small_print
from sr3.ui.live import Run
from sr3.ui.settings import describe

SHOWN = ("psnr", "ssim", "lpips", "consistency_psnr")
MEANING = (
    "PSNR: closeness of every pixel, which rewards blur. SSIM: closeness of structure. LPIPS: "
    "distance as people see it. LR-PSNR: does the picture reduce to its input again?"
)
COLUMNS = [":gray[Metric]", ":gray[Bicubic]", ":gray[SR3]"]
POLL = 0.5  # seconds, while LPIPS is being loaded


def show(run: Run) -> None:
    """Download, caption and scores under the stage. The run has ended with a picture."""
    picture = run.picture
    if picture is None:
        return
    recipe = run.recipe
    with st.container(horizontal=True):
        st.download_button(
            "Download PNG", encode_png(picture),
            f"sr3-{recipe.resolver.name}-seed{recipe.seed}.png", "image/png",
            icon=":material/download:", on_click="ignore", key="sr3_download",
        )  # fmt: skip
        st.button(
            "Try another seed", on_click=live.start_again, args=(run.face, recipe),
            icon=":material/casino:", key="sr3_again",
            help="The same face with other noise fills in other details.",
        )  # fmt: skip
    stopped = "" if run.job.status == "done" else ", stopped early"
    small_print(f"{describe(recipe)}{stopped}. One sample of one image.")
    future = service.scorer()
    _scores(run, poll=not future.done())


def _scores(run: Run, poll: bool) -> None:
    st.fragment(partial(_table, run, poll), run_every=POLL if poll else None)()


def _table(run: Run, poll: bool) -> None:
    """The scores; those of LPIPS follow as soon as it is loaded."""
    future = service.scorer()
    if poll and future.done():
        st.rerun()
    measure = future.result() if future.done() else None
    bicubic, ours = _measure(run, measure)
    rows = []
    for name in SHOWN:
        metric, pair = METRICS[name], (getattr(bicubic, name), getattr(ours, name))
        rows.append((metric.label, *_marked(metric, *pair, _missing(name, run, measure))))
    st.table(
        pd.DataFrame(rows, columns=COLUMNS), hide_index=True,
        border="horizontal", alt="Scores of the result beside those of bicubic enlargement",
    )  # fmt: skip
    small_print(_footnote(run, measure))


def _measure(run: Run, measure: Scorer | None) -> tuple[Scores, Scores]:
    """Scores of bicubic and of the result, the same way."""
    face, picture = run.face, run.picture
    assert picture is not None
    pair = np.stack([enlarge(face.low_res, picture.shape[0]), picture])
    truth = None if face.original is None else np.stack([face.original] * 2)
    lpips = measure.lpips if measure else None
    bicubic, ours = score(pair, truth, np.stack([face.low_res] * 2), lpips)
    return bicubic, ours


def _marked(
    metric: Metric, bicubic: float | None, ours: float | None, missing: str
) -> tuple[str, str]:
    """Both values as text, the better one marked."""
    if bicubic is None or ours is None:
        return missing, missing
    digits = 2 if metric.unit == "dB" else 3
    texts = [f"{value:.{digits}f}" if np.isfinite(value) else "exact" for value in (bicubic, ours)]
    if texts[0] != texts[1]:
        best = int((ours > bicubic) == (metric.better == "higher"))
        texts[best] = f"**:green[{texts[best]} ✓]**"
    return texts[0], texts[1]


def _missing(name: str, run: Run, measure: Scorer | None) -> str:
    if run.face.original is None:
        return "no original"
    return "loading …" if name == "lpips" and measure is None else "not available"


def _footnote(run: Run, measure: Scorer | None) -> str:
    parts = ["✓ marks the better of the two; the arrow says which way is better.", MEANING]
    if run.face.original is None:
        parts.append("Without an original there is nothing to compare with but the input.")
    elif measure is not None:
        parts.append(f"LPIPS: {measure.backbone}." if measure.backbone else measure.lpips_reason)
    return " ".join(parts)
