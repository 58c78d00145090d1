"""BYOL: each view predicts the output of a momentum copy of the network for the other view, without negatives.

Grill et al. Bootstrap Your Own Latent. NeurIPS 2020, arXiv 2006.07733. Loss, heads (4096 wide, 256 out), target
momentum (0.996 rising to 1, as for 1000 epochs) and augmentations are the paper's.

Departures: the optimizer is AdamW as for BYOL with a ViT-B in the MoCo v3 study (Chen, Xie, He, arXiv 2104.02057: 1e-4
for 256 images, which are 512 views; weight decay 0.03, 40 of 300 epochs of warm-up), not LARS, which is for
convolutional networks; the last layers of the heads have biases; crops are resized bilinearly.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from benchmark.interfaces import AdamW, Batch, Method, Model
from benchmark.nn.heads import MLP
from benchmark.nn.losses import byol_loss, swap_view_pairs
from benchmark.nn.momentum import cosine_momentum, ema_copy, ema_update_
from benchmark.sampling import Augmentation, Sampling

FIRST = Augmentation(saturation=0.2, blur=1.0)
SECOND = replace(FIRST, blur=0.1, solarize=0.2)


@dataclass(frozen=True)
class BYOL(Method):
    """Hyper-parameters of BYOL."""

    sampling: Sampling = Sampling(crops=2, augmentation=FIRST, further=(SECOND,))
    optimizer: AdamW = AdamW(base_lr=1e-4, base_views=512, weight_decay=0.03, betas=(0.9, 0.999), warmup=40 / 300)
    momentum: float = 0.996
    """Momentum of the target network at the start. It rises to one."""
    hidden: int = 4096
    output: int = 256

    def build(self, vit: VisionTransformer) -> Model:
        """Return the ViT, projector and predictor, with target copies of the first two."""
        return BYOLModel(vit, self)

    def tiny(self) -> Self:
        """Return a variant with narrow heads, and a learning rate and target momentum for short runs."""
        optimizer = replace(self.optimizer, base_lr=3e-3, base_views=240)
        return replace(self, momentum=0.9, hidden=256, output=64, optimizer=optimizer)


class BYOLModel(Model):
    """Online network and target network. The two views of an image are adjacent."""

    def __init__(self, vit: VisionTransformer, method: BYOL) -> None:
        super().__init__(vit)
        self.method = method
        self.projector = MLP((vit.embed_dim, method.hidden, method.output))
        self.predictor = MLP((method.output, method.hidden, method.output))
        self.target_vit, self.target_projector = ema_copy(vit), ema_copy(self.projector)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the squared distance of predictions to the targets of the other view, summed over both directions."""
        predicted_VD = self.predictor(self.projector(self.encode_images(batch.images_V3HW), 2), 2)
        return {"loss": 2 * byol_loss(predicted_VD, swap_view_pairs(self.targets(batch.images_V3HW)))}

    @torch.no_grad()
    def targets(self, images_V3HW: Tensor) -> Tensor:
        """Return the projections of the target network, (V, output)."""
        return self.target_projector(self.forward_in_microbatches(self.target_vit, images_V3HW), 2)

    def after_step(self, progress: float) -> None:
        """Update the target network."""
        momentum = cosine_momentum(self.method.momentum, progress)
        ema_update_(self.target_vit, self.vit, momentum)
        ema_update_(self.target_projector, self.projector, momentum)


METHOD = BYOL()
