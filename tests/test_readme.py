"""The README shows what was generated, and names what exists; every link of a document leads somewhere."""

import re
from pathlib import Path

import pytest

from benchmark import api
from tests.test_docs import DOCUMENTS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def grids(markdown: str) -> list[str]:
    """The tables of a Markdown text."""
    return re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE)


def test_the_readme_shows_a_generated_table() -> None:
    ((source, shown),) = re.findall(r"<!-- begin: (\S+) -->\n(.*?)<!-- end -->", README, re.DOTALL)
    assert shown == grids((ROOT / source).read_text())[0], f"paste the first table of {source} into README.md"


@pytest.mark.slow
def test_the_difference_in_the_readme_is_that_of_the_records() -> None:
    found = api.compare(
        "main-smoke-scenes-1x/stablerep-syn", "main-smoke-scenes-1x/simclr-syn", evaluation="linear_probe"
    )
    ((points, low, high),) = 100 * found[found.dataset == "scenes-shape"][["difference", "low", "high"]].to_numpy()
    assert found[found.dataset == "scenes-colour"].low.item() > 0, "ahead on color"
    assert found[found.dataset == "scenes-relation-probe"].high.item() < 0, "behind on the relation"
    assert f"on shape by {points:.1f} [{low:.1f}, {high:.1f}] points" in " ".join(README.split())


def test_the_readme_is_short_and_names_every_room() -> None:
    assert len(README.splitlines()) <= 150
    rooms = README.split("## The rooms")[1].split("## Where to go")[0]
    folders = [path for path in (ROOT / "benchmark").iterdir() if path.is_dir() and not path.name.startswith("__")]
    assert [path.name for path in folders if f"{path.name}/" not in rooms] == []


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
