"""Maps of differences: fixed scales, the right place, the right part of a face."""

from __future__ import annotations

import numpy as np
import pytest

from sr3.differences import (
    DIVERGING,
    SEQUENTIAL,
    change_map,
    error,
    error_map,
    place_of_most,
    spread,
    zone_of_most,
)

GREY = np.full((128, 128, 3), 100, np.uint8)


def lightness(colours: np.ndarray) -> np.ndarray:
    """CIE 1931 luminance of sRGB colours (n, 3) in 0..255."""
    linear = np.where(colours <= 10.3, colours / 3294.6, ((colours / 255 + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def test_the_error_is_absolute_and_averaged_over_colours():
    other = GREY.copy()
    other[0, 0] = (103, 97, 100)
    values = error(GREY, other)
    assert values[0, 0] == pytest.approx(2.0) and values[1:].max() == 0


def test_the_error_map_has_a_fixed_scale():
    little, much = GREY.copy(), GREY.copy()
    little[0, 0] += 4
    much[0, 0], much[1, 1] = 104, 228
    assert tuple(error_map(GREY, GREY)[5, 5]) == SEQUENTIAL[0]
    assert np.array_equal(error_map(little, GREY)[0, 0], error_map(much, GREY)[0, 0])
    assert tuple(error_map(much, GREY)[1, 1]) == SEQUENTIAL[-1]


def test_colours_of_errors_grow_lighter_all_the_way():
    ramp = np.repeat((100 + np.arange(0, 65)[None, :, None]).astype(np.uint8), 3, axis=2)
    steps = lightness(error_map(ramp, np.full_like(ramp, 100))[0].astype(float))
    assert (np.diff(steps) >= 0).all() and steps[-1] > 0.9


def test_lighter_and_darker_are_told_apart():
    lighter, darker = GREY.copy(), GREY.copy()
    lighter[3, 3] += 60
    darker[3, 3] -= 60
    assert tuple(change_map(GREY, lighter)[3, 3]) == DIVERGING[-1]
    assert tuple(change_map(GREY, darker)[3, 3]) == DIVERGING[0]
    assert tuple(change_map(GREY, GREY)[3, 3]) == DIVERGING[2]


def test_the_spread_is_the_population_deviation_and_the_mean_is_rounded():
    samples = np.stack([GREY, GREY + 3, GREY + 3])
    found = spread(samples)
    assert found.deviation == pytest.approx(np.full((128, 128), np.std([0, 3, 3])))
    assert (found.mean == 102).all() and found.level == pytest.approx(np.sqrt(2))


@pytest.mark.parametrize(("row", "column"), [(20, 100), (100, 30), (64, 64)])
def test_the_place_of_most(row, column):
    other = GREY.copy()
    other[row - 6 : row + 6, column - 6 : column + 6] += 50
    x, y = place_of_most(GREY, other)
    assert abs(x - column / 128) < 0.06 and abs(y - row / 128) < 0.06


@pytest.mark.parametrize(
    ("row", "column", "zone"),
    [(58, 64, "the eyes"), (100, 64, "the mouth"), (10, 64, "the hair and forehead"),
     (64, 5, "the edges and background"), (64, 123, "the edges and background")],
)  # fmt: skip
def test_the_part_of_the_face(row, column, zone):
    other = GREY.copy()
    other[row - 5 : row + 5, max(column - 5, 0) : column + 5] += 80
    assert zone_of_most(GREY, other) == zone
