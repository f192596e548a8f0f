"""Model cards: the README.md of a checkpoint folder, in the Hub's form, from facts alone.

Invariant: a card says what was measured and how; where nothing was, it says "unmeasured".
"""

from __future__ import annotations

from collections.abc import Mapping

NON_COMMERCIAL = (
    "Weights for non-commercial research only, as the data they were trained on demands."
)
CHANGE_ALONE = "the change alone is stored, and is added to the parent on loading."
_HEADER = """\
---
license: other
license_name: non-commercial-research
library_name: sr3-lab
pipeline_tag: image-to-image
tags: [super-resolution, diffusion, sr3, faces]
---
"""


def make_card(
    title: str, summary: str, sections: Mapping[str, Mapping[str, object]], licence: str
) -> str:
    """Markdown: a title, a summary, one table a section (name -> value) and the licence note."""
    parts = [f"{_HEADER}\n# {title}\n", f"{summary}\n"]
    for heading, facts in sections.items():
        rows = [f"| {name} | {_cell(value)} |" for name, value in facts.items()]
        parts.append("\n".join([f"## {heading}\n", "| | |", "|---|---|", *rows]) + "\n")
    parts.append(f"## Licence\n\n{licence}\n")
    return "\n".join(parts)


def _cell(value: object) -> str:
    if value is None:
        return "unmeasured"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
