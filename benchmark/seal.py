"""A seal over a record's file: whether it is as it was written, and if not, which fields changed.

`sha256` is over the canonical JSON of all else in the file. `leaves` has four hex digits for each leaf (a number, a
text, a list), in the order of their paths, by which a changed field is named. A seal shows accidents and edits by hand;
whoever makes a record anew also seals it anew, so what is claimed is checked against the predictions
(`benchmark.validate`).
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher
from typing import Any

from benchmark.record import Seal

DIGITS = 4
FIELD = "seal"


def seal(content: Mapping[str, Any]) -> Seal:
    """The seal of a record's JSON; one that it already has is left out."""
    open_ = {name: value for name, value in content.items() if name != FIELD}
    return Seal(sha256=_sha256(open_), leaves="".join(_digest(*leaf) for leaf in leaves(open_)))


def broken(content: Mapping[str, Any]) -> list[str]:
    """The fields that changed since the JSON was sealed, by their paths; `seal` where it is none or does not fit."""
    found = content.get(FIELD)
    if not isinstance(found, dict) or set(found) != {"sha256", "leaves"}:
        return [FIELD]
    open_ = {name: value for name, value in content.items() if name != FIELD}
    if found["sha256"] == _sha256(open_):
        return []
    paths, digests = [], []
    for path, value in leaves(open_):
        paths.append(path)
        digests.append(_digest(path, value))
    text = str(found["leaves"])
    stored = [text[at : at + DIGITS] for at in range(0, len(text), DIGITS)]
    return list(_changed(paths, digests, stored)) or [FIELD]


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Path and value of every leaf, in the order of the names; an empty mapping is a leaf, a list is one."""
    if not isinstance(value, dict) or not value:
        yield path, value
        return
    for name in sorted(value):
        yield from leaves(value[name], f"{path}.{name}" if path else name)


def _text(content: Any) -> str:
    """The canonical text of plain JSON."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _sha256(content: Any) -> str:
    return hashlib.sha256(_text(content).encode()).hexdigest()


def _digest(path: str, value: Any) -> str:
    return hashlib.sha256(f"{path}={_text(value)}".encode()).hexdigest()[:DIGITS]


def _changed(paths: list[str], digests: list[str], stored: list[str]) -> Iterator[str]:
    for what, low, high, stored_low, stored_high in SequenceMatcher(None, digests, stored, False).get_opcodes():
        if what == "equal":
            continue
        yield from paths[low:high]
        gone = (stored_high - stored_low) - (high - low)
        if gone > 0:
            yield f"{gone} missing after {paths[high - 1]}" if high else f"{gone} missing at the beginning"
