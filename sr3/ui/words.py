"""What the page says of itself, in three layers: a sentence, the pictures, the equations."""

from __future__ import annotations

import streamlit as st


def explain_chain() -> None:
    """The expander under the result."""
    with st.expander("What am I looking at?", icon=":material/help:"):
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
                "$x_0$ and Gaussian noise $\\epsilon$:"
            )
            st.latex(
                r"x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1-\bar\alpha_t}\, \epsilon,"
                r"\qquad \epsilon \sim \mathcal{N}(0, I)"
            )
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
            st.latex(
                r"x_s = \sqrt{\bar\alpha_s}\, \hat x_0 + \sqrt{1-\bar\alpha_s}\;"
                r"\frac{x_t - \sqrt{\bar\alpha_t}\, \hat x_0}{\sqrt{1-\bar\alpha_t}}"
            )
            st.markdown(
                "Saharia et al., *Image Super-Resolution via Iterative Refinement*, 2021 "
                "([arXiv 2104.07636](https://arxiv.org/abs/2104.07636))."
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
        "- Pictures that you upload or take stay in the server's memory while you look at them. "
        "They are neither stored nor logged."
    )
    st.subheader("Licence and data", anchor=False)
    st.markdown(
        "The code is under the Apache License 2.0. Each checkpoint names its licence and the data "
        "it was trained on in its own card. The astronaut is Eileen Collins, photographed by NASA "
        "(public domain, with scikit-image); the other faces of the gallery are drawn by this "
        "program."
    )
