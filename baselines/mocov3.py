"""MoCo v3: InfoNCE between the query of a view and the keys of the batch; the key of the other view is the positive.

Chen, Xie, He. An Empirical Study of Training Self-Supervised Vision Transformers. ICCV 2021, arXiv 2104.02057.
Defaults: the released ViT-B run (300 epochs, 40 of them warm-up; 1.5e-4 for 256 images, which are 512 views; weight
decay 0.1, temperature 0.2, momentum 0.99 rising to 1, a frozen patch projection, BYOL's augmentations).

Departures: positional embeddings are learned and all weights of the encoder are initialized as in timm, as in all
methods here (the original: Xavier's uniform distribution, with query, key and value as separate matrices); biases and
norms have no weight decay.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from benchmark.interfaces import AdamW, Batch, Method, Model
from benchmark.nn.heads import MLP
from benchmark.nn.losses import info_nce
from benchmark.nn.momentum import cosine_momentum, ema_copy, ema_update_
from benchmark.sampling import Augmentation, Sampling

FIRST = Augmentation(saturation=0.2, blur=1.0)
SECOND = replace(FIRST, blur=0.1, solarize=0.2)


@dataclass(frozen=True)
class MoCoV3(Method):
    """Hyper-parameters of MoCo v3."""

    sampling: Sampling = Sampling(crops=2, augmentation=FIRST, further=(SECOND,))
    optimizer: AdamW = AdamW(base_lr=1.5e-4, base_views=512, weight_decay=0.1, betas=(0.9, 0.999), warmup=40 / 300)
    temperature: float = 0.2
    momentum: float = 0.99
    """Momentum of the key encoder at the start. It rises to one."""
    hidden: int = 4096
    output: int = 256

    def build(self, vit: VisionTransformer) -> Model:
        """Return the ViT, projector and predictor, with momentum copies of the first two."""
        return MoCoV3Model(vit, self)

    def tiny(self) -> Self:
        """Return a variant with narrow heads, and a learning rate and momentum for short runs."""
        optimizer = replace(self.optimizer, base_lr=3e-3, base_views=240)
        return replace(self, momentum=0.9, hidden=256, output=64, optimizer=optimizer)


class MoCoV3Model(Model):
    """Query encoder and its momentum copy, the key encoder. The two views of an image are adjacent."""

    def __init__(self, vit: VisionTransformer, method: MoCoV3) -> None:
        super().__init__(vit)
        self.method = method
        vit.patch_embed.requires_grad_(False)
        width, hidden, output = vit.embed_dim, method.hidden, method.output
        self.projector = MLP((width, hidden, hidden, output), bias=False, last_bn=True)
        self.predictor = MLP((output, hidden, output), bias=False, last_bn=True)
        self.key_vit, self.key_projector = ema_copy(vit), ema_copy(self.projector)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return InfoNCE of first with second views plus the reverse, times twice the temperature."""
        queries_VD = self.predictor(self.projector(self.encode_images(batch.images_V3HW), 2), 2)
        keys_VD = self.keys(batch.images_V3HW)
        first = info_nce(queries_VD[0::2], keys_VD[1::2], self.method.temperature)
        second = info_nce(queries_VD[1::2], keys_VD[0::2], self.method.temperature)
        return {"loss": 2 * self.method.temperature * (first + second)}

    @torch.no_grad()
    def keys(self, images_V3HW: Tensor) -> Tensor:
        """Return the projections of the key encoder, (V, output)."""
        return self.key_projector(self.forward_in_microbatches(self.key_vit, images_V3HW), 2)

    def after_step(self, progress: float) -> None:
        """Update the key encoder."""
        momentum = cosine_momentum(self.method.momentum, progress)
        ema_update_(self.key_vit, self.vit, momentum)
        ema_update_(self.key_projector, self.projector, momentum)


METHOD = MoCoV3()
