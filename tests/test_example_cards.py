"""The example cards of docs/examples are up to date, valid for the Hub, and say the important things first."""

import re
from typing import Any

import pytest
from huggingface_hub import DatasetCardData, EvalResult, ModelCardData, RepoCard, SpaceCardData
from huggingface_hub.repocard_data import CardData

from tests import example_cards

pytestmark = pytest.mark.slow

KINDS: dict[str, type[CardData]] = {
    "dataset_card": DatasetCardData, "model_card": ModelCardData, "results_card": DatasetCardData,
    "space_card": SpaceCardData,
}  # fmt: skip


@pytest.fixture(scope="module")
def cards() -> dict[str, str]:
    return example_cards.all_cards()


def header(card: str) -> dict[str, Any]:
    return RepoCard(card, ignore_metadata_errors=False).data.to_dict()


def test_the_examples_are_up_to_date(cards: dict[str, str]) -> None:
    for name, text in cards.items():
        committed = (example_cards.FOLDER / f"{name}.md").read_text()
        assert committed == example_cards.as_page(text), f"{name} is stale: run `python -m tests.example_cards`"


def test_every_header_is_valid_and_survives_its_class(cards: dict[str, str]) -> None:
    for name, text in cards.items():
        found = header(text)
        again = KINDS[name](**found, ignore_metadata_errors=False)
        assert again.to_dict() == found, name
        assert re.fullmatch(r"[a-z0-9.-]+", found["license"]) and found["tags"], name


def test_the_first_screen_says_how_to_load_what_for_and_under_which_terms(cards: dict[str, str]) -> None:
    for name, text in cards.items():
        first = example_cards.as_page(text)[:2200].split("\n## ")[0]
        for word in ("**Not for**", "**License**", "**Provenance**"):
            assert word in first, (name, word)
        assert name == "space_card" or len(re.findall(r"```python\n(.*?)```", first, re.DOTALL)) == 1, name


def test_the_dataset_viewer_knows_files_and_image_columns(cards: dict[str, str]) -> None:
    found = header(cards["dataset_card"])
    assert found["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    columns = {column["name"]: column for column in found["dataset_info"]["features"]}
    assert columns["images"] == {"name": "images", "list": "image"} and columns["caption"]["dtype"] == "string"
    assert found["size_categories"] == ["n<1K"] and "text-to-image" in found["task_categories"]


def test_the_model_index_has_the_main_scores_with_their_revisions(cards: dict[str, str]) -> None:
    data = RepoCard(cards["model_card"]).data
    assert (data.library_name, data.pipeline_tag) == ("timm", "image-feature-extraction")  # type: ignore[attr-defined]
    results = ModelCardData(**data.to_dict()).eval_results
    assert results is not None and all(isinstance(result, EvalResult) for result in results)
    (shape,) = (r for r in results if r.metric_name == "linear_probe (synclr) on scenes-shape: top1")
    assert shape.dataset_revision and shape.dataset_split == "test"
    assert f"{100 * shape.metric_value:.1f} [" in cards["model_card"].split("<details>")[0]


def test_the_space_is_static_and_its_description_is_short(cards: dict[str, str]) -> None:
    found = header(cards["space_card"])
    assert (found["sdk"], found["app_file"], found["pinned"]) == ("static", "index.html", False)
    colors = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {found["colorFrom"], found["colorTo"]} <= colors and len(found["short_description"]) <= 60


def test_nothing_of_a_machine_is_in_an_example(cards: dict[str, str]) -> None:
    for name, text in cards.items():
        assert not re.search(r"x86_64|python 3\.|/tmp/|/root/|seconds", text), name
