"""Projection heads, and batch normalization with statistics over all processes.

Shapes: V views, N rows, S slots, D features.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.nn.distributed import all_gather, world_size


class BatchNorm(nn.BatchNorm1d):
    """Batch normalization with the statistics of all processes, on CPUs too, unlike `torch.nn.SyncBatchNorm`.

    Each process sends the mean and the scatter of its rows. They are combined into those of all rows without
    cancellation (Chan, Golub, LeVeque, 1979).
    """

    def forward(self, rows: Tensor) -> Tensor:
        """Normalize (N, D), or (N, S, D) with separate statistics for each slot."""
        rows, processes = rows.float(), world_size()
        if rows.ndim == 3 and (processes == 1 or not self.training):
            return torch.stack([super(BatchNorm, self).forward(slot_ND) for slot_ND in rows.unbind(1)], 1)
        if processes == 1 or not self.training:
            return super().forward(rows)
        local_mean = rows.mean(0)
        local_scatter = (rows - local_mean).square().sum(0)
        means, scatters = all_gather(torch.stack((local_mean, local_scatter))[None]).unbind(1)
        count, mean = len(rows) * processes, means.mean(0)
        variance = (scatters.sum(0) + len(rows) * (means - mean).square().sum(0)) / count
        with torch.no_grad():
            assert self.momentum and self.num_batches_tracked is not None
            assert self.running_mean is not None and self.running_var is not None
            for mean_D, variance_D in zip(mean.view(-1, self.num_features), variance.view(-1, self.num_features)):
                self.running_mean.lerp_(mean_D, self.momentum)
                self.running_var.lerp_(variance_D * count / (count - 1), self.momentum)
                self.num_batches_tracked.add_(1)
        normalized = (rows - mean) * (variance + self.eps).rsqrt()
        return normalized * self.weight + self.bias if self.affine else normalized


class MLP(nn.Module):
    """Linear layers of the given `widths` with batch norm and ReLU between them.

    As in all released codes, batch statistics are taken per view slot (all first views, all second views, ...).
    `bias` adds biases to the linear layers. `last_bn` appends a batch norm without scale and shift, as in MoCo v3.
    """

    def __init__(self, widths: Sequence[int], *, bias: bool = True, last_bn: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width, next_width in pairwise(widths):
            layers += [nn.Linear(width, next_width, bias=bias), BatchNorm(next_width), nn.ReLU(inplace=True)]
        layers[-2:] = [BatchNorm(widths[-1], affine=False)] if last_bn else []
        self.layers = nn.Sequential(*layers)

    def forward(self, features_VD: Tensor, slots: int) -> Tensor:
        """Project (V, width) to (V, output). `slots` is the number of views per caption; they are adjacent in V."""
        projected: Tensor = self.layers(features_VD.unflatten(0, (-1, slots)))
        return projected.flatten(0, 1)


class ProjectionHead(MLP):
    """StableRep's head: three linear layers, with batch norm and ReLU after the first two."""

    def __init__(self, width: int, hidden: int, output: int) -> None:
        super().__init__((width, hidden, hidden, output))


class PrototypeHead(nn.Module):
    """DINO's head: three linear layers with GELU, L2 normalization, and cosine similarities to prototypes.

    The cosine similarities are DINO's weight-normalized last layer with its norm fixed to one.
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
        """Return unit vectors (V, bottleneck)."""
        return F.normalize(self.layers(features_VD), dim=1)

    def scores(self, z_VD: Tensor, frozen: Tensor | None = None) -> Tensor:
        """Return cosine similarities (V, prototypes) of unit vectors (V, bottleneck).

        They are computed in float32, as small temperatures amplify small differences between them. The prototypes
        get a gradient of zero if the scalar tensor `frozen` is true.
        """
        weight: Tensor = self.prototypes
        if frozen is not None:
            weight = torch.where(frozen, weight.detach(), weight)
        with torch.autocast(z_VD.device.type, enabled=False):
            return F.linear(z_VD.float(), F.normalize(weight, dim=1))
