"""LAION: alt texts that CLIP found to fit their image (Schuhmann et al., 2021); StableRep's scaling uses 50 M of them.

Distributed as Parquet files; 400 M rows. Which 50 M the paper took is not known. Here they are the 50 M with the
smallest caption ids of all that were prepared, which is a uniform sample. The first release was withdrawn; the
re-release without links to illegal material is on the Hub, behind a form.
"""

from datasets_scripts.captions.prepare import PreparedCaptions
from datasets_scripts.captions.sources import Source
from datasets_scripts.generation import real_images
from datasets_scripts.generation.diffusion import StableDiffusion
from datasets_scripts.recipe import GUIDANCE, Recipe
from datasets_scripts.text_to_image import Terms

SOURCE = Source(
    name="laion",
    caption_columns=("TEXT", "caption"),
    row_id=("URL", "url"),
    suffixes=(".parquet",),
    repo="laion/relaion400m",
    files="*.parquet",
    paper_after=50_000_000,
    terms=Terms(
        subject="captions: Re-LAION-400M",
        licence="cc-by-4.0",
        text="The metadata is CC BY 4.0, meant for research; whoever downloads it agrees to share contact information.",
        url="https://huggingface.co/datasets/laion/relaion400m",
    ),
)
REAL_SOURCE = real_images.source(SOURCE)
SOURCES = (SOURCE, REAL_SOURCE)

RECIPES = {
    "laion-50m": Recipe(
        name="laion-50m",
        version=1,
        captions=PreparedCaptions(SOURCE, count=50_000_000),
        text_to_image=StableDiffusion(),
        images_per_caption=2,
        guidance=GUIDANCE["small"],
    ),
    "laion-50m-real": real_images.recipe("laion-50m-real", REAL_SOURCE),
}
