"""The trade-off over guidance, with the renderer standing in for a model that obeys at high guidance only."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmark.files import read_json
from datasets_scripts import recipe
from datasets_scripts.scenes import grammar, renderer, trade_off
from datasets_scripts.text_to_image import GeneratedImage

pytestmark = pytest.mark.slow


class Obedient(renderer.Scenes):
    """Draws another background below guidance 2, and always the same image of a caption above 8; fails now and then."""

    def __call__(
        self, captions: Sequence[str], seeds: Sequence[int], guidance: Sequence[float]
    ) -> Iterator[GeneratedImage]:
        for caption, seed, value in zip(captions, seeds, guidance):
            if seed % 13 == 0:
                yield GeneratedImage(None, "not finite")
                continue
            other = "sand" if grammar.parse(caption).background != "sand" else "grass"
            shown = caption if value >= 2 else f"{caption.partition(' on ')[0]} on {other}"
            yield GeneratedImage(renderer.render(shown, 1 if value > 8 else seed).image)


@pytest.fixture(scope="module")
def found() -> dict:
    return trade_off.trade_off(Obedient(), 12, 4, (1.0, 3.0, 12.0), lambda line: None)


def test_fidelity_and_diversity_follow_what_the_model_does(found: dict) -> None:
    low, middle, high = found["guidance"].values()
    assert low["factors"]["background"]["value"] == low["factors"]["all"]["value"] == 0
    assert low["factors"]["colour"]["value"] == 1
    assert middle["factors"]["background"]["value"] == 1
    assert middle["diversity"]["features"]["value"] == pytest.approx(
        found["rendered"]["diversity"]["features"]["value"], rel=0.3
    )
    assert high["diversity"]["features"]["value"] == pytest.approx(0, abs=1e-3)
    assert middle["near_duplicates"]["value"] == 0
    assert high["near_duplicates"]["value"] == 1


def test_captions_and_seeds_are_the_same_at_every_guidance() -> None:
    drawn = []

    class Recorder(Obedient):
        def __call__(self, captions, seeds, guidance):
            drawn.append((list(captions), list(seeds)))
            assert len(set(guidance)) == 1
            return super().__call__(captions, seeds, guidance)

    trade_off.trade_off(Recorder(), 2, 2, (1.0, 3.0), lambda line: None)
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0][1])) == 4


def test_the_files_are_equal_for_equal_numbers(found: dict, tmp_path: Path) -> None:
    for name in ("first", "second"):
        trade_off.write(found, trade_off.contact_sheet(Obedient()), tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert files == ["contact_sheet.png", "trade_off.json", "trade_off.md", "trade_off.png", "trade_off.svg"]
    for name in files:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    assert read_json(tmp_path / "first" / "trade_off.json") == found
    trade_off.write(
        read_json(tmp_path / "first" / "trade_off.json"), trade_off.contact_sheet(Obedient()), tmp_path / "read"
    )
    for name in files:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "read" / name).read_bytes(), (
            "from the committed file"
        )
    assert set(found["rendered"]["factors"]) == set(trade_off.FACTORS)
    assert set(found["rendered"]["diversity"]) == set(trade_off.SPREADS)
    text = (tmp_path / "first" / "trade_off.md").read_text()
    assert "| 12 | " in text
    assert "| rendered | " in text


def test_the_contact_sheet_has_a_column_per_caption_and_a_row_per_guidance() -> None:
    sheet = np.asarray(trade_off.contact_sheet(Obedient()))[::2, ::2]
    chosen = trade_off.captions(16)[1::2]
    assert sheet.shape == (64 * 4, 64 * len(chosen), 3)
    for column, caption in enumerate(chosen):
        seed = recipe.seed_of(trade_off.STREAM, caption, 0)
        (expected,) = Obedient()([caption], [seed], [3.0])
        rendered = renderer.render(caption, seed).image
        place = slice(64 * column, 64 * (column + 1))
        assert (sheet[:64, place] == rendered).all()
        assert (sheet[128:192, place] == (0 if expected.image is None else expected.image)).all()


def test_the_committed_files_are_those_of_the_committed_numbers() -> None:
    found = read_json(trade_off.RESULTS / "trade_off.json")
    assert (trade_off.RESULTS / "trade_off.md").read_text() == trade_off.table(found)
    assert found["model"] == recipe.find("toy").text_to_image.name
