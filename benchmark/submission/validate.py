"""Validation of a folder of records and their predictions.

Each record: checksum, schema and hashes (`benchmark.records.store.read`), path, protocol and datasets, and the scores
recomputed from its predictions (`rescore`). All records: one declaration for each name, one set of weights for each
run, one content for each revision of a dataset, and the same labels for all models. If the folder also contains the
files of runs (`train/`, `features/`), these are checked against the records too.
"""

import json
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmark.errors import UserError
from benchmark.files import file_sha256, sha256_json
from benchmark.records import store
from benchmark.records.schema import Measured, Record
from benchmark.submission import rescore

DeclaredFingerprint = Callable[[Record], str | None]
"""Function that returns the fingerprint declared in this code for the run of a record; None if there is none."""

RecordFiles = list[tuple[Path, Record]]


def find_problems(records: Path, declared_fingerprint: DeclaredFingerprint = lambda _: None) -> Iterator[str]:
    """Yield one line for each problem of a folder of records and its sibling `predictions/`.

    Each line begins with the file.

    Raises:
        UserError: there are no records.
    """
    yield from unexpected_files(records, {".json"})
    paths = [path for path in sorted(records.rglob("*.json")) if not path.is_symlink()]
    if not paths:
        raise UserError(f"no records in {records}; run an experiment first or choose another folder")
    folder = records.parent / "predictions"
    found: RecordFiles = []
    used: set[Path] = set()
    samples: dict[tuple[Path, str], str] = {}
    for path in paths:
        try:
            found.append((path, store.read(path)))
        except UserError as error:
            yield str(error)
            used |= set((folder / path.relative_to(records).with_suffix("")).glob("*"))
    for path, record in found:
        expected = store.relative_path(record)
        if path != records / expected:
            yield f"{path}: expected this record at {records / expected}; move it there or remove it"
        answers = folder / expected.with_suffix("")
        report = rescore.rescore(record, answers)
        yield from (f"{path}: {problem}" for problem in report.problems)
        samples |= {(path, name): digest for name, digest in report.samples.items()}
        used |= {answers / result.predictions.file for result in _measured(record).values() if result.predictions}
        if (declared := declared_fingerprint(record)) and declared != record.experiment.fingerprint:
            yield (
                f"{path}: experiment.fingerprint: expected {declared[:12]} as declared for {record.experiment.name} "
                f"version {record.experiment.version}, found {record.experiment.fingerprint[:12]}; rename the run"
            )
    yield from unexpected_files(folder, {".parquet"}, used)
    yield from _cross_record_problems(found, samples)
    yield from _run_file_problems(records.parent, found)


def counts(records: Path) -> str:
    """Return the summary of a folder without problems."""
    n_records = len(list(records.rglob("*.json")))
    n_predictions = len(list((records.parent / "predictions").rglob("*.parquet")))
    plural = "s" if n_records != 1 else ""
    return f"{n_records:,} valid record{plural}, scored again from {n_predictions:,} predictions files"


def unexpected_files(folder: Path, suffixes: set[str], expected: set[Path] | None = None) -> Iterator[str]:
    """Yield one line for each link and each file that does not belong into a folder of records or predictions."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            yield f"{path}: expected a file, found a link; replace it by the file"
        elif path.is_file() and (path.suffix not in suffixes or path.name.startswith(".")):
            yield f"{path}: expected only files that end with {', '.join(suffixes)}; remove it"
        elif path.is_file() and expected is not None and path not in expected:
            yield f"{path}: does not belong to any record; remove it or add its record"


def _measured(record: Record) -> dict[str, Measured]:
    return {name: result for name, result in record.results.items() if isinstance(result, Measured)}


def _cross_record_problems(found: RecordFiles, samples: Mapping[tuple[Path, str], str]) -> Iterator[str]:
    """Yield one line for each contradiction between two records."""
    yield from _require_same(
        found, "experiment.fingerprint", lambda r: (r.experiment.name, r.experiment.version),
        lambda r: r.experiment.fingerprint, "two declarations with one name; increase the version or rename one",
    )  # fmt: skip
    yield from _require_same(
        found, "model.transform", lambda r: (r.experiment.fingerprint, r.seed, r.model.layer, r.model.weights_sha256),
        lambda r: (r.model.precision, r.model.tile, sha256_json(r.model.transform)[:12]),
        "two ways to encode the images of one run; evaluate the run again",
    )  # fmt: skip
    yield from _require_same(
        found, "model.weights_sha256", lambda r: (r.experiment.fingerprint, r.seed, r.model.layer),
        lambda r: r.model.weights_sha256, "two sets of weights for one run; evaluate the run again",
    )  # fmt: skip
    trained = [(path, record) for path, record in found if record.training and record.training.content_sha256]
    yield from _require_same(
        trained, "training.content_sha256", lambda r: r.training and (r.training.repo, r.training.revision),
        lambda r: r.training and r.training.content_sha256, "two contents of one revision; check the dataset",
    )  # fmt: skip
    for name in sorted({name for _, record in found for name in _measured(record)}):
        with_dataset = [(path, record) for path, record in found if name in _measured(record)]
        source, samples_of = partial(_source, name=name), partial(_samples, name=name)
        yield from _require_same(
            with_dataset,
            f"results.{name}.dataset",
            source,
            samples_of,
            "two contents of one revision; check the dataset",
        )
        digest = {id(record): samples[path, name][:12] for path, record in with_dataset if (path, name) in samples}
        yield from _require_same(
            [(path, record) for path, record in with_dataset if id(record) in digest], f"results.{name}.predictions",
            partial(_protocol, name=name), partial(_digest, digests=digest),
            "the labels or samples differ between models; evaluate again",
        )  # fmt: skip


def _source(record: Record, name: str) -> Hashable:
    part = _measured(record)[name].dataset
    return record.evaluation.name, part.repo, part.revision, part.split


def _samples(record: Record, name: str) -> Hashable:
    part = _measured(record)[name].dataset
    return part.n, part.ids_sha256


def _digest(record: Record, digests: Mapping[int, str]) -> str:
    return digests[id(record)]


def _protocol(record: Record, name: str) -> Hashable:
    return record.evaluation.protocol, _measured(record)[name].dataset.ids_sha256


def _require_same(
    found: Sequence[tuple[Path, Record]],
    field: str,
    group: Callable[[Record], Hashable],
    value: Callable[[Record], Hashable],
    hint: str,
) -> Iterator[str]:
    """Yield one line for each record whose value differs from that of the first record of its group.

    Args:
        found: the records and their files.
        field: name of the compared field.
        group: function that returns the group of a record.
        value: function that returns the value of a record.
        hint: the problem and how to fix it.
    """
    first: dict[Hashable, tuple[Path, Hashable]] = {}
    for path, record in found:
        own = value(record)
        first_path, expected = first.setdefault(group(record), (path, own))
        if own != expected:
            yield f"{path}: {field}: expected {expected} as in {first_path}, found {own}: {hint}"


def _run_file_problems(out: Path, found: RecordFiles) -> Iterator[str]:
    """Yield one line for each contradiction between records and the files of their runs.

    These are `model.json`, the weights and the feature store.
    """
    runs = {record.key: (path, record) for path, record in found if record.training}
    for name, (path, record) in sorted(runs.items()):
        folder = out / "train" / name
        if (card := _json(folder / "model.json")) is not None:
            expected = {
                "fingerprint": record.experiment.fingerprint,
                "seed": record.seed,
                "weights_sha256": record.model.weights_sha256,
                "content_sha256": record.training and record.training.content_sha256,
            }
            for key, value in expected.items():
                if key in card and card[key] != value:
                    source = folder / "model.json"
                    yield f"{path}: {key}: expected {card[key]} as in {source}, found {value}; evaluate again"
            weights = folder / "model.safetensors"
            if weights.is_file() and file_sha256(weights) != record.model.weights_sha256:
                yield f"{weights}: expected the weights evaluated in {path}, found others; train the run again"
        for stored in sorted((out / "features" / name).glob("*/key.json")):
            key_fields = _json(stored)
            if key_fields is None or sha256_json(key_fields) != stored.parent.name:
                yield f"{stored}: expected a key whose hash is the name of its folder; remove the folder"
            elif key_fields.get("weights_sha256") != record.model.weights_sha256:
                yield f"{stored}: expected features of the weights in {path}, found others; remove the folder"


def _json(path: Path) -> dict[str, object] | None:
    """Return the JSON object in a file, or None if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
