"""Records: one small JSON per (model, seed, evaluation, preset), with all it takes to trust and repeat its numbers.

A record lies at `<experiment name>/<version>/<seed>/<evaluation>.<preset>.json`. What was declared is stored whole,
beside its fingerprint; the fingerprint is compared, never part of the path. A record that does not say exactly what it
was measured on cannot be made and cannot be read.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from benchmark.environment import environment
from benchmark.errors import UserError
from benchmark.files import write_json
from benchmark.record import (
    DatasetPart,
    Environment,
    Measured,
    NotMeasured,
    Predictions,
    Record,
    ScorePart,
    canonical_json,
    protocol_of,
    sha256_of,
)

if TYPE_CHECKING:  # torch takes seconds, and records are read without it
    from benchmark.interfaces import DatasetScores, Evaluation, Experiment, Pretrained, Score, Skipped

__all__ = [
    "DatasetPart",
    "Environment",
    "Measured",
    "NotMeasured",
    "Predictions",
    "Record",
    "ScorePart",
    "checksum",
    "content_hash",
    "environment",
    "fingerprint",
    "from_scores",
    "place",
    "protocol_hash",
    "read",
    "read_all",
    "record_path",
    "validated",
    "write",
    "write_with_checksum",
]

SCHEMA = 4
OLDER = (3,)
CHECKSUM = "checksum"
"""Field of a record's file."""
LIMIT = 4 * 2**20
"""Bytes of a record that is still opened; those of a thousand classes have a tenth of it."""


def fingerprint(origin: "Experiment | Pretrained") -> str:
    """SHA-256 of the declaration without its list of seeds: any changed setting changes it, a further seed does not."""
    return sha256_of(_declaration(origin))


def place(origin: "Experiment | Pretrained", seed: int) -> str:
    """The folder of a model's records, such as `smoke/mae/1/0`."""
    declared = _declaration(origin)
    return f"{declared['name']}/{declared['version']}/{seed}"


def protocol_hash(evaluation: "Evaluation") -> str:
    """SHA-256 of version, preset and knobs; the list of datasets is left out."""
    return protocol_of(evaluation.version, evaluation.preset, _knobs(evaluation))


def content_hash(record: Record) -> str:
    """SHA-256 of a record, by which later records name it as a parent."""
    return sha256_of(record)


def from_scores(
    scores: "Mapping[str, DatasetScores | Skipped | Measured | NotMeasured]",
    *,
    origin: "Experiment | Pretrained",
    seed: int,
    name: str,
    evaluation: "Evaluation",
    facts: Mapping[str, Any],
    content_sha256: str | None,
    environment: Environment,
    monitored: Mapping[str, Any] | None = None,
    parents: Mapping[str, str] | None = None,
    seconds: Mapping[str, float] | None = None,
    predictions: Mapping[str, Predictions] | None = None,
) -> Record:
    """The record of what the evaluation called `name` (its file's name) gave for one seed of a model.

    `facts` are the subject's (see `interfaces.Subject`), `monitored` what training saw of itself (see
    `monitor.monitored`), `predictions` the file of each dataset; results of an older record are kept as they are.

    Raises:
        UserError: something required is missing or out of range; the message names the field.
    """
    from benchmark.interfaces import Experiment

    declared, files = _declaration(origin), predictions or {}
    trained = None
    if isinstance(origin, Experiment):
        source = {"repo": origin.dataset, "revision": origin.revision, "content_sha256": content_sha256}
        trained = {**source, "parents": parents or {}, **(monitored or {})}
    untyped = {
        "experiment": {
            **{field: declared[field] for field in ("name", "version", "method")},
            "fingerprint": sha256_of(declared),
            "declaration": declared,
        },
        "seed": seed,
        "evaluation": {
            "name": name,
            "version": evaluation.version,
            "preset": evaluation.preset,
            "knobs": _knobs(evaluation),
            "protocol": protocol_hash(evaluation),
        },
        "model": {**facts, "views": _views(origin), "encoder": declared["encoder"]},
        "training": trained,
        "results": {dataset: _result(result, files.get(dataset), environment) for dataset, result in scores.items()},
        "seconds": seconds or {},
        "created": datetime.now(UTC).date().isoformat(),
    }
    return validated(canonical_json(untyped), f"{declared['name']} seed {seed} {name}", "mend the evaluation")


def record_path(folder: Path, place: str, evaluation: str, preset: str) -> Path:
    """Where the record of a model (by its place, such as `smoke/mae/1/0`) and a preset of an evaluation lies."""
    return folder / place / f"{evaluation}.{preset}.json"


def write(record: Record, folder: Path) -> Path:
    """Write a record atomically to its place below `folder`; an older one of the same declaration is replaced.

    Raises:
        UserError: the place is taken by another declaration, or cannot be written.
    """
    experiment = record.experiment
    place = f"{experiment.name}/{experiment.version}/{record.seed}"
    path = record_path(folder, place, record.evaluation.name, record.evaluation.preset)
    if path.exists() and (stored := read(path).experiment.fingerprint) != experiment.fingerprint:
        own = "raise the experiment's version" if record.training else "give the model another name"
        raise UserError(
            f"record {path} has fingerprint {stored}, the new one {experiment.fingerprint}; "
            f"{own} or choose another folder"
        )
    write_with_checksum(path, record.model_dump(mode="json"))
    return path


def write_with_checksum(path: Path, content: Mapping[str, Any]) -> None:
    """Write a record's JSON atomically, with its checksum."""
    write_json(path, {**content, CHECKSUM: checksum(content)})


def checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 of a record's JSON without its checksum. It finds edits; somebody who makes a record anew has one too."""
    rest = {name: value for name, value in content.items() if name != CHECKSUM}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read(path: Path) -> Record:
    """The record in a file.

    Raises:
        UserError: no file, too large, empty, truncated, not a record, one of an older schema, changed since it was
            written, or one that breaks a rule; names file and field.
    """
    try:
        size = path.stat().st_size
        content = path.read_text(encoding="utf-8") if size <= LIMIT else ""
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"record {path} cannot be read: {error}; restore or remove the file") from error
    if size > LIMIT:
        raise UserError(f"record {path} has {size:,} bytes, wanted at most {LIMIT:,}; remove the file")
    cure = "remove the file and evaluate again"
    plain = _parsed(content, str(path), cure)
    if isinstance(plain, dict):
        if (version := plain.get("schema_version")) in OLDER:
            raise UserError(
                f"record {path} has schema {version}, this code reads {SCHEMA}; make new ones with "
                f"`synrep results migrate FOLDER --out NEW`"
            )
        if isinstance(version, int) and 0 < version < SCHEMA:
            raise UserError(f"record {path} has schema {version}, this code reads {SCHEMA}; evaluate again")
        try:
            intact = version != SCHEMA or plain.get(CHECKSUM) == checksum(plain)
        except ValueError as error:
            raise UserError(f"record {path} holds a number without end, wanted finite ones; {cure}") from error
        if not intact:
            raise UserError(
                f"record {path} was changed since it was written: it does not have its checksum; restore the file, or "
                "remove it and evaluate again"
            )
    return validated(content, str(path), cure)


def read_all(folder: Path, report: Callable[[str], None] = lambda _: None) -> list[Record]:
    """Every record below a folder once, in the order of their places; `report` is told of copies.

    Raises:
        UserError: no folder, no record in it, a file that is not a valid record, or two records for one place.
    """
    paths = sorted(folder.rglob("*.json"))
    if not paths:
        raise UserError(f"no records in {folder}; run an experiment first or name another folder")
    found: dict[tuple[str | int, ...], tuple[Path, Record]] = {}
    for path, record in zip(paths, map(read, paths)):
        other, known = found.setdefault(_cell(record), (path, record))
        if other is path:
            continue
        if known != record:
            raise UserError(f"{path} and {other} are two records for one place; keep one of them")
        report(f"{path} is a copy of {other}; it counts once")
    return [found[cell][1] for cell in sorted(found)]


def _cell(record: Record) -> tuple[str | int, ...]:
    """Of all that may be there once."""
    own, of = record.evaluation, record.experiment
    return of.name, of.version, record.seed, own.name, own.preset


def _parsed(content: str, what: str, cure: str) -> Any:
    """The plain JSON; None where it is none, which validation tells better."""
    if not content.strip():
        raise UserError(f"record {what} is empty; {cure}")
    try:
        return json.loads(content, parse_constant=_no_number)
    except json.JSONDecodeError:
        return None
    except RecursionError as error:
        raise UserError(f"record {what} is nested too deeply; {cure}") from error
    except ValueError as error:
        raise UserError(f"record {what}: {error}; {cure}") from error


def validated(content: str, what: str, cure: str) -> Record:
    """The record in a JSON text, which is not asked for a checksum.

    Raises:
        UserError: it is none, or breaks a rule; says `what` and the field, and the `cure`.
    """
    try:
        record = Record.model_validate_json(content)
    except ValidationError as error:
        raise UserError(f"record {what}: {_first_problem(error)}; {cure}") from error
    return record.model_copy(update={CHECKSUM: None})


def _no_number(name: str) -> None:
    raise ValueError(f"it holds {name}, wanted finite numbers")


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    if problem["type"] == "json_invalid":
        return f"not valid JSON ({problem['msg']})"
    place = list(problem["loc"])
    if place[:1] == ["results"] or place[:2] == ["experiment", "declaration"]:
        del place[2:3]  # the tag of the union, no field of the file
    field = ".".join(map(str, place)) or "the whole"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    found = "" if isinstance(problem["input"], dict | BaseModel) else f", found {problem['input']!r:.60}"
    return f"field {field}: {problem['msg'].removeprefix('Value error, ')}{found}{more}"


def _result(
    result: "DatasetScores | Skipped | Measured | NotMeasured", file: Predictions | None, environment: Environment
) -> Any:
    from benchmark.interfaces import Skipped

    if isinstance(result, Measured | NotMeasured):
        return result
    if isinstance(result, Skipped):
        return {"skipped": result.reason, "code": result.code}
    return {
        "dataset": result.dataset,
        "main": next(iter(result.scores), ""),
        "scores": {name: _score(name, score) for name, score in result.scores.items()},
        "chance": result.chance,
        "per_class": {name: _score(name, score) for name, score in result.per_class.items()},
        "details": result.details,
        "predictions": file,
        "environment": environment,
    }


def _score(name: str, score: "Score") -> dict[str, Any]:
    """A score without rounding error: Wilson's upper end for a perfect score may come out as 1 - 1e-16."""
    value, low, high = float(score.value), float(score.low), float(score.high)
    if not all(map(math.isfinite, (value, low, high))):
        raise UserError(f"score {name!r} is {value} in [{low}, {high}], wanted finite numbers; mend the evaluation")
    slack = 1e-9
    value = min(max(value, 0.0), 1.0) if -slack < value < 1 + slack else value
    low = min(max(low, 0.0), value) if -slack < low < value + slack else low
    high = max(min(high, 1.0), value) if value - slack < high < 1 + slack else high
    return {"value": value, "low": low, "high": high, "n": score.n}


def _declaration(origin: "Experiment | Pretrained") -> dict[str, Any]:
    declaration: dict[str, Any] = json.loads(canonical_json(origin))
    from benchmark.interfaces import Pretrained

    if isinstance(origin, Pretrained):
        slug = declaration.pop("slug")
        return {"name": f"pretrained/{slug}", "version": 1, "method": slug, **declaration}
    del declaration["seeds"]
    return declaration


def _views(origin: "Experiment | Pretrained") -> int | None:
    from benchmark.interfaces import Pretrained

    if isinstance(origin, Pretrained):
        return None
    return 0 if origin.settings.optimizer is None else origin.schedule.views


def _knobs(evaluation: "Evaluation") -> dict[str, Any]:
    knobs: dict[str, Any] = json.loads(canonical_json(evaluation))
    del knobs["datasets"], knobs["preset"]
    return knobs
