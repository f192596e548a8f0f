"""Poster: for a stand. A loop of runs, the four answers, a visitor's own face."""

from sr3.ui import deck
from sr3.ui.frame import page

with page("Poster", "", bare=True):
    deck.show()
