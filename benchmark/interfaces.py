"""Core interfaces of the benchmark. Read this file first.

    dataset --Sampling--> Batch --Method.build().loss--> checkpoint --ImageEncoder.image_layers--> Evaluation --> Scores

Shapes: V views in a batch, C captions, B images, T texts, D features, HW pixels.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
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
    """Optimizer settings of a method; the peak learning rate is `base_lr * batch_views / base_views`."""

    base_lr: float
    base_views: int
    weight_decay: float
    betas: tuple[float, float]
    warmup: float
    """Fraction of the schedule with linear warm-up; a half-cosine decay to zero follows."""
    final_weight_decay: float | None = None
    """Weight decay at the end of a half-cosine schedule from `weight_decay`. None keeps it constant."""
    clip_norm: float | None = None
    """Maximum global gradient norm. None disables clipping."""


@dataclass(frozen=True)
class Schedule:
    """Training length in views seen, so that equal schedules give every method the same compute."""

    views: int
    batch_views: int

    @property
    def steps(self) -> int:
        """Number of optimizer steps."""
        return self.views // self.batch_views

    def captions_per_batch(self, sampling: Sampling) -> int:
        """Return the number of captions in a batch.

        Raises:
            UserError: the views of a batch are not a whole number of captions.
        """
        captions, rest = divmod(self.batch_views, sampling.views)
        if rest:
            per = f"{sampling.views} views per caption; change images or crops of its sampling, or the batch"
            raise UserError(f"a batch of {self.batch_views} views does not divide by the method's {per}")
        return captions


@dataclass(frozen=True)
class ViTConfig:
    """Architecture of a plain ViT; the defaults are ViT-B/16 at 224 pixels."""

    image_size: int = 224
    patch: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12


@dataclass
class Batch:
    """Input of a training step. Views of a caption are adjacent, and within them crops of an image."""

    images_V3HW: Tensor
    caption_ids_V: Tensor
    image_ids_V: Tensor
    texts: list[str] = field(default_factory=list)
    """Captions of the batch, each once; empty unless `Sampling.text` is set."""
    text_index_V: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    """Index in `texts` of the caption of each view."""


class Model(nn.Module):
    """A network in training, with its loss and the image encoder to evaluate."""

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__()
        self.vit = vit

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return scalars to log; the one named `loss` is minimized."""
        raise NotImplementedError

    micro_batch_size: int | None = None
    """Maximum number of rows in a forward pass during training, to save memory. None disables micro-batching."""

    def forward_in_microbatches(self, network: Callable[..., Tensor], *rows: Any) -> Tensor:
        """Return `network(*rows)`, computed in slices of `micro_batch_size`; rows must be independent of each other.

        Activations are recomputed in the backward pass, except those of the last slice, which it needs first: gradient
        caching (Gao et al., arXiv 2101.06983) by activation checkpointing. Slices have equal sizes where the batch has
        a suitable divisor, since `torch.compile` compiles a network again for another size.
        """
        total = len(rows[0])
        least = -(-total // (self.micro_batch_size or total))
        if least == 1:
            return network(*rows)
        count = next((count for count in range(least, 2 * least) if total % count == 0), least)
        size = -(-total // count)
        *slices, last = (tuple(part[start : start + size] for part in rows) for start in range(0, total, size))
        run = partial(checkpoint, network, use_reentrant=False) if torch.is_grad_enabled() else network
        return torch.cat([*(run(*part) for part in slices), network(*last)])

    def encode_images(self, images_B3HW: Tensor) -> Tensor:
        """Return the CLS tokens after the final norm (B, D); in eval mode, rows do not depend on each other."""
        return self.forward_in_microbatches(self.vit, images_B3HW)

    def image_layers(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        """Return the CLS token, the mean of the patch tokens and any joint embedding; see `ImageEncoder`."""
        tokens_BLD = self.vit.forward_features(images_B3HW)
        layers = {"cls": tokens_BLD[:, 0], "pooled": tokens_BLD[:, self.vit.num_prefix_tokens :].mean(dim=1)}
        if isinstance(self, ImageTextModel):
            layers[EMBEDDING] = self.project_images(layers["cls"])
        return layers

    def after_step(self, progress: float) -> None:
        """Update clamps and moving averages after an optimizer step; `progress` is the fraction of steps done."""


EMBEDDING = "embedding"
"""Name of the layer in the joint space of images and texts."""


class ImageEncoder(Protocol):
    """Protocol of an image encoder under evaluation. `Model` is one; `benchmark.models` wraps pretrained ones."""

    def image_layers(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        """Return the features of each layer (B, D) from one forward pass; evaluations read the first layer by default.

        `cls`: CLS token after the final norm. `pooled`: mean of the patch tokens. `output`: another representation that
        the network outputs, before any projection. `embedding`: unit vectors in the joint space.
        """


@runtime_checkable
class ImageTextModel(Protocol):
    """A `Model` with a joint space of images and texts."""

    def project_images(self, features_BD: Tensor) -> Tensor:
        """Project image features to unit vectors in the joint space (B, D)."""

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed texts as unit vectors in the joint space (T, D)."""


@dataclass(frozen=True)
class Method:
    """Hyperparameters of a training method; `baselines/<name>.py` defines `METHOD`, an instance.

    The defaults of a subclass are its paper's settings.
    """

    sampling: Sampling
    optimizer: AdamW | None
    """Optimizer settings. None disables training."""

    def build(self, vit: VisionTransformer) -> Model:
        """Build the model around `vit` (without a classifier).

        Weights are drawn from PyTorch's global generator, by `torch.nn.init`; see `benchmark.nn.initialization`.
        """
        raise NotImplementedError

    def tiny(self) -> Self:
        """Return a copy that trains on a CPU, for tests, `synrep check-method` and the smoke experiments."""
        raise NotImplementedError


@dataclass(frozen=True)
class Experiment:
    """Declaration of an official run, independent of hardware and paths."""

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
    """A model that was trained elsewhere; models trained by this package have an `Experiment` instead."""

    source: str
    """Model name on the command line, such as `timm:vit_base_patch16_224.dino`."""
    slug: str
    """Source name in folder names and table rows."""
    encoder: Mapping[str, Any]
    """Architecture and image size."""


@dataclass(frozen=True)
class Score:
    """A score with its sample size and 95 % interval; all but `n` are fractions of one."""

    value: float
    n: int
    low: float
    high: float


VERIFIED, UNVERIFIED = "verified", "unverified"


@dataclass(frozen=True)
class DatasetIdentity:
    """Exact identity of the evaluated data."""

    repo: str
    revision: str
    split: str
    n: int
    ids_sha256: str
    """SHA-256 over the ids and labels in order; copies with another split or label order differ here."""
    content_sha256: Mapping[str, str] = field(default_factory=dict)
    """Split that was read (`train`, `val`, `test`) -> SHA-256 of its files, which covers images and labels."""
    provenance: str | None = None
    """`verified`: every file has the checksum that its download or build recorded for `revision`; else `unverified`.

    None if `revision` is a hash of the data itself, which claims nothing else.
    """

    def including(self, others: Iterable[Self]) -> Self:
        """Return this identity with the content of the `others`, which are splits of the same dataset."""
        others = list(others)
        content = {split: sha256 for part in (self, *others) for split, sha256 in part.content_sha256.items()}
        claims = {part.provenance for part in (self, *others)}
        provenance = UNVERIFIED if UNVERIFIED in claims else self.provenance
        return replace(self, content_sha256=content, provenance=provenance)


@dataclass(frozen=True)
class DatasetScores:
    """Scores of a model on a dataset; tables show the first one."""

    dataset: DatasetIdentity
    scores: Mapping[str, Score]
    chance: float
    per_class: Mapping[str, Score] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    """Details needed to repeat the measurement: selection rule and chosen value, solver, ties, prompts' hash."""
    predictions: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Columns with a row per sample, stored in a file next to the record; dependent rows share a value of `unit`."""
    picture: bytes | None = None
    """PNG for people to look at, stored in a file of its own; no score depends on it."""
    features_sha256: str | None = None
    """SHA-256 of the feature files, added by `benchmark.runner.evaluate`; None if a network encoded the images."""


@dataclass(frozen=True)
class Skipped:
    """Result of a dataset that could not be measured; tables show the reason."""

    reason: str
    code: SkipCode


Scores = Mapping[str, DatasetScores | Skipped]
"""Dataset name (as in the catalog) -> its scores, or why it was skipped."""


@dataclass(frozen=True)
class LabeledImages:
    """Split of an evaluation dataset: N images, decoded on read, and its columns."""

    name: str
    identity: DatasetIdentity
    read: Callable[[int], np.ndarray]
    """Function from row to uint8 RGB image (H, W, 3); thread-safe."""
    columns: Mapping[str, list[Any]]
    """Column name -> N values (labels, captions)."""
    read_mask: Callable[[int], np.ndarray] | None = None
    """Function from row to the class index of each pixel, uint8 (H, W), 255 where it does not count; None: no masks."""

    def __len__(self) -> int:
        return self.identity.n


@dataclass(frozen=True)
class Geometry:
    """Resize and center crop to the network's S x S pixels: the short side becomes `zoom` * S pixels."""

    zoom: float = 1.0
    interpolation: str = "bicubic"


class FrozenModel(Protocol):
    """Protocol of a frozen model under evaluation, implemented by `benchmark.models.loading.frozen.FrozenEncoder`."""

    embeds_texts: bool
    """True if the model has a text tower."""
    sees_images: bool
    """True if the model can encode images; False for stored features."""
    metadata: Mapping[str, Any]
    """Fields of the model in a record: `weights_sha256`, `layer`, `transform`, `precision`, `tile`; `memory_format`."""

    def features(self, images: LabeledImages, geometry: Geometry = Geometry()) -> np.ndarray:
        """Return encoder features (N, D), float32."""

    def random_views(
        self, images: LabeledImages, batches: Sequence[np.ndarray], epoch: int, seed: int
    ) -> Iterator[np.ndarray]:
        """Yield features (M, D) of random views of each batch of rows, from `epoch`, `seed` and row; never stored."""

    def image_embeddings(self, images: LabeledImages) -> np.ndarray:
        """Return unit vectors (N, D) in the joint space."""

    def text_embeddings(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors (T, D) in the joint space; every distinct text is encoded once."""

    def lacks_patches(self, dataset: str, side: int) -> str:
        """Return why a dataset has no patch tokens at `side` x `side` pixels, or an empty string."""

    def patch_tokens(self, images: LabeledImages, side: int) -> Iterator[np.ndarray]:
        """Yield patch tokens (M, h, w, D) of M whole images at a time, squashed to `side` x `side` pixels, in order."""

    def dense_network(self, side: int, blocks: bool) -> nn.Module:
        """Return a `benchmark.nn.dense.DenseNetwork` to train a decoder on; `blocks`: with the maps of its blocks."""

    def features_sha256(self, dataset: str) -> str | None:
        """Return the SHA-256 of the stored features of a dataset; None if the weights determine the features."""


@dataclass(frozen=True)
class Evaluation:
    """Evaluation protocol; `benchmark/evaluations/<name>.py` defines `EVALUATIONS`, the default protocol first.

    `version` is incremented whenever a change affects scores.
    """

    version: ClassVar[int]
    preset: str
    """Name of the protocol's source in tables."""
    datasets: tuple[str, ...]

    def skip(self, model: FrozenModel) -> Skipped | None:  # noqa: ARG002
        """Return why this model cannot be evaluated; None, the default, if it can."""
        return None

    def __call__(self, model: FrozenModel, seed: int = 0) -> Scores:
        """Evaluate `model` on every dataset; a missing dataset is `Skipped` with its reason."""
        raise NotImplementedError

    def values(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Recompute the scores of `__call__` from `predictions`, without the model; rows may be resampled."""
        raise NotImplementedError

    def intervals(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, Score]:
        """Recompute the scores of `__call__` with sample sizes and intervals from `predictions`."""
        raise NotImplementedError

    def chance(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> float:
        """Return the main score of a model that knows nothing: the best constant answer, or random guessing."""
        raise NotImplementedError

    def influence(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the first-order influence of each row on each score (N,), for the significance of paired differences.

        Scores without influence values, such as a minimum over classes, are omitted; `weighted_values` has them.
        """
        raise NotImplementedError

    def weighted_values(
        self,
        dataset: str,  # noqa: ARG002
        predictions: Mapping[str, np.ndarray],  # noqa: ARG002
        weight_RN: np.ndarray,  # noqa: ARG002
    ) -> dict[str, np.ndarray]:
        """Return the scores that `influence` omits (R,), one for each row of sample weights."""
        return {}


@dataclass(frozen=True)
class ImageTextEvaluation(Evaluation):
    """Evaluation protocol that compares images with texts in a joint space."""

    def skip(self, model: FrozenModel) -> Skipped | None:
        """Return the reason if the model has no text tower."""
        if model.embeds_texts:
            return None
        return Skipped("no text tower, so images cannot be compared with texts", SkipCode.NO_TEXT_TOWER)
