"""Real images that the user has downloaded, as a `TextToImage`: one image per caption, in the published schema.

Nothing is generated or downloaded here: users must have obtained the images themselves. They are read from WebDataset
tars (written by img2dataset, or pixparse's `cc3m-wds` and `cc12m-wds` on the Hub) in

    <data>/originals/<source>-wds/*.tar      <key>.jpg (.jpeg, .png, .webp), <key>.txt or <key>.json with a caption

`synrep data captions cc3m-real` prepares their captions like all others, and records the location of each image and the
sha256 of every tar, which the revision covers. `synrep data build cc3m-real-10k` converts the images: decode
(`benchmark.images`), resize the short side to 256 pixels (bicubic), crop the center, encode as JPEG. They are not
marked as synthetic.

A location is only valid in the tar from which it was read. Every process therefore compares the sha256 of a tar before
it reads its first image. Size and time would not do: a second download can have both.
"""

import functools
import hashlib
import io
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Self

import numpy as np
from PIL import Image, ImageOps

from benchmark.errors import UserError
from benchmark.files import regular_stat
from benchmark.images import DecodeError, decode_image
from datasets_scripts.captions.prepare import PreparedCaptions
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
        conversion = f"upright, alpha on white, 8 bits, short side to {STORED_SIZE} pixels bicubic, centre"
        return f"{tars}, {conversion}"  # hashed: do not change

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
            UserError: a caption occurs twice or is not prepared, or captions or a tar have changed since they were
                prepared.
        """
        del seeds, guidance
        if len(set(captions)) < len(captions):
            raise UserError("a caption has only one real image; remove -l from the name of the dataset")
        ids, locations = _image_locations(self.captions, self.captions.version)
        tars = {PurePosixPath(name).name: sha256 for name, sha256 in self.captions.origin["files"].items()}
        for caption in captions:
            row = int(np.searchsorted(ids, caption_id(caption)))
            if row == len(ids) or ids[row] != caption_id(caption):
                raise UserError(f"caption {caption!r} is not in {self.captions.folder}; build the dataset again")
            yield _convert(self._read_bytes(str(locations[row]), tars))

    def _read_bytes(self, location: str, tars: dict[str, str]) -> bytes:
        """Return the bytes at a location `<tar>:<offset>:<length>`; `tars` has the sha256 of each tar.

        Raises:
            UserError: the tar cannot be read, or is not the one in which the location was found.
        """
        name, offset, length = location.rsplit(":", 2)
        path = self.captions.root / str(self.captions.source.folder) / name
        try:
            regular_stat(path)  # opening a pipe would block
            with path.open("rb") as file:
                found = _sha256(file)
                file.seek(int(offset))
                content = file.read(int(length))
        except (OSError, ValueError) as error:
            reason = f"cannot read {path} ({getattr(error, 'strerror', error)})"
            raise UserError(f"{reason}; put the tars from which the captions were prepared there") from error
        if found != tars[name]:
            raise UserError(
                f"{path} is not what its captions were read from: expected sha256 {tars[name][:12]}, found "
                f"{found[:12]}; put that tar back, or remove {self.captions.folder} and prepare the captions again"
            )
        return content


@functools.lru_cache(maxsize=1)
def _image_locations(captions: PreparedCaptions, version: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted ids (N) of `captions`, whose checksum is verified, and the location of each one's image.

    `version` is that of the captions: captions that were prepared again are read again.
    """
    del version
    ids, locations = array("q"), []
    for caption in captions:
        ids.append(caption.caption_id)
        locations.append(caption.source_id)
    order = np.argsort(ids)
    return np.asarray(ids)[order], np.array(locations, object)[order]


_known_sha256: dict[tuple[int, ...], str] = {}
"""SHA-256 of the files that this process has hashed, by identity, size and times; only the system sets ctime."""


def _sha256(file: io.BufferedReader) -> str:
    """Return the SHA-256 of an open file, which is read only once per process unless it changes."""
    stat = os.fstat(file.fileno())
    state = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    if state not in _known_sha256:
        _known_sha256[state] = hashlib.file_digest(file, "sha256").hexdigest()
    return _known_sha256[state]


def _convert(content: bytes) -> GeneratedImage:
    try:
        image = Image.fromarray(decode_image(content))
    except DecodeError:
        return GeneratedImage(None, DAMAGED)
    return GeneratedImage(np.asarray(ImageOps.fit(image, (STORED_SIZE, STORED_SIZE), Image.Resampling.BICUBIC)))
