"""Scores of a model in memory, as a table, and the paired differences of two of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import pandas as pd  # type: ignore[import-untyped]

from benchmark.analysis.compare import Difference, differences_on
from benchmark.errors import UserError, unknown
from benchmark.interfaces import DatasetScores, Evaluation, Score


@dataclass(frozen=True, repr=False)
class Evaluated:
    """Scores of a model under one evaluation. It is shown as a table; `scores["digits"]` is the main score."""

    experiment: str
    """Name of the model, as in records."""
    evaluation: str
    protocol: Evaluation
    """Settings of the evaluation, with its `preset`."""
    results: Mapping[str, DatasetScores]
    """Dataset -> all scores, chance level, scores of classes, details and predictions."""
    skipped: Mapping[str, str]
    """Dataset -> why it was not measured."""

    def __getitem__(self, dataset: str) -> Score:
        """Return the main score of a dataset: `value`, its 95 % interval from `low` to `high`, and sample size `n`."""
        if dataset not in self.results:
            raise unknown("dataset of these scores", dataset, list(self.results))
        return next(iter(self.results[dataset].scores.values()))

    def to_frame(self) -> pd.DataFrame:
        """Return a row per dataset and score, the main score first; the columns are some of `read_records`."""
        rows = []
        for dataset, result in self.results.items():
            for number, (name, score) in enumerate(result.scores.items()):
                names = (self.experiment, self.evaluation, self.protocol.preset, dataset, name)
                rows.append((*names, number == 0, score.value, score.low, score.high, score.n, result.chance))
        columns = "experiment evaluation preset dataset score is_main value low high n chance"
        return pd.DataFrame(rows, columns=columns.split())

    def __repr__(self) -> str:
        shown = ["dataset", "score", "value", "low", "high", "n", "chance"]
        scores = self.to_frame().to_string(columns=shown, index=False)
        return f"{self.evaluation}, {self.protocol.preset}: {self.experiment}\n{scores}"

    def _repr_html_(self) -> str:
        return str(self.to_frame().to_html())


def differences(first: Evaluated, second: Evaluated) -> Iterator[Difference]:
    """Yield the difference of every score on the datasets that both models were evaluated on.

    Raises:
        UserError: the protocols or samples differ, or there is no dataset in common.
    """
    name = first.evaluation
    if first.protocol != replace(second.protocol, datasets=first.protocol.datasets):
        both = " and ".join(f"{each.evaluation}.{each.protocol.preset}" for each in (first, second))
        raise UserError(f"expected scores of one protocol, found {both}; evaluate both with the same preset")
    common = [dataset for dataset in first.results if dataset in second.results]
    if not common:
        raise UserError(f"{name}: the models have no dataset in common; evaluate both on the same datasets")
    for dataset in common:
        a, b = first.results[dataset], second.results[dataset]
        if a.dataset != b.dataset:
            raise UserError(f"{name}: the models were measured on different samples of {dataset}; evaluate both again")
        yield from differences_on(name, first.protocol, dataset, a.predictions, b.predictions)
