"""Differences of a model from another one, paired by sample, and corrected for their number."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from benchmark.analysis.compare import Difference
from benchmark.analysis.experiments import main_differences
from benchmark.analysis.paired import Interval, PairedComparisons, holm
from benchmark.errors import UserError
from benchmark.records.schema import Record
from benchmark.reports.model_report.document import Part, Section, as_table
from benchmark.reports.model_report.subject import Subject

LEVEL = 0.05
TEST = (
    "Differences of the main scores in percentage points, paired by sample. CI: over samples and seeds, not corrected. "
    "p is corrected for the number of differences (Holm): better and worse mean that it is below 0.05."
)
COLUMNS = ("dataset", "this model", "other", "difference", "95 % interval", "p", "")
ONE_SEED = " With one seed, the interval is over samples only and does not cover other seeds."


def differences(subject: Subject, other: Sequence[Record], pairs: PairedComparisons) -> Section:
    """Return the differences from another model: the records of its newest version.

    Raises:
        UserError: no difference is known.
    """
    order = [each.title for each in subject.evaluated]
    found = sorted(main_differences(subject.model.records, other, pairs), key=lambda each: order.index(_title(each)))
    name = other[0].experiment.name
    known = [(each, each.interval) for each in found if each.interval]
    if not known:
        raise UserError(
            f"{subject.model.name} and {name} have no evaluation in common that both have predictions of; evaluate "
            "both with the same preset, and keep the predictions next to the records"
        )
    corrected = holm([interval.p for _, interval in known])
    tested = [(each, interval, p) for (each, interval), p in zip(known, corrected, strict=True)]
    parts = [
        Part(as_table(title, COLUMNS, _rows(list(group))))
        for title, group in groupby(tested, lambda test: _title(test[0]))
    ]
    facts = [(verdict, "; ".join(_names(tested, verdict)) or "none") for verdict in ("better", "worse")]
    if unknown := [f"{each.evaluation} on {each.dataset}" for each in found if each.interval is None]:
        facts.append(("not compared, without predictions or on other samples", "; ".join(unknown)))
    one_seed = any(len({record.seed for record in records}) == 1 for records in (subject.model.records, other))
    return Section(f"Against {name}", TEST + (ONE_SEED if one_seed else ""), tuple(facts), tuple(parts))


Test = tuple[Difference, Interval, float]
"""A difference, its interval, and its corrected p-value."""


def _title(each: Difference) -> str:
    return f"{each.evaluation} ({each.preset})"


def _rows(tested: Sequence[Test]) -> Iterator[tuple[str, ...]]:
    for each, interval, p in tested:
        yield (
            each.dataset,
            f"{100 * each.first:.1f}",
            f"{100 * each.second:.1f}",
            f"{100 * interval.difference:+.1f}",
            f"{100 * interval.low:+.1f} to {100 * interval.high:+.1f}",
            f"{p:.2g}",
            _verdict(interval, p),
        )


def _names(tested: Sequence[Test], verdict: str) -> list[str]:
    """Return where the model has this verdict."""
    return [
        f"{each.evaluation} on {each.dataset} {100 * interval.difference:+.1f}"
        for each, interval, p in tested
        if _verdict(interval, p) == verdict
    ]


def _verdict(interval: Interval, p: float) -> str:
    if p >= LEVEL:
        return ""
    return "better" if interval.difference > 0 else "worse"
