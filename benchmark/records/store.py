"""Reading and writing of records: one small JSON file for each (model, seed, evaluation, preset).

The path of a record is `<experiment name>/<version>/<seed>/<evaluation>.<preset>.json`. A record contains everything
needed to verify and reproduce its numbers, including the complete declaration and its fingerprint. The fingerprint is
compared when a record is replaced; it is not part of the path.

The second line of a file is its checksum: the SHA-256 of all other lines, as `sed 2d FILE | sha256sum` prints it.
"""

import contextlib
import gc
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from benchmark.errors import UserError
from benchmark.files import read_regular, write_bytes
from benchmark.progress import LogLine, Progress, silent
from benchmark.records.schema import Record, sha256_of

SCHEMA = 5
MIGRATABLE = (3, 4)
CHECKSUM = "checksum"
"""Field of a record's file that contains its checksum. It is not a field of the record."""
CHECKSUM_LINES = re.compile(rb'{\n  "checksum": "([0-9a-f]{64})",\n')
"""The first two lines of a file."""
MAX_BYTES = 4 * 2**20
"""Maximum size of a record in bytes; one with a thousand classes has a tenth of it."""
MAX_DEPTH = 32
"""Maximum depth of JSON whose checksum does not match; the records of this package have a third of it."""


def content_hash(record: Record) -> str:
    """Return the SHA-256 of a record, which later records store if it is a parent."""
    return sha256_of(record)


def record_path(folder: Path, key: str, evaluation: str, preset: str) -> Path:
    """Return the path of a record; `key` is the folder of its model, such as `smoke/mae/1/0`."""
    return folder / key / f"{evaluation}.{preset}.json"


def relative_path(record: Record) -> Path:
    """Return the path of a record below a folder of records; without suffix, that of its folder of predictions."""
    return record_path(Path(), record.key, record.evaluation.name, record.evaluation.preset)


def write(record: Record, folder: Path) -> Path:
    """Write a record atomically below `folder` and return its path; an older record is replaced.

    Raises:
        UserError: the existing record has another declaration, or the file cannot be written.
    """
    experiment = record.experiment
    path = folder / relative_path(record)
    if path.exists() and (stored := read(path).experiment.fingerprint) != experiment.fingerprint:
        hint = "increase the experiment's version" if record.training else "give the model another name"
        raise UserError(
            f"record {path}: expected fingerprint {experiment.fingerprint} in the existing file, found {stored}; "
            f"{hint} or choose another folder"
        )
    write_with_checksum(path, record.model_dump(mode="json"))
    return path


def write_with_checksum(path: Path, content: Mapping[str, Any]) -> None:
    """Write a record's JSON atomically, with its checksum."""
    rest = {name: value for name, value in content.items() if name != CHECKSUM}
    lines = (json.dumps(rest, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()
    write_bytes(path, f'{{\n  "{CHECKSUM}": "{checksum(lines)}",\n'.encode() + lines.removeprefix(b"{\n"))


def checksum(lines: bytes) -> str:
    """Return the SHA-256 of the lines of a record's file without the line of the checksum.

    It detects accidental edits. It is not a signature: a forged record can have a valid checksum.
    """
    return hashlib.sha256(lines).hexdigest()


def read(path: Path) -> Record:
    """Return the record in a file.

    Raises:
        UserError: the file is missing, not a regular file, too large, empty, truncated, of an older schema or of none,
            edited, or invalid; the message names the file and the field.
    """
    hint = "remove the file and evaluate again"
    content = _read_bytes(path)
    lines = _intact_lines(content)
    if lines is not None:
        with contextlib.suppress(ValidationError, UserError):  # explained below
            return Record.model_validate_json(lines)
    text, data = _read_text(content, path, hint)
    if isinstance(data, dict):
        _require_schema(data.get("schema_version"), path)
        if lines is None:
            raise UserError(
                f"record {path}: the checksum does not match, so the file was edited; restore it, or remove it and "
                "evaluate again"
            )
        _require_finite(data, path, hint)
    return parse_record(text if lines is None else lines.decode(), str(path), hint)


def _intact_lines(content: bytes) -> bytes | None:
    """Return the lines of a file without that of its checksum, or None if this is not their checksum."""
    found = CHECKSUM_LINES.match(content)
    lines = b"{\n" + content[found.end() :] if found else b""
    return lines if found and checksum(lines) == found[1].decode() else None


def read_json(path: Path, hint: str) -> tuple[str, Any]:
    """Return the text of a record's file and its JSON, which is None if the syntax is invalid.

    Raises:
        UserError: the file cannot be read, is empty, nested too deeply, or contains NaN; the message ends with `hint`.
    """
    return _read_text(_read_bytes(path), path, hint)


def _read_bytes(path: Path) -> bytes:
    try:
        return read_regular(path, MAX_BYTES)
    except UserError as error:
        raise UserError(f"record {error}") from error


def _read_text(content: bytes, path: Path, hint: str) -> tuple[str, Any]:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"record {path}: cannot read the file: {error}; {hint}") from error
    return text, _load_json(text, str(path), hint)


def _require_finite(data: Any, path: Path, hint: str) -> None:
    try:
        json.dumps(data, allow_nan=False)
    except ValueError as error:
        raise UserError(f"record {path}: expected finite numbers, found an infinite one; {hint}") from error


def _require_schema(version: object, path: Path) -> None:
    if version == SCHEMA:
        return
    expected = f"record {path}: field schema_version: expected schema {SCHEMA}, found"
    if version in MIGRATABLE:
        raise UserError(f"{expected} {version}; run `synrep results migrate FOLDER --out NEW`")
    if isinstance(version, int):
        raise UserError(f"{expected} {version}; {'update this package' if version > SCHEMA else 'evaluate again'}")
    found = "none" if version is None else repr(version)
    raise UserError(f"{expected} {found:.60}; remove the file and evaluate again")


def read_all(folder: Path, log: LogLine = silent, progress: Progress = silent) -> list[Record]:
    """Return every record below a folder once, sorted by experiment, seed and evaluation; copies are logged.

    Progress is counted in records.

    Raises:
        UserError: there are no records, a record is invalid, or two different records have the same identity.
    """
    paths = sorted(folder.rglob("*.json"))
    if not paths:
        raise UserError(f"no records in {folder}; name a folder with records, or run the command in a checkout")
    records = []
    with without_collection():
        for done, path in enumerate(paths, start=1):
            records.append(read(path))
            progress(done, len(paths), "")
    found: dict[tuple[str | int, ...], tuple[Path, Record]] = {}
    for path, record in zip(paths, records, strict=True):
        other, known = found.setdefault(_identity(record), (path, record))
        if other is path:
            continue
        if known != record:
            raise UserError(
                f"{path} and {other} are two records for one place (experiment, seed, evaluation and preset) with "
                "different content; remove one of them"
            )
        log(f"{path} is a copy of {other}; it counts once")
    return [found[identity][1] for identity in sorted(found)]


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Pause the garbage collector, which visits all objects again and again while many are made that all remain."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _identity(record: Record) -> tuple[str | int, ...]:
    """Return the fields that identify a measurement."""
    experiment, evaluation = record.experiment, record.evaluation
    return experiment.name, experiment.version, record.seed, evaluation.name, evaluation.preset


def _load_json(content: str, what: str, hint: str) -> Any:
    """Return the parsed JSON, or None if the syntax is invalid, for which validation has a better message."""
    if not content.strip():
        raise UserError(f"record {what}: the file is empty; {hint}")
    try:
        data = json.loads(content, parse_constant=_reject_constant)
        if _is_deeper(data, MAX_DEPTH):
            raise RecursionError
    except json.JSONDecodeError:
        return None
    except RecursionError as error:
        raise UserError(f"record {what}: the JSON is nested too deeply; {hint}") from error
    except ValueError as error:
        raise UserError(f"record {what}: {error}; {hint}") from error
    return data


def _is_deeper(value: Any, levels: int) -> bool:
    """Return True if containers are nested in more than `levels` levels."""
    if not isinstance(value, dict | list):
        return False
    parts = value.values() if isinstance(value, dict) else value
    return not levels or any(_is_deeper(part, levels - 1) for part in parts)


def parse_record(content: str, what: str, hint: str) -> Record:
    """Return the record in a JSON text; its checksum is not verified.

    Raises:
        UserError: the record is invalid; the message contains `what`, the field and the `hint`.
    """
    try:
        return Record.model_validate_json(content)
    except ValidationError as error:
        raise UserError(f"record {what}: {_first_problem(error)}; {hint}") from error


def _reject_constant(name: str) -> None:
    raise ValueError(f"expected finite numbers, found {name}")


def _first_problem(error: ValidationError) -> str:
    """Return the first validation error in one line."""
    problem = error.errors(include_url=False)[0]
    if problem["type"] == "json_invalid":
        return f"not valid JSON ({problem['msg']})"
    location = list(problem["loc"])
    if location[:1] == ["results"] or location[:2] == ["experiment", "declaration"]:
        del location[2:3]  # the tag of the union is not a field of the file
    field = ".".join(map(str, location)) or "(root)"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    found = "" if isinstance(problem["input"], dict | BaseModel) else f", found {problem['input']!r:.60}"
    return f"field {field}: {problem['msg'].removeprefix('Value error, ')}{found}{more}"
