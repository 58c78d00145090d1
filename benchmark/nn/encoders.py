"""Encoders shared by the methods: the ViT (timm) and the text tower (open_clip).

Shapes: T texts, D features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from open_clip import transformer
from open_clip.tokenizer import SimpleTokenizer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from benchmark.interfaces import ViTConfig
from benchmark.nn.transfer import to_device


def build_vit(encoder: ViTConfig) -> VisionTransformer:
    """Build a plain timm ViT without a classifier; its output is the CLS token after the final norm."""
    return VisionTransformer(
        img_size=encoder.image_size,
        patch_size=encoder.patch,
        embed_dim=encoder.width,
        depth=encoder.depth,
        num_heads=encoder.heads,
        num_classes=0,
        global_pool="token",
    )


@dataclass(frozen=True)
class TextTower:
    """Size of a CLIP text transformer. The defaults are those of CLIP ViT-B."""

    width: int = 512
    depth: int = 12
    heads: int = 8
    context: int = 77
    """Maximum number of tokens, start and end included."""


class TextEncoder(nn.Module):
    """CLIP's causal text transformer with its BPE tokenizer; returns the linearly projected end-of-text token."""

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
        """Return unnormalized embeddings (T, output); texts are truncated to the context length."""
        device = self.transformer.token_embedding.weight.device
        embeddings_TD: Tensor = self.transformer(to_device(self.tokenizer(list(texts)), device))
        return embeddings_TD
