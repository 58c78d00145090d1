"""StableRep+: StableRep with an additional image-text loss.

Tian et al., NeurIPS 2023, arXiv 2306.00984, section 3.3 ("StableRep++" in the released README): the multi-positive
image loss plus half the sum of both directions of an image-text loss, in which all images of a caption are positives.

Departures: as in StableRep.
"""

from dataclasses import dataclass, replace
from typing import Self

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from benchmark.interfaces import AdamW, Batch, Method, Model
from benchmark.nn.encoders import TextTower
from benchmark.nn.heads import ProjectionHead
from benchmark.nn.image_text import JointEmbeddingModel
from benchmark.nn.losses import multi_positive
from benchmark.sampling import Sampling


@dataclass(frozen=True)
class StableRepPlus(Method):
    """Hyper-parameters of StableRep+."""

    sampling: Sampling = Sampling(images=6, text=True)
    optimizer: AdamW = AdamW(base_lr=2e-4, base_views=512, weight_decay=0.1, betas=(0.9, 0.98), warmup=1 / 30)
    temperature: float = 0.1
    hidden: int = 4096
    output: int = 256
    text: TextTower = TextTower()
    joint: int = 512
    """Width of the joint image-text space."""

    def build(self, vit: VisionTransformer) -> Model:
        """Return the ViT, a projection head and a text tower."""
        return StableRepPlusModel(vit, self)

    def tiny(self) -> Self:
        """Return a variant with a narrow head and text tower and a learning rate for batches of a few hundred views."""
        optimizer = replace(self.optimizer, base_lr=3e-3, base_views=240)
        text = TextTower(width=64, depth=2, heads=2, context=32)
        return replace(self, hidden=256, output=64, joint=64, text=text, optimizer=optimizer)


class StableRepPlusModel(JointEmbeddingModel):
    """Model whose positives of an image are its caption and the other images of this caption."""

    def __init__(self, vit: VisionTransformer, method: StableRepPlus) -> None:
        super().__init__(vit)
        self.method = method
        self.head = ProjectionHead(vit.embed_dim, method.hidden, method.output)
        self.add_text_tower(method.text, method.joint)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the sum of both losses, and each of them."""
        features_VD = self.encode_images(batch.images_V3HW)
        projected_VD = self.head(features_VD, self.method.sampling.views)
        image = multi_positive(projected_VD, batch.caption_ids_V, self.method.temperature)
        text = self.image_text_loss(features_VD, batch.texts, batch.text_index_V)
        return {"loss": image + text, "image_loss": image, "text_loss": text}


METHOD = StableRepPlus()
