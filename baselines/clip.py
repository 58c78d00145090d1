"""CLIP: an image and its caption are a positive pair.

Radford et al. Learning Transferable Visual Models From Natural Language Supervision. ICML 2021, arXiv 2103.00020.
Defaults: the CC12M and RedCaps baselines by the same group (LaCLIP, arXiv 2305.20088: weak crop, learning rate 1e-3 at
8,192, weight decay 0.5, one epoch of 35 warm-up), which are StableRep's as far as published.

Departures: the cosine ends at zero, not at 1e-5.
"""

from dataclasses import dataclass, replace
from typing import Self

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from benchmark.interfaces import AdamW, Batch, Method, Model
from benchmark.nn.encoders import TextTower
from benchmark.nn.image_text import JointEmbeddingModel
from benchmark.sampling import WEAK, Sampling


@dataclass(frozen=True)
class CLIP(Method):
    """Hyper-parameters of CLIP."""

    sampling: Sampling = Sampling(text=True, augmentation=WEAK)
    optimizer: AdamW = AdamW(base_lr=1e-3, base_views=8192, weight_decay=0.5, betas=(0.9, 0.98), warmup=1 / 35)
    text: TextTower = TextTower()
    joint: int = 512
    """Width of the joint image-text space."""

    def build(self, vit: VisionTransformer) -> Model:
        """Return the ViT and a text tower."""
        return CLIPModel(vit, self)

    def tiny(self) -> Self:
        """Return a variant with a narrow text tower and a learning rate for batches of a few hundred views."""
        optimizer = replace(self.optimizer, base_lr=1e-3, base_views=240)
        return replace(self, joint=64, text=TextTower(width=64, depth=2, heads=2, context=32), optimizer=optimizer)


class CLIPModel(JointEmbeddingModel):
    """Model whose positives are an image and its caption; all other pairs of the batch are negatives."""

    def __init__(self, vit: VisionTransformer, method: CLIP) -> None:
        super().__init__(vit)
        self.add_text_tower(method.text, method.joint)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the contrastive loss, the mean of both directions, and the inverse temperature."""
        features_VD = self.encode_images(batch.images_V3HW)
        loss = self.image_text_loss(features_VD, batch.texts, batch.text_index_V)
        return {"loss": loss, "logit_scale": self.logit_scale.exp()}


METHOD = CLIP()
