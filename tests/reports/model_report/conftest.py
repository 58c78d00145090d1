"""Reports on records, the cells of their tables, and predictions of classes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.analysis.paired import PairedComparisons
from benchmark.interfaces import DatasetScores, Skipped
from benchmark.records import predictions, store
from benchmark.records.schema import Record
from benchmark.reports.inputs import ReportInputs
from benchmark.reports.model_report.document import Part, Report, Section
from benchmark.reports.model_report.report import report
from tests.reports.tables.conftest import ADAMW, measured, record

__all__ = ["ADAMW", "measured", "record"]


def made(
    records: Sequence[Record],
    name: str,
    against: str | None = None,
    pairs: PairedComparisons | None = None,
    **changes: Any,
) -> Report:
    """Return the report on a model of these records, without published numbers unless `changes` has some."""
    inputs = ReportInputs(records, pairs or PairedComparisons(), **changes)
    return report(inputs, name, against, lambda _repo, _revision: None)


def section(of: Report, title: str) -> Section:
    """Return the section with a title."""
    (found,) = [each for each in of.sections if each.title == title]
    return found


def part(of: Section, title: str) -> Part:
    """Return the part of a section whose table has a title."""
    (found,) = [each for each in of.parts if each.table.title == title]
    return found


def lines(of: Section, title: str) -> list[dict[str, str]]:
    """Return the rows of a table, each by column."""
    table = part(of, title).table
    return [dict(zip(table.columns, (cell.text for cell in row), strict=True)) for row in table.rows]


def with_predictions(out: Path, one: Record, columns: Mapping[str, np.ndarray], dataset: str = "digits") -> Record:
    """Write predictions of a record below `out` and return the record that names them."""
    folder = out / "predictions" / store.relative_path(one).with_suffix("")
    stored = predictions.write(folder / f"{dataset}.parquet", columns)
    result = one.results[dataset].model_copy(update={"predictions": stored})
    return one.model_copy(update={"results": {**one.results, dataset: result}})


def everywhere(scores: Mapping[str, DatasetScores | Skipped], **changes: Any) -> list[Record]:
    """Return a model `a`, raw pixels and an encoder with random weights that all have these scores."""
    from benchmark.interfaces import Pretrained

    pixels = Pretrained("pixels:16", "pixels-16", {"image_size": 16, "library": "pixels"})
    return [
        record("a", scores, **changes),
        record("untrained", scores, **changes),
        record("pixels", scores, origin=pixels, **changes),
    ]
