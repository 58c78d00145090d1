"""Tests of the nearest rows against all distances in float64, with equal rows and rows too close for float32."""

import numpy as np
import pytest

from benchmark.evaluations.solvers import nearest as module
from benchmark.evaluations.solvers.nearest import nearest


def all_in_order(gallery: np.ndarray, queries: np.ndarray, count: int) -> np.ndarray:
    distances = np.square(queries[:, None].astype(np.float64) - gallery[None]).sum(axis=2)
    return np.argsort(distances, axis=1, kind="stable")[:, :count]


def random(rows: int, dimensions: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, dimensions)).astype(np.float32)


@pytest.mark.parametrize("count", [1, 7, 30])
@pytest.mark.parametrize("rows", [30, 50, 400])
def test_rows_are_those_of_all_distances(rows: int, count: int) -> None:
    gallery, queries = random(rows), random(33, seed=1)
    assert np.array_equal(nearest(gallery, queries, count), all_in_order(gallery, queries, count))


def test_equal_rows_are_in_the_order_of_the_gallery(monkeypatch: pytest.MonkeyPatch) -> None:
    """More equal rows than there are candidates: only a comparison with all of them knows the first."""
    gallery = np.concatenate([random(40), np.repeat(random(1, seed=3), 200, axis=0), random(40, seed=2)])
    found = nearest(gallery, gallery[[45, 3]], 3)
    assert found[0].tolist() == [40, 41, 42] and found[1, 0] == 3
    monkeypatch.setattr(module, "BATCH_VALUES", 12 * 9)
    assert np.array_equal(nearest(gallery, gallery[[45, 3]], 3), found)


def test_rows_closer_than_float32_can_tell() -> None:
    """Rows far from the origin, whose squared norms differ by less than the rounding of float32."""
    gallery = 1000 + 1e-2 * random(300)
    queries = gallery[:20] + 1e-3 * random(20, seed=1)
    assert np.array_equal(nearest(gallery, queries, 5), all_in_order(gallery, queries, 5))


def test_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    gallery, queries = random(200), random(50, seed=1)
    whole = nearest(gallery, queries, 10)
    monkeypatch.setattr(module, "BATCH_SCORES", 600)
    assert np.array_equal(nearest(gallery, queries, 10), whole)
