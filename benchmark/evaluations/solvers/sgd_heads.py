"""StableRep's linear classifiers on ImageNet: ten heads, each with its own learning rate, trained jointly by SGD.

`StableRep/main_linear.py` (Tian et al., 2023): weights from N(0, 0.01), biases 0, momentum 0.9, no weight decay,
learning rate = base x batch / 256, half a cosine to zero over all steps, no warm-up; optionally preceded by batch norm
without affine parameters (eps 1e-6). The heads are independent, so each minimizes its own cross-entropy.

Shapes: B images of a batch, N images, D dimensions, K classes, H heads.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


class Heads:
    """Linear classifiers (H, D, K) in training, one per learning rate."""

    def __init__(self, rates: tuple[float, ...], d: int, k: int, *, batch_norm: bool, steps: int, seed: int) -> None:
        """Initialize the weights.

        Args:
            rates: Base learning rate of each head (H).
            d: Number of feature dimensions.
            k: Number of classes.
            batch_norm: Normalize the features by a batch norm without affine parameters.
            steps: Total number of SGD steps, for the cosine schedule.
            seed: Seed of the initial weights.
        """
        generator = torch.Generator().manual_seed(seed)
        self._rate_H11 = torch.tensor(rates).view(-1, 1, 1)
        self._weight_HDK = torch.randn(len(rates), d, k, generator=generator) * 0.01
        self._bias_H1K = torch.zeros(len(rates), 1, k)
        self._momentum = [torch.zeros_like(part) for part in (self._weight_HDK, self._bias_H1K)]
        self._mean_D, self._variance_D = torch.zeros(d), torch.ones(d)
        self._batch_norm = batch_norm
        self._step, self._steps = 0, steps

    def step(self, x_BD: np.ndarray, label_B: np.ndarray) -> None:
        """Update every head by one SGD step on a batch."""
        x, label = self._normalize(torch.from_numpy(x_BD), training=True), torch.from_numpy(label_B)
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
        """Return the logits of every head (H, N, K); batch norm uses its running statistics."""
        x = self._normalize(torch.from_numpy(x_ND), training=False)
        return (x @ self._weight_HDK + self._bias_H1K).numpy()

    def _normalize(self, x_BD: Tensor, *, training: bool) -> Tensor:
        if not self._batch_norm:
            return x_BD
        return F.batch_norm(x_BD, self._mean_D, self._variance_D, training=training, momentum=0.1, eps=1e-6)
