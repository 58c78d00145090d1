import pytest
from markdown_it import MarkdownIt

from benchmark.hub import cards

TEXTS = ["a|b", "`a|b`", "``|``", "|", "a\\|b", "*a* [b](c) <d> &amp; $e$", "two\nlines", "# head", "`"]


def cells(table: str) -> list[str]:
    tokens = MarkdownIt("commonmark").enable("table").parse(table)
    return ["".join(c.content for c in token.children or []) for token in tokens if token.type == "inline"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("show", [cards.escape, cards.code])
def test_a_cell_shows_exactly_its_text(show, text):
    shown = cells(cards.table(("name", "value"), ("k", show(text)), ("l", "end")))
    assert [cell.strip() for cell in shown] == ["name", "value", "k", " ".join(text.split()), "l", "end"]


def test_only_an_https_url_is_a_link():
    assert cards.link("https://example.org/a_b") == "<https://example.org/a_b>"
    assert cards.link("javascript:alert(1)") == r"javascript\:alert\(1\)"
    assert cards.link("https://a b") == r"https\:\/\/a b"
