"""Pictures to choose from: a radio group whose options are tiles.

Native radio buttons inside a component: arrow keys, labels and focus come from the browser.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st

CSS = """
fieldset { border: 0; margin: 0; padding: 0; min-width: 0; container-type: inline-size; }
legend { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.tiles { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: .5rem; }
@container (min-width: 24rem) { .tiles { grid-template-columns: repeat(6, minmax(0, 1fr)); } }
label { position: relative; display: block; cursor: pointer; }
input {
  position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0; cursor: pointer;
}
img {
  display: block; width: 100%; aspect-ratio: 1; object-fit: cover; box-sizing: border-box;
  border-radius: var(--st-base-radius); border: 1px solid var(--st-border-color);
  background: var(--st-secondary-background-color);
}
span {
  display: block; margin-top: .2rem; text-align: center; font: .8125rem/1.25 var(--st-font);
  color: var(--st-text-color); overflow-wrap: anywhere;
}
summary {
  margin: .6rem 0 .4rem; font: 600 .875rem/1.25 var(--st-font); color: var(--st-text-color);
  cursor: pointer;
}
summary:focus-visible { outline: 3px solid var(--st-text-color); outline-offset: 2px; }
/* on a phone a shelf is one row to swipe, so that the picture is not far below */
@media (max-width: 40rem) {
  .tiles { display: flex; overflow-x: auto; gap: .6rem; margin: 0 -.4rem; padding: .4rem; }
  label { flex: 0 0 4.75rem; }
}
input:hover + img { border-color: var(--st-text-color); }
input:checked + img {
  border-color: transparent;
  box-shadow: 0 0 0 2px var(--st-background-color), 0 0 0 5px var(--st-primary-color);
}
input:checked ~ span { font-weight: 650; }
input:focus-visible + img { outline: 3px solid var(--st-text-color); outline-offset: 6px; }
"""

JS = """
export default function ({ data, key, parentElement, setStateValue }) {
  let group = parentElement.querySelector('fieldset')
  const made = JSON.stringify(data.tiles)
  if (!group || group.made !== made) {
    group?.remove()
    group = document.createElement('fieldset')
    group.made = made
    const legend = document.createElement('legend')
    legend.textContent = data.legend
    group.append(legend)
    let grid, shelf
    for (const tile of data.tiles) {
      if (tile.shelf !== shelf) {
        grid = Object.assign(document.createElement('div'), { className: 'tiles' })
        shelf = tile.shelf
        group.append(shelf ? fold(grid, tile) : grid)
      }
      const label = document.createElement('label')
      const input = Object.assign(document.createElement('input'),
        { type: 'radio', name: key, value: tile.value })
      const image = Object.assign(document.createElement('img'), { src: tile.image, alt: '' })
      const title = document.createElement('span')
      title.textContent = tile.title
      label.append(input, image, title)
      grid.append(label)
    }
    parentElement.append(group)
    const chosen = group.querySelector(`input[value="${CSS.escape(data.chosen)}"]`)
    if (chosen?.closest('details')) chosen.closest('details').open = true
  }
  for (const input of group.querySelectorAll('input')) {
    input.checked = input.value === data.chosen
    input.onchange = () => setStateValue('chosen', input.value)
  }
}

// A shelf under its heading, which folds it; on a phone all are closed at first.
function fold(grid, tile) {
  const open = !tile.folded && !matchMedia('(max-width: 40rem)').matches
  const details = Object.assign(document.createElement('details'), { open })
  const head = document.createElement('summary')
  head.textContent = tile.shelf
  details.append(head, grid)
  return details
}
"""

_tiles = st.components.v2.component("sr3_tiles", css=CSS, js=JS)


@dataclass(frozen=True)
class Tile:
    value: str
    title: str  # may be empty
    image: str  # a data URI
    shelf: str = ""  # its heading; tiles of one stand together
    folded: bool = False  # whether its shelf is closed at first


def pick(legend: str, tiles: Sequence[Tile], key: str) -> str:
    """The value of the chosen tile; the first one until a visitor chooses.

    The choice lives in the session under `key`, and the widget under another one: Streamlit forgets
    what is a widget's with its page.
    """
    values, state, widget = [tile.value for tile in tiles], st.session_state, f"{key}_tiles"
    chosen = str(state.get(key, {}).get("chosen"))
    if chosen not in values:
        chosen = values[0]
    state[key] = state[widget] = {"chosen": chosen}

    def take() -> None:
        state[key] = {"chosen": state[widget].chosen}

    data = {"legend": legend, "tiles": [vars(tile) for tile in tiles], "chosen": chosen}
    _tiles(key=widget, data=data, on_chosen_change=take)
    return chosen
