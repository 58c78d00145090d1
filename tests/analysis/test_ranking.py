"""Rankings against SciPy and a plain loop, and groups against expected ones."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import rankdata

from benchmark.analysis import ranking
from benchmark.analysis.means import Column, mean_of_columns
from benchmark.analysis.paired import Interval, PairedComparisons
from benchmark.errors import SkipCode
from benchmark.interfaces import Skipped
from benchmark.records.schema import Record
from tests.fixtures.differences import Known
from tests.reports.tables.conftest import measured, record

GAPS = np.array([[0.5, 0.25, 0.75], [0.5, 0.5, np.nan], [0.125, 0.5, 0.25], [np.nan, np.nan, np.nan]])


def models(scores: Any, seeds: int = 1) -> list[list[Any]]:
    """Return a model per row of scores (NaN: skipped); each further seed scores 0.01 more."""
    return [
        [
            record(
                f"m{at}",
                {
                    f"d{c}": Skipped("no", SkipCode.FAILED) if np.isnan(v) else measured(v + seed / 100)
                    for c, v in enumerate(row)
                },
                seed=seed,
            )
            for seed in range(seeds)
        ]
        for at, row in enumerate(scores)
    ]


def test_borda_counts_equal_a_loop() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        score_MC = generator.integers(0, 4, (6, 5)) / 4
        score_MC[generator.random((6, 5)) < 0.2] = np.nan
        expected = np.zeros(6)
        for own, other, column in itertools.product(range(6), range(6), range(5)):
            if own != other and not np.isnan(score_MC[[own, other], column]).any():
                difference = score_MC[own, column] - score_MC[other, column]
                expected[own] += 1 if difference > 0 else 0.5 if difference == 0 else 0
        assert ranking.borda(score_MC).tolist() == expected.tolist()


def test_ranks_are_among_measured_models() -> None:
    ranks = ranking.ranks(GAPS)
    assert ranks[:, 0].tolist()[:3] == [1.5, 1.5, 3.0]
    assert ranks[:3, 1].tolist() == [3.0, 1.5, 1.5]
    assert ranks[[0, 2], 2].tolist() == [1.0, 2.0]
    assert np.isnan(ranks[3]).all() and np.isnan(ranks[1, 2])
    whole = np.random.default_rng(1).integers(0, 5, (7, 4)) / 5
    assert np.array_equal(ranking.ranks(whole), rankdata(-whole, axis=0))


def test_mean_and_average_rank_are_of_complete_models_only() -> None:
    places = ranking.rank_models(models(GAPS), Known(0.01))
    assert [place.mean and place.mean.value for place in places] == [
        pytest.approx(0.5),
        None,
        pytest.approx(0.875 / 3),
        None,
    ]
    assert [place.average_rank for place in places] == [pytest.approx(4 / 3), None, pytest.approx(5 / 3), None]
    assert [place.datasets for place in places] == [3, 2, 3, 0]
    assert [place.borda for place in places] == [2.5, 3.0, 1.5, 0.0]
    assert [place.group for place in places] == [1, None, 2, None]


def test_average_ranks_are_among_complete_models_and_borda_counts_among_all() -> None:
    generator = np.random.default_rng(2)
    moved = 0
    for _ in range(10):
        score_MC = generator.integers(0, 4, (6, 3)) / 4
        score_MC[generator.random((6, 3)) < 0.15] = np.nan
        score_MC[0] = 0.5
        places = ranking.rank_models(models(score_MC), Known(0.1))
        complete = np.flatnonzero(~np.isnan(score_MC).any(axis=1))
        expected = dict(zip(complete.tolist(), rankdata(-score_MC[complete], axis=0).mean(axis=1)))
        assert {at: p.average_rank for at, p in enumerate(places) if p.average_rank is not None} == pytest.approx(
            expected
        )
        assert [place.borda for place in places] == ranking.borda(score_MC).tolist()
        moved += len(complete) < 6
    assert moved > 5


def test_the_mean_of_a_standing_is_that_of_its_columns() -> None:
    three, one = models([[0.5, 0.25]], seeds=3)[0], models([[0.5, np.nan]])[0]
    whole, partial = ranking.rank_models([three, one], Known(0.1))
    assert whole.mean == mean_of_columns(three, [("d0", "top1"), ("d1", "top1")])
    assert partial.mean is None


def groups(means: Sequence[float], half: float) -> list[int | None]:
    return [place.group for place in ranking.rank_models(models([[mean] for mean in means]), Known(half))]


def test_a_group_has_no_significant_difference_from_its_first_model() -> None:
    assert groups([0.5, 0.9, 0.8, 0.55, 0.85], 0.11) == [2, 1, 1, 2, 1]
    assert groups([0.9, 0.8, 0.7, 0.6], 0.125) == [1, 1, 2, 2], "0.8 and 0.7 are neighbours in two groups"
    assert groups([0.9, 0.8, 0.7], 0.01) == [1, 2, 3]
    assert groups([0.75, 0.5], 0.25) == [1, 1], "an interval that ends at zero is not significant"
    assert groups([0.4], 0.1) == [1]


class Without(Known):
    """Known differences, except those of models without predictions."""

    def __init__(self, half: float, *missing: str) -> None:
        super().__init__(half)
        self.missing = {f"smoke/{name}" for name in missing}

    def difference(
        self, first: Sequence[Record], second: Sequence[Record], columns: Sequence[Column]
    ) -> Interval | None:
        if self.missing & {first[0].experiment.name, second[0].experiment.name}:
            return None
        return super().difference(first, second, columns)


@pytest.mark.parametrize("missing", [(), (0,), (1,), (4,), (0, 1), (0, 2), (1, 3), (0, 1, 2), (0, 2, 4)])
def test_models_with_unknown_differences_have_no_group_and_change_no_other_group(
    missing: tuple[int, ...],
) -> None:
    means = [0.9, 0.85, 0.7, 0.65, 0.4]
    found = models([[mean] for mean in means])
    places = ranking.rank_models(found, Without(0.11, *(f"m{at}" for at in missing)))
    there = [at for at in range(5) if at not in missing]
    expected = dict(zip(there, groups([means[at] for at in there], 0.11)))
    assert [place.group for place in places] == [expected.get(at) for at in range(5)]
    assert [place.average_rank for place in places] == [1.0, 2.0, 3.0, 4.0, 5.0]


def best(found: list[Any], pairs: PairedComparisons) -> ranking.BestOfColumn[int]:
    return ranking.best_of_column(range(len(found)), found.__getitem__, ("d0", "top1"), pairs)


def test_the_best_of_a_column_wins_is_tied_or_is_unknown() -> None:
    found = models([[0.5], [np.nan], [0.9], [0.8]])
    assert best(found, Known(0.05)) == ranking.BestOfColumn(winner=2)
    assert best(found, Known(0.1)) == ranking.BestOfColumn(tied=(2, 3))
    assert best(found, Without(0.1, "m0")) == ranking.BestOfColumn(unknown=True)


@pytest.mark.parametrize("scores", [[], [[0.5]], [[0.5], [np.nan]], [[np.nan]]])
def test_a_single_model_is_not_best(scores: Any) -> None:
    assert best(models(scores), Known(0.1)) == ranking.BestOfColumn()


def test_without_differences_there_are_no_groups() -> None:
    places = ranking.rank_models(models([[0.9], [0.5]]), PairedComparisons())
    assert [place.group for place in places] == [None, None]
    assert [place.average_rank for place in places] == [1.0, 2.0]


def test_a_model_without_measurements_has_no_standing() -> None:
    (place,) = ranking.rank_models(models([[np.nan]]), PairedComparisons())
    assert (place.mean, place.borda, place.datasets, place.group) == (None, 0.0, 0, None)
    assert ranking.rank_models([], PairedComparisons()) == []


def test_standings_do_not_depend_on_the_order_of_models() -> None:
    found = models([[0.9, 0.1], [0.5, 0.4], [0.7, 0.2], [0.6, 0.1]])
    expected = dict(zip("abcd", ranking.rank_models(found, Known(0.05))))
    for order in itertools.permutations(range(4)):
        places = ranking.rank_models([found[at] for at in order], Known(0.05))
        assert {"abcd"[at]: place for at, place in zip(order, places)} == expected


def test_the_same_scores_in_another_order_of_seeds_are_a_tie() -> None:
    """Sums of floating-point numbers depend on their order; means over seeds must not."""
    values = (0.1, 0.2, 0.3, 0.7)
    columns = [("d", "top1")]
    made = [[record("m", {"d": measured(value)}, seed=at) for at, value in enumerate(order)] for order in
            itertools.permutations(values)]  # fmt: skip
    assert len(set(ranking.scores(made, columns)[:, 0])) == 1
    assert len({sum(order) for order in itertools.permutations(values)}) > 1
