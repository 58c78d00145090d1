"""The README shows what was generated, and names what exists; every link of a document leads somewhere."""

import re
from pathlib import Path

import pytest

from benchmark import plugins
from tests.test_docs import DOCUMENTS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def grid(markdown: str) -> str:
    """The rows of a Markdown table."""
    return "\n".join(line for line in markdown.splitlines() if line.startswith("|"))


def test_the_readme_shows_the_generated_table() -> None:
    ((source, shown),) = re.findall(r"<!-- begin: (\S+) -->\n(.*?)<!-- end -->", README, re.DOTALL)
    generated = grid((ROOT / source).read_text())
    assert generated and grid(shown) == generated, f"paste the rows of {source} between the markers of README.md"


def test_the_readme_names_every_room_and_plug_in() -> None:
    tree = README.split("## The tree")[1].split("## Add a method")[0]
    for folder in ("baselines", "benchmark.evaluations", "benchmark.experiments", "benchmark.models"):
        assert [name for name in plugins.names(folder) if not re.search(rf"\b{name}\b", tree)] == []
    for package in ("benchmark", "datasets_scripts"):
        rooms = [path for path in (ROOT / package).iterdir() if not path.name.startswith(("__", "py.typed"))]
        names = [f"{path.name}/" if path.is_dir() else path.name for path in rooms]
        assert [name for name in names if not re.search(rf"(?m)(^  | ){re.escape(name)}", tree)] == []


def anchors(text: str) -> set[str]:
    """The fragments of a document's headings, as GitHub and the documentation site form them."""
    titles = re.findall(
        r"^#+ (.+)$", re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE
    )
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


def dead_links(document: Path) -> list[str]:
    """Links of a document to files or headings that do not exist."""
    found = []
    for target, fragment in re.findall(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]*))?\)", document.read_text()):
        place = document.parent / target if target else document
        if not place.exists() or (fragment and place.suffix == ".md" and fragment not in anchors(place.read_text())):
            found.append(f"{target}#{fragment}" if fragment else target)
    return found


@pytest.mark.parametrize("document", ("CHANGELOG.md", *DOCUMENTS))
def test_every_link_leads_somewhere(document: str) -> None:
    assert dead_links(ROOT / document) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    document = tmp_path / "a.md"
    document.write_text("# One, two\n[a](#one-two) [b](#three) [c](b.md) [d](a.md#one-two) [e](a.md#x) [f](http://x)")
    assert dead_links(document) == ["#three", "b.md", "a.md#x"]
