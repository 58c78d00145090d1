"""Rows of `make speed` about what a training step sees: images of 256 pixels as published, views of 224."""

import io
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torchvision import transforms
from torchvision.transforms import v2

from benchmark.interfaces import Schedule
from benchmark.sampling import SIMCLR, Sampling
from benchmark.training.batches import BatchDataset
from benchmark.transforms.augmentations import MEAN, STD, render_views, sample_view_params
from datasets_scripts.generation import generate, provenance
from tests.speed.datasets import IMAGES, built, photographs

SIZE, VIEWS = 224, 96
"""Pixels of a view, and views of a batch."""
CPU = torch.device("cpu")

Row = Callable[[str, str, int, Callable[[], object], Callable[[], object]], str]


class Blur:
    """StableRep's: Pillow's approximation of a Gaussian."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


RELEASED = transforms.Compose(
    [
        transforms.RandomResizedCrop(SIZE, (0.08, 1.0)),
        transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8),
        transforms.RandomGrayscale(0.2),
        transforms.RandomApply([Blur()], 0.5),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ]
)
"""SimCLR's augmentation as StableRep's released code makes it, one image at a time."""


def pipeline(row: Row, folder: Path, sampling: Sampling) -> str:
    """Read, decoded and augmented: a batch of ours; beside a folder of files and torchvision."""
    encoded = [generate.encode(image, provenance.TRAINED) for image in photographs(64)]
    batches = BatchDataset(built(folder / "data", encoded), sampling, Schedule(100 * VIEWS, VIEWS), SIZE, 0)
    files = [folder / f"{number}.jpg" for number in range(len(encoded))]
    for file, content in zip(files, encoded):
        file.write_bytes(content)
    step = iter(range(100))

    def released() -> torch.Tensor:
        views = []
        for number in range(VIEWS // sampling.crops):
            image = Image.open(io.BytesIO(files[number % len(files)].read_bytes())).convert("RGB")
            views += [RELEASED(image) for _ in range(sampling.crops)]
        return torch.stack(views)

    what = f"{sampling.images} of {IMAGES} images, {sampling.crops} crop{'s' * (sampling.crops > 1)} of each"
    what = f"decoded and augmented views, 256-pixel JPEG to {SIZE}, {what}; beside torchvision from an image folder"
    return row(f"{what} (goal 3x)", "views/s", VIEWS, lambda: batches.batch(next(step)).render(), released)


def augmenting(row: Row) -> str:
    """The augmentation alone, at the size of the smoke run; beside torchvision on tensors."""
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (120, 3, 64, 64), dtype=np.uint8))
    generator = torch.Generator().manual_seed(0)
    plainly = v2.Compose(
        [
            v2.RandomResizedCrop(32, antialias=True),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(3, (0.1, 2.0))], 0.5),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    return row(
        "SimCLR views, 64 to 32 pixels; beside torchvision, an image at a time",
        "views/s",
        len(images),
        lambda: render_views(images, sample_view_params(len(images), 64, 64, (SIMCLR,), generator), 32),
        lambda: torch.stack([plainly(image) for image in images]),
    )


def rows(row: Row) -> list[str]:
    """All of them."""
    random.seed(0)
    torch.manual_seed(0)
    found = [augmenting(row)]
    for sampling in (Sampling(images=1, crops=2), Sampling(images=6)):
        with tempfile.TemporaryDirectory() as temporary:
            found.append(pipeline(row, Path(temporary), sampling))
    return found
