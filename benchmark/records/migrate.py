"""Records of schema 3 -> records of schema 4, in another folder.

Schema 4 says by a code why a dataset was not measured, and which split a probe's penalty was selected on; one checksum
takes the place of the seal. Nothing that was measured changes. A predictions file is copied only where it has the
sha256 that its record says.
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
"""What a reason of schema 3 held -> its code; any other reason was a failure."""
SELECTED_ON_TEST = "THE TEST SPLIT"
"""What the selection rule of a probe of schema 3 held where it used the test split."""


def migrate(records: Path, out: Path) -> int:
    """Write every record of a folder, and the predictions beside it, to `out/records` and `out/predictions`.

    Records of this schema are taken over as they are. All are checked before the first is written. The number of
    records.

    Raises:
        UserError: no records, or a record or predictions file that is not what it says.
    """
    paths = sorted(records.rglob("*.json"))
    if not paths:
        raise UserError(f"no records in {records}; name another folder")
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
    """The JSON of a record, as this schema has it, without a checksum."""
    hint = "restore or remove the file"
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"record {path} cannot be read: {error}; {hint}") from error
    if not isinstance(content, dict):
        raise UserError(f"record {path} is {type(content).__name__}, wanted a JSON object; {hint}")
    version = content.get("schema_version")
    if version == store.SCHEMA:
        store.read(path)
    elif version in store.MIGRATABLE:
        content = {name: value for name, value in content.items() if name != "seal"}
        content["schema_version"] = store.SCHEMA
        if isinstance(content.get("results"), dict):
            content["results"] = {name: _result(result) for name, result in content["results"].items()}
    else:
        raise UserError(
            f"record {path} has schema {version}; those of {store.MIGRATABLE} can be migrated: evaluate again"
        )
    try:
        text = json.dumps(content, allow_nan=False)
    except ValueError as error:
        raise UserError(f"record {path} holds a number that is not finite (NaN, or beyond 1e308); {hint}") from error
    store.parse_record(text, str(path), hint)
    return content


def _result(result: Any) -> Any:
    """A result of schema 3 with what schema 4 adds; what is no result is left to validation."""
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
        raise UserError(f"{old} is missing: its record cannot be migrated without; restore it or evaluate again")
    if file_sha256(old) != sha256:
        raise UserError(f"{old} is not the file of its record; restore it or evaluate again")
    with atomic_replace(new) as temporary:
        shutil.copyfile(old, temporary)
