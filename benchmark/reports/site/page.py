"""Records -> the leaderboard, one HTML file that asks for nothing else.

The data are in the page twice over, compressed: what the table shows, and what the page of a model shows, which is
unpacked when it is first asked for. Base64 holds no `<`, so nothing of a record can end the element it stands in; the
scripts put every text into the page as text. A content security policy allows these scripts and styles by their hashes
and no request at all. The same records give the same bytes, in whatever order they come.
"""

import base64
import functools
import hashlib
import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from benchmark.analysis.paired import PairedComparisons
from benchmark.records.schema import Record
from benchmark.reports.site.details import details
from benchmark.reports.site.models import Model, Sources, collect, described
from benchmark.reports.site.protocols import UNIT, protocols, table

SCRIPTS = ("base.js", "state.js", "table.js", "model.js", "chart.js", "cost.js", "groups.js", "page.js")
"""In the order in which they need each other."""
EARLY = "theme.js"
"""Runs before anything is drawn, so that a dark page is never white first."""
STYLE = "page.css"


@dataclass(frozen=True)
class Page:
    """The leaderboard, and what is in it."""

    html: str
    models: int
    records: int


def page(records: Iterable[Record], pairs: PairedComparisons, sources: Sources, records_url: str | None) -> Page:
    """The leaderboard of records, each given once; `records_url` is where their folder lies, as a link, or None.

    Raises:
        UserError: one name and version stands for two declarations.
    """
    models = collect(records)
    found = protocols(models)
    count = sum(len(model.records) for model in models)
    known = functools.cache(sources)
    shown = {
        "unit": UNIT,
        "records": count,
        "url": records_url,
        "models": _columns([described(model, known) for model in models]),
        "protocols": [table(protocol, pairs) for protocol in found],
    }
    return Page(_html(shown, details(found), models, count), len(models), count)


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """A list for each field, in the place of a mapping for each row."""
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}


def _html(shown: dict[str, Any], more: dict[str, Any], models: list[Model], records: int) -> str:
    early, script = _text(EARLY), "\n".join(map(_text, SCRIPTS))
    style = _text(STYLE)
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return template.from_string(_text("page.html")).render(
        models=len(models),
        records=records,
        policy="; ".join(
            (
                "default-src 'none'",
                f"script-src {_allowed(early)} {_allowed(script)}",
                f"style-src {_allowed(style)}",
                "img-src data:",
                "base-uri 'none'",
                "form-action 'none'",
            )
        ),
        early=early,
        script=script,
        style=style,
        shown=_packed(shown),
        more=_packed(more),
    )


def _text(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _allowed(content: str) -> str:
    """The source expression that allows an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _packed(value: Any) -> str:
    """JSON, compressed, as Base64. Zlib's format names neither a time of day nor a system, as gzip's does."""
    content = json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    return base64.b64encode(zlib.compress(content, level=9)).decode()
