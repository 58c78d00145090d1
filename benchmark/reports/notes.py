"""Notes of comparison tables: units, marks, floors, warnings, reasons for what is missing, and provenance."""

from collections.abc import Callable, Sequence
from typing import Any

from benchmark.analysis.ranking import BestOfColumn
from benchmark.errors import SkipCode
from benchmark.records.schema import Measured, Record, canonical_json
from benchmark.reports.rows import Run, dataset_names
from benchmark.reports.table import Fold

TEST_SELECTED = "TEST-SELECTED: the best of what was tried on the test split itself"


def missing_reason(run: Run, dataset: str) -> str:
    """Return the reason why a run has no score on a dataset; without a text tower, the same for every evaluation."""
    no_text = run.skip_codes(dataset) == {SkipCode.NO_TEXT_TOWER}
    return "no text tower" if no_text else run.missing_reason(dataset)


def left_out_footnotes(runs: Sequence[Run], datasets: Sequence[str]) -> list[str]:
    """Return one footnote for each reason for which runs have no score on any of the datasets.

    A run whose datasets have different reasons is named in all of their footnotes, with the datasets.
    """
    found: dict[str, list[str]] = {}
    for run in runs:
        reasons: dict[str, list[str]] = {}
        for name in datasets:
            reasons.setdefault(missing_reason(run, name), []).append(name)
        for reason, names in reasons.items():
            where = f" ({', '.join(names)})" if len(reasons) > 1 else ""
            found.setdefault(reason, []).append(f"{run.label}{where}")
    return [f"{reason[:1].upper()}{reason[1:]}: {', '.join(labels)}." for reason, labels in found.items()]


def unit_footnotes(runs: Sequence[Run]) -> list[str]:
    """Return footnotes on the unit of scores and on the values after ±."""
    names = dataset_names(runs)
    seeds = {len(run.measured(name)) for run in runs if not run.is_pixels for name in names} - {0}
    if not any(run.measured(name) for run in runs for name in names):
        return ["Scores in percent."]
    if max(seeds, default=0) < 2:
        lines = ["Scores in percent, ± half of the 95 % interval over test samples."]
    else:
        several = {run.seeds for run in runs if run.seeds > 1}
        count = f" ({several.pop()} of each)" if len(several) == 1 else ""
        lines = [f"Scores in percent, ± half of the 95 % interval over test samples and training seeds{count}."]
    if 1 in seeds:
        lines.append("A method with one seed: the interval is over samples only and does not cover other seeds.")
    return lines


def pixels_footnotes(runs: Sequence[Run]) -> list[str]:
    """Return a footnote on the rows of raw pixels, if there are any."""
    labels = [run.label for run in runs if run.is_pixels]
    if not labels:
        return []
    return [f"{', '.join(labels)}: the pixels of the image as features, the floor that an encoder must beat."]


def provenance(runs: Sequence[Run]) -> Fold:
    """Return a title, and lines on experiments, protocol, training, encoder, and the samples of each dataset."""
    first = runs[0].records[0].evaluation
    knobs = ", ".join(
        f"{name} {value}" for name, value in sorted(first.knobs.items()) if not isinstance(value, list | dict)
    )
    experiments = (f"{run.label} is {_experiment(run.records[0])}" for run in runs)
    lines = [
        f"Experiments: {'; '.join(experiments)}.",
        f"Protocol: evaluation {first.name}, version {first.version}, preset {first.preset}, hash {first.protocol[:12]}"
        + (f" ({knobs})." if knobs else "."),
    ]
    trained = [run for run in runs if run.records[0].model.views]
    if trained:
        data = _shared_value(trained, _training)
        views = _shared_value(trained, lambda record: f"{record.model.views:,} views")
        equal = len({record.model.views for run in trained for record in run.records}) == 1
        lines.append(f"Training: {views}{' for every trained method' if equal else ''}, on {data}.")
    lines.append(f"Encoder: {_shared_value(runs, lambda record: _format_settings(record.model.encoder))}.")
    for name in dataset_names(runs):
        found = [result for run in runs for result in run.measured(name)]
        if found:
            part = found[0].dataset
            lines.append(
                f"{name}: {found[0].main}, {part.repo} @ {part.revision[:12]}, split {part.split}, "
                f"{part.n:,} samples, ids {part.ids_sha256[:12]}."
            )
    return "Provenance", tuple(lines)


def _experiment(record: Record) -> str:
    return f"{record.experiment.name} version {record.experiment.version}"


def warning_footnotes(runs: Sequence[Run]) -> list[str]:
    """Return footnotes on scores that were selected on the test split or whose files are not those of a revision."""
    names = dataset_names(runs)
    selected = [name for name in names if any(is_test_selected(r) for run in runs for r in run.measured(name))]
    lines = [f"{TEST_SELECTED}: {', '.join(selected)}."] if selected else []
    return lines + _content_footnotes(runs, names)


def _content_footnotes(runs: Sequence[Run], names: Sequence[str]) -> list[str]:
    """Return footnotes on scores of files that are not known to be those of their revision, or that differ."""
    unverified, different = [], []
    for name in names:
        parts = [(run.label, result.dataset) for run in runs for result in run.measured(name)]
        if labels := dict.fromkeys(label for label, part in parts if part.provenance == "unverified"):
            unverified.append(f"{name} ({', '.join(labels)})")
        contents = {canonical_json(part.content_sha256) for _, part in parts if part.content_sha256}
        if len(contents) > 1:
            different.append(name)
    lines = []
    if unverified:
        lines.append(
            f"UNVERIFIED: the files were not those of the revision, or not known to be: {'; '.join(unverified)}."
        )
    if different:
        lines.append(f"DIFFERENT FILES: not all methods were measured on the same files of {', '.join(different)}.")
    return lines


def is_test_selected(result: Measured) -> bool:
    """Return True if the best of what was tried on the test split itself was selected."""
    return result.details.get("selected_on") == "test"


def _training(record: Record) -> str:
    source = record.training
    return f"{source.repo} @ {source.revision[:12]}" if source else "third-party data"


def unmeasured_notes(
    runs: Sequence[Run], datasets: Sequence[str]
) -> tuple[list[str], list[tuple[str, tuple[str, ...]]]]:
    """Return footnotes on datasets that no method was measured on, and what is folded: those that nobody tried."""
    reasons = {name: "; ".join(dict.fromkeys(run.missing_reason(name) for run in runs)) for name in datasets}
    lines, count, shared = (
        [],
        0,
        {SkipCode.MISSING_DATASET: "Not on the machine", SkipCode.NOT_REQUESTED: "Not requested"},
    )
    for code, words in shared.items():
        if found := [name for name in reasons if any(code in run.skip_codes(name) for run in runs)]:
            lines.append(f"{words}: {', '.join(found)}.")
            count += len(found)
            reasons = {name: reason for name, reason in reasons.items() if name not in found}
    folded = [(f"Not measured: {count} dataset{'s' if count > 1 else ''}", tuple(lines))] if lines else []
    return [f"Not measured: {name}: {reason}." for name, reason in reasons.items()], folded


def significance_footnotes(bests: Sequence[BestOfColumn[Run]]) -> list[str]:
    """Return footnotes on the meaning of bold and stars, if there are any."""
    lines = []
    bold, starred = any(best.winner for best in bests), any(best.tied for best in bests)
    if bold:
        lines.append(
            "Bold: the best mean of a column, significantly better than every other: the 95 % interval of each paired "
            "difference over samples and seeds excludes zero (no correction for multiple comparisons)."
        )
    if starred:
        test = (
            ": the 95 % interval of the paired difference over samples and seeds includes zero (no correction for "
            "multiple comparisons)"
        )
        lines.append(
            f"* the best mean of a column and those not significantly different from it{'' if bold else test}."
        )
    if any(best.unknown for best in bests):
        lines.append(
            "No bold and no stars where a paired difference is unknown: it needs the predictions of both methods."
        )
    return lines


def _shared_value(runs: Sequence[Run], text: Callable[[Record], str]) -> str:
    """Return the value that all runs share, or each value with the labels of its rows."""
    owners: dict[str, list[str]] = {}
    for run in runs:
        owners.setdefault(text(run.records[0]), []).append(run.label)
    if len(owners) == 1:
        return next(iter(owners))
    return "; ".join(f"{value} ({', '.join(labels)})" for value, labels in sorted(owners.items()))


def _format_settings(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in sorted(settings.items()))
