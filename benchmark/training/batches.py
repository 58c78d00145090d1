"""Batches of a dataset; a batch is a pure function of its step.

Because everything drawn is keyed by (seed, epoch, caption id) or (seed, step), a run resumes exactly and does not
depend on how many workers read it, nor on how many processes share it. Workers read and decode; views are made where
the model is.

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

_LABELS = ("caption_ids_V", "image_ids_V", "text_index_V")


@dataclass(frozen=True)
class RawBatch:
    """A batch before its views are made: what travels from a worker to the process that trains."""

    images_B3HW: Tensor
    """uint8, each image once."""
    views: ViewParams
    size: int
    """Of the views, in pixels."""
    caption_ids_V: Tensor
    image_ids_V: Tensor
    texts: list[str]
    text_index_V: Tensor

    def pin_memory(self) -> "RawBatch":
        """The same in page-locked memory; a `DataLoader` calls it."""
        pinned = {name: getattr(self, name).pin_memory() for name in ("images_B3HW", "views", *_LABELS)}
        return replace(self, **pinned)

    def views_on(self, device: torch.device) -> Batch:
        """The batch on `device`, its views made there."""
        images_V3HW = render_views(self.images_B3HW.to(device, non_blocking=True), self.views, self.size)
        labels = {name: getattr(self, name).to(device, non_blocking=True) for name in _LABELS}
        return Batch(images_V3HW=images_V3HW, texts=self.texts, **labels)


class BatchDataset(Dataset[RawBatch]):
    """Step -> batch. Every caption is seen once per epoch, in an order keyed by (seed, epoch); the rest is dropped.

    Of `world` processes each reads the share of its `rank`: in the order of ranks the shares are the batch of one.

    Raises:
        UserError: fewer captions than one batch, a batch that cannot be shared, more images asked for than a caption
            has, or captions without text for a method with text.
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
        self.data, self.sampling, self.size, self.seed = data, sampling, size, seed
        self.steps = schedule.steps
        self.captions = schedule.captions_per_batch(sampling)
        self._augmentations = sampling.augmentations
        self._usable = data.rows_with_images()
        self._check(world)
        share = self.captions // world
        self._share = slice(rank * share, (rank + 1) * share)
        self.steps_per_epoch = len(self._usable) // self.captions
        self._order: tuple[int, np.ndarray] | None = None
        """An epoch and its order, which is that of many steps."""

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_order": None}

    @property
    def bytes(self) -> int:
        """Of a raw batch, about."""
        row = int(self._usable[0])
        one = self.data.image(row, int(self.data.available_images(row)[0])).nbytes
        return one * self.sampling.images * (self._share.stop - self._share.start)

    def _check(self, world: int) -> None:
        data, sampling = self.data, self.sampling
        if self.captions % world:
            raise UserError(
                f"a batch of {self.captions * sampling.views} views has {self.captions} captions, which {world} "
                f"processes cannot share equally; use a multiple of {world * sampling.views} views, or fewer processes"
            )
        if sampling.images > data.images_per_caption:
            real = ", as datasets of real images do" if data.images_per_caption == 1 else ""
            raise UserError(
                f"the method wants {sampling.images} images per caption, {data.manifest.repo} has "
                f"{data.images_per_caption}{real}; use a dataset with more, or fewer images per caption"
            )
        if len(self._usable) < self.captions:
            raise UserError(
                f"{data.manifest.repo} has {len(self._usable)} captions, a batch wants {self.captions}; "
                "use a smaller batch"
            )
        silent = [row for row in self._usable if not (data.captions[row] or "").strip()] if sampling.text else []
        if silent:
            raise UserError(
                f"the method wants text, {data.manifest.repo} has none for {len(silent)} of its {len(data)} captions "
                f"(the first is row {silent[0]}); use a dataset with captions, or a method without text"
            )

    def __len__(self) -> int:
        return self.steps

    def rows(self, step: int) -> np.ndarray:
        """Dataset rows of the captions of a batch."""
        epoch, turn = divmod(step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, keyed_rng(self.seed, epoch).permutation(self._usable)
        return self._order[1][turn * self.captions : (turn + 1) * self.captions]

    def images_of(self, step: int, row: int) -> np.ndarray:
        """Which m of a caption's l images are seen at `step`: drawn by (seed, epoch, caption id) alone.

        Where fewer than m of them could be drawn when the dataset was built, some are seen twice.
        """
        rng = keyed_rng(self.seed, step // self.steps_per_epoch, int(self.data.caption_ids[row]))
        drawn = rng.permutation(self.data.available_images(row))
        return np.resize(drawn, self.sampling.images)

    def __getitem__(self, step: int) -> RawBatch:
        rows = self.rows(step)[self._share]
        chosen = [(int(row), int(index)) for row in rows for index in self.images_of(step, row)]
        images_B3HW = _stack([self.data.image(*image) for image in chosen], self.data.manifest.repo)
        image_ids_B = torch.tensor([row * self.data.images_per_caption + index for row, index in chosen])
        views = self.sampling.views
        return RawBatch(
            images_B3HW=images_B3HW,
            views=self._views(step, *images_B3HW.shape[2:]),
            size=self.size,
            caption_ids_V=torch.from_numpy(self.data.caption_ids[rows]).repeat_interleave(views),
            image_ids_V=image_ids_B.repeat_interleave(self.sampling.crops),
            texts=[self.data.captions[row] for row in rows] if self.sampling.text else [],
            text_index_V=torch.arange(len(rows) if self.sampling.text else 0).repeat_interleave(views),
        )

    def _views(self, step: int, height: int, width: int) -> ViewParams:
        """Drawn for the whole batch, so that they do not depend on how many processes share it."""
        generator = torch.Generator().manual_seed(step_seed(self.seed, step))
        views = sample_view_params(self.captions * self.sampling.images, height, width, self._augmentations, generator)
        return views[self._share.start * self.sampling.views : self._share.stop * self.sampling.views]


def keyed_rng(seed: int, epoch: int, caption_id: int | None = None) -> np.random.Generator:
    """A generator keyed by its arguments alone; without a caption it is the one that orders the epoch."""
    counter = 0 if caption_id is None else 1
    key = np.array([(seed << 32) | epoch, (caption_id or 0) & (1 << 64) - 1], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, counter]))


def step_seed(seed: int, step: int) -> int:
    """63 bits for everything random within one step."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {step}".encode(), digest_size=8).digest(), "big") >> 1


def _stack(images: list[np.ndarray], repo: str) -> Tensor:
    sizes = {image.shape for image in images}
    if len(sizes) > 1:
        raise UserError(f"{repo} mixes image sizes {sorted(sizes)}; build it again with one size")
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
