"""Migration of records from schema 3 to schema 4, into another folder.

Schema 4 adds a code for the reason why a dataset was skipped and the split on which a probe's penalty was selected; a
checksum replaces the seal, whose SHA-256 is checked first. Measured values do not change. A predictions file is copied
only if it has the SHA-256 in its record.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from benchmark.errors import SkipCode, UserError
from benchmark.files import atomic_replace, file_sha256
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

    Records of schema 4 are copied unchanged. All records are validated before the first is written.

    Returns:
        Number of records.

    Raises:
        UserError: there are no records, or a record or predictions file is invalid.
    """
    paths = sorted(records.rglob("*.json"))
    if not paths:
        raise UserError(f"no records in {records}; choose another folder")
    contents = {path: _read(path) for path in paths}
    for path, content in contents.items():
        own = path.relative_to(records)
        for result in content["results"].values():
            if stored := result.get("predictions"):
                file = Path("predictions") / own.with_suffix("") / stored["file"]
                _copy(records.parent / file, out / file, stored["sha256"])
        store.write_with_checksum(out / "records" / own, content)
        store.read(out / "records" / own)
    return len(paths)


def _read(path: Path) -> dict[str, Any]:
    """Return the validated JSON of a record in the current schema, without a checksum."""
    hint = "restore or remove the file"
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"record {path}: cannot read the file: {error}; {hint}") from error
    if not isinstance(content, dict):
        raise UserError(f"record {path}: expected a JSON object, found {type(content).__name__}; {hint}")
    version = content.get("schema_version")
    sealed = {name: value for name, value in content.items() if name != "seal"}
    seal = content.get("seal")
    if version == store.SCHEMA:
        store.read(path)
    elif version in store.MIGRATABLE:
        content = {**sealed, "schema_version": store.SCHEMA}
        if isinstance(content.get("results"), dict):
            content["results"] = {name: _result(result) for name, result in content["results"].items()}
    else:
        raise UserError(
            f"record {path}: expected schema {' or '.join(map(str, (*store.MIGRATABLE, store.SCHEMA)))}, "
            f"found {version}; evaluate again"
        )
    try:
        text = json.dumps(content, allow_nan=False)
    except ValueError as error:
        raise UserError(f"record {path}: expected finite numbers, found NaN or one above 1e308; {hint}") from error
    store.parse_record(text, str(path), hint)
    if version != store.SCHEMA and (not isinstance(seal, dict) or seal.get("sha256") != store.checksum(sealed)):
        raise UserError(f"record {path}: the seal does not match, so the file was edited; {hint}")
    return content


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
