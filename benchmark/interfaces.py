"""The joints of the benchmark. Read this file first.

    dataset --Sampling--> Batch --Method.build().loss--> checkpoint --Network.image_layers--> Evaluation --> Scores

Shapes: V views in a batch, C captions, B images, T texts, D features, HW pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmark.errors import SkipCode, UserError
from benchmark.sampling import Sampling


@dataclass(frozen=True)
class AdamW:
    """Optimiser settings of a method; the peak learning rate is `base_lr * batch_views / base_views`."""

    base_lr: float
    base_views: int
    weight_decay: float
    betas: tuple[float, float]
    warmup: float
    """Share of the schedule spent in linear warm-up, before the half-cosine to zero."""
    final_weight_decay: float | None = None
    """Reached by half a cosine from `weight_decay`; None: it stays."""
    clip_norm: float | None = None
    """Of the gradient over all parameters; None: it is not clipped."""


@dataclass(frozen=True)
class Schedule:
    """How much is trained, in views seen: the same Schedule is the same compute for every method."""

    views: int
    batch_views: int

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return self.views // self.batch_views

    def captions_per_batch(self, sampling: Sampling) -> int:
        """Captions in a batch.

        Raises:
            UserError: the batch does not hold a whole number of captions.
        """
        captions, rest = divmod(self.batch_views, sampling.views)
        if rest:
            per = f"{sampling.views} views per caption; use a multiple of {sampling.views}"
            raise UserError(f"a batch of {self.batch_views} views does not divide by {per}")
        return captions


@dataclass(frozen=True)
class ViTConfig:
    """A plain ViT; the defaults are ViT-B/16 at 224 pixels."""

    image_size: int = 224
    patch: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12


@dataclass
class Batch:
    """What a training step sees. Views of a caption are adjacent, crops of an image adjacent within them."""

    images_V3HW: Tensor
    caption_ids_V: Tensor
    image_ids_V: Tensor
    texts: list[str] = field(default_factory=list)
    """The captions of the batch, one each; empty unless the method asked for text."""
    text_index_V: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    """Row of `texts` that each view belongs to."""


class Model(nn.Module):
    """A network in training: it knows its own loss, and how to encode an image afterwards."""

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__()
        self.vit = vit

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars to log; the one named `loss` is minimised."""
        raise NotImplementedError

    micro_batch_size: int | None = None
    """How many rows a network sees at a time in training, so that a batch fits a device; None: all of them."""

    def forward_in_microbatches(self, network: Callable[..., Tensor], *rows: Any) -> Tensor:
        """`network(*rows)`, row by row independent, in slices of `micro_batch_size`.

        A slice's activations are computed again in the backward pass, so memory is that of one slice, while a loss
        sees the whole batch: cached gradients (Gao et al., arXiv 2101.06983) by checkpoints.
        """
        count = -(-len(rows[0]) // (self.micro_batch_size or len(rows[0])))
        if count == 1:
            return network(*rows)
        bounds = [len(rows[0]) * number // count for number in range(count + 1)]
        slices = [tuple(part[start:end] for part in rows) for start, end in pairwise(bounds)]
        if not torch.is_grad_enabled():
            return torch.cat([network(*part) for part in slices])
        return torch.cat([checkpoint(network, *part, use_reentrant=False) for part in slices])

    def encode_images(self, images_B3HW: Tensor) -> Tensor:
        """CLS token after the final norm (B, D); in eval mode a row does not depend on the others."""
        return self.forward_in_microbatches(self.vit, images_B3HW)

    def image_layers(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        """As `ImageEncoder`: CLS token, mean of the patch tokens, and the joint space if there is one."""
        tokens_BLD = self.vit.forward_features(images_B3HW)
        layers = {"cls": tokens_BLD[:, 0], "pooled": tokens_BLD[:, self.vit.num_prefix_tokens :].mean(dim=1)}
        if isinstance(self, ImageTextModel):
            layers[EMBEDDING] = self.project_images(layers["cls"])
        return layers

    def after_step(self, progress: float) -> None:
        """Called after each optimiser step, for clamps and moving averages; `progress` is the share of steps done."""


EMBEDDING = "embedding"
"""The layer that lies in the joint space of images and texts."""


class ImageEncoder(Protocol):
    """What evaluations need of an image encoder. `Model` is one; `benchmark.models` wraps those of others."""

    def image_layers(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        """Layer -> values (B, D), all of one pass; the first layer is the one that evaluations read.

        `cls`: CLS token after the final norm. `pooled`: mean of the patch tokens. `output`: what else the network takes
        for its representation, before any projection. `embedding`: unit vectors of the joint space.
        """
        ...


@runtime_checkable
class ImageTextModel(Protocol):
    """A `Model` with a joint space."""

    def project_images(self, features_BD: Tensor) -> Tensor:
        """Unit vectors (B, D)."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (T, D)."""
        ...


@dataclass(frozen=True)
class Method:
    """Hyper-parameters of one way to train an encoder; `baselines/<name>.py` defines `METHOD`, an instance.

    The defaults of a subclass are its paper's settings.
    """

    sampling: Sampling
    optimizer: AdamW | None
    """None: nothing is trained."""

    def build(self, vit: VisionTransformer) -> Model:
        """The model around `vit` (without a classifier); draws its own weights from torch's global generator."""
        raise NotImplementedError

    def tiny(self) -> Self:
        """A copy that trains on a CPU, for tests, `synrep check-method` and the smoke experiments."""
        raise NotImplementedError


@dataclass(frozen=True)
class Experiment:
    """One official run. Says nothing about hardware or paths."""

    name: str
    version: int
    method: str
    settings: Method
    dataset: str
    revision: str
    schedule: Schedule
    encoder: ViTConfig
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Pretrained:
    """A model that was trained elsewhere; an `Experiment` is what was trained here."""

    source: str
    """As on the command line, such as `timm:vit_base_patch16_224.dino`."""
    slug: str
    """The source as a name of folders and of table rows."""
    encoder: Mapping[str, Any]
    """Architecture and image size."""


@dataclass(frozen=True)
class Score:
    """A number with its sample size and 95 % interval; all as fractions of one."""

    value: float
    n: int
    low: float
    high: float


@dataclass(frozen=True)
class DatasetIdentity:
    """Exactly what was measured on."""

    repo: str
    revision: str
    split: str
    n: int
    ids_sha256: str
    """Over the ids and labels in order: two copies with another split or label order differ here."""


@dataclass(frozen=True)
class DatasetScores:
    """The scores of one model on one dataset; the first score is the one that tables show."""

    dataset: DatasetIdentity
    scores: Mapping[str, Score]
    chance: float
    per_class: Mapping[str, Score] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    """What it takes to repeat it: selection rule and chosen value, solver, ties, prompts' hash."""
    predictions: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Columns of equal length, a row per sample, kept beside the record; dependent rows share a value of `unit`."""


@dataclass(frozen=True)
class Skipped:
    """A dataset that could not be measured, and why; the reason is shown in the table."""

    reason: str
    code: SkipCode


Scores = Mapping[str, DatasetScores | Skipped]
"""Dataset name (as in the catalogue) -> what came out."""


@dataclass(frozen=True)
class LabelledImages:
    """One split of an evaluation dataset: N images still encoded, and its columns."""

    name: str
    identity: DatasetIdentity
    read: Callable[[int], np.ndarray]
    """Row -> uint8 RGB (H, W, 3); safe to call from several threads."""
    columns: Mapping[str, list[Any]]
    """Column name -> N values (labels, captions)."""

    def __len__(self) -> int:
        return self.identity.n


@dataclass(frozen=True)
class Geometry:
    """How an image becomes S x S pixels, S the network's size: short side to `zoom` S, then the centre."""

    zoom: float = 1.0
    interpolation: str = "bicubic"


class FrozenModel(Protocol):
    """A frozen encoder under evaluation, as `benchmark.models.loading.frozen.FrozenEncoder` gives it."""

    embeds_texts: bool
    sees_images: bool
    """False for stored features without a network."""
    metadata: Mapping[str, Any]
    """`weights_sha256`, `layer`, `transform`, `precision`, `tile`: what a record says of it."""

    def features(self, images: LabelledImages, geometry: Geometry = Geometry()) -> np.ndarray:
        """Encoder features (N, D), float32."""
        ...

    def random_views(self, images: LabelledImages, rows_M: np.ndarray, epoch: int, seed: int) -> np.ndarray:
        """Features (M, D) of a random crop and flip of each row, by `epoch`, `seed` and row; never stored."""
        ...

    def image_embeddings(self, images: LabelledImages) -> np.ndarray:
        """Unit vectors (N, D) in the joint space."""
        ...

    def text_embeddings(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors (T, D) in the joint space; every distinct text is encoded once."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """One protocol of an evaluation; `benchmark/evaluations/<name>.py` defines `EVALUATIONS`, the default one first.

    `version` is bumped whenever a change moves numbers.
    """

    version: ClassVar[int]
    preset: str
    """Where the protocol comes from, as tables name it."""
    datasets: tuple[str, ...]

    def skip(self, model: FrozenModel) -> Skipped | None:  # noqa: ARG002
        """Why this model cannot be evaluated; None: it can, as every encoder of images."""
        return None

    def __call__(self, model: FrozenModel, seed: int = 0) -> Scores:
        """Measure `model` on every dataset; a missing dataset is `Skipped` with its reason."""
        raise NotImplementedError

    def values(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The scores of `predictions`, by name: what `__call__` gave, without the model; also of resampled rows."""
        raise NotImplementedError

    def intervals(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, Score]:
        """`values` with n and intervals, as `__call__` gave them."""
        raise NotImplementedError

    def chance(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> float:
        """What a model that knows nothing gets of the main score."""
        raise NotImplementedError

    def influence(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """How far each row moves each score (N,), to first order, for the significance of a paired difference.

        A score that has no such values, such as a minimum over classes, is left out: `weighted_values` has it.
        """
        raise NotImplementedError

    def weighted_values(
        self,
        dataset: str,  # noqa: ARG002
        predictions: Mapping[str, np.ndarray],  # noqa: ARG002
        weight_RN: np.ndarray,  # noqa: ARG002
    ) -> dict[str, np.ndarray]:
        """The scores that `influence` leaves out, under each row of weights (R,)."""
        return {}


@dataclass(frozen=True)
class ImageTextEvaluation(Evaluation):
    """A protocol that compares images with texts in a joint space."""

    def skip(self, model: FrozenModel) -> Skipped | None:
        """A reason where there is no text tower."""
        if model.embeds_texts:
            return None
        return Skipped("no text tower, so images cannot be compared with texts", SkipCode.NO_TEXT_TOWER)
