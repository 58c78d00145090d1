"""Markdown of the cards that the Hub shows: whatever a text holds, it is shown as it is."""

import re
import string
from collections.abc import Sequence

PUNCTUATION = re.compile(f"([{re.escape(string.punctuation)}])")


def escape(text: str) -> str:
    """Return Markdown that shows exactly `text`, on one line."""
    return PUNCTUATION.sub(r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """Return `text` in backticks, on one line, as it may stand in a cell of a table."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    shown = " ".join(text.split()).replace("|", "\\|")
    return f"{fence} {shown} {fence}" if "`" in text else f"`{shown}`"


def link(address: str) -> str:
    """Return an address to click on, or its text where it is none."""
    return f"<{address}>" if re.fullmatch(r"https://[^\s<>]+", address) else escape(address)


def table(*rows: Sequence[str]) -> str:
    """Return a table of cells that are Markdown already; the first row is the header."""
    head, *rest = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rest))
