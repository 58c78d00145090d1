"""Training batches. A batch is a pure function of its step.

All random choices are keyed by (seed, epoch, caption id) or (seed, step). A run therefore resumes exactly and does not
depend on the number of data-loader workers or of processes that share a batch. Workers read and decode images; views
are rendered on the model's device.

Shapes: B images, V views, HW pixels.
"""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from benchmark.errors import UserError
from benchmark.interfaces import Batch, Schedule
from benchmark.sampling import Sampling
from benchmark.training.dataset import CaptionImageDataset
from benchmark.transforms.augmentations import ViewParams, render_views, sample_view_params

_LABEL_FIELDS = ("caption_ids_V", "image_ids_V", "text_index_V")


@dataclass(frozen=True)
class RawBatch:
    """A batch before its views are rendered, as sent from a worker to the training process."""

    images_B3HW: Tensor
    """Decoded images, uint8, each image once."""
    views: ViewParams
    size: int
    """Side of a view, in pixels."""
    caption_ids_V: Tensor
    image_ids_V: Tensor
    texts: list[str]
    text_index_V: Tensor

    def pin_memory(self) -> "RawBatch":
        """Return a copy in page-locked memory; called by `DataLoader`."""
        pinned = {name: getattr(self, name).pin_memory() for name in ("images_B3HW", "views", *_LABEL_FIELDS)}
        return replace(self, **pinned)

    def render_on(self, device: torch.device) -> Batch:
        """Render the views on `device` and return the batch there."""
        images_V3HW = render_views(self.images_B3HW.to(device, non_blocking=True), self.views, self.size)
        labels = {name: getattr(self, name).to(device, non_blocking=True) for name in _LABEL_FIELDS}
        return Batch(images_V3HW=images_V3HW, texts=self.texts, **labels)


class BatchDataset(Dataset[RawBatch]):
    """Map-style dataset from step to batch.

    Each epoch visits every caption once, in an order keyed by (seed, epoch); an incomplete last batch is dropped. Each
    of `world` processes reads the slice of its `rank`; concatenated in rank order, the slices equal the batch of a
    single process.
    """

    def __init__(
        self,
        data: CaptionImageDataset,
        sampling: Sampling,
        schedule: Schedule,
        size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Create the batches of one process.

        Args:
            data: opened dataset.
            sampling: images per caption, crops per image, and augmentations.
            schedule: number of steps and views per batch.
            size: side of a view, in pixels.
            seed: key of all random choices.
            rank: index of this process.
            world: number of processes that share each batch.

        Raises:
            UserError: the dataset has fewer captions than one batch, the batch does not divide by `world`, a caption
                has fewer images than `sampling` needs, or the method needs text and captions are empty.
        """
        self.data, self.sampling, self.size, self.seed = data, sampling, size, seed
        self.steps = schedule.steps
        self.captions = schedule.captions_per_batch(sampling)
        self._augmentations = sampling.augmentations
        self._usable = data.rows_with_images()
        self._check(world)
        count = self.captions // world
        self._local = slice(rank * count, (rank + 1) * count)
        self.steps_per_epoch = len(self._usable) // self.captions
        self._order: tuple[int, np.ndarray] | None = None
        """Cached row order of the most recent epoch: (epoch, rows)."""

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_order": None}

    @property
    def bytes(self) -> int:
        """Approximate size of a raw batch, in bytes."""
        row = int(self._usable[0])
        image_bytes = self.data.image(row, int(self.data.available_images(row)[0])).nbytes
        return image_bytes * self.sampling.images_per_caption * (self._local.stop - self._local.start)

    def _check(self, world: int) -> None:
        data, sampling = self.data, self.sampling
        if self.captions % world:
            raise UserError(
                f"a batch of {self.captions * sampling.views} views has {self.captions} captions, which {world} "
                f"processes cannot share equally; use a multiple of {world * sampling.views} views, or fewer processes"
            )
        if sampling.images_per_caption > data.images_per_caption:
            real = " (datasets of real images have one)" if data.images_per_caption == 1 else ""
            raise UserError(
                f"the method needs {sampling.images_per_caption} images per caption, {data.manifest.repo} has "
                f"{data.images_per_caption}{real}; use a dataset with more images per caption, or a method with fewer"
            )
        if len(self._usable) < self.captions:
            raise UserError(
                f"{data.manifest.repo} has {len(self._usable)} captions, a batch needs {self.captions}; "
                "use a smaller batch or a larger dataset"
            )
        empty = [row for row in self._usable if not (data.captions[row] or "").strip()] if sampling.text else []
        if empty:
            raise UserError(
                f"the method needs text, but {len(empty)} of {len(data)} captions of {data.manifest.repo} are empty "
                f"(first: row {empty[0]}); use a dataset with captions, or a method without text"
            )

    def __len__(self) -> int:
        return self.steps

    def rows(self, step: int) -> np.ndarray:
        """Return the dataset rows of a batch's captions, of all processes."""
        epoch, index = divmod(step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, keyed_rng(self.seed, epoch).permutation(self._usable)
        return self._order[1][index * self.captions : (index + 1) * self.captions]

    def sample_images(self, step: int, row: int) -> np.ndarray:
        """Return m of a caption's l image indices, sampled without replacement by (seed, epoch, caption id).

        If fewer than m images were generated for the caption, some are repeated.
        """
        rng = keyed_rng(self.seed, step // self.steps_per_epoch, int(self.data.caption_ids[row]))
        shuffled = rng.permutation(self.data.available_images(row))
        return np.resize(shuffled, self.sampling.images_per_caption)

    def __getitem__(self, step: int) -> RawBatch:
        rows = self.rows(step)[self._local]
        images = [(int(row), int(index)) for row in rows for index in self.sample_images(step, row)]
        images_B3HW = _stack([self.data.image(*image) for image in images], self.data.manifest.repo)
        image_ids_B = torch.tensor([row * self.data.images_per_caption + index for row, index in images])
        views = self.sampling.views
        return RawBatch(
            images_B3HW=images_B3HW,
            views=self._sample_views(step, *images_B3HW.shape[2:]),
            size=self.size,
            caption_ids_V=torch.from_numpy(self.data.caption_ids[rows]).repeat_interleave(views),
            image_ids_V=image_ids_B.repeat_interleave(self.sampling.crops_per_image),
            texts=[self.data.captions[row] for row in rows] if self.sampling.text else [],
            text_index_V=torch.arange(len(rows) if self.sampling.text else 0).repeat_interleave(views),
        )

    def _sample_views(self, step: int, height: int, width: int) -> ViewParams:
        """Sample the views of the whole batch, so that they do not depend on `world`, and return this process's."""
        generator = torch.Generator().manual_seed(step_seed(self.seed, step))
        views = sample_view_params(
            self.captions * self.sampling.images_per_caption, height, width, self._augmentations, generator
        )
        return views[self._local.start * self.sampling.views : self._local.stop * self.sampling.views]


def keyed_rng(seed: int, epoch: int, caption_id: int | None = None) -> np.random.Generator:
    """Return a generator keyed by its arguments; without a caption id, the one that shuffles the epoch."""
    counter = 0 if caption_id is None else 1
    key = np.array([(seed << 32) | epoch, (caption_id or 0) & (1 << 64) - 1], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, counter]))


def step_seed(seed: int, step: int) -> int:
    """Return the 63-bit seed of all random choices within one step."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {step}".encode(), digest_size=8).digest(), "big") >> 1


def _stack(images: list[np.ndarray], repo: str) -> Tensor:
    sizes = {image.shape for image in images}
    if len(sizes) > 1:
        raise UserError(f"{repo} mixes image sizes {sorted(sizes)}, expected one; rebuild it with one size")
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
