"""Records: one small JSON per (model, seed, evaluation, preset), with all it takes to trust and repeat its numbers.

A record lies at `<experiment name>/<version>/<seed>/<evaluation>.<preset>.json`. What was declared is stored whole,
beside its fingerprint; the fingerprint is compared, never part of the path. A record that does not say exactly what it
was measured on cannot be made and cannot be read.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from benchmark.errors import UserError
from benchmark.files import write_json
from benchmark.progress import LogLine
from benchmark.records.schema import (
    Record,
    sha256_of,
)

SCHEMA = 4
MIGRATABLE = (3,)
CHECKSUM = "checksum"
"""Field of a record's file."""
MAX_BYTES = 4 * 2**20
"""Bytes of a record that is still opened; those of a thousand classes have a tenth of it."""


def content_hash(record: Record) -> str:
    """SHA-256 of a record, by which later records name it as a parent."""
    return sha256_of(record)


def record_path(folder: Path, key: str, evaluation: str, preset: str) -> Path:
    """Where the record of a model (by its key, such as `smoke/mae/1/0`) and a preset of an evaluation lies."""
    return folder / key / f"{evaluation}.{preset}.json"


def write(record: Record, folder: Path) -> Path:
    """Write a record atomically to its place below `folder`; an older one of the same declaration is replaced.

    Raises:
        UserError: the place is taken by another declaration, or cannot be written.
    """
    experiment = record.experiment
    path = record_path(folder, record.key, record.evaluation.name, record.evaluation.preset)
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
        content = path.read_text(encoding="utf-8") if size <= MAX_BYTES else ""
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"record {path} cannot be read: {error}; restore or remove the file") from error
    if size > MAX_BYTES:
        raise UserError(f"record {path} has {size:,} bytes, wanted at most {MAX_BYTES:,}; remove the file")
    hint = "remove the file and evaluate again"
    plain = _parsed(content, str(path), hint)
    if isinstance(plain, dict):
        if (version := plain.get("schema_version")) in MIGRATABLE:
            raise UserError(
                f"record {path} has schema {version}, this code reads {SCHEMA}; make new ones with "
                f"`synrep results migrate FOLDER --out NEW`"
            )
        if isinstance(version, int) and 0 < version < SCHEMA:
            raise UserError(f"record {path} has schema {version}, this code reads {SCHEMA}; evaluate again")
        try:
            intact = version != SCHEMA or plain.get(CHECKSUM) == checksum(plain)
        except ValueError as error:
            raise UserError(f"record {path} holds a number without end, wanted finite ones; {hint}") from error
        if not intact:
            raise UserError(
                f"record {path} was changed since it was written: it does not have its checksum; restore the file, or "
                "remove it and evaluate again"
            )
    return parse_record(content, str(path), hint)


def read_all(folder: Path, log: LogLine = lambda _: None) -> list[Record]:
    """Every record below a folder once, in the order of their places; `log` is told of copies.

    Raises:
        UserError: no folder, no record in it, a file that is not a valid record, or two records for one place.
    """
    paths = sorted(folder.rglob("*.json"))
    if not paths:
        raise UserError(f"no records in {folder}; run an experiment first or name another folder")
    found: dict[tuple[str | int, ...], tuple[Path, Record]] = {}
    for path, record in zip(paths, map(read, paths)):
        other, known = found.setdefault(_identity(record), (path, record))
        if other is path:
            continue
        if known != record:
            raise UserError(f"{path} and {other} are two records for one place; keep one of them")
        log(f"{path} is a copy of {other}; it counts once")
    return [found[cell][1] for cell in sorted(found)]


def _identity(record: Record) -> tuple[str | int, ...]:
    """Of all that may be there once."""
    own, of = record.evaluation, record.experiment
    return of.name, of.version, record.seed, own.name, own.preset


def _parsed(content: str, what: str, hint: str) -> Any:
    """The plain JSON; None where it is none, which validation tells better."""
    if not content.strip():
        raise UserError(f"record {what} is empty; {hint}")
    try:
        return json.loads(content, parse_constant=_no_number)
    except json.JSONDecodeError:
        return None
    except RecursionError as error:
        raise UserError(f"record {what} is nested too deeply; {hint}") from error
    except ValueError as error:
        raise UserError(f"record {what}: {error}; {hint}") from error


def parse_record(content: str, what: str, hint: str) -> Record:
    """The record in a JSON text, which is not asked for a checksum.

    Raises:
        UserError: it is none, or breaks a rule; says `what` and the field, and the `hint`.
    """
    try:
        record = Record.model_validate_json(content)
    except ValidationError as error:
        raise UserError(f"record {what}: {_first_problem(error)}; {hint}") from error
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
