"""Reasons for the datasets that an evaluation was not asked to measure, so that every record has its whole preset."""

from pathlib import Path

from benchmark import evaluations
from benchmark.errors import SkipCode
from benchmark.files import lock
from benchmark.records import store
from benchmark.records.schema import NotMeasured

NOT_REQUESTED = NotMeasured(skipped="not requested", code=SkipCode.NOT_REQUESTED)


def add_reasons(records: Path, key: str, evaluation: str, preset: str) -> None:
    """Add to a record the datasets of its preset that it lacks, as not requested; a missing record stays missing.

    Args:
        records: folder of records.
        key: the model's folder (see `Record.key`).
        evaluation: name of the evaluation.
        preset: name of its preset.
    """
    path = store.record_path(records, key, evaluation, preset)
    names = evaluations.presets(evaluation)[preset].datasets
    if not path.exists() or set(names) <= store.read(path).results.keys():
        return
    with lock(path):
        record = store.read(path)
        results = dict(sorted((dict.fromkeys(names, NOT_REQUESTED) | record.results).items()))
        store.write(record.model_copy(update={"results": results}), records)
