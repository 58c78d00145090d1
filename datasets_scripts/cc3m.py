"""Conceptual Captions 3M: cleaned alt texts of the web, names replaced by hypernyms (Sharma et al., ACL 2018).

Distributed as `Train_GCC-training.tsv`: caption, tab, URL; no header; 3,318,333 rows. The Hub has the same rows.
"""

from datasets_scripts.captions.prepare import PreparedCaptions
from datasets_scripts.captions.sources import Source
from datasets_scripts.generation import real_images
from datasets_scripts.generation.diffusion import StableDiffusion
from datasets_scripts.recipe import GUIDANCE, Recipe
from datasets_scripts.text_to_image import Terms

SOURCE = Source(
    name="cc3m",
    caption_columns=("caption",),
    row_id=("url", "image_url"),
    headerless=("caption", "url"),
    repo="google-research-datasets/conceptual_captions",
    files="unlabeled/train-*.parquet",
    paper_before=3_000_000,
    paper_after=2_700_000,
    terms=Terms(
        subject="captions: Conceptual Captions 3M",
        licence="other",
        text="May be freely used for any purpose; Google requests acknowledgment as the source and gives no warranty.",
        url="https://github.com/google-research-datasets/conceptual-captions",
    ),
)
REAL_SOURCE = real_images.source(SOURCE)
SOURCES = (SOURCE, REAL_SOURCE)

RECIPES = {
    "cc3m": Recipe(
        name="cc3m",
        version=1,
        captions=PreparedCaptions(SOURCE),
        text_to_image=StableDiffusion(),
        images_per_caption=10,
        guidance=GUIDANCE["small"],
    ),
    "cc3m-real": real_images.recipe("cc3m-real", REAL_SOURCE),
}
