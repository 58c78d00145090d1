"""LAION-400M: alt texts that match their image according to CLIP (Schuhmann et al., arXiv 2111.02114).

Distributed as Parquet files; 400 M rows. The scaling experiment of StableRep uses 50 M captions; the paper does not say
which. This benchmark takes those with the 50 M smallest caption ids, a uniform sample. The first release was withdrawn;
the re-release without links to illegal material is a gated dataset on the Hub.
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
        text="The metadata is CC BY 4.0, intended for research; users must share contact information to download it.",
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
