"""Contradictions between the records of a folder: what is one has one value, and what are two are not copies.

A name has one declaration, a run one set of weights, a revision one content, a protocol the same samples for every
model. Conversely one set of weights, and one set of answers, belongs to one training: a seed or a model that is a copy
of another counts twice in a table. Declarations that differ only in the name, the version and the name of equal data
are one training, which may be repeated.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path

from benchmark.files import sha256_json
from benchmark.records.schema import Measured, Record, sha256_of

RecordFiles = list[tuple[Path, Record]]
Digests = Mapping[tuple[Path, str], str]
"""Record's file and dataset -> hash of columns of its predictions."""


def find(found: RecordFiles, samples: Digests, answers: Digests) -> Iterator[str]:
    """Yield one line for each contradiction between two records.

    Args:
        found: the records and their files.
        samples: hashes of the columns that are equal for all models.
        answers: hashes of the columns that are different for all models (see `rescore.RescoreReport`).
    """
    for field in ("experiment.name", "experiment.method"):
        name_of: Callable[[Record], str] = attrgetter(field)
        yield from _require_same(
            found, field, lambda r: name_of(r).lower(), name_of,  # noqa: B023  called before the next field
            "two names that differ by case only; rename one",
        )  # fmt: skip
    yield from _require_same(
        found, "experiment.fingerprint", lambda r: (r.experiment.name, r.experiment.version),
        lambda r: r.experiment.fingerprint, "two declarations with one name; increase the version or rename one",
    )  # fmt: skip
    yield from _require_same(
        found, "model.transform", lambda r: (r.experiment.fingerprint, r.seed, r.model.layer, r.model.weights_sha256),
        lambda r: (r.model.precision, r.model.tile, r.model.memory_format, sha256_json(r.model.transform)[:12]),
        "two ways to encode the images of one run; evaluate the run again",
    )  # fmt: skip
    yield from _require_same(
        found, "model.weights_sha256", lambda r: (r.experiment.fingerprint, r.seed, r.model.layer),
        lambda r: r.model.weights_sha256, "two sets of weights for one run; evaluate the run again",
    )  # fmt: skip
    yield from _require_same(
        found, "experiment", _encoder, _training, "one set of weights for two runs; remove the copy or train it again"
    )
    trained = [(path, record) for path, record in found if record.training and record.training.content_sha256]
    yield from _require_same(
        trained, "training.content_sha256", lambda r: r.training and (r.training.repo, r.training.revision),
        lambda r: r.training and r.training.content_sha256, "two contents of one revision; check the dataset",
    )  # fmt: skip
    for name in sorted({name for _, record in found for name in measured(record)}):
        yield from _of_dataset(name, [(path, record) for path, record in found if name in measured(record)],
                               samples, answers)  # fmt: skip


def _of_dataset(name: str, found: RecordFiles, samples: Digests, answers: Digests) -> Iterator[str]:
    """Yield one line for each contradiction between two results of one dataset."""

    def part(record: Record) -> Measured:
        return measured(record)[name]

    def protocol(record: Record) -> Hashable:
        return record.evaluation.protocol, part(record).dataset.ids_sha256

    yield from _require_same(
        found, f"results.{name}.dataset",
        lambda r: (r.evaluation.name, *_fields(part(r), "repo", "revision", "split")),
        lambda r: _fields(part(r), "n", "ids_sha256"), "two contents of one revision; check the dataset",
    )  # fmt: skip
    digest = {id(record): samples[path, name][:12] for path, record in found if (path, name) in samples}
    yield from _require_same(
        [(path, record) for path, record in found if id(record) in digest], f"results.{name}.predictions",
        protocol, lambda r: digest[id(r)], "the labels or samples differ between models; evaluate again",
    )  # fmt: skip
    answer = {id(record): answers[path, name] for path, record in found if (path, name) in answers}
    training: dict[str, str] = {}  # of equal weights, the first; a repeated training may end with other last bits
    yield from _require_same(
        [(path, record) for path, record in found if id(record) in answer], f"results.{name}.predictions",
        lambda r: (protocol(r), answer[id(r)]), lambda r: training.setdefault(r.model.weights_sha256, _training(r)),
        "equal predictions of two models; remove the copy or evaluate again",
    )  # fmt: skip


def measured(record: Record) -> dict[str, Measured]:
    """Return the results of the datasets that were measured."""
    return {name: result for name, result in record.results.items() if isinstance(result, Measured)}


def _fields(result: Measured, *names: str) -> tuple[object, ...]:
    return tuple(getattr(result.dataset, name) for name in names)


def _encoder(record: Record) -> Hashable:
    """Return what identifies an encoder: its weights, and how it is built and used."""
    model = record.model
    return model.weights_sha256, model.layer, sha256_of([model.encoder, model.transform])


def _training(record: Record) -> str:
    """Return what determines the weights of a model, as text; without training, only the encoder and the seed do."""
    declared = record.experiment.declaration.model_dump(exclude={"name", "version", "dataset", "revision"})
    content = record.training and record.training.content_sha256
    if record.model.views == 0:
        declared, content = {"encoder": declared["encoder"]}, None
    return f"declaration {sha256_of([declared, content])[:12]} seed {record.seed}"


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
