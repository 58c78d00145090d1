"""Networks that methods share: the ViT (timm), the text tower (open_clip) and the projection head of StableRep.

Shapes: V views, T texts, L tokens, D features.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import torch
import torch.nn.functional as F
from open_clip import transformer
from open_clip.tokenizer import SimpleTokenizer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from benchmark.distributed import gather, own_rows, world_size
from benchmark.interfaces import Encoder

M = TypeVar("M", bound=nn.Module)


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
    """Batch normalisation with the statistics of all processes; torch's own is for GPUs only.

    Each process sends mean and scatter of its rows, which make those of all rows without cancellation (Chan, Golub,
    LeVeque, 1979).
    """

    def forward(self, rows: Tensor) -> Tensor:
        """Normalise (N, D), or (N, S, D) with statistics of each slot s by itself."""
        rows, processes = rows.float(), world_size()
        if rows.ndim == 3 and (processes == 1 or not self.training):
            return torch.stack([super(BatchNorm, self).forward(slot_ND) for slot_ND in rows.unbind(1)], 1)
        if processes == 1 or not self.training:
            return super().forward(rows)
        own_mean = rows.mean(0)
        own_scatter = (rows - own_mean).square().sum(0)
        means, scatters = gather(torch.stack((own_mean, own_scatter))[None]).unbind(1)
        count, mean = len(rows) * processes, means.mean(0)
        variance = (scatters.sum(0) + len(rows) * (means - mean).square().sum(0)) / count
        with torch.no_grad():
            assert self.momentum and self.num_batches_tracked is not None
            assert self.running_mean is not None and self.running_var is not None
            for mean_D, variance_D in zip(mean.view(-1, self.num_features), variance.view(-1, self.num_features)):
                self.running_mean.lerp_(mean_D, self.momentum)
                self.running_var.lerp_(variance_D * count / (count - 1), self.momentum)
                self.num_batches_tracked.add_(1)
        normalised = (rows - mean) * (variance + self.eps).rsqrt()
        return normalised * self.weight + self.bias if self.affine else normalised


class MLP(nn.Module):
    """Linear layers with batch norm and ReLU between them.

    As in all released codes, batch statistics are taken per view slot (all first views, all second views, ...).
    `plain`: without biases, and with a batch norm without scale and shift at the end, as MoCo v3 has it.
    """

    def __init__(self, widths: Sequence[int], *, plain: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width, following in pairwise(widths):
            layers += [nn.Linear(width, following, bias=not plain), BatchNorm(following), nn.ReLU(inplace=True)]
        layers[-2:] = [BatchNorm(widths[-1], affine=False)] if plain else []
        self.layers = nn.Sequential(*layers)

    def forward(self, features_VD: Tensor, slots: int) -> Tensor:
        """Project (V, width) to (V, output); `slots` is the number of views per caption, adjacent in V."""
        projected: Tensor = self.layers(features_VD.unflatten(0, (-1, slots)))
        return projected.flatten(0, 1)


class ProjectionHead(MLP):
    """StableRep's head: three linear layers, batch norm and ReLU after the first two."""

    def __init__(self, width: int, hidden: int, output: int) -> None:
        super().__init__((width, hidden, hidden, output))


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


class PrototypeHead(nn.Module):
    """DINO's head: three linear layers with GELU, unit vectors, and their cosines with prototypes.

    The cosine is DINO's weight-normalised last layer with its norm fixed to one.
    """

    def __init__(self, width: int, hidden: int, bottleneck: int, prototypes: int) -> None:
        super().__init__()
        linear = [nn.Linear(width, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, bottleneck)]
        for layer in linear:
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.layers = nn.Sequential(linear[0], nn.GELU(), linear[1], nn.GELU(), linear[2])
        self.prototypes = nn.Parameter(nn.Linear(bottleneck, prototypes, bias=False).weight.detach())

    def forward(self, features_VD: Tensor) -> Tensor:
        """Unit vectors (V, bottleneck)."""
        return F.normalize(self.layers(features_VD), dim=1)

    def scores(self, z_VD: Tensor, frozen: Tensor | None = None) -> Tensor:
        """Cosines (V, prototypes), in float32: temperatures and the centre leave small differences of them.

        No gradient goes to the prototypes where the scalar `frozen` is true.
        """
        weight: Tensor = self.prototypes
        if frozen is not None:
            weight = torch.where(frozen, weight.detach(), weight)
        with torch.autocast(z_VD.device.type, enabled=False):
            return F.linear(z_VD.float(), F.normalize(weight, dim=1))


def momentum_copy(module: M) -> M:
    """A copy that is not trained but follows."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def follow(copied: nn.Module, module: nn.Module, momentum: float) -> None:
    """Move each parameter of `copied` towards that of `module`, to momentum * old + (1 - momentum) * new."""
    torch._foreach_lerp_(list(copied.parameters()), list(module.parameters()), 1 - momentum)
    for old, new in zip(copied.buffers(), module.buffers(), strict=True):
        old.copy_(new)


def rising_momentum(base: float, progress: float) -> float:
    """From `base` to one by half a cosine, as BYOL, MoCo v3 and DINO let it rise."""
    return 1 - (1 - base) * (math.cos(math.pi * progress) + 1) / 2


def uniform_rows(count: int, width: int) -> Tensor:
    """Uniform random numbers (count, width): of those that one process would draw for all rows, this one's share."""
    return own_rows(torch.rand(count * world_size(), width))
