"""Conceptual 12M: alt texts of the web, filtered less strictly than CC3M (Changpinyo et al., CVPR 2021).

Distributed as `cc12m.tsv`: URL, tab, caption (CC3M's order reversed); no header; 12,423,374 rows. A quarter of the
captions have `<PERSON>` in place of names; the StableRep paper uses them unchanged, and so does this benchmark. The
dataset on the Hub is a loading script, which `datasets` no longer runs; its rows are in the Hub's Parquet conversion.
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
        text="May be freely used for any purpose; Google requests acknowledgment as the source and gives no warranty.",
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
