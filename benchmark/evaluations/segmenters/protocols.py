"""Semantic segmentation by a decoder that is trained on random crops, and applied in sliding windows.

`dinov3-linear` (Siméoni et al., 2025; `eval/segmentation`, `config-ade20k-linear-training.yaml`): a linear layer on the
last patch tokens of a frozen network, after its final norm. Single scale.

`synclr-upernet` (SynCLR; Tian et al., CVPR 2024): UperNet, with the whole network fine-tuned. SynCLR has published two
recipes. This is that of its code, `SynCLR/eval/seg/mae/mae-finetune-60k.py`, and `mae-finetune-large.py` for networks
of 24 blocks or more: learning rate 1e-4, layer decay 0.65. That of its paper, Table 15, has 8e-5, and 0.6 (0.8 for
ViT-L); steps, batch and drop path agree. The numbers of that paper, StableRep's among them, are apparently those of the
best checkpoint on the validation set, which is the test set here.

Both report the last step: nothing is selected. A crop and a window have 512 pixels (518 for patches of 14), windows
start every 341 (345), and the class is decided at the size of the file. Images that are smaller by nature, those of
`scenes-masks`, are seen at their own size: crop and window have 64 pixels, windows start every 42. An official
validation split is not used.

Batch statistics are those of all crops of a step: plain batch norms in one process, synchronized ones in several, as
the originals have with eight GPUs. Departures: images are resized with antialiasing, and those of `crops`; bfloat16
instead of float16; `synclr-upernet` adds no relative position biases and layer scales to the network, as the
original's code does.

Neither has been run on a GPU yet.

Shapes: N test images, HW pixels, K classes.
"""

import shutil
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from benchmark.errors import SkipCode, UserError
from benchmark.evaluations.scoring.classification import Task
from benchmark.evaluations.scoring.contact_sheet import SHOWN, contact_sheet
from benchmark.evaluations.scoring.segmentation import SegmentationEvaluation, areas, score_areas
from benchmark.evaluations.segmenters.crops import Crops
from benchmark.evaluations.segmenters.decoders import LinearSegmenter, Segmenter, UperNetSegmenter
from benchmark.evaluations.segmenters.training import Recipe, train
from benchmark.evaluations.segmenters.windows import segment_image
from benchmark.files import sha256_json
from benchmark.interfaces import DatasetScores, FrozenModel, Skipped
from benchmark.nn import distributed, initialization
from benchmark.nn.dense import DenseNetwork
from benchmark.records.create import protocol_hash
from benchmark.training.checkpoint import Run
from benchmark.training.execution import ExecutionConfig, default_execution

SMALL = 224
"""Images of datasets whose `side` is less are seen at that side."""


@dataclass(frozen=True)
class DecoderEvaluation(SegmentationEvaluation):
    """Base class of the protocols that train a decoder."""

    version: ClassVar[int] = 1
    needs_blocks: ClassVar[bool] = False
    """Whether the decoder reads the maps of single blocks."""
    recipe: Recipe = field(kw_only=True)
    crop: int = 512
    """Height and width of crops and windows in pixels, before they are rounded up to whole patches."""
    stride: tuple[int, int] = (2, 3)
    """Distance of two windows, as a fraction of their side, rounded down."""
    scale: tuple[float, float] = (0.5, 2.0)
    """Smallest and largest factor of the size of a training image."""
    dropout: float = 0.1
    """Probability that a channel is dropped before the last layer."""

    def _recipe(self, network: DenseNetwork) -> Recipe:  # noqa: ARG002
        return self.recipe

    def _segmenter(self, network: DenseNetwork, classes: int) -> Segmenter:
        """Return the untrained decoder; its weights are drawn from PyTorch's global generator."""
        raise NotImplementedError

    def _measure(self, model: FrozenModel, task: Task, seed: int) -> DatasetScores | Skipped:
        side = task.row.side if task.row.side < SMALL else self.crop
        try:
            network = model.dense_network(side, self.needs_blocks)
        except UserError as error:
            return Skipped(str(error), SkipCode.NO_PATCHES if model.sees_images else SkipCode.NO_NETWORK)
        assert isinstance(network, DenseNetwork)
        task, recipe = replace(task, val=None), self._recipe(network)
        color = tuple(round(255 * mean) for mean in model.metadata["transform"]["mean"])
        identity = asdict(task.train.identity)
        del identity["provenance"]  # a statement about the same files
        key = sha256_json([protocol_hash(self), model.metadata, identity, seed])
        folder = network.folder / key if network.folder else None
        run = Run(experiment=f"{self.preset} on {task.row.name}", fingerprint=key, seed=seed, content_sha256=key)
        execution = replace(default_execution(), device=network.device)
        with initialization.seeded(seed):
            segmenter = self._segmenter(network, len(task.row.mask_classes)).to(network.device)
        crops = Crops(task.train, network.side, color, seed, self.scale)
        segmenter = train(segmenter, crops, recipe, run, execution, folder)
        stride = network.side * self.stride[0] // self.stride[1]
        areas_N3K, picture = _test(segmenter, task, crops, stride, execution)
        details = {
            "seed": seed,
            "selected_on": "nothing: the last step",
            "recipe": asdict(recipe),
            "side": network.side,
            "stride": stride,
            "test_images": "short side resized to one window, bilinear; classes decided at the size of the file",
            "batch_statistics": "of all crops of a step",
        }
        scores = replace(score_areas(self, task, areas_N3K, details), picture=picture)
        if folder and distributed.rank() == 0:
            shutil.rmtree(folder, ignore_errors=True)
        return scores


@torch.inference_mode()
def _test(
    segmenter: Segmenter, task: Task, crops: Crops, stride: int, execution: ExecutionConfig
) -> tuple[np.ndarray, Any]:
    """Return the areas of all test images (N, 3, K), and the picture of some.

    Args:
        segmenter: the trained decoder.
        task: the dataset.
        crops: the training data, which have the size of windows and the color of padded pixels.
        stride: distance of two windows.
        execution: device and precision.
    """
    images, names = task.test, task.row.mask_classes
    assert images.read_mask
    areas_N3K = torch.zeros(len(images), 3, len(names), dtype=torch.long)
    pictures: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for row in range(distributed.rank(), len(images), distributed.world_size()):
        image_HW3, class_HW = images.read(row), images.read_mask(row)
        with execution.autocast():
            found_HW = segment_image(segmenter.segment, image_HW3, crops.side, stride, crops.color, execution.device)
        areas_N3K[row] = torch.from_numpy(areas(class_HW, found_HW, len(names)))
        if len(pictures) < SHOWN:
            pictures.append((image_HW3, class_HW, found_HW))
    total_N3K = distributed.all_reduce_sum(areas_N3K.to(execution.device))
    return total_N3K.cpu().numpy(), contact_sheet(pictures, names)


@dataclass(frozen=True)
class DinoV3Linear(DecoderEvaluation):
    """A linear layer on the patch tokens of a frozen network."""

    preset: str = "dinov3-linear"
    recipe: Recipe = Recipe(steps=40_000, batch=16, lr=1e-3, weight_decay=1e-3)

    def _segmenter(self, network: DenseNetwork, classes: int) -> Segmenter:
        return LinearSegmenter(network, classes, self.dropout)


@dataclass(frozen=True)
class SynClrUperNet(DecoderEvaluation):
    """UperNet on a fine-tuned ViT."""

    needs_blocks: ClassVar[bool] = True
    preset: str = "synclr-upernet"
    recipe: Recipe = Recipe(steps=60_000, batch=32, lr=1e-4, weight_decay=0.05, decay="linear")
    deep_recipe: Recipe = Recipe(steps=160_000, batch=16, lr=1e-4, weight_decay=0.05, decay="linear")
    """Recipe of networks with `deep` blocks or more."""
    deep: int = 24
    drop_path: float = 0.1
    deep_drop_path: float = 0.2
    layer_decay: float = 0.65
    auxiliary: float = 0.4
    """Weight of the auxiliary head's loss."""

    def _recipe(self, network: DenseNetwork) -> Recipe:
        return self.deep_recipe if self._is_deep(network) else self.recipe

    def _segmenter(self, network: DenseNetwork, classes: int) -> Segmenter:
        return UperNetSegmenter(
            network,
            classes,
            dropout=self.dropout,
            drop_path=self.deep_drop_path if self._is_deep(network) else self.drop_path,
            layer_decay=self.layer_decay,
            auxiliary=self.auxiliary,
        )

    def _is_deep(self, network: DenseNetwork) -> bool:
        blocks = network.backbone.get_submodule("blocks")
        assert isinstance(blocks, nn.Sequential | nn.ModuleList)
        return len(blocks) >= self.deep
