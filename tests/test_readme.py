"""The README shows what was generated, and names what exists."""

import re
from pathlib import Path

from benchmark import plugins

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


def test_every_link_of_the_readme_leads_somewhere() -> None:
    for document in (
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "results/README.md",
        "docs/datasets.md",
        "docs/evaluation.md",
        "docs/results.md",
        "docs/scenes.md",
        "docs/training.md",
    ):
        place = ROOT / document
        for target in re.findall(r"\]\(((?!http)[^)#]+)(?:#[^)]*)?\)", place.read_text()):
            assert (place.parent / target).exists(), f"{document} links to {target}, which does not exist"
