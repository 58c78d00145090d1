"""SLIP: CLIP on one weak crop of an image, and SimCLR on two strong ones.

Mu, Kirillov, Wagner, Xie. SLIP: Self-supervision meets Language-Image Pre-training. ECCV 2022, arXiv 2112.12750.
Defaults: its released ViT-B run (3e-3 for 4,096 images, which are 12,288 views; weight decay 0.1, one of 25 epochs of
warm-up, self-supervised scale 1, temperature 0.1, a head of width 4096).

Departures: the cosine starts and ends at zero, not at 1e-6 and 1e-5. With several processes, gradients of the
image-text loss flow through the gathered embeddings; the original gathers them without gradient.
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
from benchmark.sampling import SIMCLR, WEAK, Sampling


@dataclass(frozen=True)
class SLIP(Method):
    """Hyper-parameters of SLIP."""

    sampling: Sampling = Sampling(crops=3, text=True, augmentation=WEAK, further=(SIMCLR, SIMCLR))
    optimizer: AdamW = AdamW(base_lr=3e-3, base_views=12288, weight_decay=0.1, betas=(0.9, 0.98), warmup=1 / 25)
    temperature: float = 0.1
    scale: float = 1.0
    """Weight of the self-supervised loss."""
    hidden: int = 4096
    output: int = 256
    text: TextTower = TextTower()
    joint: int = 512
    """Width of the joint image-text space."""

    def build(self, vit: VisionTransformer) -> Model:
        """Return the ViT, a projection head and a text tower."""
        return SLIPModel(vit, self)

    def tiny(self) -> Self:
        """Return a variant with a narrow head and text tower and a learning rate for batches of a few hundred views."""
        optimizer = replace(self.optimizer, base_lr=3e-3, base_views=240)
        text = TextTower(width=64, depth=2, heads=2, context=32)
        return replace(self, hidden=256, output=64, joint=64, text=text, optimizer=optimizer)


class SLIPModel(JointEmbeddingModel):
    """Model with three adjacent crops per image: CLIP's loss on the first, SimCLR's loss on the other two."""

    def __init__(self, vit: VisionTransformer, method: SLIP) -> None:
        super().__init__(vit)
        self.method = method
        self.head = ProjectionHead(vit.embed_dim, method.hidden, method.output)
        self.add_text_tower(method.text, method.joint)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted sum of both losses, and each of them."""
        features_BCD = self.encode_images(batch.images_V3HW).unflatten(0, (-1, 3))
        weak_BD, strong_VD = features_BCD[:, 0], features_BCD[:, 1:].flatten(0, 1)
        text = self.image_text_loss(weak_BD, batch.texts, batch.text_index_V[::3])
        image_ids_V = batch.image_ids_V.unflatten(0, (-1, 3))[:, 1:].flatten()
        image = multi_positive(self.head(strong_VD, 2), image_ids_V, self.method.temperature)
        return {"loss": text + self.method.scale * image, "text_loss": text, "image_loss": image}


METHOD = SLIP()
