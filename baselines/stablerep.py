"""StableRep: all synthetic images of one caption are positives of one another.

Tian, Fan, Isola, Chang, Krishnan. StableRep: Synthetic Images from Text-to-Image Models Make Strong Visual
Representation Learners. NeurIPS 2023, arXiv 2306.00984. Defaults: CC12M and RedCaps runs of the released code
(six of ten images per caption, 8,192 views a step).

Departures: no random downsampling (some released models use it; set `augmentation.downsample` to 0.05 for it); labels
are caption ids rather than positions in the batch.
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
class StableRep(Method):
    """Hyper-parameters of StableRep."""

    sampling: Sampling = Sampling(images=6)
    optimizer: AdamW = AdamW(base_lr=2e-4, base_views=512, weight_decay=0.1, betas=(0.9, 0.98), warmup=1 / 30)
    temperature: float = 0.1
    hidden: int = 4096
    output: int = 256

    def build(self, vit: VisionTransformer) -> Model:
        """Return the ViT and a projection head."""
        return StableRepModel(vit, self)

    def tiny(self) -> Self:
        """Return a variant with a narrow head and a learning rate for batches of a few hundred views."""
        return replace(self, hidden=256, output=64, optimizer=replace(self.optimizer, base_lr=3e-3, base_views=240))


class StableRepModel(Model):
    """Model whose positives are images of one caption; all other images are negatives."""

    def __init__(self, vit: VisionTransformer, method: StableRep) -> None:
        super().__init__(vit)
        self.method = method
        self.head = ProjectionHead(vit.embed_dim, method.hidden, method.output)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the multi-positive loss with caption ids as labels."""
        projected_VD = self.head(self.encode_images(batch.images_V3HW), self.method.sampling.views)
        return {"loss": multi_positive(projected_VD, batch.caption_ids_V, self.method.temperature)}


METHOD = StableRep()
