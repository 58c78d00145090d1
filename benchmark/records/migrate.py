"""Migration of records from schemas 3 and 4 to schema 5, into another folder.

Schema 4 added a code for the reason why a dataset was skipped and the split on which a probe's penalty was selected; a
checksum replaced the seal. The checksum of schema 5 is that of the file's lines; in schemas 3 and 4 it is that of the
JSON without spaces, and is checked first. Measured values do not change. A predictions file is copied only if it has
the SHA-256 in its record.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from benchmark.errors import SkipCode, UserError
from benchmark.files import atomic_replace, file_sha256, lock, remove_leftovers
from benchmark.records import store

CODES = {
    "neither in data/ nor in $SYNREP_DATA": SkipCode.MISSING_DATASET,
    ", found none; ": SkipCode.MISSING_DATASET,
    " wants in originals/": SkipCode.MISSING_DATASET,
    "no text tower": SkipCode.NO_TEXT_TOWER,
    "stored features only": SkipCode.NO_NETWORK,
    "has several classes, a neighbour's vote has one": SkipCode.NOT_APPLICABLE,
    "training images, fewer than": SkipCode.NOT_APPLICABLE,
    "has no train split to take examples from": SkipCode.NOT_APPLICABLE,
    "are needed": SkipCode.NOT_APPLICABLE,
}
"""Part of a skip reason of schema 3 -> its code; any other reason was a failure."""
SELECTED_ON_TEST = "THE TEST SPLIT"
"""Part of a probe's selection rule in schema 3 if it used the test split."""


def migrate(records: Path, out: Path) -> int:
    """Migrate the records of a folder and their predictions to `out/records` and `out/predictions`.

    Records of schema 5 are copied unchanged. All records are validated before the first is written.

    Returns:
        Number of records.

    Raises:
        UserError: there are no records, a record or predictions file is invalid, or `out` is the folder of the old
            records or has other records at their paths.
    """
    paths = sorted(path for path in records.rglob("*.json") if not path.name.startswith("."))
    if not paths:
        raise UserError(f"no records in {records}; choose another folder")
    new = out / "records"
    if new.resolve().is_relative_to(records.resolve()):
        raise UserError(f"expected another folder than that of {records}, found --out {out}; choose a new folder")
    contents = {path: _read(path) for path in paths}
    with lock(new):
        for folder in (new, out / "predictions"):
            remove_leftovers(folder)
        for path, content in contents.items():
            _require_unchanged(new / path.relative_to(records), content)
        for path, content in contents.items():
            _write(path.relative_to(records), content, records.parent, out)
    return len(paths)


def _require_unchanged(path: Path, content: dict[str, Any]) -> None:
    """Raise a UserError if another record is where this one is written."""
    if path.exists() and store.read(path) != store.parse_record(json.dumps(content), str(path), "restore it"):
        raise UserError(f"{path}: expected no record or the same one, found another; choose a new folder for --out")


def _write(own: Path, content: dict[str, Any], source: Path, out: Path) -> None:
    """Write a record, and its predictions before it.

    Args:
        own: path below the folder of records.
        content: JSON in the current schema, without a checksum.
        source: folder with the `predictions/` of the old record.
        out: folder of the new `records/` and `predictions/`.
    """
    for result in content["results"].values():
        if stored := result.get("predictions"):
            file = Path("predictions") / own.with_suffix("") / stored["file"]
            _copy(source / file, out / file, stored["sha256"])
    store.write_with_checksum(out / "records" / own, content)
    store.read(out / "records" / own)


def _read(path: Path) -> dict[str, Any]:
    """Return the validated JSON of a record in the current schema, without a checksum."""
    hint = "restore or remove the file"
    text, content = store.read_json(path, hint)
    if content is None:
        store.parse_record(text, str(path), hint)  # raises the error of the syntax
    if not isinstance(content, dict):
        raise UserError(f"record {path}: expected a JSON object, found {type(content).__name__}; {hint}")
    version = content.get("schema_version")
    if version not in (*store.MIGRATABLE, store.SCHEMA):
        raise UserError(
            f"record {path}: expected schema {' or '.join(map(str, (*store.MIGRATABLE, store.SCHEMA)))}, "
            f"found {'none' if version is None else version}; evaluate again"
        )
    if version == store.SCHEMA:
        store.read(path)
    field = "seal" if version == 3 else store.CHECKSUM
    rest = {name: value for name, value in content.items() if name != field}
    new = {**rest, "schema_version": store.SCHEMA}
    if version == 3 and isinstance(new.get("results"), dict):
        new["results"] = {name: _result(result) for name, result in new["results"].items()}
    try:
        text = json.dumps(new, allow_nan=False)
    except ValueError as error:
        raise UserError(f"record {path}: expected finite numbers, found NaN or one above 1e308; {hint}") from error
    store.parse_record(text, str(path), hint)
    if version != store.SCHEMA and _stored_hash(content.get(field)) != _content_hash(rest):
        raise UserError(f"record {path}: the {field} does not match, so the file was edited; {hint}")
    return new


def _stored_hash(value: Any) -> Any:
    """Return the SHA-256 in a checksum, or in a seal, which has further fields."""
    return value.get("sha256") if isinstance(value, dict) else value


def _content_hash(content: dict[str, Any]) -> str:
    """Return the checksum of schemas 3 and 4: the SHA-256 of the JSON with sorted keys and without spaces."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _result(result: Any) -> Any:
    """Return a result of schema 3 with the fields that schema 4 adds; validation reports other values."""
    if not isinstance(result, dict):
        return result
    if isinstance(reason := result.get("skipped"), str):
        found = (code for part, code in CODES.items() if part in reason)
        return {**result, "code": next(found, SkipCode.FAILED)}
    details = result.get("details")
    if isinstance(details, dict) and "selection" in details:
        selected_on = "test" if SELECTED_ON_TEST in str(details["selection"]) else "validation"
        return {**result, "details": {**details, "selected_on": selected_on}}
    return result


def _copy(old: Path, new: Path, sha256: str) -> None:
    if not old.is_file():
        raise UserError(f"{old} is missing, but its record names it; restore the file or evaluate again")
    if file_sha256(old) != sha256:
        raise UserError(f"{old}: expected the sha256 in its record, found another; restore the file or evaluate again")
    with atomic_replace(new) as temporary:
        shutil.copyfile(old, temporary)
