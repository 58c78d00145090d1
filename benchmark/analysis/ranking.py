"""Rankings of models under one protocol: mean, average rank, Borda count, and groups without significant differences.

Mean and average rank: only for complete models, which were measured on every dataset; nothing is imputed. Ranks are
counted among complete models, so that a model with a missing dataset changes no other model's rank.

Borda count: on each dataset a model gets one point for every measured model with a lower score and half a point for
every equal one. It needs neither a common scale nor complete models.

Groups: complete models are sorted by mean. A group contains its first model and those after it that are not
significantly different from the first (`paired`); the next model starts a new group. Two models of adjacent groups may
therefore not differ significantly from each other. There is no correction for multiple comparisons. A model whose
difference from the first of the group is unknown has no group and starts none.

Shapes: M models, C columns (a dataset and a score), S seeds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Generic, TypeVar

import numpy as np

from benchmark.analysis.means import Column, Mean, mean_of_columns, score_parts
from benchmark.analysis.paired import PairedComparisons
from benchmark.records.schema import Measured, Record

Model = TypeVar("Model")
SeedRecords = Sequence[Record]
"""Records of one model under one protocol, one per seed."""


@dataclass(frozen=True)
class Standing:
    """The standing of one model among others under one protocol.

    Mean, average rank and group are None if the model lacks a dataset.
    """

    mean: Mean | None
    """Mean of the main scores with its 95 % interval over samples and seeds."""
    average_rank: float | None
    """Average rank over datasets among complete models. 1 is best; equal models share the mean of their ranks."""
    borda: float
    """Borda count over all datasets."""
    datasets: int
    """Number of datasets that the model was measured on."""
    group: int | None
    """Number of the model's group, 1 for the best mean. Also None if the difference from the first is unknown."""


@dataclass(frozen=True)
class BestOfColumn(Generic[Model]):
    """The best models of a column."""

    winner: Model | None = None
    """The model with the highest mean, if it is significantly better than every other."""
    tied: tuple[Model, ...] = ()
    """The model with the highest mean and those not significantly worse, in the order given. Empty with a winner."""
    unknown: bool = False
    """True if some difference from the highest mean is unknown; then there is neither a winner nor a tie."""


def main_scores(models: Sequence[SeedRecords]) -> list[Column]:
    """Return the main score of every dataset that some model was measured on, sorted by name."""
    found = {
        name: result.main
        for records in models
        for record in records
        for name, result in record.results.items()
        if isinstance(result, Measured)
    }
    return sorted(found.items())


def best_of_column(
    models: Sequence[Model], records_of: Callable[[Model], SeedRecords], column: Column, pairs: PairedComparisons
) -> BestOfColumn[Model]:
    """Return the winner of a column or the models tied for it; neither if fewer than two models have a score.

    Args:
        models: the models.
        records_of: function that returns the records of a model.
        column: dataset and score.
        pairs: paired differences.
    """
    return best_of_mean(models, records_of, [column], pairs)


def best_of_mean(
    models: Sequence[Model],
    records_of: Callable[[Model], SeedRecords],
    columns: Sequence[Column],
    pairs: PairedComparisons,
) -> BestOfColumn[Model]:
    """Return the winner by the mean over columns or the models tied for it, among those that have all columns.

    Args:
        models: the models.
        records_of: function that returns the records of a model.
        columns: datasets and scores.
        pairs: paired differences.
    """
    seeds = [records_of(model) for model in models]
    score_M = scores(seeds, columns).mean(axis=1)
    scored = [at for at in range(len(models)) if not np.isnan(score_M[at])]
    if len(scored) < 2:
        return BestOfColumn()
    best = max(scored, key=lambda at: float(score_M[at]))
    differences = {at: pairs.difference(seeds[best], seeds[at], columns) for at in scored if at != best}
    if None in differences.values():
        return BestOfColumn(unknown=True)
    tied = [at for at, difference in differences.items() if difference and not difference.significant]
    return BestOfColumn(tied=tuple(models[at] for at in sorted((best, *tied)))) if tied else BestOfColumn(models[best])


def rank_models(models: Sequence[SeedRecords], pairs: PairedComparisons) -> list[Standing]:
    """Return the standing of each model, in the order given."""
    columns = main_scores(models)
    if not columns:
        return [Standing(None, None, 0.0, 0, None) for _ in models]
    score_MC = scores(models, columns)
    borda_M = borda(score_MC)
    complete = [at for at in range(len(models)) if not np.isnan(score_MC[at]).any()]
    rank_of = dict(zip(complete, ranks(score_MC[complete]).mean(axis=1)))
    group_of = dict(zip(complete, groups([models[at] for at in complete], columns, pairs)))
    return [
        Standing(
            mean=mean_of_columns(records, columns) if at in group_of else None,
            average_rank=float(rank_of[at]) if at in group_of else None,
            borda=float(borda_M[at]),
            datasets=int((~np.isnan(score_MC[at])).sum()),
            group=group_of.get(at),
        )
        for at, records in enumerate(models)
    ]


def scores(models: Sequence[SeedRecords], columns: Sequence[Column]) -> np.ndarray:
    """Return the mean over seeds of each model's score in each column (M, C); NaN where no seed has a score."""

    def mean(records: SeedRecords, dataset: str, score: str) -> float:
        values = [part.value for part in score_parts(records, dataset, score)]
        return fmean(values) if values else np.nan

    return np.array([[mean(records, *column) for column in columns] for records in models]).reshape(
        len(models), len(columns)
    )


def ranks(score_MC: np.ndarray) -> np.ndarray:
    """Return the rank in each column (M, C). 1 is the highest score; equal scores share a mean rank; NaN stays NaN."""
    measured_MC = ~np.isnan(score_MC)
    return np.where(measured_MC, measured_MC.sum(axis=0) - _borda_points(score_MC), np.nan)


def borda(score_MC: np.ndarray) -> np.ndarray:
    """Return the Borda count of each model (M,): one point per lower score in a column, half a point per equal one."""
    return _borda_points(score_MC).sum(axis=1)


def _borda_points(score_MC: np.ndarray) -> np.ndarray:
    """Return the Borda points in each column (M, C); zero where nothing was measured."""
    below_MMC = (score_MC[:, None] > score_MC[None]) + 0.5 * (score_MC[:, None] == score_MC[None])
    return below_MMC.sum(axis=1) - 0.5 * ~np.isnan(score_MC)


def groups(models: Sequence[SeedRecords], columns: Sequence[Column], pairs: PairedComparisons) -> list[int | None]:
    """Return the group of each model by its mean over `columns`; all models must have all columns.

    The first group starts with the best model that has any known difference from a lower one.
    """
    if not models or not columns:
        return [None] * len(models)
    if len(models) == 1:
        return [1]
    group_of: list[int | None] = [None] * len(models)
    order = [int(at) for at in np.argsort(-scores(models, columns).mean(axis=1), kind="stable")]
    for below, best in enumerate(order, start=1):
        leader, group = best, 1
        for at in order[below:]:
            difference = pairs.difference(models[leader], models[at], columns)
            if difference is None:
                continue
            if difference.significant:
                leader, group = at, group + 1
            group_of[best], group_of[at] = 1, group
        if group_of[best]:
            break
    return group_of
