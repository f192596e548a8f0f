"""What the page says of itself, in three layers: a sentence, the pictures, the equations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import streamlit as st

from sr3.ui.brought import STAYS
from sr3.ui.frame import alone

# DDIM's step. A line each, with room for a last letter's overhang: nothing scrolls on a phone.
STEP = (
    r"x_s = \sqrt{\bar\alpha_s}\, \hat x_0 + \sqrt{1-\bar\alpha_s}\; \hat\epsilon\,",
    r"\hat\epsilon = \frac{x_t - \sqrt{\bar\alpha_t}\, \hat x_0}{\sqrt{1-\bar\alpha_t}}",
)
EXPLAINED = "sr3_explained"  # key of the session: whether the explanation is open


def _unfolded(label: str, body: Callable[[], None]) -> None:
    """A part of the page that is drawn when it is opened: what sets equations is a large script,
    and would load beside a first visitor's first run."""

    @alone
    def part() -> None:
        folded = st.expander(label, icon=":material/help:", key=EXPLAINED, on_change="rerun")
        if folded.open:
            with folded:
                body()

    part()


def explain_chain() -> None:
    """The expander under the result."""
    _unfolded("What am I looking at?", _chain)


def _chain() -> None:
    st.markdown(
        "The **noisy image** is what the sampler works on. It begins as noise, or as the "
        "enlarged input buried in noise, and loses a little noise at each step.\n\n"
        "The **clean estimate** is the network's answer at each step to one question: if all "
        "the noise were gone, what would this face look like? It begins blurred and gains "
        "detail.\n\n"
        "The details are *plausible*, not *recovered*: very many faces reduce to the same "
        "16 × 16 pixels, and another seed gives another of them. Never use this to "
        "recognise a person."
    )
    with st.expander("The equations"):
        st.markdown(
            "The noisy image at noise level $\\sqrt{\\bar\\alpha_t}$ is a mixture of the face "
            "$x_0$ and noise $\\epsilon \\sim \\mathcal{N}(0, I)$:"
        )
        st.latex(r"x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1-\bar\alpha_t}\, \epsilon")
        st.markdown(
            "The percentage of noise above the pictures is $1-\\bar\\alpha_t$. The network "
            "$f_\\theta$ sees $x_t$, the bicubic enlargement $c$ of the input and the noise "
            "level, and gives the clean estimate:"
        )
        st.latex(r"\hat x_0 = f_\theta\!\left(x_t,\, c,\, \sqrt{\bar\alpha_t}\right)")
        st.markdown(
            "DDIM, the simplest sampler, then takes the step from $t$ to an earlier $s$; "
            "DPM-Solver++ (2M) also uses the estimate before, to take longer steps:"
        )
        _equations(STEP)
        st.markdown(
            "Saharia et al., *Image Super-Resolution via Iterative Refinement*, 2021 "
            "([arXiv 2104.07636](https://arxiv.org/abs/2104.07636))."
        )


# Part -> one sentence, what the picture shows, the equations and what their letters mean.
LAYERS = {
    "chain": (
        "Each step asks one question, *what would this face be without the noise?*, and takes a "
        "small step towards the answer.",
        "The first steps decide the pose, the hair and the light; the last ones draw lashes and "
        "skin. Watch the **change**: it is large at first, then moves to the edges, then fades.",
        STEP,
        "DDIM's step from time $t$ to an earlier $s$: $\\hat x_0 = f_\\theta(x_t, c, "
        "\\sqrt{\\bar\\alpha_t})$ is the clean estimate, $c$ the enlarged input, "
        "$\\sqrt{\\bar\\alpha}$ the noise level, $\\hat\\epsilon$ the noise that the estimate "
        "leaves.",
    ),
    "samples": (
        "Very many faces reduce to the same 16 × 16 pixels: each noise finds another of them.",
        "Where the **uncertainty** is light, the samples disagree, and no detail there should be "
        "believed. Their **mean** is blurred: it is closer in PSNR, and worse to look at.",
        (
            r"\mathbb E[x_0 \mid c] \approx \bar x_0 = \tfrac1K \textstyle\sum_k x_0^{(k)}\,",
            r"\operatorname{Var}[x_0 \mid c] \approx \tfrac1K \textstyle\sum_k "
            r"\bigl(x_0^{(k)} - \bar x_0\bigr)^2",
        ),
        "The mean minimizes the expected squared error, hence its PSNR; it is itself no likely "
        "face.",
    ),
    "consistency": (
        "A result that does not reduce to its own input again is certainly wrong.",
        "After each step the estimate is corrected by the smallest change that makes it reduce to "
        "exactly the input. The maps show what is left after reducing the results again.",
        (r"\hat x_0 \leftarrow \hat x_0 + R^{+}\,(y - R\,\hat x_0 R^\top)\,R^{+\top}",),
        "$R$ is bicubic reduction along one axis, $R^+$ its pseudo-inverse, $y$ the input.",
    ),
    "counts": (
        "More steps cost more time; past some number they change nothing that you can see.",
        "One step gives the average of all likely faces, which is blurred; ten are enough for "
        "most of the detail. PSNR may fall while LPIPS improves: judge by both.",
        (
            r"t_0 > t_1 > \dots > t_N = 0",
            r"\log\frac{\bar\alpha_{t_i}}{1-\bar\alpha_{t_i}} \ \text{evenly spaced}",
        ),
        "Fewer steps visit fewer of the 2,000 noise levels that the network was trained on.",
    ),
}


def layers(part: str) -> None:
    """One sentence, and behind it what the picture shows and the equation."""
    sentence, picture, equations, letters = LAYERS[part]
    st.markdown(f"**{sentence}**")
    _unfolded(
        "What the picture shows, and the equation", partial(_layer, picture, equations, letters)
    )


def _layer(picture: str, equations: Sequence[str], letters: str) -> None:
    st.markdown(picture)
    _equations(equations)
    st.markdown(letters)


def _equations(lines: Sequence[str]) -> None:
    for line in lines:
        st.latex(line)


def explain_comparison() -> None:
    """The expander under a comparison."""
    _unfolded("What am I looking at?", _comparison)


def _comparison() -> None:
    st.markdown(
        "Every network starts from the **same noise** and sees the **same 16 × 16 input**, so "
        "each difference between the pictures is a difference between the networks.\n\n"
        "**Interpolated** networks lie between two: each of their weights is a mean of the "
        "pretrained and the fine-tuned one. **Spliced** ones hand over: the pretrained "
        "network takes the noisy steps, the fine-tuned one those near the finished image."
    )
    with st.expander("The equations"):
        st.latex(r"\theta_w = \theta_\text{pre} + w\,(\theta_\text{tuned} - \theta_\text{pre})")
        st.latex(
            r"\hat x_0 = \begin{cases} f_{\theta_\text{pre}}(x_t, c, t) & t > t_s \\ "
            r"f_{\theta_\text{tuned}}(x_t, c, t) & t \le t_s \end{cases}"
        )


ABOUT_LEAD = (
    "Can a diffusion super-resolver that was trained on one domain of faces serve another, with "
    "very little fine-tuning?"
)


def about() -> None:
    """The body of the About page."""
    st.subheader("The method", anchor=False)
    st.markdown(
        "**SR3**, super-resolution via repeated refinement, is a diffusion model that is "
        "conditioned on a small image. In training it sees faces with noise on them, together with "
        "the enlarged small image, and learns to tell the face from the noise at every noise "
        "level. To enlarge, it starts from noise and applies what it learned again and again. "
        "([Saharia et al., 2021](https://arxiv.org/abs/2104.07636))"
    )
    st.subheader("The four questions", anchor=False)
    st.markdown(
        "1. **Does it generalize?** A model trained on photographs of faces, given photographs "
        "from elsewhere, and drawings.\n"
        "2. **If not, how little repairs it?** The fewest images and the fewest updates with "
        "which plain fine-tuning closes the gap.\n"
        "3. **Must all time steps be fine-tuned,** or only those near the finished image, where "
        "domains still differ?\n"
        "4. **What does it cost** on the domain that the model came from?"
    )
    st.subheader("What to keep in mind", anchor=False)
    st.markdown(
        "- A resolved face is *one plausible face* that fits the input, not the face that was "
        "photographed. It must never be used to recognise a person.\n"
        "- A model draws what its training data show. Faces that were rare there are resolved "
        "less well.\n"
        f"- A picture that you upload, paste or take stays {STAYS}; what was drawn of it, until "
        "you close the tab. A closed tab may come back for two minutes: its memory is freed after "
        "that, when the next one is closed. Nothing of it is stored or logged."
    )
    st.subheader("Licence and data", anchor=False)
    st.markdown(
        "The code is under the Apache License 2.0. Each checkpoint names its licence and the data "
        "it was trained on in its own card. The astronaut is Eileen Collins, photographed by NASA "
        "(public domain, with scikit-image). The people who do not exist are drawn by this "
        "project's own networks from noise alone, the other portraits by this program; what "
        "stands under the name of a domain is under that domain's terms."
    )
