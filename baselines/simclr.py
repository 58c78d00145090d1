"""SimCLR: two crops of one image are a positive pair; captions are not used.

Chen, Kornblith, Norouzi, Hinton. A Simple Framework for Contrastive Learning of Visual Representations. ICML 2020,
arXiv 2002.05709. Head, temperature and optimizer are those of the SimCLR baseline in StableRep's released code.

Departures: labels are image ids rather than positions in the batch.
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
class SimCLR(Method):
    """Hyper-parameters of SimCLR."""

    sampling: Sampling = Sampling(crops=2)
    optimizer: AdamW = AdamW(base_lr=2e-4, base_views=512, weight_decay=0.1, betas=(0.9, 0.98), warmup=1 / 30)
    temperature: float = 0.1
    hidden: int = 4096
    output: int = 256

    def build(self, vit: VisionTransformer) -> Model:
        """Return the ViT and a projection head."""
        return SimCLRModel(vit, self)

    def tiny(self) -> Self:
        """Return a variant with a narrow head and a learning rate for batches of a few hundred views."""
        return replace(self, hidden=256, output=64, optimizer=replace(self.optimizer, base_lr=3e-3, base_views=240))


class SimCLRModel(Model):
    """Model whose positives are crops of one image; all other views are negatives."""

    def __init__(self, vit: VisionTransformer, method: SimCLR) -> None:
        super().__init__(vit)
        self.method = method
        self.head = ProjectionHead(vit.embed_dim, method.hidden, method.output)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return NT-Xent: the multi-positive loss with image ids as labels."""
        projected_VD = self.head(self.encode_images(batch.images_V3HW), self.method.sampling.views)
        return {"loss": multi_positive(projected_VD, batch.image_ids_V, self.method.temperature)}


METHOD = SimCLR()
