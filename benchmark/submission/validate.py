"""A folder of records, checked: what they say, that they fit together, and that their predictions give their scores.

Every record by itself: its checksum, its schema and its own hashes (`benchmark.records.store.read`), that it lies where
it says it belongs, that this code knows its protocol and its datasets, and that the predictions beside it give its
scores again (`rescore`). All records together: one declaration under each name, one set of weights for each run, one
content for each revision of a dataset, and the same labels for all models. And where the files of a run lie beside the
records (`train/`, `features/`), the chain through them: dataset, training,
features, record.
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

Official = Callable[[Record], str | None]
"""The fingerprint that this code declares for the run a record names; None where it declares none."""

Found = list[tuple[Path, Record]]


def find_problems(records: Path, official: Official = lambda _: None) -> Iterator[str]:
    """What is wrong with a folder of records and the predictions beside it, a line each, beginning with the file.

    Raises:
        UserError: no records there.
    """
    yield from unexpected_files(records, {".json"})
    paths = [path for path in sorted(records.rglob("*.json")) if not path.is_symlink()]
    if not paths:
        raise UserError(f"no records in {records}; run an experiment first or name another folder")
    folder = records.parent / "predictions"
    found: Found = []
    used: set[Path] = set()
    samples: dict[tuple[Path, str], str] = {}
    for path in paths:
        try:
            found.append((path, store.read(path)))
        except UserError as error:
            yield str(error)
            used |= set((folder / path.relative_to(records).with_suffix("")).glob("*"))
    for path, record in found:
        own = path_of(record)
        if path != records / own:
            yield f"{path}: this record belongs at {records / own}; of two for one place keep one"
        scored = rescore.rescore(record, folder / own.with_suffix(""))
        yield from (f"{path}: {problem}" for problem in scored.problems)
        samples |= {(path, name): digest for name, digest in scored.samples.items()}
        used |= {folder / own.with_suffix("") / r.predictions.file for r in _measured(record).values() if r.predictions}
        if (declared := official(record)) and declared != record.experiment.fingerprint:
            yield (
                f"{path}: experiment.fingerprint is {record.experiment.fingerprint[:12]}, but {record.experiment.name} "
                f"version {record.experiment.version} is declared as {declared[:12]}; give the run a name of its own"
            )
    yield from unexpected_files(folder, {".parquet"}, used)
    yield from _cross_record_problems(found, samples)
    yield from _run_file_problems(records.parent, found)


def counts(records: Path) -> str:
    """How much there is in a folder that has no problems."""
    number = len(list(records.rglob("*.json")))
    scored = len(list((records.parent / "predictions").rglob("*.parquet")))
    return f"{number:,} valid record{'s' if number != 1 else ''}, scored again from {scored:,} predictions files"


def path_of(record: Record) -> Path:
    """Where a record belongs below a folder of records."""
    return store.record_path(Path(), record.key, record.evaluation.name, record.evaluation.preset)


def unexpected_files(folder: Path, endings: set[str], wanted: set[Path] | None = None) -> Iterator[str]:
    """Links and files that do not belong into a folder of records or predictions."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            yield f"{path}: a link, wanted a file of its own; put the file in its place"
        elif path.is_file() and (path.suffix not in endings or path.name.startswith(".")):
            yield f"{path}: wanted only files that end with {', '.join(endings)}; remove it"
        elif path.is_file() and wanted is not None and path not in wanted:
            yield f"{path}: belongs to no record; remove it or add its record"


def _measured(record: Record) -> dict[str, Measured]:
    return {name: result for name, result in record.results.items() if isinstance(result, Measured)}


def _cross_record_problems(found: Found, samples: Mapping[tuple[Path, str], str]) -> Iterator[str]:
    """What two records of the same thing must share."""
    yield from _require_same(
        found, "experiment.fingerprint", lambda r: (r.experiment.name, r.experiment.version),
        lambda r: r.experiment.fingerprint, "conflicting declarations under one name; raise the version or rename one",
    )  # fmt: skip
    yield from _require_same(
        found, "model.transform", lambda r: (r.experiment.fingerprint, r.seed, r.model.layer, r.model.weights_sha256),
        lambda r: (r.model.precision, r.model.tile, sha256_json(r.model.transform)[:12]),
        "two ways to encode images for one run; evaluate anew",
    )  # fmt: skip
    yield from _require_same(
        found, "model.weights_sha256", lambda r: (r.experiment.fingerprint, r.seed, r.model.layer),
        lambda r: r.model.weights_sha256, "two sets of weights for one run; evaluate the run anew",
    )  # fmt: skip
    trained = [(path, record) for path, record in found if record.training and record.training.content_sha256]
    yield from _require_same(
        trained, "training.content_sha256", lambda r: r.training and (r.training.repo, r.training.revision),
        lambda r: r.training and r.training.content_sha256, "two contents of one revision; check the dataset",
    )  # fmt: skip
    for name in sorted({name for _, record in found for name in _measured(record)}):
        having = [(path, record) for path, record in found if name in _measured(record)]
        what, which = partial(_source, name=name), partial(_samples, name=name)
        yield from _require_same(
            having, f"results.{name}.dataset", what, which, "two contents of one revision; check the dataset"
        )
        digest = {id(record): samples[path, name][:12] for path, record in having if (path, name) in samples}
        yield from _require_same(
            [(path, record) for path, record in having if id(record) in digest], f"results.{name}.predictions",
            partial(_protocol, name=name), partial(_digest, of=digest),
            "other labels or samples than those that all models answer; evaluate again",
        )  # fmt: skip


def _source(record: Record, name: str) -> Hashable:
    part = _measured(record)[name].dataset
    return record.evaluation.name, part.repo, part.revision, part.split


def _samples(record: Record, name: str) -> Hashable:
    part = _measured(record)[name].dataset
    return part.n, part.ids_sha256


def _digest(record: Record, of: Mapping[int, str]) -> str:
    return of[id(record)]


def _protocol(record: Record, name: str) -> Hashable:
    return record.evaluation.protocol, _measured(record)[name].dataset.ids_sha256


def _require_same(
    found: Sequence[tuple[Path, Record]],
    field: str,
    of: Callable[[Record], Hashable],
    value: Callable[[Record], Hashable],
    hint: str,
) -> Iterator[str]:
    """Records of the same thing with different values; each is compared with the first."""
    first: dict[Hashable, tuple[Path, Hashable]] = {}
    for path, record in found:
        known, here = first.setdefault(of(record), (path, value(record))), value(record)
        if known[1] != here:
            yield f"{path}: {field} is {here}, in {known[0]} it is {known[1]}: {hint}"


def _run_file_problems(out: Path, found: Found) -> Iterator[str]:
    """The files of a run that lie beside its records: model.json, weights, feature store."""
    runs = {record.key: (path, record) for path, record in found if record.training}
    for name, (path, record) in sorted(runs.items()):
        folder = out / "train" / name
        if (card := _json(folder / "model.json")) is not None:
            said = {
                "fingerprint": record.experiment.fingerprint,
                "seed": record.seed,
                "weights_sha256": record.model.weights_sha256,
                "content_sha256": record.training and record.training.content_sha256,
            }
            for key, value in said.items():
                if key in card and card[key] != value:
                    yield f"{path}: {key} is {value}, {folder / 'model.json'} says {card[key]}; evaluate the run anew"
            weights = folder / "model.safetensors"
            if weights.is_file() and file_sha256(weights) != record.model.weights_sha256:
                yield f"{weights}: not the weights that {path} was measured on; train and evaluate the run anew"
        for stored in sorted((out / "features" / name).glob("*/key.json")):
            facts = _json(stored)
            if facts is None or sha256_json(facts) != stored.parent.name:
                yield f"{stored}: does not fit its folder; remove the folder"
            elif facts.get("weights_sha256") != record.model.weights_sha256:
                yield f"{stored}: features of other weights than {path} names; remove the folder"


def _json(path: Path) -> dict[str, object] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
