"""Models on one protocol of an evaluation, in an order: mean, average rank, Borda count, and who is told apart.

The mean and the average rank are those of complete models, which were measured on every dataset; nothing is filled in.
Ranks are counted among complete models only, so that a model with a gap moves the rank of nobody. A Borda count asks
for neither a common scale nor complete models: on each dataset a model gets a point for every measured model below it,
complete or not, and half a point for an equal one. Groups: in the order of the mean, all complete models that a paired
interval (`paired`) does not tell apart from the first of a group belong to it, and the next one begins
another. So two models of neighbouring groups need not be told apart themselves, and there is no correction for the
number of comparisons. A model whose difference to the first of the group is not known has no group, and begins none.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Generic, TypeVar

import numpy as np

from benchmark.analysis.paired import Column, PairedComparisons
from benchmark.records.schema import Measured, Record, ScorePart

Model = TypeVar("Model")
SeedRecords = Sequence[Record]
"""One model's records of one protocol, a record per seed."""


@dataclass(frozen=True)
class Standing:
    """Where a model stands among others on the datasets of one protocol; None where a dataset is missing."""

    mean: float | None
    """Of the main scores, as a fraction of one."""
    spread: float | None
    """Sample standard deviation of the mean over seeds; with one seed half of its 95 % interval over samples."""
    average_rank: float | None
    """1 is best, among those that have one; equal models share the mean of their places."""
    borda: float
    datasets: int
    """Measured, of those that any model was measured on."""
    group: int | None
    """1 holds the best mean; None also where its difference to the first of the group is not known."""


@dataclass(frozen=True)
class BestOfColumn(Generic[Model]):
    """The best models of a column."""

    winner: Model | None = None
    """The model with the highest mean, if it is significantly better than every other."""
    tied: tuple[Model, ...] = ()
    """Without a winner: the model with the highest mean and those not significantly worse, in the order given."""
    unknown: bool = False
    """Some difference to the highest mean is not known, so there is neither a winner nor a tie."""


def main_scores(models: Sequence[SeedRecords]) -> list[Column]:
    """The main score of every dataset that some model was measured on, in the order of their names."""
    found = {
        name: result.main
        for records in models
        for record in records
        for name, result in record.results.items()
        if isinstance(result, Measured)
    }
    return sorted(found.items())


def mean_and_spread(parts: Sequence[ScorePart]) -> tuple[float, float]:
    """Return the mean of one score per seed and its sample standard deviation, as fractions of one.

    With one seed the spread is half of the score's 95 % interval over samples.
    """
    values = [part.value for part in parts]
    return fmean(values), stdev(values) if len(values) > 1 else (parts[0].high - parts[0].low) / 2


def best_of_column(
    models: Sequence[Model], records_of: Callable[[Model], SeedRecords], column: Column, pairs: PairedComparisons
) -> BestOfColumn[Model]:
    """Return the models with the best score; neither a winner nor a tie where fewer than two have one."""
    seeds = [records_of(model) for model in models]
    score_M = scores(seeds, [column])[:, 0]
    scored = [at for at in range(len(models)) if not np.isnan(score_M[at])]
    if len(scored) < 2:
        return BestOfColumn()
    best = max(scored, key=lambda at: float(score_M[at]))
    differences = {at: pairs.difference(seeds[best], seeds[at], [column]) for at in scored if at != best}
    if None in differences.values():
        return BestOfColumn(unknown=True)
    level = [at for at, difference in differences.items() if difference and not difference.significant]
    return (
        BestOfColumn(tied=tuple(models[at] for at in sorted((best, *level)))) if level else BestOfColumn(models[best])
    )


def rank_models(models: Sequence[SeedRecords], pairs: PairedComparisons) -> list[Standing]:
    """The place of each model, in the order given."""
    columns = main_scores(models)
    if not columns:
        return [Standing(None, None, None, 0.0, 0, None) for _ in models]
    score_MC = scores(models, columns)
    mean_M, borda_M = score_MC.mean(axis=1), borda(score_MC)
    complete = [at for at in range(len(models)) if not np.isnan(score_MC[at]).any()]
    rank_of = dict(zip(complete, ranks(score_MC[complete]).mean(axis=1)))
    group_of = dict(zip(complete, groups([models[at] for at in complete], columns, pairs)))
    return [
        Standing(
            mean=float(mean_M[at]) if at in group_of else None,
            spread=_spread(records, columns) if at in group_of else None,
            average_rank=float(rank_of[at]) if at in group_of else None,
            borda=float(borda_M[at]),
            datasets=int((~np.isnan(score_MC[at])).sum()),
            group=group_of.get(at),
        )
        for at, records in enumerate(models)
    ]


def _spread(records: SeedRecords, columns: Sequence[Column]) -> float:
    of_seed_S = scores([[record] for record in records], columns).mean(axis=1)
    whole_S = of_seed_S[~np.isnan(of_seed_S)]
    if len(whole_S) > 1:
        return float(whole_S.std(ddof=1))
    found = [(r, score) for record in records for name, score in columns if (r := record.results.get(name))]
    parts = [r.scores[score] for r, score in found if isinstance(r, Measured)]
    return float(np.sqrt(sum(((part.high - part.low) / 2) ** 2 for part in parts)) / len(parts))


def scores(models: Sequence[SeedRecords], columns: Sequence[Column]) -> np.ndarray:
    """Mean over the seeds that have it, for M models and C columns (M, C); NaN where there is none."""

    def mean(records: SeedRecords, dataset: str, score: str) -> float:
        results = (record.results.get(dataset) for record in records)
        found = [r.scores[score].value for r in results if isinstance(r, Measured) and score in r.scores]
        return fmean(found) if found else np.nan

    return np.array([[mean(records, *column) for column in columns] for records in models]).reshape(
        len(models), len(columns)
    )


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


def groups(models: Sequence[SeedRecords], columns: Sequence[Column], pairs: PairedComparisons) -> list[int | None]:
    """The group of each model by its mean over `columns`, on which all of them were measured.

    The first group begins with the best model of which any difference to a lower one is known.
    """
    if not models or not columns:
        return [None] * len(models)
    if len(models) == 1:
        return [1]
    found: list[int | None] = [None] * len(models)
    order = [int(at) for at in np.argsort(-scores(models, columns).mean(axis=1), kind="stable")]
    for begun, first in enumerate(order, start=1):
        leader, group = first, 1
        for at in order[begun:]:
            apart = pairs.difference(models[leader], models[at], columns)
            if apart is None:
                continue
            if apart.significant:
                leader, group = at, group + 1
            found[first], found[at] = 1, group
        if found[first]:
            break
    return found
