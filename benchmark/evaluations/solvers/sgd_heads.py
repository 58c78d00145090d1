"""StableRep's linear classifiers on ImageNet: ten heads with a learning rate each, trained together by SGD.

`StableRep/main_linear.py` (Tian et al., 2023): weights from N(0, 0.01), biases 0, momentum 0.9, no weight decay, rate =
base x batch / 256, half a cosine to zero over all steps, no warm-up; optionally batch norm without affine parameters in
front (eps 1e-6). The heads do not touch one another, so their sum of cross-entropies is minimised head by head.

Shapes: B images of a batch, N images, D dimensions, K classes, H heads.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


class Heads:
    """Linear classifiers (H, D, K) in training; `normalise` puts the batch norm in front."""

    def __init__(self, rates: tuple[float, ...], d: int, k: int, *, normalise: bool, steps: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._rate_H11 = torch.tensor(rates).view(-1, 1, 1)
        self._weight_HDK = torch.randn(len(rates), d, k, generator=generator) * 0.01
        self._bias_H1K = torch.zeros(len(rates), 1, k)
        self._momentum = [torch.zeros_like(part) for part in (self._weight_HDK, self._bias_H1K)]
        self._mean_D, self._variance_D = torch.zeros(d), torch.ones(d)
        self._normalise = normalise
        self._step, self._steps = 0, steps

    def step(self, x_BD: np.ndarray, label_B: np.ndarray) -> None:
        """One step of SGD of every head on a batch."""
        x, label = self._normalised(torch.from_numpy(x_BD), training=True), torch.from_numpy(label_B)
        residual_HBK = torch.softmax(x @ self._weight_HDK + self._bias_H1K, dim=2)
        residual_HBK -= F.one_hot(label, residual_HBK.shape[2])
        residual_HBK /= len(x)
        scale = len(x) / 256 * 0.5 * (1 + math.cos(math.pi * self._step / self._steps))
        gradients = (x.T @ residual_HBK, residual_HBK.sum(dim=1, keepdim=True))
        for part, momentum, gradient in zip((self._weight_HDK, self._bias_H1K), self._momentum, gradients):
            momentum.mul_(0.9).add_(gradient)
            part.sub_(self._rate_H11 * scale * momentum)
        self._step += 1

    def logits(self, x_ND: np.ndarray) -> np.ndarray:
        """Logits of every head (H, N, K), with running statistics."""
        x = self._normalised(torch.from_numpy(x_ND), training=False)
        return (x @ self._weight_HDK + self._bias_H1K).numpy()

    def _normalised(self, x_BD: Tensor, *, training: bool) -> Tensor:
        if not self._normalise:
            return x_BD
        return F.batch_norm(x_BD, self._mean_D, self._variance_D, training=training, momentum=0.1, eps=1e-6)
