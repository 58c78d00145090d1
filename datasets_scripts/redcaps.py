"""RedCaps: titles of Reddit posts with an image (Desai et al., NeurIPS Datasets and Benchmarks 2021).

Distributed as a zip of `annotations/<subreddit>_<year>.json`; 12,011,111 rows. `caption` is the title
as cleaned by the authors of RedCaps, `raw_caption` the original title. Of the other fields only `image_id` is kept:
`author` names a person. The dataset on the Hub is a loading script, which `datasets` no longer runs; its rows are in
the pull request that converts it to Parquet.
"""

from datasets_scripts.captions.prepare import PreparedCaptions
from datasets_scripts.captions.sources import Source
from datasets_scripts.generation import real_images
from datasets_scripts.generation.diffusion import StableDiffusion
from datasets_scripts.recipe import GUIDANCE, Recipe
from datasets_scripts.text_to_image import Terms

SOURCE = Source(
    name="redcaps",
    caption_columns=("caption",),
    row_id=("image_id",),
    suffixes=(".zip", ".json", ".parquet"),
    repo="kdexd/red_caps",
    revision="refs/pr/5",
    files="all/*.parquet",
    paper_before=11_600_000,
    paper_after=10_500_000,
    terms=Terms(
        subject="captions: RedCaps",
        licence="other",
        text="The annotations are CC BY 4.0, for non-commercial research only, under the terms of Reddit's API; users "
        "must not identify individuals. Derived data inherits these terms.",
        url="https://github.com/redcaps-dataset/redcaps-downloader",
        commercial=False,
    ),
)
REAL_SOURCE = real_images.source(SOURCE)
SOURCES = (SOURCE, REAL_SOURCE)

RECIPES = {
    "redcaps": Recipe(
        name="redcaps",
        version=1,
        captions=PreparedCaptions(SOURCE),
        text_to_image=StableDiffusion(),
        images_per_caption=10,
        guidance=GUIDANCE["small"],
    ),
    "redcaps-real": real_images.recipe("redcaps-real", REAL_SOURCE),
}
