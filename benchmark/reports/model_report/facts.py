"""What a model is, and what it was measured on."""

from collections.abc import Callable, Mapping
from typing import Any

from benchmark.records.schema import Declaration, Record
from benchmark.reports.model_report.document import Section
from benchmark.reports.model_report.subject import Subject
from benchmark.reports.site.models import Sources, describe
from benchmark.reports.site.protocols import HEX


def about(subject: Subject, sources: Sources) -> Section:
    """Return the origin, weights, features and training of the model, and the baselines shown next to it.

    Args:
        subject: the model.
        sources: function that returns the metadata of a training dataset.
    """
    model, known = subject.model, describe(subject.model, sources)
    declared = model.first.experiment.declaration
    is_run = isinstance(declared, Declaration)
    facts = [
        ("source", "a run of this benchmark" if is_run else str(known["source"])),
        ("method", known["method"]),
        ("encoder", known["encoder"]),
        ("weights", _each(subject, lambda record: _weights(record, seeded=is_run))),
        ("layer", _each(subject, lambda record: record.model.layer)),
        ("preprocessing", _each(subject, lambda record: _settings(record.model.transform))),
        ("arithmetic", _each(subject, _arithmetic)),
        ("features", _features(subject)),
        *(_training(subject, known, declared) if isinstance(declared, Declaration) else ()),
        ("seeds", ", ".join(map(str, sorted({record.seed for record in model.records}))) if is_run else ""),
        ("measured", " to ".join(sorted({str(record.created) for record in _first_and_last(subject)}))),
        ("fingerprint", known["fingerprint"]),
        ("repeat", known["command"]),
        ("baselines", "; ".join(f"{each.name}, version {each.version}" for each in subject.baselines) or "no records"),
    ]
    return Section("Model", facts=tuple((name, value) for name, value in facts if value))


def datasets(subject: Subject) -> Section:
    """Return the exact identity of every dataset that the model was measured on."""
    facts = []
    for column in dict.fromkeys(row.column for each in subject.evaluated for row in each.rows):
        unverified = ", UNVERIFIED: the files are not known to be those of the revision" if column.unverified else ""
        identity = (
            f"{column.repo} @ {column.revision[:HEX]}, split {column.split}, {column.images:,} samples, ids "
            f"{column.ids[:HEX]}{unverified}"
        )
        if (column.dataset, identity) not in facts:
            facts.append((column.dataset, identity))
    return Section("Datasets", facts=tuple(sorted(facts)), folded=True)


def _training(subject: Subject, known: Mapping[str, Any], declared: Declaration) -> list[tuple[str, str]]:
    """Return the training data, schedule and settings of a run."""
    record = subject.model.first
    if not record.model.views or record.training is None:
        return [("training", "none: random weights")]
    images = f", {known['images']:,} {known['kind']} images" if known["images"] else ""
    steps = f" ({record.model.views // known['batch']:,} steps)" if known["batch"] else ""
    return [
        ("training data", f"{record.training.repo} @ {record.training.revision[:HEX]}{images}"),
        ("content of the data", _each(subject, lambda r: ((r.training and r.training.content_sha256) or "")[:HEX])),
        ("schedule", f"{record.model.views:,} views in batches of {known['batch']}{steps}"),
        ("settings", _settings(declared.settings)),
        *((f"{name} settings", _settings(part)) for name, part in _parts(declared.settings)),
    ]


def _parts(settings: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(name, part) for name, part in sorted(settings.items()) if isinstance(part, dict)]


def _settings(settings: Mapping[str, Any]) -> str:
    """Return settings as `size 64, zoom 1.0`, without those that have settings themselves."""
    plain = sorted((name, value) for name, value in settings.items() if not isinstance(value, dict))
    return ", ".join(f"{name.replace('_', ' ')} {_text(value)}" for name, value in plain if value not in (None, []))


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_text, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _weights(record: Record, seeded: bool) -> str:
    return f"sha256 {record.model.weights_sha256[:HEX]}{f' (seed {record.seed})' if seeded else ''}"


def _arithmetic(record: Record) -> str:
    part = record.model
    tile = f"tiles of {part.tile} images" if part.tile else None
    return ", ".join(filter(None, (part.precision, tile, part.memory_format)))


def _features(subject: Subject) -> str:
    """Return a remark on features that no network computed; empty if there are none."""
    stored = any(result.features_sha256 for each in subject.evaluated for row in each.rows for result in row.results)
    return "read from files: the weights hash does not prove that they are those of the model" if stored else ""


def _each(subject: Subject, text: Callable[[Record], str]) -> str:
    """Return the distinct texts of all records, sorted by seed."""
    records = sorted(subject.model.records, key=lambda record: record.seed)
    return ", ".join(dict.fromkeys(filter(None, map(text, records))))


def _first_and_last(subject: Subject) -> list[Record]:
    records = sorted(subject.model.records, key=lambda record: record.created)
    return [records[0], records[-1]]
