"""Records of schema 2 -> records of schema 3, in another folder: sealed, their predictions stored small.

Nothing that was measured changes. A predictions file is opened only where it has the sha256 that its record says; what
is written is read back and must hold the same values.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmark import predictions, results
from benchmark.errors import UserError


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
        own = path.relative_to(records).with_suffix("")
        for result in content["results"].values():
            if stored := result.get("predictions"):
                old, new = (folder / "predictions" / own / stored["file"] for folder in (records.parent, out))
                result["predictions"] = _packed(old, new, stored)
        content["schema_version"] = results.SCHEMA
        results.write_sealed(out / "records" / path.relative_to(records), content)
        results.read(out / "records" / path.relative_to(records))
    return len(paths)


def _read(path: Path) -> dict[str, Any]:
    """The JSON of a record that holds all that one of this schema does, but for its number and its seal."""
    cure = "restore or remove the file"
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"record {path} cannot be read: {error}; {cure}") from error
    if not isinstance(content, dict):
        raise UserError(f"record {path} is {type(content).__name__}, wanted a JSON object; {cure}")
    version = content.get("schema_version")
    if version != results.SCHEMA and version not in results.OLDER:
        raise UserError(f"record {path} has schema {version}; those of {results.OLDER} can be migrated: evaluate again")
    try:
        text = json.dumps({**content, "schema_version": results.SCHEMA}, allow_nan=False)
    except ValueError as error:
        raise UserError(f"record {path} holds a number that is not finite (NaN, or beyond 1e308); {cure}") from error
    results.validated(text, str(path), cure)
    if version == results.SCHEMA:
        results.read(path)
    return content


def _packed(old: Path, new: Path, stored: dict[str, str]) -> dict[str, str]:
    if not old.is_file():
        raise UserError(f"{old} is missing: its record cannot be migrated without; restore it or evaluate again")
    if predictions.sha256(old) != stored["sha256"]:
        raise UserError(f"{old} is not the file of its record; restore it or evaluate again")
    columns = predictions.read_file(old)
    written = predictions.write(new, columns)
    again = predictions.read_file(new)
    assert list(columns) == list(again) and all(np.array_equal(columns[name], again[name]) for name in columns)
    return written.model_dump()
