"""The leaderboard: one self-contained HTML file, made from records.

The page contains two compressed data blocks: one for the table, and one for the model pages, which is unpacked on first
use. Base64 has no `<`, so no text of a record can end its element; the scripts insert every text as a text node. A
content security policy allows these scripts and styles by their hashes, and no requests. The same records produce the
same bytes, in any order.
"""

import base64
import functools
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from benchmark.analysis.paired import PairedComparisons
from benchmark.records.schema import Record
from benchmark.reports.build import main_comparison
from benchmark.reports.published.rows import TOY_PREFIX
from benchmark.reports.site.curves import curves
from benchmark.reports.site.details import details
from benchmark.reports.site.models import Sources, collect, describe, is_superseded
from benchmark.reports.site.protocols import UNIT, collect_protocols, protocol_data

SCRIPTS = (
    "base.js", "state.js", "table.js", "share.js", "protocols.js", "model.js", "chart.js", "cost.js", "groups.js",
    "curves.js", "page.js",
)  # fmt: skip
"""Scripts in dependency order."""
EARLY_SCRIPT = "theme.js"
"""Script that runs before the first paint, so that a dark page does not flash white."""
STYLE = "page.css"


@dataclass(frozen=True)
class Page:
    """The leaderboard page, and the number of its models and records."""

    html: str
    models: int
    records: int


@dataclass(frozen=True)
class Links:
    """Links from the page."""

    records: str | None = None
    """Link to the folder of records."""
    docs: Mapping[str, str] = field(default_factory=dict)
    """Evaluation -> link to its documentation."""


def page(
    records: Iterable[Record],
    pairs: PairedComparisons,
    sources: Sources,
    links: Links,
    trade_off: Any = None,
) -> Page:
    """Return the leaderboard page.

    Args:
        records: the records, each once.
        pairs: paired differences between models.
        sources: function that returns the metadata of a training dataset.
        links: links from the page.
        trade_off: fidelity and diversity over guidance, as written by `datasets_scripts.scenes.trade_off`.

    Raises:
        UserError: records of one name and version have different declarations.
    """
    all_records = list(records)
    models = collect(all_records)
    protocols = collect_protocols(models)
    count = sum(len(model.records) for model in models)
    cached_sources = functools.cache(sources)
    shown = {
        "unit": UNIT,
        "records": count,
        "url": links.records,
        "main": main_comparison(all_records) if all_records else "",
        "models": _columns(
            [
                describe(model, cached_sources) | {"superseded": is_superseded(model, models, cached_sources)}
                for model in models
            ]
        ),
        "protocols": [protocol_data(protocol, pairs, links.docs) for protocol in protocols],
        "curves": curves(all_records, trade_off),
    }
    scenes = any(column.dataset.startswith(TOY_PREFIX) for protocol in protocols for column in protocol.columns)
    html = _html(shown, details(protocols), models=len(models), records=count, scenes=scenes)
    return Page(html, len(models), count)


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return rows as columns: a list for each field."""
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}


def _html(shown: dict[str, Any], more: dict[str, Any], **facts: Any) -> str:
    """Return the page; `facts` are the variables of its template."""
    early, script = read_asset(EARLY_SCRIPT), "\n".join(map(read_asset, SCRIPTS))
    style = read_asset(STYLE)
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return template.from_string(read_asset("page.html")).render(
        **facts,
        policy="; ".join(
            (
                "default-src 'none'",
                f"script-src {csp_source(early)} {csp_source(script)}",
                f"style-src {csp_source(style)}",
                "img-src data:",
                "base-uri 'none'",
                "form-action 'none'",
            )
        ),
        early=early,
        script=script,
        style=style,
        shown=_pack(shown),
        more=_pack(more),
    )


def read_asset(name: str) -> str:
    """Return the text of a file of this folder: a script, a style or a template."""
    return (files(__package__) / name).read_text(encoding="utf-8")


def csp_source(content: str) -> str:
    """Return the source expression of the content security policy that allows an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _pack(value: Any) -> str:
    """Return compressed JSON as Base64. Zlib's format is deterministic; gzip's has a time and an operating system."""
    content = json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    return base64.b64encode(zlib.compress(content, level=9)).decode()
