"""Data of the model pages: all records and results in columnar form, with every text stored once.

Numbers are integers in units of `protocols.UNIT`. Texts are indices into a list of texts. Hashes are cut to
`protocols.HEX` digits and concatenated into one string, with spaces for a missing hash.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from benchmark.analysis.means import mean_of_seeds
from benchmark.records.schema import Environment, Measured, NotMeasured, Record, ScorePart
from benchmark.reports.site.protocols import EXTREMES, HEX, Column, Protocol, column_of, measured, units

DIGITS = 3
"""Significant digits of seconds and of training diagnostics."""


class Texts:
    """Distinct texts in the order of their first use."""

    def __init__(self) -> None:
        self._indices: dict[str, int] = {}

    def index(self, text: str) -> int:
        """Return the index of a text, adding it if it is new."""
        return self._indices.setdefault(text, len(self._indices))

    def all(self) -> list[str]:
        """Return the texts, sorted by index."""
        return list(self._indices)


def details(protocols: Sequence[Protocol]) -> dict[str, Any]:
    """Return the records and results of every protocol, and the texts and lists of skip reasons they refer to."""
    texts, reasons = Texts(), Texts()
    found = [_protocol(protocol, texts, reasons) for protocol in protocols]
    return {"protocols": found, "reasons": [json.loads(text) for text in reasons.all()], "texts": texts.all()}


def _protocol(protocol: Protocol, texts: Texts, reasons: Texts) -> dict[str, Any]:
    rows = [(model, record) for model, model_records in protocol.records.items() for record in model_records]
    results: dict[Column, list[tuple[int, Measured]]] = {column: [] for column in protocol.columns}
    for row, (_, record) in enumerate(rows):
        for name, result in measured(record):
            results[column_of(name, result)].append((row, result))
    records = [record for _, record in rows]
    return {
        "models": [model for model, _ in rows],
        "seeds": [record.seed for record in records],
        "created": [texts.index(record.created.isoformat()) for record in records],
        "weights": _hashes(record.model.weights_sha256 for record in records),
        "content": _hashes(record.training.content_sha256 if record.training else None for record in records),
        "training": [texts.index(_training(record)) for record in records],
        "train": [_round(record.seconds.get("train")) for record in records],
        "seconds": [_round(_evaluation_seconds(record)) for record in records],
        "skipped": [reasons.index(_skipped(record, texts)) for record in records],
        "results": [_results(results[column], [model for model, _ in rows], texts) for column in protocol.columns],
    }


def _results(rows: Sequence[tuple[int, Measured]], model_of: Sequence[int], texts: Texts) -> dict[str, Any]:
    """Return the results of one column: the rows of their records, every score, predictions and environment.

    `model_of` has the model of each row.
    """
    results = [result for _, result in rows]
    owners = [model_of[row] for row, _ in rows]
    names = list(dict.fromkeys(name for result in results for name in result.scores))
    picked = EXTREMES & set(names)
    classes = list(dict.fromkeys(name for result in results for name in result.per_class)) if picked else []
    return {
        "rows": [row for row, _ in rows],
        "scores": {name: _scores([result.scores.get(name) for result in results], owners) for name in names},
        "classes": {name: _scores([result.per_class.get(name) for result in results], owners) for name in classes},
        "picked": {
            name: [texts.index(str(result.details.get(f"{name}_class", ""))) for result in results]
            for name in sorted(picked)
        },
        "predictions": _hashes(result.predictions.sha256 if result.predictions else None for result in results),
        "environment": [texts.index(_environment(result.environment)) for result in results],
    }


def _scores(parts: Sequence[ScorePart | None], owners: Sequence[int]) -> dict[str, Any]:
    """Return one score of every record. `low`, `high` are distances from it; `n` is a number if all are equal.

    `means` is model -> mean and interval, for models with several seeds.
    """
    sizes = {part.n for part in parts if part}
    values = [part and (units(part.value), units(part.low), units(part.high)) for part in parts]
    return {
        "value": [each and each[0] for each in values],
        "low": [each and each[0] - each[1] for each in values],
        "high": [each and each[2] - each[0] for each in values],
        "means": _means(parts, owners),
        "n": sizes.pop() if len(sizes) == 1 else [part and part.n for part in parts],
    }


def _means(parts: Sequence[ScorePart | None], owners: Sequence[int]) -> dict[int, list[int]]:
    of_model: dict[int, list[ScorePart]] = {}
    for owner, part in zip(owners, parts, strict=True):
        if part:
            of_model.setdefault(owner, []).append(part)
    means = {owner: mean_of_seeds(found) for owner, found in of_model.items() if len(found) > 1}
    return {
        owner: [units(value) for value in (mean.value, mean.low, mean.high, mean.half)] for owner, mean in means.items()
    }


def _hashes(hashes: Iterable[str | None]) -> str:
    return "".join((sha256 or "")[:HEX].ljust(HEX) for sha256 in hashes)


def _skipped(record: Record, texts: Texts) -> str:
    skips = {name: result.skipped for name, result in record.results.items() if isinstance(result, NotMeasured)}
    return json.dumps([[texts.index(name), texts.index(reason)] for name, reason in sorted(skips.items())])


def _training(record: Record) -> str:
    """Return the training diagnostics of a record, and the checkpoints that training started from."""
    if record.training is None:
        return ""
    health = [f"{name} {value:.{DIGITS}g}" for name, value in sorted(record.training.health.items())]
    if record.training.spikes is not None:
        worst = record.training.worst_spike
        health.append(f"spikes {record.training.spikes}" + ("" if worst is None else f", the highest at step {worst}"))
    parents = [f"from {name} {sha256[:HEX]}" for name, sha256 in sorted(record.training.parents.items())]
    return "; ".join((*health, *parents))


def _environment(environment: Environment) -> str:
    packages = [f"{name} {version}" for name, version in sorted(environment.packages.items())]
    commit = "no commit"
    if environment.commit is not None:
        commit = f"commit {environment.commit[:HEX]}{' with changes' if environment.dirty else ''}"
    return "; ".join((commit, environment.device, f"Python {environment.python}", *packages, environment.platform))


def _evaluation_seconds(record: Record) -> float | None:
    parts = [seconds for name, seconds in sorted(record.seconds.items()) if name != "train"]
    return sum(parts) if parts else None


def _round(seconds: float | None) -> float | None:
    return None if seconds is None else float(f"{seconds:.{DIGITS}g}")
