import copy
import re

import pytest
from huggingface_hub import DatasetCard
from markdown_it import MarkdownIt

from benchmark import schema
from datasets_scripts.captions.sources import custom_source
from datasets_scripts.publishing import card
from datasets_scripts.text_to_image import Terms

CAPTIONS = Terms(
    "captions: Made Up 3M", "other", "May be used freely; name its makers.", "https://example.org/captions"
)
MODEL = Terms("images: a model", "creativeml-openrail-m", "Not for harm.", "https://example.org/model")
FORUM = Terms("captions: Forum", "cc-by-4.0", "For research only.", "https://example.org/forum", commercial=False)
MANIFEST = schema.Manifest(
    "org/made-up-10k",
    "0123456789abcdef0123456789abcdef01234567",
    {"train": 9_990, "validation": 10},
    4,
    {"README.md": "", "sheet.png": ""},
    {
        "text_to_image": "org/model@abc, 50 steps",
        "captions": "v1 | `odd`",
        "pipe": "a|b",
        "seed": 0,
        "guidance": [2.0, 10.0],
    },
)
STATISTICS = {
    "captions": 10_000,
    "images": 39_997,
    "failed": {"black": 2, "nan": 1},
    "bytes": 1_234_000_000,
    "guidance": {"10.0": 19_997, "2.0": 20_000},
    "nsfw_above_zero": 17,
    "nsfw_scored": 39_998,
    "software": {"torch 2.13": 157},
    "device": {"H200": 57, "H100": 100},
    "seconds": 12.5,
}
HOSTILE = 'a |cat| <script>alert(1)</script> ![x](https://e.org/x.png) **b** [l](j) `c`\n\n# h $x$ @me &lt; 1. "'


def written(terms=(CAPTIONS, MODEL), manifest=MANIFEST, statistics=STATISTICS, samples=()):
    return card.card(manifest, statistics, terms, samples)


def metadata(text):
    return DatasetCard(text).data.to_dict()


def table(page, heading):
    """First column -> second column of the first table from `heading` on."""
    return dict(re.findall(r"<td>(.*?)</td>\s*<td>(.*?)</td>", page.split(heading)[1].split("</table>")[0]))


def rendered(text):
    return MarkdownIt("commonmark").enable("table").render(text)


def test_yaml_says_where_the_splits_are_and_what_it_is():
    data = metadata(written())
    assert data["configs"] == [
        {
            "config_name": "default",
            "data_files": [
                {"split": "train", "path": "data/train-*.parquet"},
                {"split": "validation", "path": "data/validation-*.parquet"},
            ],
        }
    ]
    assert data["size_categories"] == ["10K<n<100K"] and data["source_datasets"] == ["original"]
    assert {"synthetic", "stablerep"} <= set(data["tags"]) and data["language"] == ["en"]
    assert data["pretty_name"].startswith("made-up-10k")


@pytest.mark.parametrize(
    ("rows", "category"),
    [(0, "n<1K"), (999, "n<1K"), (1_000, "1K<n<10K"), (2_700_000, "1M<n<10M"), (10**9, "n>1B"), (10**12, "n>1B")],
)
def test_size_categories(rows, category):
    assert card.size_category(rows) == category


def test_one_licence_of_all_parts_is_the_licence():
    assert card.licence("a/b", [MODEL, MODEL]) == {"license": "creativeml-openrail-m"}


@pytest.mark.parametrize("terms", [(CAPTIONS, MODEL), (CAPTIONS, CAPTIONS)])
def test_other_licences_have_a_name_and_lead_to_the_terms(terms):
    data = metadata(written(terms))
    assert data["license"] == "other" and re.fullmatch(r"[a-z0-9.\-]+", data["license_name"])
    assert data["license_link"] == "https://huggingface.co/datasets/org/made-up-10k#terms"
    assert "\n## Terms\n" in written(terms)
    assert "extra_gated_prompt" not in data


@pytest.mark.parametrize("terms", [(FORUM, MODEL), (FORUM,)])
def test_readers_of_non_commercial_material_are_asked_to_agree(terms):
    """Also where a single licence would be one that the Hub knows."""
    data = metadata(written(terms))
    assert data["license"] == "other" and "non-commercial" in data["license_name"]
    assert "non-commercial" in data["extra_gated_prompt"] and "captions: Forum" in data["extra_gated_prompt"]


def test_captions_without_declared_terms_are_treated_as_non_commercial():
    """The card says that nobody declared terms, not that the captions have such terms."""
    own = custom_source("mine", "text").terms
    data, page = metadata(written((own, MODEL))), rendered(written((own, MODEL)))
    assert data["extra_gated_prompt"].startswith("Terms of its material are not declared (captions: mine), so it is ")
    assert "treated as non-commercial" in page and "non-commercial use only" not in page.split("Terms</h2>")[1]
    assert "<strong>Terms not declared, so treated as non-commercial.</strong>" in page
    assert "Non-commercial use only" in written((own, FORUM))
    both = metadata(written((own, FORUM)))["extra_gated_prompt"]
    assert "research only (captions: Forum)." in both and "not declared (captions: mine)" in both


def test_every_table_has_a_header():
    assert "|  |" not in written()


def test_terms_of_every_source_are_shown():
    page = rendered(written((CAPTIONS, MODEL, FORUM)))
    for terms in (CAPTIONS, MODEL, FORUM):
        assert terms.subject in page and terms.text in page and f'href="{terms.url}"' in page
    assert page.count("non-commercial use only") == 1
    assert "trainedAlgorithmicMedia" in page


def test_counts_are_those_of_the_statistics():
    page = rendered(written())
    rows = table(page, "<h1>")
    assert (
        rows["captions"] == f"{10_000:,}" and rows["images"] == "39,997" and rows["not drawn"] == "2 (black), 1 (nan)"
    )
    assert (
        rows["images requested at guidance 2.0"] == "20,000" and rows["images requested at guidance 10.0"] == "19,997"
    )
    assert list(rows).index("images requested at guidance 2.0") < list(rows).index("images requested at guidance 10.0")
    assert rows["size"] == "1.2 GB" and rows["rows in validation"] == "10"
    assert rows["images that the model's safety checker would have hidden"] == "17 of 39,998"
    assert table(page, "<h2>Recipe")["device"] == "H100; H200"
    assert table(page, "<h2>Recipe")["text_to_image"] == "<code>org/model@abc, 50 steps</code>"
    assert MANIFEST.revision in page


def test_what_was_not_counted_is_not_shown():
    statistics = copy.deepcopy(STATISTICS) | {"nsfw_above_zero": 0, "nsfw_scored": 0, "failed": {}}
    page = rendered(written(statistics=statistics))
    assert "safety checker would have hidden" not in page.split("<h2>")[0]
    assert table(page, "<h1>")["not drawn"] == "0"


@pytest.mark.slow
def test_the_sheet_is_shown_where_there_is_one():
    assert '<img src="sheet.png"' in rendered(written())
    bare = schema.Manifest(**(MANIFEST.as_json() | {"files": {"README.md": ""}}))
    assert "<img" not in rendered(written(manifest=bare))


def test_captions_are_shown_as_they_are_and_do_nothing():
    page = rendered(written(samples=[HOSTILE]))
    shown = re.search(r"Some captions:</p>\s*<ul>\s*<li>(.*?)</li>", page, re.DOTALL)[1]
    as_text = " ".join(HOSTILE.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert shown == as_text.replace('"', "&quot;")
    assert "<script" not in page and page.count("<h1") == 1
    assert page.count("<img") == 1  # the sheet


def test_a_recipe_cannot_break_its_table():
    assert table(rendered(written()), "<h2>Recipe")["captions"] == "<code>v1 | `odd`</code>"
    assert table(rendered(written()), "<h2>Recipe")["pipe"] == "<code>a|b</code>"


def test_the_code_names_repo_and_split():
    assert 'load_dataset("org/made-up-10k", split="train", revision=' in written()
