"""Networks that methods share: the ViT (timm), the text tower (open_clip) and the projection head of StableRep.

Shapes: V views, T texts, L tokens, D features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from open_clip import transformer
from open_clip.tokenizer import SimpleTokenizer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from benchmark.distributed import total, world_size
from benchmark.interfaces import Encoder


def build_vit(encoder: Encoder) -> VisionTransformer:
    """A plain timm ViT without a classifier; its output is the CLS token after the final norm."""
    return VisionTransformer(
        img_size=encoder.image_size,
        patch_size=encoder.patch,
        embed_dim=encoder.width,
        depth=encoder.depth,
        num_heads=encoder.heads,
        num_classes=0,
        global_pool="token",
    )


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation with the statistics of all processes; torch's own is for GPUs only."""

    def forward(self, rows_ND: Tensor) -> Tensor:
        """Normalise (N, D)."""
        if not self.training or world_size() == 1:
            return super().forward(rows_ND)
        rows_ND, count = rows_ND.float(), len(rows_ND) * world_size()
        mean_D = total(rows_ND.sum(0)) / count
        centred_ND = rows_ND - mean_D
        variance_D = total(centred_ND.square().sum(0)) / count
        with torch.no_grad():
            assert self.momentum is not None and self.running_mean is not None and self.running_var is not None
            self.running_mean.lerp_(mean_D, self.momentum)
            self.running_var.lerp_(variance_D * count / (count - 1), self.momentum)
            self.num_batches_tracked += 1
        normalised_ND = centred_ND * (variance_D + self.eps).rsqrt()
        return normalised_ND * self.weight + self.bias if self.affine else normalised_ND


class ProjectionHead(nn.Module):
    """StableRep's head: three linear layers, batch norm and ReLU after the first two.

    As in the released code, batch statistics are taken per view slot (all first views, all second views, ...).
    """

    def __init__(self, width: int, hidden: int, output: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, hidden),
            BatchNorm(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden),
            BatchNorm(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, output),
        )

    def forward(self, features_VD: Tensor, slots: int) -> Tensor:
        """Project (V, width) to (V, output); `slots` is the number of views per caption, adjacent in V."""
        projected = [self.layers(features_VD[slot::slots]) for slot in range(slots)]
        return torch.stack(projected, 1).flatten(0, 1)


@dataclass(frozen=True)
class TextTower:
    """Size of a CLIP text transformer; the defaults are those of CLIP ViT-B."""

    width: int = 512
    depth: int = 12
    heads: int = 8
    context: int = 77


class TextEncoder(nn.Module):
    """CLIP's causal text transformer with its BPE tokenizer; output at the end-of-text token, linearly projected."""

    def __init__(self, tower: TextTower, output: int) -> None:
        super().__init__()
        self.tokenizer = SimpleTokenizer(context_length=tower.context)
        self.transformer = transformer.TextTransformer(
            context_length=tower.context,
            vocab_size=self.tokenizer.vocab_size,
            width=tower.width,
            heads=tower.heads,
            layers=tower.depth,
            output_dim=output,
            act_layer=transformer.QuickGELU,
        )

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Embeddings (T, output), not normalised; text beyond the context is cut off."""
        device = self.transformer.token_embedding.weight.device
        embeddings_TD: Tensor = self.transformer(self.tokenizer(list(texts)).to(device))
        return embeddings_TD
