"""Tests of masks as patches: the place of a patch, its most frequent class."""

import numpy as np

from benchmark.evaluations.solvers.patches import majority, to_image, to_patches


def test_patches_are_in_the_order_of_tokens_and_can_be_put_together() -> None:
    mask = np.arange(48, dtype=np.uint8).reshape(1, 48).repeat(48, axis=0)
    mask[:, ::2] += 100
    patches = to_patches(mask, (2, 3))
    assert patches.shape == (6, 24 * 16)
    assert np.array_equal(patches[1].reshape(24, 16), mask[:24, 16:32])
    assert np.array_equal(patches[3].reshape(24, 16), mask[24:, :16])
    assert np.array_equal(to_image(patches, (2, 3)), mask)


def test_majority_counts_pixels_that_do_not_count_and_takes_the_lowest_of_equals() -> None:
    patches = np.array([[3, 3, 1, 1], [255, 255, 255, 7], [0, 9, 9, 255], [255, 255, 4, 4]], np.uint8)
    assert majority(patches).tolist() == [1, 255, 9, 4]
