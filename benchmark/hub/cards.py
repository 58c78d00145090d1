"""Markdown for repository cards on the Hub; special characters in texts are escaped."""

import re
import string
from collections.abc import Sequence

PUNCTUATION = re.compile(f"([{re.escape(string.punctuation)}])")


def escape(text: str) -> str:
    """Return Markdown that shows exactly `text`, on one line."""
    return PUNCTUATION.sub(r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """Return `text` as inline code on one line, which is valid in a table cell."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    shown = " ".join(text.split()).replace("|", "\\|")
    return f"{fence} {shown} {fence}" if "`" in text else f"`{shown}`"


def link(address: str) -> str:
    """Return a link if `address` is an https URL, otherwise its escaped text."""
    return f"<{address}>" if re.fullmatch(r"https://[^\s<>]+", address) else escape(address)


def table(*rows: Sequence[str]) -> str:
    """Return a Markdown table; the cells must be Markdown, and the first row is the header."""
    head, *rest = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rest))
