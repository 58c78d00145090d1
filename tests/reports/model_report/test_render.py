"""Reports as Markdown and HTML: no text of a record is markup, and the page loads nothing."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from benchmark.reports.model_report import render
from benchmark.reports.model_report.document import Report
from benchmark.reports.table import HIDDEN
from tests.fixtures.site_records import HOSTILE, grouped, hostile, on
from tests.reports.model_report.conftest import everywhere, made, measured, record

SMALL = everywhere({"digits": measured(0.5), "pets": measured(0.8, details={"selected_on": "test"})})


class Elements(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def report_of(kind: str) -> Report:
    """Return the report on a model whose every text is hostile."""
    text = HOSTILE[kind]
    (one,) = [each for each in hostile() if each.experiment.name == f"folder/{text}"]
    groups = record("groups", {text: grouped({text: 0.2, f"{text}2": 0.7})}, evaluation="fairface")
    classes = record("classes", {text: on("x", 0.5, repo=text)}, evaluation="knn")
    others = [each.model_copy(update={"experiment": one.experiment}) for each in (groups, classes)]
    return made([one, *others], one.experiment.name)


@pytest.fixture(params=sorted(HOSTILE))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_no_text_of_a_record_is_an_element_of_the_page(kind: str) -> None:
    html = render.html(report_of(kind))
    assert not HIDDEN.search(html)
    tags = {tag for tag, _ in Elements(html).found}
    assert tags <= {
        "html", "head", "meta", "title", "style", "body", "main", "footer", "section", "details", "summary", "h1", "h2",
        "h3", "p", "code", "bdi", "dl", "div", "dt", "dd", "ul", "li", "table", "thead", "tbody", "tr", "th", "td",
        "figure", "svg", "path", "rect", "circle", "text", "span",
    }  # fmt: skip
    assert all(not name.startswith("on") for _, attributes in Elements(html).found for name in attributes)


def test_the_page_shows_the_text_of_a_record_as_it_is() -> None:
    shown = Elements(render.html(report_of("quotes"))).text
    assert shown.count(HOSTILE["quotes"]) >= 8


def test_no_text_of_a_record_is_markup_in_markdown(kind: str) -> None:
    shown = render.markdown(report_of(kind))
    assert not HIDDEN.search(shown.replace("\n", "")) and "\r" not in shown
    assert not re.search(r"(?<!\\)[<>`~$]", shown)
    heads = [line for line in shown.splitlines() if re.match(r"#+ ", line)]
    assert len(heads) == len([line for line in shown.splitlines() if line.startswith("#")])
    tables = re.findall(r"(?:^\|.*\n)+", shown, re.MULTILINE)
    assert tables
    for table in tables:
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(cells) == 1, "a text has ended its cell"


def test_names_with_underscores_and_bars_are_readable_in_markdown() -> None:
    one = record("a_b", {"x|y": on("x", 0.5)}, name="folder/a_b")
    shown = render.markdown(made([one], "folder/a_b"))
    assert shown.startswith("# folder/a_b\n") and r"| x\|y" in shown


def test_both_formats_have_the_same_texts() -> None:
    of = made(SMALL, "smoke/a")
    page, shown = Elements(render.html(of)).text, render.markdown(of)
    for section in of.sections:
        texts = [section.title, section.text, *(text for fact in section.facts for text in fact)]
        for part in section.parts:
            texts += [part.table.title, *part.table.columns, *part.table.captions, *part.table.footnotes]
            texts += [cell.text for row in part.table.rows for cell in row]
        for text in texts:
            assert text in page
            assert text in shown.replace("\\", "").replace("&lt;", "<")


def test_the_page_loads_nothing_and_allows_only_its_own_style() -> None:
    html = render.html(made(SMALL, "smoke/a"))
    assert not re.search(r"https?:|//|url\(|@import", re.sub(r"/\*.*?\*/", "", html))
    found = Elements(html).found
    assert not any({"src", "href", "srcset", "style", "action"} & attributes.keys() for _, attributes in found)
    assert not {"script", "link", "img", "iframe", "object", "base"} & {tag for tag, _ in found}
    (policy,) = [
        attributes["content"] for tag, attributes in found if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def test_a_plot_has_a_mark_and_an_interval_for_every_model() -> None:
    found = Elements(render.html(made(SMALL, "smoke/a"))).found
    circles = [float(attributes["cx"] or 0) for tag, attributes in found if tag == "circle"]
    assert circles == [190 + 5 * 50.0, 190 + 5 * 80.0, 6.0], "two datasets, and the legend"
    lines = [attributes["d"] for tag, attributes in found if tag == "path" and attributes.get("class") == "m0"]
    assert lines == ["M430.0 14H450.0", "M580.0 52H600.0"]
    assert len([tag for tag, _ in found if tag == "rect"]) == 3, "of the first baseline"


def test_a_baseline_without_a_result_has_no_mark() -> None:
    found = everywhere({"digits": measured(0.5)})
    html = render.html(made([found[0], everywhere({"other": measured(0.5)})[1]], "smoke/a"))
    assert "<circle" in html and "<rect" not in html


def test_a_report_without_a_result_can_be_shown() -> None:
    (one,) = [each for each in hostile() if each.experiment.method == HOSTILE["controls"]]
    skipped = one.model_copy(update={"results": {"absent": one.results["absent"]}})
    of = made([skipped], one.experiment.name)
    assert "Nothing was measured." in render.markdown(of)
    assert "Nothing was measured." in render.html(of) and "<svg" not in render.html(of)
