"""Tests of the contact sheet: what is where, which colors are whose, and that ignored pixels are black."""

import numpy as np

from benchmark.evaluations.scoring.contact_sheet import GAP, TILE, contact_sheet
from benchmark.images import decode_image


def test_rows_are_picture_truth_and_prediction() -> None:
    picture = np.full((40, 60, 3), (10, 200, 30), np.uint8)
    truth = np.repeat(np.array([[0, 1], [2, 255]], np.uint8), 4, axis=0).repeat(4, axis=1)
    predicted = np.full((8, 8), 2, np.uint8)
    sheet = decode_image(contact_sheet([(picture, truth, predicted)] * 3, ("sky", "road", "car")))
    step, near, far = TILE + GAP, GAP + TILE // 4, GAP + 3 * TILE // 4
    for column in range(3):
        left = column * step
        assert sheet[near, left + near].tolist() == [10, 200, 30]
        sky, road = sheet[step + near, left + near], sheet[step + near, left + far]
        car, ignored = sheet[step + far, left + near], sheet[step + far, left + far]
        assert len({tuple(color) for color in (sky, road, car)}) == 3 and not ignored.any()
        assert np.array_equal(sheet[2 * step + far, left + far], car)
    legend = sheet[3 * step + 2 * GAP + 7]
    assert np.array_equal(legend[GAP + 7], sky), "the legend begins with the first class"
