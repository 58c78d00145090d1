"""MAE: most patches are masked, and a light decoder reconstructs them from the visible ones.

He et al. Masked Autoencoders Are Scalable Vision Learners. CVPR 2022, arXiv 2111.06377. Defaults: its ViT-B
pre-training (75 % masked, pixels normalized per patch, decoder of 8 blocks and width 512).

Departures: positional embeddings are learned; crops are resized bilinearly. The encoder's weights are initialized as in
timm (truncated normal), the decoder's as in PyTorch; the original uses Xavier's uniform distribution for both. The last
norm of the decoder has an epsilon of 1e-5, not 1e-6.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from benchmark.interfaces import AdamW, Batch, Method, Model
from benchmark.nn.distributed import rank_shard_of_uniform
from benchmark.nn.losses import masked_patch_mse
from benchmark.nn.transfer import to_device
from benchmark.sampling import Augmentation, Sampling

CROP_AND_FLIP = Augmentation(scale=(0.2, 1.0), jitter=0.0, grayscale=0.0, blur=0.0)


@dataclass(frozen=True)
class MAE(Method):
    """Hyper-parameters of MAE."""

    sampling: Sampling = Sampling(augmentation=CROP_AND_FLIP)
    optimizer: AdamW = AdamW(base_lr=1.5e-4, base_views=256, weight_decay=0.05, betas=(0.9, 0.95), warmup=0.05)
    hidden_share: float = 0.75
    """Share of masked patches."""
    width: int = 512
    """Width of the decoder."""
    depth: int = 8
    """Number of decoder blocks."""
    heads: int = 16
    """Number of attention heads in the decoder."""

    def build(self, vit: VisionTransformer) -> Model:
        """Return the ViT and a decoder."""
        return MAEModel(vit, self)

    def tiny(self) -> Self:
        """Return a variant with a narrow one-block decoder, half the patches masked, and settings for short runs."""
        optimizer = replace(self.optimizer, base_lr=1.5e-3)
        return replace(self, hidden_share=0.5, width=64, depth=1, heads=4, optimizer=optimizer)


class MAEModel(Model):
    """Masked autoencoder, whose encoder processes the visible patches only. P patches, K of them visible."""

    def __init__(self, vit: VisionTransformer, method: MAE) -> None:
        super().__init__(vit)
        self.method = method
        self.patch = vit.patch_embed.patch_size[0]
        self.embed = nn.Linear(vit.embed_dim, method.width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, method.width))
        self.masked = int(vit.patch_embed.num_patches * method.hidden_share)
        """Number of masked patches of a view."""
        self.position = nn.Parameter(torch.zeros(1, vit.patch_embed.num_patches + 1, method.width))
        self.blocks = nn.Sequential(*(Block(method.width, method.heads, qkv_bias=True) for _ in range(method.depth)))
        self.norm = nn.LayerNorm(method.width)
        self.pixels = nn.Linear(method.width, 3 * self.patch**2)
        nn.init.normal_(self.mask_token, std=0.02)
        nn.init.normal_(self.position, std=0.02)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the mean squared error over the masked patches, in normalized pixels."""
        images = batch.images_V3HW
        masked_VP = self.random_mask(len(images))
        return {"loss": self.forward_in_microbatches(self.reconstruction_error, images, masked_VP).mean()}

    def reconstruction_error(self, images_V3HW: Tensor, masked_VP: Tensor) -> Tensor:
        """Return the mean squared error of each view, (V,)."""
        return masked_patch_mse(self.reconstruct(images_V3HW, masked_VP), self.patchify(images_V3HW), masked_VP)

    def random_mask(self, count: int) -> Tensor:
        """Return a uniformly random mask (V, P), True for masked patches; their number is the same in every view."""
        noise_VP = to_device(rank_shard_of_uniform(count, self.vit.patch_embed.num_patches), self.mask_token.device)
        return noise_VP.argsort(1).argsort(1) < self.masked

    def patchify(self, images_V3HW: Tensor) -> Tensor:
        """Return the pixels of each patch, (V, P, 3 * patch**2)."""
        return nn.functional.unfold(images_V3HW, self.patch, stride=self.patch).mT

    def reconstruct(self, images_V3HW: Tensor, masked_VP: Tensor) -> Tensor:
        """Predict the pixels of all patches, (V, P, 3 * patch**2), from the visible ones."""
        vit, count = self.vit, len(images_V3HW)
        assert vit.pos_embed is not None and vit.cls_token is not None
        tokens_VPD = vit.patch_embed(images_V3HW) + vit.pos_embed[:, 1:]
        # Places of the visible patches, in order. Their number is known: the CPU does not wait for a GPU to count them.
        place_VK1 = masked_VP.int().argsort(dim=1, stable=True)[:, : masked_VP.shape[1] - self.masked, None]
        visible_VKD = tokens_VPD.take_along_dim(place_VK1, 1)
        cls_V1D = (vit.cls_token + vit.pos_embed[:, :1]).expand(count, -1, -1)
        encoded = self.embed(vit.norm(vit.blocks(torch.cat((cls_V1D, visible_VKD), 1)))).to(self.mask_token.dtype)
        hidden_VPD = self.mask_token.expand(count, masked_VP.shape[1], -1)
        full_VPD = hidden_VPD.scatter(1, place_VK1.expand(-1, -1, encoded.shape[2]), encoded[:, 1:])
        decoded = self.blocks(torch.cat((encoded[:, :1], full_VPD), 1) + self.position)
        return self.pixels(self.norm(decoded[:, 1:]))


METHOD = MAE()
