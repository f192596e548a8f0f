"""Three people who do not exist, drawn by formula in the manner of anime: the far domain without a
download. Flat colours, hard shadows, large eyes; the face fills the square.

Invariant: the same pixels on every machine with the same Pillow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from PIL import Image

from sr3.ui.canvas import Colour, Point, Sheet, mix, smooth

SIZE = 256  # drawn three times larger, then reduced
BLACK, WHITE, INK = (0, 0, 0), (255, 255, 255), (44, 30, 44)
EYE_X, EYE_Y = 0.148, 0.555  # of an eye's centre, from the middle and from the top


@dataclass(frozen=True)
class Cartoon:
    """What makes one drawn person; colours are RGB."""

    name: str
    hair: Colour
    style: Literal["long", "tails", "short"]
    eyes: Colour
    collar: Colour
    ground: Colour
    skin: Colour = (255, 228, 208)


CARTOONS = (
    Cartoon("Hana", (86, 66, 128), "long", (156, 84, 190), (58, 74, 120), (214, 226, 240)),
    Cartoon("Sora", (64, 88, 122), "short", (40, 142, 178), (236, 236, 240), (240, 222, 198)),
    Cartoon("Mika", (238, 178, 96), "tails", (58, 158, 104), (206, 76, 92), (222, 238, 226)),
)  # fmt: skip

FACE: list[Point] = [
    (0.245, 0.36), (0.24, 0.52), (0.262, 0.66), (0.335, 0.785), (0.44, 0.872), (0.488, 0.893),
    (0.512, 0.893), (0.56, 0.872), (0.665, 0.785), (0.738, 0.66), (0.76, 0.52), (0.755, 0.36),
    (0.64, 0.22), (0.36, 0.22),
]  # fmt: skip


def draw(person: Cartoon) -> Image.Image:
    """The (256, 256) RGB picture of a person."""
    sheet = Sheet(person.ground)
    sheet.ellipse(0.5, 0.45, 0.55, 0.55, mix(person.ground, WHITE, 0.6), 0.8, 0.1)
    _behind(sheet, person)
    _body(sheet, person)
    _head(sheet, person)
    for side in (-1, 1):
        _eye(sheet, person, side)
    _mouth_and_nose(sheet, person)
    _fringe(sheet, person)
    return sheet.image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def _shade(person: Cartoon) -> Colour:
    return mix(person.skin, (206, 122, 118), 0.42)


def _outlined(sheet: Sheet, points: list[Point], colour: Colour, width: float = 0.006
              ) -> Image.Image:  # fmt: skip
    """A flat shape with a darker outline; gives its mask."""
    mask = sheet.shape(points, colour)
    curve = smooth(points, pieces=3)  # the pen's dots close together, also on long pieces
    sheet.line([*curve, curve[0]], width, mix(colour, INK, 0.75), 0.9, pieces=20)
    return mask


def _mirrored(points: list[Point]) -> list[Point]:
    return [(1 - x, y) for x, y in points]


def _behind(sheet: Sheet, person: Cartoon) -> None:
    """The hair behind the face."""
    dark = mix(person.hair, INK, 0.35)
    match person.style:
        case "long":
            _outlined(sheet, [(0.50, 0.03), (0.78, 0.10), (0.90, 0.34), (0.93, 0.66), (0.98, 1.05),
                              (0.02, 1.05), (0.07, 0.66), (0.10, 0.34), (0.22, 0.10)],
                      dark)  # fmt: skip
        case "tails":
            _outlined(sheet, [(0.50, 0.04), (0.76, 0.10), (0.86, 0.32), (0.84, 0.60), (0.74, 0.70),
                              (0.26, 0.70), (0.16, 0.60), (0.14, 0.32), (0.24, 0.10)],
                      dark)  # fmt: skip
            tail = [(0.80, 0.22), (0.90, 0.16), (1.02, 0.30), (1.04, 0.62), (0.975, 0.915),
                    (0.965, 0.92), (0.88, 0.74), (0.86, 0.50)]  # fmt: skip
            for points in (tail, _mirrored(tail)):
                _outlined(sheet, points, person.hair)
            bow = mix(person.collar, WHITE, 0.1)
            for x in (0.155, 0.845):
                _outlined(sheet, [(x - 0.05, 0.165), (x, 0.2), (x + 0.05, 0.165), (x + 0.045, 0.25),
                                  (x, 0.225), (x - 0.045, 0.25)], bow)  # fmt: skip
        case "short":
            _outlined(sheet, [(0.5, 0.05), (0.74, 0.09), (0.87, 0.28), (0.86, 0.5), (0.805, 0.655),
                              (0.79, 0.655), (0.7, 0.6), (0.3, 0.6), (0.21, 0.655), (0.195, 0.655),
                              (0.14, 0.50), (0.13, 0.28), (0.26, 0.09)], dark)  # fmt: skip


def _body(sheet: Sheet, person: Cartoon) -> None:
    shirt = mix(person.collar, WHITE, 0.08)
    _outlined(sheet, [(0.10, 1.1), (0.16, 0.98), (0.36, 0.925), (0.64, 0.925), (0.84, 0.98),
                      (0.90, 1.1)], shirt)  # fmt: skip
    neck = _outlined(sheet, [(0.415, 0.78), (0.585, 0.78), (0.59, 0.92), (0.62, 0.96), (0.50, 1.04),
                             (0.38, 0.96), (0.41, 0.92)], person.skin)  # fmt: skip
    sheet.shape([(0.40, 0.80), (0.60, 0.80), (0.60, 0.91), (0.50, 0.955), (0.40, 0.91)],
                _shade(person), within=neck)  # fmt: skip
    flap = [(0.30, 0.93), (0.385, 0.915), (0.49, 1.03), (0.40, 1.07)]
    for points in (flap, _mirrored(flap)):
        _outlined(sheet, points, mix(person.collar, INK, 0.25))


def _head(sheet: Sheet, person: Cartoon) -> None:
    ear = [(0.252, 0.52), (0.215, 0.50), (0.205, 0.56), (0.235, 0.64), (0.268, 0.64)]
    for points in (ear, _mirrored(ear)):
        _outlined(sheet, points, person.skin)
    face = _outlined(sheet, FACE, person.skin)
    # The shadow of the fringe, hard-edged, and of the cheek away from the light.
    sheet.shape([(0.2, 0.2), (0.8, 0.2), (0.8, 0.46), (0.7, 0.43), (0.62, 0.475), (0.52, 0.43),
                 (0.42, 0.475), (0.32, 0.43), (0.2, 0.48)], _shade(person),
                within=face)  # fmt: skip
    sheet.shape([(0.78, 0.40), (0.725, 0.62), (0.64, 0.775), (0.56, 0.875), (0.70, 0.82),
                 (0.80, 0.62)], _shade(person), 0.8, 0.004, face)  # fmt: skip
    for side in (-1, 1):
        sheet.ellipse(0.5 + 0.165 * side, 0.69, 0.062, 0.03, (250, 132, 126), 0.5, 0.018, face)


def _eye(sheet: Sheet, person: Cartoon, side: int) -> None:
    """`side` -1 for the eye on the left of the picture."""

    def at(x: float, y: float) -> Point:
        return 0.5 + (EYE_X + x) * side, EYE_Y + y

    def round_(x: float, y: float, wide: float, high: float, colour: Colour, alpha: float = 1.0,
               blur: float = 0.0) -> None:  # fmt: skip
        sheet.ellipse(*at(x, y), wide, high, colour, alpha, blur, white)

    white = sheet.shape(
        [at(-0.078, -0.012), at(-0.048, -0.072), at(0.01, -0.088), at(0.062, -0.062),
         at(0.082, 0.0), at(0.062, 0.062), at(0.01, 0.084), at(-0.045, 0.07)], (250, 248, 250),
    )  # fmt: skip
    round_(0.0, -0.10, 0.10, 0.05, (170, 164, 190), 0.8, 0.004)  # the lid's shadow
    dark, light = mix(person.eyes, INK, 0.7), mix(person.eyes, WHITE, 0.5)
    round_(-0.002, 0.002, 0.056, 0.08, dark)
    round_(-0.002, 0.008, 0.048, 0.069, person.eyes)
    round_(-0.002, 0.05, 0.036, 0.028, light, 0.9, 0.008)
    round_(-0.002, -0.05, 0.052, 0.035, dark, 0.85, 0.012)
    round_(-0.002, 0.002, 0.021, 0.034, mix(dark, BLACK, 0.6))
    for x, y, wide, high in (
        (-0.024 * side, -0.04, 0.018, 0.023),
        (0.022 * side, 0.036, 0.01, 0.012),
    ):
        sheet.ellipse(*at(x, y), wide, high, WHITE, within=white)  # both eyes catch one light
    lid = [at(-0.086, -0.002), at(-0.056, -0.07), at(0.006, -0.092), at(0.062, -0.068),
           at(0.094, -0.008)]  # fmt: skip
    sheet.line(lid, 0.022, INK)
    sheet.line([at(0.066, -0.058), at(0.092, -0.028), at(0.112, -0.03)], 0.014, INK)
    sheet.line([at(0.076, 0.03), at(0.05, 0.08), at(0.0, 0.088), at(-0.03, 0.082)], 0.007, INK, 0.8)
    sheet.line([at(-0.05, -0.11), at(0.01, -0.128), at(0.062, -0.104)], 0.006, _shade(person), 0.9)
    sheet.line([at(-0.07, -0.158), at(0.0, -0.182), at(0.078, -0.158)], 0.012,
               mix(person.hair, INK, 0.55))  # fmt: skip


def _mouth_and_nose(sheet: Sheet, person: Cartoon) -> None:
    sheet.line(
        [(0.497, 0.668), (0.508, 0.692), (0.494, 0.696)], 0.007, mix(_shade(person), INK, 0.5)
    )
    if person.style == "short":
        sheet.line(
            [(0.455, 0.775), (0.50, 0.788), (0.55, 0.77)], 0.009, mix(INK, (150, 60, 60), 0.4)
        )
        return
    mouth = _outlined(sheet, [(0.445, 0.758), (0.50, 0.766), (0.555, 0.758), (0.535, 0.795),
                              (0.50, 0.81), (0.465, 0.795)], (176, 62, 70))  # fmt: skip
    sheet.ellipse(0.50, 0.808, 0.034, 0.02, (238, 128, 128), within=mouth)


LOCKS = {  # tips of the fringe from left to right; the gaps between them lie higher
    "long": [(0.285, 0.52), (0.37, 0.455), (0.455, 0.47), (0.545, 0.47), (0.63, 0.455),
             (0.715, 0.52)],
    "tails": [(0.27, 0.50), (0.35, 0.44), (0.47, 0.475), (0.60, 0.43), (0.73, 0.50)],
    "short": [(0.25, 0.5), (0.33, 0.475), (0.4, 0.42), (0.53, 0.505), (0.64, 0.43), (0.745, 0.5)],
}  # fmt: skip


def _fringe(sheet: Sheet, person: Cartoon) -> None:
    """The hair in front: a cap whose edge runs through the tips, side locks and a highlight."""
    tips = LOCKS[person.style]
    edge: list[Point] = [(0.235, 0.385)]
    for (x, y), other in zip(tips, [*tips[1:], (0.79, 0.44)], strict=True):
        edge += [(x - 0.009, y - 0.02), (x, y), (x + 0.009, y - 0.02)]  # close together: sharp
        edge.append(((x + other[0]) / 2, 0.365))
    side = [(0.155, 0.36), (0.19, 0.34), (0.255, 0.4), (0.262, 0.56), (0.285, 0.725),
            (0.275, 0.735), (0.205, 0.66), (0.165, 0.52)]  # fmt: skip
    if person.style == "short":
        side = [(x, min(y, 0.62)) for x, y in side]
    for points in (side, _mirrored(side)):
        _outlined(sheet, points, person.hair)
    cap = _outlined(
        sheet, [(0.15, 0.40), (0.17, 0.22), (0.30, 0.085), (0.50, 0.045), (0.70, 0.085),
                (0.83, 0.22), (0.85, 0.40), (0.81, 0.43), *edge[::-1], (0.19, 0.43)], person.hair,
    )  # fmt: skip
    light, dark = mix(person.hair, WHITE, 0.55), mix(person.hair, INK, 0.4)
    shine: list[Point] = [(0.24 + 0.052 * k, 0.235 - 0.06 * (1 - abs(k - 5) / 5) + 0.022 * (k % 2))
                          for k in range(11)]  # fmt: skip
    sheet.line(shine, 0.03, light, 0.75, 0.003)
    sheet.ellipse(0.86, 0.30, 0.09, 0.26, dark, 0.5, 0.03, cap)  # away from the light
    for x, _ in tips[1:-1]:
        off = x - 0.5
        sheet.line(
            [(0.5 + 0.45 * off, 0.11), (0.5 + 0.85 * off, 0.25), (x, 0.38)], 0.005, dark, 0.8
        )
