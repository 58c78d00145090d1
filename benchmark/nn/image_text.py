"""Base class of models with a joint embedding space of images and texts, as in CLIP.

Departure: the projection of images is initialized as a linear layer of PyTorch, with a standard deviation of
(3 * width) ** -0.5 (0.021 for ViT-B), not of width ** -0.5 (0.036).

Shapes: B images, T texts, D features.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.interfaces import Model
from benchmark.nn.encoders import TextEncoder, TextTower
from benchmark.nn.losses import clip_loss


class JointEmbeddingModel(Model):
    """Model with a text tower; images and texts are compared in one space, at a learned temperature.

    Subclasses call `add_text_tower` once, at the end of their `__init__`.
    """

    image_projection: nn.Linear
    text: TextEncoder
    logit_scale: nn.Parameter
    """Logarithm of the inverse temperature, a scalar."""

    def add_text_tower(self, text: TextTower, joint: int) -> None:
        """Add the text tower and the projections into a space of width `joint`."""
        self.image_projection = nn.Linear(self.vit.embed_dim, joint, bias=False)
        self.text = TextEncoder(text, joint)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def image_text_loss(self, features_BD: Tensor, texts: Sequence[str], text_index_B: Tensor) -> Tensor:
        """Return the symmetric contrastive loss, a scalar; image `i` belongs to text `text_index_B[i]`."""
        texts_TD = self.forward_in_microbatches(self.text, texts)
        return clip_loss(self.image_projection(features_BD), texts_TD, text_index_B, self.logit_scale.exp())

    def after_step(self, progress: float) -> None:
        """Clamp the inverse temperature to [1, 100]."""
        del progress
        self.logit_scale.data.clamp_(0, math.log(100))

    def project_images(self, features_BD: Tensor) -> Tensor:
        """Return unit vectors (B, joint) of image features (B, D)."""
        return F.normalize(self.image_projection(features_BD), dim=1)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit vectors (T, joint) of texts."""
        return F.normalize(self.text(texts), dim=1)
