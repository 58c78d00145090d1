"""The pages of the protocols say what the code does: tables are generated, and names, commands and links exist."""

import itertools
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmark import evaluations, plugins
from benchmark.evaluations import knn, presets
from benchmark.evaluations.aro import Aro
from benchmark.evaluations.datasets.catalog import DATASETS
from benchmark.evaluations.fairface import FairFace
from benchmark.evaluations.few_shot import FewShot
from benchmark.evaluations.retrieval import Retrieval
from benchmark.evaluations.segmenters.protocols import DinoV3Linear
from benchmark.evaluations.solvers.penalties import INVERSE_PENALTIES
from benchmark.evaluations.sugarcrepe import SugarCrepe
from tests.fixtures.protocol_pages import BLOCK, PAGES, everything, filled, presets_block, settings
from tests.test_docs import inline, parsed, shown, words_of

NAMES = plugins.names(evaluations.__name__)
SECTIONS = [
    "What it measures",
    "Origin",
    "Steps",
    "Presets",
    "Departures",
    "Numbers to compare with",
    "Pitfalls",
    "Run it",
    "Cite",
]
EVERY_PAGE = sorted(PAGES.glob("*.md"))


def page(name: str) -> str:
    """The text of a page."""
    return (PAGES / f"{name}.md").read_text()


def prose(text: str) -> str:
    """The text of a page without its generated parts."""
    return BLOCK.sub("", text)


def test_every_evaluation_has_a_page_and_every_page_an_evaluation() -> None:
    assert sorted(path.stem for path in EVERY_PAGE) == sorted([*NAMES, "index"])


@pytest.mark.parametrize("path", EVERY_PAGE, ids=lambda path: path.stem)
def test_generated_parts_are_up_to_date(path: Path) -> None:
    text = path.read_text()
    assert filled(text, path.stem) == text, "run: python -m tests.fixtures.protocol_pages"


@pytest.mark.parametrize("name", NAMES)
def test_every_page_has_the_same_sections_and_the_generated_parts(name: str) -> None:
    text = page(name)
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS
    kinds = [kind.split()[0] for kind, _ in BLOCK.findall(text)]
    assert {"presets", "datasets"} <= set(kinds)
    assert ("published" in kinds) != ("### Published elsewhere\n\nNone." in text)
    assert ("ours" in kinds) != ("### Measured here\n\nNone." in text)


def test_a_changed_default_makes_a_page_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    before = presets_block("knn")
    for changed in (replace(knn.Knn(), temperature=0.1), replace(knn.Knn(), neighbours=(10, 20, 100, 200))):
        monkeypatch.setattr(knn, "EVALUATIONS", (changed, knn.CroppedKnn()))
        assert presets_block("knn") != before
    monkeypatch.setattr(knn, "EVALUATIONS", (knn.Knn(), knn.CroppedKnn()))
    assert presets_block("knn") == before
    monkeypatch.setattr(knn.Knn, "version", 2)
    assert presets_block("knn") != before


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_explained_in_words(name: str) -> None:
    words = set(re.findall(r"`([^`\n]+)`", prose(page(name))))
    for protocol in presets(name).values():
        for setting, _ in settings(protocol):
            assert set(setting.split(".")) <= words, f"{name} does not explain {setting}"


@pytest.mark.parametrize("path", EVERY_PAGE, ids=lambda path: path.stem)
def test_datasets_that_are_named_exist(path: Path) -> None:
    for word in re.findall(r"`([\w.-]+)`", path.read_text()):
        if re.match(r"(scenes|aro|fairface)-|.+-mteb$", word):
            assert word in DATASETS, word


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_commands_measure_this_evaluation(name: str) -> None:
    commands = [words for command in shown(page(name)) for words in words_of(command)]
    measuring = [words for words in commands if words[0] == "evaluate"]
    assert measuring
    for words in measuring:
        options = dict(itertools.pairwise(words))
        assert options["--evaluation"] == name
        protocol = presets(name)[options.get("--preset", next(iter(presets(name))))]
        assert set(options.get("--datasets", protocol.datasets[0]).split(",")) <= set(protocol.datasets)


@pytest.mark.slow
@pytest.mark.parametrize("path", EVERY_PAGE, ids=lambda path: path.stem)
def test_commands_have_the_words_that_the_command_line_knows(path: Path) -> None:
    text = path.read_text()
    for command in (*shown(text), *inline(text)):
        for words in words_of(command):
            parsed(words)


def test_the_table_of_all_protocols() -> None:
    rows = {
        match[1]: line for line in page("index").splitlines() if (match := re.match(r"\| \[`(\w+)`\]\(\1\.md\)", line))
    }
    assert sorted(rows) == sorted(NAMES)
    for name, row in rows.items():
        assert re.findall(r"`([^`]+)`", row.split(" | ")[2]) == list(presets(name))
    least, most = (100 * Retrieval().chance("mscoco", {"unit": np.repeat(range(n), 5)}) for n in (5000, 1000))
    two, five = (100 * Aro().chance(dataset, {}) for dataset in ("scenes-relation", "scenes-order"))
    fourteen = 100 * FairFace().chance("fairface-0.25", {"label": np.arange(14)})
    floors = {
        "few_shot": f"{100 * FewShot().chance('digits', {}):.0f} %",
        "retrieval": f"{least:.1f} to {most:.1f} %",
        "fairface": f"{fourteen:.1f} %",
        "aro": f"{two:.0f} % or {five:.0f} %",
        "sugarcrepe": f"{100 * SugarCrepe().chance('sugarcrepe', {}):.0f} %; ",
    }
    assert [name for name, floor in floors.items() if floor not in rows[name]] == []
    assert {name for protocol in everything() for name in protocol.datasets} == set(
        re.findall(r"^\| `([^`]+)`", page("index").split("## Datasets")[1], re.MULTILINE)
    )


def test_formulas_of_the_text_are_those_of_the_code() -> None:
    assert "10^(-5 + 11 i / 44)" in page("linear_probe")
    np.testing.assert_allclose(INVERSE_PENALTIES, 10 ** (-5 + 11 * np.arange(45) / 44), rtol=1e-12)
    above, below = DinoV3Linear().stride
    assert "341, 345 or 42" in page("segmentation")
    assert [side * above // below for side in (512, 518, 64)] == [341, 345, 42]


@pytest.mark.parametrize("path", EVERY_PAGE, ids=lambda path: path.stem)
def test_links_lead_somewhere_and_lines_are_short(path: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", path.read_text()):
        linked = path.parent / (target or path.name)
        headings = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
        slugs = {re.sub(r"[^\w\s-]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
        assert not anchor or anchor in slugs, f"{path.name}: {target}#{anchor}"
    long = [
        line for line in prose(path.read_text()).splitlines() if len(line) > 120 and not line.strip().startswith("|")
    ]
    assert long == []
