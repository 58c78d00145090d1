"""SupCon: all crops of all images of one caption are positives of one another.

Khosla et al. Supervised Contrastive Learning. NeurIPS 2020, arXiv 2004.11362: the loss with the sum over positives
outside the logarithm (L_out), temperature 0.1 as in the paper's ImageNet runs, two crops of each image.

Departures: labels are captions, not classes; six views of a caption are three images with two crops each. Head,
optimizer and augmentation are those of StableRep's released code. So StableRep and SupCon share their loss, and differ
only in the views of a caption: six images with one crop each, or three images with two crops each.
"""

from dataclasses import dataclass, replace
from typing import Self

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from benchmark.interfaces import AdamW, Batch, Method, Model
from benchmark.nn.heads import ProjectionHead
from benchmark.nn.losses import multi_positive
from benchmark.sampling import Sampling


@dataclass(frozen=True)
class SupCon(Method):
    """Hyper-parameters of SupCon."""

    sampling: Sampling = Sampling(images=3, crops=2)
    optimizer: AdamW = AdamW(base_lr=2e-4, base_views=512, weight_decay=0.1, betas=(0.9, 0.98), warmup=1 / 30)
    temperature: float = 0.1
    hidden: int = 4096
    output: int = 256

    def build(self, vit: VisionTransformer) -> Model:
        """Return the ViT and a projection head."""
        return SupConModel(vit, self)

    def tiny(self) -> Self:
        """Return a variant with a narrow head and a learning rate for batches of a few hundred views."""
        return replace(self, hidden=256, output=64, optimizer=replace(self.optimizer, base_lr=3e-3, base_views=240))


class SupConModel(Model):
    """Model whose positives are all crops of all images of one caption; all other views are negatives."""

    def __init__(self, vit: VisionTransformer, method: SupCon) -> None:
        super().__init__(vit)
        self.method = method
        self.head = ProjectionHead(vit.embed_dim, method.hidden, method.output)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return L_out: the multi-positive loss over all views, with caption ids as labels."""
        projected_VD = self.head(self.encode_images(batch.images_V3HW), self.method.sampling.views)
        return {"loss": multi_positive(projected_VD, batch.caption_ids_V, self.method.temperature)}


METHOD = SupCon()
