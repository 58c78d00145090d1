"""Conceptual 12M: alt texts of the web under looser filters than CC3M's (Changpinyo et al., CVPR 2021).

The list is `cc12m.tsv`: address, tab, caption (CC3M's order reversed); no header; 12,423,374 rows. People's names are
`<PERSON>` in a quarter of the captions; the StableRep paper draws them as they stand, and so does this benchmark.
The dataset on the Hub is a loading script, which nothing runs any more; its rows are in the Hub's own conversion.
"""

from datasets_scripts.captions.prepare import PreparedCaptions
from datasets_scripts.captions.sources import Source
from datasets_scripts.generation import real_images
from datasets_scripts.generation.diffusion import StableDiffusion
from datasets_scripts.recipe import GUIDANCE, Recipe
from datasets_scripts.text_to_image import Terms

SOURCE = Source(
    name="cc12m",
    caption_columns=("caption",),
    row_id=("url", "image_url"),
    headerless=("url", "caption"),
    repo="google-research-datasets/conceptual_12m",
    revision="refs/convert/parquet",
    files="default/train/*.parquet",
    paper_before=10_000_000,
    paper_after=8_300_000,
    terms=Terms(
        subject="captions: Conceptual 12M",
        licence="other",
        text="May be freely used for any purpose; Google asks to be acknowledged as the source, and gives no warranty.",
        url="https://github.com/google-research-datasets/conceptual-12m",
    ),
)
REAL_SOURCE = real_images.source(SOURCE)
SOURCES = (SOURCE, REAL_SOURCE)

RECIPES = {
    "cc12m": Recipe(
        name="cc12m",
        version=1,
        captions=PreparedCaptions(SOURCE),
        text_to_image=StableDiffusion(),
        images_per_caption=10,
        guidance=GUIDANCE["small"],
    ),
    "cc12m-real": real_images.recipe("cc12m-real", REAL_SOURCE),
}
