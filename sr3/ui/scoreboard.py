"""Scores of one face's pictures side by side, the best of each row marked.

The metrics are the package's own; LPIPS follows as soon as it is loaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
import streamlit as st

from sr3.images import Pixels
from sr3.metrics import METRICS, TOLD, Metric, Scorer, Scores, score
from sr3.ui import service
from sr3.ui.frame import small_print
from sr3.ui.inputs import Face
from sr3.ui.polling import follow

SHOWN = tuple(TOLD)
MEANING = (
    "PSNR: closeness of every pixel, which rewards blur. SSIM: closeness of structure. LPIPS: "
    "perceptual distance; lower is better."
)
AGAIN = "LR-PSNR: does the picture reduce to its input again?"
ABREAST = 3  # pictures; more are one under another: so many columns would scroll on a phone
KEPT, MOST_KEPT = "sr3_scores", 8  # results of `measure` in a session
POLL = 0.5  # seconds, while LPIPS is being loaded


def show(pictures: Mapping[str, Pixels], face: Face) -> None:
    """A table with a column for each picture, by its title."""
    poll = not service.scorer().done()
    follow(partial(_table, dict(pictures), face, poll), poll, POLL)


def measure(pictures: Sequence[Pixels], face: Face) -> list[Scores]:
    """Scores of pictures of one face, with LPIPS where it is loaded; the last few are kept."""
    future = service.scorer()
    lpips = future.result().lpips if future.done() else None
    digest = hashlib.sha256(b"".join(picture.tobytes() for picture in pictures)).hexdigest()
    key = digest, face.identity, future.done()
    kept: dict[tuple[str, str, bool], list[Scores]] = st.session_state.setdefault(KEPT, {})
    if key not in kept:
        count = len(pictures)
        truth = None if face.original is None else np.stack([face.original] * count)
        low_res = np.stack([face.low_res] * count)
        kept[key] = score(np.stack(list(pictures)), truth, low_res, lpips)
        while len(kept) > MOST_KEPT:
            kept.pop(next(iter(kept)))
    return kept[key]


def as_record(scores: Scores) -> dict[str, float | None]:
    """Scores as JSON has them: null for what is not known, or infinite."""
    values = {name: getattr(scores, name) for name in SHOWN}
    return {k: v if v is not None and np.isfinite(v) else None for k, v in values.items()}


def _table(pictures: dict[str, Pixels], face: Face, poll: bool) -> None:
    future = service.scorer()
    if poll and future.done():
        st.rerun()
    scorer = future.result() if future.done() else None
    found = measure(list(pictures.values()), face)
    rows: list[tuple[str, ...]] = []
    for name in SHOWN:
        metric, values = METRICS[name], [getattr(each, name) for each in found]
        rows.append((metric.label, *marked(metric, values, _missing(name, face, scorer))))
    head: tuple[str, ...] = ("Metric", *pictures)
    if len(pictures) > ABREAST:
        head, *rows = zip(("Picture", *pictures), *rows, strict=True)
    st.table(
        pd.DataFrame(rows, columns=[f":gray[{name}]" for name in head]), hide_index=True,
        border="horizontal", alt="Scores of " + ", ".join(pictures),
    )  # fmt: skip
    small_print(_footnote(face, scorer))


def marked(metric: Metric, values: Sequence[float | None], missing: str = "–") -> tuple[str, ...]:
    """Values as text, the best marked; none where all are alike, to the digits shown."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return (missing,) * len(values)
    digits = 2 if metric.unit == "dB" else 3
    texts = [f"{value:.{digits}f}" if np.isfinite(value) else "exact" for value in known]
    best = (max if metric.better == "higher" else min)(range(len(known)), key=known.__getitem__)
    if len(set(texts)) > 1:
        texts = [f"**:green[{t} ✓]**" if t == texts[best] else t for t in texts]
    return tuple(texts)


def _missing(name: str, face: Face, scorer: Scorer | None) -> str:
    if face.original is None:
        return "no original"
    return "loading …" if name == "lpips" and scorer is None else "not available"


def _footnote(face: Face, scorer: Scorer | None) -> str:
    parts = ["✓ marks the best; the arrow says which way is better.", MEANING, AGAIN]
    if face.original is None:
        parts.append("Without an original there is nothing to compare with but the input.")
    elif scorer is not None:
        parts.append(f"LPIPS: {scorer.backbone}." if scorer.backbone else scorer.lpips_reason)
    return " ".join(parts)
