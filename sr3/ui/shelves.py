"""Faces of registered domains that may be shown, where their images are here (SR3_DATA): a shelf
of the gallery each, and the samples of the page Domains.

Invariants: only a domain whose entry says `may_show` is ever read, whatever else lies beside it;
of each a few test images are kept, always the same ones, so that a link can name them. A domain is
hashed as a whole before it is shown, so shelves are filled in the background.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from functools import partial

import streamlit as st

from sr3.background import in_background
from sr3.domains import SPLITS, load_domain, load_pixels, place, registered
from sr3.errors import DomainError
from sr3.images import Pixels

FACES = 6  # of each domain
SIDE = 128  # pixels, as kept
MOST = 12  # shelves
_one_at_a_time = threading.Lock()  # pages come first


def allowed() -> list[str]:
    """Registered domains that may be shown and are here."""
    entries = registered().items()
    return [name for name, entry in entries if entry.get("may_show") is True and _here(name, entry)]


def _here(name: str, entry: dict[str, object]) -> bool:
    try:
        place(name, entry)
    except DomainError:
        return False
    return True


def title(domain: str) -> str:
    """A domain's title, for people."""
    return str(registered()[domain].get("title", domain))


def terms(domain: str) -> str:
    """Whose faces these are, and under which terms."""
    return f"{title(domain)}: {registered()[domain].get('terms', 'no terms are registered')}."


def shelf(domain: str) -> Pixels:
    """(n, 128, 128, 3) uint8, n at most FACES, from the test split where it has any; read once.

    Raises DomainError.
    """
    return _filling(domain).result()


def filled() -> dict[str, Pixels]:
    """The shelves that have been read; the others are begun, and one that fails stays empty."""
    begun = {domain: _filling(domain) for domain in allowed()[:MOST]}
    done = {domain: future for domain, future in begun.items() if future.done()}
    return {domain: future.result() for domain, future in done.items() if not future.exception()}


@st.cache_resource(max_entries=MOST, show_spinner=False)
def _filling(domain: str) -> Future[Pixels]:
    return in_background("sr3-shelf", partial(_read, domain))


def _read(domain: str) -> Pixels:
    if registered().get(domain, {}).get("may_show") is not True:
        raise DomainError(f"The faces of {domain} may not be shown.")
    with _one_at_a_time:
        found = load_domain(domain)
        split = next(each for each in SPLITS if found.entries(each))  # the test's, where it has any
        return load_pixels(found.subset(split, min(FACES, len(found.entries(split)))), SIDE)
