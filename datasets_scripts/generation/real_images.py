"""Real images that the user has downloaded, as a `TextToImage`: one image per caption, in the published schema.

Nothing is generated or downloaded here: users must have obtained the images themselves. They are read from WebDataset
tars (written by img2dataset, or pixparse's `cc3m-wds` and `cc12m-wds` on the Hub) in

    <data>/originals/<source>-wds/*.tar      <key>.jpg (.jpeg, .png, .webp), <key>.txt or <key>.json with a caption

`synrep data captions cc3m-real` prepares their captions like all others and records the location of each image.
`synrep data build cc3m-real-10k` converts the images: resize the short side to 256 pixels (bicubic), crop the center,
encode as JPEG. They are not marked as synthetic. The revision covers the sha256 of every tar.
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

STORED_SIZE = 256
"""Height and width of a stored image, pixels; as for Stable Diffusion."""
DAMAGED = "does not decode"
"""Status of an image that cannot be decoded."""


def source(base: Source) -> Source:
    """Return the source of the captions of `base` whose real image was downloaded, in tars."""
    return replace(
        base,
        name=f"{base.name}-real",
        suffixes=(".tar",),
        row_id=("place",),
        headerless=(),
        repo=None,
        folder=f"originals/{base.name}-wds",
    )


def recipe(name: str, captions_source: Source) -> Recipe:
    """Return a recipe with one real image per caption; `captions_source` is a return value of `source`."""
    captions = PreparedCaptions(captions_source)
    return Recipe(name, 1, captions, RealImages(captions), images_per_caption=1, guidance=(0.0,))


@dataclass(frozen=True)
class RealImages:
    """A `TextToImage` that reads the real image of each caption from the tars. Seeds and guidance have no effect."""

    captions: PreparedCaptions
    cost: Cost = Cost(bytes=25_000, core_seconds=0.01)
    iptc_source_type: str = provenance.NOT_SYNTHETIC
    batch: int = 1
    packages: tuple[str, ...] = ("numpy",)

    @property
    def name(self) -> str:
        """Identity of the tars, a hash of their checksums, and the conversion of the images."""
        files = self.captions.origin["files"]
        if nested := [file for file in files if file.count("/") > 1]:
            raise UserError(
                f"{nested[0]} is in a subfolder; put all tars of {self.captions.source.name} into one folder"
            )
        tars = f"{provenance.REAL_PREFIX} of {len(files)} tars, hash {revision_of(files)}"
        return f"{tars}, short side to {STORED_SIZE} pixels bicubic, centre"  # hashed: do not change

    @property
    def terms(self) -> tuple[Terms, ...]:
        """Terms of the images, which belong to many owners."""
        text = (
            "Each image belongs to its owner, whose terms are not known here. No right to redistribute it was granted."
        )
        subject = f"images: the web pages of {self.captions.source.name.removesuffix('-real')}"
        return (Terms(subject=subject, licence="other", text=text, url="", commercial=False),)

    def with_root(self, root: Path) -> Self:
        """Return the same images, read from another data folder."""
        return replace(self, captions=self.captions.with_root(root))

    def __call__(
        self, captions: Sequence[str], seeds: Sequence[int], guidance: Sequence[float]
    ) -> Iterator[GeneratedImage]:
        """Yield the image of each caption.

        Raises:
            UserError: a caption occurs twice, or a tar has changed since its captions were prepared.
        """
        del seeds, guidance
        if len(set(captions)) < len(captions):
            raise UserError("a caption has only one real image; remove -l from the name of the dataset")
        ids, locations = _image_locations(self.captions.folder / CAPTIONS)
        for caption in captions:
            row = int(np.searchsorted(ids, caption_id(caption)))
            yield _decode_image(self._read_bytes(str(locations[row])))

    def _read_bytes(self, location: str) -> bytes:
        """Return the bytes at a location `<tar>:<offset>:<length>`, as written by `captions.files`."""
        name, offset, length = location.rsplit(":", 2)
        path = self.captions.root / str(self.captions.source.folder) / name
        try:
            with path.open("rb") as file:
                file.seek(int(offset))
                content = file.read(int(length))
        except OSError as error:
            reason = f"cannot read {path} ({error.strerror})"
            raise UserError(f"{reason}; put the tars from which the captions were prepared there") from error
        if len(content) != int(length):
            raise UserError(f"{path} is shorter than when its captions were prepared; download it again")
        return content


@functools.lru_cache(maxsize=1)
def _image_locations(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted ids of prepared captions, and the location of each one's image."""
    table = pq.read_table(path, columns=[schema.CAPTION_ID, schema.SOURCE_ID])
    ids = table[schema.CAPTION_ID].to_numpy()
    order = np.argsort(ids)
    return ids[order], table[schema.SOURCE_ID].to_numpy()[order]


def _decode_image(content: bytes) -> GeneratedImage:
    try:
        with Image.open(io.BytesIO(content)) as image:
            fitted = ImageOps.fit(image.convert("RGB"), (STORED_SIZE, STORED_SIZE), Image.Resampling.BICUBIC)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return GeneratedImage(None, DAMAGED)
    return GeneratedImage(np.asarray(fitted))
