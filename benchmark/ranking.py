"""Models on one protocol of an evaluation, in an order: mean, average rank, Borda count, and who is told apart.

The mean and the average rank are those of models that were measured on every dataset; nothing is filled in. A Borda
count asks for no common scale: on each dataset a model gets a point for every measured model below it, and half a
point for an equal one. Groups: in the order of the mean, all models that a paired interval (`benchmark.pairs`) does not
tell apart from the first of a group belong to it, and the next one begins another. So two models of neighbouring
groups need not be told apart themselves, and there is no correction for the number of comparisons.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from benchmark.pairs import Column, Pairs
from benchmark.record import Measured, Record

Seeds = Sequence[Record]
"""One model's records of one protocol, a record per seed."""


@dataclass(frozen=True)
class Place:
    """Where a model stands among others on the datasets of one protocol; None where a dataset is missing."""

    mean: float | None
    """Of the main scores, as a fraction of one."""
    spread: float | None
    """Sample standard deviation of the mean over seeds; with one seed half of its 95 % interval over samples."""
    average_rank: float | None
    """1 is best; equal models share the mean of their places."""
    borda: float
    datasets: int
    """Measured, of those that any model was measured on."""
    group: int | None
    """1 holds the best mean; None also where the differences are not known."""


def main_scores(models: Sequence[Seeds]) -> list[Column]:
    """The main score of every dataset that some model was measured on, in the order of their names."""
    found = {
        name: result.main
        for records in models
        for record in records
        for name, result in record.results.items()
        if isinstance(result, Measured)
    }
    return sorted(found.items())


def places(models: Sequence[Seeds], pairs: Pairs) -> list[Place]:
    """The place of each model, in the order given."""
    columns = main_scores(models)
    if not columns:
        return [Place(None, None, None, 0.0, 0, None) for _ in models]
    score_MC = scores(models, columns)
    mean_M, rank_M, borda_M = score_MC.mean(axis=1), ranks(score_MC).mean(axis=1), borda(score_MC)
    complete = [at for at in range(len(models)) if not np.isnan(score_MC[at]).any()]
    group_of = dict(zip(complete, groups([models[at] for at in complete], columns, pairs)))
    return [
        Place(
            mean=float(mean_M[at]) if at in group_of else None,
            spread=_spread(records, columns) if at in group_of else None,
            average_rank=float(rank_M[at]) if at in group_of else None,
            borda=float(borda_M[at]),
            datasets=int((~np.isnan(score_MC[at])).sum()),
            group=group_of.get(at),
        )
        for at, records in enumerate(models)
    ]


def _spread(records: Seeds, columns: Sequence[Column]) -> float:
    of_seed_S = scores([[record] for record in records], columns).mean(axis=1)
    whole_S = of_seed_S[~np.isnan(of_seed_S)]
    if len(whole_S) > 1:
        return float(whole_S.std(ddof=1))
    found = [(r, score) for record in records for name, score in columns if (r := record.results.get(name))]
    parts = [r.scores[score] for r, score in found if isinstance(r, Measured)]
    return float(np.sqrt(sum(((part.high - part.low) / 2) ** 2 for part in parts)) / len(parts))


def scores(models: Sequence[Seeds], columns: Sequence[Column]) -> np.ndarray:
    """Mean over the seeds that have it, for M models and C columns (M, C); NaN where there is none."""

    def mean(records: Seeds, dataset: str, score: str) -> float:
        results = (record.results.get(dataset) for record in records)
        found = [r.scores[score].value for r in results if isinstance(r, Measured) and score in r.scores]
        return fmean(found) if found else np.nan

    return np.array([[mean(records, *column) for column in columns] for records in models]).reshape(len(models), -1)


def ranks(score_MC: np.ndarray) -> np.ndarray:
    """The rank in each column (M, C), 1 the highest; equal scores share the mean of their ranks, NaN has none."""
    here_MC = ~np.isnan(score_MC)
    return np.where(here_MC, here_MC.sum(axis=0) - _points(score_MC), np.nan)


def borda(score_MC: np.ndarray) -> np.ndarray:
    """Points of each model (M,): a point for every measured model below it in a column, half a one for an equal one."""
    return _points(score_MC).sum(axis=1)


def _points(score_MC: np.ndarray) -> np.ndarray:
    """Borda points in each column (M, C); none where nothing was measured."""
    below_MMC = (score_MC[:, None] > score_MC[None]) + 0.5 * (score_MC[:, None] == score_MC[None])
    return below_MMC.sum(axis=1) - 0.5 * ~np.isnan(score_MC)


def groups(models: Sequence[Seeds], columns: Sequence[Column], pairs: Pairs) -> list[int | None]:
    """The group of each model by its mean over `columns`, on which all of them were measured."""
    if not models or not columns:
        return [None] * len(models)
    found: list[int | None] = [None] * len(models)
    order = np.argsort(-scores(models, columns).mean(axis=1), kind="stable")
    leader, group = int(order[0]), 1
    for at in map(int, order):
        if at != leader:
            apart = pairs.difference(models[leader], models[at], columns)
            if apart is None:
                return [None] * len(models)
            if apart.told_apart:
                leader, group = at, group + 1
        found[at] = group
    return found
