"""A canvas for soft drawings: ellipses, smooth curves and strokes, blurred and clipped.

Coordinates are fractions of the canvas's side, x to the right and y down; colours are RGB.
"""

from __future__ import annotations

from PIL import Image, ImageChops, ImageDraw, ImageFilter

CANVAS = 768  # pixels a side

Colour = tuple[int, int, int]
Point = tuple[float, float]
Box = tuple[float, float, float, float]


class Sheet:
    """A canvas painted through soft masks; coordinates are fractions of its side."""

    def __init__(self, ground: Colour) -> None:
        self.image = Image.new("RGB", (CANVAS, CANVAS), ground)

    def ellipse(
        self, x: float, y: float, wide: float, high: float, colour: Colour, alpha: float = 1.0,
        blur: float = 0.0, within: Image.Image | None = None,
    ) -> Image.Image:  # fmt: skip
        """An ellipse by centre and half axes; gives its mask."""
        box = (x - wide, y - high, x + wide, y + high)
        return self._paint([box], [], colour, alpha, blur, within)

    def shape(
        self, points: list[Point], colour: Colour, alpha: float = 1.0, blur: float = 0.0,
        within: Image.Image | None = None,
    ) -> Image.Image:  # fmt: skip
        """A closed smooth curve through points; gives its mask."""
        return self._paint([], smooth(points), colour, alpha, blur, within)

    def line(
        self, points: list[Point], width: float, colour: Colour, alpha: float = 1.0,
        blur: float = 0.0, pieces: int = 40,
    ) -> None:  # fmt: skip
        """A smooth open stroke, its ends round, of `pieces` dots between two points."""
        half = width / 2
        dots = [
            (x - half, y - half, x + half, y + half)
            for x, y in smooth(points, closed=False, pieces=pieces)
        ]
        self._paint(dots, [], colour, alpha, blur, None)

    def _paint(
        self, ellipses: list[Box], polygon: list[Point], colour: Colour, alpha: float, blur: float,
        within: Image.Image | None,
    ) -> Image.Image:  # fmt: skip
        """Lay a colour through a mask, blurred by a fraction of the side, clipped to `within`.

        Only the part of the canvas that it can change is touched; gives the unclipped, sharp mask.
        """
        mask = Image.new("L", (CANVAS, CANVAS), 0)
        pen = ImageDraw.Draw(mask)
        for ellipse in ellipses:
            pen.ellipse([value * CANVAS for value in ellipse], fill=255)
        if polygon:
            pen.polygon([(x * CANVAS, y * CANVAS) for x, y in polygon], fill=255)
        left, top, right, bottom = mask.getbbox() or (0, 0, 1, 1)
        reach = round(3 * blur * CANVAS)
        box = (max(left - reach, 0), max(top - reach, 0),
               min(right + reach, CANVAS), min(bottom + reach, CANVAS))  # fmt: skip
        part = mask.crop(box)
        if blur:
            part = part.filter(ImageFilter.GaussianBlur(blur * CANVAS))
        if within is not None:
            part = ImageChops.multiply(part, within.crop(box))
        if alpha < 1:
            part = part.point([int(value * alpha) for value in range(256)])
        self.image.paste(colour, box, part)
        return mask


def smooth(points: list[Point], *, closed: bool = True, pieces: int = 16) -> list[Point]:
    """A Catmull-Rom spline through points."""
    ring = (
        [points[-1], *points, points[0], points[1]] if closed else [points[0], *points, points[-1]]
    )
    curve: list[Point] = []
    for p0, p1, p2, p3 in zip(ring, ring[1:], ring[2:], ring[3:], strict=False):
        for k in range(pieces):
            t = k / pieces
            weights = (
                -0.5 * t + t**2 - 0.5 * t**3, 1 - 2.5 * t**2 + 1.5 * t**3,
                0.5 * t + 2 * t**2 - 1.5 * t**3, -0.5 * t**2 + 0.5 * t**3,
            )  # fmt: skip
            pair = [
                sum(w * p[axis] for w, p in zip(weights, (p0, p1, p2, p3), strict=True))
                for axis in (0, 1)
            ]
            curve.append((pair[0], pair[1]))
    return curve


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """`share` of the other colour in the one."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue
