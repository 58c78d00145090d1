"""Fidelity of built datasets: in the statistics, on the card and in `synrep data check`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from benchmark import schema
from benchmark.files import read_json
from datasets_scripts.building import build
from datasets_scripts.scenes import fidelity, grammar, renderer
from datasets_scripts.text_to_image import GeneratedImage
from datasets_scripts.toy import TOY, GrammarCaptions
from tests.cli.test_main import Synrep, synrep

__all__ = ["synrep"]

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class OnSand(renderer.Scenes):
    """Draws every scene on sand."""

    name: str = "on sand"

    def __call__(
        self, captions: Sequence[str], seeds: Sequence[int], guidance: Sequence[float]
    ) -> Iterator[GeneratedImage]:
        for caption, seed in zip(captions, seeds):
            shown = f"{caption.partition(' on ')[0]} on sand"
            yield GeneratedImage(renderer.render(shown, seed).image)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = replace(TOY, captions=GrammarCaptions(24), images_per_caption=2, text_to_image=OnSand())
    job = build.start(recipe, tmp_path_factory.mktemp("data"))
    return build.run_share(job, 0, 1, lambda *_: None)


def test_the_statistics_and_the_card_tell_the_fidelity(folder: Path) -> None:
    found = read_json(folder / schema.STATISTICS)["fidelity"]
    assert (found["captions"], found["images"], found["unknown"]) == (24, 48, 0)
    sand = sum(caption.text.endswith("on sand") for caption in GrammarCaptions(24)) / 24
    assert found["factors"]["background"]["value"] == pytest.approx(sand)
    assert found["factors"]["all"]["value"] <= sand
    assert found["factors"]["colour"]["value"] > 0.95
    assert {"position", "hue", "features"} <= found["reference"].keys()
    card = (folder / schema.CARD).read_text()
    assert f"| background | {100 * sand:.1f} | " in card
    assert "| near duplicates | 0.0 | " in card


def test_the_check_prints_it(folder: Path, synrep: Synrep) -> None:
    code, shown, _ = synrep("data", "check", folder, "--workers", 1)
    assert code == 0
    assert "fidelity of 48 images" in shown
    assert "relation" in shown


def test_a_part_of_the_captions_is_read_of_a_large_dataset(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fidelity, "MAX_IMAGES", 10)
    assert fidelity.of_dataset(folder)["images"] == 10


def test_only_captions_of_the_grammar_have_a_truth() -> None:
    assert fidelity.is_scenes(TOY.declaration())
    assert not fidelity.is_scenes({"captions": "cc3m@0123"})
    assert not fidelity.is_scenes({"name": "scenes-objects", "world": grammar.VERSION})
