"""Rows of caption files, and the text and JSON in them."""

import json
from codecs import BOM_UTF8
from dataclasses import dataclass
from typing import Any

MALFORMED, NOT_TEXT = "malformed", "not text"


@dataclass(frozen=True)
class Dropped:
    """A row without a usable caption: its text, which may be empty, and the reason."""

    text: str
    reason: str


Row = tuple[str, str] | Dropped
"""A caption as in the file, and the row id; or a row to drop."""


def decode(content: bytes) -> str:
    """Return text; bytes that are not valid UTF-8 become lone surrogates (Python's "surrogateescape")."""
    return content.decode("utf-8", "surrogateescape")


def escape_surrogates(text: str) -> str:
    """Return `text` with invalid Unicode escaped: a byte as \\xe9, half of a surrogate pair as \\ud83d."""
    if text.isascii():
        return text
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()


def escape_field(text: str) -> str:
    """Return `text` with invalid Unicode, tabs and newlines escaped, as stored in the captions table."""
    text = escape_surrogates(text)
    return text.replace("\t", "\\t").replace("\n", "\\n") if "\t" in text or "\n" in text else text


def parse_json(content: bytes) -> Any:
    """Return the value of a JSON document; a BOM is skipped.

    Raises:
        ValueError: the document is not valid JSON, or nested too deeply.
    """
    try:
        return json.loads(decode(content.removeprefix(BOM_UTF8)))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def json_text(value: Any) -> str | Dropped:
    """Return a caption from JSON: a text, the first of a list of texts, or "" for null."""
    first = value[0] if isinstance(value, list) and value and all(isinstance(text, str) for text in value) else value
    return "" if first is None else first if isinstance(first, str) else Dropped("", NOT_TEXT)
