"""Records for pages, pages of records, and what is in a page."""

import base64
import dataclasses
import json
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmark.errors import SkipCode
from benchmark.interfaces import DatasetIdentity, DatasetScores, Score, Skipped
from benchmark.pairs import Column, Interval, Pairs
from benchmark.record import Record
from benchmark.site.models import Source
from benchmark.site.page import Page, page
from tests.tables.conftest import Knobs, measured, record

__all__ = ["Knobs", "measured", "record"]

HOSTILE = {
    "script": "<script>alert(1)</script>",
    "end": "</script><!-- ]]> --><img src=x onerror=alert(1)>",
    "quotes": "\"'`&amp;<b>${1}</b>",
    "turned": "\u202egpj.exe\u2066",
    "controls": "a\x01\x08\x1f\x7fb\nc",
    "long": "x" * 10_000,
    "unbroken": "<" * 300,
}
"""Kind -> what a text of a record may hold."""
NO_TEXT = Skipped("no text tower, so no zero-shot classification", SkipCode.NO_TEXT_TOWER)


class Apart(Pairs):
    """Differences of which only those above `least` are told apart; every one is known unless `known` is False."""

    def __init__(self, least: float = 0.02, known: bool = True) -> None:
        super().__init__()
        self.least, self.known, self.asked = least, known, 0

    def difference(
        self, first: Sequence[Record], second: Sequence[Record], columns: Sequence[Column]
    ) -> Interval | None:
        self.asked += 1
        if not self.known:
            return None
        apart = sum(_mean(first, *column) - _mean(second, *column) for column in columns) / len(columns)
        return Interval(apart, apart - self.least, apart + self.least)


def _mean(records: Sequence[Record], dataset: str, score: str) -> float:
    values = [r.results[dataset].scores[score].value for r in records if hasattr(r.results.get(dataset), "scores")]
    return sum(values) / len(values)


def on(name: str, value: float, half: float = 0.02, **identity: Any) -> DatasetScores:
    """A score on a dataset of that name."""
    of = dataclasses.replace(DatasetIdentity(f"org/{name}", "1" * 40, "test", 360, "b" * 64), **identity)
    return measured(value, half, dataset=of)


def grouped(values: Mapping[str, float], n: int = 100) -> DatasetScores:
    """Recall of groups: mean, best and worst."""
    recalls = {name: Score(value, n, max(value - 0.1, 0), min(value + 0.1, 1)) for name, value in values.items()}
    mean = sum(values.values()) / len(values)
    scores = {
        "mean": Score(mean, n * len(values), mean - 0.01, mean + 0.01),
        "best": max(recalls.values(), key=lambda score: score.value),
        "worst": min(recalls.values(), key=lambda score: score.value),
    }
    names = sorted(values, key=lambda name: values[name])
    return on("faces", 0.5) if not values else dataclasses.replace(
        on("faces", 0.5), scores=scores, per_class=recalls, details={"best_class": names[-1], "worst_class": names[0]}
    )  # fmt: skip


def few() -> list[Record]:
    """Five models on three datasets, made so that texts, missing values and ties sort otherwise than numbers."""
    views = {"ann": 900, "bob": 18_000, "cid": 6_000_000, "dan": 40_000, "eve": 40_000}
    digits = {"ann": (0.09, 0.11), "bob": (0.095,), "cid": (1.0, 0.99, 0.98), "dan": (0.5, 0.5), "eve": ()}
    found = []
    for name, values in digits.items():
        for seed, value in enumerate(values or (None,)):
            scores = {
                "digits": Skipped("the disk was full", SkipCode.FAILED) if value is None else on("digits", value),
                "colours": on("colours", 0.4 + len(name) / 100 + seed / 100),
            }
            found.append(record(name, scores, seed=seed, views=views[name]))
        text = {"faces": grouped({"young": 0.2, "old": 0.7, "other": 0.5}) if name in {"ann", "cid"} else NO_TEXT}
        found.append(record(name, text, evaluation="fairface", views=views[name]))
    return found


def sources(repo: str, revision: str) -> Source | None:
    """What is known of the datasets of these records."""
    return Source(2_000, real="real" in repo) if revision == "1.0" else None


def made(records: Iterable[Record], pairs: Pairs | None = None, url: str | None = "../records") -> Page:
    """A page of records."""
    return page(records, pairs or Apart(), sources, url)


def renamed(one: Record, name: str, **changes: Any) -> Record:
    """A record under another name; no rule is checked, so that any text can be tried."""
    experiment = one.experiment.model_copy(update={"name": name, **changes})
    return one.model_copy(update={"experiment": experiment})


def hostile() -> list[Record]:
    """A model for each hostile text, which stands wherever a record has a text."""
    found = []
    for kind, text in HOSTILE.items():
        scores = {
            text: on("digits", 0.5, repo=text, revision=text, split=text),
            "absent": Skipped(text, SkipCode.FAILED),
        }
        one = record(kind, scores)
        declared = one.experiment.declaration.model_copy(update={"dataset": text, "revision": text})
        one = renamed(one, f"folder/{text}", method=text, declaration=declared)
        assert one.training is not None
        found.append(
            one.model_copy(
                update={
                    "training": one.training.model_copy(update={"repo": text, "revision": text}),
                    "evaluation": one.evaluation.model_copy(update={"preset": text}),
                    "model": one.model.model_copy(update={"layer": text, "precision": text}),
                }
            )
        )
    return found


def data(html: str, name: str = "shown") -> dict[str, Any]:
    """What a page holds: `shown` or `more`."""
    (packed,) = re.findall(rf'<script type="text/plain" id="{name}">([^<]*)</script>', html)
    content: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(packed)))
    return content
