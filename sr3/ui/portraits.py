"""Five people who do not exist, drawn by formula: faces that need no download.

Each is framed as FFHQ frames a photograph: eyes at 45% of the height, a face that fills the
square. Invariant: the same pixels on every machine with the same Pillow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from PIL import Image

from sr3.ui.canvas import Colour, Point, Sheet, mix

SIZE = 256  # drawn three times larger, then reduced

Hair = Literal["short", "bob", "curls", "bun"]


@dataclass(frozen=True)
class Portrait:
    """What makes one drawn person; colours are RGB."""

    name: str
    skin: Colour
    hair: Colour
    style: Hair
    eyes: Colour
    shirt: Colour
    ground: Colour  # background
    lips: Colour
    glasses: bool = False
    beard: bool = False


PORTRAITS = (
    Portrait("Noor", (224, 172, 130), (52, 32, 24), "bob", (92, 60, 36), (196, 92, 60),
             (150, 178, 190), (186, 84, 80)),
    Portrait("Emeka", (128, 82, 56), (28, 22, 22), "short", (58, 36, 24), (226, 178, 62),
             (98, 128, 120), (128, 66, 60), beard=True),
    Portrait("Ines", (244, 206, 178), (150, 72, 34), "curls", (74, 112, 92), (52, 92, 120),
             (206, 196, 178), (200, 104, 98), glasses=True),
    Portrait("Haruto", (236, 196, 158), (42, 38, 44), "short", (64, 44, 34), (60, 66, 92),
             (184, 160, 150), (190, 108, 98), glasses=True),
    Portrait("Ruth", (190, 134, 98), (176, 172, 170), "bun", (80, 66, 54), (112, 74, 116),
             (116, 142, 160), (164, 78, 78)),
)  # fmt: skip


def draw(person: Portrait) -> Image.Image:
    """The (256, 256) RGB picture of a person."""
    sheet = Sheet(person.ground)
    _background(sheet, person)
    _hair_behind(sheet, person)
    _body(sheet, person)
    _head(sheet, person)
    if person.beard:
        _beard(sheet, person)
    _mouth(sheet, person)
    _nose(sheet, person)
    for side in (-1, 1):
        _eye(sheet, person, side)
    _hair_in_front(sheet, person)
    if person.glasses:
        _glasses(sheet)
    return sheet.image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


BLACK, WHITE = (0, 0, 0), (255, 255, 255)
FACE: list[Point] = [
    (0.50, 0.145), (0.66, 0.18), (0.755, 0.31), (0.765, 0.46), (0.735, 0.62), (0.665, 0.755),
    (0.57, 0.835), (0.50, 0.85), (0.43, 0.835), (0.335, 0.755), (0.265, 0.62), (0.235, 0.46),
    (0.245, 0.31), (0.34, 0.18),
]  # fmt: skip


def _shadow(person: Portrait, share: float = 0.45) -> Colour:
    return mix(person.skin, (84, 28, 24), share)


def _background(sheet: Sheet, person: Portrait) -> None:
    sheet.ellipse(0.25, 0.15, 0.45, 0.45, mix(person.ground, WHITE, 0.5), 0.8, 0.14)
    sheet.ellipse(0.95, 0.85, 0.45, 0.55, mix(person.ground, BLACK, 0.5), 0.7, 0.14)


def _body(sheet: Sheet, person: Portrait) -> None:
    shirt = sheet.shape(
        [(-0.1, 1.2), (-0.06, 1.0), (0.14, 0.9), (0.37, 0.85), (0.5, 0.93), (0.63, 0.85),
         (0.86, 0.9), (1.06, 1.0), (1.1, 1.2)], person.shirt,
    )  # fmt: skip
    sheet.ellipse(0.9, 1.0, 0.25, 0.2, mix(person.shirt, BLACK, 0.6), 0.7, 0.06, shirt)
    neck = sheet.shape(
        [(0.365, 0.66), (0.64, 0.66), (0.645, 0.84), (0.655, 0.885), (0.50, 0.985), (0.345, 0.885),
         (0.36, 0.84)], mix(person.skin, _shadow(person), 0.3),
    )  # fmt: skip
    sheet.ellipse(0.52, 0.79, 0.2, 0.1, _shadow(person, 0.75), 0.75, 0.03, neck)


def _head(sheet: Sheet, person: Portrait) -> None:
    for x, tilt in ((0.232, -1), (0.768, 1)):
        ear = sheet.ellipse(x, 0.485, 0.042, 0.08, mix(person.skin, _shadow(person), 0.25))
        sheet.ellipse(x + 0.008 * tilt, 0.485, 0.02, 0.05, _shadow(person, 0.6), 0.6, 0.012, ear)
    face = sheet.shape(FACE, person.skin)
    light, dark = mix(person.skin, (255, 240, 220), 0.6), _shadow(person, 0.6)
    sheet.ellipse(0.83, 0.56, 0.13, 0.42, dark, 0.85, 0.05, face)  # the side away from the light
    sheet.ellipse(0.20, 0.60, 0.07, 0.36, dark, 0.45, 0.04, face)
    sheet.ellipse(0.52, 0.88, 0.24, 0.07, dark, 0.6, 0.04, face)
    sheet.ellipse(0.43, 0.27, 0.17, 0.09, light, 0.6, 0.05, face)  # forehead
    for x, alpha in ((0.355, 0.65), (0.63, 0.4)):
        sheet.ellipse(x, 0.575, 0.07, 0.05, light, alpha, 0.03, face)
        sheet.ellipse(
            x, 0.615, 0.075, 0.05, mix(person.skin, (214, 62, 56), 0.5), 0.45, 0.035, face
        )
    sheet.ellipse(0.495, 0.79, 0.06, 0.035, light, 0.5, 0.02, face)  # chin
    for x in (0.375, 0.625):  # eye sockets
        sheet.ellipse(x, 0.43, 0.095, 0.05, dark, 0.42, 0.025, face)


def _eye(sheet: Sheet, person: Portrait, side: int) -> None:
    """`side` -1 for the eye on the left of the picture."""
    x, y = 0.5 + 0.122 * side, 0.452
    almond = [(x - 0.064, y + 0.006), (x - 0.032, y - 0.022), (x + 0.004, y - 0.030),
              (x + 0.036, y - 0.020), (x + 0.064, y + 0.006), (x + 0.030, y + 0.021),
              (x - 0.030, y + 0.021)]  # fmt: skip
    white = sheet.shape(almond, (240, 234, 228))
    sheet.ellipse(x, y - 0.003, 0.029, 0.030, mix(person.eyes, BLACK, 0.55), within=white)
    sheet.ellipse(x, y, 0.024, 0.025, person.eyes, within=white)
    sheet.ellipse(
        x, y + 0.008, 0.016, 0.012, mix(person.eyes, (255, 220, 160), 0.5), 0.8, 0.005, white
    )
    sheet.ellipse(x, y - 0.002, 0.012, 0.0125, (12, 10, 12), within=white)
    sheet.ellipse(x, y - 0.03, 0.06, 0.012, (60, 36, 34), 0.55, 0.007, white)  # the lid's shadow
    sheet.ellipse(x - 0.009, y - 0.011, 0.0065, 0.0065, WHITE, within=white)
    lid = [(x - 0.066, y + 0.006), (x - 0.033, y - 0.024), (x + 0.004, y - 0.032),
           (x + 0.038, y - 0.022), (x + 0.066, y + 0.006)]  # fmt: skip
    sheet.line(lid, 0.009, mix(_shadow(person, 0.9), BLACK, 0.6), 0.95, 0.001)
    sheet.line([(px, py - 0.021) for px, py in lid], 0.006, _shadow(person, 0.8), 0.6, 0.003)
    sheet.line(
        [(px, 2 * y - py + 0.012) for px, py in lid[1:4]], 0.005, _shadow(person), 0.5, 0.003
    )
    brow = [(x - 0.075 * side, y - 0.072), (x - 0.02 * side, y - 0.088),
            (x + 0.05 * side, y - 0.084),
            (x + 0.09 * side, y - 0.058)]  # fmt: skip
    colour = mix(person.hair, BLACK, 0.25)
    sheet.line(brow, 0.020, colour, 0.75, 0.003)
    sheet.line(brow[:3], 0.026, colour, 0.45, 0.005)


def _nose(sheet: Sheet, person: Portrait) -> None:
    light, dark = mix(person.skin, (255, 244, 228), 0.75), _shadow(person, 0.65)
    sheet.shape([(0.545, 0.45), (0.562, 0.54), (0.585, 0.60), (0.55, 0.615), (0.53, 0.54)], dark,
                0.42, 0.012)  # fmt: skip
    sheet.line([(0.494, 0.44), (0.491, 0.52), (0.493, 0.575)], 0.022, light, 0.55, 0.010)
    sheet.ellipse(0.493, 0.592, 0.022, 0.017, light, 0.65, 0.009)
    sheet.line([(0.437, 0.602), (0.443, 0.622), (0.468, 0.622), (0.498, 0.634), (0.53, 0.622),
                (0.556, 0.622), (0.563, 0.602)], 0.010, dark, 0.7, 0.005)  # fmt: skip
    for x in (0.466, 0.534):
        sheet.ellipse(x, 0.621, 0.015, 0.0075, mix(dark, BLACK, 0.45), 0.8, 0.003)


def _mouth(sheet: Sheet, person: Portrait) -> None:
    dark = mix(person.lips, (40, 8, 12), 0.65)
    upper = [(0.40, 0.703), (0.445, 0.686), (0.48, 0.678), (0.50, 0.683), (0.52, 0.678),
             (0.555, 0.686), (0.60, 0.703), (0.55, 0.709), (0.50, 0.711),
             (0.45, 0.709)]  # fmt: skip
    lower = [(0.40, 0.703), (0.45, 0.710), (0.50, 0.713), (0.55, 0.710), (0.60, 0.703),
             (0.56, 0.738), (0.50, 0.750), (0.44, 0.738)]  # fmt: skip
    sheet.ellipse(0.50, 0.768, 0.075, 0.014, _shadow(person, 0.7), 0.5, 0.012)
    sheet.shape(upper, mix(person.lips, BLACK, 0.14), blur=0.002)
    sheet.shape(lower, person.lips, blur=0.002)
    sheet.ellipse(0.49, 0.729, 0.045, 0.008, mix(person.lips, WHITE, 0.6), 0.55, 0.006)
    line = [(0.392, 0.698), (0.45, 0.709), (0.50, 0.711), (0.55, 0.709), (0.608, 0.698)]
    sheet.line(line, 0.007, dark, 0.9, 0.002)
    for side in (-1, 1):  # a smile's corners and folds
        sheet.ellipse(0.5 + 0.11 * side, 0.699, 0.010, 0.010, _shadow(person, 0.8), 0.5, 0.006)
        fold = [(0.5 + 0.082 * side, 0.605), (0.5 + 0.125 * side, 0.65), (0.5 + 0.137 * side, 0.69)]
        sheet.line(fold, 0.008, _shadow(person, 0.6), 0.38, 0.006)


def _beard(sheet: Sheet, person: Portrait) -> None:
    points = [(0.25, 0.52), (0.285, 0.63), (0.345, 0.675), (0.42, 0.655), (0.50, 0.645),
              (0.58, 0.655),
              (0.655, 0.675), (0.715, 0.63), (0.75, 0.52), (0.745, 0.63), (0.675, 0.765),
              (0.575, 0.862), (0.50, 0.878), (0.425, 0.862), (0.325, 0.765),
              (0.255, 0.63)]  # fmt: skip
    sheet.shape(points, mix(person.hair, person.skin, 0.12), 0.9, 0.012)
    sheet.ellipse(0.46, 0.80, 0.10, 0.04, mix(person.hair, WHITE, 0.25), 0.35, 0.03)


def _hair_behind(sheet: Sheet, person: Portrait) -> None:
    dark = mix(person.hair, BLACK, 0.35)
    match person.style:
        case "bob":
            sheet.shape([(0.50, 0.02), (0.74, 0.09), (0.86, 0.33), (0.88, 0.62), (0.84, 0.88),
                         (0.66, 0.90), (0.50, 0.86), (0.34, 0.90), (0.16, 0.88), (0.12, 0.62),
                         (0.14, 0.33), (0.26, 0.09)], dark, blur=0.004)  # fmt: skip
        case "curls":
            for x, y, r in _CURLS:
                sheet.ellipse(x, y, r, r, mix(person.hair, BLACK, 0.25), blur=0.004)
                sheet.ellipse(x - r / 4, y - r / 4, r / 2, r / 2, person.hair, 0.8, 0.018)
        case "bun":
            sheet.ellipse(0.5, 0.05, 0.15, 0.11, dark, blur=0.004)
            sheet.ellipse(0.46, 0.03, 0.08, 0.05, mix(person.hair, WHITE, 0.35), 0.6, 0.02)
            sheet.ellipse(0.5, 0.33, 0.29, 0.25, dark, blur=0.004)
        case "short":
            sheet.ellipse(0.5, 0.31, 0.285, 0.235, dark, blur=0.005)


_CURLS = tuple(
    (0.5 + 0.345 * x, 0.34 + 0.29 * y, r)
    for x, y, r in (
        (-0.95, 1.55, 0.10), (0.95, 1.55, 0.10), (-1.0, 1.1, 0.115), (1.0, 1.1, 0.115),
        (-1.05, 0.6, 0.12), (1.05, 0.6, 0.12), (-0.98, 0.05, 0.12), (0.98, 0.05, 0.12),
        (-0.75, -0.5, 0.125), (0.75, -0.5, 0.125), (-0.4, -0.85, 0.125), (0.4, -0.85, 0.125),
        (0.0, -0.98, 0.13), (-0.5, -0.3, 0.14), (0.5, -0.3, 0.14), (0.0, -0.5, 0.16),
    )
)  # fmt: skip


def _hair_in_front(sheet: Sheet, person: Portrait) -> None:
    light, dark = mix(person.hair, (255, 226, 190), 0.35), mix(person.hair, BLACK, 0.5)
    top: Image.Image | None = None
    strands: list[list[Point]] = []
    match person.style:
        case "bob":
            top = sheet.shape([(0.50, 0.045), (0.70, 0.10), (0.82, 0.30), (0.845, 0.60),
                               (0.82, 0.80),
                               (0.755, 0.78), (0.765, 0.55), (0.745, 0.37), (0.66, 0.25),
                               (0.55, 0.215), (0.43, 0.30), (0.295, 0.35), (0.245, 0.52),
                               (0.25, 0.78), (0.18, 0.80), (0.155, 0.60), (0.18, 0.30),
                               (0.30, 0.10)], person.hair, blur=0.003)  # fmt: skip
            strands = [[(0.58, 0.08), (0.40, 0.16), (0.27, 0.30), (0.205, 0.50)],
                       [(0.62, 0.09), (0.73, 0.20), (0.79, 0.40), (0.80, 0.65)]]  # fmt: skip
        case "curls":
            for x, y, r in ((0.30, 0.235, 0.085), (0.40, 0.175, 0.09), (0.52, 0.155, 0.09),
                            (0.63, 0.185, 0.088), (0.715, 0.255, 0.08)):  # fmt: skip
                sheet.ellipse(x, y, r, r, person.hair, blur=0.005)
                sheet.ellipse(x - 0.02, y - 0.03, r / 2, r / 2, light, 0.5, 0.018)
        case "bun":
            top = sheet.shape([(0.50, 0.075), (0.67, 0.11), (0.78, 0.24), (0.785, 0.42),
                               (0.745, 0.36),
                               (0.66, 0.225), (0.50, 0.195), (0.34, 0.225), (0.255, 0.36),
                               (0.215, 0.42), (0.22, 0.24), (0.33, 0.11)], person.hair,
                              blur=0.003)  # fmt: skip
            strands = [[(0.46, 0.09), (0.35, 0.15), (0.27, 0.27)],
                       [(0.52, 0.09), (0.53, 0.15), (0.54, 0.19)],
                       [(0.58, 0.09), (0.68, 0.16), (0.74, 0.28)]]  # fmt: skip
        case "short":
            top = sheet.shape([(0.50, 0.06), (0.67, 0.085), (0.775, 0.20), (0.785, 0.42),
                               (0.755, 0.40),
                               (0.735, 0.29), (0.65, 0.225), (0.52, 0.245), (0.37, 0.205),
                               (0.275, 0.29), (0.245, 0.40), (0.215, 0.42), (0.22, 0.20),
                               (0.32, 0.095)], person.hair, blur=0.004)  # fmt: skip
            strands = [
                [(0.32, 0.16), (0.45, 0.11), (0.60, 0.12)],
                [(0.34, 0.19), (0.48, 0.16), (0.64, 0.16)],
            ]
    if top is not None:
        sheet.line([(0.27, 0.33), (0.37, 0.235), (0.52, 0.225), (0.64, 0.245), (0.73, 0.33)], 0.02,
                   _shadow(person, 0.8), 0.35, 0.012)  # fmt: skip
        sheet.ellipse(0.8, 0.35, 0.09, 0.35, dark, 0.7, 0.04, top)
    for strand in strands:
        sheet.line(strand, 0.018, light, 0.5, 0.010)


def _glasses(sheet: Sheet) -> None:
    frame = (38, 34, 38)
    for side in (-1, 1):
        x = 0.5 + 0.124 * side
        points = [(x - 0.092, 0.408), (x, 0.395), (x + 0.092, 0.408), (x + 0.084, 0.50),
                  (x, 0.528), (x - 0.084, 0.50)]  # fmt: skip
        lens = sheet.shape(points, WHITE, 0.07)
        sheet.shape([(x - 0.05, 0.39), (x - 0.01, 0.39), (x - 0.06, 0.54), (x - 0.10, 0.54)], WHITE,
                    0.16, 0.006, lens)  # fmt: skip
        sheet.line([*points, points[0], points[1]], 0.011, frame, 0.95, 0.0008)
        sheet.line(
            [(x + 0.09 * side, 0.425), (0.5 + 0.265 * side, 0.445)], 0.012, frame, 0.95, 0.001
        )
    sheet.line([(0.468, 0.43), (0.50, 0.418), (0.532, 0.43)], 0.011, frame, 0.95, 0.0008)
