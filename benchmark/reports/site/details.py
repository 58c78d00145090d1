"""Protocols -> all that the page of a model shows of its records, in columns, with every text once.

Legend: numbers are integers in units of `protocols.UNIT`; texts are indices into a list of texts; hashes are cut to
`protocols.HEX` digits and stand behind one another in one text, a missing one as blanks.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from benchmark.records.schema import Environment, Measured, NotMeasured, Record, ScorePart
from benchmark.reports.site.protocols import EXTREMES, HEX, Column, Protocol, column_of, measured, units

DIGITS = 3
"""Significant digits of seconds and of what training tells of itself."""


class Texts:
    """Texts in the order they are first needed, each once."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    def place(self, text: str) -> int:
        """The index of a text."""
        return self._places.setdefault(text, len(self._places))

    def all(self) -> list[str]:
        """By their indices."""
        return list(self._places)


def details(protocols: Sequence[Protocol]) -> dict[str, Any]:
    """The records and results of every protocol, and the texts and lists of reasons they point to."""
    texts, reasons = Texts(), Texts()
    found = [_protocol(protocol, texts, reasons) for protocol in protocols]
    return {"protocols": found, "reasons": [json.loads(text) for text in reasons.all()], "texts": texts.all()}


def _protocol(protocol: Protocol, texts: Texts, reasons: Texts) -> dict[str, Any]:
    rows = [(model, record) for model, own in protocol.records.items() for record in own]
    results: dict[Column, list[tuple[int, Measured]]] = {column: [] for column in protocol.columns}
    for row, (_, record) in enumerate(rows):
        for name, result in measured(record):
            results[column_of(name, result)].append((row, result))
    records = [record for _, record in rows]
    return {
        "models": [model for model, _ in rows],
        "seeds": [record.seed for record in records],
        "created": [texts.place(record.created.isoformat()) for record in records],
        "weights": _hashes(record.model.weights_sha256 for record in records),
        "content": _hashes(record.training.content_sha256 if record.training else None for record in records),
        "training": [texts.place(_training(record)) for record in records],
        "train": [_rounded(record.seconds.get("train")) for record in records],
        "seconds": [_rounded(_evaluating(record)) for record in records],
        "skipped": [reasons.place(_skipped(record, texts)) for record in records],
        "results": [_results(results[column], texts) for column in protocol.columns],
    }


def _results(found: Sequence[tuple[int, Measured]], texts: Texts) -> dict[str, Any]:
    """The results of one column: the rows of their records, every score, and where they come from."""
    results = [result for _, result in found]
    names = list(dict.fromkeys(name for result in results for name in result.scores))
    picked = EXTREMES & set(names)
    classes = list(dict.fromkeys(name for result in results for name in result.per_class)) if picked else []
    return {
        "rows": [row for row, _ in found],
        "scores": {name: _scores([result.scores.get(name) for result in results]) for name in names},
        "classes": {name: _scores([result.per_class.get(name) for result in results]) for name in classes},
        "picked": {
            name: [texts.place(str(result.details.get(f"{name}_class", ""))) for result in results]
            for name in sorted(picked)
        },
        "predictions": _hashes(result.predictions.sha256 if result.predictions else None for result in results),
        "environment": [texts.place(_environment(result.environment)) for result in results],
    }


def _scores(parts: Sequence[ScorePart | None]) -> dict[str, Any]:
    """A score of every record; the ends of the interval as their distances from the value, one n if all have it."""
    sizes = {part.n for part in parts if part}
    found = [part and (units(part.value), units(part.low), units(part.high)) for part in parts]
    return {
        "value": [each and each[0] for each in found],
        "low": [each and each[0] - each[1] for each in found],
        "high": [each and each[2] - each[0] for each in found],
        "n": sizes.pop() if len(sizes) == 1 else [part and part.n for part in parts],
    }


def _hashes(found: Iterable[str | None]) -> str:
    return "".join((sha256 or "")[:HEX].ljust(HEX) for sha256 in found)


def _skipped(record: Record, texts: Texts) -> str:
    skips = {name: result.skipped for name, result in record.results.items() if isinstance(result, NotMeasured)}
    return json.dumps([[texts.place(name), texts.place(reason)] for name, reason in sorted(skips.items())])


def _training(record: Record) -> str:
    """What training told of itself, and what it was made from."""
    if record.training is None:
        return ""
    health = [f"{name} {value:.{DIGITS}g}" for name, value in sorted(record.training.health.items())]
    if record.training.spikes is not None:
        worst = record.training.worst_spike
        health.append(f"spikes {record.training.spikes}" + ("" if worst is None else f", the highest at step {worst}"))
    parents = [f"from {name} {sha256[:HEX]}" for name, sha256 in sorted(record.training.parents.items())]
    return "; ".join((*health, *parents))


def _environment(of: Environment) -> str:
    packages = [f"{name} {version}" for name, version in sorted(of.packages.items())]
    commit = "no commit" if of.commit is None else f"commit {of.commit[:HEX]}{' with changes' if of.dirty else ''}"
    return "; ".join((commit, of.device, f"Python {of.python}", *packages, of.platform))


def _evaluating(record: Record) -> float | None:
    parts = [seconds for name, seconds in sorted(record.seconds.items()) if name != "train"]
    return sum(parts) if parts else None


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else float(f"{seconds:.{DIGITS}g}")
