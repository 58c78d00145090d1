"""A report as Markdown, and as one HTML page that loads nothing else.

The page has no scripts. Its style is that of the leaderboard, and its content security policy allows nothing but that.
"""

import re
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from benchmark.reports.model_report.document import Report, Section
from benchmark.reports.site.page import STYLE, csp_source, read_asset
from benchmark.reports.table import NO_VALUE, Table, markdown_grid, markdown_text, visible

NUMBER = re.compile(rf"[+-]?\d.*|{NO_VALUE}.*|")
"""A cell that is aligned to the right, if all cells of its column are."""


def markdown(report: Report) -> str:
    """Return the report as GitHub Markdown, without plots."""
    blocks = [f"# {markdown_text(report.title)}", markdown_text(report.lead)]
    for section in report.sections:
        blocks += [f"## {markdown_text(section.title)}", *_blocks(section)]
    return "\n\n".join(filter(None, blocks)) + "\n"


def html(report: Report) -> str:
    """Return the report as an HTML page."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(visible=visible, alignment=_alignment)
    style = read_asset(STYLE) + _read("report.css")
    policy = ("default-src 'none'", f"style-src {csp_source(style)}", "base-uri 'none'", "form-action 'none'")
    return environment.from_string(_read("report.html")).render(report=report, style=style, policy="; ".join(policy))


def _read(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _blocks(section: Section) -> list[str]:
    facts = "\n".join(f"- {markdown_text(name)}: {markdown_text(value)}" for name, value in section.facts)
    return [markdown_text(section.text), facts, *(block for part in section.parts for block in _table(part.table))]


def _table(table: Table) -> list[str]:
    footnotes = "\n".join(f"- {markdown_text(footnote)}" for footnote in table.footnotes)
    captions = map(markdown_text, table.captions)
    return [f"### {markdown_text(table.title)}", *captions, markdown_grid(table, _alignment(table)), footnotes]


def _alignment(table: Table) -> list[str]:
    """Return `right` for columns of numbers, `left` for texts."""
    return ["right" if all(NUMBER.fullmatch(cell.text) for cell in column) else "left" for column in zip(*table.rows)]
