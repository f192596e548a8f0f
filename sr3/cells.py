"""A cell of a study: one fine-tuned checkpoint, told by the name that its rows have in the table.

The name is for people and machines alike, so that charts and answers need nothing but the table:

    lite on anime images=16 updates=100 range=0:2000 seed=0 replay=0.25 #1a2b3c4d

Invariants: `Cell.parse(str(cell)) == cell`; two cells with other settings have other names, since
the digest at the end is of all settings, those too that the name leaves out.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

_NAME = re.compile(
    r"(?P<parent>.+) on (?P<target>.+) images=(?P<images>\d+|all) updates=(?P<updates>\d+) "
    r"range=(?P<first>\d+):(?P<last>\d+) seed=(?P<seed>\d+)(?: lora=(?P<lora>\d+))?"
    r"(?: replay=(?P<replay>[\d.e-]+))?(?: rate=(?P<rate>[\d.e-]+))?(?P<scratch> scratch)?"
    r" #(?P<digest>[0-9a-f]{8})"
)


@dataclass(frozen=True)
class Cell:
    """A parent, tuned on some images of a target for some updates."""

    parent: str
    target: str
    images: int | None  # None: all
    updates: int
    range: tuple[int, int]  # time steps (A, B]
    seed: int  # which images, and all other randomness
    lora: int | None = None  # its rank; None: every weight is tuned
    replay: float = 0.0
    rate: float | None = None  # a learning rate of its own; None: the method's
    scratch: bool = False  # untrained weights instead of the parent's
    digest: str = "00000000"  # of all settings but the updates

    def __str__(self) -> str:
        return " ".join([self.title, f"#{self.digest}"])

    @property
    def title(self) -> str:
        """The name without the digest."""
        words = [
            f"{self.parent} on {self.target} images={self.images or 'all'}",
            f"updates={self.updates} range={self.range[0]}:{self.range[1]} seed={self.seed}",
            f"lora={self.lora}" if self.lora else "",
            f"replay={self.replay:g}" if self.replay else "",
            f"rate={self.rate:g}" if self.rate else "",
            "scratch" if self.scratch else "",
        ]
        return " ".join(word for word in words if word)

    def words(self, whole: tuple[int, int]) -> str:
        """Its settings but the parent, the target and the seed, for people; the time steps where
        they are not the whole chain."""
        parts = [
            f"{images_label(self.images)}, {self.updates:,} updates",
            f"steps {self.range[0]}:{self.range[1]}" if self.range != whole else "",
            f"LoRA {self.lora}" if self.lora else "",
            f"replay {self.replay:g}" if self.replay else "",
            f"rate {self.rate:g}" if self.rate else "",
            "from scratch" if self.scratch else "",
        ]
        return ", ".join(part for part in parts if part)

    @classmethod
    def parse(cls, name: str) -> Cell | None:
        """The cell of a name in the table; None for another checkpoint's."""
        if (found := _NAME.fullmatch(name)) is None:
            return None
        part = found.groupdict()
        return cls(
            part["parent"], part["target"],
            None if part["images"] == "all" else int(part["images"]),
            int(part["updates"]), (int(part["first"]), int(part["last"])), int(part["seed"]),
            int(part["lora"]) if part["lora"] else None,
            float(part["replay"] or 0), float(part["rate"]) if part["rate"] else None,
            bool(part["scratch"]), part["digest"],
        )  # fmt: skip

    def after(self, updates: int) -> Cell:
        """The same run, so many updates later."""
        return dataclasses.replace(self, updates=updates)

    def with_digest(self, settings: dict[str, Any]) -> Cell:
        """This cell with the digest of JSON-ready settings."""
        text = json.dumps(settings, sort_keys=True)
        return dataclasses.replace(self, digest=hashlib.sha256(text.encode()).hexdigest()[:8])

    def but(self, *names: str) -> Cell:
        """This cell with some settings blanked, so that cells alike in the others are equal; the
        digest, which knows the seed, must have been replaced by what seeds share."""
        blank = {
            "images": None, "updates": 0, "range": (0, 0), "seed": 0, "scratch": False,
            "rate": None, "lora": None, "replay": 0.0,
        }  # fmt: skip
        changes = {name: blank[name] for name in names}
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    @property
    def plain(self) -> bool:
        """Whether it is plain fine-tuning: every weight, no replay, the method's own rate."""
        return not (self.lora or self.replay or self.rate or self.scratch)


def images_label(count: int | None) -> str:
    """`16 images`, or `all images`."""
    return "all images" if count is None else f"{count:,} image{'s' * (count != 1)}"
