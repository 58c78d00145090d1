"""Training batches. A batch is a pure function of its step.

All random choices are keyed by (seed, epoch, caption id) or (seed, step). A run therefore resumes exactly and does not
depend on the number of data-loader workers or of processes that share a batch. Workers read and decode images, a part
of a batch at a time; views are rendered on the model's device.

Shapes: B images, C captions, V views, HW pixels.
"""

import functools
import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from benchmark.errors import UserError, require_whole
from benchmark.interfaces import Batch, Schedule
from benchmark.nn.transfer import to_device
from benchmark.sampling import Sampling
from benchmark.training.dataset import CaptionImageDataset
from benchmark.transforms.augmentations import ViewParams, render_views, sample_view_params

CPU = torch.device("cpu")
SEEDS = 2**32
"""Number of seeds."""
PART_BYTES = 2**26
"""Bytes of decoded images that a worker reads at a time: at most, but for rounding up to whole captions."""


@dataclass(frozen=True)
class PartRequest:
    """A part of a batch that is to be read."""

    step: int
    rows: np.ndarray
    """Dataset rows of its captions."""
    buffer: int | None = None
    """Shared buffer for its images (`BatchDataset.share_buffers`); None makes a new tensor."""


@dataclass(frozen=True)
class Part:
    """A part of a batch, as sent from a worker to the training process."""

    images: Tensor | int
    """Decoded images, uint8 (B, H, W, 3), each image once; or the number of the shared buffer that has them."""
    image_ids_B: np.ndarray
    caption_ids_C: np.ndarray
    texts: list[str]


@dataclass(frozen=True)
class RawBatch:
    """A batch before its views are rendered, with its images on the device of the model."""

    images_B3HW: Tensor
    """Decoded images, uint8, each image once."""
    views: ViewParams
    """On the CPU."""
    size: int
    """Side of a view, in pixels."""
    caption_ids_V: Tensor
    image_ids_V: Tensor
    texts: list[str]
    text_index_V: Tensor

    def render(self) -> Batch:
        """Render the views on the device of the images."""
        images_V3HW = render_views(self.images_B3HW, self.views, self.size)
        return Batch(images_V3HW, self.caption_ids_V, self.image_ids_V, self.texts, self.text_index_V)


class BatchDataset(Dataset[Part]):
    """Map-style dataset of the parts of batches, which workers read and the training process puts together.

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
                has fewer images than `sampling` needs, the method needs text and captions are empty, or a number is
                invalid.
        """
        self.data, self.sampling, self.size = data, sampling, require_whole("size", size, 1)
        self.seed = require_whole("seed", seed, 0)
        if self.seed >= SEEDS:
            raise UserError(f"expected a seed below {SEEDS:,}, found {seed:,}; choose a smaller one")
        self.steps = schedule.steps
        self.captions = schedule.captions_per_batch(sampling)
        self._augmentations = sampling.augmentations
        self._usable = len(data) - len(data.rows_without_images)
        self._check(world)
        count = self.captions // world
        self._local = slice(rank * count, (rank + 1) * count)
        self.steps_per_epoch = self._usable // self.captions
        self._order: tuple[int, np.ndarray] | None = None
        """Cached order of the most recent epoch: (epoch, positions among the rows with images)."""
        self._buffers_NBHW3: Tensor | None = None

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_order": None, "_buffers_NBHW3": None}

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
        if self._usable < self.captions:
            raise UserError(
                f"{data.manifest.repo} has {self._usable} captions, a batch needs {self.captions}; "
                "use a smaller batch or a larger dataset"
            )
        if sampling.text and len(empty := np.setdiff1d(data.blank_rows(), data.rows_without_images)):
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
            order = np.arange(self._usable, dtype=np.min_scalar_type(self._usable))
            keyed_rng(self.seed, epoch).shuffle(order)
            self._order = epoch, order
        positions = self._order[1][index * self.captions : (index + 1) * self.captions].astype(np.int64)
        missing = self.data.rows_without_images
        return positions + np.searchsorted(missing - np.arange(len(missing)), positions, "right")

    @property
    def _images(self) -> int:
        """Number of images in this process's share of a batch."""
        return (self._local.stop - self._local.start) * self.sampling.images_per_caption

    @functools.cached_property
    def image_shape(self) -> tuple[int, ...]:
        """Height, width and channels of the first image, which all images must have."""
        row = int(self.rows(0)[0])
        return self.data.images(row, self.data.available_images(row)[:1])[0].shape

    @property
    def parts(self) -> int:
        """Number of parts in this process's share of a batch."""
        parts = -(-self._images * math.prod(self.image_shape) // PART_BYTES)
        return min(self._local.stop - self._local.start, parts)

    def share_buffers(self, count: int) -> None:
        """Make buffers for the images of `count` parts, in memory that is shared with workers forked from now on.

        Unlike new tensors, their pages are mapped and cleared once, which costs as much as a third of decoding.

        Raises:
            UserError: there is too little shared memory.
        """
        captions = -(-(self._local.stop - self._local.start) // self.parts)
        shape = (count, captions * self.sampling.images_per_caption, *self.image_shape)
        try:
            storage = torch.UntypedStorage._new_shared(math.prod(shape))
        except RuntimeError as error:
            if "No space left" not in str(error) and "Cannot allocate" not in str(error):
                raise
            raise UserError(
                f"/dev/shm has no room for the {math.prod(shape) / 1e6:,.0f} MB of images that workers read ahead; "
                "make it larger (in a container: --shm-size), then run again to resume"
            ) from None
        self._buffers_NBHW3 = torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)

    def requests(self, step: int) -> list[PartRequest]:
        """Return the parts of this process's share of a batch, of nearly equal size."""
        rows = self.rows(step)[self._local]
        return [PartRequest(step, part) for part in np.array_split(rows, self.parts)]

    def batch(self, step: int, device: torch.device = CPU) -> RawBatch:
        """Read a batch in this process."""
        return self.assemble(step, (self[request] for request in self.requests(step)), device)

    def assemble(self, step: int, parts: Iterable[Part], device: torch.device) -> RawBatch:
        """Return the batch of these parts, each copied to its place on `device` before the next one is requested."""
        views, texts = self.sampling.views, []
        images_BHW3 = torch.empty(self._images, *self.image_shape, dtype=torch.uint8, device=device)
        caption_ids, image_ids, filled = [], [], 0
        for part in parts:
            end = filled + len(part.image_ids_B)
            source = self._images_of(part)
            images_BHW3[filled:end].copy_(source.pin_memory() if device.type == "cuda" else source, non_blocking=True)
            filled = end
            caption_ids.append(part.caption_ids_C)
            image_ids.append(part.image_ids_B)
            texts += part.texts
        labels = (
            np.concatenate(caption_ids).repeat(views),
            np.concatenate(image_ids).repeat(self.sampling.crops_per_image),
            np.arange(len(texts)).repeat(views),
        )
        caption_ids_V, image_ids_V, text_index_V = (to_device(torch.from_numpy(values), device) for values in labels)
        return RawBatch(
            images_B3HW=images_BHW3.permute(0, 3, 1, 2),
            views=self._sample_views(step, *images_BHW3.shape[1:3]),
            size=self.size,
            caption_ids_V=caption_ids_V,
            image_ids_V=image_ids_V,
            texts=texts,
            text_index_V=text_index_V,
        )

    def sample_images(self, step: int, row: int) -> np.ndarray:
        """Return m of a caption's l image indices, sampled without replacement by (seed, epoch, caption id).

        If fewer than m images were generated for the caption, some are repeated.
        """
        rng = keyed_rng(self.seed, step // self.steps_per_epoch, self.data.caption_id(row))
        shuffled = rng.permutation(self.data.available_images(row))
        return np.resize(shuffled, self.sampling.images_per_caption)

    def __getitem__(self, request: PartRequest) -> Part:
        rows = request.rows.tolist()
        picks = [(row, self.sample_images(request.step, row)) for row in rows]
        self.data.announce(picks)
        shape = (len(rows) * self.sampling.images_per_caption, *self.image_shape)
        buffer = request.buffer
        images_BHW3 = torch.empty(shape, dtype=torch.uint8) if buffer is None else self._buffer(buffer)[: shape[0]]
        pixels_BHW3, image_ids, filled = images_BHW3.numpy(), [], 0
        for row, indices in picks:
            image_ids.append(row * self.data.images_per_caption + indices)
            for image in self.data.images(row, indices):
                if image.shape != self.image_shape:
                    sizes, repo = sorted({image.shape, self.image_shape}), self.data.manifest.repo
                    raise UserError(f"{repo} mixes image sizes {sizes}, expected one; rebuild it with one size")
                pixels_BHW3[filled] = image
                filled += 1
        return Part(
            images=images_BHW3 if buffer is None else buffer,
            image_ids_B=np.concatenate(image_ids),
            caption_ids_C=np.array([self.data.caption_id(row) for row in rows]),
            texts=[self.data.caption(row) for row in rows] if self.sampling.text else [],
        )

    def free_buffers(self) -> None:
        """Free the shared buffers, when all workers have ended."""
        self._buffers_NBHW3 = None

    def _images_of(self, part: Part) -> Tensor:
        return part.images if isinstance(part.images, Tensor) else self._buffer(part.images)[: len(part.image_ids_B)]

    def _buffer(self, number: int) -> Tensor:
        assert self._buffers_NBHW3 is not None
        return self._buffers_NBHW3[number]

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
