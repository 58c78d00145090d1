"""Real images that a user has downloaded, as what "draws" a dataset: one per caption, in the published schema.

Nothing is generated and nothing is downloaded here: who has no right to an image cannot get it from this package. The
images lie in tars of WebDataset (those of img2dataset, or pixparse's `cc3m-wds` and `cc12m-wds` on the Hub) in

    <data>/originals/<source>-wds/*.tar      <key>.jpg (.jpeg, .png, .webp), <key>.txt or <key>.json with a caption

`synrep data captions cc3m-real` reads their captions (normalised and distinct, as any), with the place of each image;
`synrep data build cc3m-real-10k` brings the images to the stored size: short side to 256 pixels, bicubic, then the
centre, JPEG. They are not marked as synthetic. The revision covers the sha256 of every tar.
"""

import functools
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from benchmark import schema
from benchmark.errors import UserError
from datasets_scripts.captions.prepare import CAPTIONS, PreparedCaptions
from datasets_scripts.captions.sources import Source
from datasets_scripts.generation import provenance
from datasets_scripts.recipe import Recipe, caption_id, revision_of
from datasets_scripts.text_to_image import Cost, GeneratedImage, Terms

STORED = 256
"""Height and width, pixels: as Stable Diffusion's images are stored."""
DAMAGED = "does not decode"
"""Status of an image whose bytes are none."""


def source(of: Source) -> Source:
    """The pairs of a source whose real image was downloaded, in tars."""
    name = f"{of.name}-real"
    return replace(
        of,
        name=name,
        suffixes=(".tar",),
        row_id=("place",),
        headerless=(),
        repo=None,
        folder=f"originals/{of.name}-wds",
    )


def recipe(name: str, of: Source) -> Recipe:
    """One real image for each caption of `of`, which is what `source` gives."""
    captions = PreparedCaptions(of)
    return Recipe(name, 1, captions, RealImages(captions), images_per_caption=1, guidance=(0.0,))


@dataclass(frozen=True)
class RealImages:
    """Looks each caption's image up in the tars; seeds and guidance have no meaning to it."""

    captions: PreparedCaptions
    cost: Cost = Cost(bytes=25_000, core_seconds=0.01)
    iptc_source_type: str = provenance.NOT_SYNTHETIC
    batch: int = 1
    packages: tuple[str, ...] = ("numpy",)

    @property
    def name(self) -> str:
        """Which tars, by all their checksums, and what is done to an image."""
        files = self.captions.origin["files"]
        if nested := [file for file in files if file.count("/") > 1]:
            raise UserError(
                f"{nested[0]} lies in a folder of its own; put all tars of {self.captions.source.name} into one"
            )
        what = f"{provenance.REAL_PREFIX} of {len(files)} tars, hash {revision_of(files)}"
        return f"{what}, short side to {STORED} pixels bicubic, centre"

    @property
    def terms(self) -> tuple[Terms, ...]:
        """Everybody's own."""
        text = "Each image belongs to its owner, whose terms are not known here. Nobody gave a right to pass it on."
        subject = f"images: the web pages of {self.captions.source.name.removesuffix('-real')}"
        return (Terms(subject=subject, licence="other", text=text, url="", commercial=False),)

    def with_root(self, root: Path) -> Self:
        """The same below another data folder."""
        return replace(self, captions=self.captions.with_root(root))

    def __call__(
        self, captions: Sequence[str], seeds: Sequence[int], guidance: Sequence[float]
    ) -> Iterator[GeneratedImage]:
        """The image of each caption.

        Raises:
            UserError: a second image of a caption is wanted, or a tar is not what was read.
        """
        del seeds, guidance
        if len(set(captions)) < len(captions):
            raise UserError("a caption has one real image; leave -l out of the dataset's name")
        ids, places = _places(self.captions.folder / CAPTIONS)
        for caption in captions:
            row = int(np.searchsorted(ids, caption_id(caption)))
            yield _image(self._bytes(str(places[row])))

    def _bytes(self, place: str) -> bytes:
        """What lies at a place, as `caption_files` writes it."""
        name, offset, length = place.rsplit(":", 2)
        path = self.captions.root / str(self.captions.source.folder) / name
        try:
            with path.open("rb") as file:
                file.seek(int(offset))
                content = file.read(int(length))
        except OSError as error:
            reason = f"cannot read {path} ({error.strerror})"
            raise UserError(f"{reason}; the tars of the captions' origin must lie there") from error
        if len(content) != int(length):
            raise UserError(f"{path} is shorter than when its captions were read; fetch it again")
        return content


@functools.lru_cache(maxsize=1)
def _places(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Ids of prepared captions in order, and where the image of each lies."""
    table = pq.read_table(path, columns=[schema.CAPTION_ID, schema.SOURCE_ID])
    ids = table[schema.CAPTION_ID].to_numpy()
    order = np.argsort(ids)
    return ids[order], table[schema.SOURCE_ID].to_numpy()[order]


def _image(content: bytes) -> GeneratedImage:
    try:
        with Image.open(io.BytesIO(content)) as image:
            fitted = ImageOps.fit(image.convert("RGB"), (STORED, STORED), Image.Resampling.BICUBIC)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return GeneratedImage(None, DAMAGED)
    return GeneratedImage(np.asarray(fitted))
